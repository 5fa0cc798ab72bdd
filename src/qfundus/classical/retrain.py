"""Train a recipe's networks on the photographs of a snapshot, by the launcher that the site has set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import structlog

from qfundus.classical.assemble import assemble
from qfundus.classical.job import TRAINED_FILE, TrainingJob
from qfundus.classical.launch import InPlace, Launcher, Torchrun, train_all
from qfundus.classical.preparation import divide, list_jobs, prepare_shards
from qfundus.classical.progress import Progress, Watcher
from qfundus.classical.storage_folder import delete_folder
from qfundus.errors import SetupError
from qfundus.features.photographs import TRAININGS, forget_trainings, read_photograph
from qfundus.imaging.labelled import Labelled
from qfundus.recipes.network import NetworkRecipe
from qfundus.settings import TrainingSettings, load_training_settings, state_folder
from qfundus.site import Site
from qfundus.storage import digest

_log = structlog.get_logger()
_ABANDONED = timedelta(days=7)  # a training that has not been resumed for so long
_SUMMED = ("seconds", "parameters", "skipped")
# What decides which photographs a network is trained on.
SNAPSHOT_COLUMNS = ("eye_id", "study_id", "patient_id", "split", "grade", "instance_digest")


def retrain(recipe: NetworkRecipe, snapshot: pd.DataFrame, folder: Path, site: Site) -> dict[str, float]:
    """Train a recipe's networks on a snapshot's photographs and write their grader; return its training figures.

    `snapshot` has the columns SNAPSHOT_COLUMNS.

    All that a training needs lies in S3, where a later attempt finds it, and is deleted when training ends; the test
    split is not part of it. What trainings that failed for good left behind is deleted after a week.

    Raises:
        SetupError: if there is too little to train on, or the launcher is not available.
        TrainingError: if a network's training failed.
    """
    eyes = snapshot.query("split != 'test'")
    key = digest(f"{recipe.fingerprint_text()}\n{eyes.to_csv(index=False)}".encode())[:32]
    work = f"s3://{site.settings.models_bucket}/{TRAININGS}/{key}"
    scratch = state_folder() / TRAININGS / key
    training = load_training_settings()
    launcher = open_launcher(training, len(recipe.members()), scratch)
    forget_trainings(site, datetime.now(UTC) - _ABANDONED)
    table = prepare_shards(recipe, list_photographs(eyes, site), work)
    watcher = Watcher(divide(recipe, table, recipe.seed, launcher.processes))
    jobs = list_jobs(recipe, table, work, recipe.seed, track=site.settings.mlflow_uri)
    _log.info("Training networks", networks=len(jobs), launcher=training.launcher, processes=training.processes)
    train_all(jobs, launcher, ProgressLog(watcher))
    folder.mkdir(parents=True, exist_ok=True)
    assemble(recipe, jobs, table, folder)
    figures = summarise(jobs)
    for address in (work, str(scratch)):
        delete_folder(address)
    return figures


def list_photographs(eyes: pd.DataFrame, site: Site) -> list[Labelled]:
    """List a snapshot's eyes as labelled photographs, without reading their pixels."""
    return [
        Labelled(
            name=name_eye(row["eye_id"], row["study_id"]),
            grade=int(row["grade"]),
            split=str(row["split"]),
            patient=str(row["patient_id"]),
            read=partial(_read, site, str(row["instance_digest"])),
        )
        for row in eyes.to_dict("records")
    ]


def name_eye(eye: object, study: object) -> str:
    """Name an eye at a visit."""
    return f"{eye} {study}"


def open_launcher(settings: TrainingSettings, networks: int, scratch: Path) -> Launcher:
    """Open what trains the networks.

    Raises:
        SetupError: if Kubeflow Trainer is configured and no cluster is available.
    """
    match settings.launcher:
        case "in_place":
            if settings.processes > 1:
                raise SetupError(
                    "The launcher in_place runs one process: set QFUNDUS_TRAINING_LAUNCHER to torchrun, "
                    "or QFUNDUS_TRAINING_PROCESSES to 1."
                )
            return InPlace()
        case "torchrun":
            return Torchrun.open(networks, settings.processes, settings.at_once, scratch)
        case "trainjob":
            from qfundus.classical.trainjob import open_trainjobs

            return open_trainjobs(settings, networks)


@dataclass
class ProgressLog:
    """Logs the networks' progress each time that one has finished an epoch."""

    watcher: Watcher
    last: Progress | None = None

    def __call__(self, jobs: Sequence[TrainingJob]) -> None:
        """Log what is new."""
        progress = self.watcher.look(jobs)
        if self.last is None or progress.epochs != self.last.epochs:
            _log.info(progress.describe())
        self.last = progress


def summarise(jobs: Sequence[TrainingJob]) -> dict[str, float]:
    """Return the figures of trainings: sums of seconds and parameters, means of all else."""
    summaries: list[dict[str, float]] = [json.loads(job.results.read(TRAINED_FILE)) for job in jobs]
    figures = {"networks": float(len(jobs))}
    for name in summaries[0]:
        total = float(sum(summary[name] for summary in summaries))
        figures[name] = total if name in _SUMMED else total / len(jobs)
    return figures


def _read(site: Site, content: str) -> np.ndarray:
    pixels = read_photograph(site, content)
    if pixels is None:
        raise FileNotFoundError("It has been erased since the snapshot.")
    return pixels
