"""Compressed frames without their margins: comments, Exif and other application segments can name a person."""

import re

from qfundus.errors import Discard

_START, _END, _SCAN = b"\xff\xd8", 0xD9, 0xDA
_QUANTISATION, _HUFFMAN, _RESTART_INTERVAL = 0xDB, 0xC4, 0xDD
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAME_HEADS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_PRESETS, _ARITHMETIC = 0xF8, 0xCC
_LOSSLESS_LS = 0xF7
# In coded data JPEG stuffs a zero byte behind 0xFF and knows restart markers (T.81 B.1.1.5);
# JPEG-LS stuffs a zero bit, so that any byte under 0x80 belongs to the data (T.87 C.1).
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_AFTER_SCAN_LS = re.compile(rb"\xff[\x80-\xfe]")


def strip_jpeg(stream: bytes, size: tuple[int, int] | None = None) -> bytes:
    """Return a JPEG (ITU-T T.81) or JPEG-LS (T.87) stream without comments, application data and bytes behind its end.

    The coded image is copied bit by bit: the pixels stay exactly as they were. `size` is the `(rows, columns)` that
    the header promises.

    Raises:
        Discard: if the stream is not a JPEG, ends early or is of another size.
    """
    if not stream.startswith(_START):
        raise Discard("unreadable_pixels", "The pixel data is not a JPEG stream.")
    pieces, position, after_scan, tables = [_START], 2, _AFTER_SCAN, _Tables()
    while True:
        marker, position = _next_marker(stream, position)
        if marker == _END:
            return _pad(b"".join((*pieces, b"\xff\xd9")))
        if marker in _STANDALONE:
            pieces.append(bytes((0xFF, marker)))
            continue
        body = _body(stream, position)
        position += len(body) + 2
        if marker in {_QUANTISATION, _HUFFMAN}:
            tables.hold(marker, body)
            continue
        if marker in _FRAME_HEADS:
            _check_size((int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")), size)
            after_scan = _AFTER_SCAN_LS if marker == _LOSSLESS_LS else _AFTER_SCAN
            pieces.append(tables.for_frame(body))
        elif marker == _SCAN:
            pieces.append(tables.for_scan(body))
        pieces.append(_segment(marker, body))
        if marker == _SCAN:
            match = after_scan.search(stream, position)
            if match is None:
                raise Discard("truncated", "The JPEG stream ends within the image.")
            pieces.append(stream[position : match.start()])
            position = match.start()


def _next_marker(stream: bytes, position: int) -> tuple[int, int]:
    # Fill bytes (0xFF) may stand before a marker (T.81 B.1.1.2).
    if stream[position : position + 1] != b"\xff":
        raise Discard("truncated", "The JPEG stream ends early or is broken between segments.")
    while stream[position : position + 1] == b"\xff":
        position += 1
    if position >= len(stream):
        raise Discard("truncated", "The JPEG stream ends early.")
    return stream[position], position + 1


def _body(stream: bytes, position: int) -> bytes:
    length = int.from_bytes(stream[position : position + 2], "big")
    body = stream[position + 2 : position + length]
    if length < 2 or len(body) != length - 2:
        raise Discard("truncated", "The stream ends within a segment.")
    return body


def _segment(marker: int, body: bytes) -> bytes:  # noqa: PLR0911  (one line for each kind of segment)
    """Return a segment that a decoder needs, cut to what the standard puts into it; b'' for any other."""
    if marker in _FRAME_HEADS:
        return _marked(marker, body[: 6 + 3 * body[5]])
    if marker == _SCAN:
        return _marked(marker, body[: 4 + 2 * body[0]])
    if marker == _RESTART_INTERVAL:
        return _marked(marker, body[:2])
    if marker == _ARITHMETIC:
        return _marked(marker, body[: 2 * 8])
    if marker == _PRESETS and body[:1] == b"\1":
        return _marked(marker, body[:11])
    # These three tell the decoder the colours, each with one byte; what else they hold is made anew.
    if marker == 0xE0 and body.startswith(b"JFIF\0"):
        return _marked(marker, b"JFIF\0\1\2\0\0\1\0\1\0\0")
    if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
        return _marked(marker, b"Adobe\0\x64\0\0\0\0" + body[11:12])
    return _marked(marker, body[:5]) if marker == 0xE8 and body.startswith(b"mrfx") else b""


class _Tables:
    """Quantisation and Huffman tables (T.81 B.2.4): one that no frame or scan asks for could hold anything."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], bytes] = {}
        self._quantisations: set[int] = set()

    def hold(self, marker: int, body: bytes) -> None:
        """Keep the tables of a segment until they are asked for; one that is defined anew was not."""
        while body:
            if marker == _QUANTISATION:
                number, length = body[0] & 15, 1 + 64 * (1 + (body[0] >> 4))
            else:
                number, length = body[0], 17 + sum(body[1:17])
            if len(body) < length:
                raise Discard("truncated", "A table of the JPEG stream ends early.")
            self._held[marker, number] = body[:length]
            body = body[length:]

    def for_frame(self, head: bytes) -> bytes:
        """Return the quantisation tables that a frame's components name."""
        self._quantisations |= {component[2] & 15 for component in _components(head[6:], 3)}
        return self._release({(_QUANTISATION, number) for number in self._quantisations})

    def for_scan(self, head: bytes) -> bytes:
        """Return the Huffman tables that a scan's components name, and quantisation tables that came late."""
        coders = [component[1] for component in _components(head[1 : 1 + 2 * head[0]] if head else b"", 2)]
        asked = {(_HUFFMAN, coder >> 4) for coder in coders} | {(_HUFFMAN, 16 | coder & 15) for coder in coders}
        return self._release(asked | {(_QUANTISATION, number) for number in self._quantisations})

    def _release(self, asked: set[tuple[int, int]]) -> bytes:
        named = [name for name in self._held if name in asked]
        return b"".join(_marked(name[0], self._held.pop(name)) for name in named)


def _components(described: bytes, size: int) -> list[bytes]:
    return [described[at : at + size] for at in range(0, len(described) - size + 1, size)]


def _check_size(measured: tuple[int, int], size: tuple[int, int] | None) -> None:
    # A frame larger than its header says would show more than was looked at; a far larger one is a bomb.
    if size is not None and measured != size:
        raise Discard("unreadable_pixels", "A frame's size differs from the header's.")


def _pad(stream: bytes) -> bytes:
    return stream + b"\0" * (len(stream) % 2)


_SOC, _SOT, _SOD, _EOC = 0x4F, 0x90, 0x93, 0xD9
_SIZ, _TLM = 0x51, 0x55
# Marker segments that a decoder needs (T.800 table A.2, T.814 CAP and CPF); comments, lengths of packets and unknown
# ones go.
_CODING = frozenset({0x50, _SIZ, 0x52, 0x53, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61})


def strip_jpeg2000(stream: bytes, size: tuple[int, int] | None = None) -> bytes:
    """Return a JPEG 2000 codestream (ITU-T T.800, also high-throughput T.814) without comments, boxes and margins.

    Raises:
        Discard: if the stream is not a JPEG 2000, ends early or is of another size.
    """
    stream = _codestream(stream)
    pieces, position = [stream[:2]], 2
    while True:
        marker, position = _next_marker(stream, position)
        if marker == _EOC:
            return _pad(b"".join((*pieces, b"\xff\xd9")))
        if marker == _SOT:
            part, position = _tile_part(stream, position)
            pieces.append(part)
            continue
        body = _body(stream, position)
        position += len(body) + 2
        if marker == _SIZ:
            _check_size(_image_size(body), size)
        if marker in _CODING:
            pieces.append(_marked(marker, _whole(marker, body)))


def _codestream(stream: bytes) -> bytes:
    if stream.startswith(b"\0\0\0\x0cjP  "):  # a JP2 file: its boxes may hold XML and worse
        start = stream.find(b"jp2c")
        stream = stream[start + 4 :] if start > 0 else b""
    if not stream.startswith(b"\xff\x4f"):
        raise Discard("unreadable_pixels", "The pixel data is not a JPEG 2000 codestream.")
    return stream


def _whole(marker: int, body: bytes) -> bytes:
    """Return a segment that is as long as what it says of itself (T.800 A.5 and A.6); others are refused.

    Raises:
        Discard: if it is longer or shorter: what is behind could be anything.
    """
    match marker:
        case 0x51:  # SIZ
            lengths = {36 + 3 * int.from_bytes(body[34:36], "big")}
        case 0x52:  # COD
            lengths = {4 + n for n in _coding_style_lengths(body[:1] + body[5:])}
        case 0x53:  # COC: the same of one component
            lengths = {1 + n for n in _coding_style_lengths(body[1:])}
        case 0x5C:  # QCD
            lengths = _quantisation_lengths(body)
        case 0x5D:  # QCC: the same of one component
            lengths = {1 + n for n in _quantisation_lengths(body[1:])}
        case 0x5E:  # RGN
            lengths = {3}
        case 0x5F:  # POC: photographs change their progression a few times at most
            lengths = {7 * n for n in range(1, 5)} if _is_progression(body) else set[int]()
        case _:
            lengths = {len(body)}
    if len(body) not in lengths:
        raise Discard("unreadable_pixels", "A segment of the JPEG 2000 codestream is longer or shorter than it says.")
    return body


def _coding_style_lengths(style: bytes) -> set[int]:
    """Return how long a coding style is: one byte, five of its parameters, and where it says so one a resolution."""
    return {6 + (style[1] + 1 if style[0] & 1 else 0)} if len(style) > 1 else set()


def _quantisation_lengths(style: bytes) -> set[int]:
    """Return how long a quantisation may be: a step for all subbands, or one or two bytes for each of them."""
    kind = style[0] & 31 if style else 3
    return {3} if kind == 1 else {1 + (1 + kind // 2) * (1 + 3 * levels) for levels in range(33)}


def _is_progression(body: bytes) -> bool:
    """Return whether each change goes from resolution, component and layer to later ones, in an order that there is."""
    changes = [body[at : at + 7] for at in range(0, len(body), 7)]
    return all(len(c) == 7 and c[0] < c[4] <= 33 and c[1] < c[5] <= 4 and c[6] <= 4 for c in changes)


def _image_size(body: bytes) -> tuple[int, int]:
    width, height, left, top = (int.from_bytes(body[at : at + 4], "big") for at in (2, 6, 10, 14))
    return height - top, width - left


def _marked(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body


def _tile_part(stream: bytes, position: int) -> tuple[bytes, int]:
    """Copy one tile-part without comments; `position` is behind its SOT marker. Return it and where the next starts."""
    head = _body(stream, position)
    if len(head) != 8:
        raise Discard("truncated", "A tile-part's head is broken.")
    start, length = position - 2, int.from_bytes(head[2:6], "big")
    end = start + length if length else stream.rfind(b"\xff\xd9")
    if end > len(stream) or end <= start:
        raise Discard("truncated", "The JPEG 2000 codestream ends within a tile.")
    position += len(head) + 2
    pieces: list[bytes] = []
    while True:
        marker, position = _next_marker(stream, position)
        if marker == _SOD:
            break
        body = _body(stream, position)
        position += len(body) + 2
        if marker in _CODING:
            pieces.append(_marked(marker, _whole(marker, body)))
    if position > end:
        raise Discard("truncated", "A tile-part is shorter than its head.")
    segments = b"".join(pieces)
    size = 12 + len(segments) + 2 + end - position
    sot = bytes((0xFF, _SOT)) + b"\0\x0a" + head[:2] + (size if length else 0).to_bytes(4, "big") + head[6:]
    return sot + segments + bytes((0xFF, _SOD)) + stream[position:end], end
