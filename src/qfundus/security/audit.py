"""A tamper-evident trail of who did what, when and why: each record names the one before it, and is signed.

Records are FHIR R4 AuditEvents with the event codes of DICOM PS3.15 A.5 (audit messages). A record is one object,
created only if absent: two writers can never take one place in the chain.
"""

import getpass
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
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


class AuditTrail:
    """The trail of a site, in its audit bucket, or of a folder."""

    def __init__(self, store: Store, bucket: str, key: SiteKey) -> None:
        self._store = store
        self._bucket = bucket
        # What was signed before a rotation stays valid.
        self._signers = [Ed25519PrivateKey.from_private_bytes(g.derive("audit")) for g in key.generations()]

    @property
    def public_key(self) -> str:
        """The key by which anybody can check the signatures, in hexadecimal."""
        return self._signers[0].public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def append(
        self, code: EventCode, action: Literal["C", "R", "U", "D", "E"], what: str, why: str, **details: str | int
    ) -> int:
        """Write one record and return its number.

        `what` names the object by pseudonym, `why` is the reason that was given; no value here may identify a patient.

        Raises:
            Retry: where the store does not answer, or too many write at once.
        """
        event = _event(code, action, what, why, details)
        for _ in range(_ATTEMPTS):
            number, previous = self._last()
            record = {"number": number + 1, "previous": previous, "event": event}
            digest = _digest(record)
            signed = {**record, "digest": digest, "signature": self._sign(digest)}
            if self._store.put_if_absent(self._bucket, _name(number + 1), to_json(signed)):
                self._write_head(number + 1, digest)
                return number + 1
        raise Retry("The audit trail is written by too many at once.")

    def records(self) -> Iterator[Record]:
        """Yield the records in order."""
        for entry in self._store.list(self._bucket, prefix="records/"):
            found = self._store.find_json(self._bucket, entry.name)
            if found is not None:
                yield Record(found["number"], found["event"])

    def verify(self) -> list[Finding]:
        """Return every record that is changed, missing, repeated or out of order; an empty list for a sound trail."""
        findings: list[Finding] = []
        expected, previous = 1, _FIRST
        for entry in self._store.list(self._bucket, prefix="records/"):
            place = int(entry.name.removeprefix("records/").removesuffix(".json"))
            while expected < place:
                findings.append(Finding(expected, "is missing"))
                expected, previous = expected + 1, ""
            record = self._store.find_json(self._bucket, entry.name) or {}
            findings += [Finding(place, what) for what in self._faults(record, place, previous)]
            expected, previous = place + 1, str(record.get("digest", ""))
        return findings + self._faults_of_head(expected - 1, previous)

    def _faults(self, record: dict[str, Any], place: int, previous: str) -> Iterator[str]:
        digest = str(record.get("digest", ""))
        body = {name: record.get(name) for name in ("number", "previous", "event")}
        if _digest(body) != digest:
            yield "was changed"
        elif not self._is_signed(digest, str(record.get("signature", ""))):
            yield "is not signed by this site"
        if record.get("number") != place:
            yield "stands in another's place"
        if previous and record.get("previous") != previous:
            yield "does not follow the record before it"

    def _faults_of_head(self, number: int, digest: str) -> list[Finding]:
        head = self._store.find_json(self._bucket, _HEAD)
        if head is None:
            return [Finding(number, "the trail has lost its head")] if number else []
        if not self._is_signed(f"{head['number']} {head['digest']}", head["signature"]):
            return [Finding(number, "the head is not signed by this site")]
        if head["number"] > number:
            return [Finding(n, "is missing at the end") for n in range(number + 1, head["number"] + 1)]
        if head["number"] == number and head["digest"] != digest:
            return [Finding(number, "is not the record that the head names")]
        return []

    def _last(self) -> tuple[int, str]:
        """Find the end of the chain: the head may lag behind where a writer stopped between record and head."""
        head = self._store.find_json(self._bucket, _HEAD)
        number, digest = (head["number"], head["digest"]) if head else (0, _FIRST)
        while (after := self._store.find_json(self._bucket, _name(number + 1))) is not None:
            number, digest = number + 1, after["digest"]
        return number, digest

    def _write_head(self, number: int, digest: str) -> None:
        signature = self._sign(f"{number} {digest}")
        self._store.put(self._bucket, _HEAD, to_json({"number": number, "digest": digest, "signature": signature}))

    def _sign(self, text: str) -> str:
        return self._signers[0].sign(text.encode()).hex()

    def _is_signed(self, text: str, signature: str) -> bool:
        for signer in self._signers:
            with suppress(InvalidSignature, ValueError):
                signer.public_key().verify(bytes.fromhex(signature), text.encode())
                return True
        return False


def _event(code: EventCode, action: str, what: str, why: str, details: dict[str, str | int]) -> dict[str, Any]:
    return {
        "resourceType": "AuditEvent",
        "type": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": code, "display": _MEANINGS[code]},
        "action": action,
        "recorded": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "outcome": "0",
        "purposeOfEvent": [{"text": why}],
        "agent": [{"who": {"identifier": {"value": getpass.getuser()}}, "requestor": True}],
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
    return f"records/{number:012d}.json"
