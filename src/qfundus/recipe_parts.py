"""What recipes are made of, and how their files are read: with clear words on what is wrong in them."""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from qfundus.errors import SetupError

LARGEST_SEED = 2**32 - 1  # what NumPy's and torch's generators both take, with room for a network's number
# What other libraries call settings that are here.
_ALSO_CALLED = {
    "amp": "precision",
    "average": "ema",
    "batch_size": "batch",
    "bf16": "precision",
    "early_stopping": "patience",
    "flip": "mirror",
    "fp16": "precision",
    "gradient_accumulation": "accumulate",
    "gradient_clip": "clip",
    "image_size": "side",
    "ema_decay": "ema",
    "lr": "learning_rate",
    "max_grad_norm": "clip",
    "moving_average": "ema",
    "num_workers": "workers",
    "rotate": "turn",
    "rotation": "turn",
    "scheduler": "schedule",
    "soft_labels": "soften",
    "tta": "views",
}
_SAID_OTHERWISE = {  # of YAML, and not of Python
    "tuple_type": "{where} must be a list, such as [one, other].",
    "model_type": "{where} must hold settings, each on a line of its own; where there are none, write {{}}.",
    "model_attributes_type": "{where} must hold settings, each on a line of its own; where there are none, write {{}}.",
}
R = TypeVar("R", bound=BaseModel)


class Part(BaseModel):
    """A part of a recipe: frozen, and without a setting that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Training(Part):
    """How long and how fast to train; `patience` is in epochs without a better validation loss."""

    epochs: int = Field(gt=0)
    patience: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


def read_recipe(kind: type[R], path: Path) -> R:
    """Read a recipe of a kind from YAML.

    Raises:
        SetupError: naming each wrong setting and the remedy; of one that does not exist, the nearest that does.
    """
    try:
        said = yaml.load(path.read_text(), _EachOnce)  # noqa: S506  (a safe loader, stricter)
        if not isinstance(said, dict):
            raise SetupError(f"The recipe {path.name} is empty, or no list of settings.")
        return kind.model_validate(said)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SetupError(f"The recipe {path.name} is no YAML: {error}") from None
    except ValidationError as error:
        raise SetupError(f"The recipe {path.name} is wrong: {_explain(error, kind)}") from None


class _EachOnce(yaml.SafeLoader):
    """Refuses a setting that is given twice: YAML would take the last, without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  (PyYAML's signature)
        """Read a mapping."""
        names = [str(key.value) for key, _ in node.value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def nearest(name: str, names: Iterable[str]) -> str:
    """Name what was probably meant, as a question to end an error message with; '' where nothing is near."""
    by_lower = {one.lower(): one for one in names}
    asked = _ALSO_CALLED.get(name.lower(), name.lower())
    near = get_close_matches(asked, list(by_lower), n=1)
    return f" Did you mean {by_lower[near[0]]}?" if near else ""


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    return " ".join(_explain_one(one, kind) for one in error.errors())


def _explain_one(one: ErrorDetails, kind: type[BaseModel]) -> str:
    # What stands in brackets is the form that was meant, and no setting.
    *parts, name = [str(part) for part in one["loc"] if not str(part).startswith("(")] or [""]
    where = ".".join((*parts, name)).strip(".")
    match one["type"]:
        case "extra_forbidden":
            there = _settings(kind, parts)
            known = nearest(name, there) or f" There are {', '.join(there)}."
            return f"There is no setting {where}.{known}"
        case "missing":
            return f"The setting {where} is missing."
        case "literal_error":
            allowed = str(one.get("ctx", {}).get("expected", ""))
            quoted = re.findall(r"'([^']+)'", allowed)
            return f"{where} may be {allowed}.{nearest(str(one['input']), quoted)}"
        case "value_error":
            return one["msg"].removeprefix("Value error, ")
        case kind_of_error if kind_of_error in _SAID_OTHERWISE:
            return _SAID_OTHERWISE[kind_of_error].format(where=where)
        case _:
            return f"{where}: {one['msg']}."


def _settings(kind: type[BaseModel], parts: Iterable[str]) -> list[str]:
    """List the settings of a part, of each form that it may have."""
    kinds = [kind]
    for part in parts:
        if part.isdigit():  # a place in a list
            continue
        fields = [its.model_fields[part].annotation for its in kinds if part in its.model_fields]
        kinds = [inner for field in fields for inner in _parts_in(field)]
    return [name for its in kinds for name in its.model_fields]


def _parts_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts_in(inner)
