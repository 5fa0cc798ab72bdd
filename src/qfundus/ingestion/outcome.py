"""What became of each landed object: exactly one outcome each."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd

from qfundus.ingestion.instances import Instance

Status = Literal["curated", "duplicate", "quarantined", "read", "graded", "ignored", "erased", "withdrawn"]


@dataclass(frozen=True)
class Outcome:
    """One line of a run's manifest. `part_of` names the sheet of a row, or what else it belongs to."""

    source: str
    kind: Literal["image", "sheet", "grade", "archive", "notice", "erasure", "sidecar"]
    status: Status
    reason: str = ""
    digest: str = ""
    eye: str = ""
    study: str = ""
    patient: str = ""
    grade: int = -1
    grader: str = ""
    graded_on: str = ""
    part_of: str = ""
    instance: str = ""
    planted: bool = False
    digest_before: str = ""
    redacted: int = 0
    handling: str = ""

    @classmethod
    def of(cls, source: str, instance: Instance, *, curated: bool) -> "Outcome":
        """Say that an image became an instance, or is one that was known."""
        return cls(
            source=source,
            kind="image",
            status="curated" if curated else "duplicate",
            digest=instance.digest,
            eye=instance.eye,
            study=instance.study,
            patient=instance.patient,
            instance=instance.uid,
            digest_before=instance.digest_before,
            redacted=instance.redacted,
            handling=instance.handling,
        )


def to_table(outcomes: list[Outcome]) -> pd.DataFrame:
    """Write outcomes as a table with a column for each field."""
    return pd.DataFrame([asdict(o) for o in outcomes]).reindex(list(Outcome.__dataclass_fields__), axis="columns")


def count_outcomes(outcomes: pd.DataFrame) -> dict[str, int]:
    """Count the outcomes by kind and status, the quarantined also by reason, and what was planted by itself."""
    planted = outcomes["planted"].astype(bool)
    real, invented = outcomes.loc[~planted], outcomes.loc[planted]
    counts = Counter(f"{kind}s {status}" for kind, status in zip(real["kind"], real["status"], strict=True))
    counts.update(f"planted {status}" for status in invented["status"])
    reasons = real.loc[real["status"] == "quarantined", "reason"]
    counts.update(f"quarantined: {reason}" for reason in reasons)
    return dict(sorted(counts.items()))


def count_objects(counts: dict[str, int]) -> int:
    """Return how many landed objects, not grade rows, a run's counts speak of."""
    return sum(count for name, count in counts.items() if name.startswith(("images ", "sheets ")))


def has_news(counts: dict[str, int]) -> bool:
    """Return whether a run brought an eye or a grade that was not known before."""
    return bool(counts.get("images curated") or counts.get("grades graded"))
