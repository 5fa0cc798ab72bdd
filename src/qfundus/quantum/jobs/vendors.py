"""Who runs a batch of work, and tells how far it is: simulators in this process, IBM's machines far away."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from qiskit import QuantumCircuit

from qfundus.errors import Retry, SetupError
from qfundus.quantum.backends import Backend, open_backend, read_backends
from qfundus.quantum.jobs.price import Price
from qfundus.quantum.jobs.work import Estimates, Work, operator_of
from qfundus.quantum.transpile import compile_circuit

# Lost is what a dead process had simulated; gone is what may have run, and been paid for, and cannot be found.
# A dead process has left its jobs there under its token, so sending them again sends nothing twice.
Unfinished = Literal["failed", "cancelled", "lost", "gone"]
Progress = Literal["waiting", "running", "done", "left"] | Unfinished
_FREE = frozenset({"exact", "aer", "pennylane", "cirq", "quest"})


class NobodyKnowsError(Exception):
    """Whether something was sent cannot be found out."""


_MINUTE = 60.0  # seconds
_AT_ONCE = 8  # batches that wait for a machine
_TRIES = 4  # how often a machine is asked again under one token
_SIMULATORS = 1 << 20  # qubits: what a simulator takes is measured, not known


@dataclass(frozen=True)
class Offer:
    """What a backend asks for work now: seconds of waiting, the share of errors of a two-qubit gate, and its price.

    Where `calibration` changes, results of before are another thing.
    """

    qubits: int
    calibration: str
    wait: float = 0.0
    error: float = 0.0
    price: Price = field(default_factory=Price)

    @property
    def calibrated(self) -> str:
        """What its calibration says, in words; nothing of a simulator, which has none."""
        return f"{self.qubits} qubits whose gates on two fail {self.error:.2%} of the time" if self.error else ""


class Vendor(Protocol):
    """A backend as the queue sees it."""

    def offer(self) -> Offer:
        """Say what it asks for work now."""
        ...

    def submit(self, works: Sequence[Work], token: str) -> str:
        """Send a batch; return the vendor's name for it. The token goes with it."""
        ...

    def find(self, token: str) -> str | None:
        """Return the name of what was sent with a token, None where nothing was."""
        ...

    def look(self, vendor_job: str) -> tuple[Progress, str]:
        """Say how far a batch is, and in words why it failed."""
        ...

    def collect(self, vendor_job: str) -> list[Estimates]:
        """Return what each work of a batch found."""
        ...

    def cancel(self, vendor_job: str) -> None:
        """Stop a batch, as far as that can be done."""
        ...


