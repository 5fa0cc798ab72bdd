"""Keyed pseudonyms: the same person gets the same name in every file and run, and only the key leads back."""

import base64
import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Purpose = Literal["patient", "uid", "date", "source", "grader", "split", "seal", "audit", "plant"]
LONGEST_SHIFT_DAYS = 730
_FEWEST_VALUES = 16  # different bytes among 32 drawn at random: fewer come once in 10^15 draws
_ROTATED: frozenset[Purpose] = frozenset({"seal", "audit"})


@dataclass(frozen=True)
class SiteKey:
    """The one secret of a site, from which a key for each purpose is derived (HKDF-Expand, RFC 5869).

    After a rotation `older` holds the secrets before it, newest first. What is sealed and signed goes by the newest;
    pseudonyms stay with the oldest, or one patient would have two and could be in two splits.
    """

    secret: bytes = field(repr=False)
    older: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if min(map(len, (self.secret, *self.older))) < 32:
            raise ValueError("The site key needs at least 32 bytes; `qfundus up` generates one.")

    @classmethod
    def from_hex(cls, text: str) -> "SiteKey":
        """Read a key of 64 or more hexadecimal digits; with commas between, the newest and those before it."""
        newest, *older = [bytes.fromhex(part) for part in text.split(",")]
        if any(len(set(secret)) < _FEWEST_VALUES for secret in (newest, *older)):
            raise ValueError("The site key was not drawn at random.")
        return cls(newest, tuple(older))

    def derive(self, purpose: Purpose) -> bytes:
        """Derive 32 bytes for one purpose."""
        secret = self.secret if purpose in _ROTATED or not self.older else self.older[-1]
        return hmac.digest(secret, b"qfundus/" + purpose.encode() + b"\x01", hashlib.sha256)

    def generations(self) -> Iterator["SiteKey"]:
        """Yield the key as it is, and as it was before each rotation."""
        everything = (self.secret, *self.older)
        for newest in range(len(everything)):
            yield SiteKey(everything[newest], everything[newest + 1 :])

    def mac(self, purpose: Purpose, value: str | bytes) -> bytes:
        """Return the HMAC-SHA-256 of a value under the key for a purpose."""
        # A file's name may hold bytes that are not UTF-8.
        data = value.encode(errors="surrogateescape") if isinstance(value, str) else value
        return hmac.digest(self.derive(purpose), data, hashlib.sha256)


def pseudonymise_patient(key: SiteKey, patient_id: str, issuer: str = "") -> str:
    """Name a patient by 16 base32 characters (80 bits).

    Identifiers are unique within their issuer only, so both are hashed; white space around them carries no meaning.
    """
    return _short(key.mac("patient", f"{issuer.strip()}\x00{patient_id.strip()}"))


def pseudonymise_uid(key: SiteKey, uid: str) -> str:
    """Map a UID to one under 2.25, the arc for UUIDs (DICOM PS3.5 B.2): 128 bits of its HMAC."""
    return f"2.25.{int.from_bytes(key.mac('uid', uid.strip())[:16], 'big')}"


def pseudonymise_source(key: SiteKey, name: str) -> str:
    """Name a landed object, whose own name may hold a person's, by 16 base32 characters."""
    return _short(key.mac("source", name))


def pseudonymise_grader(key: SiteKey, name: str) -> str:
    """Name a grader by 16 base32 characters."""
    return _short(key.mac("grader", name.strip().casefold()))


def date_shift(key: SiteKey, patient: str) -> int:
    """Return the days, 1 to 730, by which all dates of a patient move into the past: intervals are kept."""
    return int.from_bytes(key.mac("date", patient)[:8], "big") % LONGEST_SHIFT_DAYS + 1


def split_fraction(key: SiteKey, patient: str) -> float:
    """Place a patient in [0, 1), the same on every night, to choose a split by."""
    return int.from_bytes(key.mac("split", patient)[:8], "big") / 2**64


def _short(mac: bytes) -> str:
    return base64.b32encode(mac[:10]).decode()
