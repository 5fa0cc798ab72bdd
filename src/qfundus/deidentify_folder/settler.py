"""The places of clean files: of several inputs with one UID the first is clean."""

import hashlib
import sqlite3
from dataclasses import replace
from pathlib import Path

from qfundus.deidentify_folder.desk import Desk, Entry
from qfundus.deidentify_folder.journal import RELEASE, Journal
from qfundus.deidentify_folder.manifest import FileOutcome
from qfundus.errors import Discard


class Settler:
    """Moves drafts to their places in the order of inputs: of several with one UID the first is clean.

    The new content of an input takes the place of its old one, and what a person released that of the first.
    """

    def __init__(self, desk: Desk, clean: Path, journal: Journal) -> None:
        self.desk = desk
        self.clean = clean
        self.journal = journal
        # On disk: a dictionary of a hundred thousand objects would take tens of megabytes.
        self.claimed = sqlite3.connect(desk.drafts / "claimed.db", isolation_level=None)
        self.claimed.execute("PRAGMA journal_mode = OFF")
        self.claimed.execute("PRAGMA synchronous = OFF")
        self.claimed.execute("CREATE TABLE claimed (name TEXT PRIMARY KEY, digest TEXT) WITHOUT ROWID")

    def __call__(self, entry: Entry, outcome: FileOutcome) -> FileOutcome:
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
