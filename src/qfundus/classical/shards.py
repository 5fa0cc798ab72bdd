"""Prepared photographs in shards, in a folder or in S3, from which any one can be read by itself.

The format is Lance's: columnar files of which single rows are fetched by ranges, so an epoch's order is ours to choose
whatever process reads it, and no shard has to be fetched whole.
"""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import structlog
from PIL import Image

from qfundus.errors import Discard, SetupError
from qfundus.imaging.disc import find_disc
from qfundus.imaging.enhance import even_illumination, stretch_contrast
from qfundus.imaging.labelled import UNREADABLE, Labelled
from qfundus.imaging.normalise import crop_disc, pad_square
from qfundus.recipes.network import ImageFormat
from qfundus.settings import lance_options

if TYPE_CHECKING:
    from lance import LanceDataset

_log = structlog.get_logger()
# Lance warns of each new data set, and of forks, though nothing here uses it in one.
os.environ.setdefault("LANCE_LOG", "error")
warnings.filterwarnings("ignore", message="lance is not fork-safe")
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("grade", pa.int8()),
        ("split", pa.string()),
        ("patient", pa.string()),
        ("image", pa.large_binary()),
    ]
)
_ROWS_A_SHARD, _ROWS_AT_ONCE = 4096, 256
_DIGEST = b"qfundus.digest"


@dataclass(frozen=True)
class ShardTable:
    """Everything about the photographs in shards except their pixels, `(photographs,)` each.

    `digest` is of everything, the pixels included; `uri` is the shards' address, '' before they are written.
    """

    uri: str
    names: np.ndarray
    grades: np.ndarray
    splits: np.ndarray
    patients: np.ndarray
    digest: str


def prepare(pixels: np.ndarray, images: ImageFormat) -> np.ndarray:
    """Bring a photograph `(height, width, 3)` of uint8 to the network's `(side, side, 3)`.

    Raises:
        Discard: if the disc is asked for and none is found.
    """
    if "disc" in images.preparation:
        square = crop_disc(pixels, find_disc(pixels), images.side)
    else:
        whole = Image.fromarray(pad_square(pixels))
        square = np.asarray(whole.resize((images.side, images.side), Image.Resampling.BICUBIC))
    if "illumination" in images.preparation:
        square = even_illumination(square)
    if "contrast" in images.preparation:
        square = stretch_contrast(square)
    return square


def write_shards(
    labelled: Iterable[Labelled], images: ImageFormat, uri: str, advanced: Callable[[int], None] = lambda _: None
) -> int:
    """Prepare photographs and write them over what is at `uri`; return how many could not be read.

    One that cannot be read is said, by its name, and left out.

    Raises:
        SetupError: if the disk is full, or the folder may not be written.
    """
    import lance

    skipped, digest = 0, hashlib.sha256(images.model_dump_json().encode())

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal skipped
        left, done = iter(labelled), 0
        with ThreadPoolExecutor(2) as pool:
            while group := list(islice(left, _ROWS_AT_ONCE)):
                rows: list[dict[str, Any]] = []
                for row in pool.map(lambda photograph: _prepare_row(photograph, images), group):
                    done += 1
                    advanced(done)
                    if row is None:
                        skipped += 1
                        continue
                    digest.update("{name} {grade} {split} {patient}".format_map(row).encode())
                    digest.update(row["image"])
                    rows.append(row)
                if rows:
                    yield pa.RecordBatch.from_pylist(rows, _SCHEMA)

    reader = pa.RecordBatchReader.from_batches(_SCHEMA, batches())
    try:
        written = lance.write_dataset(
            reader, uri, mode="overwrite", max_rows_per_file=_ROWS_A_SHARD, storage_options=lance_options(uri)
        )
        # The digest is known when the last photograph is; a table without one was not finished.
        written.update_metadata({_DIGEST.decode(): digest.hexdigest(), "qfundus.pictures": images.model_dump_json()})
    except OSError as error:
        bucket = f" Does the bucket {uri.split('/')[2]} exist, and may you write to it?" if "://" in uri else ""
        raise SetupError(f"The shards at {uri} cannot be written: {_first_words(error)}.{bucket}") from None
    return skipped


def read_table(uri: str, images: ImageFormat) -> ShardTable:
    """Read all but the pixels.

    Raises:
        SetupError: if the shards are unfinished or damaged, or were prepared in another format.
    """
    dataset = open_shards(uri)
    metadata = dataset.metadata
    if _DIGEST.decode() not in metadata:
        raise SetupError(f"The shards at {uri} are incomplete: prepare them again.")
    if metadata["qfundus.pictures"] != images.model_dump_json():
        raise SetupError(
            f"The shards at {uri} were prepared as {metadata['qfundus.pictures']}, and the recipe wants "
            f"{images.model_dump_json()}: prepare them again, or change the recipe."
        )
    try:
        table = dataset.to_table(columns=["name", "grade", "split", "patient"])
    except ValueError as error:
        raise SetupError(f"The shards at {uri} are damaged ({_first_words(error)}): prepare them again.") from None
    except OSError as error:  # the store may be away
        raise SetupError(f"The shards at {uri} cannot be read: {_first_words(error)}.") from None
    columns = [np.asarray(table[name].to_pylist()) for name in ("name", "grade", "split", "patient")]
    return ShardTable(uri, columns[0], columns[1].astype(np.int64), columns[2], columns[3], metadata[_DIGEST.decode()])


def shards_exist(uri: str) -> bool:
    """Return whether an address holds shards, complete or not."""
    try:
        return open_shards(uri).version > 0
    except SetupError:
        return False


def open_shards(uri: str) -> "LanceDataset":
    """Open shards in a folder or in S3."""
    import lance

    try:
        return lance.dataset(uri, storage_options=lance_options(uri))
    except ValueError as error:
        raise SetupError(f"No shards were found at {uri} ({_first_words(error)}).") from None
    except OSError as error:
        raise SetupError(f"The shards at {uri} cannot be read: {_first_words(error)}.") from None


def _first_words(error: Exception) -> str:
    """Return what Lance says, without its own names and sources."""
    text = str(error).splitlines()[0].partition(", /")[0].removeprefix("External error: ")
    return re.sub(r"^LanceError\(\w+\): ", "", text)[:200].rstrip(" .")


def _prepare_row(photograph: Labelled, images: ImageFormat) -> dict[str, Any] | None:
    try:
        pixels = prepare(photograph.read(), images)
    except (*UNREADABLE, Discard) as error:
        why = error.reason if isinstance(error, Discard) else type(error).__name__
        _log.warning("Left out a photograph that cannot be used", photograph=photograph.name, why=why)
        return None
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG", compress_level=1)
    return {
        "name": photograph.name,
        "grade": photograph.grade,
        "split": photograph.split,
        "patient": photograph.patient,
        "image": packed.getvalue(),
    }
