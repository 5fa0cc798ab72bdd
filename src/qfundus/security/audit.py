"""A tamper-evident trail of who did what, when and why: each record names the one before it, and is signed.

Records are FHIR R4 AuditEvents with the event codes of DICOM PS3.15 A.5 (audit messages). A record is one object,
created only if absent: two writers can never take one place in the chain.
"""

import getpass
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from qfundus.errors import Retry
from qfundus.security.keys import SiteKey
from qfundus.storage import Store, to_json

EventCode = Literal["110100", "110103", "110106", "110107", "110113"]
_MEANINGS: dict[EventCode, str] = {
    "110100": "Application Activity",
    "110103": "DICOM Instances Accessed",
    "110106": "Export",
    "110107": "Import",
    "110113": "Security Alert",
}
_HEAD = "head.json"
_RECORDS = "records/"
_LOST_HEAD = "The trail had lost its head: what stood behind the record before this one is not known."
_FIRST = "0" * 64
_ATTEMPTS = 50  # writers at one place of the chain


@dataclass(frozen=True)
class Finding:
    """Something wrong with the trail: at which record, and what."""

    number: int
    what: str


@dataclass(frozen=True)
class Record:
    """One record: its place in the chain, and the event."""

    number: int
    event: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Head:
    """The end of the chain: the last record's number and digest."""

    number: int
    digest: str


