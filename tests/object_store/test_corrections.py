"""What a hospital corrects or takes back: the new content takes the old one's place, the erased is gone."""

import io
import time
import zipfile
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from conftest import make_eye

from qfundus.features.embed import BACKBONE
from qfundus.features.extract import extract_features
from qfundus.features.photographs import forget_trainings
from qfundus.features.store import VIEWS, read_keys
from qfundus.hospital.wrap import to_bytes
from qfundus.ingestion.account import close_run
from qfundus.ingestion.curate import curate_landed, read_manifest
from qfundus.ingestion.erasures import write_erasures
from qfundus.ingestion.landing import ARCHIVE, landed_photograph
from qfundus.ingestion.quarantine import Quarantine
from qfundus.object_names import manifest_name, object_name
from qfundus.security.keys import date_shift, pseudonymise_uid


def take_in(curation, run, files):
    for name, data in files.items():
        curation.site.store.put(curation.site.settings.landing_bucket, name, data)
    curated = curate_landed(replace(curation, run=run))  # as a run does, with an index of its own
    outcomes = read_manifest(curation.site, curated.manifest)
    counts = close_run(curation.site, run, curated.manifest)
    counts.pop("landed")
    return counts, outcomes


def instance_of(curation, eye):
    return curation.index.find(pseudonymise_uid(curation.site.key, str(eye.SOPInstanceUID)))


@pytest.fixture
def graded(fresh, photographs):
    """One eye with its grade, of the night before."""
    eye = make_eye(photographs, 1)
    sheet = f"SOPInstanceUID,grade,grader,date\n{eye.SOPInstanceUID},3,Dr. P,2026-07-01"
    take_in(fresh, "before", {"eye.dcm": to_bytes(eye), "a.csv": sheet.encode()})
    return eye


def corrected(eye):
    eye.PatientID = "the-right-patient"
    return to_bytes(eye)


def test_a_correction_from_the_archive_takes_the_place_and_the_grade_of_what_was_wrong(fresh, graded):
    old = instance_of(fresh, graded)
    counts, outcomes = take_in(fresh, "n1", {f"{ARCHIVE}1.dcm": corrected(graded)})
    new = instance_of(fresh, graded)
    assert counts == {"images curated": 1, "grades graded": 1}
    assert new.patient != old.patient
    assert fresh.index.withdrawn() == {old.digest}
    assert fresh.site.store.find(fresh.site.settings.curated_bucket, object_name(old.digest)) is None
    assert fresh.site.store.find(fresh.site.settings.curated_bucket, object_name(new.digest)) is not None
    grade = outcomes.set_index("kind").loc["grade"]
    assert (grade["grade"], grade["eye"]) == (3, f"{new.patient}-R")
    moved = date_shift(fresh.site.key, old.patient) - date_shift(fresh.site.key, new.patient)
    first = next(fresh.index.grades(new.uid, old.digest))
    assert (date.fromisoformat(grade["graded_on"]) - date.fromisoformat(first.graded_on)).days == moved


def test_a_run_that_is_done_again_after_a_crash_says_the_same(fresh, graded):
    fresh.site.store.put(fresh.site.settings.landing_bucket, f"{ARCHIVE}1.dcm", corrected(graded))
    first = curate_landed(replace(fresh, run="n1"))
    before = read_manifest(fresh.site, first.manifest)
    fresh.site.store.delete(fresh.site.settings.curated_bucket, first.manifest)
    second = curate_landed(replace(fresh, run="n1"))
    assert read_manifest(fresh.site, second.manifest).equals(before)


def test_a_correction_can_be_corrected_back(fresh, graded):
    wrong = to_bytes(graded)
    old = instance_of(fresh, graded)
    take_in(fresh, "n1", {f"{ARCHIVE}1.dcm": corrected(graded)})
    middle = instance_of(fresh, graded)
    counts, _ = take_in(fresh, "n2", {f"{ARCHIVE}1.dcm": wrong})
    assert counts["images curated"] == 1
    assert instance_of(fresh, graded).digest == old.digest
    assert fresh.index.withdrawn() == {middle.digest}


