"""The exact engine on state vectors: batched, in real arithmetic, differentiable by PyTorch.

A state is a pair of real arrays (real and imaginary part), so that the same code trains on any device and exports to
ONNX, which knows no complex numbers. Qubit 0 is the most significant bit of an amplitude's index.
"""

import torch

_GROUP = 4  # qubits rotated in one matrix product: 16 x 16 matrices keep the cores busier than 2 x 2


def expectations(angles: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the expectation of Z on each qubit, `(batch, qubits)`.

    `angles` `(batch, qubits)` encode the features, `weights` `(layers, 2, qubits)` hold the RY and RZ angles; radians.
    """
    qubits = angles.shape[1]
    real = _product_state(angles)
    imaginary = torch.zeros_like(real)
    chain, closing = _chain_order(qubits), _closing_order(qubits)
    signs = _signs(qubits, real.dtype)
    for layer in weights:
        real, imaginary = real[:, chain], imaginary[:, chain]
        real, imaginary = _rotate_y(real, layer[0]), _rotate_y(imaginary, layer[0])
        real, imaginary = _rotate_z(real, imaginary, signs @ (layer[1] / 2))
        real, imaginary = real[:, closing], imaginary[:, closing]
    return (real.square() + imaginary.square()) @ signs


def _product_state(angles: torch.Tensor) -> torch.Tensor:
    """RY on |0>: amplitudes cos(x/2) and sin(x/2) on each qubit, multiplied out to `(batch, 2**qubits)`."""
    pairs = torch.stack((torch.cos(angles / 2), torch.sin(angles / 2)), dim=2)
    state = pairs[:, 0]
    for qubit in range(1, angles.shape[1]):
        state = (state.unsqueeze(2) * pairs[:, qubit].unsqueeze(1)).flatten(1)
    return state


def _rotate_y(state: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotate every qubit about Y, a group of qubits at a time."""
    qubits = len(angles)
    for first in range(0, qubits, _GROUP):
        group = angles[first : first + _GROUP]
        after = 2 ** (qubits - first - len(group))
        blocks = state.reshape(-1, 2 ** len(group), after)
        state = (_kron_ry(group) @ blocks).reshape(-1, 2**qubits)
    return state


def _kron_ry(angles: torch.Tensor) -> torch.Tensor:
    cosines, sines = torch.cos(angles / 2), torch.sin(angles / 2)
    matrix = torch.ones((1, 1), dtype=angles.dtype)
    for c, s in zip(cosines.unbind(), sines.unbind(), strict=True):
        rotation = torch.stack((torch.stack((c, -s)), torch.stack((s, c))))
        matrix = torch.kron(matrix, rotation)
    return matrix


def _rotate_z(real: torch.Tensor, imaginary: torch.Tensor, phases: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn amplitude b by exp(-i phase[b]): all the RZ of a layer at once."""
    c, s = torch.cos(phases), torch.sin(phases)
    return real * c + imaginary * s, imaginary * c - real * s


def _bits(qubits: int) -> torch.Tensor:
    index = torch.arange(2**qubits)
    return torch.stack([(index >> (qubits - 1 - k)) & 1 for k in range(qubits)], dim=1)


def _signs(qubits: int, dtype: torch.dtype) -> torch.Tensor:
    """Return Z's eigenvalue for each basis state and qubit, `(2**qubits, qubits)`."""
    return (1 - 2 * _bits(qubits)).to(dtype)


def _chain_order(qubits: int) -> torch.Tensor:
    # CX 0-1, 1-2, ... is a running XOR of the bits; a gather needs its inverse, the XOR of neighbours.
    bits = _bits(qubits)
    before = bits.clone()
    before[:, 1:] ^= bits[:, :-1]
    return _index(before)


def _closing_order(qubits: int) -> torch.Tensor:
    bits = _bits(qubits)
    bits[:, 0] ^= bits[:, -1]
    return _index(bits)


def _index(bits: torch.Tensor) -> torch.Tensor:
    places = 2 ** torch.arange(bits.shape[1] - 1, -1, -1)
    return (bits * places).sum(dim=1)
