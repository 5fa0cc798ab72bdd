"""A study that holds identity in every place one can think of, each marked by one word that must never come out."""

import io

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

MARK = "QZXPOISON"
UID_MARK = "1.2.826.0.1.3680043.10.424242"


def poison(eye, number: int = 0) -> bytes:
    """Put the mark wherever text may stand in a DICOM file; return the file's bytes."""
    for element in list(eye):
        if element.VR in {"PN", "LO", "SH", "LT", "ST", "UT", "UC"}:
            element.value = f"{MARK}{number}"
    eye.PatientID = f"{MARK}{number}"
    eye.SOPInstanceUID = eye.file_meta.MediaStorageSOPInstanceUID = f"{UID_MARK}.1.{number}"
    eye.StudyInstanceUID, eye.SeriesInstanceUID = f"{UID_MARK}.2.{number}", f"{UID_MARK}.3.{number}"
    eye.FrameOfReferenceUID = f"{UID_MARK}.4"
    eye.ImageType = ["ORIGINAL", "PRIMARY", MARK, "COLOR"]
    eye.PupilDilated = MARK
    eye.PatientAge = "QZXP"
    eye.EthnicGroup, eye.Occupation = MARK, MARK
    eye.RequestAttributesSequence = [_named()]
    eye.AnatomicRegionSequence = [_code(eye.AnatomicRegionSequence[0])]
    eye.AcquisitionDeviceTypeCodeSequence = [_code(Dataset())]
    eye.LensesCodeSequence = [_code(Dataset())]
    eye.add_new(0x60000010, "US", 8)
    eye.add_new(0x60003000, "OW", MARK.encode() + b"\0")
    eye.private_block(0x0099, MARK, create=True).add_new(0x77, "UT", MARK)
    eye.file_meta.SourceApplicationEntityTitle = MARK
    eye.file_meta.PrivateInformationCreatorUID = f"{UID_MARK}.9"
    eye.file_meta.PrivateInformation = MARK.encode() + b"\0"
    eye.preamble = MARK.encode().ljust(128, b"\0")
    eye.PixelData = encapsulate([_poisoned_jpeg(eye)])
    eye["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    eye.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def marks(number: int = 0) -> list[bytes]:
    """Return every form of the mark to look for."""
    return [MARK.encode(), MARK.lower().encode(), MARK.encode("utf-16-le"), UID_MARK.encode()]


def _poisoned_jpeg(eye) -> bytes:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = MARK
    pixels = np.asarray(Image.open(io.BytesIO(_frame(eye))).convert("RGB"))
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, exif=exif, comment=MARK.encode())
    return stream.getvalue() + MARK.encode() + b"\0"


def _frame(eye) -> bytes:
    from pydicom.encaps import generate_frames

    return next(iter(generate_frames(eye.PixelData, number_of_frames=1)))


def _named() -> Dataset:
    item = Dataset()
    item.PatientName = item.ScheduledProcedureStepDescription = MARK
    return item


def _code(item: Dataset) -> Dataset:
    item.CodeValue = item.get("CodeValue", MARK)
    item.CodingSchemeDesignator = item.get("CodingSchemeDesignator", "99X")
    item.CodeMeaning = MARK
    return item
