"""QuEST as a device: its only Python binding that installs (pyquest 0.0.1) was built for NumPy 1, so it runs apart."""

import numpy as np
from driver_loop import CX, RY, serve
from pyquest import Register
from pyquest.unitaries import Ry, Rz, X

_SEED = np.random.default_rng()


def sample(qubits: int, gates: np.ndarray, angles: np.ndarray, shots: int) -> np.ndarray:
    """Run a circuit once, and draw its bits from the amplitudes."""
    register = Register(qubits)
    for (kind, qubit, target), angle in zip(gates.tolist(), angles.tolist(), strict=True):
        if kind == CX:
            register.apply_operator(X(target, controls=[qubit]))
        else:
            register.apply_operator((Ry if kind == RY else Rz)(qubit, angle))
    chances = np.abs(register[:]) ** 2
    drawn = _SEED.choice(len(chances), shots, p=chances / chances.sum())
    return (drawn[:, None] >> np.arange(qubits)) & 1


if __name__ == "__main__":
    serve(sample)
