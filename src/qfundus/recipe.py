"""What to train: a recipe in YAML, read into types that refuse impossible combinations."""

import json
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Splits(_Part):
    """Shares of the patients."""

    train: float = Field(gt=0, lt=1)
    validation: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _fill_the_whole(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("The splits must add up to 1: change train, validation or test.")
        return self


class Training(_Part):
    """How long and how fast to train; `patience` is in epochs without a better validation loss."""

    epochs: int = Field(gt=0)
    patience: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


class Classical(Training):
    """The classical network on the embedding."""

    hidden: int = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)


class Quantum(Training):
    """The quantum circuit on a projection of the embedding."""

    features: int = Field(gt=0, le=1280)
    ansatz: Literal["chain", "ring", "brick", "all_to_all", "reupload", "real_amplitudes", "zz_feature_map"] = "chain"
    qubits: int = Field(ge=1)
    layers: int = Field(gt=0)
    method: Literal["auto", "state_vector", "tensor_network"] = "auto"

    @model_validator(mode="after")
    def _fit_the_simulator(self) -> Self:
        if self.ansatz in ("all_to_all", "zz_feature_map") and self.qubits > 26:
            raise ValueError(
                f"The circuit {self.ansatz} can be simulated up to 26 qubits: lower `qubits`, or take chain."
            )
        return self


class Evaluation(_Part):
    """How to measure."""

    resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    specificity: float = Field(gt=0, lt=1)


class Gate(_Part):
    """What a candidate must show."""

    margin: float = Field(ge=0)
    floor: float = Field(ge=-1, le=1)


class Recipe(_Part):
    """Everything that decides what is trained and how it is judged."""

    name: str
    seed: int
    splits: Splits
    classical: Classical
    quantum: Quantum
    evaluation: Evaluation
    gate: Gate

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """Read a recipe as it travels between pipeline steps."""
        return cls.model_validate_json(text)

    def to_json(self) -> str:
        """Write the recipe for travel, always in the same way, so that a cache recognises it."""
        return json.dumps(self.model_dump(), sort_keys=True)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML.

    Raises:
        ValueError: naming the setting and the remedy.
    """
    return Recipe.model_validate(yaml.safe_load(path.read_text()))
