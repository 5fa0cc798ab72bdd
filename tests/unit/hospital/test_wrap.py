import io
import subprocess

import numpy as np
import pydicom
import pytest
from debian import needs

from qfundus.errors import SetupError
from qfundus.hospital.photographs import Photographs, draw_phantoms, read_photographs
from qfundus.hospital.wrap import SHEET_NAME, wrap_photographs, write_hospital


@pytest.fixture(scope="module")
def eyes(photographs):
    few = Photographs(photographs.images[:40], photographs.grades[:40], "test")
    return list(wrap_photographs(few, burned_share=0.25))


@needs("dciodvfy")
def test_every_wrapped_eye_is_valid(eyes, tmp_path):
    for eye in eyes[:6]:
        file = tmp_path / "eye.dcm"
        file.write_bytes(eye.data)
        report = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False).stderr
        assert "OphthalmicPhotography8BitImage" in report
        assert not [line for line in report.splitlines() if line.startswith("Error")]


def test_identity_is_everywhere_a_hospital_puts_it(eyes):
    eye = pydicom.dcmread(io.BytesIO(eyes[0].data))
    for keyword in (
        "PatientName",
        "PatientBirthDate",
        "InstitutionName",
        "ReferringPhysicianName",
        "DeviceSerialNumber",
    ):
        assert eye[keyword].value
    assert [element for element in eye if element.tag.is_private]
    assert str(eye.PatientName.family_name) in eyes[0].file_name


def test_both_eyes_of_a_visit_are_one_patient(eyes):
    right, left = (pydicom.dcmread(io.BytesIO(eye.data)) for eye in eyes[:2])
    assert (right.ImageLaterality, left.ImageLaterality) == ("R", "L")
    assert right.PatientID == left.PatientID
    assert right.StudyInstanceUID == left.StudyInstanceUID
    assert right.SOPInstanceUID != left.SOPInstanceUID


def test_the_stated_share_has_a_name_burned_in(eyes):
    assert 3 <= sum(eye.burned_in for eye in eyes) <= 18


def test_the_same_seed_wraps_the_same_bytes(photographs, eyes):
    few = Photographs(photographs.images[:40], photographs.grades[:40], "test")
    assert [eye.data for eye in wrap_photographs(few, burned_share=0.25)] == [eye.data for eye in eyes]


def test_the_sheet_grades_every_eye(eyes, tmp_path):
    write_hospital(iter(eyes), tmp_path)
    rows = (tmp_path / SHEET_NAME).read_text().splitlines()
    assert rows[0] == "SOPInstanceUID,grade,grader,date"
    assert len(rows) == 41


def test_phantoms_say_that_they_are_phantoms():
    drawn = draw_phantoms(4)
    assert drawn.phantom
    eye = pydicom.dcmread(io.BytesIO(next(iter(wrap_photographs(drawn))).data))
    assert eye.Manufacturer == "PHANTOM"
    assert "PHANTOM" in eye.ImageComments


def test_photographs_come_from_a_folder_with_labels(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text("file,grade\na.png,3\n")
    assert read_photographs(tmp_path).grades == [3]


def test_wrong_input_names_the_remedy(tmp_path):
    with pytest.raises(SetupError, match=r"labels\.csv"):
        read_photographs(tmp_path)
    (tmp_path / "x.npz").write_bytes(b"no zip")
    with pytest.raises(SetupError, match="not a MedMNIST"):
        read_photographs(tmp_path / "x.npz")
