"""What came of the runs of ingestion, read back from what each left behind."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import pandas as pd

from qfundus.errors import SetupError
from qfundus.ingestion.curate import read_manifest
from qfundus.object_names import account_name, landed_name, manifest_name
from qfundus.site import Site

SHOWN = ["source", "kind", "status", "reason", "eye", "study", "grade", "part_of", "planted"]


@dataclass(frozen=True)
class Run:
    """A run of ingestion: when it fixed what had landed, and its counts, which are empty until it is closed."""

    name: str
    landed: datetime
    is_closed: bool
    counts: dict[str, int]


def list_runs(site: Site, most: int) -> list[Run]:
    """List the newest runs, newest first."""
    began = [
        (stored.modified, PurePosixPath(stored.name).parent.name)
        for stored in site.store.list(site.settings.curated_bucket, "runs/")
        if stored.name.endswith(f"/{PurePosixPath(landed_name('')).name}")
    ]
    newest = sorted(began, reverse=True)[:most]
    accounts = (
        (moment, run, site.store.find_json(site.settings.curated_bucket, account_name(run))) for moment, run in newest
    )
    return [Run(run, moment, counts is not None, counts or {}) for moment, run, counts in accounts]


def read_outcomes(site: Site, run: str) -> pd.DataFrame:
    """Read what became of each object of a run, a row each.

    Raises:
        SetupError: if the run does not exist, or has not got that far.
    """
    try:
        return read_manifest(site, manifest_name(run)).filter(items=SHOWN)
    except LookupError:
        raise SetupError(f"No outcomes found for run {run}: `qfundus runs` lists the runs.") from None
