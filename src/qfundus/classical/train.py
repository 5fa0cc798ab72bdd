"""Train one network: `torchrun -m qfundus.classical.train JOB`, on as many processes as it is started on."""

import io
import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import NoReturn

import numpy as np
import torch
from torch.utils.data import Dataset

from qfundus.classical.checkpoints import Checkpoints, Position
from qfundus.classical.engine import open_engine
from qfundus.classical.folds import split_fold
from qfundus.classical.job import LAST_WORD, TRAINED_FILE, WEIGHTS_FILE, TrainingJob, hold_folder
from qfundus.classical.loader import Batch, Order, ShardDataset, load_in_order, load_steps
from qfundus.classical.monitor import Watch
from qfundus.classical.network import Network
from qfundus.classical.parallel import Layout, joined_processes
from qfundus.classical.shards import ShardTable, read_table
from qfundus.classical.step import Engine, Step
from qfundus.classical.storage_folder import StorageFolder
from qfundus.classical.trackers import open_trackers
from qfundus.errors import SetupError, TrainingError
from qfundus.logs import set_up_logs
from qfundus.quick_exit import exit_quickly
from qfundus.recipes.network import NetworkTraining


@dataclass(frozen=True)
class TrainingSummary:
    """The result of a training; `waiting` is the share of its time spent waiting for photographs."""

    epochs: int
    best_epoch: int
    train_loss: float
    held_loss: float
    seconds: float
    photographs_per_second: float
    waiting: float
    skipped: int
    parameters: int
    lost_checkpoints: int


def train(job: TrainingJob) -> TrainingSummary | None:
    """Train or resume a job's network and write its weights; return None on every process but the leading one."""
    asked = job.recipe.training.deterministic
    with joined_processes() as layout, hold_folder(job.results, layout), determinism(job.seed, asked=asked):
        return train_together(job, layout)


def train_together(job: TrainingJob, layout: Layout) -> TrainingSummary | None:
    """Train a job's network among processes that have joined."""
    training = job.recipe.training
    table = read_table(job.shards, job.recipe.images)
    data = open_data(job, table)
    order = Order(data.rows, training.batch, job.seed, layout, training.accumulate)
    network = Network(job.recipe.network, job.recipe.images.side)
    engine = open_engine(network, training, table.grades[data.rows], layout, order.steps, job.seed)
    checkpoints = Checkpoints(job.checkpoint_folder, training.keep, layout, job.fingerprint(table.digest))
    position = checkpoints.resume(engine)
    ahead = replace(order, epochs=training.epochs, epoch=position.epoch, step=position.step)
    steps = load_steps(data.examples, ahead, training.workers)
    after = position.epoch * order.steps + position.step
    # Opened last: a run that something else kept from beginning would stay open.
    trackers = open_trackers(job, table.digest, after) if layout.leads else []
    with Watch(trackers, order.steps, training.epochs, position.seconds) as watch, checkpoints:
        position = Loop(engine, data, order, training, layout, watch, checkpoints).fit(steps, position)
        weights = engine.weights()
        if not layout.leads:
            return None
        trained = describe(position, training, watch, checkpoints, network)
        packed = io.BytesIO()
        torch.save(weights, packed)
        job.results.write(WEIGHTS_FILE, packed.getvalue())
        job.results.write(TRAINED_FILE, json.dumps(asdict(trained)).encode())
        return trained


@dataclass(frozen=True)
class TrainingData:
    """What is trained on and what is held out: examples with their rows, as they are trained on and as they are.

    `rows` and `held` are of the shards, `names` are of all of them.
    """

    examples: Dataset[Batch]
    plain: Dataset[Batch]
    rows: np.ndarray
    held: np.ndarray
    names: np.ndarray


def open_data(job: TrainingJob, table: ShardTable) -> TrainingData:
    """Divide a job's photographs."""
    rows, held = split_fold(table, job.recipe.grading.folds, job.fold)
    examples = ShardDataset(job.shards, table.grades, job.seed, job.recipe.augmentation)
    plain = ShardDataset(job.shards, table.grades, job.seed, None)
    return TrainingData(examples, plain, rows, held, table.names)


