"""Quarantine: unusable items, sealed, each with the reason and the remedy beside it in the clear."""

import json
from dataclasses import dataclass

from qfundus.errors import REMEDIES, Discard, ReasonCode
from qfundus.ingestion.landing import ARCHIVE, released_prefix
from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey
from qfundus.security.sealing import seal, unseal
from qfundus.settings import Settings
from qfundus.storage import ObjectStore, to_json


@dataclass(frozen=True)
class QuarantinedItem:
    """What may be said of a quarantined item in the clear."""

    source: str
    reason: ReasonCode
    detail: str
    run: str

    @property
    def remedy(self) -> str:
        """What a person can do about it."""
        return REMEDIES[self.reason]


class Quarantine:
    """The quarantine bucket."""

    def __init__(self, store: ObjectStore, settings: Settings, key: SiteKey) -> None:
        self._store = store
        self._bucket = settings.quarantine_bucket
        self._landing = settings.landing_bucket
        self._key = key
        self._trail = AuditTrail(store, settings.audit_bucket, key)

    def put(self, source: str, name: str, data: bytes, why: Discard, run: str) -> None:
        """Seal an item's name and bytes and write its reason beside them; a second time changes nothing."""
        sealed = seal(self._key, json.dumps(name).encode() + b"\n" + data, source)
        self._store.put_if_absent(self._bucket, f"{source}.sealed", sealed)
        note = {
            "source": source,
            "reason": why.reason,
            "detail": why.detail,
            "remedy": why.remedy,
            "run": run,
        }
        self._store.put_if_absent(self._bucket, f"{source}.json", to_json(note))

    def list(self) -> list[QuarantinedItem]:
        """List what is in quarantine."""
        notes = [entry.name for entry in self._store.list(self._bucket) if entry.name.endswith(".json")]
        found = [self._store.find_json(self._bucket, name) for name in notes]
        return [QuarantinedItem(n["source"], n["reason"], n["detail"], n["run"]) for n in found if n]

    def release(self, source: str, why: str, who: str = "") -> None:
        """Put an item back into the landing bucket, as it came, and record who decided so.

        Raises:
            LookupError: where nothing of that pseudonym is in quarantine.
        """
        name, data = self._open(source)
        note = self._store.find_json(self._bucket, f"{source}.json")
        reason = note["reason"] if note else ""
        if reason == "conflicting_instance" and not name.startswith(ARCHIVE):
            name = ARCHIVE + name  # whoever releases one of two says that it is the right one
        if reason == "burned_in_text":
            name = released_prefix(self._key) + name  # and here, that what looked like text is none
        self._trail.append("110107", "U", source, why, who, decision="release")
        # The bytes must be safe in landing before quarantine forgets them.
        self._store.put(self._landing, name, data)
        self.forget(source)

    def drop(self, source: str, why: str, who: str = "") -> None:
        """Delete an item for good, and record who decided so.

        Raises:
            LookupError: where nothing of that pseudonym is in quarantine.
        """
        self._store.get(self._bucket, f"{source}.json")
        self._trail.append("110103", "D", source, why, who, decision="drop")
        self.forget(source)

    def show(self, source: str, why: str) -> bytes:
        """Return an item as it came, and record who looked: it identifies a person.

        Raises:
            LookupError: where nothing of that pseudonym is in quarantine.
        """
        _, data = self._open(source)
        self._trail.append("110103", "R", source, why, decision="show")
        return data

    def forget(self, source: str) -> None:
        """Delete an item without a record; only for what was never anybody's."""
        self._store.delete(self._bucket, f"{source}.sealed")
        self._store.delete(self._bucket, f"{source}.json")

    def _open(self, source: str) -> tuple[str, bytes]:
        opened = unseal(self._key, self._store.get(self._bucket, f"{source}.sealed"), source)
        name, data = opened.split(b"\n", 1)
        return json.loads(name), data
