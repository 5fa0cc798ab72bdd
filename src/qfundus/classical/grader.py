"""A grader of photographs: an ONNX graph and its card, in a folder or in MLflow."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from qfundus.classical.calibration import GRADING_BATCH
from qfundus.classical.card import CARD_FILE, Card, parse_card, read_card
from qfundus.errors import SetupError
from qfundus.mlflow_import import import_mlflow
from qfundus.onnx_graphs.run import GRADER_FILE, open_session
from qfundus.recipes.network import ImageFormat
from qfundus.settings import load_settings


@dataclass(frozen=True)
class Grader:
    """A graph that grades photographs, and its card."""

    session: onnxruntime.InferenceSession
    card: Card

    def grade(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities `(photographs, 5)` of prepared photographs `(photographs, side, side, 3)` of uint8."""
        pieces = (images[start : start + GRADING_BATCH] for start in range(0, len(images), GRADING_BATCH))
        answers = [np.asarray(self.session.run(["probabilities"], {"image": piece})[0]) for piece in pieces]
        return np.concatenate(answers) if answers else np.empty((0, 5), np.float32)

    def refers(self, probabilities: np.ndarray) -> np.ndarray:
        """Tell which photographs `(n,)` with probabilities `(n, 5)` are referred to a person."""
        return probabilities.max(axis=1) < self.card.refer_below


def open_grader(model: str, form: str = "") -> Grader:
    """Open what `qfundus train` wrote, or a model in MLflow by its address (`models:/name/version`, `runs:/...`).

    `form` is one that `qfundus quantise` wrote to such a folder, `int8` or `int8-dynamic`.

    Raises:
        SetupError: if it is neither, or the form does not exist.
    """
    if "://" in model:
        raise SetupError(f"{model} is not a grader: give a folder that `qfundus train` wrote, or an MLflow model.")
    if ":/" in model:
        if form:
            raise SetupError("A model in MLflow has one form: give the folder that `qfundus quantise` wrote to.")
        return _open_registered(model)
    folder, name = Path(model), f"model.{form}.onnx" if form else GRADER_FILE
    if folder.is_file():
        raise SetupError(f"{folder} is a file: give its folder, which holds {CARD_FILE}, too.")
    if not (folder / name).exists():
        writer = "`qfundus quantise` wrote it to" if form else "`qfundus train` wrote, or an MLflow model"
        raise SetupError(f"{folder} does not hold {name}: give the folder that {writer}.")
    try:
        return Grader(open_session(folder / name), read_card(folder))
    except (OSError, ValueError, TypeError, Fail, InvalidGraph, InvalidProtobuf) as error:
        why = str(error).splitlines()[0][:200]
        raise SetupError(f"The grader in {folder} is damaged or incomplete ({why}): train it again.") from None


def _name_server() -> None:
    """Let MLflow look where the settings say, unless the environment names a server: else it would make its own."""
    mlflow = import_mlflow()
    if os.environ.get("MLFLOW_TRACKING_URI") or mlflow.is_tracking_uri_set():
        return
    try:
        mlflow.set_tracking_uri(load_settings().mlflow_uri)
    except SetupError:
        raise SetupError(
            "MLflow's address is not set: set MLFLOW_TRACKING_URI to what you gave `qfundus train --track`."
        ) from None


def _open_registered(model: str) -> Grader:
    _name_server()
    from mlflow import models as mlflow_models
    from mlflow import onnx as mlflow_onnx
    from mlflow.exceptions import MlflowException

    try:
        info = mlflow_models.get_model_info(model)
        session = open_session(mlflow_onnx.load_model(model).SerializeToString())
    except MlflowException as error:
        raise SetupError(f"MLflow has no model {model} ({str(error)[:200]}): check MLFLOW_TRACKING_URI.") from None
    if info.metadata and "card" in info.metadata:
        return Grader(session, parse_card(info.metadata["card"]))
    # The nightly's grader: its photographs are cut to the disc.
    side = int(session.get_inputs()[0].shape[1])
    images = ImageFormat(side=side, preparation=("disc",)).model_dump()
    refer_below = float((info.metadata or {}).get("refer_below", "nan"))
    return Grader(session, Card({"name": model, "images": images}, refer_below, ""))
