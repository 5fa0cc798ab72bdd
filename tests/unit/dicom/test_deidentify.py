import io
import subprocess

import numpy as np
import pydicom
import pytest
from conftest import make_eye
from debian import needs
from poison import MARK, marks, poison
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.deidentify import deidentify
from qfundus.dicom.read import read_eye, read_pixels
from qfundus.dicom.values import shift_date
from qfundus.errors import Discard
from qfundus.hospital.wrap import to_bytes
from qfundus.security.keys import SiteKey


@pytest.fixture
def clean(policy, key):
    def clean(eye, chosen=policy, own=key):
        data = eye if isinstance(eye, bytes) else to_bytes(eye)
        return pydicom.dcmread(io.BytesIO(deidentify(data, chosen, own).to_bytes()))

    return clean


def with_options(policy, **options):
    return CompiledPolicy(
        policy.policy.model_copy(update={"options": policy.policy.options.model_copy(update=options)})
    )


def test_nothing_of_a_poisoned_study_gets_past(photographs, policy, key):
    data = poison(make_eye(photographs))
    assert data.count(MARK.encode()) > 30
    out = deidentify(data, policy, key).to_bytes()
    assert [mark for mark in marks() if mark in out] == []


def test_the_photograph_stays_as_it_was_pixel_by_pixel(wrapped, clean):
    assert np.array_equal(read_pixels(wrapped), read_pixels(clean(wrapped)))


def test_what_the_grader_needs_remains(wrapped, clean):
    out = clean(wrapped)
    assert (out.Manufacturer, out.ManufacturerModelName) == ("TOPCON", "TRC-NW400")
    assert out.ImageLaterality == "R"
    assert out.HorizontalFieldOfView == 45
    assert out.AnatomicRegionSequence[0].CodeMeaning == "Eye"
    assert out.PatientSex == wrapped.PatientSex


def test_equal_input_gives_equal_bytes(wrapped, policy, key):
    data = to_bytes(wrapped)
    assert deidentify(data, policy, key).to_bytes() == deidentify(data, policy, key).to_bytes()


def test_a_second_time_keeps_everything_but_the_pseudonyms(wrapped, clean):
    once = clean(wrapped)
    again = clean(once)
    changed = {e.keyword for e in once.iterall() if e.keyword not in again or again[e.keyword] != e}
    assert changed <= {
        *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SynchronizationFrameOfReferenceUID"),
        *(
            "PatientID",
            "PatientName",
            "StudyDate",
            "ContentDate",
            "SeriesDate",
            "AcquisitionDate",
            "AcquisitionDateTime",
        ),
        *(
            "CodeValue",
            "CodeMeaning",
            "CodingSchemeDesignator",
            "RequestedProcedureDescription",
            "InstanceCreationDate",
        ),
    }


def test_two_sites_never_collide(wrapped, clean):
    one, other = clean(wrapped, own=SiteKey(b"1" * 32)), clean(wrapped, own=SiteKey(b"2" * 32))
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert one[keyword].value != other[keyword].value


def test_order_and_intervals_between_visits_are_kept(photographs, clean):
    early, late = make_eye(photographs), make_eye(photographs)
    late.AcquisitionDateTime = "20260604091700"
    days = [np.datetime64(f"{t[:4]}-{t[4:6]}-{t[6:8]}") for t in (clean(e).AcquisitionDateTime for e in (early, late))]
    assert days[1] - days[0] == np.timedelta64(31, "D")
    assert str(days[0]) != "2026-05-04"


@pytest.mark.parametrize(("age", "kept"), [("072Y", "072Y"), ("089Y", "089Y"), ("093Y", "090Y"), ("SMITH", "")])
def test_ages_above_89_are_one_group(wrapped, clean, age, kept):
    wrapped["PatientAge"].value = age
    assert clean(wrapped).PatientAge == kept


def test_uncompressed_pixels_lose_the_bytes_behind_the_image(wrapped, policy, key):
    wrapped.decompress()
    wrapped.PixelData += MARK.encode() + b"\0"
    out = deidentify(to_bytes(wrapped), policy, key).to_bytes()
    assert MARK.encode() not in out
    assert np.array_equal(pixel_array(io.BytesIO(out)), wrapped.pixel_array)


@pytest.mark.parametrize(("date", "shifted"), [("20260301", "20260226"), ("20260230", ""), ("00000000", "")])
def test_a_date_that_is_none_becomes_empty(date, shifted):
    assert shift_date(date, -3) == shifted


