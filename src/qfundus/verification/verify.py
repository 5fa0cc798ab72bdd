"""Verify a de-identified folder against its originals, by pydicom and Pillow alone.

Nothing here is shared with what writes the folder but the standard's own table and terms: a mistake made there is not
made again here. What is found is named by file, place and kind, never by its value. Text in the pixels is not looked
for.
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
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from unicodedata import normalize

import pandas as pd
import pydicom
import yaml
from PIL import Image
from PIL.ExifTags import Base
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian

from qfundus.errors import SetupError

# pydicom quotes the values that it finds wrong, in warnings and in its log: a value may be a name.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="pydicom")
warnings.filterwarnings("ignore", module="PIL")
_LETTERS = re.compile(r"[^\W_]+")
_CODED = {"CodeMeaning", "CodeValue", "CodingSchemeDesignator"}
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_DATE = re.compile(r"(?<![\d.])(\d{1,4})[-./ ]{1,2}(\d{1,2}|[ivx]{1,4})[-./ ]{1,2}(\d{1,4})(?![\d.]*\d)")
_META = {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013}
_NUMBER_VRS = {"IS", "DS", "FD", "FL", "UL", "SL", "US", "SS", "UV", "SV"}
_MOST_NUMBERS = 64
_SHORTEST = 4  # letters of a name that is looked for in paths and manifests
_CUT = 6  # letters by which a longer name is known where it was cut off
_TABLES = {".parquet", ".json"}
_TEXT_VRS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT", "AE", "UR", "CS"}
_HARMLESS = {"", "removed", "anonymous", "anonymized", "none", "unknown", "n/a"}
_PHOTOGRAPHS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*")
_LONG = 6  # characters from which an identifier is looked for in every byte, the pixels included
_DIGITS = 5  # from which a number is looked for whatever stands between them
_MOST_INFLATED = 1 << 28  # bytes
_PUBLISHED = {"SCT", "SRT", "SNM3", "99SDM", "DCM", "LN", "UCUM", "FMA", "NCIt", "RADLEX", "MDC", "UMLS"}
_IDENTIFIERS = {"PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID"}
_PLACES = {"PatientAddress", "InstitutionName", "InstitutionAddress", "PatientTelephoneNumbers"}
_TELEPHONE = 7  # digits
_OLDEST = 90  # years; older patients are known by their age (45 CFR 164.514)
# English, German, French, Spanish and Italian, by their first letters; the number of each is its place.
_MONTHS = [
    *((), ("jan", "ene", "gen"), ("feb", "f\u00e9v", "fev"), ("mar", "m\u00e4r", "mrz"), ("apr", "avr", "abr")),
    *(("may", "mai", "mag"), ("jun", "juin", "giu"), ("jul", "juil", "lug"), ("aug", "ao\u00fb", "ago")),
    *(("sep", "set"), ("oct", "okt", "ott"), ("nov",), ("dec", "dez", "d\u00e9c", "dic")),
]


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

    names: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)
    patient: str = ""
    dates: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, other: "_Identity") -> None:
        self.names |= other.names
        self.words |= other.words
        self.identifiers |= other.identifiers
        self.numbers |= other.numbers
        self.uids |= other.uids
        self.births |= other.births
        self.dates[""] |= set().union(*other.dates.values())  # of no attribute: another's day is no leak in itself

    @cached_property
    def days(self) -> set[str]:
        """All days that the original names, its patient's birth among them."""
        return {day for day in self.births.union(*self.dates.values()) if len(day) == 8 and day.isdecimal()}

    @cached_property
    def anywhere(self) -> list[str]:
        """What is so long, and no word of the standard, that it cannot stand anywhere by chance."""
        long = {word for word in self.words | self.names if len(word) >= _LONG and word.strip("0")}
        cut = {word[:_CUT] for word in self.names if len(word) > _CUT}  # as a short attribute cuts it off
        return sorted((long - _terms()) | (cut - {term[:_CUT] for term in _terms()}))

    @cached_property
    def long(self) -> frozenset[str]:
        """What names this patient also in another's file: long names, and record numbers."""
        long = {word for word in self.names | self.identifiers if len(word) >= _LONG and word.strip("0")}
        return frozenset(long - _terms())

    @cached_property
    def birth_numbers(self) -> set[str]:
        """The birth date as it is written in digits alone."""
        return {form for born in self.births & self.days for form in _in_digits(born)}


