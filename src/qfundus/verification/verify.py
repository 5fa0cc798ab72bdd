"""Verify a de-identified folder against its originals, by pydicom and Pillow alone.

Nothing here is shared with what writes the folder but the standard's own table and terms: a mistake made there is not
made again here. What is found is named by file, place and kind, never by its value. Text in the pixels is not looked
for.
"""

import hashlib
import io
import logging
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pandas as pd
import pydicom
import yaml

from qfundus.errors import SetupError
from qfundus.verification.folded import WORD, fold
from qfundus.verification.identity import Identity, read_identity
from qfundus.verification.leaks import find_leaks
from qfundus.verification.standard import LONG, SHORTEST, TEXT_VRS, terms

# pydicom quotes the values that it finds wrong, in warnings and in its log: a value may be a name.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="pydicom")
warnings.filterwarnings("ignore", module="PIL")
_TABLES = {".parquet", ".json"}


@dataclass(frozen=True)
class Leak:
    """Something that should not be there: in which file, where in it, and of what kind."""

    file: str
    where: str
    kind: str


@dataclass
class Findings:
    """What a verification found; `unmatched` counts outputs without a known original."""

    files: int = 0
    unmatched: int = 0
    leaks: list[Leak] = field(default_factory=list)


def verify_folder(folder: Path, originals: Path, policy: Path) -> Findings:
    """Look for leaks in every DICOM file below a folder, given the originals that it was made from.

    Their paths are looked at, too, and the manifests and reasons that lie beside them.

    Raises:
        SetupError: if the folder is empty or the policy cannot be read.
    """
    options, safe = _read_policy(policy)
    after_to_before = _read_manifest(folder)
    identities: dict[str, Identity] = {}
    everybody = Identity()
    for data, beside in _read_all(originals):
        identity = read_identity(data, beside, options)
        identities[hashlib.sha256(data).hexdigest()] = identity
        everybody.add(identity)
    if not identities:
        raise SetupError("No originals found to compare with: check --originals.")
    findings, shifts = Findings(), dict[str, set[int]]()
    is_ours = (folder / "clean").is_dir()
    outputs = sorted(file for file in (folder / "clean" if is_ours else folder).rglob("*") if file.is_file())
    if not outputs and not is_ours:
        raise SetupError("No files found to verify: check the folder.")
    for path in (file for file in outputs if file.suffix not in _TABLES):
        data = path.read_bytes()
        identity = identities.get(after_to_before.get(hashlib.sha256(data).hexdigest(), ""))
        findings.files += 1
        findings.unmatched += identity is None
        name = str(path.relative_to(folder))
        leaks = [*find_leaks(data, identity or everybody, options, safe)]
        if identity is not None:
            leaks += _among_others(data, identity, everybody, shifts if "retain_modified_dates" in options else None)
        leaks += [("path", kind) for kind in _in_words(name, everybody)]
        findings.leaks += [Leak(name, where, kind) for where, kind in leaks]
    for path in sorted(file for file in folder.rglob("*") if file.suffix in _TABLES):
        name = str(path.relative_to(folder))
        findings.leaks += [Leak(name, "file", kind) for kind in _in_words(_read_table(path), everybody)]
    return findings


def _among_others(
    data: bytes, own: Identity, everybody: Identity, shifts: dict[str, set[int]] | None
) -> Iterator[tuple[str, str]]:
    """Look for what only shows beside other files: two patients mixed up, and dates of one patient that moved apart.

    `shifts` collects by how many days each patient's dates were moved; None where they may stay.
    """
    try:
        header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        texts = [str(e.value) for e in header.iterall() if e.VR in TEXT_VRS and not e.tag.is_private]
        days = {e.keyword: str(e.value)[:8] for e in header if e.VR in {"DA", "DT"} and e.value and e.VM == 1}
    except Exception as error:  # noqa: BLE001  (pydicom raises what it likes; what cannot be compared is a finding)
        yield "header", f"cannot be compared with other files ({type(error).__name__})"
        return
    words = {word for text in texts for word in (fold(text).strip(), *WORD.findall(fold(text)))}
    if words & (everybody.long - own.long - own.words - own.names):
        yield "header", "another patient's identifier"
    if shifts is None:
        return
    moved = shifts.setdefault(str(header.get("PatientID")), set())
    moved |= _days_moved(days, own)
    if len(moved) > 1:
        yield "header", "dates of one patient are moved by different numbers of days"


def _days_moved(after: dict[str, str], own: Identity) -> set[int]:
    """Return by how many days attributes were moved that have one date before and after."""
    moved = set[int]()
    for keyword, day in after.items():
        before = own.dates.get(keyword, set())
        if len(before) == 1:
            with suppress(ValueError):
                moved.add((_day(day) - _day(next(iter(before)))).days)
    return moved


def _day(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:8]))


def _read_table(path: Path) -> str:
    return str(pd.read_parquet(path).to_json()) if path.suffix == ".parquet" else path.read_text(errors="replace")


def _in_words(text: str, identity: Identity) -> Iterator[str]:
    """Look through a path, or a text that no person wrote, in which short numbers stand by chance."""
    folded = fold(text)
    words = {w for w in WORD.findall(folded) if len(w) >= (LONG if w.isdecimal() else SHORTEST)} - terms()
    if words & (identity.words | identity.names) or any(word in folded for word in identity.anywhere):
        yield "an identifier of the original"
    if any(uid in text for uid in identity.uids if len(uid) > 12):
        yield "a UID of the original"


def verify_object(data: bytes, original: bytes, policy: Path) -> list[str]:
    """Look for leaks in one de-identified object, given its original; each is named by place and kind."""
    options, safe = _read_policy(policy)
    identity = read_identity(original, b"", options)
    return [f"{where}: {kind}" for where, kind in find_leaks(data, identity, options, safe)]


def _read_policy(policy: Path) -> tuple[set[str], set[tuple[str, int, int]]]:
    try:
        document = yaml.safe_load(policy.read_text())
        options = {name for name, on in document["options"].items() if on}
        safe = {
            (block["creator"], int(block["group"], 16), int(number, 16))
            for block in document.get("safe_private", ())
            for number in block["elements"]
            if "retain_safe_private" in options
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise SetupError(f"The policy {policy.name} cannot be read ({type(error).__name__}).") from None
    return options, safe


def _read_manifest(folder: Path) -> dict[str, str]:
    file = folder / "manifest.parquet"
    if not file.exists():
        return {}
    table = pd.read_parquet(file, columns=["digest_after", "digest_before"])
    return dict(zip(table["digest_after"], table["digest_before"], strict=True))


def _read_all(originals: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield each original and, of a plain photograph, the sidecar that lies beside it."""
    paths = (
        [originals] if originals.is_file() else [Path(d, name) for d, _, names in os.walk(originals) for name in names]
    )
    for path in paths:
        if path.is_symlink():
            continue
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
                for member in archive.infolist():
                    sidecar = str(Path(member.filename).with_suffix(".json"))
                    if not member.is_dir():
                        yield archive.read(member), archive.read(sidecar) if sidecar in names else b""
        else:
            sidecar = path.with_suffix(".json")
            yield path.read_bytes(), sidecar.read_bytes() if sidecar.is_file() else b""
