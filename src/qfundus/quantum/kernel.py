"""The exact engine on small state vectors, compiled: there PyTorch's calls would take longer than the arithmetic.

Samples lie side by side, eight at a time, as the last axis of every array: each gate is then the same arithmetic on
eight numbers, whichever qubit it turns. The backward pass undoes the circuit gate by gate (Jones and Gacon,
arXiv:2009.02823). On other devices, for large batches and in compiled graphs the engine that it stands for works.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce
from itertools import pairwise
from operator import xor
from typing import Any

import numba
import numpy as np
import torch
from torch import nn

from qfundus.quantum.gates import Gates
from qfundus.quantum.observables import Observable
from qfundus.quantum.once_differentiable import refuse_double_backward

LANES = 8
_RY, _RZ, _CX = 0, 1, 2
_KINDS = {"ry": _RY, "rz": _RZ, "cx": _CX}
_WORTH_A_THREAD = 100_000  # numbers that a block's gates read and write
_MOST_AMPLITUDES = 12_000  # of a batch; beyond, PyTorch's large products are as fast


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(function, cache=True, nogil=True, fastmath=True)
    except RuntimeError:  # no writable folder for what was compiled: each process compiles again
        return numba.njit(function, nogil=True, fastmath=True)


class Kernel(nn.Module):
    """A circuit's values by the compiled kernel, or by `engine` where that cannot run."""

    def __init__(self, circuit: Gates, observables: tuple[Observable, ...], engine: nn.Module) -> None:
        super().__init__()
        self.engine = engine
        self.n_qubits = circuit.n_qubits
        strides = [1 << (circuit.n_qubits - 1 - qubit) for qubit in range(circuit.n_qubits)]
        rows = [
            (_KINDS[gate.kind], strides[gate.qubits[0]], strides[gate.qubits[-1]], gate.angle, gate.by_feature)
            for gate in circuit.gates
        ]
        self.gates = np.array(rows, np.int64).reshape(-1, 5)
        states = np.arange(1 << circuit.n_qubits)
        masks = [reduce(xor, (strides[qubit] for qubit in observable), 0) for observable in observables]
        odd = [np.bitwise_count(states & mask).astype(np.int64) % 2 for mask in masks]
        self.signs = np.array([1 - 2 * parity for parity in odd], np.float32).reshape(len(masks), -1).T.copy()

    def forward(self, shared: torch.Tensor, by_feature: torch.Tensor) -> torch.Tensor:
        """Return the observables' values `(batch, observables)` of angles `(shared,)` and `(batch, by feature)`."""
        # Asked first: an exported graph would be bound to batches of the example's size.
        if torch.compiler.is_exporting() or torch.compiler.is_compiling() or shared.device.type != "cpu":
            return self.engine(shared, by_feature)
        if len(by_feature) << self.n_qubits > _MOST_AMPLITUDES:
            return self.engine(shared, by_feature)
        return _Run.apply(self, shared, by_feature)  # pyright: ignore[reportReturnType]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: Kernel, shared: torch.Tensor, by_feature: torch.Tensor) -> torch.Tensor:
        common, own = (angles.detach().resolve_neg().numpy() for angles in (shared, by_feature))
        common, own = _turned(common), _turned(_in_lanes(own))
        blocks, signs = own.shape[1], kernel.signs.astype(own.dtype, copy=False)
        state = np.empty((blocks, 2, LANES << kernel.n_qubits), own.dtype)
        values = np.empty((blocks, LANES, signs.shape[1]), own.dtype)
        given = (kernel.gates, common, own, signs, state)
        _in_blocks(kernel, blocks, lambda first, last: _forward(*given, values, first, last))
        ctx.kernel, ctx.given, ctx.batch = kernel, given, len(by_feature)
        return torch.from_numpy(values.reshape(blocks * LANES, signs.shape[1])[: ctx.batch])

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gates, common, own, signs, state = ctx.given
        weighed = _in_lanes(upstream[0].resolve_neg().numpy())
        slopes = np.zeros((len(state), common.shape[1]), own.dtype), np.zeros(own.shape[1:], own.dtype)
        # The state is undone on the way; a graph that is kept may be gone through again.
        given = (gates, common, own, signs, state.copy(), weighed, *slopes)
        _in_blocks(ctx.kernel, len(state), lambda first, last: _backward(*given, first, last))
        by_sample = slopes[1].transpose(0, 2, 1).reshape(len(state) * LANES, own.shape[2])[: ctx.batch]
        return None, torch.from_numpy(slopes[0].sum(axis=0)), torch.from_numpy(by_sample)


