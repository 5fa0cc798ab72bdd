"""Snapshot the training set: every graded eye with its features as of a moment."""

from datetime import datetime
from pathlib import Path

from qfundus.features import snapshot
from qfundus.recipes.nightly import NightlyRecipe
from qfundus.site import open_site


def snapshot_dataset(recipe: str, as_of: str, dataset: str) -> dict[str, float]:
    """Write the snapshot as Parquet; return the number of eyes and patients in each split."""
    splits = NightlyRecipe.from_json(recipe).splits
    table = snapshot.snapshot_dataset(open_site(), splits, datetime.fromisoformat(as_of))
    Path(dataset).parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(dataset, index=False)
    counts = {split: snapshot.count_eyes(table.query("split == @split")) for split in snapshot.SPLITS}
    return {f"{split}_{what}": float(count) for split, its in counts.items() for what, count in its.items()}
