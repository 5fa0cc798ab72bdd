"""The grader in int8, and what that costs."""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qfundus.classical.evaluate import Shown, measure, read_pictures
from qfundus.classical.grader import Grader, open_grader
from qfundus.errors import SetupError
from qfundus.evaluation.gate import judge_form
from qfundus.imaging.labelled import read_labelled
from qfundus.onnx_graphs.quantise import choose_calibration, is_quantised, write_dynamic, write_static
from qfundus.onnx_graphs.run import GRADER_FILE, open_session, time_graphs
from qfundus.recipes.nightly import EvaluationRecipe

DYNAMIC_FILE, STATIC_FILE = "model.int8-dynamic.onnx", "model.int8.onnx"
_NAMES = ("float32", "int8, dynamic", "int8, static")
_FASTER, _LARGEST = 1.1, 0.9  # of float32's speed and file: less is not called faster, nor more smaller
_EVALUATION = EvaluationRecipe(resamples=2000, confidence=0.95, specificity=0.9)


@dataclass(frozen=True)
class QuantisedForm:
    """A form of a grader: how well and how fast it grades; `speed` is float32's time over its own."""

    name: str
    acc: float
    kappa: float
    milliseconds: float
    speed: float
    megabytes: float
    verdict: str


def quantise_grader(folder: Path, data: Path, split: str, max_drop: float) -> list[QuantisedForm]:
    """Write both int8 forms beside the grader, measure them on a split, and keep what costs `max_drop` at most.

    That must hold of accuracy and kappa up to the end of their intervals. The static form (QDQ) is calibrated on
    photographs outside of the split.

    Raises:
        SetupError: if the split does not exist, or nothing lies outside it.
    """
    grader = open_grader(str(folder))
    labelled = read_labelled(data)
    measured_on = [photograph for photograph in labelled if photograph.split == split]
    others = [photograph for photograph in labelled if photograph.split not in (split, "test")]
    if not measured_on or not others:
        raise SetupError(
            f"The data needs the split {split} to measure on and another to calibrate on: choose with --split. "
            "On photographs that it was trained on, a form looks better than it is."
        )
    shown = read_pictures(measured_on, grader.card.images)
    ranges = read_pictures(choose_calibration(others), grader.card.images)
    # Beside the grader, and not in its place, until it is judged.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8-") as scratch:
        files = [folder / GRADER_FILE, *(Path(scratch) / name for name in (DYNAMIC_FILE, STATIC_FILE))]
        write_dynamic(files[0], files[1])
        write_static(files[0], files[2], ranges.images)
        predicted = [Grader(open_session(file), grader.card).grade(shown.images) for file in files]
        measured = measure_variants(files, predicted, shown)
        return [measured[0], *_keep(folder, files[1:], predicted, measured, shown, max_drop)]


def measure_variants(files: list[Path], predicted: list[np.ndarray], shown: Shown) -> list[QuantisedForm]:
    """Measure and time the forms that predicted probabilities `(n, 5)`; the first is the reference."""
    times = time_graphs(files, shown.images[:1])
    figures = [measure(probabilities, shown.grades, math.nan, "") for probabilities in predicted]
    return [
        QuantisedForm(name, its.acc, its.kappa, took, times[0] / took, file.stat().st_size / 2**20, "the measure")
        for name, its, took, file in zip(_NAMES, figures, times, files, strict=True)
    ]


def _keep(
    folder: Path,
    drafts: list[Path],
    predicted: list[np.ndarray],
    measured: list[QuantisedForm],
    shown: Shown,
    max_drop: float,
) -> Iterator[QuantisedForm]:
    """Put the forms that pass the gate and are faster or smaller beside the grader."""
    plain, plain_predicted = measured[0], predicted[0]
    for draft, form_predicted, variant in zip(drafts, predicted[1:], measured[1:], strict=True):
        loss = judge_form(form_predicted, plain_predicted, shown.grades, shown.patients, max_drop, _EVALUATION, seed=0)
        verdict = str(loss)
        if not is_quantised(draft):
            verdict = "left out: nothing in it can be quantised"
        elif variant.speed < _FASTER and variant.megabytes > _LARGEST * plain.megabytes:
            verdict = "left out: it is neither faster nor smaller"
        if verdict.startswith("kept"):
            draft.replace(folder / draft.name)
        else:
            (folder / draft.name).unlink(missing_ok=True)  # what an earlier run had kept
        yield replace(variant, verdict=verdict)
