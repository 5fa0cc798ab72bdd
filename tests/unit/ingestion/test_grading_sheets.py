import pytest

from qfundus.errors import Discard
from qfundus.ingestion.grade_rows import read_sheet, resolve_row, write_sheet
from qfundus.ingestion.instances import Instance

ROW = {"SOPInstanceUID": "1.2.3", "grade": "2", "grader": "Dr. Prendergast", "date": "2026-07-01"}


class OneInstance:
    def find(self, uid):
        return Instance(uid, "f", "d", "EYE-R", "2.25.1", "PATIENT", "run")


class NoInstance:
    def find(self, uid):
        return None


def test_a_row_finds_its_eye_and_loses_its_grader(key):
    graded = resolve_row(ROW, "s-1", "s", OneInstance(), key)
    assert (graded.eye, graded.grade, graded.part_of) == ("EYE-R", 2, "s")
    assert "Prendergast" not in repr(graded)
    assert graded.graded_on < "2026-07-01"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"grade": "7"}, "grade_out_of_range"),
        ({"grade": "-1"}, "grade_out_of_range"),
        ({"grade": "two"}, "unreadable_grade_row"),
        ({"date": "01/07/2026"}, "unreadable_grade_row"),
        ({"grader": ""}, "unreadable_grade_row"),
        ({"SOPInstanceUID": ""}, "unreadable_grade_row"),
    ],
)
def test_a_bad_row_is_refused_with_its_reason(key, change, reason):
    with pytest.raises(Discard) as refused:
        resolve_row({**ROW, **change}, "s-1", "s", OneInstance(), key)
    assert refused.value.reason == reason


def test_a_grade_for_an_unknown_image_is_refused(key):
    with pytest.raises(Discard, match="grade_without_image"):
        resolve_row(ROW, "s-1", "s", NoInstance(), key)


def test_a_sheet_survives_writing_and_reading():
    assert read_sheet(write_sheet([ROW])) == [ROW]


@pytest.mark.parametrize("data", [b"a,b\n1,2\n", b"\xff\xfe\x00", b"", b"SOPInstanceUID;grade;grader;date\n"])
def test_a_sheet_without_its_columns_is_refused(data):
    with pytest.raises(Discard, match="unreadable_sheet"):
        read_sheet(data)
