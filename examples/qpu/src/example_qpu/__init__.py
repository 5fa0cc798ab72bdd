"""The plug-in: what `through: example_qpu` in `configs/quantum.yaml` opens."""

import sys
from pathlib import Path
from typing import Any

from qfundus.quantum.backends import Backend
from qfundus.quantum.backends.driver import open_driver


def open_backend(options: dict[str, Any]) -> Backend:
    """Open the device. Options: `qubits`."""
    return _open(**options)


def _open(qubits: int = 10) -> Backend:
    command = [sys.executable, str(Path(__file__).with_name("driver.py"))]
    return open_driver("example QPU", command, qubits)
