"""Mark the copies of images that landed together."""

from collections.abc import Iterable
from dataclasses import replace

from qfundus.ingestion.outcome import Outcome


def mark_duplicates(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Of several copies of one image that landed together, let the first be curated and the others duplicates."""
    seen: set[str] = set()
    marked: list[Outcome] = []
    for outcome in outcomes:
        again = outcome.status == "curated" and outcome.digest in seen
        seen.update([outcome.digest] if outcome.kind == "image" else [])
        marked.append(replace(outcome, status="duplicate") if again else outcome)
    return marked
