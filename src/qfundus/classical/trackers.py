"""Record the figures of a training: in a file, in MLflow, and in Weights & Biases if the site uses it."""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

import structlog

from qfundus.classical.description import describe_training
from qfundus.classical.job import TrainingJob
from qfundus.classical.storage_folder import StorageFolder
from qfundus.mlflow_import import import_mlflow

_log = structlog.get_logger()
LOGGED_EVERY, _WRITTEN_EVERY = 10, 15.0  # steps; seconds, to S3
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

    def __init__(self, place: StorageFolder, after: int = 0) -> None:
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
        """Write lines; if the disk is full, training goes on without them."""
        self._written = time.monotonic()
        try:
            self._place.append(LOG_FILE, self._waiting)
            self._waiting = ""
        except OSError as error:
            _log.warning("The log cannot be written", why=type(error).__name__)


def _step_of(line: str) -> float:
    """Return the step that a line of the log is about, None for a line that was cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf


class Forgiving:
    """Keeps a training running if a tracker cannot be opened or reached: the log has its figures, too."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker]) -> None:
        self._name, self._open = name, open_tracker
        self._tracker: Tracker | None = None
        self._silent_until, self._silence = -math.inf, _SILENT
        self._try(lambda _: None)

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Keep figures; after a failure, pause first, longer each time."""
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
            _log.warning("Figures are only in the log", tracker=self._name, why=type(error).__name__)


class MlflowRun:
    """A run in MLflow, with system metrics; an interrupted one is resumed."""

    def __init__(
        self, uri: str, name: str, parameters: dict[str, str], texts: dict[str, str], place: StorageFolder
    ) -> None:
        # A server that is away holds a training up at each figure: as it stands, for four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        mlflow = import_mlflow()
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(EXPERIMENT)
        run_id = find_run(place, uri)
        self._run = mlflow.start_run(run_id=run_id, run_name=None if run_id else name, log_system_metrics=True)
        self._mlflow = mlflow
        if run_id is None:
            self._describe(parameters, texts)
            place.write(_MLFLOW_RUN, f"{uri} {self._run.info.run_id}".encode())

    def _describe(self, parameters: dict[str, str], texts: dict[str, str]) -> None:
        try:
            self._mlflow.log_params(parameters)
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


def find_run(place: StorageFolder, uri: str) -> str | None:
    """Return the MLflow run of what is trained in a folder, if any."""
    kept_at, _, kept = place.read(_MLFLOW_RUN).decode().partition(" ")
    return kept if kept_at == uri else None


class WandbRun:
    """A run in Weights & Biases, where `WANDB_PROJECT` names a project."""

    def __init__(self, name: str, parameters: dict[str, str], place: StorageFolder) -> None:
        import wandb

        folder = tempfile.mkdtemp(prefix="qfundus-wandb-") if place.remote else place.address
        self._run = wandb.init(
            project=os.environ["WANDB_PROJECT"], name=name, id=name, resume="allow", config=parameters, dir=folder
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Send figures."""
        self._run.log(figures, step=step)

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=int(failed))


def open_trackers(job: TrainingJob, digest: str, after: int) -> list[Tracker]:
    """Open what keeps the figures of this training, which begins or goes on `after` a step."""
    name = f"{job.recipe.name} seed {job.seed} fold {job.fold}"
    parameters, texts = describe_training(job, digest)
    trackers: list[Tracker] = [LogFile(job.results, after)]
    if job.track:
        trackers.append(Forgiving("MLflow", lambda: MlflowRun(job.track, name, parameters, texts, job.results)))
    if os.environ.get("WANDB_PROJECT"):
        run = f"{name.replace(' ', '-')}-{job.fingerprint(digest)[:8]}"
        trackers.append(Forgiving("Weights & Biases", lambda: WandbRun(run, parameters, job.results)))
    return trackers
