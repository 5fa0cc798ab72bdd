"""Read what comes on paper, as it were: grading sheets, and notices of erasure."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from qfundus.errors import Discard
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.erasures import read_erasures
from qfundus.ingestion.grades import read_sheet, resolve_row, write_sheet
from qfundus.ingestion.instances import KnownGrade
from qfundus.ingestion.landing import ARCHIVE, LandedObject
from qfundus.ingestion.outcome import Outcome
from qfundus.ingestion.threads import in_threads
from qfundus.security.keys import pseudonymise_uid


@dataclass(frozen=True)
class Paper:
    """A sheet or a notice: landed by itself, or `part_of` a zip file that held its `data`."""

    source: str
    name: str = field(repr=False)
    landed_at: datetime
    part_of: str = ""
    data: bytes | None = field(default=None, repr=False)

    def read(self, curation: Curation) -> bytes | None:
        """Return the content, None where somebody took it away."""
        return self.data if self.part_of else curation.site.store.find(curation.site.settings.landing_bucket, self.name)


def curate_sheet(curation: Curation, sheet: Paper) -> list[Outcome]:
    """Read a grading sheet: one outcome for the sheet and one for each of its rows."""
    data = sheet.read(curation)
    if data is None:
        return [Outcome(sheet.source, "sheet", "withdrawn")]
    try:
        rows = read_sheet(data)
    except Discard as why:
        curation.hold(sheet.source, sheet.name, data, why)
        return [Outcome(sheet.source, "sheet", "quarantined", why.reason, part_of=sheet.part_of)]
    graded = in_threads(lambda row: _curate_row(curation, sheet, *row), list(enumerate(rows, 1)), "grades")
    return [Outcome(sheet.source, "sheet", "read", part_of=sheet.part_of), *graded]


def _curate_row(curation: Curation, sheet: Paper, number: int, row: dict[str, str]) -> list[Outcome]:
    source = f"{sheet.source}-{number}"
    uid = pseudonymise_uid(curation.site.key, row["SOPInstanceUID"]) if row.get("SOPInstanceUID") else ""
    try:
        graded = resolve_row(row, source, sheet.source, curation.index, curation.site.key)
    except Discard as why:
        curation.hold(source, f"{sheet.name}.row{number}.csv", write_sheet([row]), why, uid)
        return [Outcome(source, "grade", "quarantined", why.reason, part_of=sheet.source)]
    given = KnownGrade(graded.grade, graded.grader, graded.graded_on)
    first = curation.index.add_grade(uid, graded.digest, given, curation.run)
    return [graded if curation.owns(first) else replace(graded, status="duplicate")]


def erase_named(curation: Curation, notice: Paper, landed: list[LandedObject]) -> list[Outcome]:
    """Erase the images that a notice names: one outcome for the notice and one for each of its rows.

    What the archive sent again after its notice stays: it was deleted there, and is there again.
    """
    data = notice.read(curation)
    if data is None:
        return [Outcome(notice.source, "notice", "withdrawn")]
    try:
        uids = read_erasures(data, curation.site.key)
    except Discard as why:
        curation.hold(notice.source, notice.name, data, why)
        return [Outcome(notice.source, "notice", "quarantined", why.reason, part_of=notice.part_of)]
    back = {item.name for item in landed if item.corrects and item.landed_at > notice.landed_at}
    erased = [
        _erase(curation, uid, f"{notice.source}-{number}", notice.source, back) for number, uid in enumerate(uids, 1)
    ]
    return [Outcome(notice.source, "notice", "read", part_of=notice.part_of), *erased]


def _erase(curation: Curation, uid: str, source: str, notice: str, back: set[str]) -> Outcome:
    known, held = curation.index.find(uid), curation.quarantine.holding(uid)
    if held:
        curation.index.note_erasure(uid, curation.run)
    if f"{ARCHIVE}{uid}.dcm" in back or not curation.index.erase(uid, curation.run):
        return Outcome(source, "erasure", "ignored", part_of=notice, instance=uid)
    curation.site.trail.append(
        "110103", "D", uid, "A notice of erasure named it.", run=curation.run, notice=notice, held=len(held)
    )
    for item in held:
        curation.quarantine.forget(item)
    erased = Outcome(source, "erasure", "erased", part_of=notice, instance=uid)
    # Where a run is done again after a crash, the index has forgotten it: its features are known by their digest only.
    return replace(erased, digest=known.digest, eye=known.eye, study=known.study) if known else erased
