"""Train the quantum head on a snapshot."""

from pathlib import Path

from qfundus.features.snapshot import read_split
from qfundus.heads.quantum import describe_circuit, save_quantum_head, train_quantum_head
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.steps.figures import write_figures


def train_quantum(recipe: str, dataset: str, model: str, figures: str) -> dict[str, float]:
    """Write the quantum head; return its training figures and its circuit's."""
    nightly = NightlyRecipe.from_json(recipe)
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    head, fit = train_quantum_head(train, validation, nightly.quantum, nightly.seed)
    Path(model).parent.mkdir(parents=True, exist_ok=True)
    save_quantum_head(head, nightly.quantum, model)
    return write_figures(figures, {**fit.to_metrics(), **describe_circuit(head, nightly.quantum, validation)})
