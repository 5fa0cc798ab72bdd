"""Register the feature definitions and bring the online store up to date."""

from datetime import UTC, datetime

from qfundus.features.store import apply_definitions, materialise_new
from qfundus.site import open_site


def push_features(rows: dict[str, int]) -> int:
    """Load new rows into the online store, if there are any; return how many chunks were loaded."""
    if not any(rows.values()):
        return 0
    site = open_site()
    apply_definitions(site.settings)
    return len(materialise_new(site, datetime.now(UTC)))
