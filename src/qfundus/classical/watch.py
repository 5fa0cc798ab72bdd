"""Tell how a training goes while it goes: a file, a log, MLflow, and Weights & Biases where a site wants it."""

import json
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, Self

import psutil
import structlog
import torch

from qfundus.classical.engine import Step
from qfundus.classical.job import Job
from qfundus.classical.loader import Batch
from qfundus.classical.place import Place

_log = structlog.get_logger()
_TOLD_EVERY, _WRITTEN_EVERY = 10, 15.0  # steps; seconds, to S3
_SILENT, _LONGEST_SILENT = 60.0, 600.0  # seconds
LOG_FILE, _MLFLOW_RUN = "log.jsonl", "mlflow_run"
EXPERIMENT = "training"


class Tracker(Protocol):
    """Keeps figures of a training."""

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Keep figures of a step."""
        ...

    def close(self, *, failed: bool) -> None:
        """Keep what has not been kept yet, and how the training ended."""
        ...


class LogFile:
    """A JSON object a line, in the run's folder; in S3, where a file is written whole, some lines at a time.

    Of an earlier try it keeps what came before the step that this one goes on `after`: the rest comes again.
    """

    def __init__(self, place: Place, after: int = 0) -> None:
        self._place = place
        self._waiting, self._written = "", -math.inf
        lines = place.read(LOG_FILE).decode().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= after]
        if kept != lines:
            place.write(LOG_FILE, "".join(kept).encode())

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Write a line, or keep it for the next time."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._waiting += json.dumps({"step": step, "at": at, **figures}) + "\n"
        if not self._place.remote or time.monotonic() - self._written > _WRITTEN_EVERY:
            self._write()

    def close(self, *, failed: bool) -> None:  # noqa: ARG002  (lines say nothing of the end)
        """Write what is left."""
        if self._waiting:
            self._write()

    def _write(self) -> None:
        """Write lines; where there is no room for them, training goes on without."""
        self._written = time.monotonic()
        try:
            self._place.append(LOG_FILE, self._waiting)
            self._waiting = ""
        except OSError as error:
            _log.warning("The log cannot be written", why=type(error).__name__)


def _step_of(line: str) -> float:
    """Return the step that a line of the log tells of; one that was cut short tells of none."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf


class Forgiving:
    """Lets a training go on where a tracker cannot be opened or reached: its figures lie in the log, too."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        self._name, self._open = name, open_tracker
        self._tracker: Tracker | None = None
        self._silent_until, self._silence = -math.inf, _SILENT
        self._try(lambda _: None)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Keep figures, but for a while after it could not be done, the longer the oftener."""
        if time.monotonic() > self._silent_until:
            self._try(lambda tracker: tracker.log(step, figures))

    def close(self, *, failed: bool) -> None:
        """Close it, if that can be done."""
        if self._tracker is not None:
            self._try(lambda tracker: tracker.close(failed=failed))

    def _try(self, do: Callable[[Tracker], None]) -> None:
        try:
            self._tracker = self._tracker or self._open()
            do(self._tracker)
        except Exception as error:  # noqa: BLE001  (each tracker's client has its own)
            self._silent_until = time.monotonic() + self._silence
            self._silence = min(2 * self._silence, _LONGEST_SILENT)
            # Its kind alone: the words may hold the server's address, and that a password.
            _log.warning("Figures are kept in the log alone", tracker=self._name, why=type(error).__name__)


class MlflowRun:
    """A run in MLflow, with system metrics; one that was cut off is gone on with."""

    def __init__(self, uri: str, name: str, known: dict[str, str], texts: dict[str, str], place: Place) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # A server that is away holds a training up at each figure: as it stands, for four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        import mlflow

        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(EXPERIMENT)
        run_id = find_run(place, uri)
        self._run = mlflow.start_run(run_id=run_id, run_name=None if run_id else name, log_system_metrics=True)
        self._mlflow = mlflow
        if run_id is None:
            self._describe(known, texts)
            place.write(_MLFLOW_RUN, f"{uri} {self._run.info.run_id}".encode())

    def _describe(self, known: dict[str, str], texts: dict[str, str]) -> None:
        try:
            self._mlflow.log_params(known)
            for file, text in texts.items():
                self._mlflow.log_text(text, file)
        except Exception:
            with suppress(Exception):  # else the next try finds a run open
                self._mlflow.end_run("FAILED")
            raise

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Send figures."""
        self._mlflow.log_metrics(figures, step=step)

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


def find_run(place: Place, uri: str) -> str | None:
    """Return the run in that MLflow of what is trained in a place, where there is one."""
    kept_at, _, kept = place.read(_MLFLOW_RUN).decode().partition(" ")
    return kept if kept_at == uri else None


class WandbRun:
    """A run in Weights & Biases, where `WANDB_PROJECT` names a project."""

    def __init__(self, name: str, known: dict[str, str], place: Place) -> None:
        import wandb

        folder = tempfile.mkdtemp(prefix="qfundus-wandb-") if place.remote else place.address
        self._run = wandb.init(
            project=os.environ["WANDB_PROJECT"], name=name, id=name, resume="allow", config=known, dir=folder
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Send figures."""
        self._run.log(figures, step=step)

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=int(failed))


