"""Bytes of a JPEG that belong to no picture, where only a decoder finds them: behind the last block of a scan."""

from mmap import ACCESS_READ, mmap
from pathlib import Path

import simplejpeg

from qfundus.dicom.elements import PIXEL_DATA, parse_file
from qfundus.dicom.pixels import frames, read_shape
from qfundus.errors import Discard

_DECODED = frozenset(f"1.2.840.10008.1.2.4.{process}" for process in (50, 51, 55))


def refuse_margins(path: Path) -> None:
    """Refuse a de-identified file one of whose JPEG frames holds bytes that no pixel is made of.

    Raises:
        Discard: if there are such.
    """
    with path.open("rb") as stream:
        # Not closed by hand: what is parsed points into it.
        file = parse_file(mmap(stream.fileno(), 0, access=ACCESS_READ))
    element = file.find(PIXEL_DATA)
    if element is None or file.transfer_syntax not in _DECODED:
        return
    if any(_has_margins(frame) for frame in frames(file, element, read_shape(file))):
        raise Discard("unreadable_pixels", "The coded pixels contain bytes that no pixel needs.")


def _has_margins(frame: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg(frame, "GRAY", fastdct=True, strict=True)
    except ValueError as error:  # also for what it cannot decode, which another decoder will
        return "extraneous bytes" in str(error)
    return False
