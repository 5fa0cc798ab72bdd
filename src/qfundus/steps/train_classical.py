"""Train the classical form on a snapshot."""

from pathlib import Path

from qfundus.hybrid.classical_form import train_classical_form
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.site import open_site
from qfundus.steps.figures import write_figures


def train_classical(recipe: str, dataset: str, model: str, figures: str) -> dict[str, float]:
    """Write the classical form, a head as a file or networks as a folder; return its training figures."""
    Path(model).parent.mkdir(parents=True, exist_ok=True)
    trained = train_classical_form(NightlyRecipe.from_json(recipe), Path(dataset), Path(model), open_site())
    return write_figures(figures, trained)
