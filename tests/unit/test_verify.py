import hashlib
import io
import json

import pandas as pd
import pydicom
import pytest
from conftest import REAL_DATA, make_eye
from leaks import LEAKS
from PIL import Image

from qfundus.errors import SetupError
from qfundus.hospital.wrap import to_bytes
from qfundus.ingestion.folder import deidentify_folder
from qfundus.layout import policy_file
from qfundus.verify import verify_folder

SAMPLES = REAL_DATA.parent / "dicom" / "samples"


@pytest.fixture
def deidentified(tmp_path, photographs, policy, key):
    """A folder of originals and the clean one made of it."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.dcm").write_bytes(to_bytes(make_eye(photographs, number)))
    deidentify_folder(tmp_path / "in", tmp_path / "out", policy.policy.trusting_pixels(), key)
    return tmp_path


def verify(folder):
    return verify_folder(folder / "out", folder / "in", policy_file())


def test_a_clean_folder_has_no_leak(deidentified):
    verdict = verify(deidentified)
    assert (verdict.files, verdict.unmatched, verdict.leaks) == (3, 0, [])


def test_who_is_on_a_plain_photograph_is_known_from_its_sidecar(tmp_path, photographs, policy, key):
    (tmp_path / "in").mkdir()
    Image.fromarray(photographs.images[0]).resize((280, 280)).save(tmp_path / "in" / "eye.jpg")
    said = {"PatientID": "471100815", "PatientName": "Brandvold^Jane", "ImageLaterality": "R"}
    (tmp_path / "in" / "eye.json").write_text(json.dumps(said))
    deidentify_folder(tmp_path / "in", tmp_path / "out", policy.policy.trusting_pixels(), key)
    verdict = verify(tmp_path)
    assert (verdict.files, verdict.unmatched, verdict.leaks) == (1, 0, [])
    [file] = (tmp_path / "out").rglob("*.dcm")
    clean = pydicom.dcmread(file)
    clean.ImageComments = "seen with brandvold"
    clean.save_as(file)
    (tmp_path / "out" / "manifest.parquet").unlink()
    assert any("identifi" in leak.kind for leak in verify(tmp_path).leaks)


def test_a_policy_that_is_none_is_one_clear_message(deidentified):
    with pytest.raises(SetupError, match="cannot be read"):
        verify_folder(deidentified / "out", deidentified / "in", deidentified / "out" / "manifest.parquet")


SPOILED = {
    "PatientBirthDate": ("PatientBirthDate", "19570312", "E.1-1 Z"),
    "PatientAddress": ("PatientAddress", "somewhere", "E.1-1 X"),
    "a comment": ("ImageComments", "seen with {PatientName}", "identifier"),
    "a UID": ("FrameOfReferenceUID", "{SOPInstanceUID}", "UID"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_leak_is_found_in(deidentified, photographs, what):
    keyword, value, said = SPOILED[what]
    original = make_eye(photographs)
    known = {e.keyword: str(e.value) for e in original if e.keyword in {"PatientName", "SOPInstanceUID", "StudyDate"}}
    file = next(f for f in (deidentified / "out").rglob("*.dcm"))
    clean = pydicom.dcmread(file)
    setattr(clean, keyword, value.format(**known))
    clean.save_as(file)
    (deidentified / "out" / "manifest.parquet").unlink()  # unmatched: anybody's identity counts
    [leak, *_] = verify(deidentified).leaks
    assert said in leak.kind
    assert known["PatientName"] not in str(leak)


def test_a_date_that_was_not_shifted_is_found(deidentified, photographs):
    manifest = pd.read_parquet(deidentified / "out" / "manifest.parquet")
    for file in (deidentified / "out").rglob("*.dcm"):
        before = hashlib.sha256(file.read_bytes()).hexdigest()
        clean = pydicom.dcmread(file)
        clean.StudyDate = make_eye(photographs).StudyDate
        clean.save_as(file)
        manifest = manifest.replace(before, hashlib.sha256(file.read_bytes()).hexdigest())
    manifest.to_parquet(deidentified / "out" / "manifest.parquet")
    assert {(leak.where, leak.kind) for leak in verify(deidentified).leaks} == {("StudyDate", "a date of the original")}


@pytest.mark.parametrize(
    "leak", ["private blocks", "overlay data", "curve data", "JPEG comment", "XMP", "preamble", "group 0002"]
)
def test_what_the_writer_would_remove_is_found_where_it_stays(tmp_path, photographs, leak):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    data = LEAKS[leak](make_eye(photographs))
    (tmp_path / "in" / "x.dcm").write_bytes(data)
    (tmp_path / "out" / "x.dcm").write_bytes(data)
    clean = pydicom.dcmread(io.BytesIO(data))
    places = {found.where.split()[0] for found in verify(tmp_path).leaks}
    expected = {"JPEG comment": "frame", "XMP": "frame", "preamble": "preamble", "group 0002": "file"}
    expected |= {"private blocks": "(0099,0010)", "overlay data": "(6000,3000)", "curve data": "(5000,3000)"}
    assert clean.SOPInstanceUID
    assert expected[leak] in places


@pytest.mark.skipif(not SAMPLES.exists(), reason="The 77 DICOM samples are not at hand")
def test_every_sample_and_test_file_is_clean_or_in_quarantine(tmp_path, policy, key):
    from pathlib import Path

    from pydicom.data import get_testdata_file

    shipped = Path(str(get_testdata_file("CT_small.dcm"))).parent
    for name, source in (("samples", SAMPLES), ("pydicom", shipped)):
        counts = deidentify_folder(source, tmp_path / name, policy.policy, key, workers=2)
        assert counts.read == counts.clean + counts.quarantined + counts.duplicates + counts.ignored
        assert counts.clean > 50
        verdict = verify_folder(tmp_path / name, source, policy_file())
        assert (verdict.files, verdict.unmatched) == (counts.clean, 0)
        assert verdict.leaks == []
