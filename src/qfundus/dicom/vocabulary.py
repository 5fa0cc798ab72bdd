"""The words that may stay in a description: those of DICOM itself, and those that a policy adds."""

import re
from functools import cache, lru_cache
from importlib.resources import files

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_LISTS = ("words.txt", "ophthalmology.txt", "english.txt")
_MOST_DIGITS = 3  # a year, a house and a record number have more
_LONGEST_MIXED = 4  # T1, 3D, 45L


@cache
def vocabulary() -> frozenset[str]:
    """Return the words of DICOM's attribute names and code meanings (PS3.6, PS3.16), ophthalmology's and English.

    Proper names are left out.
    """
    folder = files("qfundus.dicom") / "standard"
    return frozenset(word for name in _LISTS for word in (folder / name).read_text().split())


@cache
def defined_terms() -> frozenset[str]:
    """Return the defined terms and enumerated values of PS3.3 that hold words beyond the vocabulary."""
    return frozenset((files("qfundus.dicom") / "standard" / "terms.txt").read_text().splitlines())


def is_vocabulary(text: str, words: frozenset[str]) -> bool:
    """Return whether every word of a text is DICOM's own or one of `words`, or a short number."""
    return all(_is_known(word, words) for word in WORD.findall(text))


@lru_cache(maxsize=1 << 14)
def is_known(compound: str, words: frozenset[str]) -> bool:
    """Say the same of one word, which may be made of several with an underscore between."""
    return is_vocabulary(compound, words)


@lru_cache(maxsize=1 << 14)
def _is_known(word: str, words: frozenset[str]) -> bool:
    lowered = word.casefold()
    if lowered in vocabulary() or lowered in words:
        return True
    if lowered.isdecimal():
        return len(lowered) <= _MOST_DIGITS
    letters = lowered.strip("0123456789")
    digits = len(lowered) - len(letters)
    if not digits or not lowered.isascii():
        return False  # two letters may be a name: Bo, Li, Xu
    known = letters in vocabulary() or letters in words
    return (known and digits <= _MOST_DIGITS) or (len(letters) <= 2 and len(lowered) <= _LONGEST_MIXED)