class InProcess:
    """Any backend of the port, run by this process, which remembers alone what it has sent.

    What a dead process had simulated is simulated again. What it had sent to a machine that knows it by name is found
    there. What it had sent to another is not sent twice: it is gone, and a person decides whether to ask again.
    """

    def __init__(self, name: str, *, backoff: float = 15.0, poll: float = 15.0) -> None:
        self._name, self._backoff, self._poll = name, backoff, poll
        described = read_backends()[name]
        self._price = Price.of(described)
        entry = json.dumps({key: value for key, value in described.items() if key != "price"}, sort_keys=True)
        self._configuration = hashlib.sha256(entry.encode()).hexdigest()[:16]
        local = described.get("device") == "local" or described.get("virtual", False)
        fake = str(described.get("machine", "")).startswith("Fake")
        self._free = self._price.is_free and (described.get("through", name) in _FREE or local or fake)
        self._backend: Backend | None = None
        self._opening = threading.Lock()
        # Who waits for a machine far away keeps no core busy.
        self._pool = ThreadPoolExecutor(1 if self._free else _AT_ONCE)
        self._running: dict[str, Future[list[Estimates]]] = {}
        self._resting: dict[str, tuple[float, str]] = {}  # until when, and why
        self._tries: Counter[str] = Counter()
        self._called_back: set[str] = set()
        self._begun: dict[str, tuple[bool, float]] = {}  # and when a machine was asked

    def offer(self) -> Offer:
        """Say what it asks for work now: the wait is that of what lies before it."""
        target = self._open().target
        qubits = (target.num_qubits if target is not None else None) or _SIMULATORS
        return Offer(qubits, self._configuration, 0.0, mean_error(target), self._price)

    def submit(self, works: Sequence[Work], token: str) -> str:
        """Start a batch in a thread."""
        self._running[token] = self._pool.submit(run_works, self._open(), works, token)
        return token

    def find(self, token: str) -> str | None:
        """Find what this process has started, or another has sent to a machine that knows it by name.

        Raises:
            NobodyKnowsError: if another may have sent it to a machine.
        """
        if token in self._running:
            return token
        if self._free:
            return None
        if named := self._open().named:
            return token if named.knows(token) else None
        raise NobodyKnowsError

    def look(self, vendor_job: str) -> tuple[Progress, str]:
        """Say how far a batch is."""
        if vendor_job in self._resting:
            return self._look_at_resting(vendor_job)
        future = self._running.get(vendor_job)
        if future is None:
            return self._look_after_the_dead()
        if not future.done():
            return "running" if future.running() and self._has_begun(vendor_job) else "waiting", ""
        error = None if future.cancelled() else future.exception()
        if error is None and not future.cancelled():
            return "done", ""
        del self._running[vendor_job]
        if future.cancelled() or vendor_job in self._called_back:
            return "cancelled", "It was called back."
        return self._look_after_error(vendor_job, f"{type(error).__name__}: {error}")

    def _look_after_error(self, token: str, message: str) -> tuple[Progress, str]:
        """Decide what follows an error: a machine that knows the token is asked again under it, and sent nothing twice.

        After some tries what it was sent is left to a person.
        """
        named = self._open().named
        if named is None:
            return "failed", message
        self._tries[token] += 1
        if self._tries[token] < _TRIES:
            self._resting[token] = time.monotonic() + self._backoff * 2.0 ** (self._tries[token] - 1), message
            return "waiting", ""
        if named.knows(token):
            return "gone", f"{message} It was submitted and may be billed. Resubmit if needed."
        return "failed", message

    def _look_at_resting(self, token: str) -> tuple[Progress, str]:
        until, message = self._resting[token]
        if token in self._called_back:
            del self._resting[token]
            return "cancelled", "It was called back."
        if time.monotonic() < until:
            return "waiting", ""
        del self._resting[token]
        return "left", message

    def _has_begun(self, token: str) -> bool:
        """Return whether a machine has begun with what it was sent; one that tells nothing has."""
        named = self._open().named
        begun, asked = self._begun.get(token, (named is None, 0.0))
        if named is None or begun or time.monotonic() - asked < self._poll:
            return begun
        self._begun[token] = named.has_begun(token), time.monotonic()
        return self._begun[token][0]

    def _look_after_the_dead(self) -> tuple[Progress, str]:
        message = "The process that submitted it is gone"
        if self._free:
            return "lost", f"{message}."
        if self._open().named:
            return "left", f"{message}."
        return "gone", f"{message}: it may have run and been billed. Resubmit if needed."

    def collect(self, vendor_job: str) -> list[Estimates]:
        """Return what was found, once."""
        return self._running.pop(vendor_job).result()

    def cancel(self, vendor_job: str) -> None:
        """Stop a batch that has not begun, and one that has, where the machine allows it."""
        self._called_back.add(vendor_job)
        future, named = self._running.get(vendor_job), self._open().named
        if (future is None or not future.cancel()) and named is not None:
            named.cancel(vendor_job)

    def _open(self) -> Backend:
        with self._opening:
            self._backend = self._backend or open_backend(self._name)
        return self._backend


def mean_error(target: Any) -> float:
    """Return the mean error of a target's two-qubit gates, as its calibration says; 0 where it says nothing."""
    if target is None:
        return 0.0
    known = [
        properties.error
        for name in target.operation_names
        for qubits, properties in (target[name] or {}).items()
        if qubits is not None and len(qubits) == 2 and properties is not None and properties.error is not None
    ]
    return float(np.mean(known)) if known else 0.0


def run_works(backend: Backend, works: Sequence[Work], token: str) -> list[Estimates]:
    """Run a batch on a backend in one call of its estimator; all works have one precision."""
    estimator = backend.named.estimator(token) if backend.named else backend.estimator
    job: Any = estimator.run([pub_of(work, backend) for work in works], precision=works[0].precision)
    return [estimates_of(result) for result in job.result()]


