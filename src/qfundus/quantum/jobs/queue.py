"""The queue: ask for work, wait for it, and a worker that sends it and fetches what was found."""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby

import structlog
import yaml
from pydantic import ValidationError

from qfundus.errors import Retry, SetupError
from qfundus.layout import checkout
from qfundus.quantum.backends import describe_backend, read_backends
from qfundus.quantum.jobs import monitor
from qfundus.quantum.jobs.schedule import Choice, Rules, Spent, choose
from qfundus.quantum.jobs.store import ENDED, Batch, Claim, Job, JobStore
from qfundus.quantum.jobs.vendors import NobodyKnowsError, Offer, Unfinished, Vendor, open_vendor
from qfundus.quantum.jobs.work import Estimates, Work

_log = structlog.get_logger()
_SHORTEST_PAUSE = 0.01  # seconds
_LEASE = 120.0  # seconds after which a worker that says nothing is taken for dead
_MOST_IN_BATCH = 100  # jobs
_MOST_CIRCUITS = 5_000  # in a batch of several jobs
_ATTEMPTS, _ATTEMPTS_IF_LOST = 4, 10
_HOUR, _DAY = 3600.0, 24 * 3600.0  # seconds


class JobError(Exception):
    """A job ended without a result; the message says why."""


def read_rules() -> Rules:
    """Read how jobs are scheduled, from `jobs` in `configs/quantum.yaml`.

    Raises:
        SetupError: if something there is unknown or out of range.
    """
    file = checkout() / "configs" / "quantum.yaml"
    try:
        rules = Rules.model_validate(yaml.safe_load(file.read_text()).get("jobs") or {})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SetupError(f"The jobs in configs/quantum.yaml are wrong: {wrong}.") from None
    if rules.fallback not in read_backends():
        raise SetupError(f"The fallback {rules.fallback} in configs/quantum.yaml is not one of the backends there.")
    return rules