def verify_folder(folder: Path, originals: Path, policy: Path) -> Verdict:
    """Look for leaks in every DICOM file below a folder, given the originals that it was made from.

    Their paths are looked at, too, and the manifests and reasons that lie beside them.

    Raises:
        SetupError: where there is nothing to look at, or the policy cannot be read.
    """
    options, safe = _read_policy(policy)
    after_to_before = _read_manifest(folder)
    identities: dict[str, _Identity] = {}
    everybody = _Identity()
    for data, beside in _read_all(originals):
        identity = _identity_of(data, beside, options)
        identities[hashlib.sha256(data).hexdigest()] = identity
        everybody.add(identity)
    if not identities:
        raise SetupError("There is no original to compare with.")
    verdict, shifts = Verdict(), dict[str, set[int]]()
    is_ours = (folder / "clean").is_dir()
    found = sorted(file for file in (folder / "clean" if is_ours else folder).rglob("*") if file.is_file())
    if not found and not is_ours:
        raise SetupError("There is no file to look at.")
    for path in (file for file in found if file.suffix not in _TABLES):
        data = path.read_bytes()
        identity = identities.get(after_to_before.get(hashlib.sha256(data).hexdigest(), ""))
        verdict.files += 1
        verdict.unmatched += identity is None
        name = str(path.relative_to(folder))
        leaks = [*_leaks(data, identity or everybody, options, safe)]
        if identity is not None:
            leaks += _among_others(data, identity, everybody, shifts if "retain_modified_dates" in options else None)
        leaks += [("path", kind) for kind in _in_words(name, everybody)]
        verdict.leaks += [Leak(name, where, kind) for where, kind in leaks]
    for path in sorted(file for file in folder.rglob("*") if file.suffix in _TABLES):
        name = str(path.relative_to(folder))
        verdict.leaks += [Leak(name, "file", kind) for kind in _in_words(_read_table(path), everybody)]
    return verdict


def _among_others(
    data: bytes, own: _Identity, everybody: _Identity, shifts: dict[str, set[int]] | None
) -> Iterator[tuple[str, str]]:
    """Look for what only shows beside other files: two patients mixed up, and dates of one patient that moved apart.

    `shifts` collects by how many days each patient's dates were moved; None where they may stay.
    """
    try:
        header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        texts = [str(e.value) for e in header.iterall() if e.VR in _TEXT_VRS and not e.tag.is_private]
        days = {e.keyword: str(e.value)[:8] for e in header if e.VR in {"DA", "DT"} and e.value and e.VM == 1}
    except Exception as error:  # noqa: BLE001  (pydicom raises what it likes; what cannot be compared is a finding)
        yield "header", f"cannot be compared with other files ({type(error).__name__})"
        return
    said = {word for text in texts for word in (_fold(text).strip(), *_LETTERS.findall(_fold(text)))}
    if said & (everybody.long - own.long - own.words - own.names):
        yield "header", "another patient's identifier"
    if shifts is None:
        return
    moved = shifts.setdefault(str(header.get("PatientID")), set())
    moved |= _days_moved(days, own)
    if len(moved) > 1:
        yield "header", "dates of one patient are moved by different numbers of days"


def _days_moved(after: dict[str, str], own: _Identity) -> set[int]:
    """Return by how many days attributes were moved that have one date before and after."""
    moved = set[int]()
    for keyword, day in after.items():
        before = own.dates.get(keyword, set())
        if len(before) == 1:
            with suppress(ValueError):
                moved.add((_day(day) - _day(next(iter(before)))).days)
    return moved


def _day(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:8]))


def _read_table(path: Path) -> str:
    return str(pd.read_parquet(path).to_json()) if path.suffix == ".parquet" else path.read_text(errors="replace")


