"""A trained circuit with the angles of some eyes, kept with a grader: all that a machine needs to be compared."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qfundus.quantum.ansatz import build_ansatz, build_observables
from qfundus.quantum.gates import split_parameters
from qfundus.quantum.jobs.work import Work, terms_of
from qfundus.quantum.model import QuantumHead
from qfundus.recipe import Quantum

CIRCUIT_FILE = "circuit.npz"


@dataclass(frozen=True)
class KeptCircuit:
    """A recipe's circuit with its weights, `angles` `(eyes, features)`, and their `exact` values `(eyes, qubits)`."""

    how: Quantum
    weights: np.ndarray
    angles: np.ndarray
    exact: np.ndarray

    @classmethod
    def of(cls, head: QuantumHead, how: Quantum, embeddings: np.ndarray) -> "KeptCircuit":
        """Take a trained head's circuit, with the angles to which it turns some embeddings `(eyes, 1280)`."""
        classifier = head.classifier
        with torch.no_grad():
            angles = classifier.encode((torch.from_numpy(embeddings) - head.centre) @ head.projection)
            exact = classifier.circuit(angles)
        return cls(how, classifier.circuit.weight.detach().flatten().numpy(), angles.numpy(), exact.numpy())

    def work(self, eyes: int, precision: float) -> Work:
        """Ask for the values of the first eyes, to a precision."""
        circuit = build_ansatz(self.how.ansatz, self.how.qubits, self.how.layers)
        features, weights = split_parameters(circuit)
        places = [*features, *weights]
        angles = self.angles[:eyes]
        values = np.concatenate((angles, np.broadcast_to(self.weights, (len(angles), len(self.weights)))), axis=1)
        order = [places.index(parameter) for parameter in circuit.parameters]
        observables = tuple(terms_of(observable) for observable in build_observables(self.how.qubits))
        return Work(circuit, observables, values[:, order].astype(np.float64), precision)

    def save(self, file: Path) -> None:
        """Write it."""
        how = np.frombuffer(self.how.model_dump_json().encode(), np.uint8)
        np.savez_compressed(file, how=how, weights=self.weights, angles=self.angles, exact=self.exact)

    @classmethod
    def load(cls, file: Path) -> "KeptCircuit":
        """Read what `save` wrote."""
        with np.load(file, allow_pickle=False) as kept:
            how = Quantum.model_validate(json.loads(kept["how"].tobytes()))
            return cls(how, kept["weights"], kept["angles"], kept["exact"])
