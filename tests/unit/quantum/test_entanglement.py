import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import Statevector, entropy, partial_trace

from qfundus.quantum.ansatz import build_ansatz
from qfundus.quantum.entanglement import entanglement_entropy


@pytest.mark.parametrize("ansatz", ["chain", "ring", "all_to_all"])
@pytest.mark.parametrize("qubits", [2, 5, 6])
def test_it_is_the_entropy_of_half_the_qubits(ansatz, qubits):
    circuit = build_ansatz(ansatz, qubits, 2)
    parameters = np.random.default_rng(0).uniform(-3, 3, (3, circuit.num_parameters))
    rest = range(qubits // 2, qubits)
    wanted = [entropy(partial_trace(Statevector(circuit.assign_parameters(row)), list(rest)), 2) for row in parameters]
    assert entanglement_entropy(circuit, parameters) == pytest.approx(np.mean(wanted), abs=1e-6)


def test_a_bell_pair_has_one_bit_and_a_lone_qubit_none():
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    assert entanglement_entropy(bell, np.zeros((1, 0))) == pytest.approx(1.0)
    assert entanglement_entropy(QuantumCircuit(1), np.zeros((1, 0))) == 0.0


def test_a_hundred_qubits_take_no_more_than_what_is_entangled():
    circuit = build_ansatz("chain", 100, 3)
    parameters = np.random.default_rng(0).uniform(-3, 3, (1, circuit.num_parameters))
    assert 0 < entanglement_entropy(circuit, parameters) <= 6
