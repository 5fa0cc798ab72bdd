"""Compare words, numbers and days however they are written."""

import re
from unicodedata import normalize

WORD = re.compile(r"[^\W_]+")
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")
_DATE = re.compile(r"(?<![\d.])(\d{1,4})[-./ ]{1,2}(\d{1,2}|[ivx]{1,4})[-./ ]{1,2}(\d{1,4})(?![\d.]*\d)")
# English, German, French, Spanish and Italian, by their first letters; the number of each is its place.
_MONTHS = [
    *((), ("jan", "ene", "gen"), ("feb", "f\u00e9v", "fev"), ("mar", "m\u00e4r", "mrz"), ("apr", "avr", "abr")),
    *(("may", "mai", "mag"), ("jun", "juin", "giu"), ("jul", "juil", "lug"), ("aug", "ao\u00fb", "ago")),
    *(("sep", "set"), ("oct", "okt", "ott"), ("nov",), ("dec", "dez", "d\u00e9c", "dic")),
]


def fold(text: str) -> str:
    """Return a text with compatible characters made one, and without case (Unicode NFKC and casefold)."""
    return normalize("NFKC", text).casefold()


def digits_in(text: str) -> str:
    """Return the digits of a text in one row, nothing where they are all zero."""
    digits = "".join(filter(str.isdecimal, text))
    return digits if digits.strip("0") else ""


def written_in_digits(day: str) -> set[str]:
    """Return a day, YYYYMMDD, in each order in which it is written."""
    year, month, date = day[:4], day[4:6], day[6:]
    return {day, date + month + year, month + date + year}


def names_a_day(text: str, days: set[str]) -> bool:
    """Return whether a text names one of the days, in digits or with the month's name."""
    digits = digits_in(text)
    if len(digits) >= 8 and any(form in digits for day in days for form in written_in_digits(day)):
        return True
    for parts in _DATE.findall(text):
        numbers = [_number(part) for part in parts]
        for day in days:
            year, month, date = int(day[:4]), int(day[4:6]), int(day[6:])
            for written in ((date, month), (month, date)):
                if numbers in ([*written, year % 100], [*written, year], [year % 100, *written], [year, *written]):
                    return True
    words = [_month(word) or word for word in WORD.findall(text.casefold())]
    for day in days:
        year, month, date = day[:4], int(day[4:6]), int(day[6:])
        wanted = ({str(date), f"{date:02}"}, {year, year[2:]})
        for at, word in enumerate(words):
            around = {str(w) for w in words[max(0, at - 2) : at + 3]}
            if word == month and all(around & form for form in wanted):
                return True
    return False


def _month(word: str) -> int:
    """Return the number of the month that a word names, 0 for any other word."""
    if word.isdecimal():
        return 0
    return next((number for number, begins in enumerate(_MONTHS) if begins and word.startswith(begins)), 0)


def _number(text: str) -> int:
    """Return a number in Arabic or, for a month, Roman digits."""
    return int(text) if text.isdecimal() else _ROMAN.index(text) + 1 if text in _ROMAN else 0
