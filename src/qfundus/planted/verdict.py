"""Search for the planted patients, write the page that says what was found, and let them go."""

from datetime import UTC, datetime
from itertools import chain

import structlog
from jinja2 import Environment, PackageLoader, select_autoescape

from qfundus.errors import LeakError
from qfundus.hospital.answers import Score
from qfundus.ingestion.curate import read_manifest
from qfundus.ingestion.instances import InstanceIndex
from qfundus.ingestion.names import PLANTED_NEWEST, manifest_name, planted_name
from qfundus.ingestion.quarantine import Quarantine
from qfundus.planted.patients import WHERE, recent_plantings, words_of
from qfundus.planted.score import judge_photographs
from qfundus.planted.search import Place, Search
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey
from qfundus.settings import Settings
from qfundus.storage import ObjectStore

_log = structlog.get_logger()


def search_planted(store: ObjectStore, settings: Settings, key: SiteKey, dag: str, run: str) -> dict[str, int]:
    """Look everywhere for the names planted in the last two days; return how much of what was looked at, and judged.

    The page goes to the curated bucket and a record of it into the audit trail.

    Raises:
        LeakError: where a planted name was found, naming the places.
    """
    plantings = recent_plantings(store, settings)
    if not plantings:
        return {"places": 0, "looked": 0}
    since = min(planting.at for planting in plantings)
    runs = [planting.run for planting in plantings]
    outcomes = _planted_outcomes(store, settings, runs)
    curated = {
        run: [o for o in found if o["status"] == "curated" and o["kind"] == "image"] for run, found in outcomes.items()
    }
    score, verified = judge_photographs(store, settings, key, curated)
    search = Search(store, settings, words_of(key, plantings), since)
    places = [*search.everywhere([row["digest"] for found in curated.values() for row in found]), verified]
    looked, found = sum(place.looked for place in places), sum(len(place.found) for place in places)
    said = {"places": len(places), "looked": looked, "actions": score.actions.total(), "missed": len(score.misses)}
    page = _write_page(places, score, dag=dag, run=run, runs=runs, since=since, looked=looked, found=found)
    # A retraining looks when the planted photographs are gone already: its page is to be read only if it found a name.
    for name in [planted_name(run), *([PLANTED_NEWEST] if found or verified.looked else [])]:
        store.put(settings.curated_bucket, name, page.encode())
    AuditTrail(store, settings.audit_bucket, key).append(
        "110100", "E", run, "The search for planted names.", **said, found=found
    )
    for place in places:
        _log.info("Searched", place=place.name, looked=place.looked, found=len(place.found))
    for content, category, missed in score.misses:
        _log.warning("Missed", object=content, action=category, attribute=missed)
    if found:
        where = "; ".join(f"{place.name} ({', '.join(place.found[:5])})" for place in places if place.found)
        raise LeakError(
            f"A planted name was found in {found} places: {where}. See {planted_name(run)} in the bucket "
            f"{settings.curated_bucket} (`qfundus planted`). Nothing of this run may be used until the leak is closed."
        )
    return said


def forget_planted(store: ObjectStore, settings: Settings, key: SiteKey) -> None:
    """Erase the planted patients of the last two days from curated and quarantine, so that no training sees them."""
    index, quarantine = InstanceIndex(store, settings), Quarantine(store, settings, key)
    runs = [planting.run for planting in recent_plantings(store, settings)]
    for row in chain.from_iterable(_planted_outcomes(store, settings, runs).values()):
        if row["kind"] == "image" and row["status"] == "curated":
            index.erase(row["instance"], "planted")
        elif row["status"] == "quarantined":
            quarantine.forget(row["source"])


def newest_page(store: ObjectStore, settings: Settings) -> bytes | None:
    """Return the page of the newest search that looked at planted photographs or found a name, or None."""
    return store.find(settings.curated_bucket, PLANTED_NEWEST)


def _planted_outcomes(store: ObjectStore, settings: Settings, runs: list[str]) -> dict[str, list[dict[str, str]]]:
    written = [run for run in runs if store.find(settings.curated_bucket, manifest_name(run)) is not None]
    manifests = {run: read_manifest(store, settings, manifest_name(run)) for run in written}
    return {run: found.loc[found["planted"].astype(bool)].to_dict("records") for run, found in manifests.items()}


def _write_page(places: list[Place], score: Score, **said: object) -> str:
    environment = Environment(loader=PackageLoader("qfundus.planted"), autoescape=select_autoescape())
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    return environment.get_template("planted.html").render(
        places=places, score=score, planted=WHERE, moment=moment, **said
    )
