"""Notices of erasure: CSV with a column SOPInstanceUID, the hospital's, or one named pseudonym, ours."""

import csv
import io

from qfundus.errors import Discard
from qfundus.security.keys import SiteKey, pseudonymise_uid


def read_erasures(data: bytes, key: SiteKey) -> list[str]:
    """Return the pseudonymous SOP instance UIDs that a notice names.

    Raises:
        Discard: if it is not UTF-8 CSV with one of the two columns.
    """
    try:
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        columns = set(rows.fieldnames or ())
        if "pseudonym" in columns:
            return [row["pseudonym"].strip() for row in rows if row["pseudonym"]]
        if "SOPInstanceUID" in columns:
            return [pseudonymise_uid(key, row["SOPInstanceUID"]) for row in rows if row["SOPInstanceUID"]]
    except (UnicodeDecodeError, csv.Error):
        raise Discard("unreadable_erasure", "The file is not a UTF-8 CSV file.") from None
    raise Discard("unreadable_erasure", "The column SOPInstanceUID is missing.")


def write_erasures(pseudonyms: list[str]) -> bytes:
    """Write a notice that names images by pseudonym."""
    return "\n".join(["pseudonym", *pseudonyms, ""]).encode()