def test_what_is_sent_again_with_another_header_is_a_duplicate(fresh, graded):
    graded.file_meta.ImplementationVersionName = "ANOTHER"
    counts, _ = take_in(fresh, "n1", {f"{ARCHIVE}1.dcm": to_bytes(graded)})
    assert counts == {"images duplicate": 1}


def test_who_releases_a_conflict_says_that_it_is_the_right_one(fresh, graded):
    counts, outcomes = take_in(fresh, "n1", {"Doe_Jane.dcm": corrected(graded)})
    assert counts == {"images quarantined": 1, "quarantined: conflicting_instance": 1}
    Quarantine(fresh.site).release(outcomes["source"][0], "The first had a wrong ID.")
    counts, _ = take_in(fresh, "n2", {})
    assert counts == {"images curated": 1, "grades graded": 1}


def test_what_a_notice_names_is_gone_with_its_grades_and_may_come_back(fresh, graded):
    instance = instance_of(fresh, graded)
    notice = f"SOPInstanceUID\n{graded.SOPInstanceUID}\n1.2.3.4\n".encode()
    counts, _ = take_in(fresh, "n1", {"Doe_Jane.erase.csv": notice})
    assert counts == {"notices read": 1, "erasures erased": 1, "erasures ignored": 1}
    assert instance_of(fresh, graded) is None
    left = [
        found.name
        for found in fresh.site.store.list(fresh.site.settings.curated_bucket)
        if instance.digest in found.name
    ]
    assert left == [f"withdrawn/{instance.digest}"]
    assert not list(fresh.index.grades(instance.uid, instance.digest))
    counts, _ = take_in(fresh, "n2", {"eye.dcm": to_bytes(graded)})
    assert counts == {"images curated": 1}
    assert fresh.index.withdrawn() == set()


def test_a_notice_that_cannot_be_read_is_held(fresh):
    counts, _ = take_in(fresh, "n1", {"x.erase.csv": b"name\nDoe^Jane\n"})
    assert counts == {"notices quarantined": 1, "quarantined: unreadable_erasure": 1}


def test_what_comes_and_is_taken_back_in_one_night_leaves_the_others_alone(fresh, photographs):
    eye, other = make_eye(photographs, 3), make_eye(photographs, 4)
    notice = f"SOPInstanceUID\n{eye.SOPInstanceUID}\n".encode()
    sheet = f"SOPInstanceUID,grade,grader,date\n{eye.SOPInstanceUID},3,Dr. P,2026-07-01".encode()
    files = {"a.dcm": to_bytes(eye), "b.dcm": to_bytes(other), "x.erase.csv": notice, "x.csv": sheet}
    counts, outcomes = take_in(fresh, "n1", files)
    assert counts["images curated"] == counts["images withdrawn"] == counts["grades withdrawn"] == 1
    assert counts["erasures erased"] == 1
    [kept] = outcomes.query("status == 'curated'")["digest"]
    assert fresh.site.store.find(fresh.site.settings.curated_bucket, object_name(kept)) is not None
    named = [record.event["entity"][0]["what"]["identifier"]["value"] for record in trail_of(fresh).records()]
    assert pseudonymise_uid(fresh.site.key, str(eye.SOPInstanceUID)) in named


def trail_of(curation):
    return curation.site.trail


def test_sheets_and_notices_in_a_zip_file_are_read_as_such(fresh, graded, photographs):
    eye = make_eye(photographs, 5)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("Jane/grades.csv", f"SOPInstanceUID,grade,grader,date\n{eye.SOPInstanceUID},2,P,2026-07-01")
        archive.writestr("Jane/old.erase.csv", f"SOPInstanceUID\n{graded.SOPInstanceUID}\n")
        archive.writestr("Jane/broken.csv", "no columns")
        archive.writestr("Jane/eye.dcm", to_bytes(eye))
    counts, _ = take_in(fresh, "n1", {"Jane.zip": packed.getvalue()})
    assert counts == {
        "archives read": 1,
        "images curated": 1,
        "sheets read": 1,
        "grades graded": 1,
        "notices read": 1,
        "erasures erased": 1,
        "sheets quarantined": 1,
        "quarantined: unreadable_sheet": 1,
    }
    assert instance_of(fresh, graded) is None


