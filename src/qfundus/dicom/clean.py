"""One object the whole way: header, pixel streams, and text burned into the pixels."""

import hashlib
from dataclasses import dataclass
from mmap import MADV_DONTNEED, mmap
from pathlib import Path

from qfundus.dicom.burned_in import Box, find_burned_in_text
from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.deidentify import Deidentified, deidentify
from qfundus.dicom.margins import refuse_margins
from qfundus.dicom.redact import black_out
from qfundus.errors import Discard
from qfundus.security.keys import SiteKey

RELEASED_EVERY = 1 << 24  # bytes after which the pages of a mapped file are let go: they would count as memory
ROUNDS = 3  # what the first look leaves of a long line, the next ones see


@dataclass(frozen=True)
class Cleaned:
    """What is to be known of a de-identified file: `digest` is its SHA-256, `redacted` counts the black boxes."""

    deidentified: Deidentified
    digest: str
    redacted: int


def clean_object(data: bytes | mmap, target: Path, policy: CompiledPolicy, key: SiteKey) -> Cleaned:
    """De-identify one file and write it to `target`; where the policy asks for it, clean its pixels too.

    Whatever the size of the object, only a frame at a time is in memory.

    Raises:
        Discard: if it cannot be de-identified, or text remains in its pixels; what is in `target` then is not clean.
    """
    try:
        deidentified = deidentify(data, policy, key)
        digest = _write(deidentified, target, data)
        redacted = remove_burned_in_text(target) if policy.policy.options.clean_pixel_data else 0
    except Discard:
        raise
    except Exception as error:  # noqa: BLE001  (a hostile file may raise anything; its message may quote values)
        raise Discard("unreadable_header", f"It cannot be de-identified ({type(error).__name__}).") from None
    return Cleaned(deidentified, _digest(target) if redacted else digest, redacted)


def _write(deidentified: Deidentified, target: Path, data: bytes | mmap) -> str:
    digest, written = hashlib.sha256(), 0
    with target.open("wb") as stream:
        for part in deidentified.parts():
            digest.update(part)
            written += stream.write(part)
            if written > RELEASED_EVERY and isinstance(data, mmap):
                data.madvise(MADV_DONTNEED)
                written = 0
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_burned_in_text(path: Path) -> int:
    """Black out text in a de-identified file until none is seen; return how many boxes are black.

    Raises:
        Discard: if text is still seen in the end, or the pixels cannot be decoded or written.
    """
    refuse_margins(path)
    black: dict[int, list[Box]] = {}
    for _ in range(ROUNDS):
        boxes_of = find_burned_in_text(path, black)
        if not boxes_of:
            return sum(map(len, black.values()))
        for number, boxes in boxes_of.items():
            black.setdefault(number, []).extend(boxes)
        try:
            black_out(path, boxes_of)
        except Discard:
            raise
        except Exception as error:  # noqa: BLE001  (encoders raise what they like)
            raise Discard("burned_in_text", f"The text cannot be blacked out ({type(error).__name__}).") from None
    if find_burned_in_text(path, black):
        raise Discard("burned_in_text", f"Text is still visible after {ROUNDS} rounds of blacking out.")
    return sum(map(len, black.values()))
