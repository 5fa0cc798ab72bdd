"""Who an object is about: the patient's pseudonym, and the words that would name anybody."""

from functools import cached_property

from qfundus.dicom.elements import DicomFile, Element
from qfundus.dicom.identity import Identity
from qfundus.dicom.policy import Policy
from qfundus.dicom.tags import (
    ADDRESS,
    BIRTH_DATE,
    CHARACTER_SET,
    ISSUER,
    PATIENT_ID,
    PATIENT_NAME,
    STUDY,
)
from qfundus.dicom.text import decode
from qfundus.dicom.vrs import DICTIONARY_VRS
from qfundus.security.keys import SiteKey, date_shift, pseudonymise_patient

# Beside every person's name: identifiers of patient and visit, and what else leads to them or to who treated them.
_NUMBERS = frozenset({0x00080050, 0x00100020, 0x00101000, 0x00101090, 0x00200010, 0x00380010})
_OTHERS = frozenset({0x00080080, 0x00080081, 0x00081010, 0x00081040, 0x00100021, 0x00101080, 0x00102154, 0x00181000})


class Subject:
    """The patient of one object, and those around them."""

    def __init__(self, file: DicomFile, policy: Policy, key: SiteKey) -> None:
        self.file = file
        self.policy = policy
        self.character_set = character_set_of(file, file.elements) or ("",)
        self.patient = self._pseudonym(key)
        self.days = -date_shift(key, self.patient)  # into the past: a date to come would give the shift away

    @cached_property
    def identity(self) -> Identity:
        """The words that name the patient and those around them, wherever in the file they stand."""
        names, numbers, others = self._identifiers
        return Identity(names, numbers, others, self.file.text(BIRTH_DATE), self.policy.words)

    @cached_property
    def person(self) -> Identity:
        """Persons' names and the patient's numbers alone: an option may keep what devices and places are called."""
        names, numbers, _ = self._identifiers
        return Identity(names, numbers, (), self.file.text(BIRTH_DATE), self.policy.words)

    @cached_property
    def _identifiers(self) -> tuple[list[str], list[str], list[str]]:
        identifiers: tuple[list[str], list[str], list[str]] = ([], [], [])
        self._collect(self.file.elements, self.character_set, identifiers)
        return identifiers

    def _collect(
        self,
        elements: list[Element],
        character_set: tuple[str, ...],
        identifiers: tuple[list[str], list[str], list[str]],
    ) -> None:
        for element in elements:
            for item in element.items or ():
                self._collect(item, character_set_of(self.file, item) or character_set, identifiers)
            if element.items is not None:
                continue
            # Where somebody lives may be called by any word, as somebody may.
            is_name = "PN" in (element.vr, DICTIONARY_VRS.get(element.tag)) or element.tag == ADDRESS
            kind = 0 if is_name else 1 if element.tag in _NUMBERS else 2 if element.tag in _OTHERS else None
            if kind is not None:
                identifiers[kind].append(decode(self.file.value(element), character_set).strip(" \0"))

    def _pseudonym(self, key: SiteKey) -> str:
        """Name the patient by their identifier, else by name and birth date, else by the study."""
        text = self.file.text
        if number := self._decoded(PATIENT_ID):
            return pseudonymise_patient(key, number, self._decoded(ISSUER))
        if name := self._decoded(PATIENT_NAME).strip("^ "):
            return pseudonymise_patient(key, f"{name} {text(BIRTH_DATE)}", "name")
        return pseudonymise_patient(key, text(STUDY), "study")

    def _decoded(self, tag: int) -> str:
        element = self.file.find(tag)
        if element is None:
            return ""
        return decode(self.file.value(element), self.character_set).strip(" \0")


def character_set_of(file: DicomFile, elements: list[Element]) -> tuple[str, ...]:
    """Return the terms of a data set's own Specific Character Set, none where it has none."""
    element = next((e for e in elements if e.tag == CHARACTER_SET and e.items is None), None)
    if element is None:
        return ()
    terms = file.value(element).decode("ascii", "replace").strip(" \0").split("\\")
    return tuple(term.strip() for term in terms)
