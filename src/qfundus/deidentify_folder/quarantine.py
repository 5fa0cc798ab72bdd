"""What `qfundus deidentify` held back in a folder: looked at and decided about, without any server."""

import json
from pathlib import Path

from qfundus.deidentify_folder.journal import Journal
from qfundus.deidentify_folder.run import AUDIT
from qfundus.errors import SetupError
from qfundus.ingestion.quarantine import QuarantinedItem
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey
from qfundus.security.sealing import unseal
from qfundus.storage import FolderStore


class FolderQuarantine:
    """The quarantine of a target folder; decisions hold from the next run into it on."""

    def __init__(self, target: Path, key: SiteKey) -> None:
        if not (target / "quarantine").is_dir():
            raise SetupError("`qfundus deidentify` did not write this folder: it has no quarantine/.")
        self._folder = target / "quarantine"
        self._journal = Journal(target)
        self._key = key
        self._trail = AuditTrail(FolderStore(target), AUDIT, key)

    def list(self) -> list[QuarantinedItem]:
        """List what is in quarantine."""
        notes = [json.loads(file.read_text()) for file in sorted(self._folder.glob("*.json"))]
        return [QuarantinedItem(note["source"], note["reason"], note["detail"], "") for note in notes]

    def show(self, source: str, why: str) -> bytes:
        """Return an item as it came, and record who looked: it identifies a person.

        Raises:
            LookupError: if nothing of that pseudonym is in quarantine.
            SetupError: if it was too large to be sealed there.
        """
        self._check(source)
        sealed = self._journal.sealed_of(source)
        if not sealed.exists():
            raise SetupError("The item exists only where it came from: it was too large to keep, or could not be read.")
        try:
            content = unseal(self._key, sealed.read_bytes(), source)
        except ValueError:
            raise SetupError("The item was sealed with another key: name it with --key-file.") from None
        self._trail.append("110103", "R", source, why, decision="show")
        return content.split(b"\n", 1)[1]

    def release(self, source: str, why: str) -> None:
        """Let the next run take an item in without looking for text in its pixels, and record who decided so.

        Raises:
            LookupError: if nothing of that pseudonym is in quarantine.
        """
        self._decide(source, why, "release")

    def drop(self, source: str, why: str) -> None:
        """Let every later run pass an item over, and record who decided so.

        Raises:
            LookupError: if nothing of that pseudonym is in quarantine.
        """
        self._decide(source, why, "drop")

    def _decide(self, source: str, why: str, decision: str) -> None:
        self._check(source)
        self._trail.append("110103", "U" if decision == "release" else "D", source, why, decision=decision)
        self._journal.decide(source, decision)
        self._journal.sealed_of(source).unlink(missing_ok=True)
        self._journal.note_of(source).unlink()

    def _check(self, source: str) -> None:
        # A pseudonym is letters and digits: nothing else may lead to a file.
        if not source.isalnum() or not self._journal.note_of(source).exists():
            raise LookupError("Nothing with that pseudonym is in quarantine.")
