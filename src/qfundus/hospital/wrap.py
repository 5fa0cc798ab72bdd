"""Wrap labelled photographs as a hospital would send them: DICOM objects full of identity, and a grading sheet."""

import csv
import io
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from PIL import Image, ImageDraw, ImageFont
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGBaseline8Bit, generate_uid

from qfundus.dicom.read import OPHTHALMIC_PHOTOGRAPHY_8_BIT
from qfundus.hospital.answers import KEY_NAME, answers_of
from qfundus.hospital.people import Clinic, Patient, invent_patient
from qfundus.hospital.photographs import Photographs

SMALLEST_SIDE = 280
JPEG_QUALITY = 95
SHEET_NAME = "grading_sheet.csv"
SHEET_COLUMNS = ("SOPInstanceUID", "grade", "grader", "date")
# As reports say it, without a word chosen for what the policy knows.
_FINDINGS = (
    "mild nonproliferative retinopathy with few microaneurysms temporal to the fovea",
    "severe NPDR, venous beading in two quadrants, refer",
    "proliferative changes at the disc, neovascularization, vitreous haemorrhage below",
    "hard exudates within one disc diameter of the macula, oedema suspected",
    "no retinopathy, drusen in the posterior pole",
    "ungradable because of cataract, repeat with dilated pupils",
    "laser scars after panretinal photocoagulation, stable",
    "image quality good, optic disc cupping noted",
)


@dataclass(frozen=True)
class WrappedEye:
    """One DICOM object as the hospital sends it."""

    file_name: str
    data: bytes
    sop_instance_uid: str
    grade: int
    burned_in: bool
    answers: list[dict[str, str]] = field(default_factory=list, repr=False)


def wrap_photographs(
    photographs: Photographs, *, seed: int = 0, burned_share: float = 0.02, until: date | None = None
) -> Iterator[WrappedEye]:
    """Wrap every photograph; two in a row, right and left, become one invented patient's visit.

    `burned_share` of the images get the patient's name burned into their pixels.
    """
    rng = random.Random(seed)
    last_day = until or date(2026, 6, 30)
    clinic = Clinic(manufacturer="PHANTOM", model="DRAWN EYE") if photographs.phantom else Clinic()
    patient, study_uid = None, ""
    for number, (image, grade) in enumerate(zip(photographs.images, photographs.grades, strict=True)):
        if number % 2 == 0 or patient is None:
            patient = invent_patient(rng, last_day - timedelta(days=rng.randrange(540)))
            study_uid = generate_uid(entropy_srcs=[str(seed), "study", str(number)])
        burned = rng.random() < burned_share
        eye = wrap_eye(
            _enlarge(image),
            patient,
            clinic,
            laterality="RL"[number % 2],
            study_uid=study_uid,
            entropy=f"{seed}/{number}",
            burned_in=burned,
            phantom=photographs.phantom,
        )
        name = f"{patient.family}_{patient.given}_{patient.birth_date:%Y%m%d}_{number:05d}.dcm"
        data = to_bytes(eye)
        answers = answers_about(data, patient, burned_in=burned, phantom=photographs.phantom)
        yield WrappedEye(name, data, str(eye.SOPInstanceUID), grade, burned, answers)


def answers_about(data: bytes, patient: Patient, *, burned_in: bool, phantom: bool = False) -> list[dict[str, str]]:
    """Return the answer key's rows for one wrapped file."""
    rows = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).Rows
    box = burned_in_box(rows, _burned_text(patient)) if burned_in else ()
    return answers_of(data, _words(patient, phantom=phantom), box)


def write_hospital(eyes: Iterator[WrappedEye], folder: Path, *, grader: str = "Dr. Wilhelmina Prendergast") -> int:
    """Write the DICOM files, their grading sheet and the answer key into a folder; return how many files there are."""
    folder.mkdir(parents=True, exist_ok=True)
    graded: list[WrappedEye] = []
    for eye in eyes:
        (folder / eye.file_name).write_bytes(eye.data)
        graded.append(eye)
    (folder / SHEET_NAME).write_text(grading_sheet(graded, grader))
    pd.DataFrame([row for eye in graded for row in eye.answers]).to_parquet(folder / KEY_NAME)
    return len(graded)


def grading_sheet(eyes: list[WrappedEye], grader: str, graded_on: date = date(2026, 7, 1)) -> str:
    """Write the grades as the CSV that a reading centre would send."""
    text = io.StringIO()
    sheet = csv.writer(text, lineterminator="\n")
    sheet.writerow(SHEET_COLUMNS)
    sheet.writerows((eye.sop_instance_uid, eye.grade, grader, graded_on.isoformat()) for eye in eyes)
    return text.getvalue()


