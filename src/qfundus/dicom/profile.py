"""The Basic Application Level Confidentiality Profile (PS3.15 Annex E) under a site's policy, tag by tag."""

import csv
import json
import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from pydicom.datadict import keyword_for_tag

from qfundus.dicom.policy import Policy, attribute_tag
from qfundus.dicom.vrs import DICTIONARY_VRS

PRIVATE, OVERLAY, CURVE = "private", "60xx", "50xx"
# In the order in which they prevail where several that are on name an attribute.
_RETAINING = (
    "retain_full_dates",
    "retain_modified_dates",
    "retain_patient_characteristics",
    "retain_device_identity",
    "retain_institution_identity",
    "retain_uids",
)
_CLEANING = ("clean_descriptors", "clean_structured_content", "clean_graphics")
# Bulk values that are part of the picture; every other one may hold a document, a voice or an image of its own.
_PICTURE_BULK = frozenset(
    {0x00281201, 0x00281202, 0x00281203, 0x00281204, 0x00281221, 0x00281222, 0x00281223, 0x00282000, 0x00283006}
)
# What an object says of its own de-identification is written anew.
_BURNED_IN = 0x00280301
_STATED_ANEW = frozenset({0x00120062, 0x00120063, 0x00120064, _BURNED_IN, 0x00280303})
_OF_A_CODE = frozenset({0x00080100, 0x00080102, 0x00080104})  # wherever a code stands, it is whole
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_WORDS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
_BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_FIXED_VRS = frozenset({"AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"})
# Attributes outside Table E.1-1 whose texts name a device, a technique or a term: they stay unless they look like an
# identifier. Words of any other text must be known.
_TECHNICAL = re.compile(
    r"Manufacturer(?!Comment)|ModelName|Version|SequenceName|CodingScheme|NucleusName|ImagedNucleus|ConvolutionKernel"
    r"|CoilName|ReconstructionMethod|CorrectionMethod|PulseSequence|FilterType|Radiopharmaceutical$|RescaleType|Algorithm"
    r"|WedgeName|SpectralSensitivity|ImageFilter$|StackID|FrameLabelVector|^CodeValue$|^LongCodeValue$"
)
_OTHER_CALENDARS = frozenset({0x00100033, 0x00100034, 0x00100035})  # a birth date in words of any language
_ACTIONS = {"X": "remove", "Z": "empty", "D": "replace", "U": "uid", "U*": "uid", "K": "keep"}


class Rule(NamedTuple):
    """What to do with an attribute, and the row or option that says so."""

    action: str
    because: str


class Row(NamedTuple):
    """One row of Table E.1-1: the basic action code and the code under each option that names the attribute."""

    basic: str
    options: dict[str, str]


@cache
def confidentiality_table() -> dict[int, Row]:
    """Return Table E.1-1 of PS3.15 2025a by tag; repeating groups and private attributes are handled as such."""
    text = (files("qfundus.dicom") / "standard" / "confidentiality.csv").read_text()
    table: dict[int, Row] = {}
    for line in csv.DictReader(text.splitlines()):
        tag, basic = line.pop("tag"), line.pop("basic")
        line.pop("keyword")
        if tag != PRIVATE and "x" not in tag:
            table[int(tag, 16)] = Row(basic, {option: code for option, code in line.items() if code})
    return table


@cache
def _attribute_types() -> dict[str, dict[str, list[str] | str | dict[str, str]]]:
    return json.loads((files("qfundus.dicom") / "standard" / "attribute_types.json").read_text())


@cache
def attribute_type(sop_class: str, path: str) -> str:
    """Return the type of an attribute in an IOD of PS3.3 ('1', '2' or '3'); '' where the IOD is unknown.

    `path` joins the keywords of the sequences around it and its own by slashes. Where several modules name it, the
    strictest counts, and a conditional type counts as if its condition held.
    """
    standard = _attribute_types()
    iod = standard["classes"].get(sop_class)
    if iod is None:
        return ""
    modules: list[str] = standard["iods"][iod]  # pyright: ignore[reportAssignmentType, reportArgumentType]
    types = {standard["modules"][module].get(path, "3")[0] for module in modules}  # pyright: ignore[reportAttributeAccessIssue]
    return min(types, default="3")


