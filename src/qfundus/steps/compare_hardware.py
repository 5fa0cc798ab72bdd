"""Compare what quantum machines returned with the exact values."""

import numpy as np

from qfundus.errors import SetupError
from qfundus.quantum.jobs.queue import JobError, Vendors, wait
from qfundus.quantum.jobs.store import Job, JobStore
from qfundus.quantum.jobs.vendors import Offer
from qfundus.settings import QuantumSettings
from qfundus.steps.request_comparison import read_circuit


def compare_hardware(version: str, jobs: dict[str, str]) -> dict[str, object]:
    """Return each backend's mean distance from the exact values, and a note about it.

    Raises:
        SetupError: if a job failed or was cancelled.
    """
    circuit, store, vendors = read_circuit(version), JobStore(QuantumSettings().jobs_address), Vendors()
    errors: dict[str, float] = {}
    lines: list[str] = []
    for backend, name in jobs.items():
        try:
            values = wait(store, name, timeout=0.0).values
        except (JobError, TimeoutError) as error:
            raise SetupError(str(error)) from None
        errors[backend] = float(np.abs(values - circuit.exact[: len(values)]).mean())
        details = _describe_job(store.find(name), backend, vendors)
        lines.append(f"{backend}{details}: mean error {errors[backend]:.3f} over {len(values)} eyes")
    return {"off": errors, "note": f"Version {version}. " + "; ".join(lines) + "."}


def _describe_job(job: Job | None, backend: str, vendors: Vendors) -> str:
    """Say in brackets what ran in the backend's place, what it cost, and when the machine was calibrated."""
    if job is None:
        return ""
    offer = vendors.offer(job.backend or backend)
    details = [
        f"run by {job.backend}: {job.message}" if job.fallback else "",
        f"cost {job.cost:g}" if job.cost else "",
        offer.calibrated if isinstance(offer, Offer) else "",
    ]
    known = ", ".join(filter(None, details))
    return f" ({known})" if known else ""
