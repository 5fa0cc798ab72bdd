"""The grader: trained networks that answer together, from several views, calibrated, as one ONNX graph."""

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import structlog
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import nn

from qfundus.classical.folds import split_fold
from qfundus.classical.job import WEIGHTS_FILE, Job
from qfundus.classical.loader import Photographs, load_in_order
from qfundus.classical.network import Network
from qfundus.classical.place import Place
from qfundus.classical.recipe import NetworkRecipe, Pictures
from qfundus.classical.shards import Table, read_table
from qfundus.errors import SetupError
from qfundus.grades import GRADES
from qfundus.hybrid.metrics import find_threshold
from qfundus.onnx_export import export_module, open_session

_log = structlog.get_logger()
GRADER_FILE, CARD_FILE, HELD_FILE = "model.onnx", "grader.json", "held_out.npz"
_BATCH, _PARTS = 32, 5


class Ensemble(nn.Module):
    """Photographs `(batch, side, side, 3)` of uint8 to probabilities `(batch, 5)`.

    The logarithms of the likelihoods are averaged over a photograph's views, scaled by `scales` `(networks, 5)`, and
    averaged over the networks.
    """

    scales: torch.Tensor

    def __init__(self, networks: Iterable[nn.Module], views: int, scales: torch.Tensor) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.views = views
        self.register_buffer("scales", scales.float())

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return each network's logarithms as they are, `(networks, batch, 5)`."""
        seen = torch.cat(list(turn(images, self.views)))
        told = [one(seen).log_softmax(dim=1).view(self.views, -1, GRADES).mean(dim=0) for one in self.networks]
        return torch.stack(told)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return probabilities."""
        return (self.logits(images) * self.scales[:, None]).mean(dim=0).softmax(dim=1)


@dataclass(frozen=True)
class Held:
    """Averaged logits `(held, 5)` of the photographs that a network had not seen, their grades and rows `(held,)`."""

    logits: np.ndarray
    grades: np.ndarray
    rows: np.ndarray

    def only(self, chosen: np.ndarray) -> "Held":
        """Return those where `chosen` `(held,)` is true."""
        return Held(self.logits[chosen], self.grades[chosen], self.rows[chosen])


@dataclass(frozen=True)
class Card:
    """What belongs to a grader beside its graph.

    `refer_below` is the probability of the likeliest grade below which a person should look; NaN, there is no rule.
    """

    recipe: dict[str, Any]
    refer_below: float
    photographs: str

    @property
    def pictures(self) -> Pictures:
        """How a photograph becomes the graph's input."""
        return Pictures.model_validate(self.recipe["pictures"])


@dataclass(frozen=True)
class Grader:
    """A graph that grades photographs, and its card."""

    session: onnxruntime.InferenceSession
    card: Card

    def grade(self, images: np.ndarray) -> np.ndarray:
        """Return probabilities `(photographs, 5)` of prepared photographs `(photographs, side, side, 3)` of uint8."""
        pieces = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
        told = [np.asarray(self.session.run(["probabilities"], {"image": piece})[0]) for piece in pieces]
        return np.concatenate(told) if told else np.empty((0, 5), np.float32)

    def refers(self, probabilities: np.ndarray) -> np.ndarray:
        """Tell of which photographs `(n,)` with probabilities `(n, 5)` a person should look."""
        return probabilities.max(axis=1) < self.card.refer_below


def turn(images: torch.Tensor, views: int) -> Iterator[torch.Tensor]:
    """Yield `views` of the eight views that turning by right angles and mirroring give."""
    for view in range(views):
        seen = images.transpose(1, 2) if view & 1 else images
        axes = [axis for axis, bit in ((1, 2), (2, 4)) if view & bit]
        yield seen.flip(axes) if axes else seen


@dataclass(frozen=True)
class HeldOut:
    """What the networks that had not seen a photograph say of it: `probabilities` `(held, 5)`, the rest `(held,)`.

    Nor was it among what their calibration was fitted on.
    """

    probabilities: np.ndarray
    grades: np.ndarray
    names: np.ndarray
    splits: np.ndarray