@dataclass
class Watch:
    """Measures steps, how long batches were waited for, and tells trackers of every tenth and each epoch's last.

    Earlier tries of the same training took so many seconds `before`.
    """

    trackers: list[Tracker]
    steps: int
    epochs: int
    before: float = 0.0
    _recent: deque[tuple[Step, float, float]] = field(default_factory=lambda: deque(maxlen=_TOLD_EVERY))
    _opened: float = field(default_factory=time.monotonic)
    total_waited: float = 0.0
    total_seconds: float = 0.0
    photographs: int = 0

    @property
    def seconds(self) -> float:
        """How long the training has taken, with its earlier tries."""
        return self.before + time.monotonic() - self._opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with ExitStack() as stack:  # one that cannot be closed keeps no other open
            for tracker in self.trackers:
                stack.callback(tracker.close, failed=kind is not None)

    def timed(self, pieces: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        """Pass batches on, and measure how long they were waited for."""
        while True:
            begun = time.perf_counter()
            batch = next(pieces, None)
            self._waited = time.perf_counter() - begun
            if batch is None:
                return
            self._begun = begun
            yield batch

    def stepped(self, number: int, step: Step) -> None:
        """Take note of a step."""
        seconds = time.perf_counter() - self._begun
        self.total_waited += self._waited
        self.total_seconds += seconds
        self.photographs += step.photographs
        self._recent.append((step, self._waited, seconds))
        if number % _TOLD_EVERY == 0:
            self._tell(number, self._figures())

    def epoch_ended(self, number: int, epoch: int, train_loss: float, held_loss: float) -> None:
        """Take note of an epoch."""
        if not self.trackers:  # one of many processes, and not the one that speaks
            return
        _log.info(
            "Epoch", epoch=epoch + 1, of=self.epochs, train_loss=round(train_loss, 4), held_loss=round(held_loss, 4)
        )
        told = number % _TOLD_EVERY == 0 or not self._recent  # by the last step already
        figures = {} if told else self._figures()
        self._tell(number, {**figures, "epoch": epoch + 1, "train_loss": train_loss, "held_loss": held_loss})

    def _figures(self) -> dict[str, float]:
        steps = [step for step, _, _ in self._recent]
        seconds = sum(took for _, _, took in self._recent)
        return {
            "loss": steps[-1].loss,  # its own: a mean would begin anew where a training goes on
            "gradient_norm": steps[-1].gradient,
            "learning_rate": steps[-1].rate,
            "images_per_second": sum(step.photographs for step in steps) / seconds,
            "waiting_share": sum(waited for _, waited, _ in self._recent) / seconds,
            "memory_mb": memory_mb(),
        }

    def _tell(self, number: int, figures: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(number, figures)


def memory_mb() -> float:
    """Return what this process holds: on the GPU where there is one, else in memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return psutil.Process().memory_info().rss / 2**20


def _revision(folder: Path) -> str:
    """Return the commit that runs: what an image was built of, or a checkout's, '' where neither is known."""
    asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    built = os.environ.get("QFUNDUS_REVISION")
    if built or not (folder / ".git").exists() or not shutil.which("git"):
        return built or ""
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def describe_environment() -> dict[str, str]:
    """Return the versions of the code, and the lock file it was installed from."""
    import qfundus
    from qfundus.layout import checkout

    lock = checkout() / "requirements" / "qfundus.lock"
    return {
        "qfundus": f"{qfundus.__version__} {_revision(checkout())}".strip(),
        "torch": str(torch.__version__),
        "lock": lock.read_text() if lock.exists() else "",
    }


def open_trackers(job: Job, digest: str, after: int) -> list[Tracker]:
    """Open what keeps the figures of this training, which begins or goes on `after` a step."""
    name = f"{job.recipe.name} seed {job.seed} fold {job.fold}"
    known, texts = describe_training(job, digest)
    trackers: list[Tracker] = [LogFile(job.place, after)]
    if job.track:
        trackers.append(Forgiving("MLflow", lambda: MlflowRun(job.track, name, known, texts, job.place)))
    if os.environ.get("WANDB_PROJECT"):
        run = f"{name.replace(' ', '-')}-{job.fingerprint(digest)[:8]}"
        trackers.append(Forgiving("Weights & Biases", lambda: WandbRun(run, known, job.place)))
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
