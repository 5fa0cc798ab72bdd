"""JPEG streams without their margins: comments, Exif and other application segments can name a person."""

from qfundus.errors import Discard

_START, _END, _SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
_COMMENT = 0xFE
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
# APP0 (JFIF) and APP14 (Adobe) tell the decoder the colour space; their text-free heads are kept, the rest cut off.
_KEPT_HEADS = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}


def strip_jpeg(stream: bytes) -> bytes:
    """Return a JPEG stream (ITU-T T.81) without comments, application data and bytes behind its end.

    The coded image is copied bit by bit: the pixels stay exactly as they were.

    Raises:
        Discard: where the stream is no JPEG or ends early.
    """
    if not stream.startswith(_START):
        raise Discard("unreadable_pixels", "The pixel data is no JPEG stream.")
    kept, position = [_START], 2
    while True:
        marker, position = _next_marker(stream, position)
        if marker == _END[1]:
            return _pad(b"".join([*kept, _END]))
        if marker in _STANDALONE:
            kept.append(bytes((0xFF, marker)))
            continue
        length = int.from_bytes(stream[position : position + 2], "big")
        body = stream[position + 2 : position + length]
        if length < 2 or len(body) != length - 2:
            raise Discard("truncated", "The JPEG stream ends within a segment.")
        position += length
        kept.append(_segment(marker, body))
        if marker == _SCAN:
            end = _scan_end(stream, position)
            kept.append(stream[position:end])
            position = end


def _next_marker(stream: bytes, position: int) -> tuple[int, int]:
    # Fill bytes (0xFF) may stand before a marker (T.81 B.1.1.2).
    if stream[position : position + 1] != b"\xff":
        raise Discard("truncated", "The JPEG stream ends early or is broken between segments.")
    while stream[position : position + 1] == b"\xff":
        position += 1
    if position >= len(stream):
        raise Discard("truncated", "The JPEG stream ends early.")
    return stream[position], position + 1


def _segment(marker: int, body: bytes) -> bytes:
    if marker in _KEPT_HEADS:
        head, length = _KEPT_HEADS[marker]
        if not body.startswith(head):
            return b""
        body = body[:length]
        if marker == 0xE0:
            body = body[:12] + b"\0\0"  # no thumbnail
    elif marker == _COMMENT or 0xE0 <= marker <= 0xEF:
        return b""
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def _scan_end(stream: bytes, position: int) -> int:
    """Find the marker that ends entropy-coded data: not a stuffed zero, not a restart."""
    while True:
        position = stream.find(b"\xff", position)
        if position < 0 or position + 1 >= len(stream):
            raise Discard("truncated", "The JPEG stream ends within the image.")
        if stream[position + 1] != 0 and stream[position + 1] not in range(0xD0, 0xD8):
            return position
        position += 2


def _pad(stream: bytes) -> bytes:
    return stream + b"\0" * (len(stream) % 2)
