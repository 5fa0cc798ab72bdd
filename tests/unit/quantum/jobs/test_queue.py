"""The queue: what is asked for is done once and paid for once, whatever dies in between."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from debian import skip_without
from products import product
from quantum_work import work_of
from vendor import CountingVendor

from qfundus.errors import SetupError
from qfundus.quantum import chain_ansatz
from qfundus.quantum.jobs import queue
from qfundus.quantum.jobs.price import Price
from qfundus.quantum.jobs.queue import JobError, Vendors, Worker, batches_of, read_rules, submit, wait
from qfundus.quantum.jobs.schedule import Choice, Limit, Rules
from qfundus.quantum.jobs.store import JobStore
from qfundus.quantum.jobs.vendors import Offer
from qfundus.quantum.jobs.work import Estimates, Work

SUPPORT = Path(__file__).parents[3] / "support"
POSTGRES = next((folder for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@pytest.fixture(scope="module")
def postgres():
    """A PostgreSQL of our own, at a socket in its folder: other workers start theirs at the same time."""
    folder = Path(tempfile.mkdtemp(prefix="qfp-"))
    shutil.chown(folder, "postgres", "postgres")
    run = ["runuser", "-u", "postgres", "--"]
    subprocess.run(
        [*run, POSTGRES / "initdb", "-D", f"{folder}/data", "-A", "trust"], check=True, capture_output=True, cwd="/"
    )
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    control = [*run, POSTGRES / "pg_ctl", "-D", f"{folder}/data", "-w", "-l", f"{folder}/log", "-o", options]
    subprocess.run([*control, "start"], check=True, capture_output=True, cwd="/")
    yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    if request.param == "sqlite":
        yield JobStore(f"sqlite:///{tmp_path}/jobs.db")
        return
    skip_without(POSTGRES, "Debian's postgresql")
    opened = JobStore(request.getfixturevalue("postgres"))
    yield opened
    with opened._engine.begin() as connection:  # noqa: SLF001  (one server, a clean table for each test)
        connection.exec_driver_sql("TRUNCATE quantum_jobs, quantum_batches")


@pytest.fixture
def vendor(tmp_path):
    return CountingVendor(tmp_path)


@pytest.fixture
def ours(vendor):
    """Vendors of which the one called aer counts."""
    return Vendors(lambda name: vendor if name == "aer" else queue.open_vendor(name))


def work_off(store, vendors, rules=None, seconds=20.0, **named):
    worker, until = Worker(store, rules or Rules(), vendors, **named), time.time() + seconds
    while store.jobs(["queued", "running"]) and time.time() < until:
        if not worker.step():
            time.sleep(0.02)
    return worker


def test_what_is_found_is_what_the_circuit_gives_and_a_second_asking_costs_nothing(store, vendor, ours):
    work = work_of()
    job = submit(store, work, ["aer"], user="ada", vendors=ours)
    work_off(store, ours)
    found = wait(store, job.id, timeout=60)
    assert found.values.shape == (2, 3)
    again = submit(store, work_of(), ["aer"], user="grace", vendors=ours)
    assert (again.id, again.state, again.asked) == (job.id, "done", 2)
    assert len(vendor.paid) == 1
    exact = [by_qiskit_bound(work, row) for row in work.parameters]
    assert np.allclose(found.values, exact, atol=1e-9)


def by_qiskit_bound(work, row):
    from qiskit.quantum_info import Statevector

    from qfundus.quantum.jobs.work import operator_of

    state = Statevector(work.circuit.assign_parameters(row))
    return [float(np.real(state.expectation_value(operator_of(terms)))) for terms in work.observables]


def test_a_new_calibration_or_other_numbers_make_another_job(store, vendor, ours):
    first = submit(store, work_of(0), ["aer"], vendors=ours)
    vendor.offered = replace(vendor.offered, calibration="tuesday")
    ids = {
        first.id,
        submit(store, work_of(0), ["aer"], vendors=ours).id,
        submit(store, work_of(1), ["aer"], vendors=ours).id,
        submit(store, work_of(0, precision=0.1), ["aer"], vendors=ours).id,
        submit(store, work_of(0), ["exact"], vendors=ours).id,
    }
    assert len(ids) == 5


def test_small_jobs_go_together_and_each_gets_its_own(store, vendor, ours):
    works = {submit(store, work_of(n), ["aer"], vendors=ours).id: work_of(n) for n in range(30)}
    work_off(store, ours)
    assert len(vendor.paid) == 1
    for job, work in works.items():
        assert np.allclose(wait(store, job, timeout=60).values[0], by_qiskit_bound(work, work.parameters[0]), atol=1e-9)


def test_batches_keep_to_one_backend_one_precision_and_a_size(store, ours):
    jobs = [submit(store, work_of(n, sets=2000), ["aer"], vendors=ours) for n in range(4)]
    jobs.append(submit(store, work_of(9, precision=0.2), ["aer"], vendors=ours))
    jobs.append(replace(jobs[0], attempts=1))
    grouped = batches_of([(job, Choice("aer")) for job in jobs])
    assert sorted(len(group) for group in grouped) == [1, 1, 2, 2]


def test_what_fails_is_tried_again_alone_and_then_given_up(store, vendor, ours):
    vendor.trouble = [TimeoutError("first"), TimeoutError("second")]
    good = submit(store, work_of(0), ["aer"], vendors=ours)
    work_off(store, ours, backoff=0.01)
    assert (store.find(good.id).state, store.find(good.id).attempts) == ("done", 3)
    vendor.trouble = [ValueError(f"trouble {n}") for n in range(9)]
    bad = submit(store, work_of(1), ["aer"], vendors=ours)
    work_off(store, ours, backoff=0.01)
    with pytest.raises(JobError, match="ValueError: trouble"):
        wait(store, bad.id, timeout=60)
    vendor.trouble = []
    assert submit(store, work_of(1), ["aer"], vendors=ours).state == "queued"
    work_off(store, ours, backoff=0.01)
    assert store.find(bad.id).state == "done"


def test_a_machine_that_breaks_in_the_middle_is_asked_again(store, vendor, ours):
    vendor.delay = 0.5
    job = submit(store, work_of(), ["aer"], vendors=ours)
    Worker(store, Rules(), ours, lease=0.0).step()
    vendor.break_all()
    vendor.delay = 0.0
    time.sleep(0.01)
    work_off(store, ours, backoff=0.01)
    assert wait(store, job.id, timeout=60).values.shape == (2, 3)
    assert len(vendor.paid) == 2


def test_a_cancelled_job_is_called_back_and_can_be_asked_for_again(store, vendor, ours):
    vendor.delay = 60
    job = submit(store, work_of(), ["aer"], vendors=ours)
    worker = Worker(store, Rules(), ours)
    worker.step()
    assert store.cancel(job.id)
    assert not store.cancel(job.id)
    worker.step()
    worker.step()
    assert vendor.paid == []
    with pytest.raises(JobError, match="cancelled"):
        wait(store, job.id, timeout=60)
    vendor.delay = 0
    assert submit(store, work_of(), ["aer"], vendors=ours).state == "queued"
    work_off(store, ours)
    assert store.find(job.id).state == "done"


def test_where_the_wait_would_pass_the_deadline_the_simulator_takes_over_and_says_so(store, vendor, ours):
    vendor.offered = Offer(20, "monday", wait=5 * 3600.0)
    job = submit(store, work_of(), ["aer"], deadline=time.time() + 3600, vendors=ours)
    work_off(store, ours)
    done = store.find(job.id)
    assert (done.state, done.fallback, done.backend) == ("done", True, "exact")
    assert "5.0 h, longer than the night's window" in done.message
    assert vendor.paid == []


def test_what_a_machine_has_not_begun_by_its_deadline_is_called_back_and_simulated(store, vendor, ours):
    vendor.delay = 600
    job = submit(store, work_of(), ["aer"], deadline=time.time() + 1.0, vendors=ours)
    work_off(store, ours)
    assert (store.find(job.id).state, store.find(job.id).fallback) == ("done", True)
    assert vendor.paid == []


@pytest.mark.parametrize(
    "rules",
    [
        Rules(user=Limit(cost=1.5)),
        Rules(site=Limit(cost=1.5)),
        Rules(users={"ada": Limit(circuits=3)}),
    ],
)
def test_a_budget_is_kept_and_what_would_break_it_waits_and_says_why(store, vendor, ours, rules):
    jobs = [submit(store, work_of(n), ["aer"], user="ada", vendors=ours) for n in range(3)]
    worker = Worker(store, rules, ours)
    for _ in range(5):
        worker.step()
    assert [store.find(job.id).state for job in jobs] == ["done", "queued", "queued"]
    assert "a day" in store.find(jobs[1].id).message


def test_a_worker_that_died_is_followed_by_another(store, vendor, ours):
    vendor.delay = 0.2
    job = submit(store, work_of(), ["aer"], vendors=ours)
    Worker(store, Rules(), ours, lease=0.05).step()
    time.sleep(0.3)
    work_off(store, ours)
    assert store.find(job.id).state == "done"
    assert len(vendor.paid) == 1


def test_what_a_simulator_had_begun_when_its_process_died_is_begun_again(store):
    job = submit(store, work_of(), ["exact"])
    Worker(store, Rules(), lease=0.0).step()
    time.sleep(0.01)
    work_off(store, Vendors())
    assert store.find(job.id).state == "done"


WORK = """
import os, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from vendor import CountingVendor
from qfundus.quantum.jobs import queue
from qfundus.quantum.jobs.schedule import Rules
from qfundus.quantum.jobs.store import JobStore
vendor = CountingVendor(Path(sys.argv[2]), delay=0.05)
store = JobStore(sys.argv[1])
worker = queue.Worker(store, Rules(), queue.Vendors(lambda name: vendor), lease=0.05)
print("ready", flush=True)
while store.jobs(["queued", "running"]):
    worker.step()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, product(12)])
