"""Calibrate networks on the photographs that each was not trained on."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import nn

from qfundus.classical.ensemble import NetworkEnsemble
from qfundus.classical.folds import split_fold
from qfundus.classical.job import WEIGHTS_FILE, TrainingJob
from qfundus.classical.loader import ShardDataset, load_in_order
from qfundus.classical.network import Network
from qfundus.classical.shards import ShardTable
from qfundus.grades import GRADES

GRADING_BATCH, _PARTS = 32, 5


@dataclass(frozen=True)
class HeldOutLogits:
    """Averaged logits `(held, 5)` of the photographs held out from a network, their grades and rows `(held,)`."""

    logits: np.ndarray
    grades: np.ndarray
    rows: np.ndarray

    def only(self, chosen: np.ndarray) -> "HeldOutLogits":
        """Return those where `chosen` `(held,)` is true."""
        return HeldOutLogits(self.logits[chosen], self.grades[chosen], self.rows[chosen])


def calibrate(jobs: Sequence[TrainingJob], held_out: Sequence[HeldOutLogits]) -> np.ndarray:
    """Fit the scales of each network, `(networks, 5)`; networks of one variant share them, as that gives more data."""
    alike = [
        [logits for logits, other in zip(held_out, jobs, strict=True) if other.recipe == job.recipe] for job in jobs
    ]
    return np.stack([fit_scales(*average_by_row(its)[:2]) for its in alike])


def part_by_patient(table: ShardTable) -> np.ndarray:
    """Divide photographs into a few parts, all of a patient's into the same; return each row's part."""
    patients = np.where(table.patients == "", table.names, table.patients)
    return np.unique(patients, return_inverse=True)[1] % _PARTS


def cross_fit(
    jobs: Sequence[TrainingJob], held_out: Sequence[HeldOutLogits], part_of: np.ndarray
) -> Iterator[HeldOutLogits]:
    """Yield the logits of each part, scaled by a fit on the other parts: none is measured on what it was fitted on."""
    for part in range(_PARTS):
        scales = calibrate(jobs, [held.only(part_of[held.rows] != part) for held in held_out])
        for held, scale in zip(held_out, scales, strict=True):
            own = held.only(part_of[held.rows] == part)
            yield replace(own, logits=own.logits * scale)


def average_by_row(held_out: Sequence[HeldOutLogits]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average the logits of the networks that had not seen a photograph `(held, 5)`; its grade and row `(held,)`."""
    rows = np.concatenate([held.rows for held in held_out])
    unique_rows, index = np.unique(rows, return_inverse=True)
    summed = np.zeros((len(unique_rows), GRADES))
    np.add.at(summed, index, np.concatenate([held.logits for held in held_out]))
    grades = np.zeros(len(unique_rows), np.int64)
    grades[index] = np.concatenate([held.grades for held in held_out])
    return summed / np.bincount(index)[:, None], grades, unique_rows


def fit_scales(logits: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """Find the factor of each grade's logit `(5,)` that maximises the likelihood of the grades.

    Vector scaling without offsets (C. Guo et al., arXiv 1706.04599).
    """
    if not len(grades):
        return np.ones(GRADES)

    def loss(logarithms: np.ndarray) -> float:
        return -float(log_softmax(logits * np.exp(logarithms), axis=1)[np.arange(len(grades)), grades].mean())

    return np.exp(minimize(loss, np.zeros(GRADES), method="L-BFGS-B", bounds=[(-2.0, 2.0)] * GRADES).x)


def load_network(job: TrainingJob) -> Network:
    """Read a trained network; nothing but tensors is unpickled."""
    architecture = job.recipe.network.model_copy(update={"pretrained": False})
    network = Network(architecture, job.recipe.images.side)
    network.load_state_dict(torch.load(io.BytesIO(job.results.read(WEIGHTS_FILE)), weights_only=True))
    return network.eval()


def predict_held_out(network: nn.Module, job: TrainingJob, table: ShardTable) -> HeldOutLogits:
    """Predict the photographs that a network was not trained on."""
    _, held = split_fold(table, job.recipe.grading.folds, job.fold)
    alone = NetworkEnsemble([network], job.recipe.grading.views, torch.ones(1, GRADES))
    examples = ShardDataset(job.shards, table.grades, job.seed, None)
    with torch.inference_mode():
        batches = [
            (alone.logits(p.inputs)[0].numpy(), p.weights.numpy() > 0)
            for p in load_in_order(examples, held, GRADING_BATCH)
        ]
    readable = np.concatenate([mask for _, mask in batches])
    logits = np.concatenate([logits for logits, _ in batches])
    return HeldOutLogits(logits[readable], table.grades[held][readable], held[readable])
