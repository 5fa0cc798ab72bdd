"""The steps of comparing a quantum machine with the simulator: what a DAG task calls, and nothing else."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qfundus.errors import SetupError
from qfundus.settings import QuantumSettings, load_settings

if TYPE_CHECKING:
    from qfundus.quantum.kept import KeptCircuit

_HOUR = 3600.0


def ask_for_comparison(
    version: str, backends: Sequence[str], eyes: int, precision: float, hours: float, user: str
) -> dict[str, object]:
    """Ask each backend for a version's circuit on some eyes; return the version, and the job of each backend.

    Raises:
        SetupError: where there is no such version or backend, or no circuit is kept with it.
    """
    from qfundus.quantum.jobs.queue import submit
    from qfundus.quantum.jobs.store import JobStore
    from qfundus.registry.versions import find_alias

    settings = load_settings()
    version = version or find_alias(settings, "candidate") or find_alias(settings, "champion")
    if not version:
        raise SetupError("No version of the grader is registered yet: retrain first.")
    kept, store = _read_circuit(version), JobStore(QuantumSettings().jobs_address)
    work, deadline = kept.work(eyes, precision), time.time() + hours * _HOUR
    jobs = {name: submit(store, work, [name], user=user, deadline=deadline).id for name in backends}
    return {"version": version, "jobs": jobs}


def ended_states(jobs: Sequence[str]) -> dict[str, str] | None:
    """Return the state of each job, None while one goes on.

    Raises:
        SetupError: where a job is not known.
    """
    from qfundus.quantum.jobs.store import ENDED, JobStore

    store = JobStore(QuantumSettings().jobs_address)
    found = {name: store.find(name) for name in jobs}
    states = {name: job.state for name, job in found.items() if job is not None}
    if len(states) < len(found):
        raise SetupError(f"{len(found) - len(states)} of the jobs are not in the job store: ask for them again.")
    return states if all(state in ENDED for state in states.values()) else None


def compare(version: str, jobs: dict[str, str]) -> dict[str, object]:
    """Return how far each backend's values are from the exact ones, in the mean, and a note that says so.

    Raises:
        SetupError: where a job failed or was cancelled.
    """
    import numpy as np

    from qfundus.quantum.jobs.queue import JobError, Vendors, wait
    from qfundus.quantum.jobs.store import JobStore
    from qfundus.quantum.jobs.vendors import Offer

    kept, store, vendors = _read_circuit(version), JobStore(QuantumSettings().jobs_address), Vendors()
    said: list[str] = []
    off: dict[str, float] = {}
    for name, job in jobs.items():
        try:
            values = wait(store, job, timeout=0.0).values
        except (JobError, TimeoutError) as error:
            raise SetupError(str(error)) from None
        off[name] = float(np.abs(values - kept.exact[: len(values)]).mean())
        found = store.find(job)
        instead = f" (by {found.backend}: {found.said})" if found is not None and found.fallback else ""
        cost = f", cost {found.cost:g}" if found is not None and found.cost else ""
        offer = vendors.offer(found.backend or name) if found is not None else ""
        machine = f", {offer.calibrated}" if isinstance(offer, Offer) and offer.calibrated else ""
        said.append(f"{name}{instead}: {off[name]:.3f} off in the mean over {len(values)} eyes{cost}{machine}")
    return {"off": off, "note": f"Version {version}. " + "; ".join(said) + "."}


def _read_circuit(version: str) -> "KeptCircuit":
    from qfundus.quantum.kept import CIRCUIT_FILE, KeptCircuit
    from qfundus.registry.versions import download_file

    with tempfile.TemporaryDirectory() as folder:
        try:
            return KeptCircuit.load(download_file(load_settings(), version, CIRCUIT_FILE, Path(folder)))
        except (OSError, LookupError) as error:
            raise SetupError(
                f"No circuit is kept with version {version} ({type(error).__name__}): retrain, or take a newer one."
            ) from None
