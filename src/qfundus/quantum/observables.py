"""Observables moved towards the beginning of a circuit, so that less of the circuit is left to simulate.

In the Heisenberg picture the gates at a circuit's end act on the observables. CX turn one string of Paulis into another
one; RZ leave Z alone; an RY turns one string into two, weighed by a cosine and a sine.
"""

from dataclasses import dataclass, replace
from itertools import product

from qfundus.quantum.gates import Gate, Gates

I, X, Y, Z = range(4)  # noqa: E741  (the field's names)
_MOST_TERMS = 8  # strings for each observable; where there would be more, rotations stay in the circuit

Observable = tuple[int, ...]  # the qubits on which Z is measured, multiplied


@dataclass(frozen=True)
class Term:
    """`sign` times a string of Paulis, by qubit, times the cosines and sines of some rotations' angles."""

    observable: int
    paulis: bytes
    sign: int = 1
    cosines: tuple[Gate, ...] = ()
    sines: tuple[Gate, ...] = ()


def pull_back(circuit: Gates, observables: tuple[Observable, ...]) -> tuple[list[Gate], list[Term]]:
    """Move observables before the CX and RZ at a circuit's end, and before one RY of each qubit where that stays cheap.

    Returns:
        The gates that are left, and the terms whose expectation values after them add up to each observable's.
    """
    gates, terms = _pull_back(circuit, observables, rotations=True)
    if len(terms) > _MOST_TERMS * len(observables):
        gates, terms = _pull_back(circuit, observables, rotations=False)
    return gates, terms


def _pull_back(
    circuit: Gates, observables: tuple[Observable, ...], *, rotations: bool
) -> tuple[list[Gate], list[Term]]:
    terms = [
        Term(number, bytes(Z if qubit in observable else I for qubit in range(circuit.n_qubits)))
        for number, observable in enumerate(observables)
    ]
    left: list[Gate] = []
    stopped, rotated = set[int](), set[int]()
    for gate in reversed(circuit.gates):
        first = gate.qubits[0]
        if stopped.isdisjoint(gate.qubits):
            if gate.kind == "cx":
                terms = [_before_cx(term, *gate.qubits) for term in terms]
                continue
            if gate.kind == "rz" and all(term.paulis[first] in (I, Z) for term in terms):
                continue
            if gate.kind == "ry" and rotations and first not in rotated:
                rotated.add(first)
                terms = [new for term in terms for new in _before_ry(term, gate)]
                if len(terms) > _MOST_TERMS * len(observables):
                    return left, terms
                continue
        stopped.update(gate.qubits)
        left.append(gate)
    return left[::-1], terms


def _before_cx(term: Term, control: int, target: int) -> Term:
    """Source: Aaronson and Gottesman, Phys. Rev. A 70, 052328 (2004), for the sign."""
    (x_c, z_c), (x_t, z_t) = (_BITS[term.paulis[qubit]] for qubit in (control, target))
    paulis = bytearray(term.paulis)
    paulis[control], paulis[target] = _PAULI[x_c, z_c ^ z_t], _PAULI[x_t ^ x_c, z_t]
    return replace(term, paulis=bytes(paulis), sign=-term.sign if x_c and z_t and x_t == z_c else term.sign)


_PAULI = {(0, 0): I, (1, 0): X, (1, 1): Y, (0, 1): Z}
_BITS = {pauli: bits for bits, pauli in _PAULI.items()}


def _before_ry(term: Term, gate: Gate) -> list[Term]:
    (qubit,) = gate.qubits
    pauli = term.paulis[qubit]
    if pauli in (I, Y):
        return [term]
    other, sign = (X, -term.sign) if pauli == Z else (Z, term.sign)
    turned = bytearray(term.paulis)
    turned[qubit] = other
    return [
        replace(term, cosines=(*term.cosines, gate)),
        replace(term, paulis=bytes(turned), sign=sign, sines=(*term.sines, gate)),
    ]


def cx_in_paulis() -> dict[tuple[int, int], tuple[int, int, int]]:
    """Return what CX makes of each pair of Paulis of a state (control, target), and the sign."""
    made: dict[tuple[int, int], tuple[int, int, int]] = {}
    for control, target in product(range(4), repeat=2):
        term = _before_cx(Term(0, bytes((control, target))), 0, 1)
        made[control, target] = term.paulis[0], term.paulis[1], term.sign
    return made
