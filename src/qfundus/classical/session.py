"""Train a recipe from photographs to a grader, in one folder, going on where it was cut off."""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import structlog
import torch

from qfundus.classical.checkpoints import forget_checkpoints
from qfundus.classical.evaluate import Measured, measure
from qfundus.classical.folds import split_fold, warn_of_gaps
from qfundus.classical.grader import assemble
from qfundus.classical.job import TRAINED_FILE, Job, alone_in
from qfundus.classical.launch import Launcher, train_all
from qfundus.classical.loader import Order
from qfundus.classical.parallel import Layout
from qfundus.classical.place import Place, open_folder
from qfundus.classical.publish import publish_grader
from qfundus.classical.recipe import NetworkRecipe
from qfundus.classical.shards import Table, open_shards, read_table, write_shards
from qfundus.classical.watch import LOG_FILE, flatten
from qfundus.errors import SetupError
from qfundus.imaging.labelled import SHEET, Labelled, read_labelled

_log = structlog.get_logger()
RECIPE_FILE, SHARDS = "recipe.json", "photographs.lance"
_TEXTS = ("name", "split", "patient")


@dataclass(frozen=True)
class Progress:
    """How far the networks have come, the last held-out loss, and in how many seconds all may be done, NaN at first."""

    epochs: tuple[int, ...]
    of: int
    share: float
    loss: float
    left: float

    def describe(self) -> str:
        """Say it in a sentence."""
        done = ", ".join(f"{epoch}/{self.of}" for epoch in self.epochs)
        loss = "" if math.isnan(self.loss) else f"; held-out loss {self.loss:.3f}"
        left = "" if math.isnan(self.left) or self.share == 1 else f"; {math.ceil(self.left / 60)} min left at most"
        networks = "a network" if len(self.epochs) == 1 else f"{len(self.epochs)} networks"
        return f"Training {networks}, {self.share:.0%}, epochs {done}{loss}{left}"


@dataclass
class Watcher:
    """Reads from the logs of networks how far they are; an epoch of each has so many `steps`."""

    steps: Sequence[int]
    _first: tuple[float, float] | None = None  # when it looked first, and the share that was done then

    def look(self, jobs: Sequence[Job]) -> Progress:
        """Read the logs."""
        of = jobs[0].recipe.fitting.epochs
        taken = 0
        epochs: list[int] = []
        loss = float("nan")
        for job, steps in zip(jobs, self.steps, strict=True):
            last, told = read_log(job.place.read(LOG_FILE).decode())
            epochs.append(int(told.get("epoch", 0)))
            loss = told.get("held_loss", loss)
            taken += of * steps if job.is_done else int(last.get("step", 0))
        share = taken / (of * sum(self.steps))
        return Progress(tuple(epochs), of, share, loss, self._left(share))

    def _left(self, share: float) -> float:
        """Tell the seconds that are left, if it goes on as it did since it was first looked at."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, share
        since, before = self._first
        return (now - since) * (1 - share) / (share - before) if share > before else float("nan")


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
        SetupError: where the folder holds a training of another recipe, seed or data.
        TrainingError: where a network's training failed, or another process trains in the folder.
    """
    # What cannot be read, divided or reached must not claim the folder.
    labelled = [] if is_shards(data) else read_labelled(Path(data))
    table = read_table(data, recipe.pictures) if is_shards(data) else list_table(labelled)
    divide(recipe, table, seed, launcher.processes)
    check_trackers(track)
    if checkpoints:
        open_folder(checkpoints)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(Place(str(folder)), Layout(0, 1, torch.device("cpu"))):
        claim_folder(folder, recipe, data, seed, checkpoints)
        shards = data if is_shards(data) else prepare_shards(recipe, labelled, str(folder))
        jobs = list_jobs(recipe, shards, str(folder), seed, checkpoints, track)
        watcher = Watcher(divide(recipe, read_table(shards, recipe.pictures), seed, launcher.processes))
        train_all(jobs, launcher, lambda ran: report(watcher.look(ran)))
        warn_of_setbacks(jobs)
        card, held = assemble(recipe, jobs, folder)
        warn_of_constant(held.probabilities)
        measured = measure(held.probabilities, held.grades, card.refer_below, "held out")
        if track:
            _publish(track, folder, f"{recipe.name} seed {seed}", measured, jobs)
        for job in jobs:
            forget_checkpoints(job.checkpoint_folder)
    return measured


