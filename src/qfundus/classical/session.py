"""Train a recipe from photographs to a grader, in one folder, and resume where it was interrupted."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import structlog
import torch

from qfundus.classical.assemble import assemble
from qfundus.classical.checkpoint_folder import forget_checkpoints
from qfundus.classical.claim import claim_folder
from qfundus.classical.evaluate import Measured, measure
from qfundus.classical.job import TRAINED_FILE, TrainingJob, hold_folder
from qfundus.classical.launch import Launcher, train_all
from qfundus.classical.parallel import Layout
from qfundus.classical.preparation import divide, is_shards, list_jobs, list_table, prepare_shards
from qfundus.classical.progress import Progress, Watcher
from qfundus.classical.publish import publish_grader
from qfundus.classical.shards import read_table
from qfundus.classical.storage_folder import StorageFolder, open_folder
from qfundus.classical.tracker_checks import check_trackers
from qfundus.imaging.labelled import read_labelled
from qfundus.recipes.network import NetworkRecipe

_log = structlog.get_logger()


def train_grader(
    recipe: NetworkRecipe,
    data: str,
    folder: Path,
    *,
    seed: int,
    launcher: Launcher,
    checkpoints: str = "",
    track: str = "",
    report: Callable[[Progress], None] = lambda _: None,
) -> Measured:
    """Prepare photographs, train the recipe's networks, calibrate them, and write the grader into `folder`.

    `data` is an npz file, a folder, or shards by their address; `checkpoints` an address below which they go, instead
    of `folder`. Returns how the networks grade what they had not seen.

    Raises:
        SetupError: if the folder holds a training of another recipe, seed or data.
        TrainingError: if a network's training failed, or another process trains in the folder.
    """
    # Mistakes in data, recipe or addresses must show before the folder is claimed.
    labelled = [] if is_shards(data) else read_labelled(Path(data))
    table = read_table(data, recipe.images) if is_shards(data) else list_table(labelled)
    steps = divide(recipe, table, seed, launcher.processes)
    check_trackers(track)
    if checkpoints:
        open_folder(checkpoints)
    folder.mkdir(parents=True, exist_ok=True)
    with hold_folder(StorageFolder(str(folder)), Layout(0, 1, torch.device("cpu"))):
        claim_folder(folder, recipe, data, seed, checkpoints)
        if not is_shards(data):
            table = prepare_shards(recipe, labelled, str(folder))
            steps = divide(recipe, table, seed, launcher.processes)
        jobs = list_jobs(recipe, table, str(folder), seed, checkpoints, track)
        watcher = Watcher(steps)
        train_all(jobs, launcher, lambda ran: report(watcher.look(ran)))
        warn_of_setbacks(jobs)
        card, held_out = assemble(recipe, jobs, table, folder)
        warn_of_constant(held_out.probabilities)
        measured = measure(held_out.probabilities, held_out.grades, card.refer_below, "held out")
        if track:
            _publish(track, folder, f"{recipe.name} seed {seed}", measured, jobs)
        for job in jobs:
            forget_checkpoints(job.checkpoint_folder)
    return measured


def _publish(track: str, folder: Path, name: str, measured: Measured, jobs: Sequence[TrainingJob]) -> None:
    """Log the grader in MLflow; if that fails now, the same command does it later."""
    try:
        _log.info("Logged the grader in MLflow", model=publish_grader(track, folder, name, measured, jobs))
    except Exception as error:  # noqa: BLE001  (its client has its own)
        _log.warning("Could not send the grader to MLflow; the same command tries again", why=type(error).__name__)


def warn_of_setbacks(jobs: Sequence[TrainingJob]) -> None:
    """Warn of checkpoints and photographs that were lost on the way."""
    summaries = [json.loads(job.results.read(TRAINED_FILE)) for job in jobs]
    if lost := sum(summary.get("lost_checkpoints", 0) for summary in summaries):
        _log.warning("Checkpoints could not be written: each network's output.log says why", checkpoints=lost)
    if skipped := sum(summary["skipped"] for summary in summaries):
        _log.warning("Photographs could not be read: prepare the shards again", times=skipped)


def warn_of_constant(probabilities: np.ndarray) -> None:
    """Warn of a grader that predicts the same grade for every photograph; `probabilities` are `(n, 5)`."""
    predicted = np.unique(probabilities.argmax(axis=1))
    if len(predicted) == 1 and len(probabilities) > 1:
        _log.warning(
            "The grader predicts the same grade for every photograph: train longer, or change learning_rate",
            grade=int(predicted[0]),
        )
