"""De-identify a DICOM object by the profile of PS3.15 Annex E: bytes in, bytes out, nothing else touched.

What may stay is copied as it lies in the file, in the same transfer syntax; what is not understood goes.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from mmap import mmap
from typing import NamedTuple

from pydicom.datadict import keyword_for_tag

from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.elements import DicomFile, Element, parse_file
from qfundus.dicom.encoding import DEFLATED, Buffer, Syntax, deflate, encode, encode_items
from qfundus.dicom.pixels import clean_pixels
from qfundus.dicom.subject import Subject, character_set_of
from qfundus.dicom.tags import CHARACTER_SET, CODING_SCHEME, SERIES, SOP_CLASS, SOP_INSTANCE, STUDY
from qfundus.dicom.values import WORD_VRS, Item, ValueCleaner
from qfundus.dicom.vocabulary import is_vocabulary
from qfundus.dicom.vrs import ALLOWED_VRS, DICTIONARY_VRS
from qfundus.errors import Discard
from qfundus.security.keys import SiteKey

IMPLEMENTATION_UID = "2.25.302042361713929370817320127905837041421"
_ENCAPSULATED_DOCUMENT = 0x00420011
_PIXEL_ELEMENTS = (0x7FE00010, 0x7FE00008, 0x7FE00009)


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
            Discard: if the pixels cannot be cleaned.
        """
        return b"".join(self.parts())


def deidentify(data: bytes | mmap, policy: CompiledPolicy, key: SiteKey) -> Deidentified:
    """De-identify one DICOM file by a policy; equal files have equal results.

    Raises:
        Discard: if the file cannot be read, holds no picture, or lacks what identifies the object.
    """
    file = parse_file(data)
    return _Object(file, policy, key).deidentify()