def pub_of(work: Work, backend: Backend) -> Any:
    """Return work as a primitive takes it: compiled, with observables where the qubits went."""
    compiled = compile_circuit(work.circuit, backend.target).circuit
    observables = [operator_of(terms) for terms in work.observables]
    if compiled.layout is not None:
        observables = [observable.apply_layout(compiled.layout) for observable in observables]
    return compiled, observables, _in_order(work.circuit, compiled, work.parameters)[:, None]


def estimates_of(result: Any) -> Estimates:
    """Return a primitive's result for one piece of work."""
    return Estimates(np.asarray(result.data.evs), np.asarray(result.data.stds))


def _in_order(before: QuantumCircuit, after: QuantumCircuit, parameters: np.ndarray) -> np.ndarray:
    names = [parameter.name for parameter in before.parameters]
    return parameters[:, [names.index(parameter.name) for parameter in after.parameters]]


class Runtime:
    """A machine behind IBM's Qiskit Runtime: the token is a tag of the vendor's job, and finds it after a crash."""

    def __init__(self, name: str, service: Any = None) -> None:
        """Open a machine.

        Raises:
            SetupError: if its entry asks for what the queue does not do, or the service refuses us.
        """
        from qfundus.quantum.backends import ibm

        described = read_backends()[name]
        if unkept := sorted({"mitigation", "mode"} & described.keys()):
            raise SetupError(
                f"The queue sends a job at a time to {name} and mitigates nothing: take {' and '.join(unkept)} out of "
                "it in configs/quantum.yaml, or give the queue an entry of its own without."
            )
        self._price = Price.of(described)
        self._service = service or ibm.open_service()
        wanted = {name: described[name] for name in ("machine", "qubits") if name in described}
        self._machine = ibm.choose_machine(self._service, **wanted)

    def offer(self) -> Offer:
        """Say what the machine's queue and calibration are now; a job before ours is taken for a minute."""
        machine, status = self._machine, self._machine.status()
        if not status.operational:
            raise Retry(f"{machine.name} is not in operation: {status.status_msg}.")
        properties = machine.properties()
        calibrated = properties.last_update_date.isoformat() if properties else machine.name
        wait = _MINUTE * status.pending_jobs
        return Offer(machine.num_qubits, f"{machine.name} {calibrated}", wait, mean_error(machine.target), self._price)

    def submit(self, works: Sequence[Work], token: str) -> str:
        """Send a batch as one job."""
        from qiskit_ibm_runtime import EstimatorV2

        backend = Backend(None, None, self._machine.target)  # pyright: ignore[reportArgumentType]
        estimator = EstimatorV2(mode=self._machine, options={"environment": {"job_tags": [token]}})
        return estimator.run([pub_of(work, backend) for work in works], precision=works[0].precision).job_id()

    def find(self, token: str) -> str | None:
        """Look for a job with our tag."""
        listed = self._service.jobs(job_tags=[token], limit=1)
        return listed[0].job_id() if listed else None

    def look(self, vendor_job: str) -> tuple[Progress, str]:
        """Ask how far a job is."""
        job = self._service.job(vendor_job)
        known: dict[str, Progress] = {"DONE": "done", "ERROR": "failed", "CANCELLED": "cancelled", "RUNNING": "running"}
        status = job.status()  # a word, or the constant of that name
        progress = known.get(str(getattr(status, "name", status)), "waiting")
        return progress, str(job.error_message() or "") if progress == "failed" else ""

    def collect(self, vendor_job: str) -> list[Estimates]:
        """Fetch a job's results."""
        return [estimates_of(result) for result in self._service.job(vendor_job).result()]

    def cancel(self, vendor_job: str) -> None:
        """Cancel a job."""
        self._service.job(vendor_job).cancel()


def open_vendor(name: str) -> Vendor:
    """Open the vendor of a named backend.

    Raises:
        SetupError: as `open_backend`.
    """
    described = read_backends().get(name, {})
    if described.get("through", name) == "ibm" and not str(described.get("machine", "")).startswith("Fake"):
        return Runtime(name)
    return InProcess(name)
