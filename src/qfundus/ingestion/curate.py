"""De-identify what has landed: each image becomes a curated object, each sheet its grades, or goes to quarantine."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from typing import cast

import pandas as pd

from qfundus.dicom.photograph import make_object, sidecar_of
from qfundus.errors import Discard, ReasonCode
from qfundus.ingestion.archives import curate_archive
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.images import LARGEST, begin_process, curate_landed_image, instance_of, refuse_large
from qfundus.ingestion.instances import Instance
from qfundus.ingestion.landing import LandedObject, fix_landed, is_erasure, is_sheet
from qfundus.ingestion.manifest import made_by
from qfundus.ingestion.names import manifest_name
from qfundus.ingestion.outcome import Outcome, count_outcomes, to_table
from qfundus.ingestion.papers import Paper, curate_sheet, erase_named
from qfundus.ingestion.threads import in_threads
from qfundus.isolation import Isolation
from qfundus.security.keys import date_shift
from qfundus.settings import Settings
from qfundus.storage import ObjectStore, digest, from_parquet, to_parquet

_PROCESSES = os.cpu_count() or 1
_HEAD = 1 << 20  # bytes of a large object that say which instance it is


@dataclass(frozen=True)
class CuratedRun:
    """Where a run's manifest lies, and its counts."""

    manifest: str
    counts: dict[str, int]


def curate_landed(curation: Curation) -> CuratedRun:
    """De-identify everything that has landed; a second call for a run finds the first one's manifest.

    Images come before sheets, so that a sheet finds the images that landed with it, and erasures come last.
    """
    settings, store = curation.settings, curation.store
    name = manifest_name(curation.run)
    finished = store.find(settings.curated_bucket, name)
    if finished is not None:
        return CuratedRun(name, count_outcomes(from_parquet(finished)))
    landed, taken_away = fix_landed(store, settings, curation.key, curation.run)
    images = [item for item in landed if item.is_image]
    papers = [Paper(item.source, item.name, item.landed_at) for item in landed if item.is_sheet or item.is_erasure]
    needs = (settings, curation.policy.policy, curation.key, curation.run)
    with Isolation(_PROCESSES, begin_process, *needs) as isolation:
        outcomes = in_threads(lambda item: curate_image(curation, isolation, item), images, "images")
        for archive in landed:
            if archive.is_archive:
                found, within = curate_archive(curation, isolation, archive)
                outcomes += found
                papers += within
    outcomes = mark_duplicates(outcomes)
    outcomes += settle_sidecars(curation, landed, outcomes)
    for paper in papers:
        if is_sheet(paper.name):
            outcomes += curate_sheet(curation, paper)
    # Last, so that what came and was taken back on one day is gone.
    for paper in papers:
        if is_erasure(paper.name):
            outcomes += erase_named(curation, paper, landed)
    outcomes = withdraw_erased(outcomes)
    outcomes += [Outcome(source, "image", "withdrawn") for source in taken_away]
    planted = {item.source for item in landed if item.planted}
    table = to_table([replace(o, planted=o.source in planted or o.part_of in planted) for o in outcomes])
    store.put_if_absent(settings.curated_bucket, name, to_parquet(table, made_by(curation.policy.policy)))
    return CuratedRun(name, count_outcomes(table))


def read_manifest(store: ObjectStore, settings: Settings, manifest: str) -> pd.DataFrame:
    """Read a run's outcomes."""
    return from_parquet(store.get(settings.curated_bucket, manifest))


def curate_image(curation: Curation, isolation: Isolation, item: LandedObject) -> list[Outcome]:
    """De-identify one image and enter it into the index, or put it into quarantine; what is no image is passed over.

    The grades of an image that it corrects follow it, each with an outcome of its own.
    """
    try:
        refuse_large(item.size)
        instance = isolation.run(curate_landed_image, item.name, corrects=item.corrects, released=item.released)
    except Discard as why:
        return [_hold_landed(curation, isolation, item, why)]
    if isinstance(instance, str):
        return [Outcome(item.source, "image", instance)]
    outcome = Outcome.of(item.source, instance, curated=curation.owns(instance.run))
    return [outcome, *_grades_that_follow(curation, outcome, instance)]


