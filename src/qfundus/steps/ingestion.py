"""The steps of ingestion, from plain values to plain values: what a DAG task calls, and nothing else."""

from dataclasses import asdict
from datetime import UTC, datetime

from qfundus.errors import SetupError
from qfundus.security.keys import SiteKey
from qfundus.settings import load_settings
from qfundus.storage import ObjectStore


def fetch_archive() -> dict[str, int]:
    """Land what the hospital's archive has new; return the counts, none where no archive is set.

    Raises:
        Retry: where it does not answer, or some photographs could not be fetched.
        SetupError: where it no longer lists much of what it had.
    """
    settings = load_settings()
    if settings.dicomweb_url is None:
        return {}
    from qfundus.pacs.fetch import fetch_archive

    key = SiteKey.from_hex(settings.site_key.get_secret_value())
    return asdict(fetch_archive(ObjectStore(settings), settings, key, datetime.now(UTC).date()))


def plant_patients(run: str) -> bool:
    """Land the run's invented patients, whose names are searched for at its end; none where nothing has landed."""
    from qfundus.planted.patients import plant_patients

    settings = load_settings()
    key = SiteKey.from_hex(settings.site_key.get_secret_value())
    return plant_patients(ObjectStore(settings), settings, key, run)


def deidentify_landed(run: str, at_least: int = 0) -> dict[str, object]:
    """De-identify what has landed; return where the manifest lies, and the counts.

    Raises:
        SetupError: where fewer than `at_least` objects have landed.
    """
    from qfundus.dicom.deidentify import CompiledPolicy
    from qfundus.dicom.policy import load_policy
    from qfundus.ingestion.curate import curate_landed
    from qfundus.ingestion.curation import Curation
    from qfundus.ingestion.outcome import count_objects
    from qfundus.layout import policy_file

    settings = load_settings()
    key = SiteKey.from_hex(settings.site_key.get_secret_value())
    policy = CompiledPolicy(load_policy(policy_file()))
    curated = curate_landed(Curation(ObjectStore(settings), settings, key, policy, run))
    landed = count_objects(curated.counts)
    if landed < at_least:
        raise SetupError(f"{landed} objects have landed, at least {at_least} were expected: check the hospital's feed.")
    return {"manifest": curated.manifest, "counts": curated.counts}


def extract_features(run: str, manifest: str, known_at: str) -> dict[str, int]:
    """Write the features of a run's eyes and grades as parts of the feature store; return each view's count."""
    from qfundus.features.extract import extract_features

    settings = load_settings()
    return extract_features(ObjectStore(settings), settings, run, manifest, _to_second(known_at))


def push_features(rows: dict[str, int]) -> int:
    """Register the feature definitions and bring the online store up to date; return how many chunks were loaded.

    A run without new rows has nothing to push.
    """
    if not any(rows.values()):
        return 0
    from qfundus.features.store import apply_definitions, materialise_new

    settings = load_settings()
    apply_definitions(settings)
    return len(materialise_new(ObjectStore(settings), settings, datetime.now(UTC)))


def close_run(run: str, manifest: str) -> dict[str, int]:
    """Account for every landed object and clear the landing bucket; return the counts.

    Raises:
        AccountError: where an object was lost or counted twice.
    """
    from qfundus.ingestion.account import close_run

    settings = load_settings()
    key = SiteKey.from_hex(settings.site_key.get_secret_value())
    return close_run(ObjectStore(settings), settings, key, run, manifest)


def search_planted(dag: str, run: str) -> dict[str, int]:
    """Look everywhere for the planted names, then let the planted patients go; return how much was looked at.

    Raises:
        LeakError: where a name was found.
    """
    from qfundus.planted.verdict import forget_planted, search_planted

    settings = load_settings()
    key, store = SiteKey.from_hex(settings.site_key.get_secret_value()), ObjectStore(settings)
    try:
        return search_planted(store, settings, key, dag, run)
    finally:
        forget_planted(store, settings, key)


def decide_quarantined(source: str, decision: str, why: str, who: str) -> None:
    """Release or drop an item of the quarantine; the audit trail names who decided.

    Raises:
        SetupError: where nothing of that pseudonym is in quarantine, or the decision is neither.
    """
    from qfundus.ingestion.quarantine import Quarantine

    settings = load_settings()
    held = Quarantine(ObjectStore(settings), settings, SiteKey.from_hex(settings.site_key.get_secret_value()))
    decisions = {"release": held.release, "drop": held.drop}
    if decision not in decisions:
        raise SetupError("The decision must be release or drop.")
    try:
        decisions[decision](source, why, who)
    except LookupError:
        raise SetupError("Nothing of that pseudonym is in quarantine: see `qfundus quarantine list`.") from None


def _to_second(moment: str) -> datetime:
    return datetime.fromisoformat(moment).astimezone(UTC).replace(microsecond=0)
