"""Text without identity: a patient's own identifiers go, and what looks like a date, a number or an address."""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from pydicom.charset import convert_encodings, decode_bytes

# DR alone is no title here: it is the disease.
_TITLE = r"(?-i:Dr|dr)\b\.?|dr\.|(?:mr|mrs|ms|miss|prof|sir|herr|frau|mme)\b\.?"
_MONTH = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
# Five digits or more whatever stands between them, dates in every usual form, times, e-mail and web addresses, titles.
_PATTERNS = re.compile(
    rf"""
      \w*(?:\d[\s()-]{{0,2}}){{4,}}\d\w*
    | \b\d{{3}}\.\d{{3}}\.\d{{4}}\b
    | \b\d{{4}}[-./\s]\d{{1,2}}[-./\s]\d{{1,2}}\b
    | \b\d{{1,2}}[-./\s]\d{{1,2}}[-./\s](?:\d{{2}}|\d{{4}})\b
    | \b\d{{1,2}}(?:st|nd|rd|th)?[-./\s]*(?:of\s+)?(?:{_MONTH})[a-z]*[-.,/\s]*\d{{2,4}}\b
    | \b(?:{_MONTH})[a-z]*[-.,/\s]*\d{{1,2}}(?:st|nd|rd|th)?[-.,/\s]+\d{{2,4}}\b
    | \b\d{{1,2}}:\d{{2}}(?::\d{{2}})?\b
    | \S+@\S+
    | \w+://\S+ | \bwww\.\S+
    | \S*\^\S*
    | \b(?:{_TITLE})(?:\s+(?-i:[A-Z\u00c0-\u00de])[\w'-]*){{1,3}}
    """,
    re.IGNORECASE | re.VERBOSE,
)
# What a pattern could begin with, cheap to look for: without any of these no pattern matches.
_SUSPECT = re.compile(rf"\d.{{0,3}}\d|[@^]|://|www\.|\b(?:{_MONTH})|\b(?:{_TITLE})", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_COMPOUND = re.compile(r"\w+")
_SHORTEST_IN_COMPOUND = 4


@cache
def vocabulary() -> frozenset[str]:
    """Return the words of DICOM's attribute names and code meanings (PS3.6, PS3.16), proper names left out."""
    return frozenset((files("qfundus.dicom") / "standard" / "words.txt").read_text().split())


class Identity:
    """The words by which a file names its patient, those around them, and their numbers."""

    def __init__(self, names: Iterable[str], others: Iterable[str], known: frozenset[str] = frozenset()) -> None:
        words = {word for name in names for word in _words(name) if len(word) > 1}
        for text in others:
            long = {*_words(text), "".join(_words(text))}
            # An eye clinic is called by the field's own words: they do not identify it.
            words |= {w for w in long if len(w) >= _SHORTEST_IN_COMPOUND and not (w in vocabulary() or w in known)}
        self.words = frozenset(words)
        # Inside a longer word, as in a file name, only what is long and no common word is looked for.
        self._inside = tuple(w for w in words if len(w) >= _SHORTEST_IN_COMPOUND and w not in vocabulary())

    def is_in(self, text: str) -> bool:
        """Say whether a text holds any of the words."""
        lowered = text.casefold()
        words = _WORD.findall(lowered.replace("_", " "))
        return any(word in lowered for word in self._inside) or not self.words.isdisjoint(words)

    def names(self, word: str) -> bool:
        """Say whether one word is, or holds, one of the words."""
        lowered = word.casefold()
        return lowered in self.words or any(inside in lowered for inside in self._inside)


def clean_text(text: str, identity: Identity, words: frozenset[str] | None = None) -> str:
    """Remove identity from a text; what was removed leaves a single space.

    With `words` a word stays only if it is one of them or of DICOM's own vocabulary, or a number of up to four digits.
    """
    cleaned = _PATTERNS.sub(" ", text) if _SUSPECT.search(text) else text
    if words is not None:
        cleaned = _COMPOUND.sub(lambda match: match[0] if is_vocabulary(match[0], words) else " ", cleaned)
    if identity.is_in(cleaned):
        cleaned = _COMPOUND.sub(lambda match: " " if identity.is_in(match[0]) else match[0], cleaned)
    return text if cleaned == text else " ".join(part for part in cleaned.split() if _WORD.search(part))


def is_vocabulary(text: str, words: frozenset[str]) -> bool:
    """Say whether every word of a text is DICOM's own or one of `words`."""
    return all(_is_known(word, words) for word in _WORD.findall(text))


def decode(value: bytes, character_set: tuple[str, ...]) -> str:
    """Decode a value under its Specific Character Set; bytes that are not of that set become question marks."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    return decode_bytes(value, encodings(character_set), set(b"\\^=\r\n\t\f"))


def encode_text(text: str, character_set: tuple[str, ...]) -> bytes:
    """Encode a text; b'' where the character set switches between codes or lacks a letter."""
    if text.isascii():
        return text.encode("ascii")
    codes = encodings(character_set)
    try:
        return text.encode(codes[0]) if len(codes) == 1 else b""
    except (UnicodeEncodeError, LookupError):
        return b""


@cache
def encodings(character_set: tuple[str, ...]) -> tuple[str, ...]:
    """Return Python's names for the terms of a Specific Character Set; unknown ones count as Latin-1."""
    try:
        return tuple(convert_encodings(list(character_set) or [""]))
    except (LookupError, ValueError):
        return ("latin_1",)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _is_known(word: str, words: frozenset[str]) -> bool:
    lowered = word.casefold()
    if lowered in vocabulary() or lowered in words:
        return True
    if lowered.isdecimal():
        return len(lowered) <= 4 and not 1900 <= int(lowered) <= 2099
    letters = lowered.strip("0123456789")
    return (len(letters) <= 2 and len(lowered) <= 4) or letters in vocabulary() or letters in words
