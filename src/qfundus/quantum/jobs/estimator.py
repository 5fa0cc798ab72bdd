"""The queue as one more estimator of the port: what trains or measures through it may wait for hours."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from qiskit.primitives import (
    BaseEstimatorV2,
    BasePrimitiveJob,
    DataBin,
    PrimitiveResult,
    PubResult,
)
from qiskit.primitives.containers.estimator_pub import EstimatorPub

from qfundus.quantum.jobs.queue import submit, wait
from qfundus.quantum.jobs.store import ENDED, JobStore
from qfundus.quantum.jobs.work import Work, terms_of
from qfundus.quantum.primitive_inputs import broadcast_origins, observables_of, parameter_sets

_PRECISION = 0.02


class QueuedEstimator(BaseEstimatorV2):
    """An estimator whose circuits go through the queue to one of some backends, and are compiled there.

    A worker (`qfundus quantum work`) has to be running.
    """

    def __init__(self, store: JobStore, backends: Sequence[str], user: str = "", deadline: float | None = None) -> None:
        self._store, self._backends, self._user, self._deadline = store, list(backends), user, deadline

    def run(self, pubs: Iterable[Any], *, precision: float | None = None) -> "QueuedJob":
        """Ask for each pub; observables and parameter sets are broadcast as everywhere in Qiskit."""
        coerced = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        jobs = [
            submit(self._store, _work_of(pub), self._backends, user=self._user, deadline=self._deadline).id
            for pub in coerced
        ]
        return QueuedJob(self._store, jobs, coerced)


class QueuedJob(BasePrimitiveJob[Any, str]):
    """Jobs of the queue that answer together."""

    def __init__(self, store: JobStore, jobs: Sequence[str], pubs: Sequence[EstimatorPub]) -> None:
        super().__init__(",".join(jobs))
        self._store, self._jobs, self._pubs = store, list(jobs), list(pubs)

    def result(self) -> PrimitiveResult[PubResult]:
        """Wait, and return expectation values and their standard deviations.

        Raises:
            JobError: if one failed or was cancelled.
        """
        return PrimitiveResult([self._one(job, pub) for job, pub in zip(self._jobs, self._pubs, strict=True)])

    def _one(self, job: str, pub: EstimatorPub) -> PubResult:
        estimates, chosen = wait(self._store, job), broadcast_origins(pub)
        values, deviations = (
            np.broadcast_to(a, (pub.parameter_values.size, a.shape[1]))
            for a in (estimates.values, estimates.deviations)
        )
        data = DataBin(evs=values[chosen], stds=deviations[chosen], shape=pub.shape)
        return PubResult(data, metadata={"job": job})

    def status(self) -> str:
        """Say how far they are: the state of the one that is least far."""
        states = [job.state for name in self._jobs if (job := self._store.find(name)) is not None]
        return next((state for state in ("queued", "running", "failed", "cancelled") if state in states), "done")

    def done(self) -> bool:
        """Return whether all are done."""
        return self.status() == "done"

    def running(self) -> bool:
        """Return whether they run."""
        return self.status() == "running"

    def cancelled(self) -> bool:
        """Return whether one was cancelled."""
        return self.status() == "cancelled"

    def in_final_state(self) -> bool:
        """Return whether nothing more will happen."""
        return self.status() in ENDED

    def cancel(self) -> None:
        """Cancel what has not ended, but no job that somebody else asked for, too (`qfundus quantum cancel` does)."""
        for name in self._jobs:
            job = self._store.find(name)
            if job is not None and job.asked == 1:
                self._store.cancel(name)


def _work_of(pub: EstimatorPub) -> Work:
    observables = tuple(terms_of(observable) for observable in observables_of(pub))
    return Work(pub.circuit, observables, parameter_sets(pub), _PRECISION if pub.precision is None else pub.precision)