def assemble(recipe: NetworkRecipe, jobs: list[Job], folder: Path) -> tuple[Card, HeldOut]:
    """Calibrate trained networks on what they had not seen, and write their grader; return its card, and that."""
    if (folder / CARD_FILE).exists():  # it is written last
        return read_card(folder), read_held_out(folder)
    _log.info("Calibrating on what each network had not seen")
    networks = [load_network(job) for job in jobs]
    told = [predict_held(network, job) for network, job in zip(networks, jobs, strict=True)]
    scales = calibrate(jobs, told)
    table = read_table(jobs[0].shards, recipe.pictures)
    logits, grades, rows = average_by_row(list(cross_fit(jobs, told, part_by_patient(table))))
    probabilities = softmax(logits, axis=1)
    card = Card(
        recipe=recipe.model_dump(mode="json"),
        refer_below=find_threshold(probabilities, recipe.grading.referred),
        photographs=table.digest,
    )
    _log.info("Exporting the grader")
    ensemble = Ensemble(networks, recipe.grading.views, torch.from_numpy(scales))
    export_module(ensemble, {"image": examples_of(jobs[0], table)}, folder / GRADER_FILE, ("probabilities",))
    held_out = HeldOut(probabilities, grades, table.names[rows], table.splits[rows])
    np.savez_compressed(folder / HELD_FILE, **vars(held_out))
    Place(str(folder)).write(CARD_FILE, json.dumps(asdict(card), indent=1).encode())
    return card, held_out


def examples_of(job: Job, table: Table) -> torch.Tensor:
    """Return what an exported graph is compared on with its networks: photographs and noise, `(4, side, side, 3)`."""
    side = job.recipe.pictures.side
    noise = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photographs = Photographs(job.shards, table.grades, job.seed, None)
    real = next(iter(load_in_order(photographs, np.arange(2), 2))).inputs
    return torch.cat([real, noise])


def read_held_out(folder: Path) -> HeldOut:
    """Read what the networks said of what they had not seen."""
    with np.load(folder / HELD_FILE) as kept:
        return HeldOut(**{name: kept[name] for name in kept.files})


def calibrate(jobs: Sequence[Job], told: Sequence[Held]) -> np.ndarray:
    """Find the scales of each network, `(networks, 5)`; those of a variant share theirs: more to fit them on."""
    alike = [[held for held, other in zip(told, jobs, strict=True) if other.recipe == job.recipe] for job in jobs]
    return np.stack([fit_scales(*average_by_row(its)[:2]) for its in alike])


def part_by_patient(table: Table) -> np.ndarray:
    """Divide photographs into a few parts, a patient's into one; return each row's part."""
    patients = np.where(table.patients == "", table.names, table.patients)
    return np.unique(patients, return_inverse=True)[1] % _PARTS


def cross_fit(jobs: Sequence[Job], told: Sequence[Held], part_of: np.ndarray) -> Iterator[Held]:
    """Yield the logits of each part scaled by what the others say, so that what is measured was not fitted on."""
    for part in range(_PARTS):
        scales = calibrate(jobs, [held.only(part_of[held.rows] != part) for held in told])
        for held, scale in zip(told, scales, strict=True):
            own = held.only(part_of[held.rows] == part)
            yield replace(own, logits=own.logits * scale)


