"""Read a DICOM object and refuse, with a reason, what cannot be a fundus photograph."""

import io

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEGBaseline8Bit

from qfundus.errors import Discard
from qfundus.security.keys import SiteKey, pseudonymise_patient

OPHTHALMIC_PHOTOGRAPHY_8_BIT = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
SMALLEST_SIDE = 64
_PREVIEW_SIDE = 128
_UNDEFINED_LENGTH = 0xFFFFFFFF
_NEEDED_UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def read_eye(data: bytes) -> FileDataset:
    """Parse one DICOM Part 10 file that should hold a fundus photograph.

    Raises:
        Discard: if it is not DICOM, truncated, of another SOP class, without pixels, of several frames, or lacks
            what names it.
    """
    try:
        eye = pydicom.dcmread(io.BytesIO(data))
        ends_early = "PixelData" not in eye and _end_of_last_element(eye) != len(data)
        # pydicom reads lazily: touch every element, so that a broken one shows here and nowhere later.
        for _ in eye.iterall():
            pass
    except InvalidDicomError:
        raise Discard("not_dicom", "The DICM mark is missing.") from None
    except Exception as error:  # noqa: BLE001  (a hostile file may raise anything; its message may quote values)
        raise Discard("truncated", f"The data set cannot be read ({type(error).__name__}).") from None
    if ends_early:
        raise Discard("truncated", "The file ends within an element.")
    _check_identity(eye)
    if "PixelData" not in eye or not eye.PixelData:
        raise Discard("no_pixels", "The object has no pixel data.")
    if _number_of_frames(eye) > 1:
        raise Discard("several_frames", "The image has more than one frame.")
    return eye


def read_preview(eye: FileDataset) -> np.ndarray:
    """Decode the photograph to `(height, width, 3)` of uint8, RGB, at a smaller scale where that is cheap.

    Of a baseline JPEG the low frequencies alone are transformed back.

    Raises:
        Discard: as `read_pixels`.
    """
    if eye.file_meta.TransferSyntaxUID != JPEGBaseline8Bit or not str(eye.PhotometricInterpretation).startswith("YBR"):
        return read_pixels(eye)
    try:
        frame = next(generate_frames(eye.PixelData, number_of_frames=1))
        with Image.open(io.BytesIO(frame)) as picture:
            if picture.mode == "RGB" and min(picture.size) >= _PREVIEW_SIDE:
                picture.draft("RGB", (_PREVIEW_SIDE, _PREVIEW_SIDE))
                return np.asarray(picture)
    except Exception as error:  # noqa: BLE001  (decoders raise what they like)
        raise Discard("unreadable_pixels", f"The decoder failed ({type(error).__name__}).") from None
    return read_pixels(eye)


def read_pixels(eye: FileDataset) -> np.ndarray:
    """Decode the photograph to `(height, width, 3)` of uint8, RGB.

    Raises:
        Discard: if the pixels cannot be decoded, are not a single colour frame, or are too small.
    """
    try:
        pixels = pixel_array(eye)
    except Exception as error:  # noqa: BLE001  (decoders raise what they like)
        raise Discard("unreadable_pixels", f"The decoder failed ({type(error).__name__}).") from None
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise Discard("unreadable_pixels", "The image is not a single frame of 8-bit colour.")
    if min(pixels.shape[:2]) < SMALLEST_SIDE:
        raise Discard("image_too_small", f"The shorter side is under {SMALLEST_SIDE} pixels.")
    return pixels


def _number_of_frames(eye: FileDataset) -> int:
    try:
        return int(eye.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise Discard("unreadable_header", "NumberOfFrames is not a number.") from None


def _end_of_last_element(eye: FileDataset) -> int:
    last = eye.get_item(max(eye.keys()))
    if not isinstance(last, RawDataElement) or last.length == _UNDEFINED_LENGTH:
        return -1
    return last.value_tell + last.length


def _check_identity(eye: FileDataset) -> None:
    if str(eye.get("SOPClassUID", "")) != OPHTHALMIC_PHOTOGRAPHY_8_BIT:
        raise Discard("wrong_sop_class", "The object is not an Ophthalmic Photography 8 Bit image.")
    for keyword in _NEEDED_UIDS:
        if not str(eye.get(keyword, "") or "").strip():
            raise Discard("missing_uid", f"{keyword} is absent or empty.")
    if not str(eye.get("PatientID", "") or "").strip():
        raise Discard("missing_patient_id", "PatientID is absent or empty.")
    if laterality(eye) not in {"L", "R"}:
        raise Discard("missing_laterality", "ImageLaterality is neither R nor L.")


def laterality(eye: FileDataset) -> str:
    """Return `R` or `L`, or what else stands there."""
    return str(eye.get("ImageLaterality", "") or eye.get("Laterality", "") or "").strip()


def patient_of(eye: FileDataset, key: SiteKey) -> str:
    """Return the pseudonym of the patient whom a data set names."""
    return pseudonymise_patient(key, str(eye.PatientID), str(eye.get("IssuerOfPatientID", "") or ""))
