"""Extract the features of a run's eyes and grades."""

from datetime import UTC, datetime

from qfundus.features import extract
from qfundus.site import open_site


def extract_features(run: str, manifest: str, known_at: str) -> dict[str, int]:
    """Write the features as parts of the feature store; return the number of rows of each view."""
    moment = datetime.fromisoformat(known_at).astimezone(UTC).replace(microsecond=0)
    return extract.extract_features(open_site(), run, manifest, moment)
