"""Estimate expectation values with less of a machine's error, at the price of more circuits.

Readout errors are undone by matrix-free inversion (mthree; Nation et al., PRX Quantum 2, 040326, 2021), gate errors
extrapolated to none (mitiq; zero-noise extrapolation, Temme et al., Phys. Rev. Lett. 119, 180509, 2017), coherent ones
made random by Pauli twirling (Wallman and Emerson, Phys. Rev. A 94, 052325, 2016), and idle qubits echoed (Viola and
Lloyd, Phys. Rev. A 58, 2733, 1998).
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from mthree import M3Mitigation
from pydantic import BaseModel, ConfigDict, Field, field_validator
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.circuit import pauli_twirl_2q_gates
from qiskit.circuit.library import XGate
from qiskit.primitives import BaseEstimatorV2, BaseSamplerV2, DataBin, PrimitiveJob, PrimitiveResult, PubResult
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.transpiler import PassManager, Target
from qiskit.transpiler.passes import ALAPScheduleAnalysis, PadDynamicalDecoupling

from qfundus.quantum.primitive_inputs import broadcast_origins, observables_of, parameter_sets
from qfundus.quantum.transpile import compile_circuit

_PRECISION = 0.02
_SEED = 0
CALIBRATION_SHOTS = 20_000
_REGISTER = "meas"
Counts = dict[str, int]


class Mitigation(BaseModel):
    """What to do against which error; nothing unless asked for.

    `zne` lists by how much a circuit's noise is scaled: odd numbers, 1 among them. `twirls` is how many random variants
    share the shots. `decoupling` needs a machine whose target knows how long its gates take. `readout_hours` is for how
    long a calibration of the readout is believed: machines drift.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    readout: bool = False
    zne: tuple[int, ...] = (1,)
    extrapolation: Literal["linear", "richardson", "exponential"] = "richardson"
    twirls: int = Field(default=0, ge=0, le=1000)
    decoupling: bool = False
    readout_hours: float = Field(default=1.0, gt=0)

    @field_validator("zne")
    @classmethod
    def _odd(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        odd = all(scale % 2 and scale > 0 for scale in scales)
        if not odd or len(set(scales)) < len(scales) or scales[:1] != (1,):
            raise ValueError("`zne` must be distinct odd factors that start with 1, such as [1, 3, 5].")
        return scales


class MitigatedEstimator(BaseEstimatorV2):
    """An estimator over a backend's sampler, for observables that are sums of products of Z.

    It compiles by itself: give it circuits as they are.
    """

    def __init__(self, sampler: BaseSamplerV2, target: Target | None, mitigation: Mitigation) -> None:
        self._sampler, self._target, self._mitigation = sampler, target, mitigation
        self._readout: dict[tuple[int, ...], tuple[M3Mitigation, float]] = {}

    def run(self, pubs: Iterable[Any], *, precision: float | None = None) -> PrimitiveJob[Any]:
        """Estimate each pub; the standard deviations are at most what is stated: the worst case of the shots' noise."""
        coerced = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        job: Any = PrimitiveJob(self._run, coerced)
        job._submit()  # noqa: SLF001  (Qiskit's own estimators start their jobs so)
        return job

    def _run(self, pubs: Sequence[EstimatorPub]) -> PrimitiveResult[PubResult]:
        return PrimitiveResult([self._estimate(pub) for pub in pubs])

    def _estimate(self, pub: EstimatorPub) -> PubResult:
        shots = int(np.ceil((pub.precision or _PRECISION) ** -2))
        measured = _measured(pub.circuit)
        compiled = compile_circuit(measured, self._target).circuit
        scaled = [self._variants(fold(compiled, scale)) for scale in self._mitigation.zne]
        each = -(-shots // len(scaled[0]))
        values = _in_order(pub, compiled)
        asked: list[Any] = [(circuit, values) for variants in scaled for circuit in variants]
        results: Any = self._sampler.run(asked, shots=each).result()
        bits = [getattr(result.data, _REGISTER) for result in results]
        terms = _Terms.of(pub)
        estimates = np.empty((len(scaled), len(values), terms.number))
        for scale, first in enumerate(range(0, len(bits), len(scaled[0]))):
            for row in range(len(values)):
                counts = _merge([one.get_counts(row) for one in bits[first : first + len(scaled[0])]])
                estimates[scale, row] = terms.values(self._corrected(counts, compiled))
        sets, observables = broadcast_origins(pub)
        bounds = terms.bounds()
        estimated = np.clip(self._extrapolate(estimates), -bounds, bounds)[sets, observables]
        deviation = (shots**-0.5 * self._spread() * bounds)[observables]
        return PubResult(DataBin(evs=estimated, stds=deviation, shape=pub.shape), metadata={"shots": each * len(bits)})

    def _variants(self, circuit: QuantumCircuit) -> list[QuantumCircuit]:
        """Return the circuits that take a circuit's place: twirled, and idle qubits echoed."""
        target = self._target
        varied: Any = [circuit]
        if self._mitigation.twirls:
            varied = pauli_twirl_2q_gates(circuit, seed=_SEED, num_twirls=self._mitigation.twirls, target=target)
        return [echo(one, target) for one in varied] if self._mitigation.decoupling else list(varied)

    def _corrected(self, counts: Counts, compiled: QuantumCircuit) -> dict[str, float]:
        """Return probabilities, or quasi-probabilities once readout errors are undone."""
        if self._mitigation.readout:
            qubits, now = measured_qubits(compiled), time.monotonic()
            calibration, measured = self._readout.get(qubits, (None, 0.0))
            if calibration is None or now - measured > 3600 * self._mitigation.readout_hours:
                calibration = self._calibrate(qubits, compiled.num_qubits)
                self._readout[qubits] = calibration, now
            corrected: Any = calibration.apply_correction(counts, list(range(len(qubits))))
            return corrected
        shots = sum(counts.values())
        return {bits: number / shots for bits, number in counts.items()}

    def _calibrate(self, qubits: tuple[int, ...], width: int) -> M3Mitigation:
        """Measure how often each qubit is read wrongly, all at once: prepared as 0, then as 1."""
        prepared: list[QuantumCircuit] = []
        for one in (False, True):
            circuit = QuantumCircuit(width)
            circuit.add_register(ClassicalRegister(len(qubits), _REGISTER))
            for bit, qubit in enumerate(qubits):
                if one:
                    circuit.x(qubit)
                circuit.measure(qubit, bit)
            # Without routing, so that the qubits stay the ones that are meant.
            prepared.append(compile_circuit(circuit, self._target, level=0).circuit)
        results: Any = self._sampler.run(prepared, shots=CALIBRATION_SHOTS).result()
        ones = [_share_of_ones(getattr(result.data, _REGISTER).get_counts(), len(qubits)) for result in results]
        matrices = [np.array([[1 - a, 1 - b], [a, b]], np.float32) for a, b in zip(*ones, strict=True)]
        mitigation = M3Mitigation()
        mitigation.num_qubits = len(qubits)
        mitigation.cals_from_matrices(matrices)
        return mitigation

    def _extrapolate(self, estimates: np.ndarray) -> np.ndarray:
        """Return `(sets, observables)` at no noise, from the same at each scale."""
        if len(estimates) == 1:
            return estimates[0]
        from mitiq.zne.inference import ExpFactory, LinearFactory, RichardsonFactory

        kinds = {"linear": LinearFactory, "richardson": RichardsonFactory, "exponential": ExpFactory}
        extrapolate: Any = kinds[self._mitigation.extrapolation].extrapolate
        options = {"asymptote": 0.0} if self._mitigation.extrapolation == "exponential" else {}
        scales = [float(scale) for scale in self._mitigation.zne]
        flat = [extrapolate(scales, list(values), **options) for values in estimates.reshape(len(estimates), -1).T]
        return np.array(flat).reshape(estimates.shape[1:])

    def _spread(self) -> float:
        """Return by how much extrapolation widens a deviation: an exponential's is taken for a polynomial's."""
        from mitiq.zne.inference import LinearFactory, RichardsonFactory

        if len(self._mitigation.zne) == 1:
            return 1.0
        extrapolate: Any = (
            LinearFactory if self._mitigation.extrapolation == "linear" else RichardsonFactory
        ).extrapolate
        scales = [float(scale) for scale in self._mitigation.zne]
        return float(np.linalg.norm([extrapolate(scales, list(row)) for row in np.eye(len(scales))]))


def fold(circuit: QuantumCircuit, scale: int) -> QuantumCircuit:
    """Return a compiled circuit whose noise is `scale` times as much: it runs, is undone, and runs again.

    Raises:
        ValueError: if the scale is even.
    """
    if scale % 2 == 0:
        raise ValueError("A circuit is folded an odd number of times.")
    body: QuantumCircuit = circuit.remove_final_measurements(inplace=False)  # pyright: ignore[reportAssignmentType]
    folded = circuit.copy_empty_like()
    qubits = range(body.num_qubits)
    for number in range(scale):
        # What is undone is not to be optimised away.
        folded.barrier()
        folded.compose(body.inverse() if number % 2 else body, qubits, inplace=True)
    folded.barrier()
    for bit, qubit in enumerate(measured_qubits(circuit)):
        folded.measure(qubit, bit)
    return folded


def echo(circuit: QuantumCircuit, target: Target | None) -> QuantumCircuit:
    """Fill the time in which a qubit waits with pairs of X.

    Raises:
        ValueError: if the machine does not say how long its gates take.
    """
    try:
        return PassManager(
            [ALAPScheduleAnalysis(target=target), PadDynamicalDecoupling(target=target, dd_sequence=[XGate(), XGate()])]
        ).run(circuit)
    except Exception as error:  # noqa: BLE001  (the transpiler's and None's errors have no common kind)
        raise ValueError(
            f"`decoupling` needs a target with gate durations: switch it off ({type(error).__name__})."
        ) from None


def measured_qubits(circuit: QuantumCircuit) -> tuple[int, ...]:
    """Return which qubit each classical bit reads."""
    broadcast_origins = {
        circuit.find_bit(instruction.clbits[0]).index: circuit.find_bit(instruction.qubits[0]).index
        for instruction in circuit.data
        if instruction.operation.name == "measure"
    }
    return tuple(broadcast_origins[bit] for bit in sorted(broadcast_origins))


@dataclass(frozen=True)
class _Terms:
    """The observables of a pub as sums of products of Z: which qubits each product has, with which coefficient."""

    listed: tuple[tuple[tuple[float, tuple[int, ...]], ...], ...]

    @property
    def number(self) -> int:
        return len(self.listed)

    @classmethod
    def of(cls, pub: EstimatorPub) -> "_Terms":
        return cls(tuple(tuple(_product(*term) for term in one.to_list()) for one in observables_of(pub)))

    def bounds(self) -> np.ndarray:
        """Return the largest value that each observable can have."""
        return np.array([sum(abs(value) for value, _ in terms) for terms in self.listed])

    def values(self, shares: dict[str, float]) -> np.ndarray:
        strings = np.array([[c == "1" for c in reversed(bits)] for bits in shares])
        weights = np.fromiter(shares.values(), float)
        return np.array(
            [sum(value * self._mean(qubits, strings, weights) for value, qubits in terms) for terms in self.listed]
        )

    @staticmethod
    def _mean(qubits: tuple[int, ...], strings: np.ndarray, weights: np.ndarray) -> float:
        return float(((-1.0) ** strings[:, list(qubits)].sum(axis=1) * weights).sum())


def _product(label: str, value: complex) -> tuple[float, tuple[int, ...]]:
    if set(label) - {"I", "Z"}:
        raise ValueError(f"Mitigation takes products of Z, not {label}.")
    return float(np.real(value)), tuple(place for place, pauli in enumerate(reversed(label)) if pauli == "Z")


def _measured(circuit: QuantumCircuit) -> QuantumCircuit:
    if circuit.cregs:
        raise ValueError(f"The circuit {circuit.name} contains measurements: remove them, the estimator adds its own.")
    measured = circuit.copy()
    measured.add_register(ClassicalRegister(circuit.num_qubits, _REGISTER))
    measured.measure(range(circuit.num_qubits), range(circuit.num_qubits))
    return measured


def _in_order(pub: EstimatorPub, compiled: QuantumCircuit) -> np.ndarray:
    """Return the parameter sets `(sets, parameters)` as the compiled circuit takes them; it may have lost some."""
    names = [parameter.name for parameter in pub.circuit.parameters]
    return parameter_sets(pub)[:, [names.index(parameter.name) for parameter in compiled.parameters]]


def _merge(several: Sequence[Counts]) -> Counts:
    merged: Counts = {}
    for counts in several:
        for bits, number in counts.items():
            merged[bits] = merged.get(bits, 0) + number
    return merged


def _share_of_ones(counts: Counts, width: int) -> np.ndarray:
    shots = sum(counts.values())
    return sum((np.array([c == "1" for c in bits[::-1]]) * n for bits, n in counts.items()), np.zeros(width)) / shots
