"""Fetch what is new in the hospital's picture archive."""

from dataclasses import asdict
from datetime import UTC, datetime

from qfundus.pacs import fetch
from qfundus.site import open_site


def fetch_archive() -> dict[str, int]:
    """Land what the archive has new; return the counts, none if no archive is set.

    Raises:
        Retry: if the archive does not answer, or some photographs could not be fetched.
        SetupError: if the archive no longer lists much of what it had.
    """
    site = open_site()
    if site.settings.dicomweb_url is None:
        return {}
    return asdict(fetch.fetch_archive(site, datetime.now(UTC).date()))
