"""A trained circuit with the angles of some eyes, saved with a grader to compare quantum machines on."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qfundus.quantum.ansatz import build_ansatz, build_observables
from qfundus.quantum.gates import split_parameters
from qfundus.quantum.jobs.work import Work, terms_of
from qfundus.recipes.nightly import QuantumHeadRecipe


@dataclass(frozen=True)
class SavedCircuit:
    """A recipe's circuit with its weights, `angles` `(eyes, features)`, and their `exact` values `(eyes, qubits)`."""

    recipe: QuantumHeadRecipe
    weights: np.ndarray
    angles: np.ndarray
    exact: np.ndarray

    def work(self, eyes: int, precision: float) -> Work:
        """Ask for the values of the first eyes, to a precision."""
        circuit = build_ansatz(self.recipe.ansatz, self.recipe.qubits, self.recipe.layers)
        features, weights = split_parameters(circuit)
        order = [*features, *weights]
        angles = self.angles[:eyes]
        values = np.concatenate((angles, np.broadcast_to(self.weights, (len(angles), len(self.weights)))), axis=1)
        columns = [order.index(parameter) for parameter in circuit.parameters]
        observables = tuple(terms_of(observable) for observable in build_observables(self.recipe.qubits))
        return Work(circuit, observables, values[:, columns].astype(np.float64), precision)

    def save(self, file: Path) -> None:
        """Write the circuit; the recipe is stored under the name `how`, as in release 0.1."""
        recipe = np.frombuffer(self.recipe.model_dump_json().encode(), np.uint8)
        np.savez_compressed(file, how=recipe, weights=self.weights, angles=self.angles, exact=self.exact)

    @classmethod
    def load(cls, file: Path) -> "SavedCircuit":
        """Read what `save` wrote."""
        with np.load(file, allow_pickle=False) as saved:
            recipe = QuantumHeadRecipe.model_validate(json.loads(saved["how"].tobytes()))
            return cls(recipe, saved["weights"], saved["angles"], saved["exact"])
