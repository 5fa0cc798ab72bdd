"""One conformance suite for every backend that runs here: same circuits, same observables, same errors."""

import numpy as np
import pytest
from circuits import by_qiskit
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp, Statevector

from qfundus.errors import SetupError
from qfundus.quantum.ansatz import chain_ansatz
from qfundus.quantum.backends import open_backend, open_estimator, open_sampler, read_backends
from qfundus.quantum.transpile import compile_circuit

HERE = sorted(set(read_backends()) - {"ibm", "azure", "google"})
NOISY = {"aer.noisy", "aer.calibrated", "ibm.fake"}
MEASURES_EARLY = {"aer", "aer.noisy", "aer.calibrated", "ibm.fake"}
SHOTS = 4096


@pytest.fixture(scope="module", params=HERE)
def backend(request):
    return request.param, open_backend(request.param)


def prepared(circuit, observables, backend):
    """Return a circuit and observables as a backend takes them."""
    compiled = compile_circuit(circuit, backend.target).circuit
    return compiled, [o.apply_layout(compiled.layout) for o in observables] if compiled.layout else observables


def test_expectation_values_are_within_shot_noise(backend):
    name, backend = backend
    circuit = chain_ansatz(3, 2)
    angles = np.random.default_rng(0).uniform(-3, 3, (2, circuit.num_parameters))
    observables = [SparsePauliOp(pauli) for pauli in ("IIZ", "ZZI", "XIY")]
    compiled, turned = prepared(circuit, observables, backend)
    pub = (compiled, [[observable] for observable in turned], in_order(circuit, compiled, angles))
    (result,) = backend.estimator.run([pub], precision=1 / np.sqrt(SHOTS)).result()
    wanted = np.array([expectations(circuit, row, observables) for row in angles]).T
    # Five standard deviations of a bit's mean over the shots; noise pulls towards zero, by a tenth at most here.
    tolerance = 5 / np.sqrt(SHOTS) + (0.25 if name in NOISY else 0)
    assert np.abs(result.data.evs - wanted).max() < tolerance


def in_order(circuit, compiled, angles):
    """Return parameter values in the order in which a compiled circuit lists its parameters."""
    names = [parameter.name for parameter in circuit.parameters]
    places = [names.index(parameter.name) for parameter in compiled.parameters]
    return angles[:, places]


def expectations(circuit, row, observables):
    state = Statevector(circuit.assign_parameters(row))
    return [state.expectation_value(observable).real for observable in observables]


def test_bit_strings_come_as_often_as_they_should(backend):
    name, backend = backend
    circuit = QuantumCircuit(3)
    circuit.ry(2 * np.pi / 3, 0)
    circuit.cx(0, 1)
    circuit.cx(1, 2)
    circuit.x(2)
    circuit.measure_all()
    compiled = compile_circuit(circuit, backend.target).circuit
    (result,) = backend.sampler.run([compiled], shots=SHOTS).result()
    counts = result.data.meas.get_counts()
    tolerance = 5 * np.sqrt(0.25 * 0.75 / SHOTS) + (0.2 if name in NOISY else 0)
    assert abs(counts.get("100", 0) / SHOTS - 0.25) < tolerance
    assert abs(counts.get("011", 0) / SHOTS - 0.75) < tolerance


def test_bits_stand_where_the_circuit_measures_them(backend):
    _, backend = backend
    circuit = QuantumCircuit(2, 3)
    circuit.x(0)
    circuit.measure(0, 2)
    circuit.measure(1, 0)
    compiled = compile_circuit(circuit, backend.target).circuit
    (result,) = backend.sampler.run([compiled], shots=100).result()
    assert result.data.c.get_counts().get("100", 0) > 60


def test_a_qubit_that_is_used_after_it_was_measured_is_done_right_or_refused(backend):
    name, backend = backend
    circuit = QuantumCircuit(1, 2)
    circuit.x(0)
    circuit.measure(0, 0)
    circuit.x(0)
    circuit.measure(0, 1)
    compiled = compile_circuit(circuit, backend.target).circuit
    if name not in MEASURES_EARLY:
        with pytest.raises(Exception, match=r"(?i)measure"):
            backend.sampler.run([compiled], shots=100).result()
        return
    (result,) = backend.sampler.run([compiled], shots=100).result()
    assert result.data.c.get_counts().get("01", 0) > 60


@pytest.mark.parametrize(
    ("sets", "message"), [(np.zeros((0, 15)), "No parameter set"), (np.full((1, 15), np.nan), "NaN|finite")]
)
def test_no_parameters_or_none_that_are_numbers_are_refused_by_aer(sets, message):
    with pytest.raises(ValueError, match=message):
        open_estimator("aer").run([(chain_ansatz(3, 2), SparsePauliOp("IIZ"), sets)]).result()


