"""What each pass over a state vector computes, and the gradients of it."""

from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import nn

from qfundus.quantum.angles import AngleSums
from qfundus.quantum.gates import Gate

_NARROW = 4  # columns; so many thousand products of so small matrices take longer than one with zeros in between
_MOST_PRODUCTS = 2**24  # numbers that the gradients of one group's matrix may take before they are added up
_KEPT_FACTORS = 2**18  # phase factors that are kept from the forward pass to the backward one; more are made anew


def product_state(angles: torch.Tensor) -> torch.Tensor:
    """RY on |0>: amplitudes cos(x/2), sin(x/2) of angles `(batch, qubits)`, multiplied out to `(2**qubits, batch)`."""
    half = angles.T / 2
    pairs = torch.stack((half.cos(), half.sin()), dim=1)  # (qubits, 2, batch)
    states = pairs
    rest: torch.Tensor | None = None
    while len(states) > 1:  # by pairs, so that the large products are few
        if len(states) % 2:
            last = states[-1:]
            rest = last if rest is None else _outer(last, rest)
            states = states[:-1]
        states = _outer(states[0::2], states[1::2])
    return states[0] if rest is None else _outer(states, rest)[0]


def _outer(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return (first.unsqueeze(2) * second.unsqueeze(1)).flatten(1, 2)


class Parities(nn.Module):
    """(-1) to the parity of some bits of a basis state, for several choices of bits, as a product of two tables."""

    high: torch.Tensor
    low: torch.Tensor

    def __init__(self, masks: list[int], n_qubits: int) -> None:
        super().__init__()
        below = n_qubits // 2
        parts = [mask >> below for mask in masks], [mask & ((1 << below) - 1) for mask in masks]
        for name, part, bits in zip(("high", "low"), parts, (n_qubits - below, below), strict=True):
            odd = np.bitwise_count(np.arange(2**bits) & np.array(part, dtype=np.int64)[:, None]) & 1
            self.register_buffer(name, torch.from_numpy(1.0 - 2.0 * odd).float(), persistent=False)  # (masks, 2**bits)

    def expectations(self, state: torch.Tensor) -> torch.Tensor:
        """Return the mean sign `(batch, masks)` of each choice over a state's probabilities."""
        return self.sums(state.square().sum(dim=2)).clone(memory_format=torch.contiguous_format)  # no view

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Add up numbers `(2**qubits, batch)` with their signs, to `(batch, masks)`."""
        high, low = self.high.to(values.dtype), self.low.to(values.dtype)
        part = (high @ values.reshape(high.shape[1], -1)).unflatten(1, (low.shape[1], values.shape[1]))
        return (part * low.unsqueeze(2)).sum(dim=1).T

    def weigh(self, weights: torch.Tensor) -> torch.Tensor:
        """Return for each basis state the sum `(2**qubits, batch)` of weights `(batch, masks)` with their signs."""
        high, low = self.high.to(weights.dtype), self.low.to(weights.dtype)
        part = (low.unsqueeze(2) * weights.T.unsqueeze(1)).flatten(1)
        return (high.T @ part).reshape(high.shape[1] * low.shape[1], weights.shape[0])


class Phases(nn.Module):
    """Several runs of RZ on the same parities."""

    def __init__(self, masks: tuple[int, ...], turns: list[list[list[Gate]]], n_qubits: int) -> None:
        super().__init__()
        self.count = len(turns)
        self.parities = Parities(list(masks), n_qubits)
        self.sums_of_angles = AngleSums([gates for turn in turns for gates in turn])

    def angles(self, shared: torch.Tensor, by_feature: torch.Tensor) -> torch.Tensor:
        """Return `(runs, batch or 1, masks)`."""
        angles = self.sums_of_angles(shared, by_feature)
        return angles.unflatten(1, (self.count, -1)).transpose(0, 1)

    def factors(self, angles: torch.Tensor) -> torch.Tensor:
        """Return exp(-i phase) of some runs' angles, `(2**qubits, runs * batch)`."""
        phases = self.parities.weigh(angles.flatten(0, 1) / 2)
        if torch.compiler.is_exporting():  # ONNX knows no complex numbers
            return torch.stack((phases.cos(), phases.sin()), dim=2)
        return torch.complex(phases.cos(), -phases.sin())

    def gradient(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the gradient by each basis state's phase, `(2**qubits, batch)`, of a state and its adjoint."""
        state, adjoint = torch.view_as_complex(pair).unbind()
        if self.sums_of_angles.by_feature.shape[1]:
            return (adjoint.conj() * state).imag
        return torch.linalg.vecdot(adjoint, state, dim=1).imag.unsqueeze(1)

    def sums(self, by_phase: list[torch.Tensor]) -> torch.Tensor:
        """Return the gradient by the angles, `(runs, batch or 1, masks)`, from that by phases, the last run's first."""
        sums = self.parities.sums(torch.cat(by_phase[::-1], dim=1)) / 2
        return sums.unflatten(0, (self.count, -1))


class Factors:
    """The phase factors of a group's runs: all at once where they are few, else each when it is asked for."""

    def __init__(self, phases: Any, angles: torch.Tensor) -> None:
        self._phases, self._angles = phases, angles
        runs, batch, _ = angles.shape
        numbers = runs * batch * phases.parities.high.shape[1] * phases.parities.low.shape[1]
        self._kept = phases.factors(angles) if torch.compiler.is_exporting() or numbers <= _KEPT_FACTORS else None

    def of(self, place: int) -> torch.Tensor:
        """Return one run's factors, `(2**qubits, batch or 1)`."""
        if self._kept is None:
            return self._phases.factors(self._angles[place : place + 1])
        batch = self._angles.shape[1]
        return self._kept[:, place * batch : (place + 1) * batch]


def turn(state: torch.Tensor, factors: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """Multiply each amplitude by its phase factor."""
    if torch.compiler.is_exporting():
        (real, imaginary), (cosine, sine) = state.unbind(dim=2), factors.unbind(dim=2)
        return torch.stack((real * cosine + imaginary * sine, imaginary * cosine - real * sine), dim=2)
    target = None if out is None else torch.view_as_complex(out)
    return torch.view_as_real(torch.mul(torch.view_as_complex(state), factors, out=target))


class Permutation(nn.Module):
    """A run of CX, as the gathers that do and undo it."""

    before: torch.Tensor
    after: torch.Tensor

    def __init__(self, rows: tuple[int, ...]) -> None:
        super().__init__()
        n = len(rows)
        after = np.zeros(1, np.int64)
        for bit in range(n):  # the image of a sum is the sum of the images
            image = sum(1 << (n - 1 - k) for k, row in enumerate(rows) if row >> bit & 1)
            after = np.concatenate((after, after ^ image))
        before = np.empty_like(after)
        before[after] = np.arange(len(after))
        self.register_buffer("before", torch.from_numpy(before.astype(np.int32)), persistent=False)
        self.register_buffer("after", torch.from_numpy(after.astype(np.int32)), persistent=False)


def gather_both(pair: torch.Tensor, places: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Gather the rows of a state and its adjoint, each by itself: on the first axis that is three times as fast."""
    for half, target in zip(pair, out, strict=True):
        torch.index_select(half, 0, places, out=target)
    return out


def kron_ry(angles: torch.Tensor) -> torch.Tensor:
    """Return RY on a few qubits as one matrix, `(windows, 2**qubits, 2**qubits)`, of angles `(windows, qubits)`."""
    cosine, sine = (angles / 2).cos(), (angles / 2).sin()
    turns = torch.stack((cosine, -sine, sine, cosine), dim=2).unflatten(2, (2, 2))
    matrix = turns[:, 0]
    for qubit in range(1, angles.shape[1]):
        matrix = (matrix[:, :, None, :, None] * turns[:, qubit, None, :, None, :]).flatten(3, 4).flatten(1, 2)
    return matrix


def rotate(state: torch.Tensor, first: int, matrix: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """Apply a matrix to the window of qubits that begins with `first`; `state` may have an axis before it."""
    before = 2**first * (1 if state.dim() == 3 else len(state))
    # While it is compiled or exported the batch has no size yet.
    columns = 0 if torch.compiler.is_compiling() else state.numel() // (before * len(matrix))
    if 0 < columns <= _NARROW:
        same = torch.eye(columns, dtype=matrix.dtype, device=matrix.device)
        wide = torch.kron(matrix.contiguous(), same)
        flat = state.reshape(before, len(wide))
        return torch.mm(flat, wide.T, out=None if out is None else out.view_as(flat)).view_as(state)
    blocks = state.reshape(before, len(matrix), columns or -1)
    target = None if out is None else out.view_as(blocks)
    return torch.bmm(matrix.expand(before, -1, -1), blocks, out=target).view_as(state)


def rotate_gradient(state: torch.Tensor, adjoint: torch.Tensor, first: int, size: int) -> torch.Tensor:
    """Return the gradient by a window's matrix, of the state before it and the adjoint after it."""
    columns = 0 if torch.compiler.is_compiling() else state.numel() // (2**first * size)
    if 0 < columns <= _NARROW:
        wide = adjoint.reshape(2**first, size * columns).T @ state.reshape(2**first, size * columns)
        return wide.reshape(size, columns, size, columns).diagonal(dim1=1, dim2=3).sum(dim=2)
    old, new = (tensor.reshape(2**first, size, columns or -1) for tensor in (state, adjoint))
    step = max(1, _MOST_PRODUCTS // size**2)
    parts = (torch.bmm(n, o.mT).sum(dim=0) for n, o in zip(new.split(step), old.split(step), strict=True))
    return reduce(torch.add, parts)


def rotate_each(state: torch.Tensor, qubit: int, angles: torch.Tensor) -> torch.Tensor:
    """RY on one qubit by angles `(batch,)`; `state` may have an axis before it."""
    cosine, sine = (angles / 2).cos().unsqueeze(1), (angles / 2).sin().unsqueeze(1)
    zero, one = state.unflatten(-3, (2**qubit, 2, -1)).unbind(dim=-4)
    return torch.stack((cosine * zero - sine * one, sine * zero + cosine * one), dim=-4).view_as(state)


def rotate_each_gradient(pair: torch.Tensor, qubit: int) -> torch.Tensor:
    """Return the gradient of each sample's own angle of an RY."""
    zero, one = pair.unflatten(1, (2**qubit, 2, -1)).unbind(dim=2)
    return (zero[0] * one[1] - one[0] * zero[1]).sum(dim=(0, 1, 3)) / 2
