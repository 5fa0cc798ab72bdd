"""Train a recipe's networks on the photographs of a snapshot, by the launcher that the site has set."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import structlog

from qfundus.classical.grader import GRADER_FILE, assemble, read_held_out
from qfundus.classical.job import TRAINED_FILE, Job
from qfundus.classical.launch import InPlace, Launcher, Torchrun, train_all
from qfundus.classical.place import forget
from qfundus.classical.recipe import NetworkRecipe
from qfundus.classical.session import Progress, Watcher, divide, list_jobs, prepare_shards
from qfundus.classical.shards import read_table
from qfundus.errors import SetupError
from qfundus.features.photographs import TRAININGS, forget_trainings, read_discs, read_photograph
from qfundus.features.snapshot import Split
from qfundus.hybrid.grader import LEAST, run_graph
from qfundus.imaging.labelled import Labelled
from qfundus.settings import Settings, TrainingSettings, load_training_settings, state_folder
from qfundus.storage import ObjectStore, digest

_log = structlog.get_logger()
_ABANDONED = timedelta(days=7)  # a training that nobody has gone on with for so long
_SUMMED = ("seconds", "parameters", "skipped")


def retrain(
    recipe: NetworkRecipe, snapshot: pd.DataFrame, folder: Path, store: ObjectStore, settings: Settings
) -> dict[str, float]:
    """Train a recipe's networks on a snapshot's photographs and write their grader; return its training figures.

    `snapshot` says of each eye eye_id, study_id, patient_id, split, grade and instance_digest.

    All that a training needs lies in S3, so that whoever goes on with it finds it, and is deleted at its end. The test
    split is not among it. What trainings that failed for good have left is deleted after a week.

    Raises:
        SetupError: where there is too little to train on, or the launcher cannot be had.
        TrainingError: where a network's training failed.
    """
    eyes = snapshot.query("split != 'test'")
    key = digest(f"{json.dumps(recipe.what_is_learnt())}\n{eyes.to_csv(index=False)}".encode())[:32]
    work = f"s3://{settings.models_bucket}/{TRAININGS}/{key}"
    scratch = state_folder() / TRAININGS / key
    how = load_training_settings()
    launcher = open_launcher(how, len(recipe.members()), scratch)
    forget_trainings(store, settings, datetime.now(UTC) - _ABANDONED)
    shards = prepare_shards(recipe, list_photographs(eyes, store, settings), work)
    watcher = Watcher(divide(recipe, read_table(shards, recipe.pictures), recipe.seed, launcher.processes))
    jobs = list_jobs(recipe, shards, work, recipe.seed, track=settings.mlflow_uri)
    _log.info("Networks are trained", networks=len(jobs), launcher=how.launcher, processes=how.processes)
    train_all(jobs, launcher, Said(watcher))
    folder.mkdir(parents=True, exist_ok=True)
    assemble(recipe, jobs, folder)
    figures = summarise(jobs)
    for place in (work, str(scratch)):
        forget(place)
    return figures


def list_photographs(eyes: pd.DataFrame, store: ObjectStore, settings: Settings) -> list[Labelled]:
    """List a snapshot's eyes as labelled photographs, without reading their pixels."""
    return [
        Labelled(
            name=name_eye(row["eye_id"], row["study_id"]),
            grade=int(row["grade"]),
            split=str(row["split"]),
            patient=str(row["patient_id"]),
            read=partial(_read, store, settings, str(row["instance_digest"])),
        )
        for row in eyes.to_dict("records")
    ]


def name_eye(eye: object, study: object) -> str:
    """Name an eye at a visit."""
    return f"{eye} {study}"


def open_launcher(how: TrainingSettings, networks: int, scratch: Path) -> Launcher:
    """Open what trains the networks.

    Raises:
        SetupError: where Kubeflow Trainer is asked for and no cluster is to be had.
    """
    match how.launcher:
        case "in_place":
            if how.processes > 1:
                raise SetupError("One process trains in place: set QFUNDUS_TRAINING_LAUNCHER to torchrun for more.")
            return InPlace()
        case "torchrun":
            return Torchrun.open(networks, how.processes, how.at_once, scratch)
        case "trainjob":
            from qfundus.classical.trainjob import open_trainjobs

            return open_trainjobs(how, networks)


@dataclass
class Said:
    """Logs how far the networks have come, each time that one has come further."""

    watcher: Watcher
    last: Progress | None = None

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Look, and say what is new."""
        course = self.watcher.look(jobs)
        if self.last is None or course.epochs != self.last.epochs:
            _log.info(course.describe())
        self.last = course


def summarise(jobs: Sequence[Job]) -> dict[str, float]:
    """Return the figures of trainings: sums of seconds and parameters, means of all else."""
    told: list[dict[str, float]] = [json.loads(job.place.read(TRAINED_FILE)) for job in jobs]
    figures = {"networks": float(len(jobs))}
    for name in told[0]:
        total = float(sum(one[name] for one in told))
        figures[name] = total if name in _SUMMED else total / len(told)
    return figures


def predict(
    folder: Path, validation: Split, test: Split, store: ObjectStore, settings: Settings
) -> tuple[np.ndarray, Split, np.ndarray, Split]:
    """Return the networks' logits `(eyes, 5)` of the validation and the test split, each with its eyes.

    Of a validation eye only those networks are asked that were not trained on it. An eye whose photograph has been
    erased since the snapshot is left out.
    """
    held = read_held_out(folder)
    place = {name: row for row, name in enumerate(held.names)}
    names = [name_eye(*pair) for pair in zip(validation.rows["eye_id"], validation.rows["study_id"], strict=True)]
    seen = np.array([name in place for name in names])
    told = held.probabilities[[place[name] for name in names if name in place]]
    (told_test,), there = grade_photographs(folder / GRADER_FILE, test, store, settings)
    return _logarithms(told), validation.only(seen), _logarithms(told_test), test.only(there)


def grade_photographs(
    graph: Path, split: Split, store: ObjectStore, settings: Settings, outputs: Sequence[str] = ("probabilities",)
) -> tuple[np.ndarray, np.ndarray]:
    """Grade a split's photographs by a graph of images.

    Returns probabilities `(outputs, eyes there, 5)`, and which of the eyes are there.
    """
    there: list[bool] = []

    def present() -> Iterator[np.ndarray]:
        for disc in read_discs(store, settings, split.rows["instance_digest"]):
            there.append(disc is not None)
            if disc is not None:
                yield disc

    told = run_graph(graph, present(), outputs)
    return told, np.array(there)


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, LEAST))


def _read(store: ObjectStore, settings: Settings, content: str) -> np.ndarray:
    pixels = read_photograph(store, settings, content)
    if pixels is None:
        raise FileNotFoundError("It has been erased since the snapshot.")
    return pixels