def _hold_landed(curation: Curation, isolation: Isolation, item: LandedObject, why: Discard) -> Outcome:
    bucket, name, store = curation.settings.landing_bucket, item.name, curation.store
    if item.size > LARGEST:
        return _hold_large(curation, isolation, item, why)
    data = store.find(bucket, name)
    if data is None:
        return Outcome(item.source, "image", "withdrawn")
    before = digest(data)
    sidecar = store.find(bucket, sidecar_of(name)) if item.is_photograph else None
    instance = isolation.run(instance_of, name, data, sidecar)
    if item.is_photograph:
        with suppress(Discard):  # what is held says, where it can, what the sidecar said
            data = isolation.run(make_object, data, sidecar)
            name = f"{name}.dcm"
    curation.hold(item.source, name, data, why, instance)
    return Outcome(item.source, "image", "quarantined", why.reason, instance=instance, digest_before=before)


def _hold_large(curation: Curation, isolation: Isolation, item: LandedObject, why: Discard) -> Outcome:
    try:
        head = next(curation.store.stream(curation.settings.landing_bucket, item.name, _HEAD))
    except LookupError:
        return Outcome(item.source, "image", "withdrawn")
    instance = isolation.run(instance_of, item.name, head, None)
    before = curation.hold_landed(item, why, instance)
    return Outcome(item.source, "image", "quarantined", why.reason, instance=instance, digest_before=before)


def _grades_that_follow(curation: Curation, outcome: Outcome, instance: Instance) -> list[Outcome]:
    """Give a corrected image the grades that its old content had: their dates move with the patient it has now."""
    if outcome.status != "curated" or not instance.corrects:
        return []
    moved = date_shift(curation.key, instance.corrects_patient) - date_shift(curation.key, instance.patient)
    followed: list[Outcome] = []
    for number, old in enumerate(curation.index.grades(instance.uid, instance.corrects), 1):
        graded_on = (date.fromisoformat(old.graded_on) + timedelta(days=moved)).isoformat()
        given = replace(old, graded_on=graded_on)
        first = curation.index.add_grade(instance.uid, instance.digest, given, curation.run)
        graded = replace(
            outcome,
            source=f"{outcome.source}-{number}",
            kind="grade",
            status="graded" if curation.owns(first) else "duplicate",
            part_of=outcome.source,
            **asdict(given),
        )
        followed.append(graded)
    return followed


def mark_duplicates(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Of several copies of one image that landed together, let the first be curated and the others duplicates."""
    seen: set[str] = set()
    marked: list[Outcome] = []
    for outcome in outcomes:
        again = outcome.status == "curated" and outcome.digest in seen
        seen.update([outcome.digest] if outcome.kind == "image" else [])
        marked.append(replace(outcome, status="duplicate") if again else outcome)
    return marked


def withdraw_erased(outcomes: list[Outcome]) -> list[Outcome]:
    """Let what the same run took in and erased be withdrawn: nothing after it may look for its content."""
    erased = {outcome.instance for outcome in outcomes if outcome.kind == "erasure" and outcome.status == "erased"}
    gone = {outcome.digest for outcome in outcomes if outcome.kind == "image" and outcome.instance in erased} - {""}
    return [
        replace(outcome, status="withdrawn") if outcome.kind != "erasure" and outcome.digest in gone else outcome
        for outcome in outcomes
    ]


def settle_sidecars(curation: Curation, landed: list[LandedObject], outcomes: list[Outcome]) -> list[Outcome]:
    """Give each sidecar its outcome: read with its photograph, or held beside it, or held for want of one."""
    photographs = {sidecar_of(item.name): item.source for item in landed if item.is_photograph}
    reasons = {outcome.source: outcome.reason for outcome in outcomes}
    settled: list[Outcome] = []
    for sidecar in landed:
        if not sidecar.is_sidecar:
            continue
        reason = reasons.get(photographs.get(sidecar.name, ""), "sidecar_without_photograph")
        data = curation.store.find(curation.settings.landing_bucket, sidecar.name)
        if data is None:
            settled.append(Outcome(sidecar.source, "sidecar", "withdrawn"))
        elif reason:
            why = Discard(cast("ReasonCode", reason), "It goes with a photograph that is not here, or held.")
            curation.hold(sidecar.source, sidecar.name, data, why)
            settled.append(Outcome(sidecar.source, "sidecar", "quarantined", reason))
        else:
            settled.append(Outcome(sidecar.source, "sidecar", "read"))
    return settled
