"""Assemble trained networks into a calibrated grader."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import structlog
import torch
from scipy.special import softmax

from qfundus.classical.calibration import (
    average_by_row,
    calibrate,
    cross_fit,
    load_network,
    part_by_patient,
    predict_held_out,
)
from qfundus.classical.card import CARD_FILE, HELD_FILE, Card, read_card
from qfundus.classical.ensemble import NetworkEnsemble
from qfundus.classical.job import TrainingJob
from qfundus.classical.loader import ShardDataset, load_in_order
from qfundus.classical.shards import ShardTable
from qfundus.classical.storage_folder import StorageFolder
from qfundus.evaluation.metrics import find_threshold
from qfundus.onnx_graphs.export import export_module
from qfundus.onnx_graphs.run import GRADER_FILE
from qfundus.recipes.network import NetworkRecipe

_log = structlog.get_logger()


@dataclass(frozen=True)
class HeldOutPredictions:
    """Predictions of each photograph by the networks it was held out from, `(held, 5)`, the rest `(held,)`.

    Their calibration was fitted on other photographs, too.
    """

    probabilities: np.ndarray
    grades: np.ndarray
    names: np.ndarray
    splits: np.ndarray


def assemble(
    recipe: NetworkRecipe, jobs: list[TrainingJob], table: ShardTable, folder: Path
) -> tuple[Card, HeldOutPredictions]:
    """Calibrate trained networks on the photographs held out from each, and write their grader.

    Returns its card, and its predictions for the photographs held out.
    """
    if (folder / CARD_FILE).exists():  # it is written last
        return read_card(folder), read_held_out(folder)
    _log.info("Calibrating each network on the photographs that it was not trained on")
    networks = [load_network(job) for job in jobs]
    held_out = [predict_held_out(network, job, table) for network, job in zip(networks, jobs, strict=True)]
    scales = calibrate(jobs, held_out)
    logits, grades, rows = average_by_row(list(cross_fit(jobs, held_out, part_by_patient(table))))
    probabilities = softmax(logits, axis=1)
    card = Card(
        recipe=recipe.model_dump(mode="json"),
        refer_below=find_threshold(probabilities, recipe.grading.referral_rate),
        photographs=table.digest,
    )
    _log.info("Exporting the grader")
    ensemble = NetworkEnsemble(networks, recipe.grading.views, torch.from_numpy(scales))
    export_module(ensemble, {"image": examples_of(jobs[0], table)}, folder / GRADER_FILE, ("probabilities",))
    predictions = HeldOutPredictions(probabilities, grades, table.names[rows], table.splits[rows])
    np.savez_compressed(folder / HELD_FILE, **vars(predictions))
    StorageFolder(str(folder)).write(CARD_FILE, json.dumps(asdict(card), indent=1).encode())
    return card, predictions


def examples_of(job: TrainingJob, table: ShardTable) -> torch.Tensor:
    """Return what an exported graph is compared on with its networks: photographs and noise, `(4, side, side, 3)`."""
    side = job.recipe.images.side
    noise = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photographs = ShardDataset(job.shards, table.grades, job.seed, None)
    real = next(iter(load_in_order(photographs, np.arange(2), 2))).inputs
    return torch.cat([real, noise])


def read_held_out(folder: Path) -> HeldOutPredictions:
    """Read the predictions of the photographs held out."""
    with np.load(folder / HELD_FILE) as stored:
        return HeldOutPredictions(**{name: stored[name] for name in stored.files})
