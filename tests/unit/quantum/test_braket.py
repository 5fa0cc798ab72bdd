"""Amazon Braket's client against a stand-in on loopback, where Braket's own simulator runs the tasks."""

import time

import numpy as np
import pytest
from braket_stub import ARN, BUCKET, Stub
from dead_worker import assert_nothing_is_sent_twice
from qiskit.quantum_info import SparsePauliOp, Statevector
from served import served

from qfundus.errors import SetupError
from qfundus.quantum import backends, chain_ansatz
from qfundus.quantum.backends import open_backend
from qfundus.quantum.backends.braket import open_backend as open_braket
from qfundus.quantum.jobs import queue, vendors
from qfundus.quantum.jobs.queue import Vendors, Worker, submit
from qfundus.quantum.jobs.schedule import Rules
from qfundus.quantum.jobs.store import JobStore
from qfundus.quantum.jobs.work import Work
from qfundus.quantum.transpile import compile_circuit


@pytest.fixture
def stub(monkeypatch):
    with served(Stub()) as running:
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


def describe_amazon(monkeypatch, together=1):
    price = {"task": 1.0, "circuits": together}
    described = {"amazon": {"through": "braket", "device": ARN, "price": price}, "exact": {}}
    monkeypatch.setattr(backends, "read_backends", lambda _=None: described)
    monkeypatch.setattr(vendors, "read_backends", lambda: described)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def open_soon(name):
    return vendors.InProcess(name, backoff=0.02, poll=0.02)


def ask_for_three(folder, **named):
    store, opened = JobStore(f"sqlite:///{folder}/jobs.db"), Vendors(open_soon)
    angles = np.zeros((3, chain_ansatz(2, 1).num_parameters))
    job = submit(store, Work(chain_ansatz(2, 1), ((("IZ", 1.0),),), angles, 0.1), ["amazon"], vendors=opened, **named)
    return store, opened, job.id


def work_until(worker, ended, seconds=30.0):
    until = time.time() + seconds
    while not ended() and time.time() < until:
        worker.step()
        time.sleep(0.02)
    assert ended()


@pytest.mark.parametrize("trouble", ["looking", "sending"])
def test_a_failure_that_is_no_death_costs_nothing_either(stub, monkeypatch, tmp_path, trouble):
    describe_amazon(monkeypatch)
    store, opened, job = ask_for_three(tmp_path)
    stub.unwell = 1 if trouble == "looking" else 0
    stub.takes = 1 if trouble == "sending" else 3
    worker = Worker(store, Rules(), opened)
    worker.step()
    work_until(worker, lambda: len(stub.made) == stub.takes and not stub.unwell)
    stub.takes = 100
    work_until(worker, lambda: store.find(job).state == "done")
    assert (len(stub.made), store.find(job).cost) == (3, 3.0)


def test_what_cannot_be_collected_is_left_to_a_person_and_not_sent_again(stub, monkeypatch, tmp_path):
    describe_amazon(monkeypatch)
    store, opened, job = ask_for_three(tmp_path)
    stub.unwell = 10_000
    work_until(Worker(store, Rules(), opened), lambda: store.find(job).state == "failed")
    assert "Resubmit" in store.find(job).message
    assert len(stub.made) == 3


def test_what_was_cancelled_while_its_worker_was_dead_is_not_sent(stub, monkeypatch, tmp_path):
    describe_amazon(monkeypatch)
    store, opened, job = ask_for_three(tmp_path)
    stub.takes = 1
    Worker(store, Rules(), opened, lease=0.0).step()
    [future] = opened["amazon"]._running.values()  # noqa: SLF001  (a dead process would be at this point)
    assert isinstance(future.exception(60), Exception)
    stub.takes = 100
    assert store.cancel(job)
    worker = Worker(store, Rules(), Vendors(open_soon))
    for _ in range(5):
        worker.step()
    assert (store.find(job).state, len(stub.made)) == ("cancelled", 1)


def test_what_still_waits_at_its_deadline_is_called_back_and_simulated(stub, monkeypatch, tmp_path):
    describe_amazon(monkeypatch)
    stub.status = "QUEUED"
    opened = Vendors(lambda name: open_soon(name) if name == "amazon" else queue.open_vendor(name))
    store, _, job = ask_for_three(tmp_path, deadline=time.time() + 3)
    work_until(Worker(store, Rules(), opened), lambda: store.find(job).state == "done", 60)
    assert {task["status"] for task in stub.made.values()} == {"CANCELLED"}
    assert (store.find(job).backend, store.find(job).fallback, len(stub.made)) == ("exact", True, 3)


def test_a_job_that_runs_is_called_back_when_a_person_cancels_it(stub, monkeypatch, tmp_path):
    describe_amazon(monkeypatch)
    stub.status = "RUNNING"
    store, opened, job = ask_for_three(tmp_path)
    worker = Worker(store, Rules(), opened)
    worker.step()
    work_until(worker, lambda: len(stub.made) == 3)
    assert store.cancel(job)
    work_until(worker, lambda: {task["status"] for task in stub.made.values()} == {"CANCELLED"})


@pytest.mark.parametrize(("together", "tasks", "sent"), [(1, 3, 0), (1, 3, 1), (1, 3, 3), (2, 2, 1), (9, 1, 1)])
def test_what_a_dead_worker_had_sent_is_found_there_and_not_sent_twice(
    stub, monkeypatch, tmp_path, together, tasks, sent
):
    stub.together = together
    describe_amazon(monkeypatch, together)
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
