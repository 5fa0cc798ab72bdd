"""Train one network: `torchrun -m qfundus.classical.train JOB`, on as many processes as it is started on."""

import fcntl
import hashlib
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from qfundus.classical.checkpoints import Checkpoints, Position
from qfundus.classical.engine import Engine, Step, open_engine
from qfundus.classical.folds import split_fold
from qfundus.classical.loader import Batch, Order, Photographs, load_in_order, load_steps
from qfundus.classical.network import Network
from qfundus.classical.parallel import Layout, joined_processes
from qfundus.classical.place import Place
from qfundus.classical.recipe import Fitting, NetworkRecipe
from qfundus.classical.shards import read_table
from qfundus.classical.watch import Forgiving, LogFile, MlflowRun, Tracker, WandbRun, Watch, describe_environment
from qfundus.errors import SetupError, TrainingError
from qfundus.logs import set_up_logs

WEIGHTS_FILE, TRAINED_FILE = "weights.pt", "trained.json"
LAST_WORD = "Training ends: "  # what follows says why; torchrun adds pages that do not


@dataclass(frozen=True)
class Job:
    """A network to train from `shards` into `folder`; checkpoints lie there or elsewhere, MLflow is at `track`.

    `shards`, `folder` and `checkpoints` are on this machine or in S3.
    """

    recipe: NetworkRecipe
    shards: str
    folder: str
    seed: int
    fold: int = 0
    checkpoints: str = ""
    track: str = ""

    @property
    def checkpoint_folder(self) -> str:
        """Where its checkpoints lie."""
        return self.checkpoints or f"{self.folder}/checkpoints"

    @property
    def place(self) -> Place:
        """Where its weights and its log go."""
        return Place(self.folder)

    @property
    def is_done(self) -> bool:
        """Whether it has ended well."""
        return self.place.exists(TRAINED_FILE)

    def fingerprint(self, photographs: str) -> str:
        """Name what is trained, on photographs of a digest: checkpoints of anything else are none of its own."""
        said = f"{json.dumps(self.recipe.what_is_learnt())} {self.seed} {self.fold} {photographs}"
        return hashlib.sha256(said.encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """Write the job for travel."""
        return json.dumps({**asdict(self), "recipe": self.recipe.model_dump()})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read a job."""
        said = json.loads(text)
        return cls(recipe=NetworkRecipe.model_validate(said.pop("recipe")), **said)


@dataclass(frozen=True)
class Trained:
    """What a training came to; `waiting` is the share of its steps' time in which it waited for photographs."""

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


@dataclass(frozen=True)
class Course:
    """What is trained on and what is held out: examples with their rows, as they are trained on and as they are.

    `rows` and `held` are of the shards, `grades` and `names` of all of them.
    """

    examples: Dataset[Batch]
    plain: Dataset[Batch]
    rows: np.ndarray
    held: np.ndarray
    grades: np.ndarray
    names: np.ndarray


def train(job: Job) -> Trained | None:
    """Train a job's network, or go on with it, and write its weights; None where this process does not lead."""
    asked = job.recipe.fitting.deterministic
    with joined_processes() as layout, alone_in(job.place, layout), determinism(job.seed, asked=asked):
        return train_together(job, layout)


def train_together(job: Job, layout: Layout) -> Trained | None:
    """Train a job's network among processes that have joined."""
    how = job.recipe.fitting
    table = read_table(job.shards, job.recipe.pictures)
    rows, held = split_fold(table, job.recipe.grading.folds, job.fold)
    augmented = Photographs(job.shards, table.grades, job.seed, job.recipe.augmentation)
    plain = Photographs(job.shards, table.grades, job.seed, None)
    course = Course(augmented, plain, rows, held, table.grades, table.names)
    network = Network(job.recipe.network, job.recipe.pictures.side)
    checkpoints = Checkpoints(job.checkpoint_folder, how.keep, layout, job.fingerprint(table.digest))

    def track(after: int) -> list[Tracker]:
        return open_trackers(job, table.digest, after) if layout.leads else []

    engine, trained = fit(network, course, how, job.seed, layout, checkpoints, track)
    weights = engine.weights()
    if not layout.leads:
        return None
    packed = io.BytesIO()
    torch.save(weights, packed)
    job.place.write(WEIGHTS_FILE, packed.getvalue())
    job.place.write(TRAINED_FILE, json.dumps(asdict(trained)).encode())
    return trained


def fit(
    network: torch.nn.Module,
    course: Course,
    how: Fitting,
    seed: int,
    layout: Layout,
    checkpoints: Checkpoints,
    track: Callable[[int], list[Tracker]],
) -> tuple[Engine, Trained]:
    """Train until the last epoch, or until the held-out loss has not fallen for `patience` epochs.

    Raises:
        TrainingError: where the loss is no number any more; the last checkpoint is left as it is.
    """
    order = Order(course.rows, how.batch, seed, layout, how.accumulate)
    engine = open_engine(network, how, course.grades[course.rows], layout, order.steps, seed)
    position = checkpoints.resume(engine)
    ahead = replace(order, epochs=how.epochs, epoch=position.epoch, step=position.step)
    steps = load_steps(course.examples, ahead, how.workers)
    trackers = track(position.epoch * order.steps + position.step)
    # Opened last: a run that something else kept from beginning would stay open.
    with Watch(trackers, order.steps, how.epochs, position.seconds) as watch, checkpoints:
        while position.epoch < how.epochs and not is_stale(position, how.patience):
            position, losses = take_steps(engine, steps, order, how, position, watch, checkpoints, course.names)
            held_loss, skipped = measure_held(engine, course, layout, how.batch)
            if not math.isfinite(held_loss):
                raise_not_finite(position, [], checkpoints, course.names)
            position = replace(position, skipped=position.skipped + skipped)
            position = end_epoch(position, float(np.mean(losses)) if losses else float("nan"), held_loss)
            watch.epoch_ended(position.epoch * order.steps, position.epoch - 1, position.train_losses[-1], held_loss)
            checkpoints.save(engine, position)
        checkpoints.finish()
        if how.take == "best" and position.best_epoch != position.epoch - 1:
            checkpoints.load_best(engine)
        return engine, Trained(
            epochs=position.epoch,
            best_epoch=position.best_epoch + 1,
            train_loss=position.train_losses[-1],
            held_loss=position.held_losses[position.best_epoch if how.take == "best" else -1],
            seconds=watch.seconds,
            photographs_per_second=watch.photographs / max(watch.seconds - watch.before, 1e-9),
            waiting=watch.total_waited / max(watch.total_seconds, 1e-9),
            skipped=position.skipped,
            parameters=sum(value.numel() for value in network.parameters()),
            lost_checkpoints=checkpoints.lost,
        )


def take_steps(
    engine: Engine,
    steps: Iterator[list[Batch]],
    order: Order,
    how: Fitting,
    position: Position,
    watch: Watch,
    checkpoints: Checkpoints,
    names: np.ndarray,
) -> tuple[Position, list[float]]:
    """Take the steps that are left of an epoch; return where training stands then, and their losses.

    Raises:
        TrainingError: where the loss is no number any more.
    """
    losses: list[float] = []
    for pieces in watch.timed(islice(steps, order.steps - position.step)):
        step = engine.step(pieces)
        if not is_finite(step):
            raise_not_finite(position, pieces, checkpoints, names)
        losses.append(step.loss)
        skipped = position.skipped + order.batch - step.photographs
        position = replace(position, step=position.step + 1, skipped=skipped, seconds=watch.seconds)
        watch.stepped(position.epoch * order.steps + position.step, step)
        checkpoints.look()
        if how.checkpoint_every and position.step % how.checkpoint_every == 0 and position.step < order.steps:
            checkpoints.save(engine, position)
    return position, losses


def end_epoch(position: Position, train_loss: float, held_loss: float) -> Position:
    """Go to the next epoch's beginning."""
    better = held_loss < position.best_loss
    return replace(
        position,
        epoch=position.epoch + 1,
        step=0,
        best_epoch=position.epoch if better else position.best_epoch,
        best_loss=held_loss if better else position.best_loss,
        held_losses=(*position.held_losses, held_loss),
        train_losses=(*position.train_losses, train_loss),
    )


def is_finite(step: Step) -> bool:
    """Tell whether loss and gradient are numbers, or the gradient will be once float16's scaler has found its scale."""
    return math.isfinite(step.loss) and (step.passed_over or math.isfinite(step.gradient))


def is_stale(position: Position, patience: int) -> bool:
    """Tell whether the last `patience` epochs brought nothing better."""
    return position.step == 0 and position.epoch - 1 - position.best_epoch >= patience and position.epoch > 0


def measure_held(engine: Engine, course: Course, layout: Layout, batch: int) -> tuple[float, int]:
    """Return the mean cross-entropy of the held-out photographs, and how many of them cannot be read.

    Raises:
        TrainingError: where that is all of them.
    """
    # Every process looks at as many: sharded weights are put together for each batch.
    each = -(-len(course.held) // layout.world)
    mine = np.resize(course.held, each * layout.world).reshape(layout.world, each)[layout.rank]
    counted = np.arange(each * layout.world).reshape(layout.world, each)[layout.rank] < len(course.held)
    summed, weight = 0.0, 0.0
    for number, piece in enumerate(load_in_order(course.plain, mine, batch)):
        losses = torch.nn.functional.cross_entropy(engine.predict(piece.inputs), piece.grades, reduction="none")
        here = piece.weights * torch.from_numpy(counted[number * batch :][: len(piece.rows)])
        summed, weight = summed + float((losses * here).sum()), weight + float(here.sum())
    summed, weight = layout.total(summed, weight)
    if len(course.held) and not weight:
        raise TrainingError("None of the photographs held out can be read: prepare the shards again.")
    return summed / max(weight, 1), len(course.held) - round(weight)


def raise_not_finite(position: Position, pieces: list[Batch], checkpoints: Checkpoints, names: np.ndarray) -> None:
    """Stop, naming the batch's photographs; checkpoints before it stay."""
    checkpoints.finish()
    # Of all processes: the loss is theirs together.
    rows = checkpoints.layout.gather(torch.tensor([row for piece in pieces for row in piece.rows])).tolist()
    last = checkpoints.complete()
    kept = f"the checkpoint {last[-1].name} is kept" if last else "no checkpoint had been written yet"
    if not rows:
        raise TrainingError(
            f"The loss of the photographs held out is no number after epoch {position.epoch + 1}; {kept}. "
            "Lower `learning_rate` and train into another folder."
        )
    raise TrainingError(
        f"The loss is no number at step {position.step + 1} of epoch {position.epoch + 1}, on the photographs "
        f"{', '.join(names[rows])}; {kept}. "
        "Lower `learning_rate` and train into another folder, or look at these photographs."
    )


@contextmanager
def alone_in(place: Place, layout: Layout) -> Generator[None]:
    """Hold a folder: two trainings that write the same checkpoints would spoil both.

    S3 has no locks: there, whoever launches a training sees to it that there is one. The folder may be a network's, or
    that of all that is trained together.

    Raises:
        TrainingError: where another training holds it.
    """
    if place.remote or not layout.leads:
        yield
        return
    folder = Path(place.address)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise TrainingError(
                f"Another process ({lock.read().strip()}) trains in {folder}: wait for it, or end it."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def determinism(seed: int, *, asked: bool) -> Generator[None]:
    """Begin from a seed; where asked, let torch take only ways that give the same numbers each time."""
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


def open_trackers(job: Job, digest: str, after: int) -> list[Tracker]:
    """Open what keeps the figures of this training, which begins or goes on `after` a step."""
    name = f"{job.recipe.name} seed {job.seed} fold {job.fold}"
    known, texts = describe_training(job, digest)
    trackers: list[Tracker] = [LogFile(job.place, after)]
    if job.track:
        trackers.append(Forgiving(MlflowRun(job.track, name, known, texts, job.place)))
    if os.environ.get("WANDB_PROJECT"):
        run = f"{name.replace(' ', '-')}-{job.fingerprint(digest)[:8]}"
        trackers.append(Forgiving(WandbRun(run, known, job.place)))
    return trackers


def describe_training(job: Job, digest: str) -> tuple[dict[str, str], dict[str, str]]:
    """Say what is trained, on photographs of a digest, by what code: values by name, and texts by file."""
    environment = describe_environment()
    known = flatten(job.recipe.model_dump())
    known |= {"recipe": job.recipe.name, "seed": str(job.seed), "fold": str(job.fold), "photographs": digest}
    known |= {"qfundus": environment["qfundus"], "torch": environment["torch"]}
    return known, {"recipe.json": job.recipe.model_dump_json(indent=1), "qfundus.lock": environment["lock"]}


def flatten(recipe: dict[str, Any]) -> dict[str, str]:
    """Name each setting of a recipe by its path: `fitting.epochs`."""
    parts = {part: said for part, said in recipe.items() if isinstance(said, dict)}
    return {f"{part}.{name}": str(value) for part, said in parts.items() for name, value in said.items()}


def main() -> int:
    """Train the job whose file, here or in S3, is named."""
    set_up_logs()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the loader's workers are ended, too
    try:
        folder, _, file = sys.argv[1].rpartition("/")
        train(Job.from_json(Place(folder or ".").read(file).decode()))
    except (SetupError, TrainingError) as error:
        print(f"\n{LAST_WORD}{error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
