"""How a retraining and its parameters and metrics are named in MLflow."""

import math
from collections.abc import Iterator
from typing import Any

from qfundus.hybrid.grader_files import Figures
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.storage import digest


def retraining_key(recipe: str, as_of: str, champion: str) -> str:
    """Name a retraining by everything that decides its outcome."""
    return digest(f"{recipe}\n{as_of}\n{champion}".encode())[:32]


def flatten_figures(figures: Figures) -> dict[str, float]:
    """Name each figure by form, metric and end: `hybrid_accuracy_low`; the value itself has no ending."""
    return {
        f"{form}_{metric}{'' if part == 'value' else '_' + part}": value
        for form, metrics in figures.items()
        for metric, estimate in metrics.items()
        for part, value in estimate.items()
        if not math.isnan(value)  # undefined on so few eyes
    }


def flatten_training(figures_by_form: dict[str, dict[str, float]]) -> dict[str, float]:
    """Name each figure of a training by its form: `quantum_epochs`."""
    return {
        f"{form}_{name}": float(value) for form, figures in figures_by_form.items() for name, value in figures.items()
    }


def flatten_recipe(recipe: NightlyRecipe) -> dict[str, str]:
    """Name each setting of a recipe by its path: `quantum.qubits`."""
    return dict(_flatten("", recipe.model_dump()))


def _flatten(prefix: str, settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flatten(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", str(value)
