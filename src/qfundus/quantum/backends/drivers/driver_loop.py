"""The driver's side of a device that is reached over shared memory. It needs nothing but NumPy: copy it where you like.

A driver is a program that calls `serve(sample)`. Its last argument is the size of the block in bytes; it makes the
block and says its name. For each line `run NUMBER` on its standard input it reads a circuit from the block, lets
`sample` run it, and leaves the bits there; it answers `NUMBER done`, or `NUMBER failed` and why. An end of input ends
it, and so does its parent's.

The block holds, one after the other and each at a multiple of 8 bytes:

    int64[3]             qubits, gates, shots
    int64[gates, 3]      kind (0 RY, 1 RZ, 2 CX), qubit, target of a CX
    float64[gates]       angle in radians
    uint8[shots, qubits] the bits, once it has run
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory

import numpy as np

RY, RZ, CX = 0, 1, 2
HEAD = 3 * 8
_GATE = 4 * 8
_LOOKED_EVERY = 0.5  # seconds

# Takes the qubits, the gates `(gates, 3)`, their angles and the shots; returns bits `(shots, qubits)`.
Sample = Callable[[int, np.ndarray, np.ndarray, int], np.ndarray]


def size_of(qubits: int, gates: int, shots: int) -> int:
    """Return how many bytes a circuit and its bits take."""
    return HEAD + gates * _GATE + shots * qubits


def views(block: SharedMemory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gates, the angles and the bits of the circuit that lies in a block."""
    qubits, gates, shots = (int(n) for n in np.ndarray(3, np.int64, block.buf))
    if size_of(qubits, gates, shots) > block.size:
        raise ValueError("The circuit is larger than the block.")
    kinds = np.ndarray((gates, 3), np.int64, block.buf, HEAD)
    angles = np.ndarray(gates, np.float64, block.buf, HEAD + gates * 3 * 8)
    return kinds, angles, np.ndarray((shots, qubits), np.uint8, block.buf, HEAD + gates * _GATE)


def serve(sample: Sample) -> None:
    """Run circuits until the input ends."""
    # What a device's library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    block = SharedMemory(create=True, size=int(sys.argv[-1]))
    try:
        print(block.name, file=answers, flush=True)
        for line in sys.stdin:
            word, _, number = line.strip().partition(" ")
            if word == "run":
                print(number, _run(block, sample), file=answers, flush=True)
    finally:
        block.close()
        block.unlink()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOKED_EVERY)
    os._exit(1)


def _run(block: SharedMemory, sample: Sample) -> str:
    try:
        gates, angles, bits = views(block)
        bits[:] = sample(bits.shape[1], gates, angles, bits.shape[0])
    except Exception as error:  # noqa: BLE001  (a device's library may raise anything: the other side has to hear of it)
        return f"failed {type(error).__name__}: {error}".replace("\n", " ")
    return "done"