@dataclass(frozen=True)
class Loop:
    """Trains, epoch by epoch."""

    engine: Engine
    data: TrainingData
    order: Order
    training: NetworkTraining
    layout: Layout
    watch: Watch
    checkpoints: Checkpoints

    def fit(self, steps: Iterator[list[Batch]], position: Position) -> Position:
        """Train until the last epoch, or until the held-out loss has not fallen for `patience` epochs.

        Raises:
            TrainingError: if the loss becomes NaN or infinite; the last checkpoint is kept.
        """
        while position.epoch < self.training.epochs and not is_stale(position, self.training.patience):
            position, train_loss = self.take_steps(steps, position)
            held_loss, unreadable = self.measure_held()
            if not math.isfinite(held_loss):
                self.raise_not_finite(position, [])
            position = end_epoch(position, train_loss, held_loss, unreadable)
            self.watch.epoch_ended(position.epoch * self.order.steps, position.epoch - 1, train_loss, held_loss)
            self.checkpoints.save(self.engine, position)
        self.checkpoints.finish()
        if self.training.final_weights == "best" and position.best_epoch != position.epoch - 1:
            self.checkpoints.load_best(self.engine)
        return position

    def take_steps(self, steps: Iterator[list[Batch]], position: Position) -> tuple[Position, float]:
        """Take the remaining steps of an epoch; return the new position and their mean loss.

        Raises:
            TrainingError: if the loss becomes NaN or infinite.
        """
        losses: list[float] = []
        every, whole = self.training.checkpoint_every, self.order.steps
        for pieces in self.watch.timed(islice(steps, whole - position.step)):
            step = self.engine.step(pieces)
            if not is_finite(step):
                self.raise_not_finite(position, pieces)
            losses.append(step.loss)
            skipped = position.skipped + self.order.batch - step.photographs
            position = replace(position, step=position.step + 1, skipped=skipped, seconds=self.watch.seconds)
            self.watch.stepped(position.epoch * whole + position.step, step)
            self.checkpoints.check_written()
            if every and position.step % every == 0 and position.step < whole:
                self.checkpoints.save(self.engine, position)
        return position, float(np.mean(losses)) if losses else float("nan")

    def measure_held(self) -> tuple[float, int]:
        """Return the mean cross-entropy of the held-out photographs, and how many of them cannot be read.

        Raises:
            TrainingError: if that is all of them.
        """
        held, world, batch = self.data.held, self.layout.world, self.training.batch
        # Every process looks at as many: sharded weights are put together for each batch.
        each = -(-len(held) // world)
        mine = np.resize(held, each * world).reshape(world, each)[self.layout.rank]
        counted = np.arange(each * world).reshape(world, each)[self.layout.rank] < len(held)
        summed, weight = 0.0, 0.0
        for number, piece in enumerate(load_in_order(self.data.plain, mine, batch)):
            predicted = self.engine.predict(piece.inputs)
            losses = torch.nn.functional.cross_entropy(predicted, piece.grades, reduction="none")
            here = piece.weights * torch.from_numpy(counted[number * batch :][: len(piece.rows)])
            summed, weight = summed + float((losses * here).sum()), weight + float(here.sum())
        summed, weight = self.layout.total(summed, weight)
        if len(held) and not weight:
            raise TrainingError("None of the photographs held out can be read: prepare the shards again.")
        return summed / max(weight, 1), len(held) - round(weight)

    def raise_not_finite(self, position: Position, pieces: list[Batch]) -> NoReturn:
        """Stop, naming the batch's photographs; checkpoints before it stay."""
        self.checkpoints.finish()
        # Of all processes: the loss is theirs together.
        rows = self.layout.gather(torch.tensor([row for piece in pieces for row in piece.rows])).tolist()
        last = self.checkpoints.complete()
        kept = f"the checkpoint {last[-1].name} is kept" if last else "no checkpoint had been written yet"
        if not rows:
            raise TrainingError(
                f"The loss of the photographs held out is not a number after epoch {position.epoch + 1}; {kept}. "
                "Lower `learning_rate` and train into another folder."
            )
        raise TrainingError(
            f"The loss is not a number at step {position.step + 1} of epoch {position.epoch + 1}, on the photographs "
            f"{', '.join(self.data.names[rows])}; {kept}. "
            "Lower `learning_rate` and train into another folder, or look at these photographs."
        )


def describe(
    position: Position, training: NetworkTraining, watch: Watch, checkpoints: Checkpoints, network: torch.nn.Module
) -> TrainingSummary:
    """Summarise a training."""
    return TrainingSummary(
        epochs=position.epoch,
        best_epoch=position.best_epoch + 1,
        train_loss=position.train_losses[-1],
        held_loss=position.held_losses[position.best_epoch if training.final_weights == "best" else -1],
        seconds=watch.seconds,
        photographs_per_second=watch.photographs / max(watch.seconds - watch.before, 1e-9),
        waiting=watch.total_waited / max(watch.total_seconds, 1e-9),
        skipped=position.skipped,
        parameters=sum(value.numel() for value in network.parameters()),
        lost_checkpoints=checkpoints.lost,
    )


def end_epoch(position: Position, train_loss: float, held_loss: float, unreadable: int) -> Position:
    """Move to the start of the next epoch; `unreadable` photographs were skipped in validation."""
    better = held_loss < position.best_loss
    return replace(
        position,
        epoch=position.epoch + 1,
        step=0,
        best_epoch=position.epoch if better else position.best_epoch,
        best_loss=held_loss if better else position.best_loss,
        held_losses=(*position.held_losses, held_loss),
        train_losses=(*position.train_losses, train_loss),
        skipped=position.skipped + unreadable,
    )


def is_finite(step: Step) -> bool:
    """Return whether loss and gradient are finite, or the gradient will be once float16's scaler has settled."""
    return math.isfinite(step.loss) and (step.passed_over or math.isfinite(step.gradient))


def is_stale(position: Position, patience: int) -> bool:
    """Return whether the last `patience` epochs brought nothing better."""
    return position.step == 0 and position.epoch - 1 - position.best_epoch >= patience and position.epoch > 0


@contextmanager
def determinism(seed: int, *, asked: bool) -> Generator[None]:
    """Seed torch; if asked, allow only deterministic algorithms."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else matrix products on a GPU may differ
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(asked, warn_only=True)
    # Filling what is not written yet finds bugs in torch, and takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _end(*_: object) -> NoReturn:
    """End once the checkpoint in progress is written, with the loader's workers; further signals are ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main() -> int:
    """Train the job whose file, here or in S3, is named."""
    set_up_logs()
    exit_quickly()
    # It concerns memory layouts that torch's own hooks choose: no setting changes them.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    signal.signal(signal.SIGTERM, _end)
    try:
        folder, _, file = sys.argv[1].rpartition("/")
        train(TrainingJob.from_json(StorageFolder(folder or ".").read(file).decode()))
    except (SetupError, TrainingError) as error:
        print(f"\n{LAST_WORD}{error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
