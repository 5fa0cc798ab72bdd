"""The classical form of the hybrid: a head on stored embeddings, or whole networks on photographs.

Everything that depends on which of the two a recipe asks for is here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from torch import nn

from qfundus.classical.assemble import read_held_out
from qfundus.classical.retrain import SNAPSHOT_COLUMNS, name_eye, retrain
from qfundus.features.photographs import grade_photographs
from qfundus.features.snapshot import Split, read_split
from qfundus.heads.classical import ClassicalHead, load_classical_head, save_classical_head, train_classical_head
from qfundus.heads.fit import predict_logits
from qfundus.hybrid.ensemble import SMALLEST_PROBABILITY, Mixture
from qfundus.hybrid.grader import export_grader, export_network_grader
from qfundus.onnx_graphs.run import GRADER_FILE
from qfundus.recipes.network import NetworkRecipe
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.site import Site


class ClassicalForm(Protocol):
    """What the hybrid needs of its classical part."""

    def predict_validation(self, eyes: Split) -> tuple[np.ndarray, Split]:
        """Return logits `(eyes, 5)` of the validation split, and the eyes they are of: erased ones are left out."""
        ...

    def predict_test(self, eyes: Split) -> tuple[np.ndarray, Split]:
        """Return logits `(eyes, 5)` of the test split, and the eyes they are of: erased ones are left out."""
        ...

    def export(self, backbone: bytes, quantum: nn.Module, mixture: Mixture, folder: Path) -> None:
        """Write the grader that mixes this form with the quantum head."""
        ...


@dataclass(frozen=True)
class HeadForm:
    """A head on stored embeddings."""

    head: ClassicalHead

    def predict_validation(self, eyes: Split) -> tuple[np.ndarray, Split]:
        """Return logits of the stored embeddings."""
        return predict_logits(self.head, eyes.embeddings), eyes

    def predict_test(self, eyes: Split) -> tuple[np.ndarray, Split]:
        """Return logits of the stored embeddings."""
        return predict_logits(self.head, eyes.embeddings), eyes

    def export(self, backbone: bytes, quantum: nn.Module, mixture: Mixture, folder: Path) -> None:
        """Write the grader."""
        export_grader(backbone, self.head, quantum, mixture, folder)


@dataclass(frozen=True)
class NetworksForm:
    """Networks on photographs, in the folder that their training wrote."""

    folder: Path
    site: Site

    def predict_validation(self, eyes: Split) -> tuple[np.ndarray, Split]:
        """Return what the networks that were not trained on an eye predicted for it at the end of their training."""
        held_out = read_held_out(self.folder)
        row_of = {name: row for row, name in enumerate(held_out.names)}
        names = [name_eye(*pair) for pair in zip(eyes.rows["eye_id"], eyes.rows["study_id"], strict=True)]
        known = np.array([name in row_of for name in names])
        rows = [row_of[name] for name in names if name in row_of]
        return _to_logits(held_out.probabilities[rows]), eyes.only(known)

    def predict_test(self, eyes: Split) -> tuple[np.ndarray, Split]:
        """Grade the photographs."""
        (probabilities,), present = grade_photographs(
            self.site, self.folder / GRADER_FILE, eyes.rows["instance_digest"]
        )
        return _to_logits(probabilities), eyes.only(present)

    def export(self, backbone: bytes, quantum: nn.Module, mixture: Mixture, folder: Path) -> None:
        """Write the grader."""
        export_network_grader(backbone, self.folder / GRADER_FILE, quantum, mixture, folder)


def train_classical_form(recipe: NightlyRecipe, dataset: Path, model: Path, site: Site) -> dict[str, float]:
    """Train the classical form on a snapshot and write it to `model`; return its training figures.

    A head is written as a file, networks as a folder.
    """
    if isinstance(recipe.classical, NetworkRecipe):
        return retrain(recipe.classical, pd.read_parquet(dataset, columns=list(SNAPSHOT_COLUMNS)), model, site)
    train, validation = read_split(dataset, "train"), read_split(dataset, "validation")
    head, fit = train_classical_head(train, validation, recipe.classical, recipe.seed)
    save_classical_head(head, recipe.classical, model)
    return fit.to_metrics()


def open_classical_form(model: Path, site: Site) -> ClassicalForm:
    """Open what `train_classical_form` wrote."""
    return HeadForm(load_classical_head(model)) if model.is_file() else NetworksForm(model, site)


def _to_logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, SMALLEST_PROBABILITY))
