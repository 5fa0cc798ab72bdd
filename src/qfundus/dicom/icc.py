"""ICC colour profiles (ICC.1:2022) without their words: they may name a camera, its owner or a person."""

import struct

_HEADER = 128
_MOST_TAGS = 100
# What turns device colours into real ones; descriptions, copyrights, makers and private tags are left out.
_COLOUR_TAGS = frozenset(
    {b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC", b"kTRC", b"wtpt", b"bkpt", b"chad", b"lumi", b"gamt"}
    | {b"A2B0", b"A2B1", b"A2B2", b"B2A0", b"B2A1", b"B2A2"}
)
_COLOUR_TYPES = frozenset({b"XYZ ", b"curv", b"para", b"sf32", b"mft1", b"mft2", b"mAB ", b"mBA "})
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
        if name in _COLOUR_TAGS and len(value) == size and value[:4] in _COLOUR_TYPES:
            tags.append((name, value))
    return _assemble(_bare_header(profile), tags)


def _bare_header(profile: bytes) -> bytes:
    """Keep version, class and colour spaces; blank sizes, makers, model, creator, date and identifier."""
    header = bytearray(_HEADER)
    header[8:24] = profile[8:24]
    header[36:40] = b"acsp"
    header[64:80] = profile[64:80]
    return bytes(header)


def _assemble(header: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    directory, body = [struct.pack(">I", len(tags))], b""
    start = _HEADER + 4 + 12 * len(tags)
    for name, value in tags:
        directory.append(struct.pack(">4sII", name, start + len(body), len(value)))
        body += value + b"\0" * (-len(value) % 4)
    profile = header + b"".join(directory) + body
    return struct.pack(">I", len(profile)) + profile[4:]
