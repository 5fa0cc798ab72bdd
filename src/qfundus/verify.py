"""Verify a de-identified folder against its originals, by pydicom and Pillow alone.

Nothing here is shared with what writes the folder but the standard's own table: a mistake made there is not made again
here. What is found is named by file, place and kind, never by its value.
"""

import csv
import hashlib
import io
import json
import logging
import os
import re
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pydicom
import yaml
from PIL import Image
from PIL.ExifTags import Base
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_frames

from qfundus.errors import SetupError

# pydicom quotes the values that it finds wrong, in warnings and in its log: a value may be a name.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="pydicom")
_LETTERS = re.compile(r"\w+")
_CODED = {"CodeMeaning", "CodeValue", "CodingSchemeDesignator"}
_META = {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013}
_TEXT_VRS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT", "AE", "UR", "CS"}
_HARMLESS = {"", "removed", "anonymous", "anonymized", "none", "unknown", "n/a"}
_PHOTOGRAPHS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*")
_LONG = 6  # characters from which an identifier is looked for in every byte, the pixels included


@dataclass(frozen=True)
class Leak:
    """Something that should not be there: in which file, where in it, and of what kind."""

    file: str
    where: str
    kind: str


@dataclass
class Verdict:
    """What a verification found; `unmatched` counts outputs without a known original."""

    files: int = 0
    unmatched: int = 0
    leaks: list[Leak] = field(default_factory=list)


@dataclass
class _Identity:
    """What identifies somebody in one original."""

    words: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    dates: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, other: "_Identity") -> None:
        self.words |= other.words
        self.uids |= other.uids


def verify_folder(folder: Path, originals: Path, policy: Path) -> Verdict:
    """Look for leaks in every DICOM file below a folder, given the originals that it was made from."""
    options, safe = _read_policy(policy)
    after_to_before = _read_manifest(folder)
    identities: dict[str, _Identity] = {}
    everybody = _Identity()
    for data, beside in _read_all(originals):
        identity = _identity_of(data, beside, options)
        identities[hashlib.sha256(data).hexdigest()] = identity
        everybody.add(identity)
    verdict = Verdict()
    clean = folder / "clean" if (folder / "clean").is_dir() else folder
    for path in sorted(file for file in clean.rglob("*") if file.is_file() and file.suffix != ".parquet"):
        data = path.read_bytes()
        identity = identities.get(after_to_before.get(hashlib.sha256(data).hexdigest(), ""))
        verdict.files += 1
        verdict.unmatched += identity is None
        name = str(path.relative_to(folder))
        verdict.leaks += [Leak(name, where, kind) for where, kind in _leaks(data, identity or everybody, options, safe)]
    return verdict


def verify_object(data: bytes, original: bytes, policy: Path) -> list[str]:
    """Look for leaks in one de-identified object, given its original; each is named by place and kind."""
    options, safe = _read_policy(policy)
    identity = _identity_of(original, b"", options)
    return [f"{where}: {kind}" for where, kind in _leaks(data, identity, options, safe)]


