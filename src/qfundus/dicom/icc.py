"""ICC colour profiles (ICC.1:2022) without their words: they may name a camera, its owner or a person."""

import re
import struct
from itertools import pairwise

_HEADER = 128
_MOST_TAGS = 100
# What turns device colours into real ones; descriptions, copyrights, makers and private tags are left out.
_COLOUR_TAGS = frozenset(
    {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC", b"kTRC", b"wtpt", b"bkpt", b"chad", b"lumi", b"gamt"}
    | {b"A2B0", b"A2B1", b"A2B2", b"B2A0", b"B2A1", b"B2A2"}
)
_PARAMETERS = (1, 3, 4, 5, 7)  # of the kinds of parametric curve (10.18)
_CLASSES = frozenset({b"scnr", b"mntr", b"prtr", b"spac"})
_SPACES = frozenset({b"RGB ", b"GRAY", b"XYZ ", b"Lab ", b"YCbr"})
_D50 = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)  # the illuminant of every profile connection space (7.2.16)
_READABLE = re.compile(rb"[A-Za-z0-9 .,:/^-]{12,}")
_DESCRIPTION = b"desc\0\0\0\0\0\0\0\x04RGB\0" + b"\0" * 78
_COPYRIGHT = b"text\0\0\0\0NONE\0\0\0\0"


def strip_icc(profile: bytes) -> bytes:
    """Return a profile that holds only what colours need; b'' where it cannot be read."""
    if len(profile) < _HEADER + 4 or profile[36:40] != b"acsp":
        return b""
    (count,) = struct.unpack_from(">I", profile, _HEADER)
    if count > _MOST_TAGS or len(profile) < _HEADER + 4 + 12 * count:
        return b""
    tags = [(b"desc", _DESCRIPTION), (b"cprt", _COPYRIGHT)]
    for number in range(count):
        name, offset, size = struct.unpack_from(">4sII", profile, _HEADER + 4 + 12 * number)
        value = profile[offset : offset + size]
        if name in _COLOUR_TAGS and len(value) == size:
            whole = _length(value)
            if not 0 < whole <= size or reads_as_text(value[8:whole]):
                return b""
            tags.append((name, value[:4] + b"\0\0\0\0" + value[8:whole]))
    header = _bare_header(profile)
    return _assemble(header, tags) if header else b""


def _length(value: bytes) -> int:
    """Return how long a tag's value is by what its type says, and 0 for types that cannot be looked into."""
    kind, length = value[:4], 0
    try:
        match kind:
            case b"XYZ ":
                length = 8 + 12
            case b"sf32":
                length = 8 + 4 * 9
            case b"curv":
                length = 12 + 2 * struct.unpack_from(">I", value, 8)[0]
            case b"para":
                length = 12 + 4 * _PARAMETERS[struct.unpack_from(">H", value, 8)[0]]
            case b"mft1" | b"mft2":
                into, out, grid = value[8:11]
                first, last = (256, 256) if kind == b"mft1" else struct.unpack_from(">2H", value, 48)
                entries = first * into + grid**into * out + last * out
                length = 48 + entries if kind == b"mft1" else 52 + 2 * entries
            case _:
                pass
    except (struct.error, IndexError, ValueError):
        return 0
    return length


def reads_as_text(data: bytes) -> bool:
    """Return whether bytes that should be numbers hold a run of letters that goes up and down, as a ramp does not."""
    for run in _READABLE.findall(data):
        rises = [first < second for first, second in pairwise(run) if first != second]
        turns = sum(first != second for first, second in pairwise(rises))
        # In numbers of two bytes every second one stays what it was.
        if turns > len(run) / 4 and len(set(run[::2])) > 2 and len(set(run[1::2])) > 2:
            return True
    return False


def _bare_header(profile: bytes) -> bytes:
    """Keep version, class, colour spaces and intent; blank sizes, makers, model, creator, date and identifier.

    b'' if one of them is not in the standard.
    """
    kind, space, connection, intent = profile[12:16], profile[16:20], profile[20:24], profile[67]
    if kind not in _CLASSES or not {space, connection} <= _SPACES or intent > 3:
        return b""
    header = bytearray(_HEADER)
    header[8:24] = profile[8:10] + b"\0\0" + kind + space + connection
    header[36:40] = b"acsp"
    header[64:80] = bytes((0, 0, 0, intent)) + _D50
    return bytes(header)


def _assemble(header: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    directory, body = [struct.pack(">I", len(tags))], b""
    start = _HEADER + 4 + 12 * len(tags)
    for name, value in tags:
        directory.append(struct.pack(">4sII", name, start + len(body), len(value)))
        body += value + b"\0" * (-len(value) % 4)
    profile = header + b"".join(directory) + body
    return struct.pack(">I", len(profile)) + profile[4:]
