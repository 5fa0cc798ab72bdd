"""Load photographs in an order that depends on seed and epoch alone, decoded and augmented off the training thread."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import numpy as np
import structlog
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from qfundus.classical.augmentation import augment
from qfundus.classical.parallel import Layout
from qfundus.classical.shards import open_shards
from qfundus.errors import SetupError
from qfundus.imaging.labelled import UNREADABLE
from qfundus.recipes.network import Augmentation

_log = structlog.get_logger()
Key = tuple[int, int]  # (epoch, row of the shards)


@dataclass(frozen=True)
class Batch:
    """Inputs `(batch, ...)`, their grades and weights `(batch,)`; what could not be read has no weight."""

    inputs: torch.Tensor
    grades: torch.Tensor
    weights: torch.Tensor
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> "Batch":
        """Move to a device."""
        if device.type == "cpu":
            return self
        inputs, grades, weights = (
            part.to(device, non_blocking=True) for part in (self.inputs, self.grades, self.weights)
        )
        return Batch(inputs, grades, weights, self.rows)


class ShardDataset(Dataset[Batch]):
    """Photographs from shards, a batch at a time; `augmentation` is left out for looking at them as they are."""

    def __init__(self, uri: str, grades: np.ndarray, seed: int, augmentation: Augmentation | None) -> None:
        self.uri = uri
        self.grades = grades
        self.seed = seed
        self.augmentation = augmentation
        self._opened: Any = None

    def __getitem__(self, key: Key) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[Key]) -> Batch:
        """Read a batch by one request; what cannot be read is replaced by another photograph, without weight."""
        rows = [row for _, row in keys]
        read = [_decode(packed) for packed in self._fetch(rows)]
        good = [image for image in read if image is not None]
        stand_in = good[0] if good else self._find_readable()
        images = torch.from_numpy(np.stack([stand_in if image is None else image for image in read]))
        for row, image in zip(rows, read, strict=True):
            if image is None:
                _log.warning("A photograph cannot be read and is skipped", row=row, shards=self.uri)
        if self.augmentation is not None:
            images = augment(images, [(self.seed, *key) for key in keys], self.augmentation)
        weights = torch.tensor([float(image is not None) for image in read])
        return Batch(images, torch.from_numpy(self.grades[rows]), weights, tuple(rows))

    def _find_readable(self) -> np.ndarray:
        """Return some photograph that can be read, for a batch in which none can.

        Raises:
            SetupError: if none is left at all.
        """
        for row in range(len(self.grades)):
            [packed] = self._fetch([row])
            if (image := _decode(packed)) is not None:
                return image
        raise SetupError(f"None of the photographs at {self.uri} can be read: prepare them again.")

    def _fetch(self, rows: list[int]) -> list[bytes | None]:
        # Opened here: Lance's threads do not live through a fork, and a dataset travels to workers unopened.
        self._opened = self._opened or open_shards(self.uri)
        try:
            return self._opened.take(rows, columns=["image"])["image"].to_pylist()
        except (OSError, ValueError) as error:
            _log.warning("A shard cannot be read as a whole", why=str(error).splitlines()[0][:200])
            return [self._fetch_one(row) for row in rows]

    def _fetch_one(self, row: int) -> bytes | None:
        try:
            return self._opened.take([row], columns=["image"])["image"][0].as_py()
        except (OSError, ValueError):
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


@dataclass
class Order(Sampler[list[Key]]):
    """The rows of each step, cut for one process: `accumulate` pieces of `batch / (world * accumulate)` each.

    A step's photographs are the same whatever the number of processes. What is left of an epoch after its last whole
    batch is passed over; the next epoch's order is another. It begins at a step of an epoch, and goes on to the end of
    the last of `epochs`.
    """

    rows: np.ndarray
    batch: int
    seed: int
    layout: Layout
    accumulate: int = 1
    epochs: int = 1
    epoch: int = 0
    step: int = 0
    steps: int = field(init=False)  # of an epoch

    def __post_init__(self) -> None:
        self.batch = min(self.batch, len(self.rows) // self.pieces * self.pieces)
        if not self.batch:
            raise SetupError(
                f"{len(self.rows)} photographs to train on cannot be divided among {self.layout.world} processes, "
                f"each with {self.accumulate} of a step's pieces: take fewer processes, or lower `accumulate`."
            )
        if self.batch % self.pieces:
            raise SetupError(
                f"A batch of {self.batch} does not divide into {self.layout.world} processes times `accumulate` "
                f"{self.accumulate}: take another number of processes, or a multiple of {self.pieces} for `batch`."
            )
        self.steps = len(self.rows) // self.batch

    @property
    def pieces(self) -> int:
        """Into how many pieces a step is cut."""
        return self.layout.world * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        size = self.batch // self.pieces
        for epoch in range(self.epoch, self.epochs):
            shuffled = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
            for step in range(self.step if epoch == self.epoch else 0, self.steps):
                for piece in range(self.accumulate):
                    start = step * self.batch + (piece * self.layout.world + self.layout.rank) * size
                    yield [(epoch, int(row)) for row in shuffled[start : start + size]]


def load_steps(examples: Dataset[Batch], order: Order, workers: int) -> Iterator[list[Batch]]:
    """Yield each step's pieces; workers make the next ones while this one trains, those of the next epoch, too."""
    pieces = iter(_open_loader(examples, order, workers))
    while step := list(islice(pieces, order.accumulate)):
        yield step


def load_in_order(examples: Dataset[Batch], rows: np.ndarray, batch: int, workers: int = 0) -> Iterator[Batch]:
    """Yield photographs as they are, in the order of `rows`."""
    listed = [[(0, int(row)) for row in rows[start : start + batch]] for start in range(0, len(rows), batch)]
    yield from cast("Iterator[Batch]", iter(_open_loader(examples, listed, workers)))


def _open_loader(examples: Dataset[Batch], batches: Any, workers: int) -> "DataLoader[Batch]":
    if not workers:
        return DataLoader(examples, batch_sampler=batches, collate_fn=cast("Any", _keep))
    return DataLoader(
        examples,
        batch_sampler=batches,
        collate_fn=cast("Any", _keep),
        num_workers=workers,
        multiprocessing_context="forkserver",  # a fork would copy the threads' locks of torch and Lance
        prefetch_factor=4,
        pin_memory=torch.cuda.is_available(),
    )


def _keep(batch: Batch) -> Batch:
    return batch


def _decode(packed: bytes | None) -> np.ndarray | None:
    if packed is None:
        return None
    try:
        with Image.open(io.BytesIO(packed)) as image:
            return np.asarray(image.convert("RGB"))
    except UNREADABLE:
        return None