def _read_policy(policy: Path) -> tuple[set[str], set[tuple[str, int, int]]]:
    try:
        said = yaml.safe_load(policy.read_text())
        options = {name for name, on in said["options"].items() if on}
        safe = {
            (block["creator"], int(block["group"], 16), int(number, 16))
            for block in said.get("safe_private", ())
            for number in block["elements"]
            if "retain_safe_private" in options
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise SetupError(f"The policy {policy.name} cannot be read ({type(error).__name__}).") from None
    return options, safe


def _read_manifest(folder: Path) -> dict[str, str]:
    file = folder / "manifest.parquet"
    if not file.exists():
        return {}
    table = pd.read_parquet(file, columns=["digest_after", "digest_before"])
    return dict(zip(table["digest_after"], table["digest_before"], strict=True))


def _read_all(originals: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield each original and, of a plain photograph, the sidecar that lies beside it."""
    paths = (
        [originals] if originals.is_file() else [Path(d, name) for d, _, names in os.walk(originals) for name in names]
    )
    for path in paths:
        if path.is_symlink():
            continue
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
                for member in archive.infolist():
                    sidecar = str(Path(member.filename).with_suffix(".json"))
                    if not member.is_dir():
                        yield archive.read(member), archive.read(sidecar) if sidecar in names else b""
        else:
            sidecar = path.with_suffix(".json")
            yield path.read_bytes(), sidecar.read_bytes() if sidecar.is_file() else b""


@cache
def _table() -> dict[int, dict[str, str]]:
    text = (files("qfundus.dicom") / "standard" / "confidentiality.csv").read_text()
    return {
        int(row["tag"], 16): row for row in csv.DictReader(text.splitlines()) if re.fullmatch("[0-9a-f]{8}", row["tag"])
    }


def _identity_of(data: bytes, beside: bytes, options: set[str]) -> _Identity:
    identity = _Identity()
    try:
        is_photograph = data.startswith(_PHOTOGRAPHS)
        original = _told(data, beside) if is_photograph else pydicom.dcmread(io.BytesIO(data), force=True)
        for element in original.iterall():
            _take(identity, element, options)
    except Exception:  # noqa: BLE001  (an original that cannot be read names nobody we could look for)
        return identity
    return identity


def _told(photograph: bytes, sidecar: bytes) -> Dataset:
    """Return what EXIF and sidecar say of a plain photograph, as a DICOM header would."""
    with Image.open(io.BytesIO(photograph)) as picture:
        description = str(picture.getexif().get(Base.ImageDescription, ""))
    said: dict[str, str] = {}
    for word in description.split(";"):
        name, _, value = word.partition("=")
        said[name.strip()] = value
    said.update(json.loads(sidecar) if sidecar else {})
    told = Dataset()
    for keyword, value in said.items():
        if tag_for_keyword(keyword) is not None:
            setattr(told, keyword, str(value))
    return told


def _take(identity: _Identity, element: pydicom.DataElement, options: set[str]) -> None:
    row = _table().get(int(element.tag))
    values = [
        str(value).strip() for value in (element.value if element.VM > 1 else [element.value]) if value is not None
    ]
    if element.VR == "UI":
        identity.uids |= {value for value in values if value and value not in UID_dictionary}
    elif element.VR in {"DA", "DT"}:
        identity.dates[element.keyword] |= {value[:8] for value in values if len(value) >= 8}
    elif element.VR == "PN":
        identity.words |= {w for value in values for w in _LETTERS.findall(value.casefold()) if len(w) > 2} - _HARMLESS
    elif element.VR in _TEXT_VRS and row is not None and not any(row[option] for option in options if option in row):
        identity.words |= {value.casefold() for value in values if len(value) > 3} - _HARMLESS


def _leaks(
    data: bytes, identity: _Identity, options: set[str], safe: set[tuple[str, int, int]]
) -> Iterator[tuple[str, str]]:
    try:
        clean = pydicom.dcmread(io.BytesIO(data))
    except Exception as error:  # noqa: BLE001  (whatever it is, nobody can vouch for the file)
        yield "file", f"cannot be read ({type(error).__name__})"
        return
    yield from _around(data, clean)
    yield from _within(clean, "", identity, options, safe)
    yield from _in_bytes(data, identity)
    yield from _in_frames(clean)
    if clean.get("PatientIdentityRemoved") != "YES" or "DeidentificationMethodCodeSequence" not in clean:
        yield "header", "does not say that it is de-identified"


def _around(data: bytes, clean: FileDataset) -> Iterator[tuple[str, str]]:
    if any(data[:128]):
        yield "preamble", "is not blank"
    for element in clean.file_meta:
        if int(element.tag) not in _META:
            yield f"file meta {element.tag}", "is more than a reader needs"


def _within(
    dataset: Dataset, path: str, identity: _Identity, options: set[str], safe: set[tuple[str, int, int]]
) -> Iterator[tuple[str, str]]:
    for element in dataset:
        where = f"{path}{element.keyword or element.tag}"
        if element.tag.is_private:
            if not _is_safe(element, safe):
                yield where, "private attribute"
        elif element.tag.group >> 8 in {0x50, 0x60} or not dictionary_has_tag(element.tag):
            yield where, "curve, overlay or unknown attribute"
        elif element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from _within(item, f"{where}[{number}]/", identity, options, safe)
            continue
        else:
            yield from _by_table(element, where, options)
        yield from _values(element, where, identity, options)


def _is_safe(element: pydicom.DataElement, safe: set[tuple[str, int, int]]) -> bool:
    if element.tag.is_private_creator:
        return any(creator == str(element.value) for creator, _, _ in safe)
    return (str(element.private_creator), element.tag.group, element.tag.element & 0xFF) in safe


def _by_table(element: pydicom.DataElement, where: str, options: set[str]) -> Iterator[tuple[str, str]]:
    row = _table().get(int(element.tag))
    if row is None or any(row[option] for option in options if option in row):
        return
    if row["basic"] == "X":
        yield where, "E.1-1 X: should be absent"
    elif row["basic"] == "Z" and element.value and element.keyword != "PatientName":
        yield where, "E.1-1 Z: should be empty"


def _values(
    element: pydicom.DataElement, where: str, identity: _Identity, options: set[str]
) -> Iterator[tuple[str, str]]:
    values = [str(value) for value in (element.value if element.VM > 1 else [element.value]) if value is not None]
    if element.VR == "UI" and "retain_uids" not in options and identity.uids & set(values):
        yield where, "a UID of the original"
    elif element.VR in {"DA", "DT"} and "retain_full_dates" not in options:
        if identity.dates.get(element.keyword, set()) & {value[:8] for value in values}:
            yield where, "a date of the original"
    elif element.VR in _TEXT_VRS - {"CS"} and element.keyword not in _CODED:
        words = {word for value in values for word in (value.casefold().strip(), *_LETTERS.findall(value.casefold()))}
        if words & identity.words:
            yield where, "an identifier of the original"


def _in_bytes(data: bytes, identity: _Identity) -> Iterator[tuple[str, str]]:
    lowered = data.lower()
    for word in identity.words:
        if len(word) >= _LONG and not word.isalpha():
            yield from (
                ("bytes", f"an identifier of the original, {code}")
                for code in ("utf-8", "utf-16-le")
                if word.encode(code) in lowered
            )
    yield from (("bytes", "a UID of the original") for uid in identity.uids if len(uid) > 12 and uid.encode() in data)


def _in_frames(clean: FileDataset) -> Iterator[tuple[str, str]]:
    if "PixelData" not in clean or not clean.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    frames = generate_frames(clean.PixelData, number_of_frames=int(clean.get("NumberOfFrames", 1) or 1))
    for number, frame in enumerate(frames):
        where = f"frame {number}"
        if frame.startswith(b"\xff\x4f") and b"\xff\x64" in frame[: frame.find(b"\xff\x93")]:
            yield where, "a JPEG 2000 comment"
        if frame.startswith(b"\xff\xd8"):
            yield from ((where, kind) for kind in _jpeg_margins(frame))


def _jpeg_margins(frame: bytes) -> Iterator[str]:
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        yield "bytes behind the end of the JPEG image"
    try:
        with Image.open(io.BytesIO(frame)) as image:
            segments = getattr(image, "applist", [])
    except Exception:  # noqa: BLE001  (12-bit, lossless and LS streams are not Pillow's)
        return
    yield from (f"JPEG segment {name}" for name, _ in segments if name not in {"APP0", "APP14"})
