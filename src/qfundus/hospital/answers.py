"""The answer key of the invented hospital, and the score of a de-identification against it.

Scored as MIDI-B scores (the Medical Image De-Identification Benchmark challenge): every attribute of every image is an
action that was done or was not: identifiers gone, dates shifted alike, UIDs and patients mapped consistently, words of
research kept and words of identity removed from texts, burned-in pixels hidden, all other pixels and metadata kept.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import pixel_array

from qfundus.errors import SetupError

KEY_NAME = "answer_key.parquet"
_BLACK = 48  # of 255: what JPEG leaves of black next to bright pixels
_MARGIN = 48  # pixels around burned-in text within which blacking out may reach

Category = Literal[
    *("gone", "nowhere", "kept", "shifted", "mapped", "patient", "words lost", "words kept", "hidden", "pixels kept")
]
_SHORTEST = 4  # letters of a word that must not be left of what is gone
_OF_FORM = frozenset({"CS", "US", "IS", "DS", "FD", "FL", "SS", "UL"})  # what no table names stays in these forms
_GONE = (
    *(
        "PatientBirthDate",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "PatientName",
        "IssuerOfPatientID",
        "OtherPatientNames",
    ),
    *("AccessionNumber", "StudyID", "ReferringPhysicianName", "OperatorsName", "InstitutionName", "InstitutionAddress"),
    *("InstitutionalDepartmentName", "StationName", "DeviceSerialNumber", "OtherPatientIDsSequence/PatientID"),
    *("RequestAttributesSequence/RequestedProcedureID", "(0099,1001)", "(0099,1002)"),
)
_KEPT = (
    *(
        "SOPClassUID",
        "Modality",
        "Manufacturer",
        "ManufacturerModelName",
        "SoftwareVersions",
        "PatientSex",
        "PatientAge",
    ),
    *("ImageType", "ImageLaterality", "InstanceNumber", "SeriesNumber", "AcquisitionNumber", "Rows", "Columns"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelSpacing", "LossyImageCompression", "LossyImageCompressionMethod", "LossyImageCompressionRatio"),
    *("HorizontalFieldOfView", "DetectorType", "PupilDilated", "SynchronizationTrigger", "AcquisitionTimeSynchronized"),
    *("StudyTime", "SeriesTime", "ContentTime", "AcquisitionTime", "NumberOfFrames", "FrameTime"),
    *("AnatomicRegionSequence/CodeValue", "AnatomicRegionSequence/CodingSchemeDesignator"),
    *("AnatomicRegionSequence/CodeMeaning", "AcquisitionDeviceTypeCodeSequence/CodeValue"),
    *("AcquisitionDeviceTypeCodeSequence/CodingSchemeDesignator", "AcquisitionDeviceTypeCodeSequence/CodeMeaning"),
)
_SHIFTED = ("StudyDate", "SeriesDate", "ContentDate", "AcquisitionDate", "AcquisitionDateTime")
_MAPPED = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SynchronizationFrameOfReferenceUID")
_TEXTS = ("PatientComments", "StudyDescription", "SeriesDescription", "ImageComments", "LensStatusDescription")


@dataclass
class Score:
    """How many actions of the key were done; `misses` names each that was not by file digest, category and place."""

    actions: Counter[str] = field(default_factory=Counter)
    correct: Counter[str] = field(default_factory=Counter)
    misses: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of correct actions."""
        return self.correct.total() / max(1, self.actions.total())

    def add(self, digest: str, category: str, place: str, *, done: bool) -> None:
        """Count one action."""
        self.actions[category] += 1
        self.correct[category] += done
        if not done:
            self.misses.append((digest[:12], category, place))


