"""The standard's own table of attributes, and the words of its terms."""

import csv
import re
from functools import cache
from importlib.resources import files

SHORTEST = 4  # letters of a name that is looked for in paths and manifests
TEXT_VRS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT", "AE", "UR", "CS"}
LONG = 6  # characters from which an identifier is looked for in every byte, the pixels included
FEWEST_DIGITS = 5  # from which a number is looked for whatever stands between them


@cache
def attributes() -> dict[int, dict[str, str]]:
    """Return the rows of PS3.15 Table E.1-1 by tag."""
    text = (files("qfundus.dicom") / "standard" / "confidentiality.csv").read_text()
    return {
        int(row["tag"], 16): row for row in csv.DictReader(text.splitlines()) if re.fullmatch("[0-9a-f]{8}", row["tag"])
    }


@cache
def terms() -> frozenset[str]:
    """Return the words of DICOM's own terms."""
    return frozenset((files("qfundus.dicom") / "standard" / "words.txt").read_text().split())
