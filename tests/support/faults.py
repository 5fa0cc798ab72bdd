"""Bad files, one for each reason why an image goes into quarantine."""

import io

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless


def _save(eye) -> bytes:
    buffer = io.BytesIO()
    eye.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


def _with_pixels(eye, pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    eye.Rows, eye.Columns = pixels.shape[:2]
    eye.PixelData = encapsulate([stream.getvalue()])
    eye["PixelData"].is_undefined_length = True
    return _save(eye)


def _without(keyword):
    def fault(eye):
        delattr(eye, keyword)
        return _save(eye)

    return fault


def _with(keyword, value):
    def fault(eye):
        setattr(eye, keyword, value)
        return _save(eye)

    return fault


def _other_syntax(eye):
    eye.file_meta.TransferSyntaxUID = JPEGLSLossless
    return _save(eye)


def _too_deep(eye):
    for _ in range(40):
        item = Dataset()
        if "ReferencedImageSequence" in eye:
            item.ReferencedImageSequence = eye.ReferencedImageSequence
        eye.ReferencedImageSequence = [item]
    return _save(eye)


FAULTS = {
    "several_frames": _with("NumberOfFrames", 2),
    "not_dicom": lambda eye: b"this is a letter to " + str(eye.PatientName).encode() * 20,
    "truncated": lambda eye: _save(eye)[:700],
    "wrong_sop_class": _with("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"),
    "unreadable_header": _too_deep,
    "no_pixels": _without("PixelData"),
    "unreadable_pixels": _other_syntax,
    "missing_uid": _with("SOPInstanceUID", ""),
    "missing_patient_id": _with("PatientID", ""),
    "missing_laterality": _with("ImageLaterality", "B"),
    "image_too_small": lambda eye: _with_pixels(eye, np.full((1, 1, 3), 90, np.uint8)),
    "no_fundus_disc": lambda eye: _with_pixels(eye, np.zeros((280, 280, 3), np.uint8)),
}
