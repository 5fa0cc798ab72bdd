"""What is measured of the queue, for Prometheus, and how jobs are named."""

import hashlib
import time
from collections.abc import Iterable, Sequence

from prometheus_client import REGISTRY, Counter, Histogram, Metric, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from qfundus.quantum.jobs.store import Job, JobStore

_HOURS = (1, 10, 60, 600, 3600, 4 * 3600, 24 * 3600)  # seconds

_sent = Counter("qfundus_quantum_circuits_sent", "Circuits sent to a backend", ["backend"])
_shots = Counter("qfundus_quantum_shots", "Shots of jobs that are done", ["backend"])
_cost = Counter("qfundus_quantum_cost", "What jobs that are done cost", ["backend", "user"])
_failed = Counter("qfundus_quantum_jobs_failed", "Jobs that failed", ["backend", "again"])
_fallback = Counter("qfundus_quantum_jobs_simulated", "Jobs that the simulator did in a machine's place")
_queued = Histogram("qfundus_quantum_queue_seconds", "From asking to sending", ["backend"], buckets=_HOURS)
_ran = Histogram("qfundus_quantum_run_seconds", "From sending to the result", ["backend"], buckets=_HOURS)


def serve_metrics(port: int, store: JobStore, host: str = "127.0.0.1") -> None:
    """Answer Prometheus in the background; how many jobs are in which state is read from the store at each asking."""
    REGISTRY.register(_States(store))
    start_http_server(port, addr=host)


class _States(Collector):
    def __init__(self, store: JobStore) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("qfundus_quantum_jobs", "Jobs by state", labels=["state"])
        for state, number in self._store.count().items():
            family.add_metric([state], number)
        yield family
        asked = GaugeMetricFamily("qfundus_quantum_jobs_asked", "How often kept jobs were asked for", labels=["found"])
        for origin, number in zip(("nothing", "job"), self._store.count_asked(), strict=True):
            asked.add_metric([origin], number)
        yield asked


def name_job(content: str, calibrations: Sequence[str]) -> str:
    """Name a job by what it asks for, and where and under which calibrations."""
    return hashlib.sha256("\n".join([content, *calibrations]).encode()).hexdigest()


def count_sent(jobs: Sequence[Job]) -> None:
    """Count jobs that were sent."""
    now = time.time()
    for job in jobs:
        where = job.backend or ""
        _sent.labels(where).inc(job.circuits)
        _queued.labels(where).observe(now - job.created)


def count_done(jobs: Sequence[Job]) -> None:
    """Count jobs that are done."""
    now = time.time()
    for job in jobs:
        where = job.backend or ""
        _shots.labels(where).inc(job.shots)
        _cost.labels(where, job.user).inc(job.cost)
        _ran.labels(where).observe(now - (job.started or now))
        _fallback.inc(job.fallback)


def count_failed(jobs: Sequence[Job], *, retried: bool) -> None:
    """Count jobs that failed."""
    for job in jobs:
        _failed.labels(job.backend or "", str(retried).lower()).inc()
