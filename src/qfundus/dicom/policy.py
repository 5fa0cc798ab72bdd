"""The de-identification policy of a site: the options of the profile as switches, and what else the site decides."""

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydicom.datadict import tag_for_keyword

from qfundus.dicom.vrs import DICTIONARY_VRS
from qfundus.errors import SetupError

# The code of each option (PS3.16 CID 7050), in the order in which they are written into an object.
OPTION_CODES = {
    "clean_pixel_data": ("113101", "Clean Pixel Data Option"),
    "clean_graphics": ("113103", "Clean Graphics Option"),
    "clean_structured_content": ("113104", "Clean Structured Content Option"),
    "clean_descriptors": ("113105", "Clean Descriptors Option"),
    "retain_full_dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "retain_modified_dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "retain_patient_characteristics": ("113108", "Retain Patient Characteristics Option"),
    "retain_device_identity": ("113109", "Retain Device Identity Option"),
    "retain_uids": ("113110", "Retain UIDs Option"),
    "retain_safe_private": ("113111", "Retain Safe Private Option"),
    "retain_institution_identity": ("113112", "Retain Institution Identity Option"),
}


# Beside every person's name: identifiers of patient and visit, birth date, addresses, telephone numbers.
_DIRECT_IDENTIFIERS = frozenset(
    {0x00080050, 0x00100020, 0x00100030, 0x00101000, 0x00101002, 0x00101040, 0x00102154, 0x00102155, 0x00200010}
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Options(_Part):
    """The options of PS3.15 E.3; one that is not named is off."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    clean_pixel_data: bool = False
    clean_graphics: bool = False
    clean_structured_content: bool = False
    clean_descriptors: bool = False
    retain_full_dates: bool = False
    retain_modified_dates: bool = False
    retain_patient_characteristics: bool = False
    retain_device_identity: bool = False
    retain_uids: bool = False
    retain_safe_private: bool = False
    retain_institution_identity: bool = False

    @property
    def chosen(self) -> list[str]:
        """The names of those that are on."""
        return [name for name in OPTION_CODES if getattr(self, name)]


class SafePrivate(_Part):
    """Private elements of one creator that identify nobody: `elements` maps the last two hex digits to the VR."""

    creator: str
    group: Annotated[int, BeforeValidator(lambda text: int(str(text), 16))]
    elements: dict[Annotated[int, BeforeValidator(lambda text: int(str(text), 16))], str]


class Policy(_Part):
    """What a site decides about de-identification."""

    name: str
    edition: str
    options: Options
    oldest_age: int = Field(default=90, ge=1, le=999)
    attributes: dict[str, Literal["remove", "empty", "replace", "clean", "keep"]] = {}
    words: frozenset[str] = frozenset()
    safe_private: tuple[SafePrivate, ...] = ()

    def model_post_init(self, _context: object) -> None:
        """Refuse attributes that the DICOM dictionary does not know, and options that exclude each other."""
        unknown = [name for name in self.attributes if attribute_tag(name) is None]
        if unknown:
            raise ValueError(f"Unknown DICOM attributes: {', '.join(unknown)}")
        names = [name for name, action in self.attributes.items() if action == "keep" and _names_somebody(name)]
        if names:
            raise ValueError(f"Attributes that name a person cannot be kept: {', '.join(names)}")
        if self.options.retain_full_dates and self.options.retain_modified_dates:
            raise ValueError("Dates are retained either in full or modified: switch one of the two options off.")

    def trusting_pixels(self) -> "Policy":
        """Return the policy without the search for burned-in text, for cameras that burn nothing in."""
        return self.model_copy(update={"options": self.options.model_copy(update={"clean_pixel_data": False})})


def _names_somebody(name: str) -> bool:
    tag = attribute_tag(name)
    return tag is not None and (tag in _DIRECT_IDENTIFIERS or DICTIONARY_VRS.get(tag) == "PN")


def attribute_tag(name: str) -> int | None:
    """Return the tag of a keyword or of eight hex digits."""
    return int(name, 16) if re.fullmatch("[0-9a-fA-F]{8}", name) else tag_for_keyword(name)


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        SetupError: if the file is missing, or an option, an action or an attribute in it is unknown.
    """
    try:
        return Policy.model_validate(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise SetupError(f"The policy {path.name} cannot be read ({type(error).__name__}).") from None
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'as a whole'}: {fault['msg']}" for fault in error.errors()]
        raise SetupError(f"The policy {path.name} is wrong: {'; '.join(faults)}.") from None
    except (ValueError, yaml.YAMLError) as error:
        at = getattr(error, "problem_mark", None)
        where = f" in line {at.line + 1}" if at else ""
        raise SetupError(f"The policy {path.name} is not valid YAML{where}.") from None
