"""De-identify what has landed: each image becomes a curated object, each sheet its grades, or goes to quarantine."""

import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast
from zipfile import BadZipFile, ZipFile

import pandas as pd
import structlog

from qfundus.dicom.photograph import is_photograph, make_object, sidecar_of
from qfundus.errors import Discard, ReasonCode
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.erasures import read_erasures
from qfundus.ingestion.grades import read_sheet, resolve_row, write_sheet
from qfundus.ingestion.images import begin_process, curate_landed_image, curate_member
from qfundus.ingestion.inputs import find_member, is_no_image, read_member
from qfundus.ingestion.instances import Instance, KnownGrade
from qfundus.ingestion.landing import ARCHIVE, ERASURE, LandedObject, fix_landed, is_erasure, is_sheet
from qfundus.ingestion.names import manifest_name
from qfundus.ingestion.outcome import Outcome, count_outcomes, to_table
from qfundus.isolation import Isolation
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import date_shift, pseudonymise_uid
from qfundus.settings import Settings
from qfundus.storage import ObjectStore, from_parquet, to_parquet

_log = structlog.get_logger()
_THREADS = 6  # enough that the processes never wait for work
_PROCESSES = os.cpu_count() or 1
_REPORT_EVERY = 200
_Item = TypeVar("_Item")


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
    papers = [_Paper(item.source, item.name, item.landed_at) for item in landed if item.is_sheet or item.is_erasure]
    needs = (settings, curation.policy.policy, curation.key, curation.run)
    with Isolation(_PROCESSES, begin_process, *needs) as isolation:
        outcomes = _in_threads(lambda item: curate_image(curation, isolation, item), images, "images")
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
    store.put_if_absent(settings.curated_bucket, name, to_parquet(table))
    return CuratedRun(name, count_outcomes(table))


def read_manifest(store: ObjectStore, settings: Settings, manifest: str) -> pd.DataFrame:
    """Read a run's outcomes."""
    return from_parquet(store.get(settings.curated_bucket, manifest))


def curate_image(curation: Curation, isolation: Isolation, item: LandedObject) -> list[Outcome]:
    """De-identify one image and enter it into the index, or put it into quarantine; what is no image is passed over.

    The grades of an image that it corrects follow it, each with an outcome of its own.
    """
    try:
        instance = isolation.run(curate_landed_image, item.name, corrects=item.corrects, released=item.released)
    except Discard as why:
        return [_hold_landed(curation, isolation, item, why)]
    if isinstance(instance, str):
        return [Outcome(item.source, "image", instance)]
    outcome = _outcome_of(curation, item.source, instance)
    return [outcome, *_grades_that_follow(curation, outcome)]


def _hold_landed(curation: Curation, isolation: Isolation, item: LandedObject, why: Discard) -> Outcome:
    bucket, name = curation.settings.landing_bucket, item.name
    data = curation.store.find(bucket, name)
    if data is None:
        return Outcome(item.source, "image", "withdrawn")
    if item.is_photograph:
        with suppress(Discard):  # what is held says, where it can, what the sidecar said
            data = isolation.run(make_object, data, curation.store.find(bucket, sidecar_of(name)))
            name = f"{name}.dcm"
    _quarantine(curation, item.source, name, data, why)
    return Outcome(item.source, "image", "quarantined", why.reason)


@dataclass(frozen=True)
class _Paper:
    """A sheet or a notice: landed by itself, or `part_of` a zip file that held its `data`."""

    source: str
    name: str = field(repr=False)
    landed_at: datetime
    part_of: str = ""
    data: bytes | None = field(default=None, repr=False)

    def read(self, curation: Curation) -> bytes | None:
        """Return the content, None where somebody took it away."""
        return self.data if self.part_of else curation.store.find(curation.settings.landing_bucket, self.name)


def curate_archive(curation: Curation, isolation: Isolation, item: LandedObject) -> tuple[list[Outcome], list[_Paper]]:
    """De-identify the images in a zip file: one outcome for the archive and one for each member.

    The sheets and notices in it are returned as they are: they come after all images.
    """
    data = curation.store.find(curation.settings.landing_bucket, item.name)
    if data is None:
        return [Outcome(item.source, "archive", "withdrawn")], []
    try:
        archive = ZipFile(io.BytesIO(data))
    except (BadZipFile, OSError, ValueError):
        why = Discard("unreadable_file", "It is no zip file.")
        _quarantine(curation, item.source, item.name, data, why)
        return [Outcome(item.source, "archive", "quarantined", why.reason)], []
    members = [number for number, member in enumerate(archive.infolist()) if not member.is_dir()]
    read = [_curate_member(curation, isolation, item, archive, number) for number in members]
    outcomes = [found for found in read if isinstance(found, Outcome)]
    return [Outcome(item.source, "archive", "read"), *outcomes], [f for f in read if isinstance(f, _Paper)]


def _curate_member(
    curation: Curation, isolation: Isolation, item: LandedObject, archive: ZipFile, number: int
) -> Outcome | _Paper:
    source, name = f"{item.source}-{number + 1}", archive.infolist()[number].filename
    try:
        data = read_member(archive, number)
    except Discard as why:
        _quarantine(curation, source, f"{item.name}/{number}", b"", why)
        return Outcome(source, "image", "quarantined", why.reason, part_of=item.source)
    if is_sheet(name) or is_erasure(name):
        ending = ERASURE if is_erasure(name) else ".csv"
        return _Paper(source, f"{item.name}.member{number + 1}{ending}", item.landed_at, item.source, data)
    if is_no_image(name, data):
        return Outcome(source, "image", "ignored", part_of=item.source)
    # Of the member's own name nothing is kept but its ending: it may climb out of any folder.
    safe = f"{item.name}.member{number + 1}{Path(name).suffix[:8]}"
    sidecar = find_member(archive, sidecar_of(name)) if is_photograph(name) else None
    try:
        instance = isolation.run(curate_member, safe, data, sidecar)
    except Discard as why:
        _quarantine(curation, source, safe, data, why)
        if sidecar is not None:
            _quarantine(curation, f"{source}-sidecar", sidecar_of(safe), sidecar, why)
        return Outcome(source, "image", "quarantined", why.reason, part_of=item.source)
    return replace(_outcome_of(curation, source, instance), part_of=item.source)


