"""Claim a folder for one training: another recipe, seed or data is refused there."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import structlog

from qfundus.classical.description import flatten
from qfundus.classical.preparation import RECIPE_FILE, is_shards
from qfundus.classical.shards import read_table
from qfundus.errors import SetupError
from qfundus.imaging.labelled import SHEET
from qfundus.recipes.network import NetworkRecipe
from qfundus.recipes.spelling import to_current_names

_log = structlog.get_logger()


def claim_folder(folder: Path, recipe: NetworkRecipe, data: str, seed: int, checkpoints: str = "") -> None:
    """Note what is trained here, and where its checkpoints go; a folder holds one training."""
    wanted = {
        "recipe": recipe.learnt_settings(),
        "data": digest_data(data, recipe),  # wherever they lie
        "seed": seed,
        "checkpoints": checkpoints,
    }
    file = folder / RECIPE_FILE
    if not file.exists():
        file.write_text(json.dumps(wanted, indent=1))
        return
    there = _read_claim(file)
    if differs := ", ".join(name for name, value in wanted.items() if there.get(name) != value):
        settings = describe_changes(there.get("recipe", {}), recipe.learnt_settings())
        raise SetupError(
            f"{folder} holds a training with another {differs}{settings}: use another folder for --out, or delete it."
        )


def describe_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say in brackets which of a recipe's settings have changed, '' if none have."""
    old, new = (
        flatten(settings) | {name: str(settings.get(name)) for name in ("name", "variants")}
        for settings in (before, now)
    )
    differ = [name for name in old | new if old.get(name) != new.get(name)]
    changed = [f"{name} was {old.get(name, 'not there')} and is {new.get(name, 'not there')}" for name in differ]
    return f" ({', '.join(changed)})" if changed else ""


def _read_claim(file: Path) -> dict[str, Any]:
    try:
        claim = json.loads(file.read_text())
    except ValueError:
        raise SetupError(f"{file} is damaged: use another folder for --out, or delete it.") from None
    return {**claim, "recipe": to_current_names(claim.get("recipe", {}))}


def digest_data(data: str, recipe: NetworkRecipe) -> str:
    """Name what data hold; of a folder's files their sizes and times."""
    if is_shards(data):
        return read_table(data, recipe.images).digest
    path = Path(data)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256((path / SHEET).read_bytes())
    for name in pd.read_csv(path / SHEET, dtype=str, keep_default_na=False)["file"]:
        status = (path / name).stat()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()
