"""What every engine offers, and the result of a step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from qfundus.classical import checkpoints
from qfundus.classical.loader import Batch
from qfundus.classical.parallel import Layout


@dataclass(frozen=True)
class Step:
    """The result of a step; `gradient` is the norm before it is clipped.

    A gradient that is not a number is `passed_over` while float16's scaler has still to find its scale.
    """

    loss: float
    gradient: float
    rate: float
    photographs: int
    passed_over: bool = False


class Engine(checkpoints.Checkpointed, Protocol):
    """Takes steps, and keeps and restores all that the next one depends on."""

    layout: Layout

    def step(self, pieces: Sequence[Batch]) -> Step:
        """Take a step on the pieces of this process."""
        ...

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits `(batch, 5)` by the averaged weights, where there is an average."""
        ...

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all weights on the CPU, averaged where there is an average; every process must ask."""
        ...


def seed_of_step(seed: int, step: int, rank: int) -> int:
    """Name the random numbers of one step of one process."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
