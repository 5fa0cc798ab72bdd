import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import make_eye
from faults import FAULTS
from PIL import Image

from qfundus.errors import AccountError, Discard, Retry, SetupError
from qfundus.hospital.wrap import to_bytes
from qfundus.ingestion import curation, holding, images
from qfundus.ingestion.account import close_run
from qfundus.ingestion.curate import curate_landed, read_manifest
from qfundus.ingestion.landing import list_landed
from qfundus.ingestion.quarantine import Quarantine
from qfundus.object_names import handling_name
from qfundus.security.keys import pseudonymise_uid
from qfundus.steps.deidentify_landed import deidentify_landed
from qfundus.storage import digest, from_parquet, to_parquet

SHEET = "SOPInstanceUID,grade,grader,date\n"


def land(curation, name, data):
    curation.site.store.put(curation.site.settings.landing_bucket, name, data)


def land_good(curation, photographs, numbers):
    eyes = [make_eye(photographs, number) for number in numbers]
    for number, eye in zip(numbers, eyes, strict=True):
        land(curation, f"Doe_Jane_{number:03d}.dcm", to_bytes(eye))
    return eyes


def close(curation, manifest):
    return close_run(curation.site, curation.run, manifest)


def landed_names(curation):
    return {found.name for found in curation.site.store.list(curation.site.settings.landing_bucket)}


@pytest.fixture
def hundred(fresh, photographs):
    """A hundred mixed objects: good ones, every fault, copies, conflicts and sheets with bad rows."""
    eyes = land_good(fresh, photographs, range(57))
    for number, fault in enumerate(list(FAULTS.values()) * 3, 100):
        land(fresh, f"Doe_John_{number}.dcm", fault(make_eye(photographs, number)))
    land(fresh, "copy.dcm", to_bytes(eyes[0]))
    other = make_eye(photographs, 70)
    other.SOPInstanceUID = eyes[0].SOPInstanceUID
    again = make_eye(photographs, 3)
    again.StationName = "sent again from another station, and just the same once it is clean"
    land(fresh, "zz_copy.dcm", to_bytes(again))
    land(fresh, "zz_conflict.dcm", to_bytes(other))
    rows = [f"{eye.SOPInstanceUID},{n % 5},Dr. Prendergast,2026-07-01" for n, eye in enumerate(eyes)]
    land(fresh, "a.csv", (SHEET + "\n".join(rows[:30])).encode())
    bad = [f"{eyes[1].SOPInstanceUID},7,Dr. P,2026-07-01", "1.2.3.4,2,Dr. P,2026-07-01", "1.2.3.4,x,Dr. P,2026-07-01"]
    land(fresh, "b.csv", (SHEET + "\n".join(rows[30:] + bad)).encode())
    land(fresh, "c.csv", b"no sheet at all")
    land(fresh, "d.csv", SHEET.encode())
    return fresh


@pytest.fixture
def few(fresh, photographs):
    land_good(fresh, photographs, range(3))
    return fresh


@pytest.mark.slow
def test_every_one_of_a_hundred_objects_is_accounted_for_once(hundred):
    assert len(landed_names(hundred)) == 100
    curated = curate_landed(hundred)
    counts = close(hundred, curated.manifest)
    per_fault = Counter({f"quarantined: {reason}": 3 for reason in FAULTS})
    per_fault["quarantined: conflicting_instance"] = 1
    per_fault["quarantined: unreadable_sheet"] = 1
    per_fault["quarantined: grade_out_of_range"] = 1
    per_fault["quarantined: grade_without_image"] = 1
    per_fault["quarantined: unreadable_grade_row"] = 1
    assert counts == {
        "landed": 100,
        "images curated": 57,
        "images duplicate": 2,
        "images quarantined": 37,
        "sheets read": 3,
        "sheets quarantined": 1,
        "grades graded": 57,
        "grades quarantined": 3,
        **per_fault,
    }
    assert landed_names(hundred) == set()


@pytest.mark.slow
def test_an_image_that_crashes_its_decoder_is_held_and_the_others_go_on(fresh, photographs, monkeypatch):
    real = images.read_preview

    def deadly(eye):
        if eye.get("StudyDescription") == "deadly":
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(eye)

    monkeypatch.setattr(images, "read_preview", deadly)  # forked processes inherit it
    land_good(fresh, photographs, range(12))
    bad = make_eye(photographs, 50)
    bad.StudyDescription = "deadly"
    land(fresh, "Doe_Jane_005b.dcm", to_bytes(bad))
    counts = close(fresh, curate_landed(fresh).manifest)
    assert (counts["landed"], counts["images curated"], counts["quarantined: decoder_crashed"]) == (13, 12, 1)


@pytest.mark.slow
def test_each_image_in_a_zip_file_is_taken_in_or_held(fresh, photographs):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"Doe_Jane/{number}.dcm", to_bytes(make_eye(photographs, number)))
        archive.writestr("../../Doe_John.dcm", FAULTS["missing_patient_id"](make_eye(photographs, 7)))
        archive.writestr("bomb.dcm", bytes(300 << 20))
        archive.writestr("README.txt", "read me")
    land(fresh, "Doe_Jane.zip", packed.getvalue())
    land(fresh, "copy.dcm", to_bytes(make_eye(photographs, 1)))
    land(fresh, "broken.zip", packed.getvalue()[:-100])
    counts = close(fresh, curate_landed(fresh).manifest)
    assert counts == {
        "landed": 3,
        "archives quarantined": 2,
        "images curated": 3,
        "images duplicate": 1,
        "images ignored": 1,
        "images quarantined": 2,
        "quarantined: missing_patient_id": 1,
        "quarantined: too_large": 2,
        "quarantined: unreadable_file": 1,
    }
    assert landed_names(fresh) == set()
    held = Quarantine(fresh.site)
    [item] = [item for item in held.list() if item.reason == "missing_patient_id"]
    held.release(item.source, "a test")
    assert landed_names(fresh) == {"Doe_Jane.zip.member4.dcm"}
    # Of a member that cannot be read nothing can be held by itself: the whole archive is.
    [item] = [item for item in held.list() if item.reason == "too_large"]
    assert held.show(item.source, "a test") == packed.getvalue()


def test_what_is_too_large_for_memory_is_held_in_parts_and_comes_back_whole(fresh, photographs, monkeypatch):
    monkeypatch.setattr(images, "LARGEST", 50_000)
    monkeypatch.setattr(holding, "LARGEST", 50_000)
    monkeypatch.setattr(curation, "PART", 20_000)
    eye = make_eye(photographs, 1)
    eye.add_new(0x7FE10010, "OB", random.Random(0).randbytes(100_000))
    land(fresh, "large.dcm", to_bytes(eye))
    counts = close(fresh, curate_landed(fresh).manifest)
    assert counts == {"landed": 1, "images quarantined": 1, "quarantined: too_large": 1}
    assert landed_names(fresh) == set()
    names = [found.name for found in fresh.site.store.list(fresh.site.settings.quarantine_bucket)]
    assert len([name for name in names if name.endswith(".sealed")]) == 1 + len(to_bytes(eye)) // 20_000
    held = Quarantine(fresh.site)
    [item] = held.list()
    assert held.holding(pseudonymise_uid(fresh.site.key, str(eye.SOPInstanceUID))) == [item.source]
    assert held.show(item.source, "a test") == to_bytes(eye)
    held.release(item.source, "a test")
    assert fresh.site.store.get(fresh.site.settings.landing_bucket, "large.dcm") == to_bytes(eye)
    assert list(fresh.site.store.list(fresh.site.settings.quarantine_bucket)) == []


def test_a_part_that_is_missing_or_swapped_is_noticed(fresh):
    held = Quarantine(fresh.site)
    held.put("QF1", "a.dcm", iter([b"a" * 9, b"b" * 9, b"c" * 9]), Discard("too_large", "A test."), "run-1")
    bucket = fresh.site.settings.quarantine_bucket
    kept = fresh.site.store.get(bucket, "QF1.2.sealed")
    fresh.site.store.delete(bucket, "QF1.2.sealed")
    with pytest.raises(LookupError):
        held.show("QF1", "a test")
    fresh.site.store.put(bucket, "QF1.1.sealed", kept)
    with pytest.raises(ValueError, match="renamed"):
        held.show("QF1", "a test")


def test_a_run_s_manifest_says_what_made_it_and_what_each_original_was(fresh, photographs):
    land_good(fresh, photographs, [1])
    bad = FAULTS["no_pixels"](make_eye(photographs, 2))
    land(fresh, "bad.dcm", bad)
    data = fresh.site.store.get(fresh.site.settings.curated_bucket, curate_landed(fresh).manifest)
    metadata = pq.read_schema(io.BytesIO(data)).metadata
    assert {b"qfundus", b"policy", b"edition", b"policy_digest"} <= metadata.keys()
    outcomes = from_parquet(data).set_index("status")
    assert outcomes.loc["quarantined", "digest_before"] == digest(bad)


def test_plain_photographs_are_taken_in_with_what_lies_beside_them(fresh, photographs):
    sidecar = {"PatientID": "4711", "PatientName": "Doe^Jane", "ImageLaterality": "R", "StudyDate": "20260504"}
    for name, number in (("Doe_Jane.jpg", 0), ("alone.png", 1), ("Doe_John.tif", 2)):
        picture = Image.fromarray(photographs.images[number]).resize((280, 280))
        packed = io.BytesIO()
        picture.save(packed, {"jpg": "JPEG", "png": "PNG", "tif": "TIFF"}[name[-3:]])
        land(fresh, name, packed.getvalue())
    land(fresh, "Doe_Jane.json", json.dumps(sidecar).encode())
    land(fresh, "Doe_John.json", json.dumps({**sidecar, "ImageLaterality": ""}).encode())
    land(fresh, "nobody.json", json.dumps(sidecar).encode())
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a/eye.png", packed.getvalue())
        archive.writestr("a/eye.json", json.dumps({**sidecar, "PatientID": "4712"}))
    land(fresh, "eyes.zip", zipped.getvalue())
    curated = curate_landed(fresh)
    assert close(fresh, curated.manifest) == {
        "landed": 7,
        "archives read": 1,
        "images curated": 2,
        "images ignored": 1,
        "images quarantined": 2,
        "quarantined: missing_laterality": 2,
        "quarantined: missing_patient_id": 1,
        "quarantined: sidecar_without_photograph": 1,
        "sidecars quarantined": 2,
        "sidecars read": 1,
    }


def test_a_lost_outcome_fails_the_run_and_clears_nothing(few):
    manifest = curate_landed(few).manifest
    table = read_manifest(few.site, manifest)
    few.site.store.put(few.site.settings.curated_bucket, manifest, to_parquet(table.drop(index=1)))
    with pytest.raises(AccountError, match="1 lost"):
        close(few, manifest)
    assert len(landed_names(few)) == 3


def test_an_outcome_too_many_fails_the_run(few):
    manifest = curate_landed(few).manifest
    table = read_manifest(few.site, manifest)
    few.site.store.put(few.site.settings.curated_bucket, manifest, to_parquet(pd.concat([table, table.head(1)])))
    with pytest.raises(AccountError, match="counted twice"):
        close(few, manifest)


def test_a_directory_and_a_readme_are_passed_over(fresh, photographs):
    directory = b"\0" * 128 + b"DICM" + b"\2\0\2\0UI\x14\0" + b"1.2.840.10008.1.3.10" + b"\0" * 300
    for name, data in {"DICOMDIR": directory, "README.txt": b"read me", "e.dcm": b"", "x": b"no image" * 90}.items():
        fresh.site.store.put(fresh.site.settings.landing_bucket, name, data)
    curated = curate_landed(fresh)
    assert curated.counts == {"images ignored": 3, "images quarantined": 1, "quarantined: not_dicom": 1}


def test_what_is_sent_again_while_the_bucket_is_cleared_stays(fresh, photographs):
    bucket = fresh.site.settings.landing_bucket
    fresh.site.store.put(bucket, "eye.dcm", to_bytes(make_eye(photographs, 1)))
    [before] = fresh.site.store.list(bucket)
    fresh.site.store.put(bucket, "eye.dcm", to_bytes(make_eye(photographs, 2)))
    assert not fresh.site.store.delete_unchanged(bucket, before)
    [after] = fresh.site.store.list(bucket)
    assert fresh.site.store.delete_unchanged(bucket, after)
    assert list(fresh.site.store.list(bucket)) == []


def test_a_second_night_with_the_same_files_finds_them_done(fresh, photographs):
    eyes = land_good(fresh, photographs, range(4))
    sheet = (SHEET + f"{eyes[0].SOPInstanceUID},2,Dr. P,2026-07-01\n").encode()
    land(fresh, "a.csv", sheet)
    close(fresh, curate_landed(fresh).manifest)
    land_good(fresh, photographs, range(5))
    land(fresh, "b.csv", sheet)
    second = replace(fresh, run="run-2")
    counts = close(second, curate_landed(second).manifest)
    assert (counts["images duplicate"], counts["images curated"], counts["grades duplicate"]) == (4, 1, 1)
    assert "grades graded" not in counts


def test_a_feed_that_brings_fewer_than_expected_stops_the_run():
    with pytest.raises(SetupError, match="Only 0 of 2 expected objects have landed: check the hospital's feed"):
        deidentify_landed("quiet-night", at_least=2)


def test_an_object_that_lands_during_a_run_waits_for_the_next(fresh, photographs):
    land_good(fresh, photographs, range(2))
    curated = curate_landed(fresh)
    land_good(fresh, photographs, [2])
    assert close(fresh, curated.manifest)["landed"] == 2
    assert landed_names(fresh) == {"Doe_Jane_002.dcm"}


def test_an_object_taken_away_during_a_run_is_accounted_for_as_withdrawn(fresh, photographs):
    from qfundus.ingestion.landing import fix_landed

    land_good(fresh, photographs, range(2))
    fix_landed(fresh.site, fresh.run)
    fresh.site.store.delete(fresh.site.settings.landing_bucket, "Doe_Jane_001.dcm")
    counts = close(fresh, curate_landed(fresh).manifest)
    assert (counts["images curated"], counts["images withdrawn"]) == (1, 1)


def test_what_is_quarantined_says_why_shows_nothing_and_can_be_released(fresh, photographs):
    eye = make_eye(photographs)
    land(fresh, "Doe_Jane.dcm", FAULTS["missing_patient_id"](eye))
    close(fresh, curate_landed(fresh).manifest)
    quarantine = Quarantine(fresh.site)
    [item] = quarantine.list()
    assert item.reason == "missing_patient_id"
    for stored in fresh.site.store.list(fresh.site.settings.quarantine_bucket):
        assert "Doe" not in stored.name
        assert eye.PatientName.family_name.encode() not in fresh.site.store.get(
            fresh.site.settings.quarantine_bucket, stored.name
        )
    assert eye.PatientName.family_name.encode() in quarantine.show(item.source, "to mend it")
    quarantine.release(item.source, "mended at the source")
    assert landed_names(fresh) == {"Doe_Jane.dcm"}
    assert quarantine.list() == []


@pytest.mark.parametrize("name", ["Doe_Jane.dcm", "archive/eye.dcm"])
def test_what_looked_like_text_and_was_released_is_taken_in(fresh, photographs, monkeypatch, name):
    def hold(_):
        raise Discard("burned_in_text", "It looks like text.")

    monkeypatch.setattr("qfundus.dicom.clean.remove_burned_in_text", hold)  # the processes are forked with it
    land(fresh, name, to_bytes(make_eye(photographs)))
    assert close(fresh, curate_landed(fresh).manifest)["images quarantined"] == 1
    quarantine = Quarantine(fresh.site)
    [item] = quarantine.list()
    assert item.reason == "burned_in_text"
    quarantine.release(item.source, "it is the optic disc")
    second = replace(fresh, run="run-2")
    assert close(second, curate_landed(second).manifest) == {"landed": 1, "images curated": 1}


