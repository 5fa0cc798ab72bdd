"""Search every store, log and database for the planted names."""

from qfundus.planted import leaks
from qfundus.site import open_site


def search_planted(dag: str, run: str) -> dict[str, int]:
    """Search for the planted names, then erase the planted patients; return how much was searched.

    Raises:
        LeakError: if a name was found.
    """
    site = open_site()
    try:
        return leaks.search_planted(site, dag, run)
    finally:
        leaks.forget_planted(site)
