"""Choose the form that is served: float32, or int8 if the gate accepts what it costs."""

from pathlib import Path

import numpy as np

from qfundus.errors import SetupError
from qfundus.evaluation.gate import Drop, judge_form
from qfundus.evaluation.predictions import Predictions
from qfundus.features.photographs import grade_photographs, read_discs
from qfundus.hybrid.grader_files import HEAD_FILE, OUTPUTS, ServedForm
from qfundus.onnx_graphs.quantise import choose_calibration, write_static
from qfundus.onnx_graphs.run import GRADER_FILE, time_graphs
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.site import Site

INT8_FILE = "model.int8.onnx"


def choose_served_form(
    recipe: NightlyRecipe, folder: Path, predictions: Predictions, calibration: list[str], site: Site
) -> tuple[Predictions, ServedForm]:
    """Serve int8 if the recipe asks for it and the gate accepts it; return the served form's predictions.

    `calibration` are the digests of photographs that ranges may be calibrated on. An eye whose photograph has been
    erased meanwhile is left out.

    Raises:
        SetupError: if no photograph to calibrate on is left.
    """
    if recipe.serving.form == "float32":
        return predictions, ServedForm()
    discs = [disc for disc in read_discs(site, choose_calibration(calibration)) if disc is not None]
    if not discs:
        raise SetupError("Every photograph of the training split was erased meanwhile: start the retraining again.")
    int8_graph = write_int8_form(folder, np.stack(discs))
    (hybrid, classical, quantum), present = grade_photographs(
        site, int8_graph, predictions.eyes["instance_digest"], OUTPUTS
    )
    predictions = predictions.only(present)
    drop = judge_form(
        hybrid,
        predictions.hybrid,
        predictions.grades,
        predictions.patients,
        recipe.serving.max_drop,
        recipe.evaluation,
        recipe.seed,
    )
    served = serve_if_accepted(folder, drop, discs[0][None])
    if served.form == "int8":
        by_form = {"classical": classical, "quantum": quantum, "hybrid": hybrid}
        predictions = Predictions(predictions.eyes, by_form)
    return predictions, served


def write_int8_form(folder: Path, discs: np.ndarray) -> Path:
    """Write a grader's int8 form beside it, calibrated on `discs` `(n, 224, 224, 3)` of uint8."""
    write_static(folder / GRADER_FILE, folder / INT8_FILE, discs)
    return folder / INT8_FILE


def serve_if_accepted(folder: Path, drop: Drop, disc: np.ndarray) -> ServedForm:
    """Put the int8 form in the grader's place if its drop is accepted, else delete it.

    `disc` `(1, 224, 224, 3)` of uint8 is what both are timed on.
    """
    float32, int8 = folder / GRADER_FILE, folder / INT8_FILE
    before, after = time_graphs((float32, int8), disc)
    size = int8.stat().st_size / float32.stat().st_size
    reason = f"{drop}; it takes {after / before:.2f} of float32's time and {size:.2f} of its size"
    if not drop.accepted:
        int8.unlink()
        return ServedForm("float32", reason)
    int8.replace(float32)
    # The head's float32 graph would answer differently: later nights compare with this grader by its own graph.
    (folder / HEAD_FILE).unlink(missing_ok=True)
    return ServedForm("int8", reason)
