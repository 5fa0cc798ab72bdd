"""What the queue of quantum jobs moves, against the same circuits run without it, and against the request.

    .venv/bin/python -m benchmarks.quantum_jobs [--circuits N]

Each job asks for one parameter set of the requested circuit at 8 qubits, 3 layers, in 1,024 shots, as many small askers
would.
"""

import argparse
import tempfile
import time

import numpy as np

from qfundus.quantum import chain_ansatz
from qfundus.quantum.backends import open_backend
from qfundus.quantum.jobs.queue import Vendors, Worker, submit
from qfundus.quantum.jobs.schedule import Rules
from qfundus.quantum.jobs.store import JobStore
from qfundus.quantum.jobs.vendors import run_works
from qfundus.quantum.jobs.work import Work

REQUESTED = 50  # circuits an hour; the aim is 50,000
QUBITS, LAYERS, SHOTS = 8, 3, 1024


def main() -> None:
    """Print circuits an hour through the queue, and what the queue costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--circuits", type=int, default=600)
    number = parser.parse_args().circuits
    works = make_works(number)
    backend = open_backend("aer")
    run_works(backend, works[:8], "")  # compiles
    begun = time.perf_counter()
    run_works(backend, works, "")
    bare = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as folder:
        store, vendors = JobStore(f"sqlite:///{folder}/jobs.db"), Vendors()
        vendors.offer("aer")
        worker = Worker(store, Rules(), vendors)
        begun = time.perf_counter()
        for work in works:
            submit(store, work, ["aer"], vendors=vendors)
        while store.jobs(["queued", "running"], limit=1):
            if not worker.step():
                time.sleep(0.005)
        queued = time.perf_counter() - begun
        assert {job.state for job in store.jobs()} == {"done"}
        begun = time.perf_counter()
        for work in works:
            submit(store, work, ["aer"], vendors=vendors)
        found = time.perf_counter() - begun
    hourly = 3600 * number / queued
    print(f"{hourly:,.0f} circuits an hour through the queue on Aer at {QUBITS} qubits, {SHOTS} shots each:")
    print(f"  {hourly / REQUESTED:,.0f} x the request; {queued / bare:.2f} x the time of one call of Aer's estimator")
    print(f"  asked again, all from the cache: {queued / found:.1f} x as fast")


def make_works(number: int) -> list[Work]:
    """Make so many jobs of one circuit each."""
    circuit, rng = chain_ansatz(QUBITS, LAYERS), np.random.default_rng(0)
    observables = tuple((("I" * (QUBITS - 1 - q) + "Z" + "I" * q, 1.0),) for q in range(QUBITS))
    parameters = rng.uniform(-3, 3, (number, 1, circuit.num_parameters))
    return [Work(circuit, observables, row, SHOTS**-0.5) for row in parameters]


if __name__ == "__main__":
    main()