def _in_words(text: str, identity: _Identity) -> Iterator[str]:
    """Look through a path, or a text that no person wrote, in which short numbers stand by chance."""
    folded = _fold(text)
    said = {w for w in _LETTERS.findall(folded) if len(w) >= (_LONG if w.isdecimal() else _SHORTEST)} - _terms()
    if said & (identity.words | identity.names) or any(word in folded for word in identity.anywhere):
        yield "an identifier of the original"
    if any(uid in text for uid in identity.uids if len(uid) > 12):
        yield "a UID of the original"


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


@cache
def _terms() -> frozenset[str]:
    """Return the words of DICOM's own terms."""
    return frozenset((files("qfundus.dicom") / "standard" / "words.txt").read_text().split())


def _identity_of(data: bytes, beside: bytes, options: set[str]) -> _Identity:
    identity = _Identity()
    try:
        if _is_bomb(data):
            return identity
        is_photograph = data.startswith(_PHOTOGRAPHS)
        original = _told(data, beside) if is_photograph else pydicom.dcmread(io.BytesIO(data), force=True)
        meta = getattr(original, "file_meta", None)
        for element in (*original.iterall(), *(meta or ())):
            _take(identity, element, options)
    except Exception:  # noqa: BLE001  (an original that cannot be read names nobody we could look for)
        return identity
    return identity


def _is_bomb(data: bytes) -> bool:
    """Say whether a deflated data set inflates beyond all measure."""
    start = 144 + int.from_bytes(data[140:144], "little")  # behind the file meta information and what says its length
    if data[128:136] != b"DICM\2\0\0\0" or DeflatedExplicitVRLittleEndian.encode() not in data[144:start]:
        return False
    return len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], _MOST_INFLATED)) >= _MOST_INFLATED


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
        days = {value[:8] for value in values if len(value) >= 8}
        identity.dates[element.keyword] |= days
        if element.keyword == "PatientBirthDate":
            identity.births |= days
            identity.dates.pop(element.keyword)
    elif element.VR == "PN" or element.keyword == "PatientName":
        named = {word for value in values for word in _LETTERS.findall(_fold(value))}
        identity.names |= {word for word in named if len(word) > 1 or not word.isascii()} - _HARMLESS
    elif element.keyword in _IDENTIFIERS:
        if element.keyword == "PatientID":
            identity.patient = identity.patient or "".join(values)
        identity.identifiers |= {_fold(value) for value in values}
        identity.words |= {_fold(value) for value in values if any(map(str.isdigit, value)) and len(value) > 1}
        identity.words |= {_fold(value) for value in values if len(value) > 3} - _HARMLESS
        identity.numbers |= {digits for value in values if len(digits := _digits(value)) >= _DIGITS}
    elif element.VR in _TEXT_VRS and row is not None and not any(row[option] for option in options if option in row):
        identity.words |= {_fold(value) for value in values if len(value) > 3} - _HARMLESS
        if element.keyword in _PLACES:  # a part of one may be enough
            parts = {part for value in values for part in _LETTERS.findall(_fold(value))}
            identity.words |= {part for part in parts if len(part) >= _LONG} - _terms()
        identity.numbers |= {digits for value in values if len(digits := _digits(value)) >= _TELEPHONE}


def _fold(text: str) -> str:
    return normalize("NFKC", text).casefold()


def _digits(text: str) -> str:
    digits = "".join(filter(str.isdecimal, text))
    return digits if digits.strip("0") else ""


def _in_digits(day: str) -> set[str]:
    year, month, date = day[:4], day[4:6], day[6:]
    return {day, date + month + year, month + date + year}


def _says_day(text: str, days: set[str]) -> bool:
    """Say whether a text names one of the days, in digits or with the month's name."""
    digits = _digits(text)
    if len(digits) >= 8 and any(form in digits for day in days for form in _in_digits(day)):
        return True
    for parts in _DATE.findall(text):
        numbers = [_number(part) for part in parts]
        for day in days:
            year, month, date = int(day[:4]), int(day[4:6]), int(day[6:])
            for written in ((date, month), (month, date)):
                if numbers in ([*written, year % 100], [*written, year], [year % 100, *written], [year, *written]):
                    return True
    words = [_month(word) or word for word in _LETTERS.findall(text.casefold())]
    for day in days:
        year, month, date = day[:4], int(day[4:6]), int(day[6:])
        wanted = ({str(date), f"{date:02}"}, {year, year[2:]})
        for at, word in enumerate(words):
            around = {str(w) for w in words[max(0, at - 2) : at + 3]}
            if word == month and all(around & form for form in wanted):
                return True
    return False