def test_what_the_archive_sends_again_after_its_notice_stays(fresh, photographs):
    eye = make_eye(photographs, 6)
    uid = pseudonymise_uid(fresh.site.key, str(eye.SOPInstanceUID))
    place = landed_photograph(fresh.site.key, str(eye.SOPInstanceUID))
    take_in(fresh, "n1", {place: to_bytes(eye)})
    fresh.site.store.put(fresh.site.settings.landing_bucket, f"{ARCHIVE}gone.erase.csv", write_erasures([uid]))
    time.sleep(1.1)  # the store tells seconds apart
    counts, _ = take_in(fresh, "n2", {place: to_bytes(eye)})
    assert counts["erasures ignored"] == 1
    assert instance_of(fresh, eye) is not None


def test_a_date_at_the_calendars_end_costs_its_row(fresh, graded):
    sheet = f"SOPInstanceUID,grade,grader,date\n{graded.SOPInstanceUID},3,P,0001-01-01"
    counts, _ = take_in(fresh, "n1", {"a.csv": sheet.encode()})
    assert counts == {"sheets read": 1, "grades quarantined": 1, "quarantined: unreadable_grade_row": 1}


@pytest.mark.slow
def test_the_features_of_what_is_erased_go_from_all_parts(fresh, graded, photographs, backbone):
    fresh.site.store.put(fresh.site.settings.models_bucket, f"backbones/{BACKBONE}.onnx", backbone)
    other = make_eye(photographs, 7)
    known_at = datetime(2026, 1, 1, tzinfo=UTC)
    _, first = take_in(fresh, "n1", {"b.dcm": to_bytes(other)})
    for run, moment in (("before", known_at), ("n1", known_at + timedelta(days=1))):
        extract_features(fresh.site, run, manifest_name(run), moment)
    rows = {view: read_keys(fresh.site, view, datetime.now(UTC)) for view in VIEWS}
    assert [len(rows[view]) for view in VIEWS] == [2, 2, 1]
    take_in(fresh, "n2", {"x.erase.csv": f"SOPInstanceUID\n{graded.SOPInstanceUID}\n".encode()})
    # A network may be training on the eye: its photographs go, too.
    fresh.site.store.put(fresh.site.settings.models_bucket, "trainings/tonight/photographs.lance/data", b"pixels")
    assert forget_trainings(fresh.site, datetime.now(UTC) - timedelta(days=1)) == 0
    extract_features(fresh.site, "n2", manifest_name("n2"), known_at + timedelta(days=2))
    assert list(fresh.site.store.list(fresh.site.settings.models_bucket, "trainings/")) == []
    left = {view: read_keys(fresh.site, view, datetime.now(UTC)) for view in VIEWS}
    assert [len(left[view]) for view in VIEWS] == [1, 1, 0]
    assert set(left["eye_embedding"]["eye_id"]) == set(first.query("kind == 'image'")["eye"])


def test_a_notice_of_erasure_reaches_what_is_in_quarantine(fresh, photographs):
    held, kept = make_eye(photographs, 1), make_eye(photographs, 2)
    for eye in (held, kept):
        eye.ImageLaterality = ""
    row = f"SOPInstanceUID,grade,grader,date\n{held.SOPInstanceUID},3,Dr. P,2026-07-01"
    counts, _ = take_in(fresh, "n1", {"a.dcm": to_bytes(held), "b.dcm": to_bytes(kept), "a.csv": row.encode()})
    assert (counts["images quarantined"], counts["grades quarantined"]) == (2, 1)
    notice = f"SOPInstanceUID\n{held.SOPInstanceUID}\n".encode()
    counts, _ = take_in(fresh, "n2", {"gone.erase.csv": notice})
    assert counts == {"notices read": 1, "erasures erased": 1}
    assert [item.reason for item in Quarantine(fresh.site).list()] == ["missing_laterality"]
    left = {found.name for found in fresh.site.store.list(fresh.site.settings.quarantine_bucket)}
    assert not any(pseudonymise_uid(fresh.site.key, str(held.SOPInstanceUID)) in name for name in left)
    assert len(left) == 3  # of the other one: sealed, its reason, its mark
