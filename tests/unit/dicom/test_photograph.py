import io
import json
import subprocess

import numpy as np
import pydicom
import pytest
from debian import needs
from PIL import Image

from qfundus.dicom.deidentify import deidentify
from qfundus.dicom.photograph import make_object, sidecar_of
from qfundus.dicom.read import read_eye, read_pixels
from qfundus.errors import Discard

SAID = {"PatientID": "4711", "PatientName": "Doe^Jane", "ImageLaterality": "L", "StudyDate": "20260504"}


def encoded(pixels, kind="JPEG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def described(text):
    exif = Image.Exif()
    exif[0x010E], exif[0x010F] = text, "Brannoc"
    exif.get_ifd(0x8769)[0x9003] = "2026:05:04 09:17:00"
    return exif


@pytest.fixture
def pixels(photographs):
    return np.asarray(Image.fromarray(photographs.images[0]).resize((280, 240)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_photograph_becomes_an_object_with_the_same_pixels(pixels, kind):
    data = encoded(pixels, kind)
    eye = read_eye(make_object(data, json.dumps(SAID).encode()))
    assert np.abs(read_pixels(eye).astype(int) - np.asarray(Image.open(io.BytesIO(data)))).mean() < 1
    assert (eye.PatientID, eye.ImageLaterality, eye.StudyDate) == ("4711", "L", "20260504")


def test_a_baseline_jpeg_is_taken_as_it_is(pixels):
    data = encoded(pixels)
    eye = pydicom.dcmread(io.BytesIO(make_object(data, json.dumps(SAID).encode())))
    assert next(pydicom.encaps.generate_frames(eye.PixelData, number_of_frames=1)).rstrip(b"\0") == data.rstrip(b"\0")


def test_a_turned_photograph_is_set_upright(pixels):
    exif = described("PatientID=4711; ImageLaterality=R")
    exif[0x0112] = 6
    eye = read_eye(make_object(encoded(pixels, exif=exif), None))
    assert (eye.Rows, eye.Columns) == (280, 240)


def test_exif_says_what_a_sidecar_would(pixels):
    exif = described("PatientID=4711; ImageLaterality=R")
    eye = read_eye(make_object(encoded(pixels, exif=exif), None))
    assert (eye.PatientID, eye.ImageLaterality, eye.Manufacturer) == ("4711", "R", "Brannoc")
    assert (eye.StudyDate, eye.StudyTime) == ("20260504", "091700")


def test_the_same_photograph_is_the_same_instance_and_a_visit_one_study(pixels):
    sidecar = json.dumps(SAID).encode()
    first, again = (read_eye(make_object(encoded(pixels), sidecar)) for _ in range(2))
    other = read_eye(make_object(encoded(pixels[::-1]), sidecar))
    assert first.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    assert first.StudyInstanceUID == other.StudyInstanceUID


def test_nothing_of_the_person_is_left_once_it_is_clean(pixels, policy, key):
    exif = described("PatientID=4711; ImageLaterality=R; PatientName=Doe^Jane")
    done = deidentify(make_object(encoded(pixels, exif=exif), None), policy, key)
    written = b"".join(bytes(part) for part in done.parts())
    assert b"4711" not in written
    assert b"Doe" not in written
    assert b"Exif" not in written


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        (None, "missing_patient_id"),
        (b"{}", "missing_patient_id"),
        (b'{"PatientID": "4711"}', "missing_laterality"),
        (b"[1]", "unreadable_sidecar"),
        (b"\xff", "unreadable_sidecar"),
    ],
)
def test_what_says_too_little_is_refused(pixels, sidecar, reason):
    with pytest.raises(Discard) as refused:
        make_object(encoded(pixels), sidecar)
    assert refused.value.reason == reason


@pytest.mark.parametrize("data", [b"", b"Doe^Jane", b"\xff\xd8\xff\xe0" + b"Jane" * 100])
def test_what_is_no_photograph_is_refused_without_a_quotation(data):
    with pytest.raises(Discard) as refused:
        make_object(data, json.dumps(SAID).encode())
    assert "Jane" not in str(refused.value)


def test_a_bomb_is_refused():
    bomb = encoded(np.zeros((20000, 20000), np.uint8), "PNG")
    with pytest.raises(Discard) as refused:
        make_object(bomb, json.dumps(SAID).encode())
    assert refused.value.reason == "too_large"


def test_a_sidecar_has_the_name_of_its_photograph():
    assert sidecar_of("a.b/eye.v2.JPG") == "a.b/eye.v2.json"


@needs("dciodvfy")
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_object_is_valid(pixels, tmp_path, kind):
    file = tmp_path / "eye.dcm"
    file.write_bytes(make_object(encoded(pixels, kind), json.dumps(SAID).encode()))
    report = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False).stderr
    assert "OphthalmicPhotography8BitImage" in report
    assert not [line for line in report.splitlines() if line.startswith("Error")]
