"""De-identify a folder or a zip file without any server: the same functions as the DAG, files in and files out."""

import json
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from qfundus.deidentify_folder.desk import Desk, Entry, digest_of
from qfundus.deidentify_folder.inputs import Input, find_inputs
from qfundus.deidentify_folder.journal import Journal
from qfundus.deidentify_folder.manifest import FileOutcome, ManifestWriter
from qfundus.deidentify_folder.pool import work_in_order
from qfundus.deidentify_folder.settler import Settler
from qfundus.dicom.policy import Policy
from qfundus.errors import SetupError
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey, pseudonymise_source
from qfundus.storage import FolderStore

_log = structlog.get_logger()
AUDIT = "audit"  # the folder that holds the trail


@dataclass
class FolderCounts:
    """The counts of a run: read = clean + quarantined + duplicates + ignored."""

    read: int = 0
    clean: int = 0
    quarantined: int = 0
    duplicates: int = 0
    ignored: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, outcome: FileOutcome) -> None:
        """Count one outcome."""
        self.read += 1
        match outcome.status:
            case "clean":
                self.clean += 1
            case "quarantined":
                self.quarantined += 1
                self.reasons[outcome.reason] += 1
            case "duplicate":
                self.duplicates += 1
            case _:
                self.ignored += 1

    def to_json(self) -> str:
        """Write the counts as one JSON object on one line."""
        return json.dumps({**vars(self), "reasons": dict(self.reasons)})

    def describe(self) -> str:
        """Say the counts in one sentence."""
        why = ", ".join(f"{number} {reason}" for reason, number in self.reasons.most_common())
        return (
            f"{self.read} read in {self.seconds:.1f} s: {self.clean} clean, {self.quarantined} quarantined"
            f"{f' ({why})' if why else ''}, {self.duplicates} duplicates, {self.ignored} ignored."
        )


def deidentify_folder(
    source: Path,
    target: Path,
    policy: Policy,
    key: SiteKey,
    *,
    workers: int = 1,
    report: Callable[[FolderCounts], None] = lambda _: None,
) -> FolderCounts:
    """De-identify everything below a folder, or in a zip file.

    Clean files go to `target/clean/<patient>/<study>/<instance>.dcm`, what cannot be cleaned to `target/quarantine/`,
    sealed, with a reason file beside it; `target/manifest.parquet` says what became of each input. A second run over
    the same folders goes on where the first one stopped, and works on what is new or has changed.

    Raises:
        SetupError: if the source does not exist or lies within the target, or the target cannot be written or was
            written with another policy, key or version.
    """
    _refuse_misplaced(source, target)
    started = time.perf_counter()
    drafts = target / ".drafts"
    try:
        for folder in (target / "clean", target / "quarantine"):
            folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(target)
        journal.begin(policy, key)
        shutil.rmtree(drafts, ignore_errors=True)
        drafts.mkdir()
    except (OSError, sqlite3.OperationalError) as error:
        raise SetupError(f"The target cannot be written ({type(error).__name__}).") from None
    counts = FolderCounts()
    desk = Desk(policy, key, drafts, target / "quarantine")
    settle = Settler(desk, target / "clean", journal)
    with ManifestWriter(target, policy) as manifest:
        for entry, outcome in work_in_order(_entries(find_inputs(source), desk, journal), desk, workers):
            settled = settle(entry, outcome)
            if entry.known is None:
                journal.add(entry.stamp, settled)
            manifest.write(settled)
            counts.add(settled)
            counts.seconds = round(time.perf_counter() - started, 3)
            report(counts)
    _warn_of_leftovers(settle)
    shutil.rmtree(drafts)
    journal.close()
    counts.seconds = round(time.perf_counter() - started, 3)
    numbers = {name: value for name, value in vars(counts).items() if isinstance(value, int)}
    content = digest_of((target / "manifest.parquet").read_bytes())
    AuditTrail(FolderStore(target), AUDIT, key).append("110106", "C", content, "De-identified a folder.", **numbers)
    return counts


def _refuse_misplaced(source: Path, target: Path) -> None:
    if not source.exists():
        raise SetupError("The source does not exist.")
    if target.resolve() == source.resolve() or target.resolve() in source.resolve().parents:
        raise SetupError("The source lies within the target: choose another target.")
    if source.resolve() in target.resolve().parents:
        raise SetupError("The target lies within the source, where it would be read again: choose another target.")


def _entries(inputs: Iterable[Input], desk: "Desk", journal: Journal) -> Iterator[Entry]:
    for number, item in enumerate(inputs):
        source, stamp = pseudonymise_source(desk.key, item.name), item.stamp()
        yield Entry(number, item, source, stamp, journal.find(source, stamp), journal.decision(source, stamp))


def _warn_of_leftovers(settle: Settler) -> None:
    if left := settle.leftovers():
        _log.warning(
            "Files in clean/ belong to inputs that are gone or no longer clean. They were left in place", files=left
        )
