import io
import random
from contextlib import suppress
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
import zxingcpp
from conftest import REAL_DATA, make_eye
from PIL import Image, ImageDraw, ImageFont
from products import product
from pydicom import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from qfundus.dicom.burned_in import find_burned_in_text, find_text
from qfundus.dicom.clean import clean_object, remove_burned_in_text
from qfundus.dicom.redact import black_out
from qfundus.errors import Discard
from qfundus.hospital.people import Clinic, invent_patient
from qfundus.hospital.wrap import burn_in, to_bytes, wrap_eye
from qfundus.scratch import file_in_memory

NAME = "Jane Doe MRN12345678"


@pytest.fixture(scope="module")
def enlarged(photographs):
    return [
        np.asarray(Image.fromarray(i).resize((280, 280), Image.Resampling.BICUBIC)) for i in photographs.images[:16]
    ]


def in_syntax(eye, syntax, tmp_path):
    """Write an eye, decoded, in another transfer syntax."""
    eye.decompress()
    if syntax.is_compressed and not syntax.is_deflated:
        eye.compress(syntax)
    else:
        eye.file_meta.TransferSyntaxUID = syntax
    file = tmp_path / "eye.dcm"
    pydicom.dcmwrite(
        file,
        eye,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return file


@pytest.mark.slow
def test_a_name_burned_in_is_found(enlarged):
    assert all(find_text(burn_in(image, NAME)) for image in enlarged)


@pytest.mark.parametrize(
    ("size", "angle"),
    [(22, 0), (30, 45), (50, 0), (80, 45), (110, 0), *map(product, (22, 30, 50, 80, 110), (45, 0, 45, 0, 45))],
)
def test_the_whole_of_each_letter_is_covered(photographs, size, angle):
    image = np.asarray(Image.fromarray(photographs.images[3]).resize((700, 700), Image.Resampling.BICUBIC))
    ink = Image.new("L", (700, 700))
    ImageDraw.Draw(ink).text((350, 350), "Zweigelt", fill=255, font=ImageFont.load_default(size), anchor="mm")
    ink = np.asarray(ink.rotate(angle)) > 0
    written = np.where(ink[..., None], np.uint8(255), image)
    for box in find_text(written):
        ink[box.top : box.bottom, box.left : box.right] = False
    assert not ink.any()


@pytest.mark.parametrize("grey", [14, 30])
def test_letters_too_faint_for_the_eye_are_found_beside_the_disc(grey):
    rows, columns = np.mgrid[:700, :700]
    image = np.zeros((700, 700, 3), np.uint8)
    image[np.hypot(rows - 350, columns - 350) < 310] = (190, 90, 40)
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text((5, 5), "Zweigelt R", fill=(grey,) * 3, font=ImageFont.load_default(18))
    [box] = find_text(np.asarray(picture))
    assert box.bottom < 50
    assert box.right < 150


@pytest.mark.parametrize("where", [(0, 951), (0, -5), (820, 500)])
def test_a_line_that_the_edge_cuts_is_covered(where):
    ink = Image.new("L", (999, 960))
    ImageDraw.Draw(ink).text(where, "WEATHERWAXON Pt 12.04.1957", fill=255, font=ImageFont.load_default(14))
    letters = np.asarray(ink) > 100
    left = letters.copy()
    for box in find_text(np.repeat(np.asarray(ink)[..., None], 3, axis=2)):
        left[box.top : box.bottom, box.left : box.right] = False
    assert left.sum() < 0.1 * letters.sum()


@pytest.mark.slow
def test_an_eye_without_text_is_let_through(enlarged, photographs):
    false_alarms = sum(bool(find_text(image)) for image in enlarged)
    assert false_alarms <= (4 if photographs.phantom else 0)  # phantoms have edges as sharp as letters


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "chasedb1").exists(), reason="CHASE_DB1, 28 full-size photographs, is not at hand")
@pytest.mark.parametrize("every", [7, product(1)])
def test_full_size_photographs_are_told_apart(every):
    files = sorted((REAL_DATA / "chasedb1").glob("*.jpg"))
    assert len(files) == 28
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files[::every]]
    assert not any(find_text(image) for image in images)
    assert all(find_text(burn_in(image, NAME)) for image in images)


