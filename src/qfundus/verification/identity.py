"""Collect what identifies somebody in an original."""

import io
import json
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property

import pydicom
from PIL import Image
from PIL.ExifTags import Base
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from qfundus.verification.folded import WORD, digits_in, fold, written_in_digits
from qfundus.verification.standard import FEWEST_DIGITS, LONG, TEXT_VRS, attributes, terms

_CUT = 6  # letters by which a longer name is known where it was cut off
_HARMLESS = {"", "removed", "anonymous", "anonymized", "none", "unknown", "n/a"}
_PHOTOGRAPHS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*")
_MOST_INFLATED = 1 << 28  # bytes
_IDENTIFIERS = {"PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID"}
_PLACES = {"PatientAddress", "InstitutionName", "InstitutionAddress", "PatientTelephoneNumbers"}
_TELEPHONE = 7  # digits


@dataclass
class Identity:
    """What identifies somebody in one original."""

    names: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)
    patient: str = ""
    dates: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, other: "Identity") -> None:
        """Take in what identifies another."""
        self.names |= other.names
        self.words |= other.words
        self.identifiers |= other.identifiers
        self.numbers |= other.numbers
        self.uids |= other.uids
        self.births |= other.births
        self.dates[""] |= set().union(
            *other.dates.values()
        )  # under no attribute: a day of another patient alone is not a leak

    @cached_property
    def days(self) -> set[str]:
        """All days that the original names, its patient's birth among them."""
        return {day for day in self.births.union(*self.dates.values()) if len(day) == 8 and day.isdecimal()}

    @cached_property
    def anywhere(self) -> list[str]:
        """What is so long, and no word of the standard, that it cannot stand anywhere by chance."""
        long = {word for word in self.words | self.names if len(word) >= LONG and word.strip("0")}
        cut = {word[:_CUT] for word in self.names if len(word) > _CUT}  # as a short attribute cuts it off
        return sorted((long - terms()) | (cut - {term[:_CUT] for term in terms()}))

    @cached_property
    def long(self) -> frozenset[str]:
        """What names this patient also in another's file: long names, and record numbers."""
        long = {word for word in self.names | self.identifiers if len(word) >= LONG and word.strip("0")}
        return frozenset(long - terms())

    @cached_property
    def birth_numbers(self) -> set[str]:
        """The birth date as it is written in digits alone."""
        return {form for born in self.births & self.days for form in written_in_digits(born)}


def read_identity(data: bytes, beside: bytes, options: set[str]) -> Identity:
    """Collect what identifies a person in an original and its sidecar; nothing where it is unreadable."""
    identity = Identity()
    try:
        if _is_bomb(data):
            return identity
        is_photograph = data.startswith(_PHOTOGRAPHS)
        original = _describe(data, beside) if is_photograph else pydicom.dcmread(io.BytesIO(data), force=True)
        meta = getattr(original, "file_meta", None)
        for element in (*original.iterall(), *(meta or ())):
            _take(identity, element, options)
    except Exception:  # noqa: BLE001  (an original that cannot be read names nobody we could look for)
        return identity
    return identity


def _is_bomb(data: bytes) -> bool:
    """Return whether a deflated data set inflates beyond all measure."""
    start = 144 + int.from_bytes(data[140:144], "little")  # behind the file meta information and what says its length
    if data[128:136] != b"DICM\2\0\0\0" or DeflatedExplicitVRLittleEndian.encode() not in data[144:start]:
        return False
    return len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:], _MOST_INFLATED)) >= _MOST_INFLATED


def _describe(photograph: bytes, sidecar: bytes) -> Dataset:
    """Return what EXIF and sidecar say of a plain photograph, as a DICOM header would."""
    with Image.open(io.BytesIO(photograph)) as picture:
        description = str(picture.getexif().get(Base.ImageDescription, ""))
    words: dict[str, str] = {}
    for word in description.split(";"):
        name, _, value = word.partition("=")
        words[name.strip()] = value
    words.update(json.loads(sidecar) if sidecar else {})
    given = Dataset()
    for keyword, value in words.items():
        if tag_for_keyword(keyword) is not None:
            setattr(given, keyword, str(value))
    return given


def _take(identity: Identity, element: pydicom.DataElement, options: set[str]) -> None:
    row = attributes().get(int(element.tag))
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
        named = {word for value in values for word in WORD.findall(fold(value))}
        identity.names |= {word for word in named if len(word) > 1 or not word.isascii()} - _HARMLESS
    elif element.keyword in _IDENTIFIERS:
        if element.keyword == "PatientID":
            identity.patient = identity.patient or "".join(values)
        identity.identifiers |= {fold(value) for value in values}
        identity.words |= {fold(value) for value in values if any(map(str.isdigit, value)) and len(value) > 1}
        identity.words |= {fold(value) for value in values if len(value) > 3} - _HARMLESS
        identity.numbers |= {digits for value in values if len(digits := digits_in(value)) >= FEWEST_DIGITS}
    elif element.VR in TEXT_VRS and row is not None and not any(row[option] for option in options if option in row):
        identity.words |= {fold(value) for value in values if len(value) > 3} - _HARMLESS
        if element.keyword in _PLACES:  # a part of one may be enough
            parts = {part for value in values for part in WORD.findall(fold(value))}
            identity.words |= {part for part in parts if len(part) >= LONG} - terms()
        identity.numbers |= {digits for value in values if len(digits := digits_in(value)) >= _TELEPHONE}
