"""Quarantine: unusable items, sealed, each with the reason and the remedy beside it in the clear."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from qfundus.errors import REMEDIES, Discard, ReasonCode
from qfundus.ingestion.landing import ARCHIVE, released_prefix
from qfundus.security.sealing import seal, unseal
from qfundus.site import Site
from qfundus.storage import to_json

PART = 64 << 20  # bytes that are sealed at a time: what a large item costs in memory


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

    def __init__(self, site: Site) -> None:
        self._store = site.store
        self._bucket = site.settings.quarantine_bucket
        self._landing = site.settings.landing_bucket
        self._key = site.key
        self._trail = site.trail

    def put(
        self, source: str, name: str, data: bytes | Iterable[bytes], why: Discard, run: str, instance: str = ""
    ) -> None:
        """Seal an item's name and bytes and write its reason beside them; a second time changes nothing.

        Of a large item the parts are sealed one by one. `instance` is the pseudonymous UID of what it would have been,
        where that can be read: a notice of erasure finds the item by it.
        """
        if instance:  # first: what is sealed can then be found, whatever happens
            self._store.put(self._bucket, _marker(instance, source), b"")
        for number, (part, last) in enumerate(_mark_last([data] if isinstance(data, bytes) else data)):
            head = json.dumps({"name": name, "last": last}).encode()
            bound = _part(source, number)
            self._store.put_if_absent(self._bucket, f"{bound}.sealed", seal(self._key, head + b"\n" + part, bound))
        note = {
            "source": source,
            "reason": why.reason,
            "detail": why.detail,
            "remedy": why.remedy,
            "run": run,
            "instance": instance,
        }
        self._store.put_if_absent(self._bucket, f"{source}.json", to_json(note))

    def holding(self, instance: str) -> list[str]:
        """Return the items that would have been one instance, or say something of it."""
        prefix = _marker(instance, "")
        return [stored.name.removeprefix(prefix) for stored in self._store.list(self._bucket, prefix)]

    def list(self) -> list[QuarantinedItem]:
        """List what is in quarantine."""
        notes = [entry.name for entry in self._store.list(self._bucket) if entry.name.endswith(".json")]
        read = [self._store.find_json(self._bucket, name) for name in notes]
        return [QuarantinedItem(n["source"], n["reason"], n["detail"], n["run"]) for n in read if n]

    def release(self, source: str, why: str, who: str = "") -> None:
        """Put an item back into the landing bucket, as it came, and record who decided so.

        Raises:
            LookupError: if nothing of that pseudonym is in quarantine.
        """
        name = self._open(source, 0)[0]["name"]
        note = self._store.find_json(self._bucket, f"{source}.json")
        reason = note["reason"] if note else ""
        if reason == "conflicting_instance" and not name.startswith(ARCHIVE):
            name = ARCHIVE + name  # releasing one of two says that it is the right one
        if reason == "burned_in_text":
            name = released_prefix(self._key) + name  # and here, that it shows no text
        self._trail.append("110107", "U", source, why, who, decision="release")
        # The bytes must be safe in landing before quarantine forgets them.
        with tempfile.TemporaryFile() as file:
            for part in self._parts(source):
                file.write(part)
            file.seek(0)
            self._store.put_stream(self._landing, name, file)
        self.forget(source)

    def drop(self, source: str, why: str, who: str = "") -> None:
        """Delete an item for good, and record who decided so.

        Raises:
            LookupError: if nothing of that pseudonym is in quarantine.
        """
        self._store.get(self._bucket, f"{source}.json")
        self._trail.append("110103", "D", source, why, who, decision="drop")
        self.forget(source)

    def show(self, source: str, why: str) -> bytes:
        """Return an item as it came, and record who looked: it identifies a person.

        Raises:
            LookupError: if nothing of that pseudonym is in quarantine.
        """
        data = b"".join(self._parts(source))
        self._trail.append("110103", "R", source, why, decision="show")
        return data

    def forget(self, source: str) -> None:
        """Delete an item without a record; only for what was never anybody's, or is recorded already."""
        note = self._store.find_json(self._bucket, f"{source}.json") or {}
        self._store.delete_all(self._bucket, [stored.name for stored in self._store.list(self._bucket, f"{source}.")])
        if note.get("instance"):
            self._store.delete(self._bucket, _marker(note["instance"], source))

    def _parts(self, source: str) -> Iterator[bytes]:
        for number in count():
            head, data = self._open(source, number)
            yield data
            if head["last"]:
                return

    def _open(self, source: str, number: int) -> tuple[dict[str, Any], bytes]:
        bound = _part(source, number)
        opened = unseal(self._key, self._store.get(self._bucket, f"{bound}.sealed"), bound)
        head, data = opened.split(b"\n", 1)
        return json.loads(head), data


def _part(source: str, number: int) -> str:
    # The name is sealed with the part: parts can be neither swapped nor, by their mark of the last, left out.
    return f"{source}.{number}" if number else source


def _marker(instance: str, source: str) -> str:
    return f"instances/{instance}/{source}"


def _mark_last(parts: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    before: bytes | None = None
    for part in parts:
        if before is not None:
            yield before, False
        before = part
    yield before or b"", True
