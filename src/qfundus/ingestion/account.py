"""Close a run: every landed object must have exactly one outcome, or the run fails."""

from collections import Counter

import structlog

from qfundus.errors import AccountError
from qfundus.ingestion.curate import read_manifest
from qfundus.ingestion.landing import clear_landed
from qfundus.ingestion.outcome import count_outcomes
from qfundus.object_names import account_name, landed_name
from qfundus.site import Site
from qfundus.storage import digest, to_json

_log = structlog.get_logger()


def close_run(site: Site, run: str, manifest: str) -> dict[str, int]:
    """Check a run's outcomes against what had landed, write its account, then clear the landing bucket.

    Raises:
        AccountError: if an object has no outcome, two, or one that never landed; nothing is cleared then.
    """
    outcomes = read_manifest(site, manifest)
    objects = outcomes.loc[outcomes["part_of"] == "", "source"]
    landed: list[str] = site.store.find_json(site.settings.curated_bucket, landed_name(run))
    check_account(landed, list(objects))
    planted = int((outcomes["planted"] & (outcomes["part_of"] == "")).sum())
    counts = {"landed": len(landed) - planted, **count_outcomes(outcomes)}
    if site.store.find(site.settings.curated_bucket, account_name(run)) is None:
        manifest_digest = digest(site.store.get(site.settings.curated_bucket, manifest))
        # Before the account: a crash between the two leaves a second record, and never none.
        site.trail.append("110107", "C", run, "A run of ingestion.", manifest_sha256=manifest_digest, **counts)
        site.store.put_if_absent(site.settings.curated_bucket, account_name(run), to_json(counts))
    cleared = clear_landed(site, set(landed))
    _log.info("Run closed", cleared=cleared, **counts)
    return counts


def check_account(landed: list[str], outcomes: list[str]) -> None:
    """Compare the sources that landed with those that have an outcome.

    Raises:
        AccountError: naming how many were lost, unexpected or counted twice.
    """
    expected, reported = Counter(landed), Counter(outcomes)
    lost, extra = expected - reported, reported - expected
    if lost or extra:
        raise AccountError(
            f"{len(landed)} objects landed, {len(outcomes)} have an outcome: {lost.total()} lost, "
            f"{extra.total()} unexpected or counted twice. Nothing was cleared from the landing bucket; "
            "clear this run's tasks in Airflow to process it again."
        )


def describe_counts(counts: dict[str, int]) -> str:
    """Say a run's counts in one sentence, as a run note shows them."""
    reasons = [f"{n} {name.removeprefix('quarantined: ')}" for name, n in counts.items() if ": " in name]
    parts = [f"{n} {name}" for name, n in counts.items() if ": " not in name and name != "landed"]
    because = f" ({', '.join(reasons)})" if reasons else ""
    return f"{counts.get('landed', 0)} landed{': ' * bool(parts)}{', '.join(parts)}{because}."
