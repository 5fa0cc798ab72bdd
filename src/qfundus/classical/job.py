"""A training job: a network to train, the photographs, and the folder for its results."""

import fcntl
import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from qfundus.classical.parallel import Layout
from qfundus.classical.storage_folder import StorageFolder
from qfundus.errors import TrainingError
from qfundus.recipes.network import NetworkRecipe

LAST_WORD = "Training ends: "  # what follows says why; torchrun adds pages that do not
WEIGHTS_FILE, TRAINED_FILE = "weights.pt", "trained.json"


@dataclass(frozen=True)
class TrainingJob:
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
    def results(self) -> StorageFolder:
        """The folder for its weights and its log."""
        return StorageFolder(self.folder)

    @property
    def is_done(self) -> bool:
        """Whether it has ended well."""
        return self.results.exists(TRAINED_FILE)

    def fingerprint(self, photographs: str) -> str:
        """Identify what is trained, on photographs of a digest: only checkpoints with this fingerprint are resumed."""
        text = f"{self.recipe.fingerprint_text()} {self.seed} {self.fold} {photographs}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def to_json(self) -> str:
        """Write the job for travel."""
        return json.dumps({**asdict(self), "recipe": self.recipe.model_dump()})

    @classmethod
    def from_json(cls, text: str) -> "TrainingJob":
        """Read a job."""
        stored = json.loads(text)
        return cls(recipe=NetworkRecipe.model_validate(stored.pop("recipe")), **stored)


@contextmanager
def hold_folder(held: StorageFolder, layout: Layout) -> Generator[None]:
    """Hold a folder: two trainings that write the same checkpoints would spoil both.

    S3 has no locks: there, the launcher starts a training only once. The folder may be a network's, or
    that of all that is trained together.

    Raises:
        TrainingError: if another training holds it.
    """
    if held.remote or not layout.leads:
        yield
        return
    folder = Path(held.address)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise TrainingError(
                f"Another process ({lock.read().strip()}) is training in {folder}: wait for it, or stop it."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
