"""Clean one value at a time, by what its value representation (VR) may hold."""

import re
import struct
from datetime import date, timedelta
from functools import lru_cache
from typing import NamedTuple

from pydicom._uid_dict import UID_dictionary
from pydicom.charset import python_encoding

from qfundus.dicom.elements import DicomFile
from qfundus.dicom.icc import reads_as_text, strip_icc
from qfundus.dicom.identity import words_of
from qfundus.dicom.policy import Policy
from qfundus.dicom.subject import Subject
from qfundus.dicom.tags import (
    CHARACTER_SET,
    CODE_MEANING,
    CODE_VALUE,
    ICC_PROFILE,
    PATIENT_ID,
    PATIENT_NAME,
    PHOTOMETRIC,
)
from qfundus.dicom.text import clean_text, decode, encode_text
from qfundus.dicom.vocabulary import defined_terms, is_vocabulary
from qfundus.dicom.vrs import most_values
from qfundus.errors import Discard
from qfundus.security.keys import SiteKey, pseudonymise_uid

WORD_VRS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_WHOLE_NUMBERS = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}
_PALETTE = frozenset(range(0x00281201, 0x00281224))
_CODES = {"FD": "d", "FL": "f", "SL": "i", "SV": "q", "UL": "I", "US": "H", "UV": "Q", "SS": "h"}
_IMAGE_GROUP, _MOST_NUMBERS, _SMALLEST_IDENTIFIER = 0x0028, 64, 10_000
_TIME = rb"(?:[01]\d|2[0-3])(?:[0-5]\d(?:(?:[0-5]\d|60)(?:\.\d{1,6})?)?)?"
_FORMS = {
    "AS": re.compile(rb"\d{3}[DWMY]"),
    "CS": re.compile(rb"[A-Z0-9_ ]{0,16}"),
    "DA": re.compile(rb"\d{8}"),
    "DS": re.compile(rb" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? *|"),
    "DT": re.compile(rb"\d{4,8}(?:(?<=\d{8})" + _TIME + rb")?(?:[+-]\d{4})?"),
    "IS": re.compile(rb" *[+-]?\d{1,12} *|"),
    "TM": re.compile(_TIME),
}
_UID = re.compile(r"[0-9]+(?:\.[0-9]+){1,31}")
_ZONE = re.compile(rb"[+-]\d{4}")
# Coding schemes whose codes are published, and their form (PS3.16 table 8-1): a value in that form is not a name.
_OLD_SNOMED = re.compile(rb"[A-Z][A-Z0-9]?-[0-9A-Z]{4,6}")
_CODES_OF = {
    **dict.fromkeys((b"SRT", b"SNM3", b"99SDM"), _OLD_SNOMED),
    **dict.fromkeys((b"NCIt", b"UMLS"), re.compile(rb"C\d{3,7}")),
    b"SCT": re.compile(rb"[1-9]\d{5,15}|" + _OLD_SNOMED.pattern),
    b"DCM": re.compile(rb"1\d{5}|[A-Z]{2,6}"),
    b"LN": re.compile(rb"\d{1,5}-\d"),
    b"UCUM": re.compile(
        rb"(?:[A-Za-z%]{1,4}\d?|1)(?:[/.][A-Za-z]{1,4}\d?){0,3}|mm\[Hg\]|\[diop\]|\[degF\]|\[ppm\]|\{(?:ratio|count|score)\}"
    ),
    b"FMA": re.compile(rb"\d{4,6}"),
    b"RADLEX": re.compile(rb"RID\d{1,6}"),
    b"MDC": re.compile(rb"\d{1,6}"),
}
_DUMMIES = {"AS": b"000Y", "DA": b"19000101", "DS": b"0", "DT": b"19000101000000", "IS": b"0", "TM": b"000000"}
_REMOVED = b"REMOVED"


class Item(NamedTuple):
    """What holds for all values of a data set or an item: its character set, and the coding scheme of a coded item."""

    character_set: tuple[str, ...]
    scheme: bytes = b""