def test_killed_at_any_point_no_job_is_lost_and_none_is_paid_for_twice(kills, tmp_path):
    address = f"sqlite:///{tmp_path}/jobs.db"
    store, vendor = JobStore(address), CountingVendor(tmp_path)
    ours = Vendors(lambda _: vendor)
    jobs = [submit(store, work_of(n, precision=0.01 + n / 1000), ["aer"], vendors=ours).id for n in range(30)]
    rng = random.Random(0)
    command = [sys.executable, "-c", WORK, address, str(tmp_path), str(SUPPORT)]
    for _ in range(kills):
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        worker.stdout.readline()
        time.sleep(rng.random() * 0.08)
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
    assert store.jobs(["queued", "running"])  # else it was killed too late to mean anything
    subprocess.run(command, check=True, timeout=60)
    assert [store.find(job).state for job in jobs] == ["done"] * 30
    assert len(vendor.paid) == 30  # each precision is a batch of its own
    assert sorted(vendor.paid) == sorted(set(vendor.paid))


class Dies(BaseException):
    """Our process dies here."""


@pytest.mark.parametrize("moment", ["before it is sent", "after it is sent", "before it is noted", "before it is kept"])
def test_a_death_at_each_step_of_sending_costs_nothing(store, vendor, ours, moment, monkeypatch):
    def die(*_, **__):
        raise Dies

    job = submit(store, work_of(), ["aer"], vendors=ours)
    send = vendor.submit
    with monkeypatch.context() as broken:
        if moment == "before it is sent":
            broken.setattr(vendor, "submit", die)
        elif moment == "after it is sent":
            broken.setattr(vendor, "submit", lambda works, token: (send(works, token), die()))
        else:
            broken.setattr(store, "sent" if moment == "before it is noted" else "finish", die)
        with pytest.raises(Dies):
            work_off(store, ours, lease=0.0)
    time.sleep(0.01)
    work_off(store, ours)
    assert store.find(job.id).state == "done"
    assert len(vendor.paid) == 1