def test_what_was_done_is_said_in_the_object(wrapped, clean):
    out = clean(wrapped)
    codes = [item.CodeValue for item in out.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113101", "113103", "113104", "113105", "113107", "113108", "113111"]
    assert {item.CodingSchemeDesignator for item in out.DeidentificationMethodCodeSequence} == {"DCM"}
    assert (out.PatientIdentityRemoved, out.BurnedInAnnotation) == ("YES", "NO")
    assert out.LongitudinalTemporalInformationModified == "MODIFIED"
    assert "PS3.15 2025a" in out.DeidentificationMethod


def test_options_are_switches(wrapped, clean, policy):
    full = clean(wrapped, with_options(policy, retain_modified_dates=False, retain_full_dates=True))
    none = clean(wrapped, with_options(policy, retain_modified_dates=False, retain_patient_characteristics=False))
    device = clean(wrapped, with_options(policy, retain_device_identity=True, retain_uids=True))
    words = clean(wrapped, with_options(policy, clean_descriptors=False))
    assert (full.StudyDate, full.LongitudinalTemporalInformationModified) == (wrapped.StudyDate, "UNMODIFIED")
    assert (none.StudyDate, none.LongitudinalTemporalInformationModified) == ("", "REMOVED")
    assert "PatientAge" not in none
    assert not none.PatientSex
    assert device.DeviceSerialNumber == wrapped.DeviceSerialNumber
    assert device.SOPInstanceUID == wrapped.SOPInstanceUID
    assert "StudyDescription" not in words


def test_a_retained_uid_that_is_none_is_mapped_all_the_same(wrapped, policy, key):
    wrapped.SOPInstanceUID = "../../../etc/1.2.3"
    wrapped.StudyInstanceUID = "1.2.3"
    done = deidentify(to_bytes(wrapped), with_options(policy, retain_uids=True), key)
    assert done.instance.startswith("2.25.")
    assert done.study == "1.2.3"


def test_conditional_codes_follow_the_type_in_the_iod(wrapped, clean):
    out = clean(wrapped)
    # X/Z/D: type 3 in General Equipment, so it goes; type 1 in the Enhanced General Equipment of a tomogram.
    assert "DeviceSerialNumber" not in out
    wrapped.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.4"
    assert clean(wrapped).DeviceSerialNumber == "REMOVED"


def test_listed_private_elements_stay_and_others_go(wrapped, clean):
    block = wrapped.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", 1000)
    block.add_new(0x0B, "DS", 3)
    out = clean(wrapped)
    kept = out.private_block(0x0019, "SIEMENS MR HEADER")
    assert kept[0x0C].value == 1000
    assert 0x0B not in kept


def test_references_stay_consistent_within_and_between_objects(photographs, clean):
    one, other = make_eye(photographs), make_eye(photographs, 1)
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = other.SOPClassUID, other.SOPInstanceUID
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = other.SeriesInstanceUID, [item]
    one.ReferencedSeriesSequence = [series]
    kept = clean(one).ReferencedSeriesSequence[0]
    assert kept.SeriesInstanceUID == clean(other).SeriesInstanceUID
    assert kept.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == clean(other).SOPInstanceUID
    assert kept.ReferencedInstanceSequence[0].ReferencedSOPClassUID == other.SOPClassUID


def test_elements_out_of_order_are_put_in_order(wrapped, policy, key):
    data = to_bytes(wrapped)
    sex = data.index(b"\x10\x00\x40\x00CS")
    end = sex + 8 + int.from_bytes(data[sex + 6 : sex + 8], "little")
    first = data.index(b"\x08\x00\x05\x00CS")
    swapped = data[:first] + data[sex:end] + data[first:sex] + data[end:]
    assert deidentify(swapped, policy, key).to_bytes() == deidentify(data, policy, key).to_bytes()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda data: data[:701], "truncated"),
        (lambda data: b"x" * 2000, "not_dicom"),
        (
            lambda data: data.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.99999.1.2.4.50"),
            "unsupported_transfer_syntax",
        ),
        (
            lambda data: data.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.94"),
            "unsupported_transfer_syntax",
        ),
    ],
)
def test_what_cannot_be_understood_is_refused(wrapped, policy, key, fault, reason):
    with pytest.raises(Discard) as refused:
        deidentify(fault(to_bytes(wrapped)), policy, key).to_bytes()
    assert refused.value.reason == reason


@pytest.mark.slow
def test_a_deflate_bomb_is_refused_before_it_fills_the_memory(policy, key):
    import zlib

    from pydicom.uid import DeflatedExplicitVRLittleEndian

    eye = Dataset()
    eye.SOPClassUID, eye.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    eye.file_meta = pydicom.dataset.FileMetaDataset()
    eye.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    eye.save_as(buffer, enforce_file_format=True, implicit_vr=False, little_endian=True)
    deflater = zlib.compressobj(1, wbits=-15)
    bomb = b"".join(deflater.compress(bytes(1 << 24)) for _ in range(80)) + deflater.flush()
    buffer.seek(0)
    meta = 144 + pydicom.dcmread(buffer).file_meta.FileMetaInformationGroupLength
    with pytest.raises(Discard, match="too_large"):
        deidentify(buffer.getvalue()[:meta] + bomb, policy, key)


def test_reading_back_is_possible_by_others(wrapped, policy, key):
    assert read_eye(deidentify(to_bytes(wrapped), policy, key).to_bytes()).PatientIdentityRemoved == "YES"


@needs("dciodvfy")
def test_the_result_is_a_valid_ophthalmic_photograph(wrapped, policy, key, tmp_path):
    file = tmp_path / "clean.dcm"
    file.write_bytes(deidentify(to_bytes(wrapped), policy, key).to_bytes())
    report = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False).stderr
    assert "OphthalmicPhotography8BitImage" in report
    assert not [line for line in report.splitlines() if line.startswith("Error")]
