"""The pixel data of an object, and nothing but it: frame by frame, so that memory does not grow with their number."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from qfundus.dicom.codestream import strip_jpeg, strip_jpeg2000
from qfundus.dicom.elements import DicomFile, Element
from qfundus.dicom.encoding import UNDEFINED, Buffer, Syntax, encode_head, is_encapsulated
from qfundus.errors import Discard

_CHUNK = 1 << 24  # bytes of native pixels in memory at a time; a multiple of every sample's size
_ITEM = struct.Struct("<HHI")
_SEQUENCE_END = _ITEM.pack(0xFFFE, 0xE0DD, 0)
_LARGEST_FRAME = 1 << 28  # samples
_TAIL = 1 << 12  # bytes of a JPEG frame's end in which a name may hide behind the last coded block
FLOAT_SAMPLES = {0x7FE00008: 32, 0x7FE00009: 64}
RLE = "1.2.840.10008.1.2.5"
JPEGS = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 53, 55, 57, 70, 80, 81))
JPEG_2000S = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))


@dataclass(frozen=True)
class Shape:
    """How the pixels are laid out; the names are the header's."""

    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    high: int
    signed: bool
    photometric: str

    @property
    def bits(self) -> int:
        """Bits of all native frames together."""
        # Uncompressed YBR_FULL_422 keeps two chroma samples for each pair of pixels (PS3.3 C.7.6.3.1.2).
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.frames * self.allocated


def read_shape(file: DicomFile) -> Shape:
    """Read the layout of the pixels from the header.

    Raises:
        Discard: if a needed attribute is absent or is inconsistent.
    """
    photometric = file.text(0x00280004)
    shape = Shape(
        rows=_number(file, 0x00280010),
        columns=_number(file, 0x00280011),
        samples=_number(file, 0x00280002, 1),
        frames=_frames(file),
        allocated=_number(file, 0x00280100),
        stored=_number(file, 0x00280101, _number(file, 0x00280100)),
        high=_number(file, 0x00280102, _number(file, 0x00280101, _number(file, 0x00280100)) - 1),
        signed=_number(file, 0x00280103, 0) == 1,
        photometric=photometric,
    )
    sane = shape.allocated in {1, 8, 16, 32, 64} and 1 <= shape.stored <= shape.high + 1 <= shape.allocated
    if not (sane and shape.rows and shape.columns and shape.samples in {1, 3, 4} and shape.frames > 0):
        raise Discard("unreadable_pixels", "The header's layout of the pixels is inconsistent.")
    if shape.rows * shape.columns * shape.samples > _LARGEST_FRAME:
        raise Discard("too_large", f"One frame holds more than {_LARGEST_FRAME >> 20} million samples.")
    return shape


def _number(file: DicomFile, tag: int, absent: int = 0) -> int:
    element = file.find(tag)
    if element is None or element.length != 2:
        return absent
    return struct.unpack(f"{file.syntax.order}H", file.value(element))[0]


def _frames(file: DicomFile) -> int:
    text = file.text(0x00280008)
    return int(text) if text.isdecimal() and len(text) < 10 else 0 if text else 1


def clean_pixels(
    file: DicomFile, element: Element, names_somebody: Callable[[bytes], bool] = lambda _: False
) -> Iterator[Buffer]:
    """Yield the pixel element anew: frames without margins, each compressed one a single fragment.

    Raises:
        Discard: if frames are missing, broken, compressed in a way that cannot be looked into, or where
            `names_somebody` says so of bytes between the coded image and its end.
    """
    shape = read_shape(file)
    if is_encapsulated(file.transfer_syntax):
        yield from _encapsulated(file, element, shape, names_somebody)
    elif element.fragments is not None:
        raise Discard("unreadable_pixels", "The pixels are compressed, the transfer syntax is not.")
    else:
        yield from _native(file, element, shape)


def _native(file: DicomFile, element: Element, shape: Shape) -> Iterator[Buffer]:
    bits = shape.bits
    if element.tag in FLOAT_SAMPLES:
        bits = shape.rows * shape.columns * shape.samples * shape.frames * FLOAT_SAMPLES[element.tag]
    length = (bits + 7) // 8
    if element.length < length:
        raise Discard("truncated", "The pixel data is shorter than its header states.")
    yield encode_head(element.tag, element.vr, length + length % 2, file.syntax)
    spare = element.tag not in FLOAT_SAMPLES and shape.stored < shape.allocated
    for start in range(0, length, _CHUNK):
        chunk = memoryview(file.data)[element.start + start : element.start + min(start + _CHUNK, length)]
        yield _without_spare_bits(chunk, shape, file.syntax) if spare else chunk
    if length % 2:
        yield b"\0"


def _without_spare_bits(chunk: Buffer, shape: Shape, syntax: Syntax) -> Buffer:
    """Blank the bits beside the stored ones: overlays used to hide there (retired, PS3.5 8.1.1)."""
    size = shape.allocated // 8
    samples = np.frombuffer(chunk, f"{syntax.order}{'i' if shape.signed else 'u'}{size}")
    if shape.signed:
        low = shape.high + 1 - shape.stored
        cleaned = ((samples << (shape.allocated - 1 - shape.high)) >> (shape.allocated - shape.stored)) << low
    else:
        cleaned = samples & samples.dtype.type(((1 << shape.stored) - 1) << (shape.high + 1 - shape.stored))
    return chunk if np.array_equal(cleaned, samples) else cleaned.astype(samples.dtype, copy=False).tobytes()


