"""A device behind a driver process: circuits and bits lie in shared memory, and a pipe says when."""

import os
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.resource_tracker import unregister
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from select import select

import numpy as np

from qfundus.errors import Retry, SetupError
from qfundus.layout import checkout
from qfundus.quantum.backends import Backend, drivers
from qfundus.quantum.backends.drivers.driver_loop import CX, RY, RZ, size_of, views
from qfundus.quantum.backends.simulator import open_simulator
from qfundus.quantum.gates import Gates

_KINDS = {"ry": RY, "rz": RZ, "cx": CX}
_LEAVE_TAKING = 10.0  # seconds in which a driver may let go of its device
_SMALLEST_BLOCK = 1 << 20  # bytes


class Driver:
    """A driver process, started when it is first needed, and again where it has died or its block is too small.

    `command` starts the program; `drivers/driver_loop.py` describes what is said to it.
    """

    def __init__(self, command: Sequence[str], name: str, patience: float = 600.0) -> None:
        self._command, self._name, self._patience = list(command), name, patience
        self._calls = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._block: SharedMemory | None = None

    def sample(self, gates: Gates, angles: list[float], shots: int) -> np.ndarray:
        """Run a bound circuit; return bits `(shots, qubits)`.

        Raises:
            Retry: if the driver has died or does not start: the same call starts another.
            ValueError: if the device refuses the circuit, and says why.
        """
        needed = size_of(gates.n_qubits, len(gates.gates), shots)
        with self._lock:
            block = self._open(needed)
            np.ndarray(3, np.int64, block.buf)[:] = gates.n_qubits, len(gates.gates), shots
            kinds, turned, bits = views(block)
            for place, gate in enumerate(gates.gates):
                kinds[place] = _KINDS[gate.kind], gate.qubits[0], gate.qubits[-1]
                turned[place] = angles[gate.angle] if gate.kind != "cx" else 0.0
            answer = self._run()
            if answer != "done":
                raise ValueError(f"The device {self._name} {answer}")
            return bits.copy()

    def close(self) -> None:
        """End the driver."""
        block, self._block = self._block, None
        process, self._process = self._process, None
        if block is not None:
            with suppress(BufferError):  # the traceback of a failed call may still hold a view
                block.close()
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_LEAVE_TAKING)
            process.kill()
            process.wait()

    def _open(self, needed: int) -> SharedMemory:
        alive = self._process is not None and self._process.poll() is None
        if alive and self._block is not None and self._block.size >= needed:
            return self._block
        self.close()
        size = max(_SMALLEST_BLOCK, needed)
        try:
            self._process = subprocess.Popen(
                [*self._command, str(size)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=_environment(),
            )
        except OSError as error:
            raise Retry(f"The driver of {self._name} does not start: {error.strerror}.") from None
        # In this order: the driver says the block's name once it is made.
        name = self._answer()
        try:
            self._block = SharedMemory(name)
        except (OSError, ValueError):
            self._kill()
            raise Retry(f"The driver of {self._name} does not start: it named no block of shared memory.") from None
        unregister(self._block._name, "shared_memory")  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]  (the driver's to unlink)
        return self._block

    def _run(self) -> str:
        """Let the driver run what lies in the block; return what it answers to this call, and to no other."""
        assert self._process is not None  # noqa: S101  (it was opened)
        assert self._process.stdin is not None  # noqa: S101  (a pipe)
        self._calls += 1
        with suppress(BrokenPipeError):  # its answer says so, too
            self._process.stdin.write(f"run {self._calls}\n")
            self._process.stdin.flush()
        number, _, answer = self._answer().partition(" ")
        if number != str(self._calls):
            self._kill()
            raise Retry(f"The driver of {self._name} gave an unexpected answer and is being restarted.")
        return answer

    def _answer(self) -> str:
        assert self._process is not None  # noqa: S101  (it was opened)
        assert self._process.stdout is not None  # noqa: S101  (a pipe)
        if not select([self._process.stdout], [], [], self._patience)[0]:
            self._kill()
            raise Retry(f"The driver of {self._name} did not answer for {self._patience:g} s and was stopped.")
        line = self._process.stdout.readline().strip()
        if not line:
            code = self._process.wait()
            raise Retry(f"The driver of {self._name} ended ({code}): the connection to the device is lost.")
        return line

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _environment() -> dict[str, str]:
    """Let any Python import `driver_loop`, and nothing else of ours."""
    return {**os.environ, "PYTHONPATH": str(Path(drivers.__path__[0]))}


def command_of(name: str) -> list[str]:
    """Return the command of one of the drivers here that has an environment of its own.

    Raises:
        SetupError: if that environment is missing.
    """
    variable = f"QFUNDUS_{name.upper()}_PYTHON"
    python = Path(os.environ.get(variable, checkout() / f".venv-{name}" / "bin" / "python"))
    if not python.exists():
        raise SetupError(f"The backend {name} has its own environment: `make setup`, or name its Python in {variable}.")
    return [str(python), str(Path(drivers.__path__[0]) / f"run_{name}.py")]


def open_driver(name: str, command: Sequence[str], qubits: int) -> Backend:
    """Open a device behind a driver as a backend."""
    return open_simulator(name, qubits, Driver(command, name).sample)