def _publish(track: str, folder: Path, name: str, measured: Measured, jobs: Sequence[Job]) -> None:
    """Bring the grader to MLflow; where that cannot be done now, it can be by the same command later."""
    try:
        _log.info("The grader is in MLflow", model=publish_grader(track, folder, name, measured, jobs))
    except Exception as error:  # noqa: BLE001  (its client has its own)
        _log.warning(
            "The grader could not be brought to MLflow: the same command tries it again", why=type(error).__name__
        )


def list_jobs(
    recipe: NetworkRecipe,
    shards: str,
    folder: str,
    seed: int,
    checkpoints: str = "",
    track: str = "",
) -> list[Job]:
    """List the trainings of a recipe's networks."""
    warn_of_gaps(read_table(shards, recipe.pictures))
    return [
        Job(
            recipe=member,
            shards=shards,
            folder=f"{folder}/networks/{number:02d}",
            seed=seed * 1000 + number,
            fold=fold,
            checkpoints=f"{checkpoints.rstrip('/')}/{number:02d}" if checkpoints else "",
            track=track,
        )
        for number, (member, fold) in enumerate(recipe.members())
    ]


def divide(recipe: NetworkRecipe, table: Table, seed: int, processes: int) -> list[int]:
    """Divide photographs as each network would on that many processes; return the steps of an epoch of each.

    Raises:
        SetupError: where that cannot be done.
    """
    layout = Layout(0, processes, torch.device("cpu"))
    steps: list[int] = []
    for member, fold in recipe.members():
        rows, _ = split_fold(table, member.grading.folds, fold)
        steps.append(Order(rows, member.fitting.batch, seed, layout, member.fitting.accumulate).steps)
    return steps


def list_table(labelled: Sequence[Labelled]) -> Table:
    """Put what is known of photographs into a table, before their pixels are looked at."""
    names, splits, patients = (np.array([getattr(one, part) for one in labelled]) for part in _TEXTS)
    return Table(names, np.array([one.grade for one in labelled]), splits, patients, "")


def check_trackers(track: str) -> None:
    """Refuse an MLflow server that does not answer, as its client would try for minutes, and say nothing.

    Raises:
        SetupError: naming the server, or what Weights & Biases lacks.
    """
    check_wandb()
    if not track:
        return
    if not track.startswith(("http://", "https://")):
        scheme = track.partition(":")[0]
        raise SetupError(f"--track {scheme}:… is no address of an MLflow server: it begins with http:// or https://.")
    try:
        httpx.get(f"{track.rstrip('/')}/health", timeout=10).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        where = re.sub(r"//[^/]*@", "//", track)  # a password may stand before its host
        raise SetupError(f"MLflow does not answer at {where} ({type(error).__name__}): is --track right?") from None


def check_wandb() -> None:
    """Refuse Weights & Biases that is asked for and knows nobody: it would end each training.

    Raises:
        SetupError: saying how to log in, or how to do without.
    """
    if not os.environ.get("WANDB_PROJECT") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return
    try:
        import wandb
    except ImportError:
        raise SetupError("WANDB_PROJECT is set, and wandb is not installed: `pip install qfundus[wandb]`.") from None
    if not wandb.api.api_key:
        raise SetupError(
            "WANDB_PROJECT is set, and Weights & Biases knows nobody here: set WANDB_API_KEY, or WANDB_MODE=offline, "
            "or unset WANDB_PROJECT."
        )


