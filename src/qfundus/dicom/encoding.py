"""Transfer syntaxes, and elements written in them (PS3.5)."""

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from pydicom.uid import UID

from qfundus.dicom.vrs import LONG_VRS
from qfundus.errors import Discard

Buffer = bytes | memoryview
UNDEFINED = 0xFFFFFFFF
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
_HEADS = {order: tuple(struct.Struct(order + form).pack for form in ("HHI", "HH2sH", "HH2sHI")) for order in ("<", ">")}


class Syntax(NamedTuple):
    """How a data set is coded: VRs written or implied, and the order of bytes."""

    explicit: bool
    order: str  # "<" little endian, ">" big endian


def deflate(plain: bytes) -> bytes:
    """Deflate a data set, padded to an even length (PS3.5 A.5)."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(plain) + deflater.flush()
    return deflated + b"\0" * (len(deflated) % 2)


def is_encapsulated(transfer_syntax: str) -> bool:
    """Return whether pixels come in fragments, compressed."""
    return UID(transfer_syntax).is_compressed and transfer_syntax != DEFLATED


def encode(tag: int, vr: str, value: bytes, syntax: Syntax) -> bytes:
    """Write one element; a value of odd length is padded as its VR asks (PS3.5 6.2)."""
    if len(value) & 1:
        value += b"\0" if vr in {"UI", "OB", "UN"} else b" "
    return encode_head(tag, vr, len(value), syntax) + value


def encode_head(tag: int, vr: str, length: int, syntax: Syntax) -> bytes:
    """Write an element up to its value.

    Raises:
        Discard: if the value is too long for its VR.
    """
    implicit, short, long = _HEADS[syntax.order]
    if not syntax.explicit:
        return implicit(tag >> 16, tag & 0xFFFF, length)
    if vr in LONG_VRS:
        return long(tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)
    if length > 0xFFFF:
        raise Discard("unreadable_header", "A value is longer than its VR allows.")
    return short(tag >> 16, tag & 0xFFFF, vr.encode(), length)


def encode_items(tag: int, items: Iterable[bytes], syntax: Syntax) -> bytes:
    """Write a sequence of items, each with its length."""
    head = _HEADS[syntax.order][0]
    body = b"".join(head(0xFFFE, 0xE000, len(item)) + item for item in items)
    return encode_head(tag, "SQ", len(body), syntax) + body
