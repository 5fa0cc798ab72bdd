"""The de-identification policy: reviewable YAML, read into types that refuse a mistake."""

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydicom.datadict import tag_for_keyword


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Simple(_Rule):
    """An action without settings."""

    action: Literal["uid", "patient", "shift", "age", "empty", "sequence", "pixels"]


class Terms(_Rule):
    """Keep a text only where every value is one of the listed terms."""

    action: Literal["terms"]
    terms: frozenset[str]


class Number(_Rule):
    """Keep a number only where every value lies within the range, ends included."""

    action: Literal["number"]
    min: float
    max: float


class SetTo(_Rule):
    """Replace the value by a fixed one."""

    action: Literal["set"]
    value: str | int


class Code(_Rule):
    """A coded concept that may stay, with the meaning to write beside it."""

    scheme: str
    value: str
    meaning: str


class Codes(_Rule):
    """Keep the items of a code sequence that are listed."""

    action: Literal["codes"]
    codes: tuple[Code, ...]


Rule = Annotated[Simple | Terms | Number | SetTo | Codes, Field(discriminator="action")]


class Policy(_Rule):
    """An allow-list of attributes by keyword, each with what becomes of it."""

    name: str
    edition: str
    attributes: dict[str, Rule]

    def model_post_init(self, _context: object) -> None:
        """Refuse keywords that the DICOM dictionary does not know."""
        unknown = [keyword for keyword in self.attributes if tag_for_keyword(keyword) is None]
        if unknown:
            raise ValueError(f"No DICOM attributes: {', '.join(unknown)}")


def load_policy(path: Path) -> Policy:
    """Read a policy.

    Raises:
        ValueError: where an action, a setting or an attribute is unknown.
    """
    return Policy.model_validate(yaml.safe_load(path.read_text()))
