"""The grader in whole numbers of 8 bits, and what that costs."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from qfundus.classical.evaluate import Shown, measure, read_pictures
from qfundus.classical.grader import GRADER_FILE, Grader, open_grader
from qfundus.errors import SetupError
from qfundus.hybrid.gate import judge_form
from qfundus.imaging.labelled import read_labelled
from qfundus.onnx_export import open_session, time_graph
from qfundus.onnx_quantise import is_quantised, spread, write_dynamic, write_static
from qfundus.recipe import Evaluation

DYNAMIC_FILE, STATIC_FILE = "model.int8-dynamic.onnx", "model.int8.onnx"
_FASTER, _LARGEST = 1.1, 0.9  # of float32's speed and file: less is not called faster, nor more smaller
_HOW = Evaluation(resamples=2000, confidence=0.95, specificity=0.9)


@dataclass(frozen=True)
class Variant:
    """A form of a grader: how well and how fast it grades; `speed` is float32's time over its own."""

    name: str
    acc: float
    kappa: float
    milliseconds: float
    speed: float
    megabytes: float
    verdict: str


def quantise_grader(folder: Path, data: Path, split: str, most_lost: float) -> list[Variant]:
    """Write both int8 forms beside the grader, measure them on a split, and keep what costs `most_lost` at most.

    That must hold of accuracy and kappa up to the end of their intervals. The static form (QDQ) is calibrated on
    photographs outside of the split.

    Raises:
        SetupError: where there is no such split, or nothing outside of it.
    """
    grader = open_grader(str(folder))
    labelled = read_labelled(data)
    measured_on = [one for one in labelled if one.split == split]
    others = [one for one in labelled if one.split not in (split, "test")]
    if not measured_on or not others:
        raise SetupError(f"There must be a split {split} to measure on, and another one to calibrate on.")
    shown = read_pictures(measured_on, grader.card.pictures)
    plain, told = measure_variant(grader, "float32", folder / GRADER_FILE, shown)
    # Beside the grader, and not in its place, until it is judged.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".int8-") as scratch:
        drafts = Path(scratch)
        write_dynamic(folder / GRADER_FILE, drafts / DYNAMIC_FILE)
        write_static(
            folder / GRADER_FILE, drafts / STATIC_FILE, read_pictures(spread(others), grader.card.pictures).images
        )
        return [plain, *_judge_drafts(drafts, folder, grader, shown, plain, told, most_lost)]


def _judge_drafts(
    drafts: Path, folder: Path, grader: Grader, shown: Shown, plain: Variant, told: np.ndarray, most_lost: float
) -> Iterator[Variant]:
    for name, file in (("int8, dynamic", DYNAMIC_FILE), ("int8, static", STATIC_FILE)):
        form = Grader(open_session(drafts / file), grader.card)
        variant, told_by_form = measure_variant(form, name, drafts / file, shown)
        loss = judge_form(told_by_form, told, shown.grades, shown.patients, most_lost, _HOW, seed=0)
        variant = replace(variant, speed=plain.milliseconds / variant.milliseconds, verdict=str(loss))
        if not is_quantised(drafts / file):
            variant = replace(variant, verdict="left out: there is nothing in it to quantise")
        elif variant.speed < _FASTER and variant.megabytes > _LARGEST * plain.megabytes:
            variant = replace(variant, verdict="left out: it is neither faster nor smaller")
        if variant.verdict.startswith("kept"):
            (drafts / file).replace(folder / file)
        else:
            (folder / file).unlink(missing_ok=True)  # what an earlier run had kept
        yield variant


def measure_variant(form: Grader, name: str, file: Path, shown: Shown) -> tuple[Variant, np.ndarray]:
    """Grade and time one form; return it as the measure of others, and its probabilities `(n, 5)`."""
    told = form.grade(shown.images)
    measured = measure(told, shown.grades, form.card.refer_below, "")
    milliseconds = time_graph(file, shown.images[:1])
    megabytes = file.stat().st_size / 2**20
    return Variant(name, measured.acc, measured.kappa, milliseconds, 1.0, megabytes, "the measure"), told
