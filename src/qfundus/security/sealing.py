"""Authenticated encryption of objects that still identify a person (AES-256-GCM, NIST SP 800-38D)."""

import os
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qfundus.security.keys import SiteKey

_MAGIC = b"QFS1"
_NONCE = 12


def seal(key: SiteKey, data: bytes, name: str) -> bytes:
    """Encrypt data and bind it to its object's name, so that sealed objects cannot be swapped."""
    nonce = os.urandom(_NONCE)
    return _MAGIC + nonce + AESGCM(key.derive("seal")).encrypt(nonce, data, name.encode())


def unseal(key: SiteKey, sealed: bytes, name: str) -> bytes:
    """Decrypt what `seal` made for the same name, with this key or one from before a rotation.

    Raises:
        ValueError: if the bytes, the name or the key differ from those at sealing.
    """
    if not sealed.startswith(_MAGIC):
        raise ValueError("This is not a sealed object.")
    nonce, body = sealed[4 : 4 + _NONCE], sealed[4 + _NONCE :]
    for generation in key.generations():
        with suppress(InvalidTag):
            return AESGCM(generation.derive("seal")).decrypt(nonce, body, name.encode())
    raise ValueError("The sealed object was changed, renamed, or sealed with another key.")


def is_current(key: SiteKey, sealed: bytes, name: str) -> bool:
    """Return whether a sealed object was sealed with the newest secret."""
    try:
        unseal(SiteKey(key.secret), sealed, name)
    except ValueError:
        return False
    return True