def test_a_qubit_without_a_feature_has_its_hadamard_everywhere(backend):
    name, backend = backend
    circuit = chain_ansatz(3, 1, n_features=2)
    angles = np.random.default_rng(3).uniform(-1, 1, (1, circuit.num_parameters))
    observables = [SparsePauliOp(pauli) for pauli in ("IIZ", "ZII")]
    compiled, turned = prepared(circuit, observables, backend)
    pub = (compiled, [[observable] for observable in turned], in_order(circuit, compiled, angles))
    (result,) = backend.estimator.run([pub], precision=1 / np.sqrt(SHOTS)).result()
    wanted = np.array([expectations(circuit, row, observables) for row in angles]).T
    assert np.abs(result.data.evs - wanted).max() < 5 / np.sqrt(SHOTS) + (0.2 if name in NOISY else 0)


def test_the_exact_estimator_runs_what_has_no_parameters():
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    (result,) = open_estimator("exact").run([(bell, SparsePauliOp("ZZ"))]).result()
    assert result.data.evs == pytest.approx(1.0)


def test_circuits_that_differ_within_are_not_taken_for_the_same():
    from qiskit.circuit.library import UnitaryGate

    from qfundus.quantum.transpile import content_of

    def with_gate(inner):
        gate = inner.to_gate()
        gate.name = "enc"
        circuit = QuantumCircuit(1)
        circuit.append(gate, [0])
        return circuit

    full, empty = QuantumCircuit(1), QuantumCircuit(1)
    full.x(0)
    turned = np.eye(32)
    turned[[10, 11]] = turned[[11, 10]]
    large = [QuantumCircuit(5) for _ in range(2)]
    for circuit, matrix in zip(large, (np.eye(32), turned), strict=True):
        circuit.append(UnitaryGate(matrix), range(5))
    read = [QuantumCircuit(2, 2) for _ in range(2)]
    read[0].measure([0, 1], [0, 1])
    read[1].measure([0, 1], [1, 0])
    for first, second in ((with_gate(full), with_gate(empty)), large, read):
        assert content_of(first) != content_of(second)


def test_no_shots_are_refused(backend):
    circuit = QuantumCircuit(1)
    circuit.measure_all()
    with pytest.raises(Exception, match=r"(?i)shot|greater|positive"):
        backend[1].sampler.run([circuit], shots=0).result()


def test_a_circuit_that_is_too_wide_is_refused_before_it_runs(backend):
    name, backend = backend
    if backend.target is None:
        circuit = chain_ansatz(60, 1) if name != "exact" else None
    else:
        circuit = chain_ansatz(backend.target.num_qubits + 1, 1)
    if circuit is None:  # the tensor network takes any number
        return
    bound = circuit.assign_parameters(np.zeros(circuit.num_parameters))
    bound.measure_all()
    with pytest.raises(Exception, match=r"(?i)qubit|wide|memory"):
        backend.sampler.run([compile_circuit(bound, backend.target).circuit], shots=8).result()


def test_the_exact_estimator_takes_all_parameter_sets_at_once_and_has_no_noise():
    circuit, rng = chain_ansatz(4, 2), np.random.default_rng(1)
    angles = rng.uniform(-3, 3, (5, circuit.num_parameters))
    observable = SparsePauliOp(["ZZII", "XIXI", "IYIY", "IIII"], [0.5, -1.0, 2.0, 0.25])
    (result,) = open_estimator("exact").run([(circuit, observable, angles)]).result()
    wanted = [expectations(circuit, row, [observable])[0] for row in angles]
    assert np.allclose(result.data.evs, wanted, atol=1e-10)


def test_the_same_circuit_trains_and_runs_elsewhere():
    import torch

    from qfundus.quantum import QuantumLayer

    circuit = chain_ansatz(3, 2)
    layer, features = QuantumLayer(circuit).double(), torch.rand(2, 3, dtype=torch.float64)
    assert np.allclose(layer(features).detach(), by_qiskit(circuit, features, layer.weight.detach()), atol=1e-9)


def test_a_name_that_no_backend_has_is_an_error_that_lists_them():
    with pytest.raises(SetupError, match="Unknown quantum backend ear: use one of aer"):
        open_sampler("ear")


def test_a_missing_token_is_named(monkeypatch):
    monkeypatch.delenv("QFUNDUS_IBM_TOKEN", raising=False)
    with pytest.raises(SetupError, match="QFUNDUS_IBM_TOKEN"):
        open_backend("ibm")