class ValueCleaner:
    """Cleans the values of one object."""

    def __init__(self, file: DicomFile, policy: Policy, key: SiteKey, subject: Subject) -> None:
        self.file = file
        self.policy = policy
        self.key = key
        self.subject = subject
        self.order = file.syntax.order
        self.uids: dict[bytes, bytes] = {}

    def clean(self, tag: int, vr: str, value: bytes, action: str, item: Item) -> bytes | None:  # noqa: PLR0911  (one line an action)
        """Return what an action makes of a value, or None where the element goes."""
        if action == "empty":
            return b""
        if action == "replace":
            return self.dummy(tag, vr, value)
        if vr == "UI":
            return self._uids(value) if action != "keep" else value
        if action in {"date", "shift"}:
            return self._moment(tag, vr, value, action)
        if tag == ICC_PROFILE:
            stripped = strip_icc(value)
            return None if self.subject.identity.is_in_bytes(stripped) else stripped or None
        if vr in _FORMS:
            return self._formed(tag, vr, value)
        if vr in _WHOLE_NUMBERS:
            return None if self._is_suspect_number(tag, vr, value) else value
        if action == "keep" and (vr not in WORD_VRS or not self._names_patient(value, item)):
            return None if self._is_misused(tag, vr, value) else value
        return self._text(tag, vr, value, action, item)

    def _names_patient(self, value: bytes, item: Item) -> bool:
        """Return whether a text that an option keeps, such as a device's name, holds what the patient is called."""
        text = decode(value, item.character_set)
        return self.subject.person.is_in(text) or self.subject.person.numbers_are_in(text)

    def _is_misused(self, tag: int, vr: str, value: bytes) -> bool:
        """Return whether bulk bytes that a picture may need name the patient, or are of no use to this picture."""
        if tag in _PALETTE and self.file.text(PHOTOMETRIC) != "PALETTE COLOR":
            return True
        if tag in _PALETTE and reads_as_text(value):
            raise Discard("unreadable_pixels", "The palette's colours spell text.")
        return vr not in WORD_VRS and self.subject.identity.is_in_bytes(value)

    def _is_suspect_number(self, tag: int, vr: str, value: bytes) -> bool:
        """Return whether binary numbers are of a wrong size, or one of them is the patient's."""
        size, code = _WHOLE_NUMBERS[vr], _CODES.get(vr)
        if len(value) % size or len(value) // size > most_values(tag) or self.subject.identity.is_in_bytes(value):
            return True
        if code is None:
            return False
        # Sizes and bit depths of the image are never identifiers, and long tables do not hold any.
        if (tag >> 16 == _IMAGE_GROUP and size == 2) or not 0 < len(value) <= _MOST_NUMBERS * size:
            return False
        numbers = struct.unpack(f"{self.order}{len(value) // size}{code}", value)
        return any(abs(n) >= _SMALLEST_IDENTIFIER and self.subject.identity.is_number(f"{n:.0f}") for n in numbers)

    def dummy(self, tag: int, vr: str, value: bytes) -> bytes:
        """Return what takes the place of a value whose attribute must have one."""
        if vr == "UI":
            return self._uids(value)
        if tag in {PATIENT_ID, PATIENT_NAME} or vr == "PN":
            return self.subject.patient.encode()
        if vr in _WHOLE_NUMBERS:
            return b"\0" * _WHOLE_NUMBERS[vr]
        return b"\0\0" if vr in {"OB", "OW", "OD", "OF", "OL", "OV", "UN"} else _DUMMIES.get(vr, _REMOVED)

    def _uids(self, value: bytes) -> bytes:
        """Map each UID to a keyed one; those that DICOM itself registers name no object and stay."""
        return b"\\".join(self.map_uid(uid) for uid in value.rstrip(b" \0").split(b"\\"))

    def map_uid(self, uid: bytes) -> bytes:
        """Return the keyed UID for one, or the registered one itself."""
        uid = uid.strip(b" \0")
        mapped = self.uids.get(uid)
        if mapped is None:
            text = uid.decode("latin-1")
            # A UID is retained only if it is one: it names the object's file.
            retained = self.policy.options.retain_uids and _UID.fullmatch(text) is not None
            known = not uid or text in UID_dictionary or retained
            mapped = self.uids[uid] = uid if known else pseudonymise_uid(self.key, text).encode()
        return mapped

    def _moment(self, tag: int, vr: str, value: bytes, action: str) -> bytes | None:
        """Shift dates and date-times by the patient's days; times of day and zones stay; anything else goes."""
        if action == "date" and not self.policy.options.retain_modified_dates:
            return self._formed(tag, vr, value) if self.policy.options.retain_full_dates else None
        if vr in {"DA", "DT"}:
            return b"\\".join(self._shifted(vr, moment) for moment in value.split(b"\\"))
        if vr in {"TM", "AS", "IS", "DS", "CS"}:
            return self._formed(tag, vr, value)
        return value if vr == "SH" and _ZONE.fullmatch(value.strip(b" \0")) else None

    def _shifted(self, vr: str, moment: bytes) -> bytes:
        text = moment.strip(b" \0")
        if not _FORMS[vr].fullmatch(text) or len(text) < 8:
            return b""
        return shift_date(text[:8].decode(), self.subject.days).encode() + text[8:]

    def _formed(self, tag: int, vr: str, value: bytes) -> bytes:
        """Return a value whose VR prescribes a form, emptied of parts that have another or repeat an identifier."""
        form, stripped = _FORMS[vr], value.rstrip(b" \0")
        parts = stripped.split(b"\\")
        if vr == "CS" and tag != CHARACTER_SET:
            fit = [self._term(part) for part in parts]
            return value if fit == parts else b"\\".join(fit)
        fit = [part if form.fullmatch(part) else b"" for part in (part.strip(b" ") for part in parts)]
        if vr == "AS":
            fit = [self._capped_age(part) for part in fit]
        if vr == "TM":
            fit = [
                b"" if len(part) > 4 and self.subject.identity.is_number(part[:6].decode()) else part for part in fit
            ]
        if tag == CHARACTER_SET:
            fit = [part for part in parts if part.strip(b" ").decode("latin-1") in python_encoding]
        elif vr in {"IS", "DS"}:
            fit = [b"" if len(part) > 3 and self.subject.identity.is_number(part.decode()) else part for part in fit]
            whole = b"".join(fit)
            if len(fit) > 1 and whole.isdigit() and self.subject.identity.is_number(whole.decode()):  # cut into pieces
                return b""
        return value if fit == parts else b"\\".join(fit)

    def _term(self, part: bytes) -> bytes:
        # A coded term made of DICOM's own words stays even where a patient is called so: it is a code, no name.
        known, short = _judge_term(part, self.policy.words)
        return part if known or (short is not None and self.subject.identity.words.isdisjoint(short)) else b""

    def _capped_age(self, age: bytes) -> bytes:
        oldest = self.policy.oldest_age
        return b"%03dY" % oldest if age[3:] == b"Y" and int(age[:3]) >= oldest else age

    def _text(self, tag: int, vr: str, value: bytes, action: str, item: Item) -> bytes | None:
        if vr not in WORD_VRS:
            return None  # PN, AE, UR and bulk values are never kept by the way
        text = decode(value, item.character_set)
        stripped = text.strip(" \0")
        code = _CODES_OF.get(item.scheme) if tag == CODE_VALUE else None
        if code is not None:
            named = self.subject.identity.is_in(stripped) or self.subject.identity.numbers_are_in(stripped)
            return value if code.fullmatch(value.strip(b" \0")) and not named else b""
        if tag == CODE_MEANING and is_vocabulary(stripped, self.policy.words):
            return value
        strict = action == "clean" or tag == CODE_MEANING or vr in {"LT", "ST", "UT"}
        parts = [stripped] if vr in {"LT", "ST", "UT"} else stripped.split("\\")
        cleaned = "\\".join(
            clean_text(part, self.subject.identity, self.policy.words if strict else None) for part in parts
        )
        return value if cleaned == stripped else encode_text(cleaned, item.character_set)


@lru_cache(maxsize=4096)
def _judge_term(part: bytes, words: frozenset[str]) -> tuple[bool, tuple[str, ...] | None]:
    """Return whether a coded term is made of known words, and its words if it is well formed and they are short."""
    text = part.decode("latin-1").strip().replace("_", " ")
    # Makers have abbreviations of their own; a longer word that DICOM does not know could be a name.
    short = _FORMS["CS"].fullmatch(part.strip()) is not None and all(len(word) <= 4 for word in text.split())
    known = part.decode("latin-1").strip() in defined_terms() or is_vocabulary(text, words)
    return known, words_of(text) if short else None


def shift_date(text: str, days: int) -> str:
    """Move a DICOM date of eight digits by a number of days; '' for an invalid date."""
    try:
        day = date(int(text[:4]), int(text[4:6]), int(text[6:])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return day.strftime("%Y%m%d")
