"""What to train: a recipe in YAML, read into types that refuse impossible combinations."""

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from qfundus.errors import SetupError

R = TypeVar("R", bound=BaseModel)


class Part(BaseModel):
    """A part of a recipe: frozen, and without a setting that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Splits(Part):
    """Shares of the patients."""

    train: float = Field(gt=0, lt=1)
    validation: float = Field(gt=0, lt=1)
    test: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _fill_the_whole(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("The splits must add up to 1: change train, validation or test.")
        return self


class Training(Part):
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


class Evaluation(Part):
    """How to measure."""

    resamples: int = Field(ge=100)
    confidence: float = Field(gt=0.5, lt=1)
    specificity: float = Field(gt=0, lt=1)


class Gate(Part):
    """What a candidate must show."""

    margin: float = Field(ge=0)
    floor: float = Field(ge=-1, le=1)


class Recipe(Part):
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
    """Read a recipe of the nightly retraining from YAML.

    Raises:
        SetupError: naming the setting and the remedy.
    """
    return read_recipe(Recipe, path)


def read_recipe(kind: type[R], path: Path) -> R:
    """Read a recipe of a kind from YAML.

    Raises:
        SetupError: naming each wrong setting and the remedy; of one that does not exist, the nearest that does.
    """
    try:
        return kind.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise SetupError(f"The recipe {path.name} is no YAML: {error}") from None
    except ValidationError as error:
        raise SetupError(f"The recipe {path.name} is wrong: {_explain(error, kind)}") from None


def nearest(name: str, names: Iterable[str]) -> str:
    """Name what was probably meant, as a question to end an error message with; '' where nothing is near."""
    near = get_close_matches(name, list(names), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    return " ".join(_explain_one(one, kind) for one in error.errors())


def _explain_one(one: ErrorDetails, kind: type[BaseModel]) -> str:
    *parts, name = (str(part) for part in one["loc"] or ("",))
    where = ".".join((*parts, name)).strip(".")
    match one["type"]:
        case "extra_forbidden":
            return f"There is no setting {where}.{nearest(name, _settings(kind, parts))}"
        case "missing":
            return f"The setting {where} is missing."
        case "literal_error":
            allowed = str(one.get("ctx", {}).get("expected", ""))
            quoted = re.findall(r"'([^']+)'", allowed)
            return f"{where} may be {allowed}.{nearest(str(one['input']), quoted)}"
        case "value_error":
            return one["msg"].removeprefix("Value error, ")
        case _:
            return f"{where}: {one['msg']}."


def _settings(kind: type[BaseModel], parts: Iterable[str]) -> list[str]:
    for part in parts:
        inner = kind.model_fields[part].annotation if part in kind.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    return list(kind.model_fields)
