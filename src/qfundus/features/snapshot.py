"""Snapshot a training set: every graded eye, with what was known of it at one moment."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from qfundus.errors import SetupError
from qfundus.features.store import newest_part, read_keys, training_rows
from qfundus.ingestion.instances import InstanceIndex
from qfundus.recipes.nightly import Splits
from qfundus.security.keys import SiteKey, split_fraction
from qfundus.site import Site

SERVICE = "hybrid_grader"
SPLITS = ("train", "validation", "test")
_PUBLISHED = [
    *("eye_id", "study_id", "patient_id", "split", "grade", "embedding", "instance_digest"),
    *("camera", "age_years", "sex", "brightness", "contrast", "sharpness"),
]


@dataclass(frozen=True)
class Split:
    """One split as arrays: `embeddings` `(eyes, 1280)` of float32, `grades` and `patients` `(eyes,)`."""

    embeddings: np.ndarray
    grades: np.ndarray
    patients: np.ndarray
    rows: pd.DataFrame

    def only(self, chosen: np.ndarray) -> "Split":
        """Return the eyes where `chosen` `(eyes,)` is true."""
        rows = self.rows.loc[chosen].reset_index(drop=True)
        return Split(self.embeddings[chosen], self.grades[chosen], self.patients[chosen], rows)


def latest_knowledge(site: Site) -> datetime | None:
    """Return when the newest grade or embedding became known: the moment to snapshot at. None where nothing is."""
    return newest_part(site)


def snapshot_dataset(site: Site, splits: Splits, as_of: datetime) -> pd.DataFrame:
    """Join every graded eye with its features as of one moment and place its patient in a split.

    Equal moments give equal tables, but for what was erased or corrected since: parts of the store never change.

    Raises:
        SetupError: if no graded eye is known yet.
    """
    graded = read_keys(site, "eye_grade", as_of)
    if graded.empty:
        raise SetupError("No eye has been graded yet: run ingest_fundus with photographs and a grading sheet first.")
    rows = training_rows(site.settings, SERVICE, graded.assign(event_timestamp=pd.Timestamp(as_of)))
    gone = rows["instance_digest"].isin(list(InstanceIndex(site).withdrawn()))
    rows = rows.loc[~gone].dropna(subset=["embedding", "grade"]).sort_values(["eye_id", "study_id"], ignore_index=True)
    rows["grade"] = rows["grade"].astype("int64")
    rows["split"] = [choose_split(site.key, patient, splits) for patient in rows["patient_id"]]
    return rows.filter(items=_PUBLISHED)


def choose_split(key: SiteKey, patient: str, splits: Splits) -> str:
    """Choose a patient's split by keyed hash: both eyes and all visits share it, on every night."""
    fraction = split_fraction(key, patient)
    if fraction < splits.train:
        return "train"
    return "validation" if fraction < splits.train + splits.validation else "test"


def count_eyes(eyes: pd.DataFrame) -> dict[str, int]:
    """Count the eyes and their patients."""
    return {"eyes": len(eyes), "patients": int(eyes["patient_id"].nunique())}


def read_split(dataset: Path | str, split: str) -> Split:
    """Read one split of a snapshot.

    Raises:
        SetupError: if the split is empty.
    """
    table = pd.read_parquet(dataset, filters=[("split", "==", split)])
    if table.empty:
        raise SetupError(f"The {split} split has no eyes: ingest more patients.")
    embeddings = np.stack(list(table["embedding"])).astype(np.float32)
    rows = table.drop(columns="embedding").reset_index(drop=True)
    return Split(embeddings, table["grade"].to_numpy(np.int64), table["patient_id"].to_numpy(str), rows)
