"""What is asked of a quantum backend, named by its content."""

import hashlib
import io
import json
from dataclasses import dataclass

import numpy as np
from qiskit import QuantumCircuit, qpy
from qiskit.quantum_info import PauliList, SparsePauliOp

from qfundus.quantum.transpile import content_of

Terms = tuple[tuple[str, float], ...]  # an observable: Pauli strings and their coefficients


@dataclass(frozen=True, eq=False)
class Work:
    """Expectation values of `observables` for each of the `parameters` `(sets, parameters)`, to a `precision`.

    A set's numbers are in the order of `circuit.parameters`.
    """

    circuit: QuantumCircuit
    observables: tuple[Terms, ...]
    parameters: np.ndarray
    precision: float

    def __post_init__(self) -> None:
        wanted, given = len(self.circuit.parameters), self.parameters.shape
        if len(given) != 2 or given[1] != wanted:
            raise ValueError(f"The circuit has {wanted} parameters: give (sets, {wanted}) numbers, not {given}.")
        if not self.observables or not all(self.observables):
            raise ValueError("No observable to estimate: give at least one.")
        for label in self._labels:
            if len(label) != self.circuit.num_qubits or not set(label) <= set("IXYZ"):
                raise ValueError(f"{label} is not a Pauli string of the circuit's {self.circuit.num_qubits} qubits.")
        if not len(self.parameters):
            raise ValueError("No parameter set given: give at least one.")
        if not np.isfinite(self.parameters).all():
            raise ValueError("A parameter is not a finite number.")
        if not 0 < self.precision < 1:
            raise ValueError(f"The precision is a standard deviation between 0 and 1, not {self.precision}.")

    @property
    def circuits(self) -> int:
        """How many bound circuits are to run: each parameter set in each basis that the observables need."""
        return len(self.parameters) * len(PauliList(self._labels).group_commuting(qubit_wise=True))

    @property
    def _labels(self) -> list[str]:
        return sorted({label for terms in self.observables for label, _ in terms})

    @property
    def shots(self) -> int:
        """How many shots that takes in all."""
        return self.circuits * int(np.ceil(self.precision**-2))

    def content(self) -> str:
        """Name the work by everything that decides its result but the machine."""
        content = (content_of(self.circuit), self.observables, self.precision, self.parameters.shape)
        whole = repr(content).encode() + np.ascontiguousarray(self.parameters, np.float64).tobytes()
        return hashlib.sha256(whole).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialise the work, its circuit as QPY."""
        circuit, packed = io.BytesIO(), io.BytesIO()
        qpy.dump(self.circuit, circuit)
        np.savez_compressed(
            packed,
            circuit=np.frombuffer(circuit.getvalue(), np.uint8),
            parameters=np.asarray(self.parameters, np.float64),
            # Observables and precision, under the key that jobs stored by release 0.1 have.
            said=np.frombuffer(json.dumps([self.observables, self.precision]).encode(), np.uint8),
        )
        return packed.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Work":
        """Read what `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as packed:
            [circuit] = qpy.load(io.BytesIO(packed["circuit"].tobytes()))
            observables, precision = json.loads(packed["said"].tobytes())
            terms = tuple(tuple((str(label), float(value)) for label, value in one) for one in observables)
            return cls(circuit, terms, packed["parameters"], precision)


@dataclass(frozen=True, eq=False)
class Estimates:
    """What a backend found: expectation values `(sets, observables)`, and the standard deviation of each."""

    values: np.ndarray
    deviations: np.ndarray

    def to_bytes(self) -> bytes:
        """Write the estimates."""
        packed = io.BytesIO()
        np.savez_compressed(packed, values=self.values, deviations=self.deviations)
        return packed.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Estimates":
        """Read what `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as packed:
            return cls(packed["values"], packed["deviations"])


def terms_of(observable: SparsePauliOp) -> Terms:
    """Return an observable as Pauli strings with real coefficients.

    Raises:
        ValueError: if a coefficient is not real: it could not be measured.
    """
    if np.abs(np.imag(observable.coeffs)).max(initial=0.0) > 0:
        raise ValueError("An observable's coefficients are real numbers.")
    return tuple((label, float(np.real(value))) for label, value in observable.to_list())


def operator_of(terms: Terms) -> SparsePauliOp:
    """Return the observable that `terms_of` took apart."""
    return SparsePauliOp.from_list(list(terms))