@pytest.mark.parametrize("mode", ["batch", "session"])
def test_ibm_runs_in_a_batch_and_in_a_session(mode, tmp_path):
    file = tmp_path / "quantum.yaml"
    file.write_text(f"backends:\n  there: {{through: ibm, machine: FakeJakartaV2, mode: {mode}}}\n")
    backend = open_backend("there", file)
    circuit = chain_ansatz(2, 1)
    compiled, observables = prepared(circuit, [SparsePauliOp("ZZ")], backend)
    pub = (compiled, observables, np.zeros(circuit.num_parameters))
    results = [backend.estimator.run([pub], precision=0.05).result()[0] for _ in range(2)]
    assert all(abs(result.data.evs[0] - 1) < 0.4 for result in results)


def test_a_missing_project_is_named(monkeypatch):
    monkeypatch.delenv("QFUNDUS_GOOGLE_PROJECT", raising=False)
    with pytest.raises(SetupError, match="QFUNDUS_GOOGLE_PROJECT"):
        open_backend("google")


def test_missing_credentials_of_google_s_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("QFUNDUS_GOOGLE_PROJECT", "eyes")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr("qfundus.quantum.backends.google._LOGGED_IN", tmp_path / "none")
    with pytest.raises(SetupError, match="set GOOGLE_APPLICATION_CREDENTIALS"):
        open_backend("google")


def test_ibm_s_refusal_names_the_token(monkeypatch):
    from qfundus.quantum.backends import ibm

    def refuse(**_):
        raise RuntimeError("401: the token has expired")

    monkeypatch.setattr(ibm, "QiskitRuntimeService", refuse)
    monkeypatch.setenv("QFUNDUS_IBM_TOKEN", "old")
    with pytest.raises(SetupError, match="may have expired; renew QFUNDUS_IBM_TOKEN"):
        open_backend("ibm")


def test_braket_without_credentials_names_the_variables(monkeypatch, tmp_path):
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    file = tmp_path / "quantum.yaml"
    file.write_text(
        "backends:\n  there: {through: braket, device: 'arn:aws:braket:us-east-1::device/qpu/ionq/Aria-1'}\n"
    )
    with pytest.raises(SetupError, match="AWS_ACCESS_KEY_ID"):
        open_backend("there", file)


def test_a_wrong_option_is_named(tmp_path):
    file = tmp_path / "quantum.yaml"
    file.write_text(
        "backends:\n  mine: {through: cirq, speed: high}\n  other: {through: nowhere}\n"
        "  noisy: {through: aer, noise: {readout: 2}}\n"
        "  both: {through: aer, noise: {readout: 0.1}, calibration: FakeJakartaV2}\n"
        "  typed: {through: pennylane, device: default.qbit}\n"
    )
    with pytest.raises(SetupError, match="noise` or `calibration`"):
        open_backend("both", file)
    with pytest.raises(SetupError, match=r"default\.qbit does not exist"):
        open_backend("typed", file)
    with pytest.raises(SetupError, match="readout"):
        open_backend("noisy", file)
    with pytest.raises(SetupError, match="speed"):
        open_backend("mine", file)
    with pytest.raises(SetupError, match="no installed package provides"):
        open_backend("other", file)


def test_a_seed_holds_with_a_calibration_too(tmp_path):
    file = tmp_path / "quantum.yaml"
    file.write_text("backends:\n  mine: {through: aer, calibration: FakeJakartaV2, seed: 7}\n")
    found: list[float] = []
    for _ in range(2):
        backend, circuit = open_backend("mine", file), chain_ansatz(2, 1)
        compiled = compile_circuit(circuit.assign_parameters(np.ones(circuit.num_parameters)), backend.target).circuit
        observable = SparsePauliOp("ZZ").apply_layout(compiled.layout)
        [result] = backend.estimator.run([(compiled, observable)], precision=0.1).result()
        found.append(float(result.data.evs))
    assert found[0] == found[1]


def test_compiling_is_done_once_and_reported():
    target, circuit = open_backend("ibm.fake").target, chain_ansatz(4, 2)
    first = compile_circuit(circuit, target)
    assert compile_circuit(chain_ansatz(4, 2), target) is first
    assert first.depth[1] > first.depth[0]
    assert "two-qubit gates became" in first.describe()
    assert set(first.circuit.count_ops()) <= {*target.operation_names, "barrier"}
    with pytest.raises(ValueError, match="levels 0 to 3"):
        compile_circuit(circuit, target, level=4)
