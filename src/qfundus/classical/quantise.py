"""The grader in whole numbers of 8 bits, and what that costs."""

import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qfundus.classical.evaluate import Shown, measure, read_pictures
from qfundus.classical.grader import GRADER_FILE, Grader, open_grader
from qfundus.errors import SetupError
from qfundus.hybrid.metrics import Estimate, accuracy, interval, patient_resamples, quadratic_weighted_kappa
from qfundus.imaging.labelled import Labelled, read_labelled
from qfundus.onnx_export import open_session

DYNAMIC_FILE, STATIC_FILE = "model.int8-dynamic.onnx", "model.int8.onnx"
_CALIBRATED_ON, _TIMED = 128, 20  # photographs, runs
_FASTER, _LARGEST = 1.1, 0.9  # of float32's speed and file: less is not called faster, nor more smaller
_RESAMPLES, _CONFIDENCE = 2000, 0.95


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
        write_static(folder / GRADER_FILE, drafts / STATIC_FILE, calibration_pictures(others, grader))
        return [plain, *_judge_drafts(drafts, folder, grader, shown, plain, told, most_lost)]


def _judge_drafts(
    drafts: Path, folder: Path, grader: Grader, shown: Shown, plain: Variant, told: np.ndarray, most_lost: float
) -> Iterator[Variant]:
    for name, file in (("int8, dynamic", DYNAMIC_FILE), ("int8, static", STATIC_FILE)):
        form = Grader(open_session(drafts / file), grader.card)
        variant, told_by_form = measure_variant(form, name, drafts / file, shown)
        verdict = judge(told_by_form, told, shown.grades, shown.patients, most_lost)
        variant = replace(variant, speed=plain.milliseconds / variant.milliseconds, verdict=verdict)
        if not is_quantised(drafts / file):
            variant = replace(variant, verdict="left out: there is nothing in it to quantise")
        elif variant.speed < _FASTER and variant.megabytes > _LARGEST * plain.megabytes:
            variant = replace(variant, verdict="left out: it is neither faster nor smaller")
        if variant.verdict.startswith("kept"):
            (drafts / file).replace(folder / file)
        else:
            (folder / file).unlink(missing_ok=True)  # what an earlier run had kept
        yield variant


def is_quantised(file: Path) -> bool:
    """Tell whether any operation of a graph is on whole numbers."""
    graph = onnx.load(file, load_external_data=False).graph
    return any("Integer" in node.op_type or node.op_type == "DequantizeLinear" for node in graph.node)


def write_dynamic(source: Path, target: Path) -> None:
    """Quantise the weights of matrix products; convolutions stay as they are."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        prepared = _prepare(source, Path(scratch))
        quantize_dynamic(prepared, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])


def write_static(source: Path, target: Path, pictures: np.ndarray) -> None:
    """Quantise weights and activations, whose ranges are read off photographs `(n, side, side, 3)` of uint8."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Photographs(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(pictures[:, None])

        def get_next(self) -> dict[str, Any]:
            image = next(self.left, None)
            return {} if image is None else {"image": image}

    with tempfile.TemporaryDirectory() as scratch:
        quantize_static(
            _prepare(source, Path(scratch)),
            target,
            Photographs(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],  # the rest takes little time, and its rounding costs accuracy
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )


def calibration_pictures(labelled: list[Labelled], grader: Grader) -> np.ndarray:
    """Take photographs evenly from all there are."""
    step = max(1, len(labelled) // _CALIBRATED_ON)
    return read_pictures(labelled[::step][:_CALIBRATED_ON], grader.card.pictures).images


def measure_variant(form: Grader, name: str, file: Path, shown: Shown) -> tuple[Variant, np.ndarray]:
    """Grade and time one form; return it as the measure of others, and its probabilities `(n, 5)`."""
    told = form.grade(shown.images)
    measured = measure(told, shown.grades, form.card.refer_below, "")
    milliseconds = time_one(form, shown.images[:1])
    megabytes = file.stat().st_size / 2**20
    return Variant(name, measured.acc, measured.kappa, milliseconds, 1.0, megabytes, "the measure"), told


def judge(form: np.ndarray, plain: np.ndarray, grades: np.ndarray, patients: np.ndarray, most_lost: float) -> str:
    """Refuse a form where the paired loss in accuracy or kappa may be more than is allowed, patients resampled.

    `form` and `plain` are probabilities `(n, 5)` of the same photographs.
    """
    whole, resampled = np.ones((1, len(grades))), patient_resamples(patients, _RESAMPLES, seed=0)
    losses: list[Estimate] = []
    for metric in (accuracy, quadratic_weighted_kappa):
        value, lost = (metric(plain, grades, w) - metric(form, grades, w) for w in (whole, resampled))
        losses.append(Estimate(float(value[0]), *interval(lost, _CONFIDENCE)))
    # A kappa is not defined where all photographs are of one grade: then accuracy decides.
    worst = max(losses, key=lambda loss: -np.inf if np.isnan(loss.high) else loss.high)
    if worst.high > most_lost:
        return f"refused: it costs {worst}; measured on more photographs, the interval is narrower"
    return f"kept: it costs {worst}"


def time_one(grader: Grader, picture: np.ndarray) -> float:
    """Return the milliseconds that one photograph takes: the least of twenty, as others only add to it."""
    times: list[float] = []
    for _ in range(_TIMED):
        begun = time.perf_counter()
        grader.grade(picture)
        times.append(time.perf_counter() - begun)
    return 1000 * min(times)


def _prepare(source: Path, scratch: Path) -> Path:
    """Fold what can be folded, as ONNX Runtime's quantiser asks for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(max(logging.getLogger().level, logging.WARNING))
    prepared = scratch / "prepared.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared
