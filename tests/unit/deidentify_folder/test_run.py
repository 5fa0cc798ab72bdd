import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import pandas as pd
import psutil
import pydicom
import pytest
from command_line import call
from conftest import make_eye
from PIL import Image
from waiting import wait_until

from qfundus.deidentify_folder.manifest import FileOutcome
from qfundus.deidentify_folder.quarantine import FolderQuarantine
from qfundus.deidentify_folder.run import AUDIT, deidentify_folder
from qfundus.dicom.handling import made_by
from qfundus.errors import REMEDIES, Discard, SetupError
from qfundus.hospital.wrap import to_bytes
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey
from qfundus.security.sealing import unseal
from qfundus.storage import FolderStore


@pytest.fixture
def trusting(policy):
    return policy.policy.trusting_pixels()


@pytest.fixture
def source(tmp_path, photographs):
    """Good ones in nested folders and a zip, a copy, a conflict, a broken one, and things that are no image."""
    folder = tmp_path / "in"
    (folder / "a" / "b").mkdir(parents=True)
    for number in range(3):
        (folder / "a" / "b" / f"{number}").write_bytes(to_bytes(make_eye(photographs, number)))
    (folder / "copy.dcm").write_bytes(to_bytes(make_eye(photographs, 0)))
    other = make_eye(photographs, 0)
    other.ImageLaterality = "L"
    (folder / "other.dcm").write_bytes(to_bytes(other))
    (folder / "broken.dcm").write_bytes(to_bytes(make_eye(photographs, 9))[:-3000])
    (folder / "README.txt").write_text("read me")
    (folder / "link.dcm").symlink_to("/etc/hostname")
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("x/../../y.dcm", to_bytes(make_eye(photographs, 5)))
        archive.writestr("grades.csv", "a,b")
    return folder


def tree(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.dcm")}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_input_is_accounted_for(source, tmp_path, trusting, key, workers):
    counts = deidentify_folder(source, tmp_path / "out", trusting, key, workers=workers)
    printed = json.loads(counts.to_json())
    assert printed.pop("seconds") > 0
    assert printed == {
        "read": 10,
        "clean": 4,
        "quarantined": 2,
        "duplicates": 1,
        "ignored": 3,
        "reasons": {"truncated": 1, "conflicting_instance": 1},
    }
    manifest = pd.read_parquet(tmp_path / "out" / "manifest.parquet")
    assert manifest["status"].value_counts().to_dict() == {"clean": 4, "ignored": 3, "quarantined": 2, "duplicate": 1}
    assert len(tree(tmp_path / "out")) == 4


@pytest.mark.timeout(20)
def test_links_pipes_and_devices_are_passed_over_unread(tmp_path, trusting, key):
    folder = tmp_path / "in"
    folder.mkdir()
    os.mkfifo(folder / "pipe.dcm")
    (folder / "zero.dcm").symlink_to("/dev/zero")
    (folder / "dangling.dcm").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder)
    counts = deidentify_folder(folder, tmp_path / "out", trusting, key)
    assert (counts.read, counts.ignored) == (4, 4)


def test_a_name_that_is_no_utf8_is_read_like_any_other(tmp_path, trusting, key, photographs):
    folder = tmp_path / "in" / os.fsdecode(b"M\xfcller")
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"\xff.dcm")).write_bytes(to_bytes(make_eye(photographs, 0)))
    (folder / os.fsdecode(b"\xfe.dcm")).write_bytes(b"no image")
    counts = deidentify_folder(tmp_path / "in", tmp_path / "out", trusting, key)
    assert (counts.clean, counts.quarantined) == (1, 1)


def test_a_photograph_with_a_zip_file_behind_it_is_a_photograph(tmp_path, trusting, key, photographs):
    behind = io.BytesIO()
    with zipfile.ZipFile(behind, "w") as archive:
        archive.writestr("x.txt", "x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "eye.dcm").write_bytes(to_bytes(make_eye(photographs, 0)) + behind.getvalue())
    (tmp_path / "in" / "book.xlsx").write_bytes(behind.getvalue())
    counts = deidentify_folder(tmp_path / "in", tmp_path / "out", trusting, key)
    assert (counts.clean, counts.ignored, counts.read) == (1, 1, 2)


def test_a_target_that_is_a_file_is_refused(source, tmp_path, trusting, key):
    (tmp_path / "out").write_text("")
    with pytest.raises(SetupError, match="cannot be written"):
        deidentify_folder(source, tmp_path / "out", trusting, key)


def test_the_number_of_workers_changes_nothing(source, tmp_path, trusting, key):
    for workers in (1, 2):
        deidentify_folder(source, tmp_path / f"out{workers}", trusting, key, workers=workers)
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")


def test_a_second_run_finds_what_the_first_one_wrote(source, tmp_path, trusting, key):
    first = deidentify_folder(source, tmp_path / "out", trusting, key)
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*.dcm")}
    again = deidentify_folder(source, tmp_path / "out", trusting, key)
    assert (again.clean, again.duplicates, again.reasons) == (first.clean, first.duplicates, first.reasons)
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*.dcm")} == before


def test_the_manifest_says_what_was_done_with_each_attribute_and_why(source, tmp_path, trusting, key):
    deidentify_folder(source, tmp_path / "out", trusting, key)
    handling = pd.read_parquet(tmp_path / "out" / "handling.parquet").set_index("keyword")
    assert handling.loc["PatientAddress", "action"] == "remove"
    assert handling.loc["PatientAddress", "because"] == "E.1-1 X"
    assert handling.loc["StudyDate", "because"] == "E.1-1 C: retain_modified_dates"
    manifest = pd.read_parquet(tmp_path / "out" / "manifest.parquet").query("status == 'clean'")
    assert manifest["digest_before"].str.len().eq(64).all()
    assert set(manifest["handling"]) <= set(handling["handling"])


def test_what_is_in_quarantine_is_sealed_and_says_why(source, tmp_path, trusting, key):
    deidentify_folder(source, tmp_path / "out", trusting, key)
    notes = [json.loads(file.read_text()) for file in (tmp_path / "out" / "quarantine").glob("*.json")]
    assert {note["reason"] for note in notes} == {"truncated", "conflicting_instance"}
    assert all(note["remedy"] and note["detail"] for note in notes)
    for note in notes:
        sealed = (tmp_path / "out" / "quarantine" / f"{note['source']}.sealed").read_bytes()
        assert b"DICM" not in sealed
        assert b"DICM" in unseal(key, sealed, note["source"])


def test_a_source_within_the_target_or_missing_is_refused(source, tmp_path, trusting, key):
    for target in (source, source / "out", tmp_path):
        with pytest.raises(SetupError, match="target"):
            deidentify_folder(source, target, trusting, key)
    with pytest.raises(SetupError, match="not exist"):
        deidentify_folder(source / "none", tmp_path / "out", trusting, key)


def test_a_zip_bomb_is_refused_unread(tmp_path, trusting, key):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.dcm", bytes(300 << 20))
    counts = deidentify_folder(tmp_path / "in", tmp_path / "out", trusting, key)
    assert counts.reasons == {"too_large": 1}


def test_an_input_that_kills_its_process_is_held_and_the_others_go_on(source, tmp_path, policy, key, monkeypatch):
    from qfundus.deidentify_folder import desk

    real = desk.clean_object

    def deadly(data, *rest):
        if b"DEADLY" in bytes(data[:64]):
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(data, *rest)

    monkeypatch.setattr(desk, "clean_object", deadly)  # forked workers inherit it
    (source / "deadly.dcm").write_bytes(b"DEADLY".ljust(128) + b"DICM" + bytes(800))
    counts = deidentify_folder(source, tmp_path / "out", policy.policy, key, workers=2)
    assert counts.reasons == {"truncated": 1, "conflicting_instance": 1, "decoder_crashed": 1}
    assert (counts.read, counts.clean) == (11, 4)


def test_a_process_that_dies_between_two_outcomes_loses_no_input_that_comes_later(tmp_path, policy, key, monkeypatch):
    from qfundus.deidentify_folder import desk

    (tmp_path / "in").mkdir()
    for number in range(20):  # more than are handed out at once
        (tmp_path / "in" / f"{number:02d}.dcm").write_bytes(bytes([number]) * 200)
    first_is_known, others = tmp_path / "known", set(psutil.Process().children())

    def hold_or_die(self, entry):
        if entry.number == 1:
            wait_until(first_is_known.exists, 20)
            os.kill(os.getpid(), signal.SIGKILL)
        return FileOutcome(entry.source, "ignored")

    def wait_for_death(counts):
        if counts.read == 1:
            first_is_known.touch()
            wait_until(lambda: set(psutil.Process().children()) == others, 20)

    monkeypatch.setattr(desk.Desk, "process", hold_or_die)  # forked workers inherit it
    out = tmp_path / "out"
    counts = deidentify_folder(tmp_path / "in", out, policy.policy, key, workers=2, report=wait_for_death)
    assert (counts.read, counts.ignored, counts.reasons) == (20, 19, {"decoder_crashed": 1})


def test_a_run_goes_on_where_another_was_stopped(source, tmp_path, trusting, key, monkeypatch):
    first = deidentify_folder(source, tmp_path / "out", trusting, key, workers=2)
    before = pd.read_parquet(tmp_path / "out" / "manifest.parquet")
    handling = pd.read_parquet(tmp_path / "out" / "handling.parquet")
    worked = []
    monkeypatch.setattr("qfundus.deidentify_folder.desk.clean_object", lambda *_: worked.append(1))
    again = deidentify_folder(source, tmp_path / "out", trusting, key)
    assert worked == []
    assert {**vars(again), "seconds": 0} == {**vars(first), "seconds": 0}
    pd.testing.assert_frame_equal(before, pd.read_parquet(tmp_path / "out" / "manifest.parquet"))
    pd.testing.assert_frame_equal(handling, pd.read_parquet(tmp_path / "out" / "handling.parquet"))


def test_what_has_changed_or_is_gone_is_done_again(source, tmp_path, trusting, key, photographs):
    deidentify_folder(source, tmp_path / "out", trusting, key)
    (source / "broken.dcm").write_bytes(to_bytes(make_eye(photographs, 9)))
    next((tmp_path / "out" / "clean").rglob("*.dcm")).unlink()
    counts = deidentify_folder(source, tmp_path / "out", trusting, key)
    assert (counts.read, counts.clean, counts.quarantined) == (10, 5, 1)
    assert len(tree(tmp_path / "out")) == 5
    assert len(list((tmp_path / "out" / "quarantine").glob("*.json"))) == 1


def test_a_corrected_file_takes_the_place_of_what_it_was(source, tmp_path, trusting, key, photographs):
    deidentify_folder(source, tmp_path / "out", trusting, key)
    corrected = make_eye(photographs, 1)
    corrected.ImageLaterality = "L"
    (source / "a" / "b" / "1").write_bytes(to_bytes(corrected))
    counts = deidentify_folder(source, tmp_path / "out", trusting, key)
    assert counts.reasons["conflicting_instance"] == 1  # the other one's, as before
    sides = [pydicom.dcmread(file).ImageLaterality for file in (tmp_path / "out" / "clean").rglob("*.dcm")]
    assert sorted(sides).count("L") == 1


def test_what_conflicts_takes_the_first_one_s_place_when_it_is_released(source, tmp_path, trusting, key):
    deidentify_folder(source, tmp_path / "out", trusting, key)
    held = FolderQuarantine(tmp_path / "out", key)
    [conflicting] = [item.source for item in held.list() if item.reason == "conflicting_instance"]
    held.release(conflicting, "It is the right one.")
    for _ in range(2):
        counts = deidentify_folder(source, tmp_path / "out", trusting, key)
        assert "conflicting_instance" not in counts.reasons
    sides = [pydicom.dcmread(file).ImageLaterality for file in (tmp_path / "out" / "clean").rglob("*.dcm")]
    assert sides.count("L") == 1


def test_what_is_clean_of_inputs_that_are_gone_is_told(source, tmp_path, trusting, key, capsys):
    deidentify_folder(source, tmp_path / "out", trusting, key)
    assert "that are gone" not in capsys.readouterr().out
    (source / "a" / "b" / "1").unlink()
    deidentify_folder(source, tmp_path / "out", trusting, key)
    assert "that are gone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "kind", "detail"),
    [
        ("eye.gif", "GIF", "it is a GIF picture: save it as .png"),
        ("eye.jfif", "JPEG", "it is a JPEG picture: let its name end so"),
        ("eye", "PNG", "it is a PNG picture"),
        ("eye.webp", "WEBP", "it is a WEBP picture"),
    ],
)
def test_a_picture_under_another_name_is_held_and_says_what_it_is(name, kind, detail, tmp_path, trusting, key):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "in" / name, kind)
    counts = deidentify_folder(tmp_path / "in", tmp_path / "out", trusting, key)
    assert counts.reasons == {"not_dicom": 1}
    assert detail in next((tmp_path / "out" / "quarantine").glob("*.json")).read_text()


def test_of_a_file_with_several_pictures_none_is_lost(tmp_path, trusting, key):
    (tmp_path / "in").mkdir()
    pages = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "in" / "eyes.tiff", save_all=True, append_images=pages[1:])
    (tmp_path / "in" / "eyes.json").write_text('{"PatientID": "1", "ImageLaterality": "R"}')
    deidentify_folder(tmp_path / "in", tmp_path / "out", trusting, key)
    assert "several pictures" in next((tmp_path / "out" / "quarantine").glob("*.json")).read_text()


def test_a_target_of_another_policy_or_key_is_refused(source, tmp_path, trusting, policy, key):
    deidentify_folder(source, tmp_path / "out", trusting, key)
    for other in ((policy.policy, key), (trusting, SiteKey(b"k" * 32))):
        with pytest.raises(SetupError, match="another policy, key"):
            deidentify_folder(source, tmp_path / "out", *other)


def test_a_person_decides_about_what_is_in_quarantine(tmp_path, photographs, policy, key):
    (tmp_path / "in").mkdir()
    for number in range(2):
        eye = to_bytes(make_eye(photographs, number))
        (tmp_path / "in" / f"{number}.dcm").write_bytes(eye[:-3000] if number else eye)
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("qfundus.dicom.clean.remove_burned_in_text", hold)
        counts = deidentify_folder(tmp_path / "in", out, policy.policy, key, workers=1)
    assert counts.quarantined == 2
    held = FolderQuarantine(out, key)
    by_reason = {item.reason: item.source for item in held.list()}
    source = by_reason["burned_in_text"]
    assert held.show(source, "A look.") == (tmp_path / "in" / "0.dcm").read_bytes()
    with pytest.raises(SetupError, match="another key"):
        FolderQuarantine(out, SiteKey(b"k" * 32)).show(source, "A look.")
    held.release(source, "It is the optic disc.")
    held.drop(by_reason["truncated"], "Nobody needs it.")
    for nothing in (source, "../../x"):
        with pytest.raises(LookupError):
            held.drop(nothing, "It is gone.")
    assert held.list() == []
    for _ in range(2):
        counts = deidentify_folder(tmp_path / "in", out, policy.policy, key, workers=1)
        assert (counts.clean, counts.quarantined, counts.ignored) == (1, 0, 1)
    trail = AuditTrail(FolderStore(out), AUDIT, key)
    assert trail.verify() == []
    codes = [record.event["type"]["code"] for record in trail.records()]
    assert codes == ["110106", "110103", "110103", "110103", "110106", "110106"]


def hold(_):
    raise Discard("burned_in_text", "It looks like text.")


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_policy_has_one_digest_in_every_process(hash_seed, policy):
    code = "from qfundus.deidentify_folder.manifest import made_by; from qfundus.dicom.policy import load_policy; "
    code += "from qfundus.layout import policy_file; print(made_by(load_policy(policy_file()))['policy_digest'])"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert printed.stdout.strip() == made_by(policy.policy)["policy_digest"]


@pytest.mark.slow
def test_a_run_that_was_killed_leaves_no_process_and_is_finished_by_the_next(tmp_path, photographs, key):
    (tmp_path / "in").mkdir()
    for number in range(24):
        (tmp_path / "in" / f"{number:03d}.dcm").write_bytes(to_bytes(make_eye(photographs, number)))
    (tmp_path / "key").write_text(key.secret.hex())
    command = [sys.executable, "-c", "from qfundus.cli import run; run()", "deidentify"]
    command += [str(tmp_path / "in"), str(tmp_path / "out"), "--key-file", str(tmp_path / "key"), "--workers", "2"]
    started = subprocess.Popen(command)
    while not list((tmp_path / "out").rglob("clean/*/*/*.dcm")):
        assert started.poll() is None
        time.sleep(0.01)
    children = psutil.Process(started.pid).children()
    started.kill()
    started.wait()
    assert len(children) == 2
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    finished = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    printed = json.loads(finished.stdout.splitlines()[-1])
    # The detector takes some phantom eyes for text, which stand in where there are no real ones.
    assert (printed["read"], printed["clean"] + printed["quarantined"], printed["duplicates"]) == (24, 24, 0), printed
    assert len(tree(tmp_path / "out")) == printed["clean"] > 20


def test_the_quarantine_of_a_folder_is_listed_with_reason_and_remedy(tmp_path, wrapped, policy, key):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "eye.dcm").write_bytes(to_bytes(wrapped)[:900])
    deidentify_folder(tmp_path / "in", tmp_path / "out", policy.policy, key)
    (tmp_path / "key").write_text(bytes(range(32)).hex())
    words = "quarantine", "list", "--folder", tmp_path / "out", "--key-file", tmp_path / "key"
    [item] = map(json.loads, call(*words, "--json").stdout.splitlines())
    assert item.keys() == {"source", "reason", "detail", "remedy"}
    assert REMEDIES[item["reason"]] == item["remedy"]
    assert item["source"] in call(*words).stdout


def decide(out, key, decision):
    quarantine = FolderQuarantine(out, key)
    [item] = quarantine.list()
    getattr(quarantine, decision)(item.source, "looked at it")


def test_a_release_holds_for_the_content_that_was_looked_at(tmp_path, photographs, policy, key):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    burned_in = to_bytes(make_eye(photographs, burned_in=True))
    (folder / "eye.dcm").write_bytes(burned_in[:900])
    assert deidentify_folder(folder, out, policy.policy, key).quarantined == 1
    decide(out, key, "release")
    (folder / "eye.dcm").write_bytes(burned_in)
    deidentify_folder(folder, out, policy.policy, key)
    assert pd.read_parquet(out / "manifest.parquet")["redacted"].sum() > 0


def test_a_folder_that_cannot_be_read_is_held(source, tmp_path, trusting, key, monkeypatch):
    (source / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):  # root may read any folder
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (source / "linked").symlink_to(tmp_path)
    counts = deidentify_folder(source, tmp_path / "out", trusting, key)
    assert counts.reasons["unreadable_file"] == 1
    assert counts.ignored == 4


def test_two_members_of_one_name_are_two_inputs(tmp_path, trusting, key, photographs):
    (tmp_path / "in").mkdir()
    first, second = (to_bytes(make_eye(photographs, number))[:-3000] for number in range(2))
    with zipfile.ZipFile(tmp_path / "in" / "two.zip", "w") as archive:
        archive.writestr("x.dcm", first)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.dcm", second)
    assert deidentify_folder(tmp_path / "in", tmp_path / "out", trusting, key).quarantined == 2
    assert len(FolderQuarantine(tmp_path / "out", key).list()) == 2


def test_a_sidecar_that_comes_later_is_read(tmp_path, trusting, key, photographs):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(photographs.images[0]).resize((280, 280)).save(folder / "eye.jpg")
    assert deidentify_folder(folder, tmp_path / "out", trusting, key).reasons == {"missing_patient_id": 1}
    (folder / "eye.json").write_text(json.dumps({"PatientID": "4711", "ImageLaterality": "R"}))
    assert deidentify_folder(folder, tmp_path / "out", trusting, key).clean == 1


def test_two_runs_do_not_share_a_target(source, tmp_path, trusting, key):
    def begin_another(_):
        with pytest.raises(SetupError, match="Another run"):
            deidentify_folder(source, tmp_path / "out", trusting, key)

    deidentify_folder(source, tmp_path / "out", trusting, key, report=begin_another)


def test_a_broken_zip_file_is_called_so(tmp_path, trusting, key):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.zip").write_bytes(b"PK\3\4" + b"x" * 900)
    assert deidentify_folder(tmp_path / "in", tmp_path / "out", trusting, key).reasons == {"unreadable_file": 1}
