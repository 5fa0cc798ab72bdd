import numpy as np
import pytest
from qiskit.quantum_info import SparsePauliOp

from qfundus.quantum.ansatz import chain_ansatz
from qfundus.quantum.backends import open_backend
from qfundus.quantum.noise import NoiseNumbers, make_noise
from qfundus.quantum.transpile import compile_circuit


@pytest.mark.parametrize("name", ["aer.noisy", "aer.calibrated"])
def test_noise_damps_what_a_longer_circuit_measures(name):
    backend, damped = open_backend(name), []
    for layers in (1, 6):
        circuit = chain_ansatz(3, layers)
        compiled = compile_circuit(circuit, backend.target, level=0).circuit  # others would leave out turns by nothing
        observable = SparsePauliOp("IZI").apply_layout(compiled.layout, compiled.num_qubits)
        at = np.zeros((1, circuit.num_parameters))  # |000> stays |000>: without noise Z is 1
        (result,) = backend.estimator.run([(compiled, [observable], at)], precision=0.01).result()
        damped.append(float(result.data.evs[0]))
    assert 0.3 < damped[1] < damped[0] - 0.02 < 0.99


def test_numbers_that_no_qubit_has_are_refused():
    with pytest.raises(ValueError, match="T2 is at most twice T1"):
        make_noise(NoiseNumbers(t1=1e-6, t2=3e-6))
    with pytest.raises(ValueError, match="less than or equal to 1"):
        NoiseNumbers(one_qubit=2)
