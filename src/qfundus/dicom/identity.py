"""What identifies the patient of one file: the words, and the numbers, by which its header names them."""

import re
from collections.abc import Iterable
from functools import cache
from itertools import permutations
from math import isfinite
from typing import TypeVar
from unicodedata import combining, normalize

from qfundus.dicom.vocabulary import WORD, vocabulary

_SHORTEST_INSIDE = 4  # letters from which a word is looked for inside a longer one, as in a file name
_CUT = 6  # letters of a longer name by which it is known where it was cut off
_SHORTEST_NUMBER = 5  # digits; fewer stand in too many numbers that identify nobody
_SHORTEST_SPELLED = 6  # letters from which a word is looked for with anything between its letters
_FEW_BYTES = 1 << 12
_SHORTEST_DECIMAL = 7  # digits from which a number with a point may be a record number, and no measure
_LIGATURES = str.maketrans({"\u00e6": "ae", "\u0153": "oe", "\u00f8": "o", "\u0142": "l", "\u0111": "d"})
_Text = TypeVar("_Text", str, bytes)
_NO_DIGIT = re.compile(r"\D+")
_NO_LETTER = re.compile(r"[\W_]+")


class Identity:
    """The words by which a file names its patient, those around them, and their numbers.

    `names` are persons' names as DICOM writes them, `numbers` identifiers of patient and visit, `others` what else
    leads to them, `born` the birth date in eight digits or ''. Words that are `known` identify nobody, but in names.
    """

    def __init__(
        self,
        names: Iterable[str],
        numbers: Iterable[str],
        others: Iterable[str],
        born: str = "",
        known: frozenset[str] = frozenset(),
    ) -> None:
        names, numbers, others = list(names), list(numbers), list(others)
        words = {word for name in names for word in _words_of_name(name)}
        called = words | {word for text in numbers for word in _words(text)}
        # An eye clinic, or a kind of study, is called by the field's own words: they do not identify it.
        for texts, shortest in ((numbers, 2), (others, _SHORTEST_INSIDE)):
            spoken = {word for text in texts for word in (*_words(text), "".join(_words(text)))}
            numbered = {w for w in spoken if len(w) > 1 and any(map(str.isdigit, w))}  # a house, a flat, a room
            words |= {w for w in spoken if len(w) >= shortest and not (w in vocabulary() or w in known)} | numbered
        common = words & vocabulary()
        words = {_plain(word) for word in words}
        self.words = frozenset(words)
        # Inside a longer word only what is long and no common word is looked for; Chinese has no spaces between words.
        inside = {w for w in words if len(w) >= (_SHORTEST_INSIDE if w.isascii() else 2) and w not in common}
        # A short attribute cuts a long name off, and a file's name joins two short ones.
        people = [[_plain(word) for word in _words(group)] for name in names for group in name.split("=")]
        inside |= {w[:_CUT] for group in people for w in group if len(w) > _CUT and w[:_CUT] not in _beginnings()}
        inside |= {
            first + second for group in people for first, second in permutations(group, 2) if len(first + second) > 4
        }
        self._inside = tuple(inside)
        long = {w for w in called if len(w) >= _SHORTEST_INSIDE and w not in vocabulary()}
        self._in_bytes = frozenset(w.encode(code, "ignore") for w in long for code in ("utf-8", "latin-1")) - {b""}
        self._in_many_bytes = frozenset(word for word in self._in_bytes if len(word) >= _SHORTEST_SPELLED)
        digits = {_NO_DIGIT.sub("", text) for text in (*numbers, *others)}
        self._spelled = tuple(w for w in self._inside if len(w) >= _SHORTEST_SPELLED)
        digits |= {number.lstrip("0") for number in digits}
        self._numbers = frozenset(d for d in digits if len(d) >= _SHORTEST_NUMBER and d.strip("0")) | _forms_of(born)

    def is_in(self, text: str) -> bool:
        """Return whether a text holds any of the words."""
        lowered = _plain(fold(text))
        return _holds(lowered, self._inside) or not self.words.isdisjoint(WORD.findall(lowered.replace("_", " ")))

    def is_in_bytes(self, data: bytes) -> bool:
        """Return whether bytes, which may be no text at all, hold any of the longer words of names and numbers."""
        # In a megabyte of pixels any four letters stand by chance.
        return _holds(data.lower(), self._in_bytes if len(data) <= _FEW_BYTES else self._in_many_bytes)

    def is_spelled_in(self, text: str) -> bool:
        """Return whether a text holds one of the longer words with anything between its letters."""
        letters = _NO_LETTER.sub("", _plain(fold(text)))
        return _holds(letters, self._spelled)

    def numbers_are_in(self, text: str) -> bool:
        """Return whether the digits of a text, whatever stands between them, hold any of the numbers."""
        digits = _NO_DIGIT.sub("", text)
        return len(digits) >= _SHORTEST_NUMBER and _holds(digits, self._numbers)

    def is_number(self, text: str) -> bool:
        """Return whether a number, however it is written, is one of the patient's."""
        whole = text.strip().removesuffix(".0")
        if "e" in whole.casefold() and _is_whole(float(whole)):
            whole = f"{float(whole):.0f}"
        digits = _NO_DIGIT.sub("", whole)
        if "." in whole and len(digits) < _SHORTEST_DECIMAL:
            return False
        forms = {digits, digits.lstrip("0")}
        return not forms.isdisjoint(self._numbers) or (len(digits) >= _SHORTEST_INSIDE and digits in self.words)


@cache
def _beginnings() -> frozenset[str]:
    return frozenset(word[:_CUT] for word in vocabulary())


def _holds(text: _Text, words: Iterable[_Text]) -> bool:
    for word in words:  # noqa: SIM110  (this is asked for each value of each file, and `any` takes twice as long)
        if word in text:
            return True
    return False


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text as those of an identity are written."""
    return tuple(WORD.findall(_plain(fold(text)).replace("_", " ")))


def fold(text: str) -> str:
    """Return a text with one way of writing each letter, small."""
    return text.casefold() if text.isascii() else normalize("NFKC", text).casefold()


def _plain(folded: str) -> str:
    """Return a folded text without accents, and ae, oe, ue as a, o, u: both are written for the same name."""
    if not folded.isascii():
        apart = normalize("NFKD", folded.translate(_LIGATURES))
        folded = normalize("NFKC", "".join(letter for letter in apart if not combining(letter)))
    return folded.replace("ae", "a").replace("oe", "o").replace("ue", "u")


def _is_whole(number: float) -> bool:
    return isfinite(number) and number == int(number)


def _words(text: str) -> list[str]:
    return WORD.findall(fold(text))


def _words_of_name(name: str) -> Iterable[str]:
    """Yield the words of a person's name; without spaces between words, also all of a group together."""
    for group in name.split("="):
        words = _words(group)
        yield from (word for word in words if len(word) > 1 or not word.isascii())
        if not group.isascii():
            yield from ("".join(words), "".join(reversed(words)))


def _forms_of(born: str) -> frozenset[str]:
    """Return a birth date of eight digits in the forms in which it is written, without what stands between."""
    if len(born) != len("YYYYMMDD") or not born.isdecimal():
        return frozenset()
    year, month, day = born[:4], born[4:6], born[6:]
    short = (day.lstrip("0"), month.lstrip("0"))
    forms = {born, day + month + year, month + day + year, "".join(short) + year, "".join(reversed(short)) + year}
    return frozenset(forms | {day + month + year[2:], month + day + year[2:], year[2:] + month + day})
