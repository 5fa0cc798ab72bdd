"""Trainings that take seconds, in processes of their own."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ranks import Ranks

from qfundus.classical.job import WEIGHTS_FILE, TrainingJob
from qfundus.classical.shards import write_shards
from qfundus.classical.storage_folder import open_folder
from qfundus.classical.train import TrainingSummary, main, train
from qfundus.imaging.labelled import Labelled
from qfundus.recipes.network import NetworkRecipe

SIDE = 32


def make_recipe(**changes) -> NetworkRecipe:
    """A network without batch statistics of its own: it must come out the same however the batch is cut."""
    recipe = {
        "name": "test",
        "seed": 0,
        "images": {"side": SIDE},
        "network": {"batch_norm": "frozen", "dropout": 0.0, "drop_path": 0.0},
        "augmentation": {},
        "training": {
            "epochs": 2,
            "patience": 9,
            "batch": 16,
            "learning_rate": 0.001,
            "weight_decay": 0.01,
            "workers": 0,
            "final_weights": "last",
        },
        "grading": {"folds": 2},
    }
    for name, value in changes.items():
        part, _, setting = name.partition("__")
        if setting:
            recipe[part][setting] = value
        else:
            recipe[part] = value
    return NetworkRecipe.model_validate(recipe)


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


def changed(job: TrainingJob, folder: Path, **changes) -> TrainingJob:
    return replace(job, recipe=make_recipe(**changes), folder=str(folder))


def make_shards(folder: Path) -> str:
    """Eighty photographs as a training reads them."""
    uri = str(folder / "photographs.lance")
    write_shards(make_labelled(80), make_recipe().images, uri)
    return uri


def train_here(job: TrainingJob) -> TrainingSummary | None:
    """Train in this process."""
    Path(job.folder).mkdir(exist_ok=True)
    return train(job)


def run_job(job: TrainingJob, processes: int = 1, **environment: str) -> str:
    """Train in processes of its own; return what they wrote."""
    status, written = try_job(job, processes, **environment)
    assert status == 0, written[-3000:]
    return written


def try_job(job: TrainingJob, processes: int = 1, **environment: str) -> tuple[int, str]:
    """Train in processes of its own; return the exit status, and what they wrote."""
    ranks = _start(job, processes, environment)
    return ranks.wait(), ranks.output.read_text()


def _start(job: TrainingJob, processes: int, environment: dict[str, str]) -> Ranks:
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(job.to_json())
    return Ranks(_train, (str(folder / "job.json"),), processes, folder / "output.log", environment)


def _train(job_file: str) -> int:
    sys.argv[1:] = [job_file]
    return main()


def losses(job: TrainingJob) -> list[tuple[float, float]]:
    """The training and held-out loss of each epoch."""
    lines = [json.loads(line) for line in job.results.read("log.jsonl").decode().splitlines()]
    return [(line["train_loss"], line["held_loss"]) for line in lines if "epoch" in line]


def weights(job: TrainingJob) -> dict[str, torch.Tensor]:
    return torch.load(Path(job.folder) / WEIGHTS_FILE, weights_only=True)


def alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def kill_after(job: TrainingJob, steps: int, processes: int = 1) -> None:
    """Start a training and kill it, with all its processes, once a checkpoint of that many steps counts."""
    ranks = _start(job, processes, {})
    fs, root = open_folder(job.checkpoints or str(Path(job.folder) / "checkpoints"))
    until = time.monotonic() + 120
    while time.monotonic() < until and not ranks.ended:
        fs.invalidate_cache()
        done = [json.loads(fs.cat_file(name)) for name in fs.glob(f"{root}/*/complete.json")]
        if any(at["epoch"] * 2 + at["step"] >= steps for at in done):
            break
        time.sleep(0.01)
    assert not ranks.ended, "it ended before it could be killed"
    ranks.kill()
