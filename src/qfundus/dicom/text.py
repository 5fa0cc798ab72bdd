"""Text without identity: a patient's own identifiers go, and what looks like a date, a number or an address."""

import re
from functools import cache
from unicodedata import normalize

from pydicom.charset import convert_encodings, decode_bytes

from qfundus.dicom.identity import Identity
from qfundus.dicom.vocabulary import WORD, is_known

# DR alone is not taken for a title: it is the disease.
_TITLE = r"(?-i:Dr|dr)\b\.?|dr\.|(?:mr|mrs|ms|miss|prof|sir|herr|frau|mme)\b\.?"
_RELATION = (
    r"(?:mother|father|daughter|son|wife|husband|sister|brother|aunt|uncle|cousin|friend|neighbou?r|nurse|partner|"
    r"spouse|carer|guardian|operator|photographer|technician|by)\b:?"
)
_CAPITALISED = r"\s+(?-i:[A-Z\u00c0-\u00de])[\w'-]*"
# English, German, French, Spanish and Italian.
_MONTH = (
    r"(?:jan(?:uary|uar|vier)?|ene(?:ro)?|gennaio|feb(?:ruary|ruar|rero|braio)?|f\u00e9v(?:rier)?|"
    r"mar(?:ch|s|zo)?|m\u00e4r(?:z)?|mrz|apr(?:il|ile)?|abr(?:il)?|avr(?:il)?|may|mai|mayo|maggio|"
    r"june?|juni|juin|junio|giugno|july?|juli|juillet|julio|luglio|aug(?:ust)?|ago(?:sto)?|ao\u00fbt|"
    r"sept?(?:ember|embre|tiembre)?|settembre|o[ck]t(?:ober|obre)?|octubre|ottobre|nov(?:ember|embre|iembre)?|"
    r"de[cz](?:ember|embre)?|d\u00e9c(?:embre)?|dic(?:iembre|embre)?)\b"
)
_LONGEST = 1 << 16  # letters; a longer text is a document, and nobody looked into it
_APART = r"[\W_]{0,4}"  # what may stand between the parts of a date
_SEPARATED = r"(?:\d[\s()/,;:|_+-]{0,2}){4,}\d"  # five digits or more


def _rule(guard: str, pattern: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Compile what to remove, and what a text must hold for that: it is cheaper to look for."""
    return re.compile(guard, re.IGNORECASE), re.compile(pattern, re.IGNORECASE | re.VERBOSE)


_RULES = (
    # Whole dates before the numbers in them.
    _rule(
        rf"\b{_MONTH}",
        rf"""
          \b\d{{1,2}}(?:st|nd|rd|th)?{_APART}(?:of\s+)?{_MONTH}{_APART}\d{{2,4}}\b
        | \b{_MONTH}{_APART}\d{{1,2}}(?:st|nd|rd|th)?{_APART}\d{{2,4}}\b
        | \b{_MONTH}{_APART}(?:19|20)\d{{2}}\b
        | \b\d{{1,2}}(?:st|nd|rd|th)?\.?\s{{0,2}}(?:of\s+)?(?!ma[yr]\b|mai\b){_MONTH}
        | (?!ma[yr]\b|mai\b)\b{_MONTH}{_APART}\d{{1,2}}\b
        """,
    ),
    _rule(r"\d{2}[-./\s]\d{2}[-./\s]\d{2}", r"\b\d{2}(?:[-./\s]\d{2}){3,}\b"),
    _rule(_SEPARATED, rf"(?<!\w)\w*?{_SEPARATED}\w*"),
    _rule(
        r"\d[-./\s]\d",
        r"""
          \b\d{3}\.\d{3}\.\d{4}\b
        | \b\d{4}[-./\s]\d{1,2}[-./\s]\d{1,2}\b
        | (?<!\d\.)\b\d{1,2}[-./\s]\d{1,2}[-./\s](?:\d{2}|\d{4})\b(?!\.\d)
        """,
    ),
    _rule(r"[ivx][-./]\s?\d", r"\b(?:\d{1,2}|[ivx]+)[-./][ivx]+[-./]\s?\d{2,4}\b"),
    _rule(r"\d:\d", r"\b\d{1,2}:\d{2}(?::\d{2})?\b"),
    _rule(r"age|alter|\u00e2ge", r"\b(?:aged?|alter|\u00e2g\u00e9?e?)\b\W{0,3}(?:9\d|1[0-2]\d)\b"),
    _rule(r"\d\s?-?\s?[yja]", r"\b(?:9\d|1[0-2]\d)\s?-?\s?(?:y|yo|yrs?|years?|j|jahre?|ans|anni)\b"),
    _rule(r"[@^]|://|www\.", r"(?<!\S)[^\s@]*@\S* | (?<!\w)\w+://\S+ | \bwww\.\S+ | (?<!\S)[^\s^]*\^\S*"),
    _rule(rf"\b(?:{_TITLE}|{_RELATION})", rf"\b(?:{_TITLE}|{_RELATION}){_CAPITALISED}(?:,?{_CAPITALISED}){{0,5}}"),
)
_DIGIT = re.compile(r"\d")
_COMPOUND = re.compile(r"\w+")
_NUMBERED = re.compile(r"(?<!\w)[^\W\d]*\d\w*")
# Numbers one after the other, with at most a letter between: parts of a date, a telephone or record number.
_NUMBERS = re.compile(r"(?<![^\W_])\d+(?:(?:[\W_]{1,4}|[\W_]+[^\W\d_][\W_]+)\d+)+(?![^\W_])")
_MEASURE = re.compile(r"\d{1,2}\.\d|20/\d{2,3}|6/\d{1,2}")  # a decimal, a visual acuity


def clean_text(text: str, identity: Identity, words: frozenset[str] | None = None) -> str:
    """Remove identity from a text; what was removed leaves a single space.

    With `words` a word stays only if it is one of them or of DICOM's own vocabulary, or a number of up to three digits
    that stands alone.
    """
    if len(text) > _LONGEST:
        return ""
    plain = text if text.isascii() else normalize("NFKC", text)
    numbered = _DIGIT.search(plain) is not None
    cleaned = _NUMBERED.sub(" ", plain) if numbered and identity.numbers_are_in(plain) else plain
    for guard, pattern in _RULES:
        if guard.search(cleaned):
            cleaned = pattern.sub(" ", cleaned)
    if words is not None:
        cleaned = _NUMBERS.sub(lambda match: match[0] if _MEASURE.fullmatch(match[0]) else " ", cleaned)
        cleaned = _COMPOUND.sub(lambda match: match[0] if is_known(match[0], words) else " ", cleaned)
    if identity.is_in(cleaned):
        cleaned = _COMPOUND.sub(lambda match: " " if identity.is_in(match[0]) else match[0], cleaned)
    if identity.is_spelled_in(cleaned):
        return ""
    return text if cleaned == plain else " ".join(part for part in cleaned.split() if WORD.search(part))


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
