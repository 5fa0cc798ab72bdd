"""Trainings that take seconds, in processes of their own."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog
from typer.testing import CliRunner

from qfundus.classical.launch import command
from qfundus.classical.recipe import NetworkRecipe
from qfundus.classical.train import Job
from qfundus.cli import app
from qfundus.imaging.labelled import Labelled

SIDE = 32


def make_recipe(**changes) -> NetworkRecipe:
    """A network without batch statistics of its own: it must come out the same however the batch is cut."""
    said = {
        "name": "test",
        "seed": 0,
        "pictures": {"side": SIDE},
        "network": {"batch_norm": "frozen", "dropout": 0.0, "drop_path": 0.0},
        "augmentation": {},
        "fitting": {
            "epochs": 2,
            "patience": 9,
            "batch": 16,
            "learning_rate": 0.001,
            "weight_decay": 0.01,
            "workers": 0,
            "take": "last",
        },
        "grading": {"folds": 2},
    }
    for name, value in changes.items():
        part, _, setting = name.partition("__")
        if setting:
            said[part][setting] = value
        else:
            said[part] = value
    return NetworkRecipe.model_validate(said)


def make_labelled(count: int, seed: int = 0) -> list[Labelled]:
    """Photographs that are the redder the higher their grade."""
    rng = np.random.default_rng(seed)
    grades = np.arange(count) % 5
    images = rng.integers(0, 100, (count, 28, 28, 3), dtype=np.uint8)
    images[..., 0] += (grades * 35).astype(np.uint8)[:, None, None]
    return [
        Labelled(f"photograph-{n:03d}", int(grade), "", "", lambda image=image: image)
        for n, (image, grade) in enumerate(zip(images, grades, strict=True))
    ]


def call(*words):
    """Call the command line in this process; its logs are not to go to the closed file that stood for the terminal."""
    try:
        return CliRunner().invoke(app, [str(word) for word in words])
    finally:
        structlog.reset_defaults()


def changed(job: Job, folder: Path, **changes) -> Job:
    return replace(job, recipe=make_recipe(**changes), folder=str(folder))


def run_job(job: Job, processes: int = 1, *, check: bool = True, **environment: str):
    """Train in processes of its own, as a component or a person would."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(job.to_json())
    done = subprocess.run(
        command(folder / "job.json", processes),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        timeout=100,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(job: Job) -> list[tuple[float, float]]:
    """The training and held-out loss of each epoch."""
    lines = [json.loads(line) for line in job.place.read("log.jsonl").decode().splitlines()]
    return [(line["train_loss"], line["held_loss"]) for line in lines if "epoch" in line]
