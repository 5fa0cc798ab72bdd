"""The progress of trainings, read from their logs."""

import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from qfundus.classical.job import TrainingJob
from qfundus.classical.trackers import LOG_FILE

_log = structlog.get_logger()


@dataclass(frozen=True)
class Progress:
    """The networks' progress, the last held-out loss, and the seconds that are left, NaN at first."""

    epochs: tuple[int, ...]
    of: int
    share: float
    loss: float
    left: float

    def describe(self) -> str:
        """Describe it in a sentence."""
        done = ", ".join(f"{epoch}/{self.of}" for epoch in self.epochs)
        loss = "" if math.isnan(self.loss) else f"; held-out loss {self.loss:.3f}"
        left = "" if math.isnan(self.left) or self.share == 1 else f"; {math.ceil(self.left / 60)} min left at most"
        networks = "a network" if len(self.epochs) == 1 else f"{len(self.epochs)} networks"
        return f"Training {networks}, {self.share:.0%}, epochs {done}{loss}{left}"


@dataclass
class Watcher:
    """Reads the networks' progress from their logs; `steps` are each network's steps an epoch."""

    steps: Sequence[int]
    _first: tuple[float, float] | None = None  # when it looked first, and the share that was done then

    def look(self, jobs: Sequence[TrainingJob]) -> Progress:
        """Read the logs."""
        of = jobs[0].recipe.training.epochs
        taken = 0
        epochs: list[int] = []
        loss = float("nan")
        for job, steps in zip(jobs, self.steps, strict=True):
            last, epoch = read_log(job.results.read(LOG_FILE).decode())
            epochs.append(int(epoch.get("epoch", 0)))
            loss = epoch.get("held_loss", loss)
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


def read_log(log: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a log's last entry, and the last one that ends an epoch; empty if nothing is logged yet."""
    last: dict[str, Any] = {}
    for line in reversed(log.splitlines()):
        with suppress(ValueError):  # a line that was cut short and continued by the next
            entry = json.loads(line)
            last = last or entry
            if "epoch" in entry:
                return last, entry
    return last, {}
