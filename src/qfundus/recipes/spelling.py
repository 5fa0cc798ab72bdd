"""How settings are spelt: today's names, those of an earlier release, and those that other libraries use."""

from collections.abc import Iterable, Mapping
from typing import Any

from qfundus.errors import suggest

# Names of release 0.1. Recipes may use them until 0.3; stored graders and trainings are read with them for good.
RENAMED = {
    "fitting": "training",
    "mirror": "flip",
    "most_lost": "max_drop",
    "pictures": "images",
    "referred": "referral_rate",
    "soften": "soft_labels",
    "take": "final_weights",
    "turn": "rotate",
}
_FORMER = {new: old for old, new in RENAMED.items()}
_ELSEWHERE = {
    "amp": "precision",
    "average": "ema",
    "batch_size": "batch",
    "bf16": "precision",
    "early_stopping": "patience",
    "ema_decay": "ema",
    "fp16": "precision",
    "gradient_accumulation": "accumulate",
    "gradient_clip": "clip",
    "image_size": "side",
    "lr": "learning_rate",
    "max_grad_norm": "clip",
    "moving_average": "ema",
    "num_workers": "workers",
    "rotation": "rotate",
    "scheduler": "schedule",
    "tta": "views",
}


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the setting that was probably meant as a question to end an error message with, or ''."""
    return suggest(_ELSEWHERE.get(name.lower(), name), names)


def to_current_names(settings: Any) -> Any:
    """Return settings, nested to any depth, with the former names replaced by today's."""
    return _respell(settings, RENAMED)


def to_former_names(settings: Any) -> Any:
    """Return settings with the names of release 0.1, by which trainings are fingerprinted."""
    return _respell(settings, _FORMER)


def find_former_names(settings: Any) -> set[str]:
    """Return the former names that occur as keys anywhere in settings."""
    if isinstance(settings, Mapping):
        return (RENAMED.keys() & settings.keys()).union(*map(find_former_names, settings.values()))
    return set[str]().union(*map(find_former_names, settings)) if isinstance(settings, list | tuple) else set()


def _respell(settings: Any, names: Mapping[str, str]) -> Any:
    if isinstance(settings, Mapping):
        return {names.get(str(key), key): _respell(value, names) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_respell(value, names) for value in settings]
    return settings
