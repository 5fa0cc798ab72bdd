"""De-identify a DICOM object by the profile of PS3.15 Annex E: bytes in, bytes out, nothing else touched.

What may stay is copied as it lies in the file, in the same transfer syntax; what is not understood goes.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache, cached_property, lru_cache
from mmap import mmap
from typing import NamedTuple

from pydicom._uid_dict import UID_dictionary
from pydicom.charset import python_encoding
from pydicom.datadict import keyword_for_tag

from qfundus import __version__
from qfundus.dicom.elements import (
    ALLOWED_VRS,
    DEFLATED,
    DICTIONARY_VRS,
    Buffer,
    DicomFile,
    Element,
    Syntax,
    deflate,
    encode,
    encode_items,
    most_values,
    parse_file,
)
from qfundus.dicom.icc import reads_as_text, strip_icc
from qfundus.dicom.identity import Identity, words_of
from qfundus.dicom.pixels import clean_pixels
from qfundus.dicom.policy import OPTION_CODES, Policy
from qfundus.dicom.profile import Profile
from qfundus.dicom.text import clean_text, decode, encode_text
from qfundus.dicom.vocabulary import defined_terms, is_vocabulary
from qfundus.errors import Discard
from qfundus.security.keys import SiteKey, date_shift, pseudonymise_patient, pseudonymise_uid

IMPLEMENTATION_UID = "2.25.302042361713929370817320127905837041421"
_ENCAPSULATED_DOCUMENT, _ICC_PROFILE, _CODE_MEANING = 0x00420011, 0x00282000, 0x00080104
_PIXEL_ELEMENTS = (0x7FE00010, 0x7FE00008, 0x7FE00009)
_PATIENT_ID, _ISSUER, _PATIENT_NAME, _BIRTH_DATE = 0x00100020, 0x00100021, 0x00100010, 0x00100030
_ADDRESS = 0x00101040
_CODE_VALUE, _CODING_SCHEME = 0x00080100, 0x00080102
_CHARACTER_SET_TAG = 0x00080005
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
# Beside every person's name: identifiers of patient and visit, and what else leads to them or to who treated them.
_NUMBERS = frozenset({0x00080050, 0x00100020, 0x00101000, 0x00101090, 0x00200010, 0x00380010})
_OTHERS = frozenset({0x00080080, 0x00080081, 0x00081010, 0x00081040, 0x00100021, 0x00101080, 0x00102154, 0x00181000})
_WORDS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_WHOLE_NUMBERS = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}
_PHOTOMETRIC, _PALETTE = 0x00280004, frozenset(range(0x00281201, 0x00281224))
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
# Coding schemes whose codes are published, and the form of these (PS3.16 table 8-1): a value of it is no name.
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
_BASIC_PROFILE = ("113100", "Basic Application Confidentiality Profile")


class Handled(NamedTuple):
    """What was done with an attribute at one place, and the row of the profile or the option that says so."""

    path: str
    tag: int
    action: str
    because: str


@dataclass(frozen=True)
class Deidentified:
    """A de-identified object. `parts` yields the bytes of its file and may raise Discard while it reads the pixels."""

    patient: str
    study: str
    series: str
    instance: str
    sop_class: str
    handled: tuple[Handled, ...]
    parts: Callable[[], Iterator[Buffer]] = field(repr=False)

    def to_bytes(self) -> bytes:
        """Return the file whole.

        Raises:
            Discard: where the pixels cannot be cleaned.
        """
        return b"".join(self.parts())


def deidentify(data: bytes | mmap, policy: "CompiledPolicy", key: SiteKey) -> Deidentified:
    """De-identify one DICOM file by a policy; equal files have equal results.

    Raises:
        Discard: where the file cannot be read, holds no picture, or lacks what identifies the object.
    """
    file = parse_file(data)
    return _Object(file, policy, key).deidentify()


class CompiledPolicy:
    """A policy with the rules that it has led to so far, for each SOP class."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._profiles: dict[str, Profile] = {}

    def profile(self, sop_class: str) -> Profile:
        """Return the rules for a SOP class."""
        known = sop_class if sop_class in UID_dictionary else ""  # what files claim is without end
        if known not in self._profiles:
            self._profiles[known] = Profile(self.policy, known)
        return self._profiles[known]

    @cache  # noqa: B019  (a process has one policy or two)
    def statements(self, syntax: Syntax) -> tuple[tuple[int, bytes], ...]:
        """Return what an object says of its own de-identification, ready to write (PS3.15 E.1.1, PS3.16 CID 7050)."""
        options = self.policy.options
        times = "MODIFIED" if options.retain_modified_dates else "REMOVED"
        codes = [
            b"".join(
                encode(tag, vr, text.encode(), syntax)
                for tag, vr, text in (
                    (_CODE_VALUE, "SH", code),
                    (_CODING_SCHEME, "SH", "DCM"),
                    (_CODE_MEANING, "LO", meaning),
                )
            )
            for code, meaning in (_BASIC_PROFILE, *(OPTION_CODES[name] for name in options.chosen))
        ]
        method = f"qfundus {__version__}, {self.policy.name}, {self.policy.edition}"[:64]
        texts = [
            (0x00120062, "CS", "YES"),
            (0x00120063, "LO", method),
            (0x00280301, "CS", "NO" if options.clean_pixel_data else ""),
            (0x00280303, "CS", "UNMODIFIED" if options.retain_full_dates else times),
        ]
        statements = [(tag, encode(tag, vr, text.encode(), syntax)) for tag, vr, text in texts if text]
        return (*statements, (0x00120064, encode_items(0x00120064, codes, syntax)))


