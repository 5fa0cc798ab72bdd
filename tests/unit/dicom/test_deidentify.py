import io
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from conftest import make_eye
from poison import MARK, marks, poison

from qfundus.dicom.deidentify import deidentify_eye, shift_date, to_bytes
from qfundus.dicom.read import read_eye, read_pixels


@pytest.fixture
def clean(wrapped, policy, key):
    return deidentify_eye(wrapped, policy, key)


def test_nothing_of_a_poisoned_study_gets_past(photographs, policy, key):
    data = poison(make_eye(photographs))
    assert data.count(MARK.encode()) > 30
    out = to_bytes(deidentify_eye(read_eye(data), policy, key))
    assert [mark for mark in marks() if mark in out] == []


def test_only_attributes_of_the_policy_remain(clean, policy):
    assert {element.keyword for element in clean} <= set(policy.attributes)
    assert not [element for element in clean.iterall() if element.tag.is_private]


def test_the_photograph_stays_as_it_was_pixel_by_pixel(wrapped, clean):
    assert np.array_equal(read_pixels(wrapped), read_pixels(clean))


def test_what_the_grader_needs_remains(clean):
    assert (clean.Manufacturer, clean.ManufacturerModelName) == ("TOPCON", "TRC-NW400")
    assert clean.ImageLaterality == "R"
    assert clean.HorizontalFieldOfView == 45
    assert clean.AnatomicRegionSequence[0].CodeMeaning == "Eye"


def test_equal_input_gives_equal_bytes(wrapped, policy, key):
    first, second = (to_bytes(deidentify_eye(wrapped, policy, key)) for _ in range(2))
    assert first == second


def test_the_input_stays_untouched(wrapped, policy, key):
    before = wrapped.to_json()
    deidentify_eye(wrapped, policy, key)
    assert wrapped.to_json() == before


def test_intervals_between_visits_are_kept(photographs, policy, key):
    early, late = make_eye(photographs), make_eye(photographs)
    late.AcquisitionDateTime = "20260604091700"
    days = [
        np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:8]}")
        for text in (deidentify_eye(eye, policy, key).AcquisitionDateTime for eye in (early, late))
    ]
    assert days[1] - days[0] == np.timedelta64(31, "D")
    assert str(days[0]) != "2026-05-04"


@pytest.mark.parametrize(("age", "kept"), [("072Y", "072Y"), ("089Y", "089Y"), ("093Y", "090Y"), ("SMITH", None)])
def test_ages_above_89_are_one_group(wrapped, policy, key, age, kept):
    wrapped["PatientAge"].value = age
    assert (deidentify_eye(wrapped, policy, key).PatientAge or None) == kept


def test_numbers_outside_their_range_are_emptied(wrapped, policy, key):
    wrapped.HorizontalFieldOfView = 18347330.0
    assert deidentify_eye(wrapped, policy, key).HorizontalFieldOfView is None


def test_a_vendor_that_is_not_listed_is_emptied(wrapped, policy, key):
    wrapped.Manufacturer = "Kowalczyk Optics"
    assert not deidentify_eye(wrapped, policy, key).Manufacturer


def test_uncompressed_pixels_lose_the_bytes_behind_the_image(wrapped, policy, key):
    wrapped.decompress()
    wrapped.PixelData += MARK.encode() + b"\0"
    out = deidentify_eye(wrapped, policy, key)
    assert MARK.encode() not in to_bytes(out)
    assert np.array_equal(read_pixels(out), read_pixels(wrapped))


@pytest.mark.parametrize("text", ["", "yesterday", "00000000"])
def test_a_date_that_is_none_becomes_empty(text):
    assert shift_date(text, 3) == ""


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of Debian's dicom3tools is not installed")
def test_the_result_is_a_valid_ophthalmic_photograph(clean, tmp_path):
    file = tmp_path / "clean.dcm"
    file.write_bytes(to_bytes(clean))
    said = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False).stderr
    assert "OphthalmicPhotography8BitImage" in said
    assert not [line for line in said.splitlines() if line.startswith("Error")]


def test_the_result_can_be_read_again(clean):
    assert pydicom.dcmread(io.BytesIO(to_bytes(clean))).PatientIdentityRemoved == "YES"
