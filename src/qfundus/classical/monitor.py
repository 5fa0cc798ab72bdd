"""Measure a training's steps, and pass the figures on to trackers."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

import psutil
import structlog
import torch

from qfundus.classical.loader import Batch
from qfundus.classical.step import Step
from qfundus.classical.trackers import LOGGED_EVERY, Tracker

_log = structlog.get_logger()


@dataclass
class Watch:
    """Measures steps, how long batches were waited for, and tells trackers of every tenth and each epoch's last.

    Earlier tries of the same training took so many seconds `before`.
    """

    trackers: list[Tracker]
    steps: int
    epochs: int
    before: float = 0.0
    _recent: deque[tuple[Step, float, float]] = field(default_factory=lambda: deque(maxlen=LOGGED_EVERY))
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
        if number % LOGGED_EVERY == 0:
            self._tell(number, self._figures())

    def epoch_ended(self, number: int, epoch: int, train_loss: float, held_loss: float) -> None:
        """Take note of an epoch."""
        if not self.trackers:  # one of many processes, and not the one that speaks
            return
        _log.info(
            "Epoch", epoch=epoch + 1, of=self.epochs, train_loss=round(train_loss, 4), held_loss=round(held_loss, 4)
        )
        logged = number % LOGGED_EVERY == 0 or not self._recent  # by the last step already
        figures = {} if logged else self._figures()
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
    """Return what this process holds: on the GPU if there is one, else in memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return psutil.Process().memory_info().rss / 2**20
