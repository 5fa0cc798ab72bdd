"""De-identify what has landed: images become curated objects, sheets grades, and the unusable goes to quarantine."""

import os
from dataclasses import dataclass, replace

import pandas as pd

from qfundus.dicom.handling import made_by
from qfundus.errors import Discard
from qfundus.ingestion.archives import curate_archive
from qfundus.ingestion.corrections import move_grades
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.documents import Document
from qfundus.ingestion.duplicates import mark_duplicates
from qfundus.ingestion.erasure_notices import erase_named
from qfundus.ingestion.grading_sheets import curate_sheet
from qfundus.ingestion.holding import hold_image
from qfundus.ingestion.images import begin_process, curate_landed_image, refuse_large
from qfundus.ingestion.isolation import Isolation
from qfundus.ingestion.landing import LandedObject, fix_landed, is_erasure, is_sheet
from qfundus.ingestion.outcome import Outcome, count_outcomes, to_table
from qfundus.ingestion.sidecars import settle_sidecars
from qfundus.ingestion.threads import in_threads
from qfundus.object_names import manifest_name
from qfundus.site import Site
from qfundus.storage import from_parquet, to_parquet

_PROCESSES = os.cpu_count() or 1


@dataclass(frozen=True)
class CuratedRun:
    """Where a run's manifest lies, and its counts."""

    manifest: str
    counts: dict[str, int]


def curate_landed(curation: Curation) -> CuratedRun:
    """De-identify everything that has landed; a second call for a run finds the first one's manifest.

    Images come before sheets, so that a sheet finds the images that landed with it, and erasures come last.
    """
    settings, store = curation.site.settings, curation.site.store
    name = manifest_name(curation.run)
    finished = store.find(settings.curated_bucket, name)
    if finished is not None:
        return CuratedRun(name, count_outcomes(from_parquet(finished)))
    landed, taken_away = fix_landed(curation.site, curation.run)
    images = [item for item in landed if item.is_image]
    documents = [
        Document(item.source, item.name, item.landed_at) for item in landed if item.is_sheet or item.is_erasure
    ]
    needs = (settings, curation.site.key, curation.policy.policy, curation.run)
    with Isolation(_PROCESSES, begin_process, *needs) as isolation:
        outcomes = in_threads(lambda item: curate_image(curation, isolation, item), images, "images")
        for archive in landed:
            if archive.is_archive:
                curated, within = curate_archive(curation, isolation, archive)
                outcomes += curated
                documents += within
    outcomes = mark_duplicates(outcomes)
    outcomes += settle_sidecars(curation, landed, outcomes)
    for document in documents:
        if is_sheet(document.name):
            outcomes += curate_sheet(curation, document)
    # Last, so that what came and was taken back on one day is gone.
    for document in documents:
        if is_erasure(document.name):
            outcomes += erase_named(curation, document, landed)
    outcomes = withdraw_erased(outcomes)
    outcomes += [Outcome(source, "image", "withdrawn") for source in taken_away]
    planted = {item.source for item in landed if item.planted}
    table = to_table([replace(o, planted=o.source in planted or o.part_of in planted) for o in outcomes])
    store.put_if_absent(settings.curated_bucket, name, to_parquet(table, made_by(curation.policy.policy)))
    return CuratedRun(name, count_outcomes(table))


def read_manifest(site: Site, manifest: str) -> pd.DataFrame:
    """Read a run's outcomes."""
    return from_parquet(site.store.get(site.settings.curated_bucket, manifest))


def curate_image(curation: Curation, isolation: Isolation, item: LandedObject) -> list[Outcome]:
    """De-identify one image and enter it into the index, or put it into quarantine; pass over what is not an image.

    The grades of an image that it corrects follow it, each with an outcome of its own.
    """
    try:
        refuse_large(item.size)
        instance = isolation.run(curate_landed_image, item.name, corrects=item.corrects, released=item.released)
    except Discard as why:
        return [hold_image(curation, isolation, item, why)]
    if isinstance(instance, str):
        return [Outcome(item.source, "image", instance)]
    outcome = Outcome.of(item.source, instance, curated=curation.owns(instance.run))
    return [outcome, *move_grades(curation, outcome, instance)]


def withdraw_erased(outcomes: list[Outcome]) -> list[Outcome]:
    """Let what the same run took in and erased be withdrawn: nothing after it may look for its content."""
    erased = {outcome.instance for outcome in outcomes if outcome.kind == "erasure" and outcome.status == "erased"}
    gone = {outcome.digest for outcome in outcomes if outcome.kind == "image" and outcome.instance in erased} - {""}
    return [
        replace(outcome, status="withdrawn") if outcome.kind != "erasure" and outcome.digest in gone else outcome
        for outcome in outcomes
    ]