def is_shards(data: str) -> bool:
    """Tell whether an address is of shards."""
    return data.rstrip("/").endswith(".lance")


def prepare_shards(recipe: NetworkRecipe, labelled: list[Labelled], folder: str) -> str:
    """Prepare photographs, unless that is done."""
    shards = f"{folder}/{SHARDS}"
    try:
        read_table(shards, recipe.pictures)
    except SetupError:
        skipped = write_shards(labelled, recipe.pictures, shards)
        rows = open_shards(shards).count_rows()
        _log.info("Photographs prepared", photographs=rows, skipped=skipped)
    return shards


def claim_folder(folder: Path, recipe: NetworkRecipe, data: str, seed: int, checkpoints: str = "") -> None:
    """Note what is trained here, and where its checkpoints go; a folder holds one training."""
    wanted = {
        "recipe": recipe.what_is_learnt(),
        "data": digest_data(data, recipe),  # wherever they lie
        "seed": seed,
        "checkpoints": checkpoints,
    }
    file = folder / RECIPE_FILE
    if not file.exists():
        file.write_text(json.dumps(wanted, indent=1))
        return
    there = _read_claim(file)
    if differs := ", ".join(name for name, value in wanted.items() if there.get(name) != value):
        settings = describe_changes(there.get("recipe", {}), recipe.what_is_learnt())
        raise SetupError(
            f"{folder} holds a training with another {differs}{settings}: name another folder for --out, or delete it."
        )


def describe_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say in brackets which of a recipe's settings were others before, '' where none were."""
    old, new = (flatten(said) | {name: str(said.get(name)) for name in ("name", "variants")} for said in (before, now))
    differ = [name for name in old | new if old.get(name) != new.get(name)]
    changed = [f"{name} was {old.get(name, 'not there')} and is {new.get(name, 'not there')}" for name in differ]
    return f" ({', '.join(changed)})" if changed else ""


def _read_claim(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError:
        raise SetupError(f"{file} is damaged: name another folder for --out, or delete it.") from None


def digest_data(data: str, recipe: NetworkRecipe) -> str:
    """Name what data hold; of a folder's files their sizes and times."""
    if is_shards(data):
        return read_table(data, recipe.pictures).digest
    path = Path(data)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    told = hashlib.sha256((path / SHEET).read_bytes())
    for name in pd.read_csv(path / SHEET, dtype=str, keep_default_na=False)["file"]:
        known = (path / name).stat()
        told.update(f"{name} {known.st_size} {known.st_mtime_ns}".encode())
    return told.hexdigest()


def warn_of_setbacks(jobs: Sequence[Job]) -> None:
    """Say what a training went on without."""
    ended = [json.loads(job.place.read(TRAINED_FILE)) for job in jobs]
    if lost := sum(said.get("lost_checkpoints", 0) for said in ended):
        _log.warning("Checkpoints could not be written: each network's output.log says why", checkpoints=lost)
    if skipped := sum(said["skipped"] for said in ended):
        _log.warning("Photographs could not be read: prepare the shards again", times=skipped)


def warn_of_constant(probabilities: np.ndarray) -> None:
    """Say of a grader that tells every photograph alike that it has learnt nothing; `probabilities` are `(n, 5)`."""
    told = np.unique(probabilities.argmax(axis=1))
    if len(told) == 1 and len(probabilities) > 1:
        _log.warning(
            "The grader tells one grade of every photograph: train longer, or with another learning_rate",
            grade=int(told[0]),
        )


def read_log(log: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a log's last line, and the last that ends an epoch; what is not there is empty."""
    last: dict[str, Any] = {}
    for line in reversed(log.splitlines()):
        with suppress(ValueError):  # a line that was cut short, and gone on with by the next
            said = json.loads(line)
            last = last or said
            if "epoch" in said:
                return last, said
    return last, {}