def answers_of(
    data: bytes, words: dict[str, tuple[list[str], list[str]]], box: tuple[int, ...]
) -> list[dict[str, str]]:
    """Return the rows of the key for one wrapped file.

    `words` gives for each text attribute the words that must go and those that must stay; `box` is where text is burned
    in `(top, left, bottom, right)`, empty if none was drawn.
    """
    eye = pydicom.dcmread(io.BytesIO(data))
    digest = hashlib.sha256(data).hexdigest()
    rows: list[tuple[str, str, str]] = []
    for category, places in (("gone", _GONE), ("kept", _KEPT), ("shifted", _SHIFTED), ("mapped", _MAPPED)):
        rows += [(category, place, value) for place in places if (value := _value(eye, place)) is not None]
    rows += [("kept", place, value) for place, value in _formed(eye)]
    rows += [("nowhere", "any attribute", mark) for mark in sorted(_marks(eye))]
    rows.append(("patient", "PatientID", str(eye.PatientID)))
    for keyword in _TEXTS:
        lost, kept = words.get(keyword, ([], []))
        rows += [("words lost", keyword, " ".join(lost))] * bool(lost) + [
            ("words kept", keyword, " ".join(kept))
        ] * bool(kept)
    where = " ".join(map(str, box))
    rows += [("hidden", "PixelData", where)] * bool(box) + [("pixels kept", "PixelData", where)]
    return [{"digest": digest, "category": c, "place": place, "value": value} for c, place, value in rows]


def _formed(eye: Dataset) -> Iterator[tuple[str, str]]:
    """Yield the coded and numeric attributes that the standard's table does not name, beside those listed above."""
    text = (files("qfundus.dicom") / "standard" / "confidentiality.csv").read_text()
    named = {row["tag"] for row in csv.DictReader(text.splitlines())}
    for element in eye:
        listed = element.keyword in _KEPT or element.keyword == "BurnedInAnnotation"  # that one is said anew
        if not listed and element.VR in _OF_FORM and f"{int(element.tag):08x}" not in named and not element.is_empty:
            yield element.keyword, str(_value(eye, element.keyword))


def _marks(eye: Dataset) -> set[str]:
    """Return what of the patient and those around them must not stand anywhere: words of names, numbers, dates."""
    people = [str(eye.get(name, "")) for name in ("PatientName", "ReferringPhysicianName", "OperatorsName")]
    names = {word for name in people for word in re.findall(r"[^\W\d_]+", name) if len(word) >= _SHORTEST}
    numbers = {str(eye.get(name, "")) for name in ("PatientID", "AccessionNumber", "StudyID", "DeviceSerialNumber")}
    born = str(eye.get("PatientBirthDate", ""))
    dates = {born, f"{born[6:]}.{born[4:6]}.{born[2:4]}", f"{born[6:]}.{born[4:6]}.{born[:4]}"} if born else set[str]()
    return {mark for mark in names | numbers | dates if mark}


def _everything(dataset: Dataset) -> str:
    """Return all that the attributes say: no pixels, and no UIDs, whose many digits hold any number by chance."""
    texts: list[str] = []
    for element in dataset.iterall():
        if element.keyword == "PixelData" or element.VR in {"SQ", "UI"}:
            continue
        value = element.value
        texts.append(value.decode("latin-1") if isinstance(value, bytes) else str(value))
    return "\n".join(texts).casefold()


def score_folder(folder: Path, originals: Path) -> Score:
    """Score what `qfundus deidentify` made of a wrapped hospital; an image that is in quarantine has done nothing.

    Raises:
        SetupError: if the answer key or the manifest is missing.
    """
    if not (originals / KEY_NAME).is_file() or not (folder / "manifest.parquet").is_file():
        raise SetupError(
            f"A score needs what `qfundus wrap` wrote, with {KEY_NAME}, and what `qfundus deidentify` made of it."
        )
    key = pd.read_parquet(originals / KEY_NAME)
    manifest = (
        pd.read_parquet(folder / "manifest.parquet").query("status == 'clean'").set_index("digest_before")["target"]
    )
    files = {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in originals.glob("*.dcm")}
    score, consistent = Score(), Consistency()
    for digest, rows in key.groupby("digest", sort=False):
        target = manifest.get(digest)
        clean = None if target is None else (folder / "clean" / str(target)).read_bytes()
        score_object(score, consistent, files[str(digest)].read_bytes(), clean, rows.to_dict("records"))
    return score


class Consistency:
    """Remembers what each original value became: the same everywhere, and nothing else became it."""

    def __init__(self) -> None:
        self._became: dict[tuple[str, str], str] = {}
        self._was: dict[tuple[str, str], str] = {}

    def holds(self, kind: str, before: str, after: str) -> bool:
        """Return whether a value became what it became before, and no other value did."""
        return (
            self._became.setdefault((kind, before), after) == after
            and self._was.setdefault((kind, after), before) == before
        )