def _outcome_of(curation: Curation, source: str, instance: Instance) -> Outcome:
    return Outcome(
        source=source,
        kind="image",
        status="curated" if curation.owns(instance.run) else "duplicate",
        digest=instance.digest,
        eye=instance.eye,
        study=instance.study,
        patient=instance.patient,
        instance=instance.uid,
        digest_before=instance.digest_before,
        redacted=instance.redacted,
        handling=instance.handling,
    )


def _grades_that_follow(curation: Curation, outcome: Outcome) -> list[Outcome]:
    """Give a corrected image the grades that its old content had: their dates move with the patient it has now."""
    instance = curation.index.find(outcome.instance) if outcome.status == "curated" else None
    if instance is None or not instance.corrects:
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


def curate_sheet(curation: Curation, sheet: _Paper) -> list[Outcome]:
    """Read a grading sheet: one outcome for the sheet and one for each of its rows."""
    data = sheet.read(curation)
    if data is None:
        return [Outcome(sheet.source, "sheet", "withdrawn")]
    try:
        rows = read_sheet(data)
    except Discard as why:
        _quarantine(curation, sheet.source, sheet.name, data, why)
        return [Outcome(sheet.source, "sheet", "quarantined", why.reason, part_of=sheet.part_of)]
    graded = _in_threads(lambda row: _curate_row(curation, sheet, *row), list(enumerate(rows, 1)), "grades")
    return [Outcome(sheet.source, "sheet", "read", part_of=sheet.part_of), *graded]


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
            _quarantine(curation, sidecar.source, sidecar.name, data, why)
            settled.append(Outcome(sidecar.source, "sidecar", "quarantined", reason))
        else:
            settled.append(Outcome(sidecar.source, "sidecar", "read"))
    return settled


def erase_named(curation: Curation, notice: _Paper, landed: list[LandedObject]) -> list[Outcome]:
    """Erase the images that a notice names: one outcome for the notice and one for each of its rows.

    What the archive sent again after its notice stays: it was deleted there, and is there again.
    """
    data = notice.read(curation)
    if data is None:
        return [Outcome(notice.source, "notice", "withdrawn")]
    try:
        uids = read_erasures(data, curation.key)
    except Discard as why:
        _quarantine(curation, notice.source, notice.name, data, why)
        return [Outcome(notice.source, "notice", "quarantined", why.reason, part_of=notice.part_of)]
    back = {item.name for item in landed if item.corrects and item.landed_at > notice.landed_at}
    erased = [
        _erase(curation, uid, f"{notice.source}-{number}", notice.source, back) for number, uid in enumerate(uids, 1)
    ]
    return [Outcome(notice.source, "notice", "read", part_of=notice.part_of), *erased]


def _erase(curation: Curation, uid: str, source: str, notice: str, back: set[str]) -> Outcome:
    known = curation.index.find(uid)
    if f"{ARCHIVE}{uid}.dcm" in back or not curation.index.erase(uid, curation.run):
        return Outcome(source, "erasure", "ignored", part_of=notice, instance=uid)
    trail = AuditTrail(curation.store, curation.settings.audit_bucket, curation.key)
    trail.append("110103", "D", uid, "A notice of erasure named it.", run=curation.run, notice=notice)
    erased = Outcome(source, "erasure", "erased", part_of=notice, instance=uid)
    # Where a run is done again after a crash, the index has forgotten it: its features are known by their digest only.
    return replace(erased, digest=known.digest, eye=known.eye, study=known.study) if known else erased


def _curate_row(curation: Curation, sheet: _Paper, number: int, row: dict[str, str]) -> list[Outcome]:
    source = f"{sheet.source}-{number}"
    try:
        graded = resolve_row(row, source, sheet.source, curation.index, curation.key)
    except Discard as why:
        _quarantine(curation, source, f"{sheet.name}.row{number}.csv", write_sheet([row]), why)
        return [Outcome(source, "grade", "quarantined", why.reason, part_of=sheet.source)]
    uid = pseudonymise_uid(curation.key, row["SOPInstanceUID"])
    given = KnownGrade(graded.grade, graded.grader, graded.graded_on)
    first = curation.index.add_grade(uid, graded.digest, given, curation.run)
    return [graded if curation.owns(first) else replace(graded, status="duplicate")]


def _quarantine(curation: Curation, source: str, name: str, data: bytes, why: Discard) -> None:
    curation.quarantine.put(source, name, data, why, curation.run)
    _log.warning("Quarantined", source=source, reason=why.reason, detail=why.detail, remedy=why.remedy)


def _in_threads(work: Callable[[_Item], list[Outcome]], items: list[_Item], what: str) -> list[Outcome]:
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for done, found in enumerate(pool.map(work, items), 1):
            outcomes += found
            if done % _REPORT_EVERY == 0 or done == len(items):
                _log.info("De-identified", what=what, done=done, of=len(items))
    return outcomes
