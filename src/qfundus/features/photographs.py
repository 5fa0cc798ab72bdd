"""The photographs of a snapshot, as the networks see them."""

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from pathlib import Path

import numpy as np
import pydicom

from qfundus.dicom.read import read_pixels
from qfundus.errors import Discard
from qfundus.imaging.disc import find_disc
from qfundus.imaging.normalise import crop_disc
from qfundus.object_names import object_name
from qfundus.onnx_graphs.run import grade_images
from qfundus.site import Site

# In the bucket of models: photographs, checkpoints and logs of the networks that are being trained.
TRAININGS = "trainings"
_GROUP = 128  # in memory at a time


def read_photograph(site: Site, digest: str) -> np.ndarray | None:
    """Return the pixels `(height, width, 3)` of uint8 of a curated photograph, None where it was erased."""
    data = site.store.find(site.settings.curated_bucket, object_name(digest))
    return None if data is None else read_pixels(pydicom.dcmread(io.BytesIO(data)))


def read_discs(site: Site, digests: Iterable[str]) -> Iterator[np.ndarray | None]:
    """Yield the discs `(224, 224, 3)` of uint8 of photographs, None for one that was erased or cannot be decoded."""

    def read(digest: str) -> np.ndarray | None:
        try:
            pixels = read_photograph(site, digest)
            return None if pixels is None else crop_disc(pixels, find_disc(pixels))
        except Discard:
            return None

    left = iter(digests)
    with ThreadPoolExecutor(2) as pool:
        while group := list(islice(left, _GROUP)):
            yield from pool.map(read, group)


def grade_photographs(
    site: Site, graph: Path, digests: Iterable[str], outputs: Sequence[str] = ("probabilities",)
) -> tuple[np.ndarray, np.ndarray]:
    """Grade curated photographs by a graph of images.

    Returns probabilities `(outputs, present eyes, 5)`, and which of the photographs `(eyes,)` are present: one that was
    erased is not.
    """
    present: list[bool] = []

    def discs() -> Iterator[np.ndarray]:
        for disc in read_discs(site, digests):
            present.append(disc is not None)
            if disc is not None:
                yield disc

    probabilities = grade_images(graph, discs(), outputs)
    return probabilities, np.array(present, bool)


def forget_trainings(site: Site, before: datetime | None = None) -> int:
    """Delete what networks are being trained on, as somebody in it is to be forgotten; return how many objects.

    A training that runs fails, and its next try begins without whom is gone. With `before`, only those trainings are
    deleted of which nothing was written since.
    """
    listed = list(site.store.list(site.settings.models_bucket, f"{TRAININGS}/"))
    newest: dict[str, datetime] = {}
    for stored in listed:
        training = stored.name.split("/")[1]
        newest[training] = max(stored.modified, newest.get(training, stored.modified))
    doomed = [stored.name for stored in listed if before is None or newest[stored.name.split("/")[1]] < before]
    site.store.delete_all(site.settings.models_bucket, doomed)
    return len(doomed)
