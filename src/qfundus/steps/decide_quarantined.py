"""Release or drop an item in quarantine."""

from qfundus.errors import SetupError
from qfundus.ingestion.quarantine import Quarantine
from qfundus.site import open_site


def decide_quarantined(source: str, decision: str, why: str, who: str) -> None:
    """Release or drop an item; the audit trail names who decided.

    Raises:
        SetupError: if no item of that pseudonym is in quarantine, or the decision is neither.
    """
    quarantine = Quarantine(open_site())
    decisions = {"release": quarantine.release, "drop": quarantine.drop}
    if decision not in decisions:
        raise SetupError("The decision must be release or drop.")
    try:
        decisions[decision](source, why, who)
    except LookupError:
        raise SetupError("No item with that pseudonym is in quarantine: see `qfundus quarantine list`.") from None
