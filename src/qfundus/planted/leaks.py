"""Search for the planted patients, write the page that says what was found, and let them go."""

from datetime import UTC, datetime
from itertools import chain

import structlog
from jinja2 import Environment, PackageLoader, select_autoescape

from qfundus.errors import LeakError
from qfundus.hospital.answers import Score
from qfundus.ingestion.curate import read_manifest
from qfundus.ingestion.instances import InstanceIndex
from qfundus.ingestion.quarantine import Quarantine
from qfundus.object_names import PLANTED_NEWEST, manifest_name, planted_name
from qfundus.planted.patients import WHERE, recent_plantings, words_of
from qfundus.planted.score import judge_photographs
from qfundus.planted.search import Search, SearchedPlace
from qfundus.site import Site

_log = structlog.get_logger()


def search_planted(site: Site, dag: str, run: str) -> dict[str, int]:
    """Look everywhere for the names planted in the last two days; return how much of what was looked at, and judged.

    The page goes to the curated bucket and a record of it into the audit trail.

    Raises:
        LeakError: if a planted name was found, naming the places.
    """
    plantings = recent_plantings(site)
    if not plantings:
        return {"places": 0, "looked": 0}
    since = min(planting.at for planting in plantings)
    runs = [planting.run for planting in plantings]
    outcomes = _planted_outcomes(site, runs)
    curated = {
        run: [o for o in found if o["status"] == "curated" and o["kind"] == "image"] for run, found in outcomes.items()
    }
    score, verified = judge_photographs(site, curated)
    search = Search(site, words_of(site.key, plantings), since)
    places = [*search.everywhere([row["digest"] for found in curated.values() for row in found]), verified]
    looked, found = sum(place.looked for place in places), sum(len(place.found) for place in places)
    figures = {"places": len(places), "looked": looked, "actions": score.actions.total(), "missed": len(score.misses)}
    page = _write_page(places, score, dag=dag, run=run, runs=runs, since=since, looked=looked, found=found)
    # A retraining looks when the planted photographs are gone already: its page is to be read only if it found a name.
    for name in [planted_name(run), *([PLANTED_NEWEST] if found or verified.looked else [])]:
        site.store.put(site.settings.curated_bucket, name, page.encode())
    site.trail.append("110100", "E", run, "The search for planted names.", **figures, found=found)
    for place in places:
        _log.info("Searched", place=place.name, looked=place.looked, found=len(place.found))
    for content, category, missed in score.misses:
        _log.warning("Missed", object=content, action=category, attribute=missed)
    if found:
        where = "; ".join(f"{place.name} ({', '.join(place.found[:5])})" for place in places if place.found)
        raise LeakError(
            f"A planted name was found in {found} places: {where}. See {planted_name(run)} in the bucket "
            f"{site.settings.curated_bucket} (`qfundus planted`). Do not use this run's data until the leak is closed."
        )
    return figures


def forget_planted(site: Site) -> None:
    """Erase the planted patients of the last two days from curated and quarantine, so that no training sees them."""
    index, quarantine = InstanceIndex(site), Quarantine(site)
    runs = [planting.run for planting in recent_plantings(site)]
    for row in chain.from_iterable(_planted_outcomes(site, runs).values()):
        if row["kind"] == "image" and row["status"] == "curated":
            index.erase(row["instance"], "planted")
        elif row["status"] == "quarantined":
            quarantine.forget(row["source"])


def newest_page(site: Site) -> bytes | None:
    """Return the page of the newest search that looked at planted photographs or found a name, or None."""
    return site.store.find(site.settings.curated_bucket, PLANTED_NEWEST)


def _planted_outcomes(site: Site, runs: list[str]) -> dict[str, list[dict[str, str]]]:
    written = [run for run in runs if site.store.find(site.settings.curated_bucket, manifest_name(run)) is not None]
    manifests = {run: read_manifest(site, manifest_name(run)) for run in written}
    return {run: found.loc[found["planted"].astype(bool)].to_dict("records") for run, found in manifests.items()}


def _write_page(places: list[SearchedPlace], score: Score, **figures: object) -> str:
    environment = Environment(loader=PackageLoader("qfundus.planted"), autoescape=select_autoescape())
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    return environment.get_template("planted.html").render(
        places=places, score=score, planted=WHERE, moment=moment, **figures
    )
