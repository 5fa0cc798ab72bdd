"""Give the sidecars of plain photographs their outcomes."""

from typing import cast

from qfundus.dicom.photograph import sidecar_of
from qfundus.errors import Discard, ReasonCode
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.landing import LandedObject
from qfundus.ingestion.outcome import Outcome


def settle_sidecars(curation: Curation, landed: list[LandedObject], outcomes: list[Outcome]) -> list[Outcome]:
    """Give each sidecar its outcome: read with its photograph, or held beside it, or held for want of one."""
    photographs = {sidecar_of(item.name): item.source for item in landed if item.is_photograph}
    reasons = {outcome.source: outcome.reason for outcome in outcomes}
    settled: list[Outcome] = []
    for sidecar in landed:
        if not sidecar.is_sidecar:
            continue
        reason = reasons.get(photographs.get(sidecar.name, ""), "sidecar_without_photograph")
        data = curation.site.store.find(curation.site.settings.landing_bucket, sidecar.name)
        if data is None:
            settled.append(Outcome(sidecar.source, "sidecar", "withdrawn"))
        elif reason:
            why = Discard(cast("ReasonCode", reason), "It goes with a photograph that is not here, or held.")
            curation.hold(sidecar.source, sidecar.name, data, why)
            settled.append(Outcome(sidecar.source, "sidecar", "quarantined", reason))
        else:
            settled.append(Outcome(sidecar.source, "sidecar", "read"))
    return settled
