"""What each choice of the recipe `retinamnist` brings, on photographs of the training and validation splits alone.

    .venv/bin/python -m benchmarks.retinamnist DATA [--choice NAME] [--folds 4]

RetinaMNIST holds several photographs of a patient and does not say which. Those of like colours are kept in one fold,
as one camera takes them on one day: a network must not be measured on a patient it knows. Each choice changes one
setting; `together` averages them. Takes four to eight minutes a choice on two cores.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.cluster import AgglomerativeClustering

from qfundus.classical.card import HELD_FILE
from qfundus.classical.evaluate import measure
from qfundus.classical.launch import Torchrun
from qfundus.classical.session import train_grader
from qfundus.classical.shards import write_shards
from qfundus.imaging.labelled import Labelled, read_labelled
from qfundus.layout import network_recipes
from qfundus.recipes.network import NetworkRecipe, find_network_recipe

CHOICES: dict[str, dict[str, dict[str, object]]] = {
    "softmax": {"training": {"label_smoothing": 0.1}},
    "soft targets": {"training": {"label_smoothing": 0.05, "soft_labels": 0.7}},
    "cumulative link": {"training": {"label_smoothing": 0.1}, "network": {"head": "cumulative_link"}},
    "ranks": {"training": {"label_smoothing": 0.1, "loss": "ranks"}, "network": {"head": "cumulative_link"}},
    "Lite2": {"training": {"label_smoothing": 0.1}, "network": {"backbone": "efficientnet-lite2"}},
    "96 pixels": {"training": {"label_smoothing": 0.1}, "images": {"side": 96}},
    "48 pixels": {"training": {"label_smoothing": 0.1}, "images": {"side": 48}},
    "15 epochs": {"training": {"label_smoothing": 0.1, "epochs": 15}},
}
PATIENTS = 150  # about: 1,200 photographs, some eight of a patient
RINGS = ((0, 3), (3, 6), (6, 9), (9, 11), (11, 13))  # pixels from the middle of 28


def main() -> None:
    """Print AUC, ACC and the loss of each choice, and of all together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--choice", action="append", choices=sorted(CHOICES), help="may be given more than once")
    parser.add_argument("--folds", type=int, default=4)
    asked = parser.parse_args()
    labelled = keep_patients_together(read_labelled(asked.data))
    told: list[np.ndarray] = []
    grades = np.empty(0)
    for name in asked.choice or list(CHOICES):
        probabilities, grades = train_choice(change(CHOICES[name], asked.folds), labelled)
        told.append(np.log(probabilities))
        show(name, probabilities, grades)
    show("together", softmax(np.mean(told, axis=0), axis=1), grades)


def change(choice: dict[str, dict[str, object]], folds: int) -> NetworkRecipe:
    """Change a recipe's settings."""
    said: dict[str, Any] = find_network_recipe("retinamnist", network_recipes()).model_dump() | {"variants": ()}
    for part, settings in choice.items():
        said[part] |= settings
    said["grading"]["folds"] = folds
    return NetworkRecipe.model_validate(said)


def train_choice(recipe: NetworkRecipe, labelled: list[Labelled]) -> tuple[np.ndarray, np.ndarray]:
    """Return what each network said of the photographs that it had not seen, and their grades."""
    with tempfile.TemporaryDirectory() as folder:
        shards = f"{folder}/photographs.lance"
        write_shards(labelled, recipe.images, shards)
        out = Path(folder) / "out"
        train_grader(recipe, shards, out, seed=0, launcher=Torchrun.open(len(recipe.members()), 1, 0, out))
        with np.load(out / HELD_FILE) as held:
            return held["probabilities"], held["grades"]


def keep_patients_together(labelled: list[Labelled]) -> list[Labelled]:
    """Name photographs of like colours as one patient's."""
    rows, columns = np.mgrid[:28, :28] - 13.5
    away = np.hypot(rows, columns)
    rings = [(away >= start) & (away < end) for start, end in RINGS]
    colours = np.array([np.concatenate([np.median(one.read()[ring], axis=0) for ring in rings]) for one in labelled])
    scaled = (colours - colours.mean(axis=0)) / colours.std(axis=0)
    clusters = AgglomerativeClustering(PATIENTS).fit_predict(scaled)
    return [replace(one, patient=f"p{cluster}") for one, cluster in zip(labelled, clusters, strict=True)]


def show(name: str, probabilities: np.ndarray, grades: np.ndarray) -> None:
    """Print a line."""
    measured = measure(probabilities, grades, 0.0, name)
    loss = -log_softmax(np.log(probabilities), axis=1)[np.arange(len(grades)), grades].mean()
    print(f"{name:16} AUC {measured.auc:.4f}  ACC {measured.acc:.4f}  loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
