"""Checkpoints in a folder or in S3: sharded, written while training goes on, and whole or not there.

A checkpoint counts once its `complete.json` lies beside its shards; that file is written last, and says where in the
data training stood. A run that goes on takes the newest that counts.
"""

import json
import tempfile
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import structlog
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.utils._pytree import tree_map_only

from qfundus.classical.checkpoint_folder import GRACE, list_checkpoints
from qfundus.classical.parallel import Layout
from qfundus.classical.storage_folder import StorageFolder, delete_folder, open_folder
from qfundus.errors import TrainingError
from qfundus.settings import fsspec_options

if TYPE_CHECKING:
    pass

_log = structlog.get_logger()
# A single process is fine; the warning would come from the writing thread, too.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")
# Of a try that was cut off: what is half written is written anew.
warnings.filterwarnings("ignore", message="Detected an existing checkpoint")
_COMPLETE = "complete.json"


@dataclass(frozen=True)
class Position:
    """Where training stands: `step` of `epoch` comes next; the best epoch so far, and each epoch's losses.

    `skipped` photographs could not be read so far, and it took so many `seconds`; `training` names what is trained, on
    what.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best_loss: float = float("inf")
    held_losses: tuple[float, ...] = ()
    train_losses: tuple[float, ...] = ()
    skipped: int = 0
    seconds: float = 0.0
    training: str = ""

    @property
    def is_best(self) -> bool:
        """Whether this is the end of the best epoch, as far as was known then."""
        return self.step == 0 and self.epoch == self.best_epoch + 1

    @property
    def name(self) -> str:
        """A name that sorts by age."""
        return f"{self.epoch:05d}-{self.step:06d}"


class Checkpointed(Protocol):
    """What a checkpoint is of."""

    def save(self, folder: str) -> "Future[None] | None":
        """Write this process's part into a folder; what is returned, if anything, ends when it is written."""
        ...

    def load(self, folder: str) -> None:
        """Resume from what was saved."""
        ...