class AuditTrail:
    """The trail of a site, in its audit bucket, or of a folder.

    Whoever has `public_keys` alone, newest first, can verify it and write nothing.
    """

    def __init__(self, store: Store, bucket: str, key: SiteKey | None, public_keys: Sequence[str] = ()) -> None:
        self._store = store
        self._bucket = bucket
        seeds = [generation.derive("audit") for generation in key.generations()] if key else []
        self._signers = [Ed25519PrivateKey.from_private_bytes(seed) for seed in seeds]
        # What was signed before a rotation stays valid.
        self._keys = [
            *(signer.public_key() for signer in self._signers),
            *(Ed25519PublicKey.from_public_bytes(bytes.fromhex(text)) for text in public_keys),
        ]

    @property
    def public_key(self) -> str:
        """The key by which anybody can check the signatures, in hexadecimal."""
        return self._keys[0].public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def append(
        self,
        code: EventCode,
        action: Literal["C", "R", "U", "D", "E"],
        what: str,
        why: str,
        who: str = "",
        /,
        **details: str | int,
    ) -> int:
        """Write one record and return its number.

        `what` names the object by pseudonym, `why` is the reason that was given, `who` the person, unless given the
        user of this process; no value here may identify a patient.

        Raises:
            Retry: if the store does not answer, or too many write at once.
        """
        event = _event(code, action, what, why, who or getpass.getuser(), details)
        for _ in range(_ATTEMPTS):
            head, sound = self._last()
            if not sound:
                self._write(head, _event("110113", "E", "audit trail", _LOST_HEAD, "qfundus", {}))
            elif self._write(head, event):
                return head.number + 1
        raise Retry("Too many processes are writing to the audit trail at once.")

    def head(self) -> Head:
        """Return the end of the chain."""
        return self._last()[0]

    def holds(self, number: int, digest: str) -> bool:
        """Return whether a record has a digest, of which the beginning may do."""
        return bool(digest) and str(self._read(_name(number)).get("digest", "")).startswith(digest)

    def records(self) -> Iterator[Record]:
        """Yield the records in order."""
        for _, record in self._entries():
            if record:
                yield Record(int(record["number"]), record["event"])

    def verify(self) -> list[Finding]:
        """Return every record that is changed, missing, repeated or out of order; an empty list for a sound trail."""
        findings: list[Finding] = []
        expected, previous, newest = 1, _FIRST, len(self._keys)
        for place, record in self._entries():
            if place < 0:
                findings.append(Finding(expected, "is followed by an object that is not a record"))
                continue
            while expected < place:
                findings.append(Finding(expected, "is missing"))
                expected, previous = expected + 1, ""
            findings += [Finding(place, what) for what in self._faults(record, place, previous)]
            signed_by = self._signed_by(str(record.get("digest", "")), str(record.get("signature", "")))
            if signed_by is not None and signed_by > newest:
                findings.append(Finding(place, "is signed with a key that was retired before it"))
            newest = newest if signed_by is None else min(newest, signed_by)
            expected, previous = place + 1, str(record.get("digest", ""))
        if expected == 1:
            return [Finding(0, "is missing: the trail holds no record at all")]
        return findings + self._faults_of_head(expected - 1, previous)

    def _entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each object among the records with its place (-1 if its name has none); {} for what is not a record."""
        for entry in self._store.list(self._bucket, prefix=_RECORDS):
            name = entry.name.removeprefix(_RECORDS).removesuffix(".json")
            place = int(name) if name.isdecimal() and entry.name == _name(int(name)) else -1
            yield place, self._read(entry.name) if place > 0 else {}

    def _read(self, name: str) -> dict[str, Any]:
        try:
            stored = self._store.find_json(self._bucket, name)
        except ValueError:  # somebody wrote something else there
            return {}
        is_record = isinstance(stored, dict) and isinstance(stored.get("number"), int)
        return cast("dict[str, Any]", stored) if is_record else {}

    def _faults(self, record: dict[str, Any], place: int, previous: str) -> Iterator[str]:
        digest = str(record.get("digest", ""))
        body = {name: record.get(name) for name in ("number", "previous", "event")}
        if _digest(body) != digest:
            yield "was changed"
        elif self._signed_by(digest, str(record.get("signature", ""))) is None:
            yield "is not signed by this site: with another key, name it"
        elif str(body["event"]).count(_LOST_HEAD):
            yield "says that the head was lost: records before it may be missing"
        if record.get("number") != place:
            yield "stands in another's place"
        if previous and record.get("previous") != previous:
            yield "does not follow the record before it"

    def _faults_of_head(self, number: int, digest: str) -> list[Finding]:
        head = self._read(_HEAD)
        if not head:
            return [Finding(number, "is the last: the trail has lost its head")]
        if not self._is_head(head):
            return [Finding(number, "is the last: the head is not signed by this site")]
        if head["number"] > number:
            return [Finding(n, "is missing at the end") for n in range(number + 1, head["number"] + 1)]
        if head["number"] == number and head["digest"] != digest:
            return [Finding(number, "is not the record that the head names")]
        return []

    def _is_head(self, head: dict[str, Any]) -> bool:
        signed = f"{head['number']} {head.get('digest')}"
        return self._signed_by(signed, str(head.get("signature", ""))) is not None

    def _last(self) -> tuple[Head, bool]:
        """Find the end of the chain, and say whether a head that holds leads to it.

        The head may lag behind where a writer stopped between record and head.
        """
        while True:
            head = self._read(_HEAD)
            number, digest = (head["number"], str(head.get("digest"))) if head else (0, _FIRST)
            while after := self._read(_name(number + 1)):
                number, digest = number + 1, str(after.get("digest"))
            if head:
                return Head(number, digest), self._is_head(head)
            if number < 2:
                return Head(number, digest), True
            if not self._read(_HEAD):  # nobody has written one in the meantime
                return Head(number, digest), False

    def _write(self, last: Head, event: dict[str, Any]) -> bool:
        """Write a record behind the last one; return whether nobody else was faster."""
        number = last.number + 1
        record = {"number": number, "previous": last.digest, "event": event}
        digest = _digest(record)
        signed = {**record, "digest": digest, "signature": self._sign(digest)}
        if not self._store.put_if_absent(self._bucket, _name(number), to_json(signed)):
            return False
        head = {"number": number, "digest": digest, "signature": self._sign(f"{number} {digest}")}
        self._store.put(self._bucket, _HEAD, to_json(head))
        return True

    def _sign(self, text: str) -> str:
        return self._signers[0].sign(text.encode()).hex()

    def _signed_by(self, text: str, signature: str) -> int | None:
        """Return which key signed a text, 0 for the newest, None where none did."""
        for number, key in enumerate(self._keys):
            with suppress(InvalidSignature, ValueError):
                key.verify(bytes.fromhex(signature), text.encode())
                return number
        return None


def _event(
    code: EventCode, action: str, what: str, why: str, who: str, details: dict[str, str | int]
) -> dict[str, Any]:
    return {
        "resourceType": "AuditEvent",
        "type": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": code, "display": _MEANINGS[code]},
        "action": action,
        "recorded": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "outcome": "0",
        "purposeOfEvent": [{"text": why}],
        "agent": [{"who": {"identifier": {"value": who}}, "requestor": True}],
        "source": {"observer": {"display": "qfundus"}},
        "entity": [
            {
                "what": {"identifier": {"value": what}},
                "detail": [{"type": name, "valueString": str(value)} for name, value in sorted(details.items())],
            }
        ],
    }


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _name(number: int) -> str:
    return f"{_RECORDS}{number:012d}.json"