class Profile:
    """The rules for the objects of one SOP class, each made when it is first asked for."""

    def __init__(self, policy: Policy, sop_class: str) -> None:
        self.policy = policy
        self.sop_class = sop_class
        self._site = {attribute_tag(name): action for name, action in policy.attributes.items()}
        self._on = set(policy.options.chosen)
        self._rules: dict[str, dict[int, Rule]] = {}

    def rules(self, path: str = "") -> dict[int, Rule]:
        """Return the rules known so far for the elements of a sequence, named by its path ('' for the top level)."""
        return self._rules.setdefault(path, {})

    def make_rule(self, tag: int, path: str) -> Rule:
        """Decide about a tag and remember it."""
        rule = self._decide(tag, path)
        self._rules.setdefault(path, {})[tag] = rule
        return rule

    def _decide(self, tag: int, path: str) -> Rule:  # noqa: PLR0911  (one line for each way of the standard)
        group, vr = tag >> 16, DICTIONARY_VRS.get(tag)
        if tag == _BURNED_IN and "clean_pixel_data" not in self._on:
            return Rule("check", "nobody looked: the camera's word")
        if tag in _STATED_ANEW:
            return Rule("remove", "stated anew")
        if group & 1:
            return Rule(PRIVATE, "E.1-1 private attributes")
        if tag & 0xFFFF == 0 or group < 0x0008:
            return Rule("remove", "group length or command")
        if group >> 8 in {0x50, 0x60}:
            return Rule("remove", "E.1-1 curve or overlay data")
        if tag in self._site:
            return Rule(self._site[tag], "site policy")
        row = confidentiality_table().get(tag)
        if row is not None:
            return self._from_table(row, tag, path)
        if vr is None:
            return Rule("remove", "unknown to PS3.6 2025a")
        return _by_vr(tag, vr, path)

    def _from_table(self, row: Row, tag: int, path: str) -> Rule:
        for option in _RETAINING:
            code = row.options.get(option)
            if code and option in self._on:
                # A characteristic in free words is kept word by word, like a description.
                in_words = option == "retain_patient_characteristics" and DICTIONARY_VRS[tag] in {
                    "LO",
                    "LT",
                    "SH",
                    "ST",
                }
                action = (
                    "shift" if option == "retain_modified_dates" else "clean" if code == "C" or in_words else "keep"
                )
                return Rule(action, f"E.1-1 {code}: {option}")
        for option in _CLEANING:
            if option in self._on and row.options.get(option):
                return Rule("clean", f"E.1-1 C: {option}")
        code = self._resolve(row.basic, tag, path)
        because = f"E.1-1 {row.basic}" + (f": type decides {code}" if "/" in row.basic else "")
        return Rule(_ACTIONS[code], because)

    def _resolve(self, basic: str, tag: int, path: str) -> str:
        """Choose among alternatives by the attribute's type in the IOD: 3 may go, 2 may be empty, 1 needs a value."""
        codes = basic.split("/")
        if len(codes) == 1:
            return basic
        kind = self._type(tag, path)
        wanted = {"3": "XZD", "2": "ZD", "1": "DU"}.get(kind, "DUZ")
        return next((code for letter in wanted for code in codes if code[0] == letter), codes[-1])

    def needs_value(self, tag: int, path: str) -> bool:
        """Return whether the object's IOD asks for a value where there is the attribute."""
        return self._type(tag, path) == "1" or tag in _OF_A_CODE

    def _type(self, tag: int, path: str) -> str:
        name = keyword_for_tag(tag)
        return attribute_type(self.sop_class, f"{path}/{name}" if path else name)


def _by_vr(tag: int, vr: str, path: str) -> Rule:  # noqa: PLR0911  (one line for each kind of value)
    """Decide about an attribute that is in the dictionary and not in Table E.1-1."""
    if tag in _PIXEL_TAGS:
        return Rule("remove" if path else "pixels", "pixel data" if not path else "pixel data within a sequence")
    if vr in _BULK_VRS:
        return Rule(
            "keep" if tag in _PICTURE_BULK else "remove", "bulk value" + " of no picture" * (tag not in _PICTURE_BULK)
        )
    if tag in _OTHER_CALENDARS:
        return Rule("remove", "not in E.1-1, yet a date of birth or death")
    if vr in {"PN", "UR", "AE"}:
        return Rule("remove", f"not in E.1-1, yet {vr} names a person or a place")
    if vr in {"DA", "DT"}:
        return Rule("date", "not in E.1-1, yet a date")
    if vr in _FIXED_VRS:
        return Rule("fixed", "not in E.1-1")
    if vr in _WORDS and not _TECHNICAL.search(keyword_for_tag(tag)):
        return Rule("clean", "not in E.1-1: known words stay")
    return Rule("check", "not in E.1-1")
