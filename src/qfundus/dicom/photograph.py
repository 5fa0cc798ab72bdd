"""Make a DICOM object of a plain photograph, so that it goes the way of all others.

What the photograph shows and of whom stands in a sidecar, a JSON object of DICOM keywords such as `PatientID` and
`ImageLaterality`, or in the EXIF image description as `PatientID=...; ImageLaterality=R`.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import IFD, Base
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit

from qfundus.dicom.read import OPHTHALMIC_PHOTOGRAPHY_8_BIT
from qfundus.errors import Discard, ReasonCode

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})
SIDECAR = ".json"
_MODES = frozenset({"RGB", "RGBA", "P", "L"})
# Type 2 of the Ophthalmic Photography 8 Bit IOD (PS3.3 A.41): present, though nobody knows them here.
_MAY_BE_EMPTY = (
    *("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "Manufacturer", "DetectorType", "EmmetropicMagnification", "IntraOcularPressure"),
    *("HorizontalFieldOfView", "PupilDilated", "PatientEyeMovementCommanded", "RefractiveStateSequence"),
    *("IlluminationTypeCodeSequence", "LightPathFilterTypeStackCodeSequence", "ImagePathFilterTypeStackCodeSequence"),
    "LensesCodeSequence",
)
_TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"})
_MISSING: dict[str, ReasonCode] = {"PatientID": "missing_patient_id", "ImageLaterality": "missing_laterality"}


def is_photograph(name: str) -> bool:
    """Return whether a file is a plain photograph, by its name's ending."""
    return Path(name).suffix.lower() in ENDINGS


def sidecar_of(name: str) -> str:
    """Name the sidecar that goes with a photograph: `eye.json` with `eye.jpg`."""
    return str(Path(name).with_suffix(SIDECAR))