@pytest.mark.parametrize("flag", ["YES", "NO", ""])
def test_text_is_blacked_out_whatever_the_header_says(photographs, policy, key, tmp_path, flag):
    eye = make_eye(photographs, burned_in=True)
    eye.BurnedInAnnotation = flag
    done = clean_object(to_bytes(eye), tmp_path / "clean.dcm", policy, key)
    assert done.redacted > 0
    assert not find_burned_in_text(tmp_path / "clean.dcm")
    assert pydicom.dcmread(tmp_path / "clean.dcm").BurnedInAnnotation == "NO"


@pytest.mark.parametrize(
    "syntax",
    [
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGLSLossless,
        RLELossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_only_the_text_is_blacked_out(photographs, tmp_path, syntax):
    file = in_syntax(make_eye(photographs, burned_in=True), syntax, tmp_path)
    before = pixel_array(pydicom.dcmread(file))
    found = find_burned_in_text(file)
    [boxes] = found.values()
    black_out(file, found)
    after = pixel_array(pydicom.dcmread(file))
    outside = np.ones(before.shape[:2], bool)
    for box in boxes:
        outside[box.top : box.bottom, box.left : box.right] = False
    assert np.array_equal(before[outside], after[outside])
    assert not after[~outside].any()


@pytest.mark.parametrize(
    "syntax",
    [JPEGBaseline8Bit, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless],
    ids=lambda syntax: syntax.name,
)
def test_a_file_in_memory_is_cleaned_as_one_on_disk_is(photographs, policy, key, tmp_path, syntax):
    eye = make_eye(photographs, burned_in=True)
    data = to_bytes(eye) if syntax == JPEGBaseline8Bit else in_syntax(eye, syntax, tmp_path).read_bytes()
    on_disk = clean_object(data, tmp_path / "clean.dcm", policy, key)
    with file_in_memory() as there:
        in_memory = clean_object(data, there, policy, key)
        assert there.read_bytes() == (tmp_path / "clean.dcm").read_bytes()
    assert in_memory.digest == on_disk.digest
    assert in_memory.redacted == on_disk.redacted > 0


def test_in_jpeg_only_whole_blocks_under_the_text_change(photographs, tmp_path):
    file = tmp_path / "eye.dcm"
    file.write_bytes(to_bytes(make_eye(photographs, burned_in=True)))
    before, found = pixel_array(file, raw=True), find_burned_in_text(file)
    black_out(file, found)
    changed = (pixel_array(file, raw=True) != before).any(axis=2)
    near = np.zeros(changed.shape, bool)
    for box in found[0]:
        near[max(0, box.top - 24) : box.bottom + 24, max(0, box.left - 24) : box.right + 24] = True
    assert changed.any()
    assert not changed[~near].any()
    seen = pixel_array(file)
    assert all(seen[box.top : box.bottom, box.left : box.right].max() < 16 for box in found[0])


def test_text_on_one_frame_only_is_found_there_and_the_others_stay(photographs, policy, key, tmp_path):
    eye = make_eye(photographs)
    eye.decompress()
    frames = np.stack([eye.pixel_array] * 3)
    frames[1] = burn_in(frames[1], NAME)
    eye.NumberOfFrames, eye.PixelData = 3, frames.tobytes()
    done = clean_object(to_bytes(eye), tmp_path / "clean.dcm", policy, key)
    cleaned = pydicom.dcmread(tmp_path / "clean.dcm").pixel_array
    assert done.redacted > 0
    assert [bool((cleaned[n] != frames[n]).any()) for n in range(3)] == [False, True, False]


def test_what_still_looks_like_text_is_refused(photographs, tmp_path, monkeypatch):
    from qfundus.dicom import clean

    file = tmp_path / "text.dcm"
    file.write_bytes(to_bytes(make_eye(photographs, burned_in=True)))
    monkeypatch.setattr(clean, "black_out", lambda path, found: None)  # a black that does not take
    with pytest.raises(Discard, match="Text is still visible after"):
        remove_burned_in_text(file)


@pytest.mark.parametrize(
    ("kind", "angle"),
    [
        *[("Code128", 0), ("Code39", 90), ("ITF", 8), ("QRCode", 0), ("DataMatrix", 8)],
        *map(product, ("Code128", "Code39", "ITF", "QRCode", "DataMatrix"), (90, 8, 0, 8, 0)),
        *map(product, ("Code128", "Code39", "ITF", "QRCode", "DataMatrix"), (8, 0, 90, 90, 90)),
    ],
)
def test_a_barcode_is_held_or_blacked_out(kind, angle, photographs, tmp_path):
    code = zxingcpp.create_barcode("48271930", getattr(zxingcpp.BarcodeFormat, kind))
    drawn = Image.fromarray(np.asarray(zxingcpp.write_barcode_to_image(code, scale=3)))
    label = np.asarray(drawn.rotate(angle, expand=True, fillcolor=255))
    picture = np.asarray(Image.fromarray(photographs.images[0]).resize((1000, 1000), Image.Resampling.BICUBIC)).copy()
    picture[20 : 20 + label.shape[0], 20 : 20 + label.shape[1]] = label[..., None]
    file = tmp_path / "label.dcm"
    patient = invent_patient(random.Random(0), date(2026, 5, 4))
    eye = wrap_eye(picture, patient, Clinic(), laterality="R", study_uid="1.2.826.0.1.3680043.8.498.1", entropy="test")
    file.write_bytes(to_bytes(eye))
    with suppress(Discard):
        remove_burned_in_text(file)
        assert not zxingcpp.read_barcodes(pixel_array(file))


def test_an_image_full_of_text_is_blacked_out(tmp_path):
    from pydicom.data import get_testdata_file

    file = tmp_path / "text.dcm"
    file.write_bytes(Path(str(get_testdata_file("GDCMJ2K_TextGBR.dcm"))).read_bytes())
    assert remove_burned_in_text(file) >= 3
    assert not find_burned_in_text(file)


def test_trusted_pixels_are_not_looked_at_and_the_cameras_word_stays(photographs, policy, key, tmp_path):
    from qfundus.dicom.compiled_policy import CompiledPolicy

    trusting = CompiledPolicy(policy.policy.trusting_pixels())
    done = clean_object(to_bytes(make_eye(photographs, burned_in=True)), tmp_path / "clean.dcm", trusting, key)
    clean = pydicom.dcmread(io.BytesIO((tmp_path / "clean.dcm").read_bytes()))
    assert done.redacted == 0
    assert "113101" not in [item.CodeValue for item in clean.DeidentificationMethodCodeSequence]
    assert clean.BurnedInAnnotation == make_eye(photographs).BurnedInAnnotation


def test_text_in_the_colours_of_a_palette_is_found_and_painted_in_its_darkest(photographs, tmp_path):
    eye = make_eye(photographs)
    written = burn_in(eye.pixel_array, NAME)
    picture = Image.fromarray(written).quantize(64)
    palette = np.array(picture.getpalette()[: 64 * 3], np.uint16).reshape(-1, 3)[::-1]  # the darkest is not the first
    indices = 63 - np.asarray(picture)
    eye.decompress()
    eye.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    eye.SamplesPerPixel, eye.PhotometricInterpretation = 1, "PALETTE COLOR"
    del eye.PlanarConfiguration
    for number, colour in enumerate(("Red", "Green", "Blue")):
        setattr(eye, f"{colour}PaletteColorLookupTableDescriptor", [64, 0, 16])
        setattr(eye, f"{colour}PaletteColorLookupTableData", (palette[:, number] * 257).astype("<u2").tobytes())
    eye.PixelData = indices.astype(np.uint8).tobytes()
    file = tmp_path / "eye.dcm"
    file.write_bytes(to_bytes(eye))
    before = find_burned_in_text(file)
    assert before
    assert remove_burned_in_text(file) > 0
    clean = pydicom.dcmread(file)
    box = before[0][0]
    patch = clean.pixel_array[box.top : box.bottom, box.left : box.right]
    assert palette[patch].sum(axis=-1).max() == palette.sum(axis=1).min()


@pytest.mark.parametrize("window", [(30030, 100), None])
def test_text_that_only_a_window_or_more_contrast_shows_is_found(window, photographs, tmp_path):
    eye = make_eye(photographs, side=280)
    eye.decompress()
    pixels = np.full((280, 280), 30000, np.uint16)
    ink = Image.new("L", (280, 280))
    ImageDraw.Draw(ink).text((20, 120), NAME, fill=255, font=ImageFont.load_default(16))
    pixels[np.asarray(ink) > 0] = 30060
    pixels[:60] = 65000  # a bright part, on which any spread of the greys depends
    pixels[-60:] = 0
    eye.SamplesPerPixel, eye.PhotometricInterpretation = 1, "MONOCHROME2"
    eye.BitsAllocated = eye.BitsStored = 16
    eye.HighBit = 15
    eye.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    del eye.PlanarConfiguration
    if window:
        eye.WindowCenter, eye.WindowWidth = window
    eye.PixelData = pixels.tobytes()
    eye["PixelData"].VR = "OW"
    (tmp_path / "eye.dcm").write_bytes(to_bytes(eye))
    assert find_burned_in_text(tmp_path / "eye.dcm")


@pytest.mark.parametrize("where", ["ModalityLUTSequence", "VOILUTSequence", "FrameVOILUTSequence", "fifth window"])
def test_text_that_only_a_table_shows_is_found(where, photographs, tmp_path):
    eye = make_eye(photographs, side=280)
    eye.decompress()
    ink = Image.new("L", (280, 280))
    ImageDraw.Draw(ink).text((20, 120), NAME, fill=255, font=ImageFont.load_default(16))
    pixels = (np.asarray(ink) > 0).astype(np.uint8)
    pixels[:40] = 200
    eye.SamplesPerPixel, eye.PhotometricInterpretation = 1, "MONOCHROME2"
    eye.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    del eye.PlanarConfiguration
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], b"\0\0" + b"\xff" * 510
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    table.ModalityLUTType = "US"
    narrow, group = Dataset(), Dataset()
    narrow.WindowCenter, narrow.WindowWidth = 1, 1
    group.FrameVOILUTSequence = [narrow]
    if where == "fifth window":
        eye.WindowCenter, eye.WindowWidth = [128, 128, 128, 128, 1], [256, 256, 256, 256, 1]
    elif where == "FrameVOILUTSequence":
        eye.SharedFunctionalGroupsSequence = [group]
    else:
        setattr(eye, where, [table])
    eye.PixelData = pixels.tobytes()
    (tmp_path / "eye.dcm").write_bytes(to_bytes(eye))
    assert find_burned_in_text(tmp_path / "eye.dcm")


@pytest.mark.skipif(not (REAL_DATA / "chasedb1").is_dir(), reason="needs the real photographs")
def test_of_the_eye_no_more_is_blacked_out_than_the_letters_need(tmp_path):
    photograph = Image.open(min((REAL_DATA / "chasedb1").glob("*.jpg"))).convert("RGB")
    ImageDraw.Draw(photograph).text((330, 445), "Marina Petrova 4711", fill="white", font=ImageFont.load_default(14))
    eye = wrap_eye(
        np.asarray(photograph),
        invent_patient(random.Random(0), date(2026, 5, 4)),
        Clinic(),
        laterality="R",
        study_uid="1.2.826.0.1.3680043.8.498.1",
        entropy="test",
    )
    (tmp_path / "eye.dcm").write_bytes(to_bytes(eye))
    before = pydicom.dcmread(tmp_path / "eye.dcm").pixel_array
    assert remove_burned_in_text(tmp_path / "eye.dcm")
    after = pydicom.dcmread(tmp_path / "eye.dcm").pixel_array
    changed = (before != after).any(axis=2)
    assert 0.002 < changed.mean() < 0.02


@pytest.mark.skipif(not (REAL_DATA / "chasedb1").is_dir(), reason="needs the real photographs")
def test_small_letters_on_the_disc_of_a_large_photograph_are_found():
    photograph = Image.open(min((REAL_DATA / "chasedb1").glob("*.jpg"))).convert("RGB")
    large = photograph.resize((3888, 3888 * photograph.height // photograph.width), Image.Resampling.BICUBIC)
    assert not find_text(np.asarray(large))
    ImageDraw.Draw(large).text((1700, 1500), "Marina Petrova", fill="white", font=ImageFont.load_default(18))
    assert find_text(np.asarray(large))


def test_what_looks_like_text_and_is_half_the_picture_is_for_a_person(photographs, tmp_path):
    eye = make_eye(photographs, side=280)
    picture = Image.fromarray(np.zeros((280, 280, 3), np.uint8))
    ImageDraw.Draw(picture).text((10, 60), "WORD", fill="white", font=ImageFont.load_default(110))
    eye.decompress()
    eye.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    eye.PhotometricInterpretation, eye.PixelData = "RGB", np.asarray(picture).tobytes()
    (tmp_path / "eye.dcm").write_bytes(to_bytes(eye))
    with pytest.raises(Discard, match="covers much of the picture"):
        remove_burned_in_text(tmp_path / "eye.dcm")
