"""Submit a version's circuit to quantum machines, to compare them with the simulator."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from qfundus.errors import SetupError
from qfundus.heads.saved_circuit import SavedCircuit
from qfundus.hybrid.grader_files import CIRCUIT_FILE
from qfundus.quantum.jobs.queue import submit
from qfundus.quantum.jobs.store import JobStore
from qfundus.registry.versions import CANDIDATE, CHAMPION, download_file, find_alias
from qfundus.settings import QuantumSettings, load_settings

_HOUR = 3600.0


def request_comparison(
    version: str, backends: Sequence[str], eyes: int, precision: float, hours: float, user: str
) -> dict[str, object]:
    """Submit a version's circuit with some eyes' angles to each backend; return the version, and each backend's job.

    Raises:
        SetupError: if the version or backend does not exist, or the version has no circuit.
    """
    settings = load_settings()
    version = version or find_alias(settings, CANDIDATE) or find_alias(settings, CHAMPION)
    if not version:
        raise SetupError("No version of the grader is registered yet: retrain first.")
    circuit, store = read_circuit(version), JobStore(QuantumSettings().jobs_address)
    work, deadline = circuit.work(eyes, precision), time.time() + hours * _HOUR
    jobs = {name: submit(store, work, [name], user=user, deadline=deadline).id for name in backends}
    return {"version": version, "jobs": jobs}


def read_circuit(version: str) -> SavedCircuit:
    """Read the circuit that was saved with a version.

    Raises:
        SetupError: if there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            return SavedCircuit.load(download_file(load_settings(), version, CIRCUIT_FILE, Path(folder)))
        except (OSError, LookupError) as error:
            raise SetupError(
                f"Version {version} has no circuit ({type(error).__name__}): retrain, or choose a newer version."
            ) from None
