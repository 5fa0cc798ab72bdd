"""Google's processors, or their virtual engine, in an environment of their own: see `drivers/run_google.py`."""

from typing import Any

from qfundus.quantum.backends import Backend
from qfundus.quantum.backends.driver import command_of, open_driver
from qfundus.settings import QuantumSettings


def open_backend(options: dict[str, Any]) -> Backend:
    """Open a processor. Options: `processor`, `qubits` (at most), and `virtual`, without which a project is needed."""
    return _open(**options)


def _open(processor: str = "rainbow", qubits: int = 20, *, virtual: bool = False) -> Backend:
    project = "virtual" if virtual else QuantumSettings().needed_google_project
    return open_driver(f"google {processor}", [*command_of("google"), processor, project], qubits)
