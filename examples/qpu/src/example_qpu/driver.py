"""The driver of a device on a card. This one computes what a card would measure: put your card's library here."""

import numpy as np
from driver_loop import CX, RY, serve

_DRAW = np.random.default_rng()


def sample(qubits: int, gates: np.ndarray, angles: np.ndarray, shots: int) -> np.ndarray:
    """Run a circuit `shots` times; return bits `(shots, qubits)`."""
    state = np.zeros((2,) * qubits, complex)  # axis q is qubit q
    state[(0,) * qubits] = 1
    for (kind, qubit, target), angle in zip(gates.tolist(), angles.tolist(), strict=True):
        if kind == CX:
            one = [slice(None)] * qubits
            one[qubit] = 1
            state[tuple(one)] = np.flip(state[tuple(one)], axis=target - (target > qubit))
        else:
            state = _turn(state, qubit, angle, about_y=kind == RY)
    drawn = _DRAW.choice(state.size, shots, p=np.abs(state.ravel()) ** 2)
    return np.stack(np.unravel_index(drawn, state.shape), axis=1)


def _turn(state: np.ndarray, qubit: int, angle: float, *, about_y: bool) -> np.ndarray:
    cosine, sine = np.cos(angle / 2), np.sin(angle / 2)
    turned = [[cosine, -sine], [sine, cosine]] if about_y else np.diag([cosine - 1j * sine, cosine + 1j * sine])
    return np.moveaxis(np.tensordot(turned, state, axes=(1, qubit)), 0, qubit)


if __name__ == "__main__":
    serve(sample)