def wrap_eye(
    pixels: np.ndarray,
    patient: Patient,
    clinic: Clinic,
    *,
    laterality: str,
    study_uid: str,
    entropy: str,
    burned_in: bool = False,
    phantom: bool = False,
) -> FileDataset:
    """Make one Ophthalmic Photography 8 Bit Image (DICOM PS3.3 A.41) with JPEG baseline pixels.

    `pixels` is `(height, width, 3)` of uint8; `entropy` makes its UIDs reproducible.
    """
    if burned_in:
        pixels = burn_in(pixels, _burned_text(patient))
    uid = generate_uid(entropy_srcs=[entropy, "instance"])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(OPHTHALMIC_PHOTOGRAPHY_8_BIT)
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.SourceApplicationEntityTitle = "BRANNOC_CAM2"
    eye = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    eye.SpecificCharacterSet = "ISO_IR 192"
    taken = datetime.combine(patient.visited, datetime.min.time()) + timedelta(hours=9, minutes=17)
    _describe_patient(eye, patient)
    _describe_visit(eye, patient, clinic, taken, study_uid, entropy)
    _describe_equipment(eye, clinic)
    _describe_image(eye, taken, laterality, uid, phantom=phantom)
    finding = "" if phantom else _finding(patient)
    eye.ImageComments = " ".join((eye.ImageComments, finding, *_in_other_words(patient)))
    _add_pixels(eye, pixels)
    return eye


