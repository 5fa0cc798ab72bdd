"""Measure a grader on labelled photographs it has never seen."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qfundus.classical.grader import Grader
from qfundus.classical.shards import prepare
from qfundus.errors import Discard, SetupError
from qfundus.evaluation.metrics import calibration_error, quadratic_weighted_kappa
from qfundus.imaging.labelled import UNREADABLE, Labelled, read_labelled
from qfundus.recipes.network import ImageFormat


@dataclass(frozen=True)
class Measured:
    """How well photographs were graded.

    `auc` and `acc` are as MedMNIST's evaluator computes them. `referred` is the share of which the grader says that a
    person should look, `acc_kept` the accuracy on the others.
    """

    photographs: int
    split: str
    auc: float
    acc: float
    kappa: float
    calibration_error: float
    referred: float
    acc_kept: float
    unreadable: int
    without_disc: int

    def to_dict(self) -> dict[str, float | str | None]:
        """Return the figures by name, None for one that is not defined on these photographs."""
        known = asdict(self).items()
        return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in known}


@dataclass(frozen=True)
class Shown:
    """Prepared photographs `(n, side, side, 3)` of uint8, what is known of them `(n,)`, and what went wrong.

    A photograph of which nobody says whose it is has a patient of its own.
    """

    images: np.ndarray
    grades: np.ndarray
    names: np.ndarray
    patients: np.ndarray
    unreadable: int
    without_disc: int


@dataclass(frozen=True)
class GradedPhotographs:
    """Probabilities `(n, 5)` of photographs beside their grades and names, and whether a person should look `(n,)`."""

    probabilities: np.ndarray
    grades: np.ndarray
    names: np.ndarray
    referred: np.ndarray


def evaluate_grader(grader: Grader, data: Path, split: str = "") -> tuple[Measured, GradedPhotographs]:
    """Grade a split, by default the test split if there is one; return the figures and the predictions."""
    labelled, chosen = choose_split(read_labelled(data), split)
    shown = read_pictures(labelled, grader.card.images)
    probabilities = grader.grade(shown.images)
    graded = GradedPhotographs(probabilities, shown.grades, shown.names, grader.refers(probabilities))
    below = grader.card.refer_below
    return measure(graded.probabilities, graded.grades, below, chosen, shown.unreadable, shown.without_disc), graded


def measure(
    probabilities: np.ndarray, grades: np.ndarray, refer_below: float, split: str, unreadable: int = 0, without: int = 0
) -> Measured:
    """Measure probabilities `(n, 5)` against grades `(n,)`; with `refer_below` NaN, no photograph is referred."""
    from medmnist.evaluator import getAUC

    whole, targets = np.ones((1, len(grades))), grades[:, None]
    certain = ~(probabilities.max(axis=1) < refer_below)
    right = probabilities.argmax(axis=1) == grades
    return Measured(
        photographs=len(grades),
        split=split,
        auc=float(getAUC(targets, probabilities, "ordinal-regression"))
        if len(np.unique(grades)) == 5
        else float("nan"),
        acc=float(right.mean()),
        kappa=float(quadratic_weighted_kappa(probabilities, grades, whole)[0]),
        calibration_error=float(calibration_error(probabilities, grades, whole)[0]),
        referred=float("nan") if math.isnan(refer_below) else float(1 - certain.mean()),
        acc_kept=float(right[certain].mean()) if certain.any() else float("nan"),
        unreadable=unreadable,
        without_disc=without,
    )


def choose_split(labelled: list[Labelled], split: str) -> tuple[list[Labelled], str]:
    """Choose a split by its name; by default the test split, else the validation split, else all."""
    there = sorted({photograph.split for photograph in labelled})
    alone = there[0] if len(there) == 1 else ""
    wanted = split or next((name for name in ("test", "val", "validation") if name in there), alone)
    if split and split not in there:
        raise SetupError(f"Unknown split {split}; the splits are {', '.join(filter(None, there)) or 'none'}.")
    return [photograph for photograph in labelled if not wanted or photograph.split == wanted], wanted or "all"


def read_pictures(labelled: list[Labelled], image_format: ImageFormat) -> Shown:
    """Prepare photographs; those that cannot be read are left out and counted."""
    read: list[tuple[Labelled, np.ndarray]] = []
    without = 0
    for photograph in labelled:
        try:
            pixels = photograph.read()
        except UNREADABLE:
            continue
        image, has_disc = prepare_whole(pixels, image_format)
        without += not has_disc
        read.append((photograph, image))
    if not labelled:
        raise SetupError("No photographs to grade: the split is empty.")
    if not read:
        raise SetupError("None of the photographs can be read.")
    return Shown(
        images=np.stack([image for _, image in read]),
        grades=np.array([photograph.grade for photograph, _ in read]),
        names=np.array([photograph.name for photograph, _ in read]),
        patients=np.array([photograph.patient or photograph.name for photograph, _ in read]),
        unreadable=len(labelled) - len(read),
        without_disc=without,
    )


def prepare_whole(pixels: np.ndarray, image_format: ImageFormat) -> tuple[np.ndarray, bool]:
    """Prepare a photograph, uncropped if no disc is found; return whether one was.

    An evaluation may not choose its photographs.
    """
    try:
        return prepare(pixels, image_format), True
    except Discard:
        rest = tuple(step for step in image_format.preparation if step != "disc")
        return prepare(pixels, image_format.model_copy(update={"preparation": rest})), False
