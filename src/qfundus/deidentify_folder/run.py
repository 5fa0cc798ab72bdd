"""De-identify a folder or a zip file without any server: the same functions as the DAG, files in and files out."""

import hashlib
import json
import shutil
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import islice
from mmap import MADV_DONTNEED, mmap
from pathlib import Path

import structlog

from qfundus.deidentify_folder.inputs import Input, find_inputs
from qfundus.deidentify_folder.journal import RELEASE, TRUST, Journal
from qfundus.deidentify_folder.manifest import FileOutcome, ManifestWriter
from qfundus.dicom.clean import RELEASED_EVERY, clean_object
from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.handling import name_handling
from qfundus.dicom.photograph import is_photograph, make_object
from qfundus.dicom.policy import Policy
from qfundus.dicom.recognise import is_no_image
from qfundus.errors import Discard, SetupError
from qfundus.ingestion.isolation import end_with_parent
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey, pseudonymise_source
from qfundus.security.sealing import seal
from qfundus.storage import FolderStore

_log = structlog.get_logger()
AUDIT = "audit"  # the folder that holds the trail
_BATCH = 16  # inputs a worker takes at a time where one takes a millisecond: handing it over takes a fraction of one
_AHEAD = 4  # batches a worker may lie ahead, so that memory does not grow with the number of inputs
_ZIPPED = b"PK\3\4"
_LARGEST_SEALED = 256 << 20  # bytes; a larger original stays only where it came from


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
        SetupError: where the source does not exist or lies within the target, or the target cannot be written or was
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
    desk = _Desk(policy, key, drafts, target / "quarantine")
    settle = _Settler(desk, target / "clean", journal)
    with ManifestWriter(target, policy) as manifest:
        for entry, outcome in _in_order(_entries(find_inputs(source), desk, journal), desk, workers):
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
    content = _digest((target / "manifest.parquet").read_bytes())
    AuditTrail(FolderStore(target), AUDIT, key).append("110106", "C", content, "De-identified a folder.", **numbers)
    return counts


def _refuse_misplaced(source: Path, target: Path) -> None:
    if not source.exists():
        raise SetupError("The source does not exist.")
    if target.resolve() == source.resolve() or target.resolve() in source.resolve().parents:
        raise SetupError("The source lies within the target: choose another target.")
    if source.resolve() in target.resolve().parents:
        raise SetupError("The target lies within the source, where it would be read again: choose another target.")


@dataclass(frozen=True)
class _Entry:
    """One input on its way: its place in the order, what was `known` of it before, and what a person decided."""

    number: int
    item: Input
    source: str
    stamp: str
    known: FileOutcome | None
    decision: str


def _entries(inputs: Iterable[Input], desk: "_Desk", journal: Journal) -> Iterator[_Entry]:
    for number, item in enumerate(inputs):
        source, stamp = pseudonymise_source(desk.key, item.name), item.stamp()
        yield _Entry(number, item, source, stamp, journal.find(source, stamp), journal.decision(source, stamp))