@dataclass
class Checkpoints:
    """The checkpoints of one run in a folder or in S3: the last `keep`, and the best."""

    folder: str
    keep: int
    layout: Layout
    training: str = ""
    lost: int = field(default=0, init=False)  # how many could not be written
    _writing: "tuple[Position, Future[None] | None] | None" = field(default=None, init=False)
    _checked: bool = field(default=False, init=False)
    _counts: bool = field(default=False, init=False)  # what was being written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Ended from outside: what is nearly written must not be lost, and the others may be gone already.
        if kind is not None and self._writing is not None:
            with suppress(Exception, CheckpointException):
                self._settle(GRACE)

    def save(self, engine: Checkpointed, position: Position) -> None:
        """Begin to write a checkpoint; the one begun before is finished first."""
        self.finish()
        with self._forgiven(position):
            self._writing = position, engine.save(f"{self.folder}/{position.name}")
            self._checked = self._counts = False

    def check_written(self) -> None:
        """Mark the checkpoint that is being written complete as soon as it is; `finish` reports a failure."""
        if self._writing is None or self._checked:
            return
        writing = self._writing[1]
        if writing is None or writing.done():
            self._checked = True  # once: each try to reach a store that is away takes its time
            with suppress(Exception, CheckpointException):
                self._settle()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, mark it complete, and delete those no longer needed."""
        if self._writing is None:
            return
        with self._forgiven(self._writing[0]):
            self._settle()
        if self.layout.leads and self._counts:
            self._tidy()
        self._writing = None
        self.layout.wait()

    def _settle(self, seconds: float | None = None) -> None:
        """Wait until all processes' parts are written, as the leading one's end says, and let them count."""
        if self._writing is None or self._counts:
            return
        position, writing = self._writing
        if writing is not None:
            writing.result(seconds)
        if self.layout.leads:
            StorageFolder(f"{self.folder}/{position.name}").write(_COMPLETE, json.dumps(asdict(position)).encode())
        self._counts = True

    def resume(self, engine: Checkpointed) -> Position:
        """Load the newest complete checkpoint that can be read; return the position to resume from.

        Raises:
            TrainingError: if they are of another training, or none of them can be read.
        """
        positions = self.complete()
        if not positions:
            return Position(training=self.training)
        for position in reversed(positions):
            if position.training != self.training:
                raise TrainingError(
                    f"{self.folder} holds checkpoints of another recipe, seed or data: use another folder, or delete "
                    "them."
                )
            if self._loads(engine, position):
                _log.info("Training resumed", epoch=position.epoch, step=position.step)
                return position
        raise TrainingError(f"None of the checkpoints in {self.folder} can be read: delete them to start over.")

    def _loads(self, engine: Checkpointed, position: Position) -> bool:
        """Load a checkpoint; if one process cannot, all skip it."""
        failed = 0.0
        try:
            engine.load(f"{self.folder}/{position.name}")
        except TrainingError:
            raise
        except (Exception, CheckpointException) as error:  # noqa: BLE001  (torch has many for a damaged file)
            self.complete()  # raises where the store is away: then nothing is damaged, and a later try goes on
            failed = 1.0
            _log.warning("Skipped a checkpoint that cannot be read", name=position.name, why=_last_line(error))
        return not self.layout.total(failed)[0]

    def load_best(self, engine: Checkpointed) -> None:
        """Load the epoch whose validation loss is the least."""
        self.finish()
        best = [position for position in self.complete() if position.is_best]
        if best:  # else no epoch's checkpoint could be written
            engine.load(f"{self.folder}/{best[-1].name}")

    def complete(self) -> list[Position]:
        """List the complete checkpoints, oldest first."""
        fs, root = open_folder(self.folder)
        fs.invalidate_cache()
        positions = [_read_position(fs.cat_file(name)) for name in sorted(fs.glob(f"{root}/*/{_COMPLETE}"))]
        return [position for position in positions if position is not None]

    @contextmanager
    def _forgiven(self, position: Position) -> Generator[None]:
        """Continue training if a disk is full or a store is unreachable: the next checkpoint may succeed."""
        try:
            yield
        except (Exception, CheckpointException) as error:  # noqa: BLE001
            self.lost += 1
            if self.layout.leads:  # what there is of it would fill the disk for the next one
                with suppress(Exception):
                    delete_folder(f"{self.folder}/{position.name}")
            _log.warning("Could not write a checkpoint", name=position.name, why=_last_line(error))

    def _tidy(self) -> None:
        try:
            self._prune()
        except Exception as error:  # noqa: BLE001  (a store that is away for a moment)
            _log.warning("Could not delete old checkpoints; the next checkpoint tries again", why=_last_line(error))

    def _prune(self) -> None:
        fs, root = open_folder(self.folder)
        complete = self.complete()
        best = [p for p in complete if p.is_best][-1:]
        needed = {p.name for p in complete[-self.keep :] + best}
        for position in complete:
            if position.name not in needed:
                # Its mark goes first: what is half gone must not count.
                fs.rm_file(f"{root}/{position.name}/{_COMPLETE}")
                fs.rm(f"{root}/{position.name}", recursive=True)
        for name in list_checkpoints(fs, root):
            if name < complete[-1].name and name not in needed:  # it was interrupted
                fs.rm(f"{root}/{name}", recursive=True)


def save_shards(state: dict[str, Any], folder: str, layout: Layout) -> "Future[None]":
    """Copy a state, and begin to write this process's shards of it."""
    # What lies on the CPU would be written while the next step changes it.
    state = tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), state)
    alone = layout.writers is None
    return async_save(state, storage_writer=_writer(folder), process_group=layout.writers, no_dist=alone)  # pyright: ignore[reportReturnType]


def load_shards(state: dict[str, Any], folder: str) -> None:
    """Fill a state in place from shards, however many processes wrote them."""
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = FsspecReader(folder, **fsspec_options(folder)) if "://" in folder else FileSystemReader(folder)
        load(state, storage_reader=reader)


@contextmanager
def local_copy(folder: str, layout: Layout, *, read: bool = False) -> Generator[str]:
    """Yield a folder on this machine that stands for one that may be in S3; what is written there is put up after."""
    if "://" not in folder:
        yield folder
        return
    fs, root = open_folder(folder)
    with tempfile.TemporaryDirectory() as local:
        if read:
            fs.get(f"{root}/", f"{local}/", recursive=True)
        yield local
        if not read:
            _put_together(lambda: fs.put(f"{local}/", f"{root}/", recursive=True), layout)


def _put_together(put: Callable[[], object], layout: Layout) -> None:
    """Let every process write its part; if one fails, all are informed, so that none waits forever."""
    failed: Exception | None = None
    try:
        put()
    except Exception as error:  # noqa: BLE001  (whatever it is, the others wait)
        failed = error
    if layout.total(float(failed is not None))[0]:
        raise failed or OSError("Another process could not write its part.")


def _last_line(error: BaseException) -> str:
    """Return what an error of torch's says after its traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]


def _writer(folder: str) -> Any:
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

    if "://" not in folder:
        return FileSystemWriter(folder)
    return FsspecWriter(folder, sync_files=False, **fsspec_options(folder))


def _read_position(data: "str | bytes") -> Position | None:
    try:
        stored = json.loads(data)
    except ValueError:  # cut short by a crash
        return None
    held_losses, train_losses = tuple(stored.pop("held_losses")), tuple(stored.pop("train_losses"))
    return Position(**stored, held_losses=held_losses, train_losses=train_losses)
