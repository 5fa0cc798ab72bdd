"""The card of a grader: its recipe, its referral threshold, and the photographs it was trained on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qfundus.recipes.network import ImageFormat
from qfundus.recipes.spelling import to_current_names

CARD_FILE, HELD_FILE = "grader.json", "held_out.npz"


@dataclass(frozen=True)
class Card:
    """What a grader needs in addition to its graph.

    `refer_below` is the highest probability below which an eye is referred to a person; NaN for a grader
    without such a rule.
    """

    recipe: dict[str, Any]
    refer_below: float
    photographs: str

    @property
    def images(self) -> ImageFormat:
        """How a photograph becomes the graph's input."""
        return ImageFormat.model_validate(self.recipe["images"])


def read_card(folder: Path) -> Card:
    """Read the card of a grader."""
    return parse_card((folder / CARD_FILE).read_text())


def parse_card(text: str) -> Card:
    """Read a card from its JSON; settings under their former names are understood."""
    stored = json.loads(text)
    return Card(**{**stored, "recipe": to_current_names(stored["recipe"])})
