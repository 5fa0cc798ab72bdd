"""Account for every landed object and clear the landing bucket."""

from qfundus.ingestion import account
from qfundus.site import open_site


def close_run(run: str, manifest: str) -> dict[str, int]:
    """Close a run of ingestion; return its counts.

    Raises:
        AccountError: if an object was lost or counted twice.
    """
    return account.close_run(open_site(), run, manifest)
