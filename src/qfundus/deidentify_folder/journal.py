"""The journal of a target folder: what became of each input, so that a run goes on where another was stopped."""

import json
import sqlite3
from dataclasses import asdict, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from io import TextIOWrapper
from pathlib import Path

from qfundus.deidentify_folder.manifest import FileOutcome
from qfundus.dicom.deidentify import Handled
from qfundus.dicom.handling import made_by
from qfundus.dicom.policy import Policy
from qfundus.errors import SetupError
from qfundus.security.keys import SiteKey

_NAME = ".journal.db"
RELEASE = "release"
TRUST = "trust"  # what was held for its text alone, and released: a person has looked at its pixels
_TABLES = """
    CREATE TABLE IF NOT EXISTS about (said TEXT);
    CREATE TABLE IF NOT EXISTS outcomes (source TEXT PRIMARY KEY, stamp TEXT, outcome TEXT) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS handlings (name TEXT PRIMARY KEY, handled TEXT) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS decisions (source TEXT PRIMARY KEY, stamp TEXT, decision TEXT) WITHOUT ROWID;
"""


class Journal:
    """One row for each input: its pseudonym, a stamp that changes with its content, and what became of it."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._lock: TextIOWrapper | None = None
        self._database = sqlite3.connect(target / _NAME, isolation_level=None)
        # A killed process loses nothing then; only a power cut might, and what it loses is done again.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.executescript(_TABLES)

    def begin(self, policy: Policy, key: SiteKey) -> None:
        """Take the folder for one run, and bind it to a policy and a key: what two wrote would not fit together.

        Raises:
            SetupError: if another run has it, or it is bound to others.
        """
        # Held until the process ends: two runs would overwrite each other's drafts.
        self._lock = (self._target / ".lock").open("w")
        try:
            flock(self._lock, LOCK_EX | LOCK_NB)
        except OSError:
            raise SetupError("Another run is writing into the target: wait until it has ended.") from None
        about = json.dumps({**made_by(policy), "key": key.mac("source", "journal").hex()})
        stored = self._database.execute("SELECT said FROM about").fetchone()
        if stored is None:
            self._database.execute("INSERT INTO about VALUES (?)", (about,))
        elif stored[0] != about:
            raise SetupError(
                "The target was written with another policy, key or version of qfundus: choose another target."
            )

    def find(self, source: str, stamp: str) -> FileOutcome | None:
        """Return what became of an input, or None where it is new, has changed, or what was written is gone."""
        stored = self._database.execute("SELECT stamp, outcome FROM outcomes WHERE source = ?", (source,)).fetchone()
        if stored is None or stored[0] != stamp:
            return None
        outcome = FileOutcome(**json.loads(stored[1]))
        if outcome.status == "clean" and not (self._target / "clean" / outcome.target).exists():
            return None
        if outcome.status == "quarantined" and not self.note_of(source).exists():
            return None
        return replace(outcome, handled=self._handled(outcome.handling)) if outcome.handling else outcome

    def target_of(self, source: str) -> str:
        """Return where an earlier content of an input lies clean, '' where it does not."""
        stored = self._database.execute("SELECT outcome FROM outcomes WHERE source = ?", (source,)).fetchone()
        return json.loads(stored[0]).get("target", "") if stored else ""

    def add(self, stamp: str, outcome: FileOutcome) -> None:
        """Enter what became of an input; what lies in quarantine of an earlier content goes."""
        if outcome.status != "quarantined":
            for file in (self.note_of(outcome.source), self.sealed_of(outcome.source)):
                file.unlink(missing_ok=True)
        if outcome.handled:
            row = outcome.handling, json.dumps(outcome.handled)
            self._database.execute("INSERT OR IGNORE INTO handlings VALUES (?, ?)", row)
        stored = {**asdict(replace(outcome, handled=())), "draft": ""}
        row = outcome.source, stamp, json.dumps(stored)
        self._database.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)", row)

    def decide(self, source: str, decision: str) -> None:
        """Remember what a person decided about a quarantined input, as long as its content stays what it was."""
        stored = self._database.execute("SELECT stamp, outcome FROM outcomes WHERE source = ?", (source,)).fetchone()
        if stored is None:
            return
        if decision == RELEASE and json.loads(stored[1])["reason"] == "burned_in_text":
            decision = TRUST
        self._database.execute("INSERT OR REPLACE INTO decisions VALUES (?, ?, ?)", (source, stored[0], decision))
        self._database.execute("DELETE FROM outcomes WHERE source = ?", (source,))

    def decision(self, source: str, stamp: str) -> str:
        """Return what a person decided about an input with this content, '' where nobody did."""
        query = "SELECT decision FROM decisions WHERE source = ? AND stamp = ?"
        stored = self._database.execute(query, (source, stamp)).fetchone()
        return stored[0] if stored else ""

    def close(self) -> None:
        """Let go of the folder."""
        self._database.close()
        if self._lock is not None:
            self._lock.close()

    def note_of(self, source: str) -> Path:
        """Return where the reason for a quarantined input lies."""
        return self._target / "quarantine" / f"{source}.json"

    def sealed_of(self, source: str) -> Path:
        """Return where a quarantined input lies, sealed."""
        return self._target / "quarantine" / f"{source}.sealed"

    def _handled(self, handling: str) -> tuple[Handled, ...]:
        stored = self._database.execute("SELECT handled FROM handlings WHERE name = ?", (handling,)).fetchone()
        return tuple(Handled(*row) for row in json.loads(stored[0])) if stored else ()
