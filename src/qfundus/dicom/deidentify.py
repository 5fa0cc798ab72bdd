"""De-identify a fundus photograph by an allow-list policy: data set in, data set out, nothing else touched."""

import io
from datetime import datetime, timedelta

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit

from qfundus.dicom.jpeg import strip_jpeg
from qfundus.dicom.policy import Code, Codes, Number, Policy, Rule, SetTo, Terms
from qfundus.errors import Discard
from qfundus.security.keys import SiteKey, date_shift, pseudonymise_patient, pseudonymise_uid

IMPLEMENTATION_UID = UID("2.25.302042361713929370817320127905837041421")
_OLDEST_AGE = 90


def deidentify_eye(eye: FileDataset, policy: Policy, key: SiteKey) -> FileDataset:
    """Return a new data set that holds only what the policy allows; the input stays as it was.

    Raises:
        Discard: where the pixel stream cannot be stripped.
    """
    patient = patient_of(eye, key)
    clean = FileDataset("", {}, file_meta=_clean_meta(eye, key), preamble=b"\0" * 128)
    for keyword, rule in policy.attributes.items():
        if keyword in eye or rule.action == "set":
            element = _apply(keyword, rule, eye, patient, key)
            if element is not None:
                clean.add(element)
    return clean


def patient_of(eye: Dataset, key: SiteKey) -> str:
    """Return the pseudonym of the patient whom a data set names."""
    return pseudonymise_patient(key, str(eye.PatientID), str(eye.get("IssuerOfPatientID", "") or ""))


def deidentify_to_bytes(eye: FileDataset, policy: Policy, key: SiteKey) -> bytes:
    """De-identify a data set and write it as a DICOM Part 10 file.

    Raises:
        Discard: where anything in it cannot be de-identified or written: what is not understood goes no further.
    """
    try:
        return to_bytes(deidentify_eye(eye, policy, key))
    except Discard:
        raise
    except Exception as error:  # noqa: BLE001  (a hostile header may raise anything; its message may quote values)
        raise Discard("unreadable_header", f"It cannot be de-identified ({type(error).__name__}).") from None


def to_bytes(eye: FileDataset) -> bytes:
    """Write a data set as a DICOM Part 10 file; equal data sets have equal bytes."""
    buffer = io.BytesIO()
    eye.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def shift_date(text: str, days: int) -> str:
    """Move a DICOM date or date-time into the past, the time of day set to midnight; '' where there is no date."""
    try:
        day = datetime.strptime(text.strip()[:8], "%Y%m%d") - timedelta(days=days)  # noqa: DTZ007  (DICOM: local)
    except (ValueError, OverflowError):
        return ""
    return f"{day:%Y%m%d}"


def _clean_meta(eye: FileDataset, key: SiteKey) -> FileMetaDataset:
    # Made anew: the original may name the sending station and hold private information.
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = eye.SOPClassUID
    meta.MediaStorageSOPInstanceUID = UID(pseudonymise_uid(key, eye.SOPInstanceUID))
    meta.TransferSyntaxUID = eye.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = "QFUNDUS"
    return meta


def _apply(keyword: str, rule: Rule, eye: FileDataset, patient: str, key: SiteKey) -> DataElement | None:
    original: object = eye[keyword].value if keyword in eye else None
    vr = dictionary_VR(keyword)
    match rule:
        case Terms():
            value = original if _all_texts(original, rule.terms) else None
        case Number():
            value = original if _all_numbers(original, rule) else None
        case SetTo():
            value = rule.value
        case Codes():
            value = _listed_codes(eye[keyword], rule.codes)
        case _:
            value = _apply_simple(rule.action, eye, keyword, patient, key)
    if keyword == "PixelData":
        return _pixel_element(eye, value)
    return DataElement(tag_for_keyword(keyword), _single_vr(vr), value)  # pyright: ignore[reportArgumentType]


def _apply_simple(action: str, eye: FileDataset, keyword: str, patient: str, key: SiteKey) -> object:
    value: object = None
    match action:
        case "uid":
            value = pseudonymise_uid(key, str(eye[keyword].value))
        case "patient":
            value = patient
        case "shift":
            shifted = shift_date(str(eye[keyword].value or ""), date_shift(key, patient))
            value = f"{shifted}000000" if shifted and dictionary_VR(keyword) == "DT" else shifted
        case "age":
            value = _capped_age(str(eye[keyword].value or ""))
        case "sequence":
            value = []
        case "pixels":
            value = _clean_pixels(eye)
        case _:
            pass
    return value


def _single_vr(vr: str) -> str:
    # Where the dictionary offers two (US or SS), these unsigned 8-bit images take the unsigned one.
    return vr.split(" or ", maxsplit=1)[0]


def _values(original: object) -> list[object]:
    if original is None or original == "":
        return []
    return list(original) if not isinstance(original, str | bytes) and hasattr(original, "__iter__") else [original]  # pyright: ignore[reportArgumentType]


def _all_texts(original: object, terms: frozenset[str]) -> bool:
    return all(str(value) in terms for value in _values(original))


def _all_numbers(original: object, rule: Number) -> bool:
    try:
        return all(rule.min <= float(value) <= rule.max for value in _values(original))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False


def _listed_codes(element: DataElement, codes: tuple[Code, ...]) -> list[Dataset]:
    listed = {(code.scheme, code.value): code for code in codes}
    kept: list[Dataset] = []
    for item in element.value or []:
        code = listed.get((str(item.get("CodingSchemeDesignator", "")), str(item.get("CodeValue", ""))))
        if code is not None:
            clean = Dataset()
            clean.CodeValue, clean.CodingSchemeDesignator, clean.CodeMeaning = (
                code.value,
                code.scheme,
                code.meaning,
            )
            kept.append(clean)
    return kept


def _capped_age(text: str) -> str | None:
    text = text.strip()
    if len(text) != 4 or not text[:3].isdigit() or text[3] not in "DWMY":
        return None
    return f"{_OLDEST_AGE:03d}Y" if text[3] == "Y" and int(text[:3]) >= _OLDEST_AGE else text


def _clean_pixels(eye: FileDataset) -> bytes:
    syntax = eye.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return _exact_frame(eye)
    if syntax not in (JPEGBaseline8Bit, JPEGExtended12Bit):
        raise Discard("unreadable_pixels", "The transfer syntax is neither JPEG baseline nor uncompressed.")
    frames = list(generate_frames(eye.PixelData, number_of_frames=1))
    return encapsulate([strip_jpeg(frames[0])])


def _exact_frame(eye: FileDataset) -> bytes:
    """Cut uncompressed pixels to the length their header states: bytes behind it could hold anything."""
    length = int(eye.Rows) * int(eye.Columns) * int(eye.SamplesPerPixel)
    if len(eye.PixelData) < length:
        raise Discard("truncated", "The pixel data is shorter than its header states.")
    return eye.PixelData[:length] + b"\0" * (length % 2)


def _pixel_element(eye: FileDataset, value: object) -> DataElement:
    element = DataElement(tag_for_keyword("PixelData"), "OB", value)  # pyright: ignore[reportArgumentType]
    element.is_undefined_length = eye.file_meta.TransferSyntaxUID.is_encapsulated
    return element