def burn_in(pixels: np.ndarray, text: str) -> np.ndarray:
    """Write text into the upper left of an image, as older cameras do."""
    picture = Image.fromarray(pixels)
    height = _letter_height(pixels.shape[0])
    font = ImageFont.load_default(size=height)
    ImageDraw.Draw(picture).text((height // 2, height // 2), text, fill=(255, 255, 255), font=font)
    return np.asarray(picture)


def burned_in_box(rows: int, text: str) -> tuple[int, int, int, int]:
    """Return where `burn_in` writes a text: top, left, bottom and right."""
    height = _letter_height(rows)
    left, top, right, bottom = ImageFont.load_default(size=height).getbbox(text)
    return height // 2 + int(top), height // 2 + int(left), height // 2 + int(bottom), height // 2 + int(right)


def _letter_height(rows: int) -> int:
    return max(11, rows // 22)


def _burned_text(patient: Patient) -> str:
    return f"{patient.given} {patient.family} {patient.record_number}"


def _words(patient: Patient, *, phantom: bool) -> dict[str, tuple[list[str], list[str]]]:
    """Return for each text the words that must go and those that must stay."""
    comments = ["no"] if phantom else ["Compared", "with", "last", "year", *re.findall(r"\w+", _finding(patient))]
    lives = [word for word in patient.address.split() if len(word) > 3 or (word.isdigit() and len(word) > 1)]
    return {
        "PatientComments": ([patient.given, *lives], ["with", "sister"]),
        "StudyDescription": ([patient.given, patient.family], ["Diabetic", "screening"]),
        "SeriesDescription": ([patient.record_number], ["Macula", "colour", "fundus"]),
        "ImageComments": (_in_other_words(patient), comments),
        "LensStatusDescription": ([patient.family, patient.birth_date.strftime("%d.%m.%Y")], ["clear", "lens"]),
    }


def _finding(patient: Patient) -> str:
    """Return what a clinician might have seen, the same for all of a patient's photographs."""
    return _FINDINGS[sum(patient.record_number.encode()) % len(_FINDINGS)]


def _in_other_words(patient: Patient) -> list[str]:
    """Return birth date and record number as people write them into comments."""
    number = patient.record_number
    return [f"{patient.birth_date:%d.%m.%y}", f"{number[:-4]}/{number[-4:]}"]


def _describe_patient(eye: Dataset, patient: Patient) -> None:
    eye.PatientName = patient.dicom_name
    eye.PatientID = patient.record_number
    eye.IssuerOfPatientID = "BRANNOC"
    eye.PatientBirthDate = f"{patient.birth_date:%Y%m%d}"
    eye.PatientSex = patient.sex
    eye.PatientAge = f"{(patient.visited - patient.birth_date).days // 365:03d}Y"
    eye.PatientAddress = patient.address
    eye.PatientTelephoneNumbers = patient.phone
    eye.PatientComments = f"Lives at {patient.address} with {patient.given}'s sister"
    eye.OtherPatientIDsSequence = [_other_id(patient)]
    eye.OtherPatientNames = f"{patient.family}^{patient.given}"
    eye.LensStatusDescription = f"clear lens, {patient.family} born {patient.birth_date:%d.%m.%Y}"


def _other_id(patient: Patient) -> Dataset:
    other = Dataset()
    other.PatientID = f"NHS-{patient.record_number}"
    other.TypeOfPatientID = "TEXT"
    return other


def _describe_visit(
    eye: Dataset, patient: Patient, clinic: Clinic, taken: datetime, study_uid: str, entropy: str
) -> None:
    eye.StudyInstanceUID = study_uid
    eye.SeriesInstanceUID = generate_uid(entropy_srcs=[entropy, "series"])
    eye.StudyDate = eye.SeriesDate = eye.ContentDate = f"{taken:%Y%m%d}"
    eye.StudyTime = eye.SeriesTime = eye.ContentTime = f"{taken:%H%M%S}"
    eye.AccessionNumber = f"ACC{patient.record_number[-6:]}"
    eye.StudyID = patient.record_number[-5:]
    eye.SeriesDescription = f"Macula colour fundus {patient.record_number}"
    request = Dataset()
    request.RequestedProcedureID = f"RQ-{patient.record_number}"
    request.RequestedProcedureDescription = f"Screening of {patient.family}"
    eye.RequestAttributesSequence = [request]
    eye.StudyDescription = f"Diabetic screening of {patient.given} {patient.family}"
    eye.ReferringPhysicianName = patient.physician
    eye.OperatorsName = patient.operator
    eye.Modality = "OP"
    eye.SeriesNumber = 1
    eye.InstitutionName = clinic.institution
    eye.InstitutionAddress = clinic.address
    eye.InstitutionalDepartmentName = clinic.department
    eye.StationName = clinic.station
    eye.SynchronizationFrameOfReferenceUID = generate_uid(entropy_srcs=[clinic.device_serial, "clock"])
    eye.SynchronizationTrigger = "NO TRIGGER"
    eye.AcquisitionTimeSynchronized = "N"


def _describe_equipment(eye: Dataset, clinic: Clinic) -> None:
    eye.Manufacturer = clinic.manufacturer
    eye.ManufacturerModelName = clinic.model
    eye.DeviceSerialNumber = clinic.device_serial
    eye.SoftwareVersions = "2.1.7"
    block = eye.private_block(0x0099, "BRANNOC WORKLIST", create=True)
    block.add_new(0x01, "LO", f"{eye.PatientName} booked by phone {eye.PatientTelephoneNumbers}")
    block.add_new(0x02, "OB", f"{eye.PatientID} ".encode())


def _describe_image(eye: Dataset, taken: datetime, laterality: str, uid: str, *, phantom: bool) -> None:
    eye.SOPClassUID = OPHTHALMIC_PHOTOGRAPHY_8_BIT
    eye.SOPInstanceUID = uid
    eye.InstanceNumber = 1
    eye.ImageType = ["ORIGINAL", "PRIMARY", "", "COLOR"]
    eye.AcquisitionDateTime = f"{taken:%Y%m%d%H%M%S}"
    eye.AcquisitionDate, eye.AcquisitionTime = f"{taken:%Y%m%d}", f"{taken:%H%M%S}"
    eye.AcquisitionNumber = 1
    eye.ImageLaterality = laterality
    eye.PatientOrientation = ["", ""]
    eye.BurnedInAnnotation = "NO"
    eye.LossyImageCompression = "01"
    eye.LossyImageCompressionMethod = "ISO_10918_1"
    eye.LossyImageCompressionRatio = "10"
    eye.ImageComments = "PHANTOM, no real eye" if phantom else "Compared with last year"
    eye.AnatomicRegionSequence = [_code("81745001", "SCT", "Eye")]
    eye.AcquisitionDeviceTypeCodeSequence = [_code("409898007", "SCT", "Fundus Camera")]
    eye.IlluminationTypeCodeSequence = []
    eye.LightPathFilterTypeStackCodeSequence = []
    eye.ImagePathFilterTypeStackCodeSequence = []
    eye.LensesCodeSequence = []
    eye.DetectorType = "CMOS"
    eye.HorizontalFieldOfView = 45.0
    eye.EmmetropicMagnification = None
    eye.IntraOcularPressure = None
    eye.RefractiveStateSequence = []
    eye.PupilDilated = "NO"
    eye.PatientEyeMovementCommanded = ""


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _add_pixels(eye: Dataset, pixels: np.ndarray) -> None:
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:2")
    eye.SamplesPerPixel = 3
    eye.PhotometricInterpretation = "YBR_FULL_422"
    eye.PlanarConfiguration = 0
    eye.NumberOfFrames = 1
    eye.FrameIncrementPointer = tag_for_keyword("FrameTime")
    eye.FrameTime = 0
    eye.Rows, eye.Columns = pixels.shape[:2]
    eye.PixelSpacing = [0.02, 0.02]
    eye.BitsAllocated = eye.BitsStored = 8
    eye.HighBit = 7
    eye.PixelRepresentation = 0
    eye.PixelData = encapsulate([jpeg.getvalue()])
    eye["PixelData"].is_undefined_length = True
    eye["PixelData"].VR = "OB"


def _enlarge(image: np.ndarray) -> np.ndarray:
    """Bring thumbnails to a size that JPEG blocks and burned-in letters leave readable."""
    shorter = min(image.shape[:2])
    if shorter >= SMALLEST_SIDE:
        return image
    scale = SMALLEST_SIDE / shorter
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def to_bytes(eye: FileDataset) -> bytes:
    """Write an object as a DICOM Part 10 file."""
    buffer = io.BytesIO()
    eye.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
