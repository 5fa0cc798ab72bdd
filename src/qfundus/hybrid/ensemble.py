"""The hybrid: both heads' calibrated logits, mixed by one convex weight."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

SMALLEST_PROBABILITY = 1e-12  # before a logarithm
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Mixture:
    """Logits of both heads, each divided by its temperature, mixed by `classical_weight` and one minus it."""

    classical_temperature: float
    quantum_temperature: float
    classical_weight: float

    def mix(self, classical: np.ndarray, quantum: np.ndarray) -> np.ndarray:
        """Return probabilities `(eyes, 5)` from both heads' logits `(eyes, 5)`."""
        w = self.classical_weight
        return softmax(
            w * classical / self.classical_temperature + (1 - w) * quantum / self.quantum_temperature, axis=1
        )

    def predict(self, classical: np.ndarray, quantum: np.ndarray) -> dict[str, np.ndarray]:
        """Return the probabilities `(eyes, 5)` of each form, calibrated, from both forms' logits `(eyes, 5)`."""
        return {
            "classical": softmax(classical / self.classical_temperature, axis=1),
            "quantum": softmax(quantum / self.quantum_temperature, axis=1),
            "hybrid": self.mix(classical, quantum),
        }

    def to_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def fit_mixture(classical: np.ndarray, quantum: np.ndarray, grades: np.ndarray) -> Mixture:
    """Fit temperatures (arXiv 1706.04599), then the weight, each by the likelihood of the validation grades.

    `classical` and `quantum` are logits `(eyes, 5)` on the validation split.
    """
    classical_temperature, quantum_temperature = fit_temperature(classical, grades), fit_temperature(quantum, grades)
    scaled_classical, scaled_quantum = classical / classical_temperature, quantum / quantum_temperature
    weight = _minimise(
        lambda w: _negative_log_likelihood(w * scaled_classical + (1 - w) * scaled_quantum, grades), (0.0, 1.0)
    )
    return Mixture(classical_temperature, quantum_temperature, weight)


def fit_temperature(logits: np.ndarray, grades: np.ndarray) -> float:
    """Return the temperature that maximises the likelihood of the grades."""
    low, high = np.log(_TEMPERATURES)
    return float(np.exp(_minimise(lambda t: _negative_log_likelihood(logits / np.exp(t), grades), (low, high))))


def _negative_log_likelihood(logits: np.ndarray, grades: np.ndarray) -> float:
    return -float(log_softmax(logits, axis=1)[np.arange(len(grades)), grades].mean())


def _minimise(loss: Callable[[float], float], bounds: tuple[float, float]) -> float:
    result: Any = minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(result.x)