def make_object(data: bytes, sidecar: bytes | None) -> bytes:
    """Return an Ophthalmic Photography 8 Bit object with a photograph's pixels and what is said of it.

    A baseline colour JPEG is taken as it is; anything else is stored uncompressed, upright.

    Raises:
        Discard: if the file is not a readable photograph, or does not tell whose eye it shows, or which.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            eye = _describe(_said(picture, sidecar), hashlib.sha256(data + (sidecar or b"")).hexdigest())
            _add_pixels(eye, picture, data)
        written = io.BytesIO()
        eye.save_as(written, enforce_file_format=True)
    except Discard:
        raise
    except Image.DecompressionBombError:
        raise Discard("too_large", "The photograph has more pixels than any camera.") from None
    except Exception as error:  # noqa: BLE001  (decoders raise what they like, and quote values)
        raise Discard("unreadable_pixels", f"The photograph cannot be read ({type(error).__name__}).") from None
    return written.getvalue()


def _said(picture: Image.Image, sidecar: bytes | None) -> dict[str, str]:
    if getattr(picture, "n_frames", 1) > 1:
        raise Discard("unreadable_pixels", "The file holds several pictures: save each as a file of its own.")
    if picture.mode not in _MODES:
        raise Discard("unreadable_pixels", "The photograph is not 8-bit colour.")
    description = {**_said_in_exif(picture), **_said_in_sidecar(sidecar)}
    for keyword, reason in _MISSING.items():
        if not description.get(keyword):
            raise Discard(reason, f"Neither a sidecar nor the EXIF gives {keyword}.")
    return description


def _said_in_sidecar(sidecar: bytes | None) -> dict[str, str]:
    if sidecar is None:
        return {}
    try:
        description: Any = json.loads(sidecar)
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise Discard("unreadable_sidecar", "The sidecar is not valid JSON.") from None
    if not isinstance(description, dict):
        raise Discard("unreadable_sidecar", "The sidecar is not a JSON object.")
    return {str(name): str(value) for name, value in description.items()}


def _said_in_exif(picture: Image.Image) -> dict[str, str]:
    exif = picture.getexif()
    words = str(exif.get(Base.ImageDescription, "")).split(";")
    pairs = (word.partition("=") for word in words if "=" in word)
    description = {name.strip(): value.strip() for name, _, value in pairs}
    taken = str(exif.get_ifd(IFD.Exif).get(Base.DateTimeOriginal, "")).replace(":", "").split(" ")
    if len(taken) == 2:
        description.setdefault("StudyDate", taken[0])
        description.setdefault("StudyTime", taken[1])
    description.setdefault("Manufacturer", str(exif.get(Base.Make, "")))
    description.setdefault("ManufacturerModelName", str(exif.get(Base.Model, "")))
    return description


def _describe(description: dict[str, str], content: str) -> FileDataset:
    eye = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    eye.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in description.items():
        tag = tag_for_keyword(keyword)
        if tag is not None and tag >= 0x00080000 and dictionary_VR(tag) in _TEXT:
            setattr(eye, keyword, value)
    date = str(eye.get("StudyDate", ""))
    uids = {
        "SOPInstanceUID": content,
        "SeriesInstanceUID": f"series {content}",
        "StudyInstanceUID": f"study {eye.PatientID} {date or content}",
    }
    for keyword, entropy in uids.items():
        if not eye.get(keyword):
            setattr(eye, keyword, _uid(entropy))
    eye.SOPClassUID = UID(OPHTHALMIC_PHOTOGRAPHY_8_BIT)
    eye.Modality = "OP"
    eye.ImageType = ["ORIGINAL", "PRIMARY", "", "COLOR"]
    eye.InstanceNumber = 1
    time = str(eye.get("StudyTime", ""))
    eye.ContentDate, eye.ContentTime = date, time or "000000"  # type 1: midnight stands for unknown
    eye.AcquisitionDateTime = date + time
    eye.BurnedInAnnotation = "YES"  # nobody has looked
    eye.SeriesNumber = eye.AcquisitionNumber = 1
    eye.PatientOrientation = ["", ""]
    eye.SynchronizationFrameOfReferenceUID = _uid(f"clock {content}")
    eye.SynchronizationTrigger, eye.AcquisitionTimeSynchronized = "NO TRIGGER", "N"
    eye.FrameIncrementPointer, eye.FrameTime = tag_for_keyword("FrameTime"), 0
    eye.AnatomicRegionSequence = [_code("81745001", "Eye")]
    eye.AcquisitionDeviceTypeCodeSequence = [_code("409898007", "Fundus Camera")]
    for keyword in _MAY_BE_EMPTY:
        if keyword not in eye:
            setattr(eye, keyword, [] if keyword.endswith("Sequence") else None)
    return eye


def _add_pixels(eye: FileDataset, picture: Image.Image, data: bytes) -> None:
    upright = picture.getexif().get(Base.Orientation, 1) == 1
    plain = picture.format == "JPEG" and picture.mode == "RGB" and not picture.info.get("progressive")
    eye.SamplesPerPixel, eye.PlanarConfiguration, eye.NumberOfFrames = 3, 0, 1
    eye.BitsAllocated = eye.BitsStored = 8
    eye.HighBit, eye.PixelRepresentation = 7, 0
    eye.file_meta.MediaStorageSOPClassUID = eye.SOPClassUID
    eye.file_meta.MediaStorageSOPInstanceUID = eye.SOPInstanceUID
    if plain and upright and picture.info.get("adobe_transform", 1) == 1:
        eye.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        eye.PhotometricInterpretation = "YBR_FULL_422"
        eye.LossyImageCompression, eye.LossyImageCompressionMethod = "01", "ISO_10918_1"
        eye.Rows, eye.Columns = picture.height, picture.width
        eye.LossyImageCompressionRatio = f"{eye.Rows * eye.Columns * 3 / len(data):.2f}"
        eye.PixelData = encapsulate([data])
        eye["PixelData"].is_undefined_length = True
        eye["PixelData"].VR = "OB"
        return
    pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    eye.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    eye.PhotometricInterpretation = "RGB"
    eye.LossyImageCompression = "01" if picture.format == "JPEG" else "00"
    eye.Rows, eye.Columns = pixels.shape[:2]
    eye.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    eye["PixelData"].VR = "OB"


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code


def _uid(entropy: str) -> str:
    return f"2.25.{int.from_bytes(hashlib.sha256(entropy.encode()).digest()[:16], 'big')}"
