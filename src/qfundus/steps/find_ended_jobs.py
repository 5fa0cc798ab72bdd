"""Look whether quantum jobs have ended."""

from collections.abc import Sequence

from qfundus.errors import SetupError
from qfundus.quantum.jobs.store import ENDED, JobStore
from qfundus.settings import QuantumSettings


def find_ended_jobs(jobs: Sequence[str]) -> dict[str, str] | None:
    """Return the state of each job, None while one is queued or running.

    Raises:
        SetupError: if a job is not in the job store.
    """
    store = JobStore(QuantumSettings().jobs_address)
    jobs_found = {name: store.find(name) for name in jobs}
    states = {name: job.state for name, job in jobs_found.items() if job is not None}
    if missing := len(jobs_found) - len(states):
        raise SetupError(f"{missing} of the jobs are not in the job store: resubmit them.")
    return states if all(state in ENDED for state in states.values()) else None