class _Object:
    """One object on its way: the file, the rules for its class, and what it is called from now on."""

    def __init__(self, file: DicomFile, compiled: CompiledPolicy, key: SiteKey) -> None:
        self.file = file
        self.compiled = compiled
        self.policy = compiled.policy
        self.syntax = file.syntax
        self.sop_class = file.text(SOP_CLASS)
        self.profile = compiled.profile(self.sop_class)
        self.handled: list[Handled] = []
        self.subject = Subject(file, compiled.policy, key)
        self.values = ValueCleaner(file, compiled.policy, key, self.subject)

    def deidentify(self) -> Deidentified:
        """De-identify the header; the pixels follow when the parts are read."""
        instance, study = self.file.text(SOP_INSTANCE), self.file.text(STUDY)
        if not (instance and study and self.sop_class):
            raise Discard("missing_uid", "The SOP class, SOP instance or study instance UID is absent or empty.")
        pixels = next((e for tag in _PIXEL_ELEMENTS if (e := self.file.find(tag)) is not None), None)
        if pixels is None:
            raise Discard(*self._why_no_picture())
        cleaned = self.dataset(self.file.elements, "", self.subject.character_set)
        head = _join(sorted(cleaned + list(self.compiled.statements(self.syntax))))
        meta, names = self._meta(instance), self.subject.identity.is_in_bytes

        def parts() -> Iterator[Buffer]:
            yield meta
            if self.file.transfer_syntax == DEFLATED:
                yield deflate(b"".join((head, *clean_pixels(self.file, pixels, names))))
            else:
                yield head
                yield from clean_pixels(self.file, pixels, names)

        return Deidentified(
            patient=self.subject.patient,
            study=self.values.map_uid(study.encode()).decode(),
            series=self.values.map_uid(self.file.text(SERIES).encode()).decode(),
            instance=self.values.map_uid(instance.encode()).decode(),
            sop_class=self.values.map_uid(self.sop_class.encode()).decode(),
            handled=tuple(self.handled),
            parts=parts,
        )

    def _why_no_picture(self) -> tuple:
        if self.file.find(_ENCAPSULATED_DOCUMENT) is not None:
            return "encapsulated_document", "The object holds a document that cannot be looked into."
        return "no_pixels", "The object has no pixel data."

    def dataset(self, elements: list[Element], path: str, character_set: tuple[str, ...]) -> list[tuple[int, bytes]]:
        """De-identify the elements of a data set or an item; return what remains, each ready to write."""
        rules = self.profile.rules(path)
        item = Item(character_set, self._scheme(elements) if path else b"")
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
                action, value = self._private(element, safe.get(tag), item)
            elif action not in {"remove", "pixels"}:
                value = self._element(element, action, path, item)
            if value is not None:
                written.append((tag, value))
            elif action != "pixels":
                action = "remove"
            self.handled.append(Handled(path, tag, action, rule.because))
        return written if in_order else _first_of_each(written)

    def _element(self, element: Element, action: str, path: str, item: Item) -> bytes | None:
        """Return an element as it is to be written, or None where it goes."""
        tag, vr = element.tag, element.vr
        if (element.items is None) == (DICTIONARY_VRS.get(tag) == "SQ") and element.length:
            return None  # a sequence where none belongs, or none where one does
        if element.items is not None:
            return self._sequence(element, action, path, item.character_set)
        value = self.file.value(element)
        if vr == "UN" and self.syntax.order == "<":
            vr = DICTIONARY_VRS.get(tag, vr)
        if vr not in ALLOWED_VRS[tag]:
            if not (vr in WORD_VRS and ALLOWED_VRS[tag] & WORD_VRS):
                return None  # a form that the attribute does not have
            action = "clean"
        cleaned = self.values.clean(tag, vr, value, action, item)
        if cleaned == b"" and value.strip(b" \0") and tag != CHARACTER_SET and self.profile.needs_value(tag, path):
            cleaned = self.values.dummy(tag, vr, value)
        if cleaned is value and vr is element.vr and element.head >= 0 and not len(value) & 1:
            return bytes(self.file.data[element.head : element.start + element.length])
        return None if cleaned is None else encode(tag, vr, cleaned, self.syntax)

    def _sequence(self, element: Element, action: str, path: str, around: tuple[str, ...]) -> bytes:
        name = keyword_for_tag(element.tag)
        within = f"{path}/{name}" if path else name
        items = [] if action == "empty" else element.items or []
        cleaned = (
            self._dummies(item)
            if action == "replace"
            else self.dataset(item, within, character_set_of(self.file, item) or around)
            for item in items
        )
        return encode_items(element.tag, (_join(item) for item in cleaned), self.syntax)

    def _dummies(self, elements: list[Element]) -> list[tuple[int, bytes]]:
        """Return an item that keeps its form and none of its values."""
        return [
            (e.tag, encode(e.tag, e.vr, self.values.dummy(e.tag, e.vr, self.file.value(e)), self.syntax))
            for e in elements
            if e.items is None and e.tag in DICTIONARY_VRS and e.vr not in {"UN", "UR"}
        ]

    def _scheme(self, elements: list[Element]) -> bytes:
        scheme = next((e for e in elements if e.tag == CODING_SCHEME and e.items is None), None)
        return b"" if scheme is None else self.file.value(scheme).strip(b" \0")

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

    def _private(self, element: Element, vr: str | None, item: Item) -> tuple[str, bytes | None]:
        # The creator's name proves nothing: a value stays only if it has the listed VR, and passes like any other.
        if vr is None or element.items is not None or (vr != "creator" and element.vr not in {vr, "UN"}):
            return "remove", None
        value = self.file.value(element)
        if vr == "creator":
            return "keep", encode(element.tag, "LO", value, self.syntax)
        strict = vr == "CS" and not is_vocabulary(value.decode("latin-1").strip(" \0"), self.policy.words)
        cleaned = None if strict else self.values.clean(element.tag, vr, value, "clean", item)
        return "clean", None if cleaned is None else encode(element.tag, vr, cleaned, self.syntax)

    def _meta(self, instance: str) -> bytes:
        # Made anew: the original may name the sending station and hold private information.
        little = Syntax(explicit=True, order="<")
        sop_class = self.values.map_uid(self.sop_class.encode())
        body = b"".join(
            (
                encode(0x00020001, "OB", b"\0\1", little),
                encode(0x00020002, "UI", sop_class, little),
                encode(0x00020003, "UI", self.values.map_uid(instance.encode()), little),
                encode(0x00020010, "UI", self.file.transfer_syntax.encode(), little),
                encode(0x00020012, "UI", IMPLEMENTATION_UID.encode(), little),
                encode(0x00020013, "SH", b"QFUNDUS", little),
            )
        )
        return b"\0" * 128 + b"DICM" + encode(0x00020000, "UL", struct.pack("<I", len(body)), little) + body


def _join(elements: list[tuple[int, bytes]]) -> bytes:
    return b"".join(element for _, element in elements)


def _first_of_each(elements: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Bring elements into the order that DICOM asks for; of several with one tag the first stays."""
    return sorted(dict(reversed(elements)).items())
