"""A network to train: what, from what, into what folder."""

import fcntl
import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from qfundus.classical.parallel import Layout
from qfundus.classical.place import Place
from qfundus.classical.recipe import NetworkRecipe
from qfundus.errors import TrainingError

WEIGHTS_FILE, TRAINED_FILE = "weights.pt", "trained.json"


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
