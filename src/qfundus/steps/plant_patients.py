"""Land the invented patients whose names are searched for at the end of the run."""

from qfundus.planted import patients
from qfundus.site import open_site


def plant_patients(run: str) -> bool:
    """Land the run's invented patients, unless nothing else has landed; return whether they were."""
    return patients.plant_patients(open_site(), run)