class _Desk:
    """Where one input after the other is worked on; each process has its own."""

    def __init__(self, policy: Policy, key: SiteKey, drafts: Path, quarantine: Path) -> None:
        self.policy = CompiledPolicy(policy)
        self.trusting = CompiledPolicy(policy.trusting_pixels())
        self.key = key
        self.drafts = drafts
        self.quarantine = quarantine
        self.known: set[str] = set()

    def process(self, entry: _Entry) -> FileOutcome:
        """De-identify one input into a draft, or put it into quarantine."""
        item, source = entry.item, entry.source
        if entry.decision == "drop":
            return FileOutcome(source, "ignored", "dropped")
        try:
            if not item.is_plain or is_no_image(item.name, data := item.read()):
                return FileOutcome(source, "ignored")
        except Discard as why:
            return self.hold(source, item, None, why)
        if data[:4] == _ZIPPED:
            why = Discard("unreadable_file", "The zip file is broken, or is inside another one.")
            return self.hold(source, item, data, why)
        before = _digest(data)
        draft = self.drafts / f"{entry.number}.dcm"
        try:
            if is_photograph(item.name):
                data = make_object(bytes(data), item.read_sidecar())
            policy = self.trusting if entry.decision == TRUST else self.policy
            cleaned = clean_object(data, draft, policy, self.key)
        except Discard as why:
            draft.unlink(missing_ok=True)
            return replace(self.hold(source, item, data, why), digest_before=before)
        deidentified = cleaned.deidentified
        handling = name_handling(deidentified.handled)
        new = handling not in self.known
        self.known.add(handling)
        return FileOutcome(
            source,
            "clean",
            digest_before=before,
            digest_after=cleaned.digest,
            sop_class=deidentified.sop_class,
            redacted=cleaned.redacted,
            draft=str(draft),
            target=f"{deidentified.patient}/{deidentified.study}/{deidentified.instance}.dcm",
            handling=handling,
            handled=deidentified.handled if new else (),
        )

    def hold(self, source: str, item: Input, data: bytes | mmap | None, why: Discard) -> FileOutcome:
        """Put an input into quarantine: its reason in the clear, its name and bytes sealed."""
        sealed = data is not None and len(data) <= _LARGEST_SEALED
        if data is not None and sealed:
            content = json.dumps(item.name).encode() + b"\n" + bytes(data)
            (self.quarantine / f"{source}.sealed").write_bytes(seal(self.key, content, source))
        note = {"source": source, "reason": why.reason, "detail": why.detail, "remedy": why.remedy, "sealed": sealed}
        (self.quarantine / f"{source}.json").write_text(json.dumps(note, indent=1))
        return FileOutcome(source, "quarantined", why.reason, why.detail)


class _Settler:
    """Moves drafts to their places in the order of inputs: of several with one UID the first is clean.

    The new content of an input takes the place of its old one, and what a person released that of the first.
    """

    def __init__(self, desk: _Desk, clean: Path, journal: Journal) -> None:
        self.desk = desk
        self.clean = clean
        self.journal = journal
        # On disk: a dictionary of a hundred thousand objects would take tens of megabytes.
        self.claimed = sqlite3.connect(desk.drafts / "claimed.db", isolation_level=None)
        self.claimed.execute("PRAGMA journal_mode = OFF")
        self.claimed.execute("PRAGMA synchronous = OFF")
        self.claimed.execute("CREATE TABLE claimed (name TEXT PRIMARY KEY, digest TEXT) WITHOUT ROWID")

    def __call__(self, entry: _Entry, outcome: FileOutcome) -> FileOutcome:
        """Return the outcome as it stands once those before it are known."""
        if outcome.status != "clean":
            return outcome
        if not outcome.draft:  # it was settled in an earlier run
            self._claim(outcome.target, outcome.digest_after)
            return outcome
        draft, place = Path(outcome.draft), self.clean / outcome.target
        content = outcome.digest_after
        first = self._claim(outcome.target, content)
        if first == content:
            outcome = replace(outcome, status="duplicate")
        elif first is None and place.exists() and self.journal.target_of(entry.source) != outcome.target:
            with place.open("rb") as stream:  # another input's, from an earlier run
                first = hashlib.file_digest(stream, "sha256").hexdigest()
        if first is None or (first != content and entry.decision == RELEASE):
            place.parent.mkdir(parents=True, exist_ok=True)
            draft.replace(place)
            return outcome
        draft.unlink()
        if first == content:
            return outcome
        why = Discard("conflicting_instance", "Another file with this SOP instance UID came first.")
        held = self.desk.hold(outcome.source, entry.item, entry.item.read(), why)
        return replace(held, digest_before=outcome.digest_before)

    def leftovers(self) -> int:
        """Return how many clean files no input of this run stands for."""
        claimed = self.claimed.execute("SELECT count(*) FROM claimed").fetchone()[0]
        return sum(1 for _ in self.clean.glob("*/*/*.dcm")) - claimed

    def _claim(self, name: str, digest: str) -> str | None:
        """Take a name for a content; return whose it is already in this run."""
        claimed = self.claimed.execute("SELECT digest FROM claimed WHERE name = ?", (name,)).fetchone()
        if claimed is None:
            self.claimed.execute("INSERT INTO claimed VALUES (?, ?)", (name, digest))
        return None if claimed is None else claimed[0]


