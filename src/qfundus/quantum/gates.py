"""A circuit taken down to three gates - RY, RZ and CX - whose angles are polynomials of the features and weights."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter, ParameterExpression
from sympy import Poly
from sympy.polys.polyerrors import PolynomialError
from torch import nn

_BASIS = ["ry", "rz", "p", "cx", "h", "rx", "x", "z"]
_HALF_TURN, _QUARTER_TURN = np.pi, np.pi / 2
_UNITLESS = {"barrier", "measure", "id", "delay"}

Kind = Literal["ry", "rz", "cx"]
Polynomial = dict[tuple[int, ...], float]  # coefficients by the parameters multiplied; () for the constant


@dataclass(frozen=True)
class Gate:
    """One gate; a rotation's `angle` counts the rotations of its sort: those by a feature, and all others."""

    kind: Kind
    qubits: tuple[int, ...]
    angle: int = -1
    by_feature: bool = False


@dataclass(frozen=True)
class Gates:
    """A circuit as gates, in order, and the polynomials of their angles.

    Parameters are counted features first, then weights.
    """

    n_qubits: int
    n_features: int
    n_weights: int
    gates: tuple[Gate, ...]
    shared: tuple[Polynomial, ...]
    by_feature: tuple[Polynomial, ...]


def lower(circuit: QuantumCircuit, *, all_features: bool = False) -> Gates:
    """Take a circuit down to RY, RZ and CX; global phases are dropped. With `all_features` it has no weights.

    Raises:
        ValueError: for a gate that is none of unitary one- and two-qubit gates, a qubit that is used after it was
            measured, or an angle that is not a polynomial.
    """
    if not circuit.num_qubits:
        raise ValueError("The circuit has no qubit.")
    features, weights = (list(circuit.parameters), []) if all_features else split_parameters(circuit)
    places = {parameter: place for place, parameter in enumerate((*features, *weights))}
    basic = transpile(_without_measurements(circuit), basis_gates=_BASIS, optimization_level=0)
    gates: list[Gate] = []
    angles: dict[bool, list[Polynomial]] = {False: [], True: []}
    for kind, qubits, angle in _basic_gates(basic):
        if kind == "cx":
            gates.append(Gate(kind, qubits))
            continue
        polynomial = _to_polynomial(angle, places)
        by_feature = any(place < len(features) for term in polynomial for place in term)
        gates.append(Gate(kind, qubits, len(angles[by_feature]), by_feature))
        angles[by_feature].append(polynomial)
    # Angles that are the parameters themselves are then the parameters as they come, and need not be gathered.
    order = {sort: sorted(range(len(uses)), key=lambda n: sorted(uses[n])) for sort, uses in angles.items()}
    ranks = {sort: np.argsort(places).tolist() for sort, places in order.items()}
    return Gates(
        circuit.num_qubits,
        len(features),
        len(weights),
        tuple(gate if gate.kind == "cx" else replace(gate, angle=ranks[gate.by_feature][gate.angle]) for gate in gates),
        *(tuple(angles[sort][n] for n in order[sort]) for sort in (False, True)),
    )


def split_parameters(circuit: QuantumCircuit) -> tuple[list[Any], list[Any]]:
    """Return a circuit's features, the parameters of the vector `x`, and its weights, all others."""
    features: list[Any] = []
    weights: list[Any] = []
    for parameter in circuit.parameters:
        vector: Any = getattr(parameter, "vector", None)
        (features if vector is not None and vector.name == "x" else weights).append(parameter)
    return features, weights


def _without_measurements(circuit: QuantumCircuit) -> QuantumCircuit:
    bare, measured = circuit.copy_empty_like(), set[Any]()
    for instruction in circuit.data:
        if instruction.operation.name != "barrier" and not measured.isdisjoint(instruction.qubits):
            raise ValueError("A qubit is used after it was measured: measure only at the end of a circuit.")
        if instruction.operation.name == "measure":
            measured.update(instruction.qubits)
        if instruction.operation.name not in _UNITLESS:
            bare.append(instruction)
    return bare


def _basic_gates(circuit: QuantumCircuit) -> Iterator[tuple[Kind, tuple[int, ...], Any]]:
    """Yield RY, RZ and CX, whose product is the circuit up to a global phase."""
    for instruction in circuit.data:
        qubits = tuple(circuit.find_bit(qubit).index for qubit in instruction.qubits)
        angle = instruction.operation.params[0] if instruction.operation.params else None
        match instruction.operation.name:
            case "cx":
                yield "cx", qubits, None
            case "ry":
                yield "ry", qubits, angle
            case "rz" | "p":
                yield "rz", qubits, angle
            case "z":
                yield "rz", qubits, _HALF_TURN
            case "h":
                yield "rz", qubits, _HALF_TURN
                yield "ry", qubits, _QUARTER_TURN
            case "x":
                yield "rz", qubits, _HALF_TURN
                yield "ry", qubits, _HALF_TURN
            case "rx":
                yield "rz", qubits, _QUARTER_TURN
                yield "ry", qubits, angle
                yield "rz", qubits, -_QUARTER_TURN
            case name:
                raise ValueError(f"The exact engine does not know the gate {name}: use unitary gates alone.")


