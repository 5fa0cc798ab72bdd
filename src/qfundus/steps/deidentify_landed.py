"""De-identify what has landed."""

from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.policy import load_policy
from qfundus.errors import SetupError
from qfundus.ingestion.curate import curate_landed
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.outcome import count_objects
from qfundus.layout import policy_file
from qfundus.site import open_site


def deidentify_landed(run: str, at_least: int = 0) -> dict[str, object]:
    """De-identify what has landed; return where the manifest is, and the counts.

    Raises:
        SetupError: if fewer than `at_least` objects have landed.
    """
    policy = CompiledPolicy(load_policy(policy_file()))
    curated = curate_landed(Curation(open_site(), policy, run))
    landed = count_objects(curated.counts)
    if landed < at_least:
        raise SetupError(f"Only {landed} of {at_least} expected objects have landed: check the hospital's feed.")
    return {"manifest": curated.manifest, "counts": curated.counts}
