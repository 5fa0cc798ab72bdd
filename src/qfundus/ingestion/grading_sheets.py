"""Curate grading sheets row by row."""

from dataclasses import replace

from qfundus.errors import Discard
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.documents import Document
from qfundus.ingestion.grade_rows import read_sheet, resolve_row, write_sheet
from qfundus.ingestion.instances import KnownGrade
from qfundus.ingestion.outcome import Outcome
from qfundus.ingestion.threads import in_threads
from qfundus.security.keys import pseudonymise_uid


def curate_sheet(curation: Curation, sheet: Document) -> list[Outcome]:
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


def _curate_row(curation: Curation, sheet: Document, number: int, row: dict[str, str]) -> list[Outcome]:
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