def _in_lanes(rows: np.ndarray) -> np.ndarray:
    """Return `(batch, columns)` as `(blocks, columns, LANES)`, filled up with zeros."""
    blocks = -(-len(rows) // LANES)
    filled = rows
    if len(rows) % LANES:
        filled = np.zeros((blocks * LANES, rows.shape[1]), rows.dtype)
        filled[: len(rows)] = rows
    return np.ascontiguousarray(filled.reshape(blocks, LANES, rows.shape[1]).transpose(0, 2, 1))


def _turned(angles: np.ndarray) -> np.ndarray:
    """Return cosine and sine of half the angles, first and second."""
    half, turned = angles / 2, np.empty((2, *angles.shape), angles.dtype)
    np.cos(half, out=turned[0])
    np.sin(half, out=turned[1])
    return turned


def _in_blocks(kernel: Kernel, blocks: int, work: Callable[[int, int], None]) -> None:
    """Let threads share the blocks where that is worth while: the kernels hold no lock of Python's."""
    threads = min(torch.get_num_threads(), blocks)
    if threads < 2 or len(kernel.gates) * LANES << kernel.n_qubits < _WORTH_A_THREAD:
        work(0, blocks)
        return
    edges = [blocks * n // threads for n in range(threads + 1)]
    others = [_pool().submit(work, first, last) for first, last in pairwise(edges[1:])]
    work(edges[0], edges[1])
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="quantum-kernel")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has none of its parent's threads


@_compiled
def _forward(
    gates: np.ndarray,
    common: np.ndarray,
    own: np.ndarray,
    signs: np.ndarray,
    state: np.ndarray,
    values: np.ndarray,
    first: int,
    last: int,
) -> None:
    for block in range(first, last):
        re, im = state[block, 0], state[block, 1]
        re[:] = 0
        im[:] = 0
        re[:LANES] = 1
        for kind, stride, other, angle, by_feature in gates:
            if kind == _CX:
                _swap(re, stride * LANES, other * LANES)
                _swap(im, stride * LANES, other * LANES)
            elif by_feature:
                cosine, sine = own[0, block, angle], own[1, block, angle]
                if kind == _RY:
                    _turn_each(re, stride, cosine, sine)
                    _turn_each(im, stride, cosine, sine)
                else:
                    _phase_each(re, im, stride, cosine, sine)
            elif kind == _RY:
                _turn(re, stride * LANES, common[0, angle], common[1, angle])
                _turn(im, stride * LANES, common[0, angle], common[1, angle])
            else:
                _phase(re, im, stride * LANES, common[0, angle], common[1, angle])
        values[block] = 0
        for row in range(len(signs)):
            for lane in range(LANES):
                place = row * LANES + lane
                chance = re[place] * re[place] + im[place] * im[place]
                for observable in range(signs.shape[1]):
                    values[block, lane, observable] += signs[row, observable] * chance


@_compiled
def _backward(
    gates: np.ndarray,
    common: np.ndarray,
    own: np.ndarray,
    signs: np.ndarray,
    state: np.ndarray,
    weighed: np.ndarray,
    common_slopes: np.ndarray,
    own_slopes: np.ndarray,
    first: int,
    last: int,
) -> None:
    adjoint = np.empty_like(state[0])
    bre, bim = adjoint[0], adjoint[1]
    for block in range(first, last):
        re, im = state[block, 0], state[block, 1]
        _weigh(signs, weighed[block], re, im, bre, bim)
        for back in range(len(gates)):
            kind, stride, other, angle, by_feature = gates[len(gates) - 1 - back]
            if kind == _CX:
                for part in (re, im, bre, bim):
                    _swap(part, stride * LANES, other * LANES)
            elif by_feature:
                cosine, sine, slope = own[0, block, angle], own[1, block, angle], own_slopes[block, angle]
                if kind == _RY:
                    _turn_slope_each(re, bre, stride, cosine, sine, slope)
                    _turn_slope_each(im, bim, stride, cosine, sine, slope)
                else:
                    _phase_slope_each(re, im, bre, bim, stride, cosine, sine, slope)
            elif kind == _RY:
                slope = _turn_slope(re, bre, stride * LANES, common[0, angle], common[1, angle])
                slope += _turn_slope(im, bim, stride * LANES, common[0, angle], common[1, angle])
                common_slopes[block, angle] += slope
            else:
                slope = _phase_slope(re, im, bre, bim, stride * LANES, common[0, angle], common[1, angle])
                common_slopes[block, angle] += slope


@_compiled
def _weigh(
    signs: np.ndarray, weighed: np.ndarray, re: np.ndarray, im: np.ndarray, bre: np.ndarray, bim: np.ndarray
) -> None:
    """Begin with the adjoint: the weighed sum of the observables, applied to the state."""
    for row in range(len(signs)):
        for lane in range(LANES):
            place, weight = row * LANES + lane, re[0] * 0
            for observable in range(signs.shape[1]):
                weight += signs[row, observable] * weighed[observable, lane]
            bre[place], bim[place] = weight * re[place], weight * im[place]


@_compiled
def _swap(part: np.ndarray, control: int, target: int) -> None:
    low, high = min(control, target), max(control, target)
    for outer in range(0, len(part), 2 * high):
        for middle in range(outer, outer + high, 2 * low):
            for place in range(middle + control, middle + control + low):
                part[place], part[place + target] = part[place + target], part[place]


# Where all samples turn alike, a pass is one long row of numbers: `stride` counts numbers here, and not rows of lanes.


@_compiled
def _turn(part: np.ndarray, stride: int, c: float, s: float) -> None:
    for outer in range(0, len(part), 2 * stride):
        zeros, ones = part[outer : outer + stride], part[outer + stride : outer + 2 * stride]
        for place in range(stride):
            zero, one = zeros[place], ones[place]
            zeros[place], ones[place] = c * zero - s * one, s * zero + c * one


@_compiled
def _phase(re: np.ndarray, im: np.ndarray, stride: int, c: float, s: float) -> None:
    for outer in range(0, len(re), 2 * stride):
        for place in range(outer, outer + stride):
            x, y = re[place], im[place]
            re[place], im[place] = c * x + s * y, c * y - s * x
        for place in range(outer + stride, outer + 2 * stride):
            x, y = re[place], im[place]
            re[place], im[place] = c * x - s * y, c * y + s * x


@_compiled
def _turn_slope(part: np.ndarray, adjoint: np.ndarray, stride: int, c: float, s: float) -> float:
    """Return a part's share of the slope by an RY's angle, and undo it in the state and its adjoint, in one pass."""
    slope = part[0] * 0
    for outer in range(0, len(part), 2 * stride):
        zeros, ones = part[outer : outer + stride], part[outer + stride : outer + 2 * stride]
        bzeros, bones = adjoint[outer : outer + stride], adjoint[outer + stride : outer + 2 * stride]
        for place in range(stride):
            zero, one, bzero, bone = zeros[place], ones[place], bzeros[place], bones[place]
            slope += bone * zero - bzero * one
            zeros[place], ones[place] = c * zero + s * one, c * one - s * zero
            bzeros[place], bones[place] = c * bzero + s * bone, c * bone - s * bzero
    return slope


@_compiled
def _phase_slope(
    re: np.ndarray, im: np.ndarray, bre: np.ndarray, bim: np.ndarray, stride: int, c: float, s: float
) -> float:
    """The same for an RZ."""
    slope = re[0] * 0
    for outer in range(0, len(re), 2 * stride):
        for place in range(outer, outer + stride):
            x, y, bx, by = re[place], im[place], bre[place], bim[place]
            slope += bx * y - by * x
            re[place], im[place] = c * x - s * y, c * y + s * x
            bre[place], bim[place] = c * bx - s * by, c * by + s * bx
        for place in range(outer + stride, outer + 2 * stride):
            x, y, bx, by = re[place], im[place], bre[place], bim[place]
            slope -= bx * y - by * x
            re[place], im[place] = c * x + s * y, c * y - s * x
            bre[place], bim[place] = c * bx + s * by, c * by - s * bx
    return slope


# Where each sample has an angle of its own, numbers are turned lane by lane: `stride` counts rows of lanes.


@_compiled
def _turn_each(part: np.ndarray, stride: int, cosine: np.ndarray, sine: np.ndarray) -> None:
    for outer in range(0, len(part) // LANES, 2 * stride):
        for row in range(outer, outer + stride):
            for lane in range(LANES):
                first, second = row * LANES + lane, (row + stride) * LANES + lane
                zero, one = part[first], part[second]
                part[first] = cosine[lane] * zero - sine[lane] * one
                part[second] = sine[lane] * zero + cosine[lane] * one


@_compiled
def _phase_each(re: np.ndarray, im: np.ndarray, stride: int, cosine: np.ndarray, sine: np.ndarray) -> None:
    for outer in range(0, len(re) // LANES, 2 * stride):
        for row in range(outer, outer + 2 * stride):
            turn = 1 if row < outer + stride else -1
            for lane in range(LANES):
                place, c, s = row * LANES + lane, cosine[lane], turn * sine[lane]
                x, y = re[place], im[place]
                re[place], im[place] = c * x + s * y, c * y - s * x


@_compiled
def _turn_slope_each(
    part: np.ndarray, adjoint: np.ndarray, stride: int, cosine: np.ndarray, sine: np.ndarray, slope: np.ndarray
) -> None:
    for outer in range(0, len(part) // LANES, 2 * stride):
        for row in range(outer, outer + stride):
            for lane in range(LANES):
                first, second, c, s = row * LANES + lane, (row + stride) * LANES + lane, cosine[lane], sine[lane]
                zero, one, bzero, bone = part[first], part[second], adjoint[first], adjoint[second]
                slope[lane] += bone * zero - bzero * one
                part[first], part[second] = c * zero + s * one, c * one - s * zero
                adjoint[first], adjoint[second] = c * bzero + s * bone, c * bone - s * bzero


@_compiled
def _phase_slope_each(
    re: np.ndarray,
    im: np.ndarray,
    bre: np.ndarray,
    bim: np.ndarray,
    stride: int,
    cosine: np.ndarray,
    sine: np.ndarray,
    slope: np.ndarray,
) -> None:
    for outer in range(0, len(re) // LANES, 2 * stride):
        for row in range(outer, outer + 2 * stride):
            turn = 1 if row < outer + stride else -1
            for lane in range(LANES):
                place, c, s = row * LANES + lane, cosine[lane], turn * sine[lane]
                x, y, bx, by = re[place], im[place], bre[place], bim[place]
                slope[lane] += turn * (bx * y - by * x)
                re[place], im[place] = c * x - s * y, c * y + s * x
                bre[place], bim[place] = c * bx - s * by, c * by + s * bx
