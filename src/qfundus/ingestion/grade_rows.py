"""Grading sheets: CSV with the columns SOPInstanceUID, grade, grader and date."""

import csv
import io
from datetime import date, timedelta

from qfundus.errors import Discard
from qfundus.grades import GRADES
from qfundus.ingestion.instances import InstanceIndex
from qfundus.ingestion.outcome import Outcome
from qfundus.security.keys import SiteKey, date_shift, pseudonymise_grader, pseudonymise_uid

_FIRST_YEAR = 1900  # dates before it stand for none, and cannot all be moved
COLUMNS: tuple[str, ...] = ("SOPInstanceUID", "grade", "grader", "date")


def read_sheet(data: bytes) -> list[dict[str, str]]:
    """Read the rows of a sheet.

    Raises:
        Discard: if it is not UTF-8 CSV with the needed columns.
    """
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if not set(COLUMNS) <= set(rows.fieldnames or ()):
            raise Discard("unreadable_sheet", f"The columns {', '.join(COLUMNS)} are missing.")
        return [{column: (row[column] or "").strip() for column in COLUMNS} for row in rows]
    except (UnicodeDecodeError, csv.Error):
        raise Discard("unreadable_sheet", "The file is not a UTF-8 CSV file.") from None


def write_sheet(rows: list[dict[str, str]]) -> bytes:
    """Write rows as a sheet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def resolve_row(row: dict[str, str], source: str, sheet: str, index: InstanceIndex, key: SiteKey) -> Outcome:
    """Find the eye that a row grades, and pseudonymise its grader; the date moves with the patient's others.

    Raises:
        Discard: if a field is missing, the grade is not 0-4 or the image is not known.
    """
    if not row["SOPInstanceUID"] or not row["grader"]:
        raise Discard("unreadable_grade_row", "A field is empty.")
    try:
        grade, graded_on = int(row["grade"]), date.fromisoformat(row["date"])
    except ValueError:
        raise Discard("unreadable_grade_row", "The grade is not a whole number, or the date is invalid.") from None
    if graded_on.year < _FIRST_YEAR:
        raise Discard("unreadable_grade_row", f"The date is before {_FIRST_YEAR}.")
    if grade not in range(GRADES):
        raise Discard("grade_out_of_range", "The grade is not one of 0-4.")
    instance = index.find(pseudonymise_uid(key, row["SOPInstanceUID"]))
    if instance is None:
        raise Discard("grade_without_image", "No curated image has this SOP instance UID.")
    shifted = graded_on - timedelta(days=date_shift(key, instance.patient))
    return Outcome(
        source=source,
        kind="grade",
        status="graded",
        digest=instance.digest,
        eye=instance.eye,
        study=instance.study,
        patient=instance.patient,
        grade=grade,
        grader=pseudonymise_grader(key, row["grader"]),
        graded_on=shifted.isoformat(),
        part_of=sheet,
    )
