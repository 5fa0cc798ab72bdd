"""Amazon Braket's client against a stand-in on loopback, where Braket's own simulator runs the tasks."""

import numpy as np
import pytest
from braket_stub import ARN, BUCKET, braket_stub
from dead_worker import assert_nothing_is_sent_twice
from qiskit.quantum_info import SparsePauliOp, Statevector

from qfundus.errors import SetupError
from qfundus.quantum import backends, chain_ansatz
from qfundus.quantum.backends import open_backend
from qfundus.quantum.backends.braket import open_backend as open_braket
from qfundus.quantum.jobs import vendors
from qfundus.quantum.transpile import compile_circuit


@pytest.fixture
def stub(monkeypatch):
    with braket_stub() as running:
        for name in ("BRAKET_ENDPOINT", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, running.url)
        monkeypatch.setenv("AMZN_BRAKET_OUT_S3_BUCKET", BUCKET)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
        yield running


def test_expectation_values_are_within_shot_noise(stub):
    backend = open_braket({"device": ARN})
    circuit, observable = chain_ansatz(3, 1), SparsePauliOp("ZIZ")
    angles = np.random.default_rng(0).uniform(-3, 3, circuit.num_parameters)
    bound = circuit.assign_parameters(angles)
    compiled = compile_circuit(bound, backend.target).circuit
    turned = observable.apply_layout(compiled.layout) if compiled.layout else observable
    [result] = backend.estimator.run([(compiled, turned)], precision=0.02).result()
    assert abs(result.data.evs - np.real(Statevector(bound).expectation_value(observable))) < 5 * 0.02
    assert len(stub.made) == 1


def test_a_key_that_has_expired_is_named(stub, tmp_path):
    stub.expired = True
    file = tmp_path / "quantum.yaml"
    file.write_text(f"backends:\n  there: {{through: braket, device: '{ARN}'}}\n")
    with pytest.raises(SetupError, match="AWS_ACCESS_KEY_ID"):
        open_backend("there", file)


@pytest.mark.parametrize(("together", "tasks", "sent"), [(1, 3, 0), (1, 3, 1), (1, 3, 3), (2, 2, 1), (9, 1, 1)])
def test_what_a_dead_worker_had_sent_is_found_there_and_not_sent_twice(
    stub, monkeypatch, tmp_path, together, tasks, sent
):
    stub.together = together
    priced = {"amazon": {"through": "braket", "device": ARN, "price": {"task": 1.0}}}
    monkeypatch.setattr(backends, "read_backends", lambda _=None: priced)
    monkeypatch.setattr(vendors, "read_backends", lambda: priced)
    assert_nothing_is_sent_twice(tmp_path, "amazon", stub, tasks, sent)


def test_a_task_that_is_asked_for_twice_is_made_once(stub):
    named = open_braket({"device": ARN}).named
    circuit = chain_ansatz(2, 1)
    pub = (circuit, SparsePauliOp("IZ"), np.zeros(circuit.num_parameters))
    estimators = [named.estimator("a-token") for _ in range(2)]  # neither knows of the other's
    for estimator in estimators:
        [result] = estimator.run([pub], precision=0.1).result()
        assert result.data.evs == 1
    assert (len(stub.made), stub.asked) == (1, 2)
    assert named.knows("a-token")
    assert not named.knows("a-tok")
