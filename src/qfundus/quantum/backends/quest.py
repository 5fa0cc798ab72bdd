"""QuEST, in an environment of its own (`make setup` makes `.venv-quest`): see `drivers/quest.py`."""

import os
from pathlib import Path
from typing import Any

from qfundus.errors import SetupError
from qfundus.layout import checkout
from qfundus.quantum.backends import Backend, drivers
from qfundus.quantum.backends.driver import open_driver


def open_backend(options: dict[str, Any]) -> Backend:
    """Open the simulator. Options: `qubits` (at most)."""
    return _open(**options)


def _open(qubits: int = 24) -> Backend:
    python = Path(os.environ.get("QFUNDUS_QUEST_PYTHON", checkout() / ".venv-quest" / "bin" / "python"))
    if not python.exists():
        raise SetupError(
            "QuEST has an environment of its own: `make setup`, or name its Python in QFUNDUS_QUEST_PYTHON."
        )
    return open_driver("quest", [str(python), str(Path(drivers.__path__[0]) / "quest.py")], qubits)
