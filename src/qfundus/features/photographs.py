"""The photographs of a snapshot, as the networks see them."""

import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice

import numpy as np
import pydicom

from qfundus.dicom.read import read_pixels
from qfundus.errors import Discard
from qfundus.imaging.disc import find_disc
from qfundus.imaging.normalise import crop_disc
from qfundus.ingestion.names import object_name
from qfundus.settings import Settings
from qfundus.storage import ObjectStore

# In the bucket of models: photographs, checkpoints and logs of the networks that are being trained.
TRAININGS = "trainings"
_GROUP = 128  # in memory at a time


def read_photograph(store: ObjectStore, settings: Settings, digest: str) -> np.ndarray | None:
    """Return the pixels `(height, width, 3)` of uint8 of a curated photograph, None where it was erased."""
    data = store.find(settings.curated_bucket, object_name(digest))
    return None if data is None else read_pixels(pydicom.dcmread(io.BytesIO(data)))


def read_discs(store: ObjectStore, settings: Settings, digests: Iterable[str]) -> Iterator[np.ndarray | None]:
    """Yield the discs `(224, 224, 3)` of uint8 of curated photographs, None for one that cannot be had any more."""

    def read(digest: str) -> np.ndarray | None:
        try:
            pixels = read_photograph(store, settings, digest)
            return None if pixels is None else crop_disc(pixels, find_disc(pixels))
        except Discard:
            return None

    left = iter(digests)
    with ThreadPoolExecutor(2) as pool:
        while group := list(islice(left, _GROUP)):
            yield from pool.map(read, group)


def forget_trainings(store: ObjectStore, settings: Settings, before: datetime | None = None) -> int:
    """Delete what networks are being trained on, as somebody in it is to be forgotten; return how many objects.

    A training that runs fails, and its next try begins without whom is gone. With `before`, only those trainings are
    deleted of which nothing was written since.
    """
    listed = list(store.list(settings.models_bucket, f"{TRAININGS}/"))
    newest: dict[str, datetime] = {}
    for found in listed:
        training = found.name.split("/")[1]
        newest[training] = max(found.modified, newest.get(training, found.modified))
    doomed = [found.name for found in listed if before is None or newest[found.name.split("/")[1]] < before]
    store.delete_all(settings.models_bucket, doomed)
    return len(doomed)