def _encapsulated(
    file: DicomFile, element: Element, shape: Shape, names_somebody: Callable[[bytes], bool]
) -> Iterator[Buffer]:
    if element.fragments is None:
        raise Discard("unreadable_pixels", "The transfer syntax is compressed, the pixels are not.")
    strip = stripper(file.transfer_syntax, shape)
    yield encode_head(element.tag, "OB", UNDEFINED, file.syntax)
    yield _ITEM.pack(0xFFFE, 0xE000, 0)  # an empty offset table: each frame is one fragment
    for frame in frames(file, element, shape):
        stripped = strip(frame)
        # Only a decoder knows where the coded image ends. In JPEG 2000 each of its many parts may have a rest.
        margin = stripped if file.transfer_syntax in JPEG_2000S else stripped[-_TAIL:]
        if names_somebody(margin):
            raise Discard("unreadable_pixels", "Bytes among the coded pixels name the patient.")
        yield _ITEM.pack(0xFFFE, 0xE000, len(stripped))
        yield stripped
    yield _SEQUENCE_END


def frames(file: DicomFile, element: Element, shape: Shape) -> Iterator[bytes]:
    """Yield the compressed frames, each joined from its fragments.

    Raises:
        Discard: if the fragments do not form as many frames as the header states.
    """
    table, *fragments = element.fragments or [(0, 0)]
    spans = [(start, start + length) for start, length in fragments]
    if shape.frames == 1:
        groups = [spans]
    elif len(spans) == shape.frames:
        groups = [[span] for span in spans]
    elif table[1]:
        groups = _by_offsets(file, table, spans)
    else:
        groups = _by_end_markers(file, spans)
    if len(groups) != shape.frames or not all(groups):
        raise Discard("unreadable_pixels", "The number of frames differs from the header's.")
    for group in groups:
        yield b"".join(bytes(file.data[start:end]) for start, end in group)


def _by_offsets(file: DicomFile, table: tuple[int, int], spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    start, length = table
    offsets = struct.unpack(f"<{length // 4}I", file.data[start : start + length // 4 * 4])
    groups: dict[int, list[tuple[int, int]]] = {offset: [] for offset in offsets}
    current = -1
    for span in spans:
        offset = span[0] - 8 - (start + length)  # offsets count from the first fragment's item (PS3.5 A.4)
        current = offset if offset in groups else current
        if current < 0:
            raise Discard("unreadable_pixels", "The offset table does not name the first frame.")
        groups[current].append(span)
    return list(groups.values())


def _by_end_markers(file: DicomFile, spans: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Group fragments without an offset table: every compressed frame but RLE's ends in an end-of-image marker."""
    groups: list[list[tuple[int, int]]] = [[]]
    for start, end in spans:
        groups[-1].append((start, end))
        if b"\xff\xd9" in bytes(file.data[max(start, end - 10) : end]):
            groups.append([])
    return [group for group in groups if group]


def stripper(transfer_syntax: str, shape: Shape) -> Callable[[bytes], bytes]:
    """Return what takes the margins off a frame of a transfer syntax.

    Raises:
        Discard: if frames of that syntax cannot be looked into.
    """
    size = (shape.rows, shape.columns)
    if transfer_syntax in JPEGS:
        return lambda frame: strip_jpeg(frame, size)
    if transfer_syntax in JPEG_2000S:
        return lambda frame: strip_jpeg2000(frame, size)
    if transfer_syntax == RLE:
        return lambda frame: strip_rle(frame, shape)
    raise Discard("unsupported_transfer_syntax", "This compression cannot be inspected.")


def strip_rle(frame: bytes, shape: Shape) -> bytes:
    """Return an RLE frame (PS3.5 Annex G) that holds its segments' pixels and nothing behind them.

    Raises:
        Discard: if the segments are broken or shorter than the image.
    """
    from rle.rle import decode_segment, encode_segment

    count = struct.unpack_from("<I", frame)[0] if len(frame) >= 64 else 0
    if count != shape.samples * shape.allocated // 8:
        raise Discard("unreadable_pixels", "The RLE frame has another number of segments than its header states.")
    starts = [*struct.unpack_from(f"<{count}I", frame, 4), len(frame)]
    segments: list[bytes] = []
    for start, end in pairwise(starts):
        if end <= start:  # the decoder panics on it
            raise Discard("truncated", "An RLE segment is empty.")
        try:
            unpacked = bytes(decode_segment(frame[start:end]))[: shape.rows * shape.columns]
        except ValueError:
            raise Discard("truncated", "An RLE segment is broken.") from None
        if len(unpacked) < shape.rows * shape.columns:
            raise Discard("truncated", "An RLE segment is shorter than the image.")
        packed = bytes(encode_segment(unpacked, shape.columns))
        segments.append(packed + b"\0" * (len(packed) % 2))
    offsets = [64 + sum(map(len, segments[:number])) for number in range(count)]
    return struct.pack("<16I", count, *offsets, *[0] * (15 - count)) + b"".join(segments)