def test_a_released_row_finds_its_image_once_that_has_landed(fresh, photographs):
    eye = make_eye(photographs)
    land(fresh, "a.csv", (SHEET + f"{eye.SOPInstanceUID},3,Dr. P,2026-07-01\n").encode())
    close(fresh, curate_landed(fresh).manifest)
    quarantine = Quarantine(fresh.site)
    [item] = quarantine.list()
    quarantine.release(item.source, "its image comes")
    land_good(fresh, photographs, [0])
    second = replace(fresh, run="run-2")
    assert close(second, curate_landed(second).manifest)["grades graded"] == 1


WORKER = """
import sys
from dataclasses import replace
from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.policy import load_policy
from qfundus.ingestion.curate import curate_landed
from qfundus.ingestion.curation import Curation
from qfundus.layout import policy_file
from qfundus.settings import load_settings
from qfundus.site import open_site
settings = load_settings()
tail = sys.argv[1]
own = settings.model_copy(update={f"{n}_bucket": f"{n}-{tail}" for n in ("landing", "curated", "quarantine")})
curate_landed(Curation(open_site(own), CompiledPolicy(load_policy(policy_file())), "run-1"))
"""


@pytest.mark.slow
def test_a_process_killed_in_the_middle_loses_nothing_and_does_nothing_twice(fresh, photographs, tmp_path):
    land_good(fresh, photographs, range(50))
    tail = fresh.site.settings.landing_bucket.removeprefix("landing-")
    worker = subprocess.Popen([sys.executable, "-c", WORKER, tail], env={**os.environ, "TMPDIR": str(tmp_path)})
    bucket = fresh.site.settings.curated_bucket
    while sum(1 for _ in fresh.site.store.list(bucket, "instances/")) < 10 + random.randrange(20):
        assert worker.poll() is None, "the worker was done before it could be killed"
        time.sleep(0.02)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not [left for left in tmp_path.rglob("*") if left.is_file()]  # of no photograph, half cleaned or whole
    assert fresh.site.store.find(bucket, "runs/run-1/outcomes.parquet") is None
    counts = close(fresh, curate_landed(fresh).manifest)
    assert counts == {"landed": 50, "images curated": 50}
    objects = [found.name for found in fresh.site.store.list(bucket, "objects/")]
    assert len(objects) == len(set(objects)) == 50


def test_a_run_that_never_closed_is_finished_by_the_next(fresh, photographs):
    land_good(fresh, photographs, range(3))
    curate_landed(fresh)
    second = replace(fresh, run="run-2")
    assert close(second, curate_landed(second).manifest)["images curated"] == 3


@pytest.mark.slow
def test_an_object_store_that_dies_in_the_middle_is_found_again(fresh, photographs, seaweedfs):
    land_good(fresh, photographs, range(8))
    seaweedfs.stop()
    try:
        with pytest.raises(Retry):
            list_landed(fresh.site)
    finally:
        seaweedfs.start()
    for _ in range(60):
        try:
            curated = curate_landed(fresh)
            break
        except Retry:
            time.sleep(0.5)
    assert close(fresh, curated.manifest)["images curated"] == 8


def test_the_manifest_leads_to_what_was_done_with_each_attribute_and_why(fresh, photographs):
    land_good(fresh, photographs, range(4))
    curated = curate_landed(fresh)
    outcomes = read_manifest(fresh.site, curated.manifest)
    assert outcomes["digest_before"].str.len().eq(64).all()
    for handling in set(outcomes["handling"]):
        table = pq.read_table(
            io.BytesIO(fresh.site.store.get(fresh.site.settings.curated_bucket, handling_name(handling)))
        )
        assert table.schema.metadata[b"policy_digest"]
        rows = table.to_pandas().set_index("keyword")
        assert rows.loc["PatientID", "action"] == "replace"
        assert rows["because"].str.len().gt(0).all()


def test_the_manifest_is_a_small_table_that_names_nobody(fresh, photographs):
    eyes = land_good(fresh, photographs, range(3))
    manifest = curate_landed(fresh).manifest
    text = from_parquet(fresh.site.store.get(fresh.site.settings.curated_bucket, manifest)).to_csv()
    for eye in eyes:
        for value in (eye.PatientID, eye.PatientName.family_name, eye.SOPInstanceUID, "Doe_Jane"):
            assert str(value) not in text
