"""A worker that dies while it sends circuits to a machine, and the one that follows it."""

import time
from functools import partial

import numpy as np
from qiskit.quantum_info import SparsePauliOp, Statevector

from qfundus.quantum import chain_ansatz
from qfundus.quantum.jobs.queue import Vendors, Worker, submit
from qfundus.quantum.jobs.schedule import Rules
from qfundus.quantum.jobs.store import JobStore
from qfundus.quantum.jobs.vendors import InProcess
from qfundus.quantum.jobs.work import Estimates, Work


def assert_nothing_is_sent_twice(folder, backend, stub, tasks, sent):
    """Let a worker die when the stand-in `stub` took `sent` of so many `tasks`, and another finish three circuits."""
    store, circuit = JobStore(f"sqlite:///{folder}/jobs.db"), chain_ansatz(2, 1)
    angles = np.random.default_rng(0).uniform(-3, 3, (3, circuit.num_parameters))
    opened = Vendors(partial(InProcess, backoff=0.02, poll=0.02))
    job = submit(store, Work(circuit, ((("IZ", 1.0),),), angles, 0.05), [backend], vendors=opened)
    # It sends some of the circuits and is not heard of again: its thread's end is nobody's news.
    stub.takes = sent
    Worker(store, Rules(), opened, lease=0.0).step()
    [future] = opened[backend]._running.values()  # noqa: SLF001  (a dead process would be at this point)
    assert isinstance(future.exception(60), Exception) == (sent < tasks)
    assert len(stub.made) == sent
    stub.takes = tasks + 1
    worker, until = Worker(store, Rules(), Vendors(partial(InProcess, backoff=0.02, poll=0.02))), time.time() + 60
    while store.jobs(["queued", "running"]) and time.time() < until:
        worker.step()
        time.sleep(0.02)
    done = store.find(job.id)
    assert (done.state, len(stub.made), done.cost) == ("done", tasks, tasks)
    found = Estimates.from_bytes(store.result(job.id)).values[:, 0]
    exact = [Statevector(circuit.assign_parameters(row)).expectation_value(SparsePauliOp("IZ")) for row in angles]
    assert np.abs(found - np.real(exact)).max() < 5 * 0.05
