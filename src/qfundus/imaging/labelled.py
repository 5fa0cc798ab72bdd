"""Read labelled photographs from a MedMNIST file, or from a folder with a sheet of grades."""

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from qfundus.errors import SetupError
from qfundus.grades import GRADES

SHEET = "labels.csv"
SPLITS = ("train", "val", "validation", "test", "")
_FIRST_LINE, _LINES_NAMED = 2, 10  # below the sheet's head; in a message

# What reading a photograph that cannot be read may raise: PIL calls a PNG's broken chunk a SyntaxError.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Labelled:
    """A photograph with its grade; `split` and `patient` are empty where nobody said them.

    `read` returns the pixels `(height, width, 3)` of uint8, and raises one of UNREADABLE where they cannot be read.
    """

    name: str
    grade: int
    split: str
    patient: str
    read: Callable[[], np.ndarray]


def read_labelled(data: Path) -> list[Labelled]:
    """List the photographs of an npz file or a folder, without reading a folder's pixels.

    Raises:
        SetupError: if it is neither, or labels and photographs do not belong to each other.
    """
    if not data.exists():
        raise SetupError(f"{data} does not exist: name a MedMNIST npz file, or a folder with {SHEET}.")
    if data.suffix == ".lance":
        raise SetupError(f"{data} holds shards, which are for training: name the photographs that they were made of.")
    return read_npz(data) if data.is_file() else read_folder(data)


def read_npz(path: Path) -> list[Labelled]:
    """Read a MedMNIST file: `*_images` of `(n, height, width, 3)` of uint8 beside `*_labels` of `(n, 1)`."""
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except ValueError as error:
        if str(error).startswith("Object arrays"):
            raise SetupError(
                f"{path.name} holds arrays of Python objects, which may run code when they are opened: save them "
                "as arrays of numbers."
            ) from None
        raise SetupError(f"{path.name} is not a MedMNIST npz file, or is incomplete (ValueError).") from None
    # A single array is not a context manager, and a truncated file is not a zip file.
    except (OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise SetupError(
            f"{path.name} is not a MedMNIST npz file, or is incomplete ({type(error).__name__})."
        ) from None
    splits = [name.removesuffix("_images") for name in arrays if name.endswith("_images")]
    if not splits:
        raise SetupError(f"{path.name} has no array whose name ends in _images.")
    if strange := [split for split in splits if split not in SPLITS[:-1]]:
        known = ", ".join(SPLITS[:-1])
        raise SetupError(f"{path.name} holds {strange[0]}_images, but the splits are {known}: rename it.")
    return [photograph for split in splits for photograph in _read_split(path.name, split, arrays)]


def read_folder(folder: Path) -> list[Labelled]:
    """Read a folder whose `labels.csv` has the columns `file` and `grade`, and may have `patient` and `split`.

    Names of files and patients may be a person's: a photograph is called by its line, a patient by a number.
    """
    sheet = folder / SHEET
    if not sheet.is_file():
        raise SetupError(f"{folder.name}/ needs a {SHEET} with the columns file and grade.")
    try:
        table = pd.read_csv(sheet, dtype=str, keep_default_na=False)
    except ValueError as error:  # no text, no table, nothing at all
        raise SetupError(f"{folder.name}/{SHEET} is not a CSV file ({type(error).__name__}).") from None
    if not {"file", "grade"} <= set(table.columns):
        # Without a head, its first line is a photograph's, and may name a person: it is counted, not quoted.
        raise SetupError(
            f"{folder.name}/{SHEET} needs the columns file and grade: its first line has {len(table.columns)} columns, "
            "apart by commas, and not both of these."
        )
    if len(twice := np.flatnonzero(table["file"].duplicated())):
        rows = ", ".join(str(row + _FIRST_LINE) for row in twice[:_LINES_NAMED])
        more = " and more" if len(twice) > _LINES_NAMED else ""
        raise SetupError(f"{folder.name}/{SHEET} repeats files in lines {rows}{more}: give each one grade.")
    patients = _number_patients(table)
    labelled: list[Labelled] = []
    for number, row in enumerate(table.to_dict("records"), _FIRST_LINE):
        where = f"{folder.name}/{SHEET}, line {number}"
        file = folder / row["file"]
        if not file.resolve().is_relative_to(folder.resolve()):
            raise SetupError(f"{where}: the file lies outside the folder.")
        if not file.is_file():
            raise SetupError(f"{where}: the file does not exist. Add it, or remove the line.")
        grade = _check_grade(row["grade"], where)
        split, patient = _check_split(row, where), patients[number - _FIRST_LINE]
        labelled.append(Labelled(f"line-{number}", grade, split, patient, partial(read_file, file)))
    if not labelled:
        raise SetupError(f"{folder.name}/{SHEET} lists no photographs.")
    return labelled


def _number_patients(table: pd.DataFrame) -> list[str]:
    if "patient" not in table:
        return [""] * len(table)
    numbers, _ = pd.factorize(table["patient"])
    return [f"patient-{number}" if patient else "" for number, patient in zip(numbers, table["patient"], strict=True)]


def _read_split(file: str, split: str, arrays: dict[str, np.ndarray]) -> list[Labelled]:
    images, labels = arrays[f"{split}_images"], arrays.get(f"{split}_labels")
    if images.ndim == 0 or (labels is not None and labels.ndim == 0):
        raise SetupError(f"The {split} arrays of {file} hold a single value: there must be a photograph in each row.")
    if labels is None or len(labels) != len(images):
        raise SetupError(
            f"{file} has {len(images)} {split}_images and {0 if labels is None else len(labels)} {split}_labels: "
            "there must be a label for each."
        )
    if labels.size != len(labels):
        raise SetupError(f"{split}_labels of {file} have the shape {labels.shape}: it must be (n, 1), a grade each.")
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise SetupError(
            f"{split}_images of {file} are {images.dtype} of shape {images.shape}: they must be uint8 of shape "
            "(n, height, width, 3)."
        )
    return [
        Labelled(
            f"{split}-{n:05d}", _check_grade(label, f"{split}_labels[{n}] of {file}"), split, "", partial(_take, image)
        )
        for n, (image, label) in enumerate(zip(images, labels.ravel(), strict=True))
    ]


def _take(image: np.ndarray) -> np.ndarray:
    return image


def _check_grade(grade: object, where: str) -> int:
    try:
        number = float(str(grade))
    except ValueError:
        number = -1.0
    grade = int(number) if number.is_integer() else -1
    if not 0 <= grade < GRADES:
        raise SetupError(f"{where}: the grade must be a whole number from 0 to {GRADES - 1}.")
    return grade


def _check_split(row: dict[str, str], where: str) -> str:
    """Read a split's name; a test split by another spelling must not be trained on."""
    split = row.get("split", "").strip().lower()
    if split not in SPLITS:
        raise SetupError(f"{where}: the split must be {', '.join(filter(None, SPLITS))}, or empty.")
    return split


def read_file(file: Path) -> np.ndarray:
    """Read a photograph's pixels `(height, width, 3)` of uint8, as it was held where the file says how.

    Raises:
        OSError, ValueError: or another of UNREADABLE, where it cannot be read or holds more than 8 bits a colour.
    """
    with Image.open(file) as opened:
        if opened.mode.startswith("I;16") or opened.mode in {"I", "F"}:
            raise ValueError("More than 8 bits a colour: the brightest would all become white.")
        return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
