"""Read the YAML file of a recipe, and explain each mistake in it."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from qfundus.errors import SetupError
from qfundus.recipes.spelling import RENAMED, find_former_names, nearest

_log = structlog.get_logger()
LARGEST_SEED = 2**32 - 1  # what NumPy's and torch's generators both take, with room for a network's number
_YAML_WORDING = {  # pydantic speaks of Python's types, and the reader has YAML in front of them
    "tuple_type": "{where} must be a list, such as [first, second].",
    "model_type": "{where} must hold settings, each on its own line; write {{}} to keep the defaults.",
    "model_attributes_type": "{where} must hold settings, each on its own line; write {{}} to keep the defaults.",
}
RecipeType = TypeVar("RecipeType", bound=BaseModel)


class Section(BaseModel):
    """A section of a recipe: frozen, and strict about unknown settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _accept_former_names(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        return {
            RENAMED[name] if RENAMED.get(name) in cls.model_fields else name: value for name, value in settings.items()
        }


class Training(Section):
    """How long and how fast to train; `patience` counts epochs without a better validation loss."""

    epochs: int = Field(gt=0)
    patience: int = Field(gt=0)
    batch: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


def read_recipe(kind: type[RecipeType], path: Path) -> RecipeType:
    """Read a recipe of a kind from YAML.

    Raises:
        SetupError: naming each wrong setting and the remedy, and for an unknown setting the nearest known one.
    """
    return validate(kind, read_settings(path), path)


def validate(kind: type[RecipeType], settings: dict[str, Any], path: Path) -> RecipeType:
    """Turn the settings of a recipe's file into the recipe.

    Raises:
        SetupError: as `read_recipe`.
    """
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise SetupError(f"The recipe {path.name} is wrong: {_explain_all(error, kind)}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """Read a recipe's settings as they are written; a setting under its former name is logged.

    Raises:
        SetupError: if the file is not YAML, repeats a setting, or holds no settings.
    """
    try:
        settings = yaml.load(path.read_text(), _UniqueKeyLoader)  # noqa: S506  (a safe loader, stricter)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SetupError(f"The recipe {path.name} is not valid YAML: {error}") from None
    if not isinstance(settings, dict):
        raise SetupError(f"The recipe {path.name} is empty or not a list of settings.")
    for name in sorted(find_former_names(settings)):
        _log.warning(
            "A setting has a new name; the old one works until release 0.3",
            recipe=path.name,
            old=name,
            new=RENAMED[name],
        )
    return settings


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a setting that is given twice: YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  (PyYAML's signature)
        """Read a mapping."""
        names = [str(key.value) for key, _ in node.value]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"{repeated[0]} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _explain_all(error: ValidationError, kind: type[BaseModel]) -> str:
    return " ".join(_explain(mistake, kind) for mistake in error.errors())


def _explain(mistake: ErrorDetails, kind: type[BaseModel]) -> str:
    # Names in brackets are pydantic's tags for the form that was meant.
    *parts, name = [str(part) for part in mistake["loc"] if not str(part).startswith("(")] or [""]
    where = ".".join((*parts, name)).strip(".")
    match mistake["type"]:
        case "extra_forbidden":
            known = _settings_of(kind, parts)
            hint = nearest(name, known) or f" Known settings: {', '.join(known)}."
            return f"Unknown setting {where}.{hint}"
        case "missing":
            return f"The setting {where} is missing."
        case "literal_error":
            allowed = str(mistake.get("ctx", {}).get("expected", ""))
            quoted = re.findall(r"'([^']+)'", allowed)
            return f"{where} must be {allowed}.{nearest(str(mistake['input']), quoted)}"
        case "value_error":
            return mistake["msg"].removeprefix("Value error, ")
        case known_type if known_type in _YAML_WORDING:
            return _YAML_WORDING[known_type].format(where=where)
        case _:
            return f"{where}: {mistake['msg']}."


def _settings_of(kind: type[BaseModel], parts: Iterable[str]) -> list[str]:
    """List the settings of a section, of each form that it may have."""
    kinds = [kind]
    for part in parts:
        if part.isdigit():  # an index into a list
            continue
        annotations = [its.model_fields[part].annotation for its in kinds if part in its.model_fields]
        kinds = [inner for annotation in annotations for inner in _sections_in(annotation)]
    return [name for its in kinds for name in its.model_fields]


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)