class _Object:
    """One object on its way: the file, the rules for its class, and what it is called from now on."""

    def __init__(self, file: DicomFile, compiled: CompiledPolicy, key: SiteKey) -> None:
        self.file = file
        self.compiled = compiled
        self.policy = compiled.policy
        self.key = key
        self.syntax = file.syntax
        self.sop_class = file.text(_SOP_CLASS)
        self.profile = compiled.profile(self.sop_class)
        self.handled: list[Handled] = []
        self.uids: dict[bytes, bytes] = {}
        self.scheme = b""  # of the coded item at hand
        self.character_set = self._character_set(file.elements) or ("",)
        self.patient = self._pseudonym()
        self.days = -date_shift(key, self.patient)  # into the past: a date to come would give the shift away

    def deidentify(self) -> Deidentified:
        """De-identify the header; the pixels follow when the parts are read."""
        instance, study = self.file.text(_SOP_INSTANCE), self.file.text(_STUDY)
        if not (instance and study and self.sop_class):
            raise Discard("missing_uid", "The SOP class, SOP instance or study instance UID is absent or empty.")
        pixels = next((e for tag in _PIXEL_ELEMENTS if (e := self.file.find(tag)) is not None), None)
        if pixels is None:
            raise Discard(*self._why_no_picture())
        head = _join(sorted(self.dataset(self.file.elements, "") + list(self.compiled.statements(self.syntax))))
        meta, names = self._meta(instance), self.identity.is_in_bytes

        def parts() -> Iterator[Buffer]:
            yield meta
            if self.file.transfer_syntax == DEFLATED:
                yield deflate(b"".join((head, *clean_pixels(self.file, pixels, names))))
            else:
                yield head
                yield from clean_pixels(self.file, pixels, names)

        return Deidentified(
            patient=self.patient,
            study=self.map_uid(study.encode()).decode(),
            series=self.map_uid(self.file.text(_SERIES).encode()).decode(),
            instance=self.map_uid(instance.encode()).decode(),
            sop_class=self.map_uid(self.sop_class.encode()).decode(),
            handled=tuple(self.handled),
            parts=parts,
        )

    def _why_no_picture(self) -> tuple:
        if self.file.find(_ENCAPSULATED_DOCUMENT) is not None:
            return "encapsulated_document", "The object holds a document that cannot be looked into."
        return "no_pixels", "There is no pixel data."

    def dataset(self, elements: list[Element], path: str) -> list[tuple[int, bytes]]:
        """De-identify the elements of a data set or an item; return what remains, each ready to write."""
        rules = self.profile.rules(path)
        self.scheme = self._scheme(elements) if path else b""
        safe = self._safe_private(elements) if self.policy.options.retain_safe_private else {}
        written: list[tuple[int, bytes]] = []
        last, in_order = -1, True
        for element in elements:
            tag = element.tag
            rule = rules.get(tag) or self.profile.make_rule(tag, path)
            in_order = in_order and tag > last
            last = tag
            action, value = rule.action, None
            if action == "private":
                action, value = self._private(element, safe.get(tag))
            elif action not in {"remove", "pixels"}:
                value = self._element(element, action, path)
            if value is not None:
                written.append((tag, value))
            elif action != "pixels":
                action = "remove"
            self.handled.append(Handled(path, tag, action, rule.because))
        return written if in_order else _first_of_each(written)

    def _element(self, element: Element, action: str, path: str) -> bytes | None:
        """Return an element as it is to be written, or None where it goes."""
        tag, vr = element.tag, element.vr
        if (element.items is None) == (DICTIONARY_VRS.get(tag) == "SQ") and element.length:
            return None  # a sequence where none belongs, or none where one does
        if element.items is not None:
            return self._sequence(element, action, path)
        value = self.file.value(element)
        if vr == "UN" and self.syntax.order == "<":
            vr = DICTIONARY_VRS.get(tag, vr)
        if vr not in ALLOWED_VRS[tag]:
            if not (vr in _WORDS and ALLOWED_VRS[tag] & _WORDS):
                return None  # a form that the attribute does not have
            action = "clean"
        cleaned = self._value(tag, vr, value, action)
        if cleaned == b"" and value.strip(b" \0") and tag != _CHARACTER_SET_TAG and self.profile.needs_value(tag, path):
            cleaned = self._dummy(tag, vr, value)
        if cleaned is value and vr is element.vr and element.head >= 0 and not len(value) & 1:
            return bytes(self.file.data[element.head : element.start + element.length])
        return None if cleaned is None else encode(tag, vr, cleaned, self.syntax)

    def _sequence(self, element: Element, action: str, path: str) -> bytes:
        name = keyword_for_tag(element.tag)
        within = f"{path}/{name}" if path else name
        items = [] if action == "empty" else element.items or []
        around = self.character_set
        cleaned: list[list[tuple[int, bytes]]] = []
        for item in items:
            self.character_set = self._character_set(item) or around
            cleaned.append(self._dummies(item) if action == "replace" else self.dataset(item, within))
        self.character_set = around
        return encode_items(element.tag, (_join(item) for item in cleaned), self.syntax)

    def _dummies(self, elements: list[Element]) -> list[tuple[int, bytes]]:
        """Return an item that keeps its form and none of its values."""
        return [
            (e.tag, encode(e.tag, e.vr, self._dummy(e.tag, e.vr, self.file.value(e)), self.syntax))
            for e in elements
            if e.items is None and e.tag in DICTIONARY_VRS and e.vr not in {"UN", "UR"}
        ]

    def _value(self, tag: int, vr: str, value: bytes, action: str) -> bytes | None:  # noqa: PLR0911  (one line an action)
        """Return what an action makes of a value, or None where the element goes."""
        if action == "empty":
            return b""
        if action == "replace":
            return self._dummy(tag, vr, value)
        if vr == "UI":
            return self._uids(value) if action != "keep" else value
        if action in {"date", "shift"}:
            return self._moment(tag, vr, value, action)
        if tag == _ICC_PROFILE:
            stripped = strip_icc(value)
            return None if self.identity.is_in_bytes(stripped) else stripped or None
        if vr in _FORMS:
            return self._formed(tag, vr, value)
        if vr in _WHOLE_NUMBERS:
            return None if self._is_suspect_number(tag, vr, value) else value
        if action == "keep" and (vr not in _WORDS or not self._names_patient(value)):
            return None if self._is_misused(tag, vr, value) else value
        return self._text(tag, vr, value, action)

    def _names_patient(self, value: bytes) -> bool:
        """Say whether a text that an option keeps, such as a device's name, holds what the patient is called."""
        text = decode(value, self.character_set)
        return self.person.is_in(text) or self.person.numbers_are_in(text)

    def _is_misused(self, tag: int, vr: str, value: bytes) -> bool:
        """Say whether bulk bytes that a picture may need name the patient, or are of no use to this picture."""
        if tag in _PALETTE and self.file.text(_PHOTOMETRIC) != "PALETTE COLOR":
            return True
        if tag in _PALETTE and reads_as_text(value):
            raise Discard("unreadable_pixels", "The colours of the palette read as text.")
        return vr not in _WORDS and self.identity.is_in_bytes(value)

    def _is_suspect_number(self, tag: int, vr: str, value: bytes) -> bool:
        """Say whether binary numbers are of a wrong size, or one of them is the patient's."""
        size, code = _WHOLE_NUMBERS[vr], _CODES.get(vr)
        if len(value) % size or len(value) // size > most_values(tag) or self.identity.is_in_bytes(value):
            return True
        if code is None:
            return False
        # The image's own form is never an identifier, and long tables are no place for one.
        if (tag >> 16 == _IMAGE_GROUP and size == 2) or not 0 < len(value) <= _MOST_NUMBERS * size:
            return False
        numbers = struct.unpack(f"{self.syntax.order}{len(value) // size}{code}", value)
        return any(abs(n) >= _SMALLEST_IDENTIFIER and self.identity.is_number(f"{n:.0f}") for n in numbers)

    def _dummy(self, tag: int, vr: str, value: bytes) -> bytes:
        if vr == "UI":
            return self._uids(value)
        if tag in {_PATIENT_ID, _PATIENT_NAME} or vr == "PN":
            return self.patient.encode()
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
        return shift_date(text[:8].decode(), self.days).encode() + text[8:]

    def _formed(self, tag: int, vr: str, value: bytes) -> bytes:
        """Return a value whose VR prescribes a form, emptied of parts that have another or repeat an identifier."""
        form, stripped = _FORMS[vr], value.rstrip(b" \0")
        parts = stripped.split(b"\\")
        if vr == "CS" and tag != _CHARACTER_SET_TAG:
            kept = [self._term(part) for part in parts]
            return value if kept == parts else b"\\".join(kept)
        kept = [part if form.fullmatch(part) else b"" for part in (part.strip(b" ") for part in parts)]
        if vr == "AS":
            kept = [self._capped_age(part) for part in kept]
        if vr == "TM":
            kept = [b"" if len(part) > 4 and self.identity.is_number(part[:6].decode()) else part for part in kept]
        if tag == _CHARACTER_SET_TAG:
            kept = [part for part in parts if part.strip(b" ").decode("latin-1") in python_encoding]
        elif vr in {"IS", "DS"}:
            kept = [b"" if len(part) > 3 and self.identity.is_number(part.decode()) else part for part in kept]
            whole = b"".join(kept)
            if len(kept) > 1 and whole.isdigit() and self.identity.is_number(whole.decode()):  # cut into pieces
                return b""
        return value if kept == parts else b"\\".join(kept)

    def _term(self, part: bytes) -> bytes:
        # A coded term made of DICOM's own words stays even where a patient is called so: it is a code, no name.
        known, short = _judge_term(part, self.policy.words)
        return part if known or (short is not None and self.identity.words.isdisjoint(short)) else b""

    def _capped_age(self, age: bytes) -> bytes:
        oldest = self.policy.oldest_age
        return b"%03dY" % oldest if age[3:] == b"Y" and int(age[:3]) >= oldest else age

    def _text(self, tag: int, vr: str, value: bytes, action: str) -> bytes | None:
        if vr not in _WORDS:
            return None  # PN, AE, UR and bulk values are never kept by the way
        text = decode(value, self.character_set)
        stripped = text.strip(" \0")
        code = _CODES_OF.get(self.scheme) if tag == _CODE_VALUE else None
        if code is not None:
            named = self.identity.is_in(stripped) or self.identity.numbers_are_in(stripped)
            return value if code.fullmatch(value.strip(b" \0")) and not named else b""
        if tag == _CODE_MEANING and is_vocabulary(stripped, self.policy.words):
            return value
        strict = action == "clean" or tag == _CODE_MEANING or vr in {"LT", "ST", "UT"}
        parts = [stripped] if vr in {"LT", "ST", "UT"} else stripped.split("\\")
        cleaned = "\\".join(clean_text(part, self.identity, self.policy.words if strict else None) for part in parts)
        return value if cleaned == stripped else encode_text(cleaned, self.character_set)

    def _scheme(self, elements: list[Element]) -> bytes:
        found = next((e for e in elements if e.tag == _CODING_SCHEME and e.items is None), None)
        return b"" if found is None else self.file.value(found).strip(b" \0")

    @cached_property
    def identity(self) -> Identity:
        """The words that name the patient and those around them, wherever in the file they stand."""
        names, numbers, others = self._identifiers
        return Identity(names, numbers, others, self.file.text(_BIRTH_DATE), self.policy.words)

    @cached_property
    def person(self) -> Identity:
        """Persons' names and the patient's numbers alone: an option may keep what devices and places are called."""
        names, numbers, _ = self._identifiers
        return Identity(names, numbers, (), self.file.text(_BIRTH_DATE), self.policy.words)

    @cached_property
    def _identifiers(self) -> tuple[list[str], list[str], list[str]]:
        found: tuple[list[str], list[str], list[str]] = ([], [], [])
        self._collect(self.file.elements, self.character_set, found)
        return found

    def _collect(
        self, elements: list[Element], character_set: tuple[str, ...], found: tuple[list[str], list[str], list[str]]
    ) -> None:
        for element in elements:
            for item in element.items or ():
                self._collect(item, self._character_set(item) or character_set, found)
            if element.items is not None:
                continue
            # Where somebody lives may be called by any word, as somebody may.
            is_name = "PN" in (element.vr, DICTIONARY_VRS.get(element.tag)) or element.tag == _ADDRESS
            kind = 0 if is_name else 1 if element.tag in _NUMBERS else 2 if element.tag in _OTHERS else None
            if kind is not None:
                found[kind].append(decode(self.file.value(element), character_set).strip(" \0"))

    def _pseudonym(self) -> str:
        """Name the patient by their identifier, else by name and birth date, else by the study."""
        text = self.file.text
        if number := self._decoded(_PATIENT_ID):
            return pseudonymise_patient(self.key, number, self._decoded(_ISSUER))
        if name := self._decoded(_PATIENT_NAME).strip("^ "):
            return pseudonymise_patient(self.key, f"{name} {text(_BIRTH_DATE)}", "name")
        return pseudonymise_patient(self.key, text(_STUDY), "study")

    def _decoded(self, tag: int) -> str:
        element = self.file.find(tag)
        if element is None:
            return ""
        return decode(self.file.value(element), self.character_set).strip(" \0")

    def _character_set(self, elements: list[Element]) -> tuple[str, ...]:
        """Return the terms of a data set's own Specific Character Set, none where it has none."""
        found = next((e for e in elements if e.tag == _CHARACTER_SET_TAG and e.items is None), None)
        if found is None:
            return ()
        terms = self.file.value(found).decode("ascii", "replace").strip(" \0").split("\\")
        return tuple(term.strip() for term in terms)

    def _safe_private(self, elements: list[Element]) -> dict[int, str]:
        """Return the VR of each listed private element, by its tag in this data set, and of its creator."""
        creators = {
            (e.tag >> 16, e.tag & 0xFF): self.file.value(e).decode("latin-1").strip(" \0")
            for e in elements
            if e.tag >> 16 & 1 and 0x10 <= e.tag & 0xFFFF <= 0xFF
        }
        safe: dict[int, str] = {}
        for (group, block), creator in creators.items():
            for listed in self.policy.safe_private:
                if listed.creator == creator and listed.group == group:
                    safe[group << 16 | block] = "creator"
                    safe |= {group << 16 | block << 8 | number: vr for number, vr in listed.elements.items()}
        return safe

    def _private(self, element: Element, vr: str | None) -> tuple[str, bytes | None]:
        # The creator's name proves nothing: a value stays only if it has the listed VR, and passes like any other.
        if vr is None or element.items is not None or (vr != "creator" and element.vr not in {vr, "UN"}):
            return "remove", None
        value = self.file.value(element)
        if vr == "creator":
            return "keep", encode(element.tag, "LO", value, self.syntax)
        strict = vr == "CS" and not is_vocabulary(value.decode("latin-1").strip(" \0"), self.policy.words)
        cleaned = None if strict else self._value(element.tag, vr, value, "clean")
        return "clean", None if cleaned is None else encode(element.tag, vr, cleaned, self.syntax)

    def _meta(self, instance: str) -> bytes:
        # Made anew: the original may name the sending station and hold private information.
        little = Syntax(explicit=True, order="<")
        sop_class = self.map_uid(self.sop_class.encode())
        body = b"".join(
            (
                encode(0x00020001, "OB", b"\0\1", little),
                encode(0x00020002, "UI", sop_class, little),
                encode(0x00020003, "UI", self.map_uid(instance.encode()), little),
                encode(0x00020010, "UI", self.file.transfer_syntax.encode(), little),
                encode(0x00020012, "UI", IMPLEMENTATION_UID.encode(), little),
                encode(0x00020013, "SH", b"QFUNDUS", little),
            )
        )
        return b"\0" * 128 + b"DICM" + encode(0x00020000, "UL", struct.pack("<I", len(body)), little) + body


@lru_cache(maxsize=4096)
def _judge_term(part: bytes, words: frozenset[str]) -> tuple[bool, tuple[str, ...] | None]:
    """Say whether a coded term is made of known words; return its words where it is well formed and they are short."""
    text = part.decode("latin-1").strip().replace("_", " ")
    # Makers have abbreviations of their own; a longer word that DICOM does not know could be a name.
    short = _FORMS["CS"].fullmatch(part.strip()) is not None and all(len(word) <= 4 for word in text.split())
    known = part.decode("latin-1").strip() in defined_terms() or is_vocabulary(text, words)
    return known, words_of(text) if short else None


def shift_date(text: str, days: int) -> str:
    """Move a DICOM date of eight digits by a number of days; '' where it is no date."""
    try:
        day = date(int(text[:4]), int(text[4:6]), int(text[6:])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return day.strftime("%Y%m%d")


def _join(elements: list[tuple[int, bytes]]) -> bytes:
    return b"".join(element for _, element in elements)


def _first_of_each(elements: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Bring elements into the order that DICOM asks for; of several with one tag the first stays."""
    return sorted(dict(reversed(elements)).items())