def _to_polynomial(angle: Any, places: dict[Any, int]) -> Polynomial:
    if isinstance(angle, Parameter):
        return {(places[angle],): 1.0}
    if not isinstance(angle, ParameterExpression) or not angle.parameters:
        return {(): float(angle)}
    expression: Any = angle.sympify()
    if not expression.free_symbols:  # x - x
        return {(): float(expression)}
    by_name = {parameter.name: parameter for parameter in angle.parameters}
    symbols = sorted(expression.free_symbols, key=str)
    try:
        terms = Poly(expression, *symbols).terms()
    except PolynomialError:
        raise ValueError(
            f"The angle {angle} is not a polynomial of the parameters, as the exact engine requires."
        ) from None
    polynomial: Polynomial = {}
    for powers, coefficient in terms:
        term = [places[by_name[str(s)]] for s, power in zip(symbols, powers, strict=True) for _ in range(power)]
        polynomial[tuple(sorted(term))] = float(coefficient)
    return polynomial


class Angles(nn.Module):
    """The angles of one sort of rotations: polynomials of the features and weights, all evaluated at once."""

    factors: torch.Tensor
    coefficients: torch.Tensor
    owners: torch.Tensor

    def __init__(self, polynomials: tuple[Polynomial, ...], *, n_features: int, by_feature: bool) -> None:
        super().__init__()
        terms = [(owner, places, value) for owner, terms in enumerate(polynomials) for places, value in terms.items()]
        degree = max((len(places) for _, places, _ in terms), default=1) or 1
        self.count = len(polynomials)
        self.by_feature = by_feature
        used = {place for _, places, _ in terms for place in places}
        self._features, self._weights = by_feature, not by_feature or max(used, default=0) >= n_features
        first = 0 if self._features else n_features
        # Place 0 holds the number 1, with which a term of a lower degree is filled up.
        padded = [[place - first + 1 for place in places] + [0] * (degree - len(places)) for _, places, _ in terms]
        self._plain = len(terms) == self.count and all(len(p) == 1 and value == 1.0 for _, p, value in terms)
        self._in_order = self._plain and [place for _, [place], _ in terms] == list(range(first, first + self.count))
        self.register_buffer("factors", torch.tensor(padded, dtype=torch.int64).reshape(-1, degree), persistent=False)
        values = torch.tensor([value for *_, value in terms], dtype=torch.float64)
        self.register_buffer("coefficients", values, persistent=False)
        owners = torch.tensor([owner for owner, *_ in terms], dtype=torch.int64)
        self.register_buffer("owners", owners, persistent=False)

    def forward(self, features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return angles `(batch, angles)` of features `(batch, features)` and weights `(weights,)`.

        Those by weights alone are `(angles,)`.
        """
        if not self._features:
            parameters = weights
        elif not self._weights:
            parameters = features
        else:
            parameters = torch.cat((features, weights.expand(len(features), -1)), dim=1)
        if self._in_order and parameters.shape[-1] == self.count:
            return parameters
        if self._plain:
            return parameters.index_select(-1, self.factors[:, 0] - 1)
        padded = nn.functional.pad(parameters, (1, 0), value=1.0)
        chosen = padded.index_select(-1, self.factors.flatten()).unflatten(-1, self.factors.shape)
        terms = self.coefficients.to(parameters.dtype) * chosen.prod(dim=-1)
        return terms.new_zeros((*terms.shape[:-1], self.count)).index_add(-1, self.owners, terms)


class AngleSums(nn.Module):
    """The sum of the angles of the gates in each place."""

    shared: torch.Tensor
    by_feature: torch.Tensor

    def __init__(self, places: list[list[Gate]]) -> None:
        super().__init__()
        for name in ("shared", "by_feature"):
            chosen = [[g.angle for g in gates if g.by_feature == (name == "by_feature")] for gates in places]
            most = max((len(angles) for angles in chosen), default=0)
            # Place 0 holds an angle of zero.
            table = [[angle + 1 for angle in angles] + [0] * (most - len(angles)) for angles in chosen]
            indices = torch.tensor(table, dtype=torch.int64).reshape(len(places), most)
            self.register_buffer(name, indices, persistent=False)

    def forward(self, shared: torch.Tensor, by_feature: torch.Tensor) -> torch.Tensor:
        """Return `(batch, places)`; `(1, places)` where no feature is in them."""
        if not self.by_feature.shape[1]:
            return _gathered(shared.unsqueeze(0), self.shared)
        own = _gathered(by_feature, self.by_feature)
        return own + _gathered(shared.unsqueeze(0), self.shared) if self.shared.shape[1] else own


def _gathered(angles: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    if not table.shape[1]:
        return angles.new_zeros((angles.shape[0], table.shape[0]))
    padded = nn.functional.pad(angles, (1, 0))
    chosen = padded.index_select(1, table.flatten())
    return chosen if table.shape[1] == 1 else chosen.unflatten(1, table.shape).sum(dim=2)
