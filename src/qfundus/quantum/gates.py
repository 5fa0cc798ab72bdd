"""A circuit taken down to three gates - RY, RZ and CX - whose angles are polynomials of the features and weights."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter, ParameterExpression
from sympy import Poly
from sympy.polys.polyerrors import PolynomialError

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
        ValueError: for a gate other than a unitary one- or two-qubit gate, a qubit that is used after it was
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