def test_a_vendor_that_takes_long_to_take_a_job_is_not_sent_it_twice(store, vendor, ours):
    import threading

    send = vendor.submit
    vendor.submit = lambda works, token: (time.sleep(3.0), send(works, token))[1]
    submit(store, work_of(), ["aer"], vendors=ours)
    threads = [threading.Thread(target=work_off, args=(store, ours), kwargs={"lease": 1.5}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(vendor.paid) == 1


def test_what_a_machine_may_have_run_for_a_dead_process_is_not_sent_again(store, monkeypatch):
    from qfundus.quantum.jobs import vendors

    priced = {**vendors.read_backends(), "exact": {"through": "exact", "price": {"task": 1.0}}}
    monkeypatch.setattr(vendors, "read_backends", lambda: priced)
    job = submit(store, work_of(), ["exact"])
    Worker(store, Rules(), Vendors(), lease=0.0).step()
    time.sleep(0.01)
    work_off(store, Vendors())
    gone = store.find(job.id)
    assert (gone.state, gone.cost) == ("failed", 1.0)
    assert "may have run and been billed" in gone.message


def test_what_the_simulator_did_in_a_machine_s_place_is_asked_of_the_machine_the_next_time(store, vendor, ours):
    vendor.offered = Offer(20, "monday", wait=5 * 3600.0)
    job = submit(store, work_of(), ["aer"], deadline=time.time() + 3600, vendors=ours)
    work_off(store, ours)
    vendor.offered = Offer(20, "monday")
    again = submit(store, work_of(), ["aer"], user="bob", deadline=time.time() + 7200, vendors=ours)
    assert (again.id, again.state, again.user) == (job.id, "queued", "bob")
    work_off(store, ours)
    done = store.find(job.id)
    assert (done.state, done.fallback, done.backend) == ("done", False, "aer")


def test_what_can_never_run_fails_and_says_why(store, vendor, ours):
    vendor.offered = Offer(2, "monday")
    job = submit(store, work_of(), ["aer"], vendors=ours)
    work_off(store, ours)
    with pytest.raises(JobError, match="It has 2 qubits, the circuit 3"):
        wait(store, job.id, timeout=60)


def test_a_vendor_that_always_gives_up_is_not_asked_for_ever(store, vendor, ours, monkeypatch):
    monkeypatch.setattr(vendor, "look", lambda _: ("cancelled", "Maintenance."))
    job = submit(store, work_of(), ["aer"], vendors=ours)
    work_off(store, ours, backoff=0.001)
    failed = store.find(job.id)
    assert (failed.state, failed.message, failed.cost) == ("failed", "Maintenance.", 4.0)


def test_two_workers_share_the_queue_and_do_nothing_twice(store, vendor, ours):
    import threading

    jobs = [submit(store, work_of(n, precision=0.01 + n / 1000), ["aer"], vendors=ours).id for n in range(20)]
    threads = [threading.Thread(target=work_off, args=(store, ours)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {store.find(job).state for job in jobs} == {"done"}
    assert len(vendor.paid) == 20


def test_a_worker_works_until_it_is_stopped_and_forgets_what_ended_long_ago(store, vendor, ours):
    import threading

    old, new = (submit(store, work_of(n), ["aer"], vendors=ours).id for n in range(2))
    work_off(store, ours)
    with store._engine.begin() as connection:  # noqa: SLF001  (nobody waits for three months)
        connection.exec_driver_sql(f"UPDATE quantum_jobs SET ended = ended - 100 * 86400 WHERE id = '{old}'")  # noqa: S608
    stop, worker = threading.Event(), Worker(store, Rules(), ours)
    thread = threading.Thread(target=worker.run, args=(stop, 0.01))
    thread.start()
    later = submit(store, work_of(2), ["aer"], vendors=ours)
    assert wait(store, later.id, timeout=20).values.shape == (2, 3)
    stop.set()
    thread.join(timeout=20)
    assert (store.find(old), store.find(new).state) == (None, "done")


def test_the_estimator_of_the_queue_broadcasts_as_qiskit_does(store):
    import threading

    from qiskit.quantum_info import SparsePauliOp, Statevector

    from qfundus.quantum.jobs.estimator import QueuedEstimator

    circuit, stop = chain_ansatz(2, 1), threading.Event()
    angles = np.random.default_rng(0).uniform(-3, 3, (4, 1, circuit.num_parameters))
    observables = [SparsePauliOp(["ZZ", "XI"], [1.0, 0.5]), SparsePauliOp("IZ"), SparsePauliOp("YY")]
    thread = threading.Thread(target=Worker(store, Rules()).run, args=(stop, 0.01), daemon=True)
    thread.start()
    job = QueuedEstimator(store, ["exact"]).run([(circuit, observables, angles)], precision=0.01)
    [result] = job.result()
    stop.set()
    thread.join(timeout=20)
    states = [Statevector(circuit.assign_parameters(row)) for row in angles[:, 0]]
    wanted = [[np.real(state.expectation_value(o)) for o in observables] for state in states]
    assert np.allclose(result.data.evs, wanted, atol=1e-9)
    assert job.done()


def test_what_somebody_else_asked_for_as_well_is_not_cancelled(store):
    from qiskit.quantum_info import SparsePauliOp

    from qfundus.quantum.jobs.estimator import QueuedEstimator

    circuit = chain_ansatz(2, 1)
    pubs = [(circuit, SparsePauliOp("ZZ"), np.full((1, circuit.num_parameters), angle)) for angle in (0.1, 0.2)]
    alone, shared = (QueuedEstimator(store, ["exact"], user="ann").run([pub]) for pub in pubs)
    QueuedEstimator(store, ["exact"], user="bob").run(pubs[1:])
    for job in (alone, shared):
        job.cancel()
    assert (alone.status(), shared.status()) == ("cancelled", "queued")


def test_wrong_work_and_unknown_names_are_refused_before_anything_is_queued(store):
    with pytest.raises(ValueError, match="parameters"):
        replace_parameters(np.zeros((2, 1)))
    with pytest.raises(ValueError, match="No parameter set"):
        replace_parameters(np.zeros((0, 9)))
    with pytest.raises(ValueError, match="finite"):
        replace_parameters(np.full((2, 9), np.nan))
    with pytest.raises(ValueError, match="precision"):
        work_of(precision=0.0)
    with pytest.raises(SetupError, match="Unknown quantum backend ear"):
        submit(store, work_of(), ["ear"])
    with pytest.raises(SetupError, match="at least one"):
        submit(store, work_of(), [])
    with pytest.raises(SetupError, match="QFUNDUS_JOBS_DATABASE"):
        JobStore("sqlite:////nowhere/at/all.db")
    assert store.jobs() == []


def replace_parameters(parameters):
    work = work_of()
    return Work(work.circuit, work.observables, parameters, work.precision)


def test_work_and_estimates_are_read_as_they_were_written():
    work = work_of()
    again = Work.from_bytes(work.to_bytes())
    assert again.content() == work.content()
    found = Estimates(np.ones((2, 3)), np.zeros((2, 3)))
    assert np.array_equal(Estimates.from_bytes(found.to_bytes()).values, found.values)


def test_the_shipped_rules_are_read():
    assert read_rules().fallback == "exact"


def test_a_machine_tells_how_often_its_gates_fail_and_a_simulator_does_not():
    assert "7 qubits whose gates on two fail 0." in Vendors().offer("ibm.fake").calibrated
    assert Vendors().offer("exact").calibrated == ""


@pytest.mark.parametrize("observables", [(), ((),), ((("ZZ", 1.0),),), ((("ZZA", 1.0),),)])
def test_work_that_can_never_run_is_refused_when_it_is_asked_for(observables):
    with pytest.raises(ValueError, match=r"observable|Pauli string"):
        Work(chain_ansatz(3, 1), observables, np.zeros((1, chain_ansatz(3, 1).num_parameters)), 0.1)


@pytest.mark.parametrize(("together", "tasks"), [(float("inf"), 1), (1, 6), (4, 2)])
def test_each_basis_of_each_parameter_set_is_a_circuit_that_costs(together, tasks):
    circuit = chain_ansatz(2, 1)
    work = Work(circuit, ((("ZI", 1.0), ("XI", 0.5)), (("IZ", 1.0),)), np.zeros((3, circuit.num_parameters)), 0.1)
    assert (work.circuits, work.shots) == (6, 600)
    price = Price.of({"price": {"task": 0.3, "shot": 0.001, "circuits": together}})
    assert price.cost(work.circuits, work.shots) == pytest.approx(tasks * 0.3 + 0.6)


@pytest.mark.parametrize("price", [{"tsk": 1}, {"task": "much"}, {"shot": -1}, {"circuits": 0}, 3])
def test_a_price_that_is_none_is_refused(price):
    with pytest.raises(SetupError, match="`circuits`"):
        Price.of({"price": price})


def test_how_often_kept_jobs_were_asked_for_is_measured(store, ours):
    for _ in range(3):
        submit(store, work_of(), ["aer"], vendors=ours)
    assert store.count_asked() == (1, 2)
