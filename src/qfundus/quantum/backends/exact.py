"""Our own engine as an estimator: no shots, and all parameter sets of a circuit at once."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from qiskit import QuantumCircuit
from qiskit.primitives import BaseEstimatorV2, DataBin, PrimitiveJob, PrimitiveResult, PubResult, StatevectorSampler
from qiskit.primitives.containers.estimator_pub import EstimatorPub, EstimatorPubLike

from qfundus.quantum.angles import Angles
from qfundus.quantum.backends import Backend
from qfundus.quantum.exact import compile_exact
from qfundus.quantum.gates import lower
from qfundus.quantum.primitive_inputs import parameter_sets


def open_backend(options: dict[str, Any]) -> Backend:
    """Open the engine; bit strings come from Qiskit's own state vector. Options: `seed`."""
    return Backend(ExactEstimator(), StatevectorSampler(seed=_only(options, "seed").get("seed")))


def _only(options: dict[str, Any], *known: str) -> dict[str, Any]:
    if unknown := options.keys() - set(known):
        raise TypeError(f"unknown: {', '.join(sorted(unknown))}")
    return options


class ExactEstimator(BaseEstimatorV2):
    """Expectation values to machine precision; a precision that is asked for is surpassed."""

    def run(
        self, pubs: Iterable[EstimatorPubLike], *, precision: float | None = None
    ) -> PrimitiveJob[PrimitiveResult[PubResult]]:
        """Run circuits with their observables and parameter values.

        Raises:
            ValueError: for gates that are not unitary, parameters that are not numbers, or circuits that would not fit
                into memory.
        """
        coerced = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        if not all(np.isfinite(parameter_sets(pub)).all() for pub in coerced):
            raise ValueError("A parameter is not a finite number.")
        job = PrimitiveJob(lambda: PrimitiveResult([_run(pub) for pub in coerced], metadata={"version": 2}))
        job._submit()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  (as Qiskit's own primitives do)
        return job


def _run(pub: EstimatorPub) -> PubResult:
    angles = torch.from_numpy(parameter_sets(pub))
    numbered = np.arange(len(angles)).reshape(pub.parameter_values.shape)
    sets, observables = np.broadcast_arrays(numbered, pub.observables)
    paulis = sorted({pauli for terms in observables.ravel() for pauli in terms})
    table = dict(zip(paulis, _expectations(pub.circuit, paulis, angles).T, strict=True))
    evs = np.zeros(sets.shape)
    for place in np.ndindex(*sets.shape):
        evs[place] = sum(weight.real * table[pauli][sets[place]] for pauli, weight in observables[place].items())
    data = DataBin(evs=evs, stds=np.zeros_like(evs), shape=evs.shape)
    return PubResult(data, metadata={"target_precision": 0.0, "circuit_metadata": pub.circuit.metadata})


def _expectations(circuit: QuantumCircuit, paulis: list[str], angles: torch.Tensor) -> np.ndarray:
    """Return expectation values `(parameter sets, paulis)`; Paulis that are measured in one basis share a run."""
    values = np.ones((len(angles), len(paulis)))
    by_basis: dict[tuple[tuple[int, str], ...], list[int]] = {}
    for number, pauli in enumerate(paulis):
        if pauli.strip("I"):
            turned = tuple((q, letter) for q, letter in enumerate(reversed(pauli)) if letter in "XY")
            by_basis.setdefault(turned, []).append(number)
    for basis, numbers in by_basis.items():
        measured = circuit.copy()
        for qubit, letter in basis:
            if letter == "Y":
                measured.sdg(qubit)
            measured.h(qubit)
        gates = lower(measured, all_features=True)
        broadcast_origins = tuple(tuple(q for q, p in enumerate(reversed(paulis[n])) if p != "I") for n in numbers)
        engine = compile_exact(gates, broadcast_origins)
        shared = Angles(gates.shared, n_features=gates.n_features, by_feature=False)
        own = Angles(gates.by_feature, n_features=gates.n_features, by_feature=True)
        with torch.inference_mode():
            nothing = angles.new_zeros(0)
            values[:, numbers] = engine(shared(angles, nothing), own(angles, nothing)).numpy()
    return values
