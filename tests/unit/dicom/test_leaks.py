import io
import zlib

import numpy as np
import pydicom
import pytest
from conftest import make_eye
from leaky_objects import (
    BIRTH,
    LEAKS,
    RECORD,
    birth_date_in_comments_in_three_formats,
    hidden_bits,
    names_in_gb18030,
    names_in_iso_2022,
    uids_that_embed_a_record_number,
)
from poison import MARK
from pydicom.encaps import encapsulate, generate_frames

from qfundus.dicom.clean import clean_object
from qfundus.dicom.deidentify import deidentify
from qfundus.dicom.icc import reads_as_text, strip_icc
from qfundus.errors import Discard
from qfundus.hospital.wrap import to_bytes


@pytest.fixture
def eye(photographs):
    return make_eye(photographs)


def every_form(data):
    """Return the bytes of a file, inflated where they are deflated, in lower case."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    if dataset.file_meta.TransferSyntaxUID.is_deflated:
        meta = 144 + dataset.file_meta.FileMetaInformationGroupLength
        data = data[:meta] + zlib.decompressobj(-15).decompress(data[meta:])
    return data.lower()


@pytest.mark.parametrize("leak", LEAKS)
def test_identity_does_not_get_past_in(eye, policy, key, leak):
    planted = LEAKS[leak](eye)
    assert any(form in every_form(planted) for form in (MARK.lower().encode(), MARK.lower().encode("utf-16-le")))
    out = deidentify(planted, policy, key).to_bytes()
    assert MARK.lower().encode() not in every_form(out)
    assert pydicom.dcmread(io.BytesIO(out)).pixel_array.shape == (160, 160, 3)


def test_uids_that_embed_a_record_number_or_a_date_are_mapped(eye, policy, key):
    out = deidentify(uids_that_embed_a_record_number(eye), policy, key).to_bytes()
    assert RECORD.encode() not in out
    assert BIRTH.encode() not in out


def test_a_birth_date_in_three_formats_is_removed_and_the_words_stay(eye, policy, key):
    out = deidentify(birth_date_in_comments_in_three_formats(eye), policy, key).to_bytes()
    clean = pydicom.dcmread(io.BytesIO(out))
    assert b"1957" not in out
    assert clean.StudyDescription == "Fundus colour macula"
    assert clean.ImageComments == "that is or"


@pytest.mark.parametrize(("plant", "name"), [(names_in_gb18030, "王小东"), (names_in_iso_2022, "山田")])
def test_ideographic_names_go_wherever_they_stand(eye, policy, key, plant, name):
    planted = plant(eye)
    codec = "gb18030" if plant is names_in_gb18030 else "iso2022_jp"
    assert name.encode(codec) in planted
    out = deidentify(planted, policy, key).to_bytes()
    shifted = name.encode(codec) if plant is names_in_gb18030 else name.encode(codec)[3:-3]  # without the escapes
    assert shifted not in out
    assert b"Yamada" not in out


@pytest.mark.parametrize("date", ["\u662d\u548c36\u5e744\u670815\u65e5", "26 Farvardin 1340", "S36.4.15"])
def test_a_birth_date_in_another_calendar_is_removed(eye, policy, key, date):
    eye.SpecificCharacterSet = "ISO_IR 192"
    eye.PatientBirthDateInAlternativeCalendar = date
    out = deidentify(to_bytes(eye), policy, key).to_bytes()
    assert "PatientBirthDateInAlternativeCalendar" not in pydicom.dcmread(io.BytesIO(out))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SeriesNumber", "7654321"),
        ("ExposureTimeInms", 7654321.0),
        ("FrameTime", "7.654321E6"),
        ("FrameDelay", "76543.21"),
    ],
)
def test_a_record_number_is_known_however_it_is_written(eye, policy, key, keyword, value):
    eye.PatientID = "MRN0007654321"
    setattr(eye, keyword, value)
    clean = pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes()))
    assert clean.get(keyword) in (None, "")


@pytest.mark.parametrize(
    ("name", "written"),
    [("M\u00fcller^J\u00f6rg", "Mueller"), ("Mueller^Joerg", "M\u00fcller"), ("Muller", "m\u00fcller")],
)
def test_a_name_is_known_with_and_without_its_accents(eye, policy, key, name, written):
    eye.SpecificCharacterSet = "ISO_IR 192"
    eye.PatientName, eye.Manufacturer = name, f"Optics {written}"
    clean = pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes()))
    assert clean.Manufacturer == "Optics"


def test_a_name_is_known_in_an_item_with_a_character_set_of_its_own(eye, policy, key):
    eye.SpecificCharacterSet, eye.PatientName = "ISO_IR 100", "Br\u00e4ndvold^J\u00f6rg"
    item = eye.AnatomicRegionSequence[0]
    item.SpecificCharacterSet, item.ManufacturerModelName = "ISO_IR 192", "Br\u00e4ndvold"
    clean = pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes()))
    assert clean.AnatomicRegionSequence[0].ManufacturerModelName == ""


def test_an_ethnic_group_stays_with_the_patient_s_characteristics_and_a_name_in_it_goes(eye, policy, key):
    for written, left in (("Asian", "Asian"), ("African Caribbean", "African Caribbean"), ("Weatherwaxon", "")):
        eye.EthnicGroup = written
        clean = pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes()))
        assert (clean.get("EthnicGroup") or "") == left


def test_words_of_the_clinic_and_terms_of_the_standard_stay(eye, policy, key):
    description = "proliferative NPDR with drusen, microaneurysms and cotton wool spots, image quality good"
    eye.StudyDescription, eye.ImageType = description, ["ORIGINAL", "PRIMARY", "", "TILED_FULL"]
    clean = pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes()))
    assert clean.StudyDescription == description
    assert clean.ImageType[3] == "TILED_FULL"


def test_a_name_between_the_last_coded_block_and_the_end_of_the_image_holds_the_file(eye, policy, key):
    frame = next(generate_frames(eye.PixelData, number_of_frames=1)).rstrip(b"\0")
    eye.PatientName = MARK
    eye.PixelData = encapsulate([frame[:-2] + MARK.encode() + b"\xff\xd9"])
    with pytest.raises(Discard, match="name the patient"):
        deidentify(to_bytes(eye), policy, key).to_bytes()


def test_bytes_that_no_pixel_is_made_of_hold_the_file_whatever_they_say(photographs, policy, key, tmp_path):
    eye = make_eye(photographs)
    frame = next(generate_frames(eye.PixelData, number_of_frames=1)).rstrip(b"\0")
    eye.PixelData = encapsulate([frame[:-2] + b"seen by Ann, 12.3." + b"\xff\xd9"])
    with pytest.raises(Discard, match="that no pixel needs"):
        clean_object(to_bytes(eye), tmp_path / "clean.dcm", policy, key)


@pytest.mark.parametrize("time", ["570412", "471182.3", "126001", "2505"])
def test_a_time_that_there_is_not_goes(eye, policy, key, time):
    eye.StudyTime = time
    assert not pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes())).StudyTime


@pytest.mark.parametrize("time", ["235959.123456", "0000", "07"])
def test_a_time_that_there_is_stays(eye, policy, key, time):
    eye.StudyTime = time
    assert pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes())).StudyTime == time


@pytest.mark.parametrize(
    ("scheme", "code", "stays"),
    [
        ("SCT", "81745001", True),
        ("SCT", "1234567", False),  # the record number
        ("SCT", "WEATHERWAXON", False),
        ("DCM", "12041957", False),
        ("DCM", "111755", True),
        ("SRT", "T-AA000", True),
        ("SRT", "12-04-57", False),
        ("UCUM", "Rose-Baker", False),
        ("UCUM", "mm", True),
        ("LN", "555-0187", False),
        ("LN", "79887-5", True),
    ],
)
def test_a_code_has_the_form_of_its_scheme_and_is_no_number_of_the_patient(eye, policy, key, scheme, code, stays):
    eye.PatientID = "MRN1234567"
    item = eye.AnatomicRegionSequence[0]
    item.CodingSchemeDesignator, item.CodeValue = scheme, code
    clean = pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes()))
    assert (clean.AnatomicRegionSequence[0].CodeValue == code) is stays


@pytest.mark.parametrize("written", ["QUIBBLETHORP", "QuibbleZ 5", "img/Quibbleth", "ZEBQUI ZebuloniaQ", "LeeAnn77"])
def test_a_name_that_was_cut_off_or_joined_is_known(eye, policy, key, written):
    eye.PatientName = "Lee^Ann" if "Lee" in written else "Quibblethorpe^Zebulonia"
    eye.SoftwareVersions = written
    clean = pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes()))
    kept = str(clean.get("SoftwareVersions", "")).lower()
    assert not any(name in kept for name in ("quibbl", "zebulo", "leeann"))


@pytest.mark.parametrize("age", ["aged 95", "age 102", "age: 93", "Alter 91"])
def test_an_age_over_eighty_nine_goes_whatever_stands_before_it(eye, policy, key, age):
    eye.ImageComments = f"macula {age} drusen"
    clean = pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes()))
    assert not any(map(str.isdigit, clean.ImageComments))


@pytest.mark.parametrize(
    "tag", [b"XYZ \0\0\0\0" + b"\0" * 12 + b"Ann Lee", b"curv\0\0\0\0\0\0\0\0Ann Lee", b"text\0\0\0\0Ann Lee"]
)
def test_in_a_colour_profile_a_value_is_as_long_as_its_type_says(tag):
    header = b"\0" * 12 + b"mntrRGB XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 24 + b"\0\0\0\0Ann Lee" + b"\0" * 53
    profile = header + (1).to_bytes(4, "big") + b"rXYZ" + (144).to_bytes(4, "big") + len(tag).to_bytes(4, "big") + tag
    stripped = strip_icc(profile)
    assert b"Ann" not in stripped
    assert (b"rXYZ" in stripped) is not tag.startswith(b"text")


def test_a_palette_that_reads_as_text_is_none():
    ramp = np.arange(256, dtype=np.uint8).tobytes()
    assert not reads_as_text(ramp)
    assert not reads_as_text(np.arange(0, 65536, 256, dtype="<u2").tobytes())
    assert reads_as_text(ramp[:100] + b"CALL ROSE BAKER 555-0187" + ramp[124:])


def test_unused_high_bits_of_pixels_are_blank(eye, policy, key):
    planted = hidden_bits(eye)
    assert np.frombuffer(pydicom.dcmread(io.BytesIO(planted)).PixelData, np.uint16).max() > 4095
    clean = pydicom.dcmread(io.BytesIO(deidentify(planted, policy, key).to_bytes()))
    assert set(np.frombuffer(clean.PixelData, np.uint16)) == {100}


def test_a_patient_called_by_a_common_word_loses_the_name_and_keeps_the_codes(eye, policy, key):
    eye.PatientName = "Eye^Retina"
    eye.SeriesDescription = "Retina of Mrs Eye, left"
    eye.AnatomicRegionSequence[0].CodeMeaning = "Eye"
    clean = pydicom.dcmread(io.BytesIO(deidentify(to_bytes(eye), policy, key).to_bytes()))
    assert clean.SeriesDescription == "of left"
    assert clean.AnatomicRegionSequence[0].CodeMeaning == "Eye"


def test_names_of_files_and_folders_are_never_used(photographs, policy, key, tmp_path):
    import zipfile

    from qfundus.deidentify_folder.run import deidentify_folder

    source = tmp_path / "in" / f"{MARK}_folder"
    source.mkdir(parents=True)
    (source / f"{MARK}_1.dcm").write_bytes(to_bytes(make_eye(photographs)))
    (source / f"{MARK}_2.dcm").write_bytes(b"x" * 900)
    with zipfile.ZipFile(source / f"{MARK}.zip", "w") as archive:
        archive.writestr(f"../../{MARK}/{MARK}_3.dcm", to_bytes(make_eye(photographs, 1)))
        archive.writestr(f"{MARK}_4.dcm", b"y" * 900)
    counts = deidentify_folder(tmp_path / "in", tmp_path / "out", policy.policy.trusting_pixels(), key)
    assert (counts.read, counts.clean, counts.quarantined) == (4, 2, 2)
    for file in (tmp_path / "out").rglob("*"):
        assert MARK not in str(file.relative_to(tmp_path))
        assert file.is_dir() or MARK.encode() not in file.read_bytes()
    assert not list(tmp_path.glob(f"*{MARK}*"))
