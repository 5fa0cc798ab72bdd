"""Each kind of mitigation lowers the error that it is meant for."""

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit.library import RZGate
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit_aer.noise import NoiseModel, ReadoutError, coherent_unitary_error, depolarizing_error
from qiskit_aer.noise.passes import LocalNoisePass
from qiskit_aer.primitives import EstimatorV2, SamplerV2

from qfundus.errors import SetupError
from qfundus.quantum.ansatz import build_observables, chain_ansatz
from qfundus.quantum.backends import Backend, open_backend
from qfundus.quantum.mitigation import MitigatedEstimator, Mitigation, echo, fold

QUBITS, SHOTS = 3, 40_000


def backend_of(model, target=None):
    options = {"backend_options": {"noise_model": model}}
    return Backend(EstimatorV2(options=options), SamplerV2(seed=1, options=options), target)


def readout_noise():
    model = NoiseModel()
    model.add_all_qubit_readout_error(ReadoutError([[0.97, 0.03], [0.08, 0.92]]))
    return backend_of(model)


def gate_noise():
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.02, 2), ["cx"])
    return backend_of(model)


def coherent_noise():
    """Each CX turns its target a little too far, always the same way: errors that add up as amplitudes."""
    turn, model = QuantumCircuit(2), NoiseModel()
    turn.rx(0.12, 1)
    turn.rz(0.12, 0)
    from qiskit.quantum_info import Operator

    model.add_all_qubit_quantum_error(coherent_unitary_error(Operator(turn).data), ["cx"])
    return backend_of(model)


def idle_noise():
    """A qubit that waits turns about Z, in proportion to the time."""
    target, model = open_backend("ibm.fake").target, NoiseModel()

    def turn(operation, _):
        return RZGate(2e-4 * operation.duration)

    model._custom_noise_passes.append(LocalNoisePass(turn, op_types=[_delay()], method="append"))  # noqa: SLF001
    return backend_of(model, target)


def _delay():
    from qiskit.circuit import Delay

    return Delay


def error(backend, circuit, how, parameters=None, observables=None):
    """Return the mean absolute error over parameter sets and observables."""
    observables = observables or build_observables(circuit.num_qubits)
    parameters = np.zeros((1, 0)) if parameters is None else parameters
    pub = (circuit, observables, parameters[:, None])
    [result] = MitigatedEstimator(backend.sampler, backend.target, how).run([pub], precision=SHOTS**-0.5).result()
    states = [Statevector(circuit.assign_parameters(row)) for row in parameters]
    exact = [[np.real(state.expectation_value(o)) for o in observables] for state in states]
    assert result.data.evs.shape == np.shape(exact)
    return np.abs(result.data.evs - exact).mean()


@pytest.fixture
def trained():
    circuit = chain_ansatz(QUBITS, 2)
    return circuit, np.random.default_rng(0).uniform(-1, 1, (4, circuit.num_parameters))


def test_readout_errors_are_undone(trained):
    backend = readout_noise()
    without = error(backend, trained[0], Mitigation(), trained[1])
    assert error(backend, trained[0], Mitigation(readout=True), trained[1]) < without / 3


@pytest.mark.parametrize("extrapolation", ["linear", "richardson", "exponential"])
def test_gate_errors_are_extrapolated_away(trained, extrapolation):
    backend, how = gate_noise(), Mitigation(zne=(1, 3, 5), extrapolation=extrapolation)
    without = error(backend, trained[0], Mitigation(), trained[1])
    assert error(backend, trained[0], how, trained[1]) < without * (0.85 if extrapolation == "linear" else 0.5)


def test_coherent_errors_are_twirled():
    circuit = QuantumCircuit(2)
    for _ in range(6):  # nothing, if every gate were right
        circuit.cx(0, 1)
        circuit.cx(0, 1)
        circuit.barrier()
    backend = coherent_noise()
    without = error(backend, circuit, Mitigation())
    assert error(backend, circuit, Mitigation(twirls=32)) < without / 2