def score_object(
    score: Score, known: Consistency, original: bytes, clean: bytes | None, rows: list[dict[str, Any]]
) -> None:
    """Score what was made of one file, given its rows of the key; nothing was done where `clean` is None."""
    dataset = Dataset() if clean is None else pydicom.dcmread(io.BytesIO(clean))
    everything = _everything(dataset)
    patient = next(row["value"] for row in rows if row["category"] == "patient")
    for row in rows:
        after = _value(dataset, row["place"])
        if row["category"] == "nowhere":
            done = clean is not None and row["value"].casefold() not in everything
        else:
            done = clean is not None and _is_done(row, after, patient, known, original, clean)
        score.add(row["digest"], row["category"], row["place"], done=done)


def _is_done(  # noqa: PLR0911  (one line a category)
    row: dict[str, Any],
    after: str | None,
    patient: str,
    known: Consistency,
    original: bytes,
    clean: bytes,
) -> bool:
    before: str = row["value"]
    match row["category"]:
        case "gone":
            words = {before, *(word for word in re.findall(r"[^\W_]+", before) if len(word) >= _SHORTEST)} - {""}
            return not any(word.casefold() in (after or "").casefold() for word in words)
        case "kept":
            return after == before
        case "shifted":
            return _is_shifted(before, after, patient, known)
        case "mapped":
            return bool(after) and after != before and known.holds("uid", before, str(after))
        case "patient":
            return bool(after) and after != before and known.holds("patient", before, str(after))
        case "words lost":
            return not any(word.casefold() in (after or "").casefold() for word in before.split())
        case "words kept":
            left = re.findall(r"[^\W_]+", (after or "").casefold())
            return all(word.casefold() in left for word in before.split())
        case _:
            return _pixels_are_right(row, original, clean)


def _is_shifted(before: str, after: str | None, patient: str, known: Consistency) -> bool:
    try:
        moved = datetime.strptime(str(after)[:8], "%Y%m%d") - datetime.strptime(before[:8], "%Y%m%d")  # noqa: DTZ007
    except ValueError:
        return False
    # Two patients may share a shift by chance: only the way from patient to shift has to be one.
    return moved.days != 0 and known.holds("shift", patient, f"{patient} {moved.days}")


def _pixels_are_right(row: dict[str, Any], original: bytes, clean: bytes) -> bool:
    before, after = (np.asarray(pixel_array(io.BytesIO(data))) for data in (original, clean))
    if before.shape != after.shape:
        return False
    top, left, bottom, right = map(int, row["value"].split()) if row["value"] else (0, 0, 0, 0)
    if row["category"] == "hidden":
        return int(after[top:bottom, left:right].max()) <= _BLACK
    outside = np.ones(before.shape[:2], bool)
    if row["value"]:
        outside[max(0, top - _MARGIN) : bottom + _MARGIN, max(0, left - _MARGIN) : right + _MARGIN] = False
    return np.array_equal(before[outside], after[outside])


def _value(dataset: Dataset | FileDataset, place: str) -> str | None:
    """Return an attribute's value as text, by keyword, nested path or tag; None where it is absent."""
    for step in place.split("/")[:-1]:
        items = dataset.get(step)
        if not items:
            return None
        dataset = items[0]
    name = place.rsplit("/", maxsplit=1)[-1]
    tag = int(name.strip("()").replace(",", ""), 16) if name.startswith("(") else tag_for_keyword(name)
    if tag is None or tag not in dataset:
        return None
    value = dataset[tag].value
    return value.decode("latin-1").strip() if isinstance(value, bytes) else "" if value is None else str(value).strip()


def describe(score: Score) -> Iterator[str]:
    """Say a score, a line for each category and each miss."""
    for category, actions in sorted(score.actions.items()):
        yield f"{category:12} {score.correct[category]:7} of {actions:7}  {score.correct[category] / actions:8.3%}"
    yield f"{'all':12} {score.correct.total():7} of {score.actions.total():7}  {score.share:8.3%}"
    for digest, category, place in score.misses:
        yield f"missed: {category}, {place} of {digest}"
