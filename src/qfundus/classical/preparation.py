"""Prepare photographs for training: as shards, divided among networks and processes."""

from collections.abc import Sequence

import numpy as np
import structlog
import torch

from qfundus.classical.folds import split_fold, warn_of_gaps
from qfundus.classical.job import TrainingJob
from qfundus.classical.loader import Order
from qfundus.classical.parallel import Layout
from qfundus.classical.shards import ShardTable, read_table, write_shards
from qfundus.errors import SetupError
from qfundus.imaging.labelled import Labelled
from qfundus.recipes.network import NetworkRecipe

_log = structlog.get_logger()
RECIPE_FILE, SHARDS = "recipe.json", "photographs.lance"
_TEXTS = ("name", "split", "patient")


def list_jobs(
    recipe: NetworkRecipe,
    table: ShardTable,
    folder: str,
    seed: int,
    checkpoints: str = "",
    track: str = "",
) -> list[TrainingJob]:
    """List the trainings of a recipe's networks."""
    warn_of_gaps(table)
    return [
        TrainingJob(
            recipe=member,
            shards=table.uri,
            folder=f"{folder}/networks/{number:02d}",
            seed=seed * 1000 + number,
            fold=fold,
            checkpoints=f"{checkpoints.rstrip('/')}/{number:02d}" if checkpoints else "",
            track=track,
        )
        for number, (member, fold) in enumerate(recipe.members())
    ]


def divide(recipe: NetworkRecipe, table: ShardTable, seed: int, processes: int) -> list[int]:
    """Divide photographs as each network would on that many processes; return the steps of an epoch of each.

    Raises:
        SetupError: if that cannot be done.
    """
    layout = Layout(0, processes, torch.device("cpu"))
    steps: list[int] = []
    for member, fold in recipe.members():
        rows, _ = split_fold(table, member.grading.folds, fold)
        steps.append(Order(rows, member.training.batch, seed, layout, member.training.accumulate).steps)
    return steps


def list_table(labelled: Sequence[Labelled]) -> ShardTable:
    """Put what is known of photographs into a table, before their pixels are looked at."""
    names, splits, patients = (np.array([getattr(photograph, part) for photograph in labelled]) for part in _TEXTS)
    return ShardTable("", names, np.array([photograph.grade for photograph in labelled]), splits, patients, "")


def is_shards(data: str) -> bool:
    """Return whether an address is of shards."""
    return data.rstrip("/").endswith(".lance")


def prepare_shards(recipe: NetworkRecipe, labelled: list[Labelled], folder: str) -> ShardTable:
    """Prepare photographs as shards in a folder, unless that is done."""
    uri = f"{folder}/{SHARDS}"
    try:
        return read_table(uri, recipe.images)
    except SetupError:
        skipped = write_shards(labelled, recipe.images, uri)
    table = read_table(uri, recipe.images)
    _log.info("Photographs prepared", photographs=len(table.names), skipped=skipped)
    return table