def _warn_of_leftovers(settle: _Settler) -> None:
    if left := settle.leftovers():
        _log.warning(
            "Files in clean/ belong to inputs that are gone or no longer clean. They were left in place", files=left
        )


def _digest(data: bytes | mmap) -> str:
    if not isinstance(data, mmap):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    for start in range(0, len(data), RELEASED_EVERY):
        digest.update(data[start : start + RELEASED_EVERY])
        data.madvise(MADV_DONTNEED)
    return digest.hexdigest()


_desk: _Desk | None = None  # of this worker process


def _open_desk(policy: Policy, key: SiteKey, drafts: Path, quarantine: Path) -> None:
    global _desk  # noqa: PLW0603  (a pool's initialiser has no other way to leave something for its tasks)
    end_with_parent()
    _desk = _Desk(policy, key, drafts, quarantine)


def _process_batch(batch: list[_Entry]) -> list[FileOutcome]:
    assert _desk is not None  # noqa: S101  (set by the initialiser)
    return [_desk.process(entry) for entry in batch]


def _in_order(entries: Iterator[_Entry], desk: _Desk, workers: int) -> Iterator[tuple[_Entry, FileOutcome]]:
    """Yield each input with its outcome, in the order of inputs, at most a few batches ahead."""
    if workers == 1 and not desk.policy.policy.options.clean_pixel_data:
        # Without decoders nothing can bring the process down: no need for another one.
        yield from ((entry, entry.known or desk.process(entry)) for entry in entries)
        return
    # Where pixels are looked at, each takes so long that what was done should be known at once.
    size = 1 if desk.policy.policy.options.clean_pixel_data else _BATCH
    batches = iter(lambda: list(islice(entries, size)), [])
    waiting: deque[tuple[list[_Entry], Future[list[FileOutcome]]]] = deque()
    pool = _pool(desk, workers)
    try:
        while True:
            while len(waiting) < workers * _AHEAD and (batch := next(batches, None)):
                waiting.append((batch, pool.submit(_process_batch, _unknown(batch))))
            if not waiting:
                return
            batch, future = waiting.popleft()
            try:
                outcomes = future.result()
            except BrokenProcessPool:
                pool.shutdown()
                outcomes, pool = _one_by_one(_unknown(batch), desk), _pool(desk, workers)
                waiting = deque((again, pool.submit(_process_batch, _unknown(again))) for again, _ in waiting)
            fresh = iter(outcomes)
            yield from ((entry, entry.known or next(fresh)) for entry in batch)
    finally:
        pool.shutdown(cancel_futures=True)


def _unknown(batch: list[_Entry]) -> list[_Entry]:
    return [entry for entry in batch if entry.known is None]


def _pool(desk: _Desk, workers: int) -> ProcessPoolExecutor:
    made_of = (desk.policy.policy, desk.key, desk.drafts, desk.quarantine)
    return ProcessPoolExecutor(workers, initializer=_open_desk, initargs=made_of)


def _one_by_one(batch: list[_Entry], desk: _Desk) -> list[FileOutcome]:
    """Work on a batch whose process died, each input in a process of its own: the one that kills it is held."""
    outcomes: list[FileOutcome] = []
    for entry in batch:
        with _pool(desk, 1) as pool:
            try:
                outcomes += pool.submit(_process_batch, [entry]).result()
            except BrokenProcessPool:
                why = Discard("decoder_crashed", "A decoder crashed on its pixels.")
                outcomes.append(desk.hold(entry.source, entry.item, entry.item.read(), why))
    return outcomes