def _month(word: str) -> int:
    """Return the number of a month that a word is the name of, 0 where it is none."""
    if word.isdecimal():
        return 0
    return next((number for number, begins in enumerate(_MONTHS) if begins and word.startswith(begins)), 0)


def _number(text: str) -> int:
    """Return a number in Arabic or, for a month, Roman digits."""
    return int(text) if text.isdecimal() else _ROMAN.index(text) + 1 if text in _ROMAN else 0


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
    said = clean.get("PatientIdentityRemoved") == "YES" and clean.get("DeidentificationMethod")
    codes = {str(item.get("CodeValue")) for item in clean.get("DeidentificationMethodCodeSequence") or ()}
    if not said or "113100" not in codes:
        yield "header", "does not say that it is de-identified, and how"
    if "clean_pixel_data" in options and "113101" in codes and clean.get("BurnedInAnnotation") != "NO":
        yield "header", "does not say that no text is burned in"


def _around(data: bytes, clean: FileDataset) -> Iterator[tuple[str, str]]:
    if any(data[:128]):
        yield "preamble", "is not blank"
    for element in clean.file_meta:
        if int(element.tag) not in _META:
            yield f"file meta {element.tag}", "is more than a reader needs"


def _within(
    dataset: Dataset, path: str, identity: _Identity, options: set[str], safe: set[tuple[str, int, int]]
) -> Iterator[tuple[str, str]]:
    coded = str(dataset.get("CodingSchemeDesignator", "")) in _PUBLISHED
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
        yield from _values(element, where, identity, options, coded=coded)


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
    element: pydicom.DataElement, where: str, identity: _Identity, options: set[str], *, coded: bool
) -> Iterator[tuple[str, str]]:
    values = [str(value) for value in (element.value if element.VM > 1 else [element.value]) if value is not None]
    if element.VR == "UI":
        if "retain_uids" not in options and identity.uids & set(values):
            yield where, "a UID of the original"
    elif element.VR in {"DA", "DT"}:
        # Of one patient any day; of several, that are moved by different numbers, one may become another's.
        known = identity.days if identity.patient else identity.births
        if "retain_full_dates" not in options and {value[:8] for value in values} & known:
            yield where, "a date of the original"
    elif element.VR == "AS":
        if any(value[3:] == "Y" and value[:3].isdecimal() and int(value[:3]) > _OLDEST for value in values):
            yield where, f"an age above {_OLDEST} years"
    elif element.VR in _TEXT_VRS:
        yield from ((where, kind) for value in values for kind in _in_text(value, element, identity, coded=coded))
    elif element.VR in _NUMBER_VRS:
        numbers = {_digits(value.removesuffix(".0")) for value in values if len(values) <= _MOST_NUMBERS}
        if numbers & (identity.numbers | identity.birth_numbers):
            yield where, "a number of the original"


def _in_text(text: str, element: pydicom.DataElement, identity: _Identity, *, coded: bool) -> Iterator[str]:
    if coded and element.keyword in _CODED:
        return
    folded = _fold(text)
    said = {folded.strip(), *_LETTERS.findall(folded)}
    if element.VR == "CS":  # a term of the standard may be what somebody is called
        said = {word for word in said if len(word) >= _SHORTEST} - _terms()
    if said & (identity.words | identity.names):
        yield "an identifier of the original"
    elif any(word in "".join(_LETTERS.findall(folded)) for word in identity.anywhere):
        yield "an identifier of the original, spelled"
    elif len(digits := _digits(folded)) >= _DIGITS and any(number in digits for number in identity.numbers):
        yield "a number of the original"
    if _says_day(folded, identity.days):
        yield "a date of the original"


def _in_bytes(data: bytes, identity: _Identity) -> Iterator[tuple[str, str]]:
    lowered = data.lower()
    for word in identity.anywhere:
        if not word.isalpha() or word in identity.names:
            yield from (
                ("bytes", f"an identifier of the original, {code}")
                for code in ("utf-8", "utf-16-le", "utf-16-be")
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
