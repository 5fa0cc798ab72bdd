"""Look for an original's identity in one de-identified object."""

import io
from collections.abc import Iterator

import pydicom
from PIL import Image
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_frames

from qfundus.verification.folded import WORD, digits_in, fold, names_a_day
from qfundus.verification.identity import Identity
from qfundus.verification.standard import FEWEST_DIGITS, SHORTEST, TEXT_VRS, attributes, terms

_CODED = {"CodeMeaning", "CodeValue", "CodingSchemeDesignator"}
_META = {0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013}
_NUMBER_VRS = {"IS", "DS", "FD", "FL", "UL", "SL", "US", "SS", "UV", "SV"}
_MOST_NUMBERS = 64
_PUBLISHED = {"SCT", "SRT", "SNM3", "99SDM", "DCM", "LN", "UCUM", "FMA", "NCIt", "RADLEX", "MDC", "UMLS"}
_OLDEST = 90  # years; older patients are known by their age (45 CFR 164.514)


def find_leaks(
    data: bytes, identity: Identity, options: set[str], safe: set[tuple[str, int, int]]
) -> Iterator[tuple[str, str]]:
    """Yield what a de-identified object should not hold: where, and of what kind."""
    try:
        clean = pydicom.dcmread(io.BytesIO(data))
    except Exception as error:  # noqa: BLE001  (whatever it is, nobody can vouch for the file)
        yield "file", f"cannot be read ({type(error).__name__})"
        return
    yield from _outside(data, clean)
    yield from _within(clean, "", identity, options, safe)
    yield from _in_bytes(data, identity)
    yield from _in_frames(clean)
    stated = clean.get("PatientIdentityRemoved") == "YES" and clean.get("DeidentificationMethod")
    codes = {str(item.get("CodeValue")) for item in clean.get("DeidentificationMethodCodeSequence") or ()}
    if not stated or "113100" not in codes:
        yield "header", "does not say that it is de-identified, and how"
    if "clean_pixel_data" in options and "113101" in codes and clean.get("BurnedInAnnotation") != "NO":
        yield "header", "does not say that no text is burned in"


def _outside(data: bytes, clean: FileDataset) -> Iterator[tuple[str, str]]:
    if any(data[:128]):
        yield "preamble", "is not blank"
    for element in clean.file_meta:
        if int(element.tag) not in _META:
            yield f"file meta {element.tag}", "is more than a reader needs"


def _within(
    dataset: Dataset, path: str, identity: Identity, options: set[str], safe: set[tuple[str, int, int]]
) -> Iterator[tuple[str, str]]:
    coded = str(dataset.get("CodingSchemeDesignator", "")) in _PUBLISHED
    for element in dataset:
        where = f"{path}{element.keyword or element.tag}"
        if element.tag.is_private:
            if not _is_safe(element, safe):
                yield where, "private attribute"
        elif element.tag.group >> 8 in {0x50, 0x60} or not dictionary_has_tag(element.tag):
            yield where, "curve, overlay or unknown attribute"
        elif element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from _within(item, f"{where}[{number}]/", identity, options, safe)
            continue
        else:
            yield from _by_table(element, where, options)
        yield from _values(element, where, identity, options, coded=coded)


def _is_safe(element: pydicom.DataElement, safe: set[tuple[str, int, int]]) -> bool:
    if element.tag.is_private_creator:
        return any(creator == str(element.value) for creator, _, _ in safe)
    return (str(element.private_creator), element.tag.group, element.tag.element & 0xFF) in safe


def _by_table(element: pydicom.DataElement, where: str, options: set[str]) -> Iterator[tuple[str, str]]:
    row = attributes().get(int(element.tag))
    if row is None or any(row[option] for option in options if option in row):
        return
    if row["basic"] == "X":
        yield where, "E.1-1 X: should be absent"
    elif row["basic"] == "Z" and element.value and element.keyword != "PatientName":
        yield where, "E.1-1 Z: should be empty"


def _values(
    element: pydicom.DataElement, where: str, identity: Identity, options: set[str], *, coded: bool
) -> Iterator[tuple[str, str]]:
    values = [str(value) for value in (element.value if element.VM > 1 else [element.value]) if value is not None]
    if element.VR == "UI":
        if "retain_uids" not in options and identity.uids & set(values):
            yield where, "a UID of the original"
    elif element.VR in {"DA", "DT"}:
        # Of one patient any day; of several, that are moved by different numbers, one may become another's.
        known = identity.days if identity.patient else identity.births
        if "retain_full_dates" not in options and {value[:8] for value in values} & known:
            yield where, "a date of the original"
    elif element.VR == "AS":
        if any(value[3:] == "Y" and value[:3].isdecimal() and int(value[:3]) > _OLDEST for value in values):
            yield where, f"an age above {_OLDEST} years"
    elif element.VR in TEXT_VRS:
        yield from ((where, kind) for value in values for kind in _in_text(value, element, identity, coded=coded))
    elif element.VR in _NUMBER_VRS:
        numbers = {digits_in(value.removesuffix(".0")) for value in values if len(values) <= _MOST_NUMBERS}
        if numbers & (identity.numbers | identity.birth_numbers):
            yield where, "a number of the original"


def _in_text(text: str, element: pydicom.DataElement, identity: Identity, *, coded: bool) -> Iterator[str]:
    if coded and element.keyword in _CODED:
        return
    folded = fold(text)
    words = {folded.strip(), *WORD.findall(folded)}
    if element.VR == "CS":  # a term of the standard may be what somebody is called
        words = {word for word in words if len(word) >= SHORTEST} - terms()
    if words & (identity.words | identity.names):
        yield "an identifier of the original"
    elif any(word in "".join(WORD.findall(folded)) for word in identity.anywhere):
        yield "an identifier of the original, spelled"
    elif len(digits := digits_in(folded)) >= FEWEST_DIGITS and any(number in digits for number in identity.numbers):
        yield "a number of the original"
    if names_a_day(folded, identity.days):
        yield "a date of the original"


def _in_bytes(data: bytes, identity: Identity) -> Iterator[tuple[str, str]]:
    lowered = data.lower()
    for word in identity.anywhere:
        if not word.isalpha() or word in identity.names:
            yield from (
                ("bytes", f"an identifier of the original, {code}")
                for code in ("utf-8", "utf-16-le", "utf-16-be")
                if word.encode(code) in lowered
            )
    yield from (("bytes", "a UID of the original") for uid in identity.uids if len(uid) > 12 and uid.encode() in data)


def _in_frames(clean: FileDataset) -> Iterator[tuple[str, str]]:
    if "PixelData" not in clean or not clean.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    frames = generate_frames(clean.PixelData, number_of_frames=int(clean.get("NumberOfFrames", 1) or 1))
    for number, frame in enumerate(frames):
        where = f"frame {number}"
        if frame.startswith(b"\xff\x4f") and b"\xff\x64" in frame[: frame.find(b"\xff\x93")]:
            yield where, "a JPEG 2000 comment"
        if frame.startswith(b"\xff\xd8"):
            yield from ((where, kind) for kind in _jpeg_margins(frame))


def _jpeg_margins(frame: bytes) -> Iterator[str]:
    if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):
        yield "bytes behind the end of the JPEG image"
    try:
        with Image.open(io.BytesIO(frame)) as image:
            segments = getattr(image, "applist", [])
    except Exception:  # noqa: BLE001  (12-bit, lossless and LS streams are not Pillow's)
        return
    yield from (f"JPEG segment {name}" for name, _ in segments if name not in {"APP0", "APP14"})