def test_idle_qubits_are_echoed():
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.delay(6400, 0, unit="dt")
    circuit.h(0)
    backend = idle_noise()
    without = error(backend, circuit, Mitigation())
    assert without > 0.05
    assert error(backend, circuit, Mitigation(decoupling=True)) < without / 3


def test_all_together_on_a_machine_s_calibration(trained):
    backend = open_backend("aer.calibrated")
    without = error(backend, trained[0], Mitigation(), trained[1])
    how = Mitigation(readout=True, zne=(1, 3), extrapolation="linear", twirls=4)
    assert error(backend, trained[0], how, trained[1]) < without


def test_a_folded_circuit_does_the_same_with_more_gates(trained):
    circuit = trained[0].assign_parameters(trained[1][0])
    circuit.measure_all()
    folded = fold(circuit, 3)
    assert folded.count_ops()["cx"] == 3 * circuit.count_ops()["cx"]
    states = [Statevector(c.remove_final_measurements(inplace=False)) for c in (circuit, folded)]
    assert states[0].equiv(states[1])
    with pytest.raises(ValueError, match="odd"):
        fold(circuit, 2)


def test_a_weighted_observable_keeps_its_weight_and_its_deviation_is_no_less_than_what_is_seen(trained):
    backend, how = gate_noise(), Mitigation(zne=(1, 3, 5))
    pub = (trained[0], SparsePauliOp("IIZ", [3.0]), np.broadcast_to(trained[1][0], (60, trained[0].num_parameters)))
    [result] = MitigatedEstimator(backend.sampler, backend.target, how).run([pub], precision=0.05).result()
    exact = Statevector(trained[0].assign_parameters(trained[1][0])).expectation_value(SparsePauliOp("IIZ")).real
    assert abs(result.data.evs.mean() - 3 * exact) < 0.5
    assert result.data.stds.min() > 0.7 * result.data.evs.std()


def test_what_cannot_be_mitigated_is_said():
    with pytest.raises(ValueError, match="odd"):
        Mitigation(zne=(1, 2))
    with pytest.raises(ValueError, match="durations"):
        echo(QuantumCircuit(1), None)
    circuit = QuantumCircuit(1)
    with pytest.raises(ValueError, match="products of Z"):
        MitigatedEstimator(gate_noise().sampler, None, Mitigation()).run([(circuit, SparsePauliOp("X"))]).result()


def test_a_backend_s_description_may_ask_for_it(tmp_path, trained):
    file = tmp_path / "quantum.yaml"
    file.write_text(
        "backends:\n  better: {through: aer, noise: {readout: 0.1}, mitigation: {readout: true}}\n"
        "  wrong: {through: aer, mitigation: {luck: true}}\n"
    )
    assert isinstance(open_backend("better", file).estimator, MitigatedEstimator)
    with pytest.raises(SetupError, match="luck"):
        open_backend("wrong", file)


def test_a_calibration_of_the_readout_is_believed_for_a_while_only(trained, monkeypatch):
    from qfundus.quantum import mitigation

    backend, moment, measured = readout_noise(), [100.0], []

    class Counted:
        def run(self, pubs, shots):
            if shots == mitigation.CALIBRATION_SHOTS:
                measured.append(moment[0])
            return backend.sampler.run(pubs, shots=shots)

    monkeypatch.setattr(mitigation.time, "monotonic", lambda: moment[0])
    how = Mitigation(readout=True, readout_hours=0.5)
    estimator = MitigatedEstimator(Counted(), None, how)
    for later in (0, 1700, 1900):
        moment[0] = 100.0 + later
        estimator.run([(trained[0], build_observables(QUBITS), trained[1][0])], precision=0.1).result()
    assert measured == [100.0, 2000.0]


def test_a_circuit_that_measures_by_itself_is_refused():
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    estimator = MitigatedEstimator(readout_noise().sampler, None, Mitigation(readout=True))
    with pytest.raises(ValueError, match="contains measurements"):
        estimator.run([(circuit, SparsePauliOp("Z"))]).result()
