"""The exact engine on state vectors: batched, in real matrix products, with an adjoint backward pass.

A circuit of RY, RZ and CX is a row of slices. In each, first RZ and CX: together they turn phases and permute the
basis states, so they cost one multiplication and one gather however many they are. Then RY, which are real: those on
neighbouring qubits are one small real matrix product. A slice before the first RY leaves |0...0> alone, and one after
the last RY moves into the observables.

A state is `(2**qubits, batch, 2)`, real and imaginary part last: a gather moves whole rows, and a real matrix does
not mind how many columns it has. Qubit 0 is the most significant bit of a basis state.

The backward pass undoes the circuit gate by gate (Jones and Gacon, arXiv:2009.02823), here for a whole batch and for
any vector-Jacobian product in one pass; it keeps the last state alone, whatever the depth.
"""

from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Any, cast

import torch
from torch import nn

from qfundus.quantum.angles import AngleSums
from qfundus.quantum.gates import Gates
from qfundus.quantum.observables import Observable
from qfundus.quantum.once_differentiable import refuse_double_backward
from qfundus.quantum.state_vector_passes import (
    Factors,
    Parities,
    Permutation,
    Phases,
    gather_both,
    kron_ry,
    product_state,
    rotate,
    rotate_each,
    rotate_each_gradient,
    rotate_gradient,
    turn,
)
from qfundus.quantum.state_vector_program import Permute, Program, Rotate, RotateEach, Turn, basis_bits, slice_circuit


class StateVector(nn.Module):
    """A circuit compiled for state vectors: from its angles to its observables' expectation values."""

    def __init__(self, circuit: Gates, observables: tuple[Observable, ...]) -> None:
        super().__init__()
        n = self.n_qubits = circuit.n_qubits
        slices = slice_circuit(circuit)
        begin, last = slices[0], slices[-1]
        rows = basis_bits(n) if last.rotations else last.rows
        self.observed = Parities([reduce(xor, (rows[k] for k in qubits), 0) for qubits in observables], n)
        if not last.rotations and len(slices) > 1:
            slices.pop()
        program = Program(n, slices[1:])
        self.steps = program.steps
        self.window = program.window
        self.encoding = AngleSums([begin.rotations.get(qubit, []) for qubit in range(n)])
        self.rotations = AngleSums(program.windows)
        self.own_rotations = AngleSums(program.own)
        self.phases = nn.ModuleList(Phases(masks, turns, n) for (masks, _), turns in program.phases.items())
        self.permutations = nn.ModuleList(Permutation(rows) for rows in program.permutations)

    def forward(self, shared: torch.Tensor, by_feature: torch.Tensor) -> torch.Tensor:
        """Return expectation values `(batch, observables)`.

        `shared` `(angles,)` are the angles by weights alone, `by_feature` `(batch, angles)` all others; radians.
        """
        state = product_state(self.encoding(shared, by_feature)).expand(-1, by_feature.shape[0])
        matrices = kron_ry(self.rotations(shared, by_feature).reshape(-1, self.window))
        own = self.own_rotations(shared, by_feature)
        angles = [group.angles(shared, by_feature) for group in self.groups]
        if torch.compiler.is_exporting():
            return self.observed.expectations(self.run(state, matrices, own, self.factors(angles)))
        return _Adjoint.apply(self, state, matrices, own, *angles)  # pyright: ignore[reportReturnType]

    def factors(self, angles: Any) -> "list[Factors]":
        """Return the phase factors of each group."""
        return [Factors(group, rows) for group, rows in zip(self.groups, angles, strict=True)]

    @property
    def groups(self) -> list["Phases"]:
        """The runs of RZ, by parities."""
        return cast(list["Phases"], list(self.phases))

    @property
    def _gathers(self) -> list["Permutation"]:
        return cast(list["Permutation"], list(self.permutations))

    def run(self, state: torch.Tensor, matrices: torch.Tensor, own: torch.Tensor, factors: Any) -> torch.Tensor:
        """Apply the circuit to a real state `(2**qubits, batch)`; return `(2**qubits, batch, 2)`."""
        state = torch.stack((state, torch.zeros_like(state)), dim=2)
        # Two buffers take turns: a new one for each step would cost as much as the step, in pages.
        spare = None if torch.compiler.is_exporting() else torch.empty_like(state)
        gathers = self._gathers
        for step in self.steps:
            match step:
                case Permute():
                    new = torch.index_select(state, 0, gathers[step.place].before, out=spare)
                case Turn():
                    new = turn(state, factors[step.group].of(step.place), spare)
                case Rotate():
                    new = rotate(state, step.first, matrices[step.place], spare)
                case RotateEach():
                    new = rotate_each(state, step.qubit, own[:, step.place])
            state, spare = new, None if spare is None else state
        return state

    def undo(self, pair: torch.Tensor, matrices: torch.Tensor, own: torch.Tensor, factors: Any) -> "_Gradients":
        """Lead a state and its adjoint, `(2, 2**qubits, batch, 2)`, back to the circuit's beginning."""
        gradients, spare = _Gradients(matrices, own, [[] for _ in factors]), torch.empty_like(pair)
        groups, gathers = self.groups, self._gathers
        for step in reversed(self.steps):
            match step:
                case Permute():
                    pair, spare = gather_both(pair, gathers[step.place].after, spare), pair
                case Turn():
                    gradients.phases[step.group].append(groups[step.group].gradient(pair))
                    pair, spare = turn(pair, factors[step.group].of(step.place).conj(), spare), pair
                case Rotate():
                    pair, spare = rotate(pair, step.first, matrices[step.place].T, spare), pair
                    gradients.matrices[step.place] = rotate_gradient(pair[0], spare[1], step.first, matrices.shape[1])
                case RotateEach():
                    gradients.own[:, step.place] = rotate_each_gradient(pair, step.qubit)
                    pair = rotate_each(pair, step.qubit, -own[:, step.place])
        gradients.state = pair[1, ..., 0]
        return gradients


@dataclass
class _Gradients:
    """What the backward pass finds; of phases one row a step, the last step's first."""

    matrices: torch.Tensor
    own: torch.Tensor
    phases: list[list[torch.Tensor]]
    state: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.matrices, self.own = torch.empty_like(self.matrices), torch.empty_like(self.own)


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, engine: StateVector, state: torch.Tensor, *settings: torch.Tensor) -> torch.Tensor:
        matrices, own, *angles = settings
        factors = engine.factors(angles)
        final = engine.run(state, matrices, own, factors)
        ctx.engine, ctx.factors = engine, factors
        ctx.save_for_backward(final, matrices, own)
        return engine.observed.expectations(final)

    @staticmethod
    @refuse_double_backward
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        engine: StateVector = ctx.engine
        final, matrices, own = ctx.saved_tensors
        pair = torch.empty((2, *final.shape), dtype=final.dtype, device=final.device)
        pair[0] = final
        torch.mul(final, 2 * engine.observed.weigh(upstream[0]).unsqueeze(2), out=pair[1])
        del final
        gradients = engine.undo(pair, matrices, own, ctx.factors)
        phases = [group.sums(rows) for group, rows in zip(engine.groups, gradients.phases, strict=True)]
        return (None, gradients.state, gradients.matrices, gradients.own, *phases)
