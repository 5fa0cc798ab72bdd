"""Google's processors, or their virtual engine, in an environment of their own: see `drivers/run_google.py`."""

import os
from pathlib import Path
from typing import Any

from qfundus.errors import SetupError
from qfundus.quantum.backends import Backend
from qfundus.quantum.backends.driver import command_of, open_driver
from qfundus.settings import QuantumSettings

_KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
_LOGGED_IN = Path.home() / ".config" / "gcloud" / "application_default_credentials.json"


def open_backend(options: dict[str, Any]) -> Backend:
    """Open a processor. Options: `processor`, `qubits` (at most), and `virtual`, without which a project is needed."""
    return _open(**options)


def _open(processor: str = "rainbow", qubits: int = 20, *, virtual: bool = False) -> Backend:
    project = "virtual" if virtual else QuantumSettings().needed_google_project
    if not virtual and not (os.environ.get(_KEY_FILE) or _LOGGED_IN.exists()):
        raise SetupError(
            f"Google's processors need credentials: set {_KEY_FILE} to a service account's key file, or log in by "
            "`gcloud auth application-default login`."
        )
    return open_driver(f"google {processor}", [*command_of("google"), processor, project], qubits)