@dataclass
class Vendors:
    """The vendors by the names of their backends, each opened once."""

    open: Callable[[str], Vendor] = open_vendor
    _opened: dict[str, Vendor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Vendor:
        """Return a vendor."""
        if name not in self._opened:
            self._opened[name] = self.open(name)
        return self._opened[name]

    def offer(self, name: str) -> Offer | str:
        """Return what a backend asks for work now, or why it takes none."""
        try:
            return self[name].offer()
        except (Retry, SetupError) as why:
            return str(why)
        except Exception as error:  # noqa: BLE001  (each vendor's client has errors of its own)
            return f"It does not answer ({type(error).__name__})."


@cache
def _shared_vendors() -> Vendors:
    return Vendors()


def submit(
    store: JobStore,
    work: Work,
    backends: Sequence[str],
    *,
    user: str = "",
    deadline: float | None = None,
    vendors: Vendors | None = None,
) -> Job:
    """Ask for work on one of some backends; the same work under the same calibrations is one job, however often asked.

    `deadline`, in seconds since 1970, is when it is needed: where no machine would be done, the simulator takes it.

    Raises:
        SetupError: if a backend has no entry in `configs/quantum.yaml`.
    """
    vendors = vendors or _shared_vendors()
    for name in backends:
        describe_backend(name)
    if not backends:
        raise SetupError("Name at least one quantum backend.")
    offers = {name: vendors.offer(name) for name in backends}
    calibrations = [f"{name} {offer.calibration if isinstance(offer, Offer) else ''}" for name, offer in offers.items()]
    row = {
        "id": monitor.name_job(work.content(), calibrations),
        "user": user or "nobody",
        "backends": ",".join(backends),
        "work": work.to_bytes(),
        "circuits": work.circuits,
        "shots": work.shots,
        "qubits": work.circuit.num_qubits,
        "precision": work.precision,
        "deadline": deadline,
    }
    return store.submit(row)


def wait(store: JobStore, job: str, *, timeout: float = float("inf"), pause: float = 0.2) -> Estimates:
    """Wait for a job and return what it found.

    Raises:
        JobError: if it failed or was cancelled.
        TimeoutError: if it has not ended in time; it goes on.
    """
    until = time.monotonic() + timeout
    while (record := store.find(job)) is None or record.state not in ENDED:
        if time.monotonic() > until:
            raise TimeoutError(f"Job {job[:12]} has not ended yet: see `qfundus quantum jobs`.")
        time.sleep(pause)
    result = store.result(job)
    if record.state != "done" or result is None:
        raise JobError(f"Job {job[:12]} {record.state}: {record.message}")
    return Estimates.from_bytes(result)


class Worker:
    """Sends what is queued and fetches what is done; several may share one store, and any may die at any point."""

    def __init__(
        self,
        store: JobStore,
        rules: Rules,
        vendors: Vendors | None = None,
        *,
        lease: float = _LEASE,
        backoff: float = 15.0,
    ) -> None:
        self._store, self._rules, self._vendors = store, rules, vendors or Vendors()
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._lease, self._backoff = lease, backoff
        self._called_back: set[str] = set()

    def run(self, stop: threading.Event, pause: float = 1.0) -> None:
        """Work until asked to stop; now and then delete jobs that ended long ago."""
        forget_at = 0.0
        while not stop.is_set():
            try:
                busy = self.step()
                if time.time() > forget_at:
                    self._store.forget(time.time() - self._rules.keep_days * _DAY)
                    forget_at = time.time() + _HOUR
            except Exception as error:  # noqa: BLE001  (the database may be away for a while)
                _log.warning("The job store does not answer", why=type(error).__name__)
                busy = False
            stop.wait(0.02 if busy else pause)

    def step(self) -> bool:
        """Look at each batch that is under way, then send what is queued; return whether anything was done."""
        settled = [self._tend(batch) for batch in self._store.adopt(self._owner, self._lease)]
        return any([*settled, self._send_queued()])

    def _tend(self, batch: Batch) -> bool:
        try:
            vendor = self._vendors[batch.backend]
            if batch.state == "submitting":
                self._submit_again(batch, vendor)
                return True
            return self._look(batch, vendor, batch.vendor_job or "")
        except Exception as error:  # noqa: BLE001  (a vendor that does not answer is asked again)
            _log.warning("A vendor does not answer", backend=batch.backend, batch=batch.id, why=type(error).__name__)
            return False

    @contextmanager
    def _holding(self, batch: str) -> Generator[None]:
        """Renew the lease for as long as sending takes: another worker would send the batch once more."""
        done = threading.Event()

        def hold() -> None:
            while not done.wait(max(_SHORTEST_PAUSE, self._lease / 4)) and self._store.renew(
                batch, self._owner, self._lease
            ):
                pass

        holder = threading.Thread(target=hold, daemon=True)
        holder.start()
        try:
            yield
        finally:
            done.set()
            holder.join()

    def _submit_again(self, batch: Batch, vendor: Vendor) -> None:
        """Go on where a worker died while it sent a batch: the vendor knows whether it had been sent."""
        jobs = self._store.members(batch.id)
        try:
            sent = vendor.find(batch.id)
        except NobodyKnowsError:
            message = "The process that submitted it is gone: it may have run and been billed. Resubmit if needed."
            self._fail(batch.id, "gone", message, jobs)
            return
        if sent is None and any(job.batch != batch.id or job.state != "running" for job in jobs):
            self._fail(batch.id, "lost", "Some of its jobs were cancelled before it was sent.", jobs)
        else:
            self._submit(batch.id, vendor, jobs, sent)

    def _look(self, batch: Batch, vendor: Vendor, vendor_job: str) -> bool:
        progress, message = vendor.look(vendor_job)
        jobs = self._store.members(batch.id)
        begun = progress == "running"
        unwanted = all(
            job.batch != batch.id or job.state == "cancelled" or (_is_late(job) and not begun) for job in jobs
        )
        if progress == "left" and unwanted:
            self._fail(batch.id, "cancelled", "All jobs of this batch were cancelled.", jobs)
            return True
        if progress == "left":
            self._submit(batch.id, vendor, jobs, None)
            return True
        if progress in ("running", "waiting"):
            if unwanted and batch.id not in self._called_back:
                vendor.cancel(vendor_job)
                self._called_back.add(batch.id)
            return False
        if progress == "done":
            estimates = vendor.collect(vendor_job)
            results = {job.id: found.to_bytes() for job, found in zip(jobs, estimates, strict=True)}
            self._store.finish(batch.id, results)
            monitor.count_done(jobs)
            _log.info("Quantum jobs done", backend=batch.backend, jobs=len(jobs))
            return True
        self._fail(batch.id, progress, message, jobs)
        return True

    def _fail(self, batch: str, state: Unfinished, message: str, jobs: Sequence[Job]) -> None:
        tried = max((job.attempts for job in jobs), default=0)
        ours = state == "lost" or batch in self._called_back
        # A job that was lost with its process, or called back as too late, gets more tries: that was not its fault.
        again = state != "gone" and tried < (_ATTEMPTS_IF_LOST if ours else _ATTEMPTS)
        pause = 0.0 if ours else self._backoff * 2.0 ** (tried - 1)
        retry_at = time.time() + pause if again else None
        self._store.fail(batch, state, message, retry_at=retry_at, free=ours)
        monitor.count_failed(jobs, retried=again)
        _log.warning("Quantum jobs failed", batch=batch, jobs=len(jobs), why=message, again=again)

    def _send_queued(self) -> bool:
        now = time.time()
        jobs = self._store.waiting(now, _MOST_IN_BATCH * 4)
        if not jobs:
            return False
        offers = {name: self._vendors.offer(name) for name in {name for job in jobs for name in job.backends}}
        spent, chosen = Spent(self._store.spent(now)), list[tuple[Job, Choice]]()
        for job in jobs:
            choice = choose(job, offers, self._rules, spent, now)
            if choice.backend:
                spent = spent.add(job.user, choice.cost, job.circuits)
                chosen.append((job, choice))
            elif choice.never:
                self._store.give_up(job.id, choice.message)
            else:
                self._store.say(job.id, choice.message, choice.look_again)
        for group in batches_of(chosen):
            self._send(group)
        return bool(chosen)

    def _send(self, group: Sequence[tuple[Job, Choice]]) -> None:
        backend, token = group[0][1].backend, uuid.uuid4().hex
        vendor = self._vendors[backend]
        claims = [Claim(job.id, choice.cost, choice.fallback, choice.message) for job, choice in group]
        if self._store.claim(token, backend, claims, self._owner, self._lease):
            self._submit(token, vendor, self._store.members(token), None)  # as they are now that they are claimed

    def _submit(self, token: str, vendor: Vendor, jobs: Sequence[Job], sent: str | None) -> None:
        try:
            works = [Work.from_bytes(data) for data in self._store.work(job.id for job in jobs)]
            with self._holding(token):
                vendor_job = sent or vendor.submit(works, token)
        except Exception as error:  # noqa: BLE001  (each vendor's client has errors of its own)
            self._fail(token, "failed", f"{type(error).__name__}: {error}", jobs)
            return
        self._store.sent(token, vendor_job)
        monitor.count_sent(jobs)


def _is_late(job: Job) -> bool:
    return job.deadline is not None and time.time() > job.deadline


def batches_of(chosen: Sequence[tuple[Job, Choice]]) -> list[list[tuple[Job, Choice]]]:
    """Group jobs that may be sent at once, of one backend, precision and deadline; what failed before goes alone."""

    def together(one: tuple[Job, Choice]) -> tuple[str, float, float, str]:
        job, choice = one
        return choice.backend, job.precision, job.deadline or 0.0, job.id if job.attempts else ""

    grouped: list[list[tuple[Job, Choice]]] = []
    for _, group in groupby(sorted(chosen, key=together), key=together):
        circuits = 0
        for one in group:
            if not circuits or circuits + one[0].circuits > _MOST_CIRCUITS or len(grouped[-1]) == _MOST_IN_BATCH:
                grouped.append([])
                circuits = 0
            grouped[-1].append(one)
            circuits += one[0].circuits
    return grouped