def average_by_row(told: Sequence[Held]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average the logits of the networks that had not seen a photograph `(held, 5)`; its grade and row `(held,)`."""
    rows = np.concatenate([held.rows for held in told])
    found, place = np.unique(rows, return_inverse=True)
    summed = np.zeros((len(found), GRADES))
    np.add.at(summed, place, np.concatenate([held.logits for held in told]))
    grades = np.zeros(len(found), np.int64)
    grades[place] = np.concatenate([held.grades for held in told])
    return summed / np.bincount(place)[:, None], grades, found


def fit_scales(logits: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """Find the factor of each grade's logit `(5,)` under which the grades are likeliest.

    Vector scaling without offsets (C. Guo et al., arXiv 1706.04599).
    """
    if not len(grades):
        return np.ones(GRADES)

    def loss(logarithms: np.ndarray) -> float:
        return -float(log_softmax(logits * np.exp(logarithms), axis=1)[np.arange(len(grades)), grades].mean())

    return np.exp(minimize(loss, np.zeros(GRADES), method="L-BFGS-B", bounds=[(-2.0, 2.0)] * GRADES).x)


def load_network(job: Job) -> Network:
    """Read a trained network; nothing but tensors is unpickled."""
    how = job.recipe.network.model_copy(update={"pretrained": False})
    network = Network(how, job.recipe.pictures.side)
    network.load_state_dict(torch.load(io.BytesIO(job.place.read(WEIGHTS_FILE)), weights_only=True))
    return network.eval()


def predict_held(network: nn.Module, job: Job) -> Held:
    """Look at what a network had not seen."""
    table = read_table(job.shards, job.recipe.pictures)
    _, held = split_fold(table, job.recipe.grading.folds, job.fold)
    alone = Ensemble([network], job.recipe.grading.views, torch.ones(1, GRADES))
    examples = Photographs(job.shards, table.grades, job.seed, None)
    with torch.inference_mode():
        told = [
            (alone.logits(p.inputs)[0].numpy(), p.weights.numpy() > 0) for p in load_in_order(examples, held, _BATCH)
        ]
    readable = np.concatenate([weighs for _, weighs in told])
    logits = np.concatenate([logits for logits, _ in told])
    return Held(logits[readable], table.grades[held][readable], held[readable])


def open_grader(model: str, form: str = "") -> Grader:
    """Open what `qfundus train` wrote, or a model in MLflow by its address (`models:/name/version`, `runs:/...`).

    `form` is one that `qfundus quantise` kept in such a folder, `int8` or `int8-dynamic`.

    Raises:
        SetupError: where it is neither, or there is no such form.
    """
    if "://" in model:
        raise SetupError(f"{model} is no grader: name a folder that `qfundus train` wrote, or an MLflow model.")
    if ":/" in model:
        if form:
            raise SetupError("A model in MLflow has one form: name the folder that `qfundus quantise` wrote into.")
        return _open_registered(model)
    folder, name = Path(model), f"model.{form}.onnx" if form else GRADER_FILE
    if folder.is_file():
        raise SetupError(f"{folder} is a file: name its folder, where {CARD_FILE} lies beside it.")
    if not (folder / name).exists():
        wrote = "`qfundus quantise` kept it in" if form else "`qfundus train` wrote, or an MLflow model"
        raise SetupError(f"{folder} holds no {name}: name the folder that {wrote}.")
    try:
        return Grader(open_session(folder / name), read_card(folder))
    except (OSError, ValueError, TypeError, Fail, InvalidGraph, InvalidProtobuf) as error:
        why = str(error).splitlines()[0][:200]
        raise SetupError(f"The grader in {folder} is damaged, or not whole ({why}): train it again.") from None


def read_card(folder: Path) -> Card:
    """Read what belongs to a grader."""
    return Card(**json.loads((folder / CARD_FILE).read_text()))


def _name_server() -> None:
    """Let MLflow look where the settings say, unless the environment names a server: else it would make its own."""
    import mlflow

    from qfundus.settings import load_settings

    if os.environ.get("MLFLOW_TRACKING_URI") or mlflow.is_tracking_uri_set():
        return
    try:
        mlflow.set_tracking_uri(load_settings().mlflow_uri)
    except SetupError:
        raise SetupError("Where is MLflow? Set MLFLOW_TRACKING_URI to what `qfundus train --track` named.") from None


def _open_registered(model: str) -> Grader:
    from mlflow import models as mlflow_models
    from mlflow import onnx as mlflow_onnx
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # among the figures
    _name_server()
    try:
        info = mlflow_models.get_model_info(model)
        session = open_session(mlflow_onnx.load_model(model).SerializeToString())
    except MlflowException as error:
        raise SetupError(f"MLflow has no model {model} ({str(error)[:200]}); is MLFLOW_TRACKING_URI right?") from None
    if info.metadata and "card" in info.metadata:
        return Grader(session, Card(**json.loads(info.metadata["card"])))
    # The nightly's grader: its photographs are cut to the disc.
    side = int(session.get_inputs()[0].shape[1])
    pictures = Pictures(side=side, preparation=("disc",)).model_dump()
    refer_below = float((info.metadata or {}).get("refer_below", "nan"))
    return Grader(session, Card({"name": model, "pictures": pictures}, refer_below, ""))
