"""A circuit's expectation values by a library for general tensor networks: a peer of the exact engine, and its oracle.

The library sees one network for each observable, bra and ket of all gates, and finds the order of contraction itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import torch
from qiskit import QuantumCircuit

from qfundus.quantum.gates import split_parameters

LIBRARIES = ("cotengra", "opt_einsum")
_BATCH = 0  # the index of the samples
_KEEP, _SIGN = torch.eye(2), torch.diag(torch.tensor([1.0, -1.0]))
_XOR = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])


@dataclass
class _Network:
    """Tensors by their indices. A CX's control and an RZ leave an index as it is: several tensors share it."""

    indices: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    makers: list[Callable[[Any], torch.Tensor]] = field(default_factory=list[Callable[[Any], torch.Tensor]])

    def add(self, indices: tuple[int, ...], make: Callable[[Any], torch.Tensor]) -> None:
        self.indices.append(indices)
        self.makers.append(make)


def contraction(circuit: QuantumCircuit, batch: int, library: str) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    """Find how a circuit of RY by features or weights, RZ by weights and CX is contracted.

    Returns what takes features `(batch, features)` and weights `(weights,)` to the values `(batch, qubits)` of Z.
    """
    networks = [_sandwich(circuit, qubit) for qubit in range(circuit.num_qubits)]
    expressions = [_expression(network, batch, library) for network in networks]

    def values(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        kind = torch.complex128 if features.dtype == torch.float64 else torch.complex64
        found: list[torch.Tensor] = []
        for network, expression in zip(networks, expressions, strict=True):
            arrays = [make((features, weights)).to(kind) for make in network.makers]
            found.append(expression(*arrays).real)
        return torch.stack(found, dim=1)

    return values


def _sandwich(circuit: QuantumCircuit, observed: int) -> _Network:
    named_features, named_weights = split_parameters(circuit)
    places = {parameter: (0, number) for number, parameter in enumerate(named_features)}
    places |= {parameter: (1, number) for number, parameter in enumerate(named_weights)}
    network, new = _Network(), count(1)
    ends = [_half(network, circuit, places, new, conjugate=side) for side in (False, True)]
    for qubit, (ket, bra) in enumerate(zip(*ends, strict=True)):
        network.add((ket, bra), lambda _, matrix=_SIGN if qubit == observed else _KEEP: matrix)
    return network


def _half(network: _Network, circuit: QuantumCircuit, places: Any, new: Any, *, conjugate: bool) -> list[int]:
    """Add the gates of the ket, or of the bra; return the index that each qubit ends with."""
    at = [next(new) for _ in range(circuit.num_qubits)]
    for index in at:
        network.add((index,), lambda _: torch.tensor([1.0, 0.0]))
    for gate in circuit.data:
        qubits, name = [circuit.find_bit(qubit).index for qubit in gate.qubits], gate.operation.name
        before = at[qubits[-1]]
        if name == "rz":
            half = -0.5 if conjugate else 0.5
            network.add((before,), _by_parameter(places[gate.operation.params[0]], partial(_phases, half=half)))
            continue
        at[qubits[-1]] = next(new)
        if name == "cx":
            network.add((at[qubits[0]], before, at[qubits[1]]), lambda _: _XOR)
        else:
            side, _ = place = places[gate.operation.params[0]]
            indices = (before, at[qubits[-1]])
            network.add(indices if side else (_BATCH, *indices), _by_parameter(place, _turn))
    return at


def _by_parameter(place: tuple[int, int], make: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    side, number = place
    return lambda given: make(given[side][..., number])


def _turn(angle: torch.Tensor) -> torch.Tensor:
    cosine, sine = (angle / 2).cos(), (angle / 2).sin()
    return torch.stack((cosine, sine, -sine, cosine), dim=-1).unflatten(-1, (2, 2))


def _phases(angle: torch.Tensor, half: float) -> torch.Tensor:
    turned = half * torch.stack((-angle, angle))
    return torch.polar(torch.ones_like(turned), turned)


def _expression(network: _Network, batch: int, library: str) -> Any:
    sizes = dict.fromkeys((index for indices in network.indices for index in indices), 2) | {_BATCH: batch}
    if library == "cotengra":
        import cotengra

        return cotengra.array_contract_expression(network.indices, (_BATCH,), sizes, optimize="auto")
    import opt_einsum

    symbols = [[opt_einsum.get_symbol(index) for index in indices] for indices in network.indices]
    equation = ",".join("".join(one) for one in symbols) + f"->{opt_einsum.get_symbol(_BATCH)}"
    shapes = [tuple(sizes[index] for index in indices) for indices in network.indices]
    return opt_einsum.contract_expression(equation, *shapes, optimize="auto")
