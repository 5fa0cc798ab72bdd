"""Mix both forms into a grader and measure all three forms on the test split."""

from pathlib import Path

from qfundus.hybrid.evaluate import evaluate_grader
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.registry.naming import flatten_figures
from qfundus.site import open_site
from qfundus.steps.figures import write_figures


def evaluate_ensemble(
    recipe: str, dataset: str, classical: str, quantum: str, grader: str, figures: str
) -> dict[str, float]:
    """Write the grader into the folder `grader`; return the figures of each form and the mixture's."""
    summary = evaluate_grader(
        NightlyRecipe.from_json(recipe), Path(dataset), Path(classical), Path(quantum), Path(grader), open_site()
    )
    return write_figures(figures, flatten_figures(summary.figures) | summary.mixture)
