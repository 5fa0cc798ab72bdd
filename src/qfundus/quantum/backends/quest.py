"""QuEST, in an environment of its own: see `drivers/run_quest.py`."""

from typing import Any

from qfundus.quantum.backends import Backend
from qfundus.quantum.backends.driver import command_of, open_driver


def open_backend(options: dict[str, Any]) -> Backend:
    """Open the simulator. Options: `qubits` (at most)."""
    return _open(**options)


def _open(qubits: int = 24) -> Backend:
    return open_driver("quest", command_of("quest"), qubits)
