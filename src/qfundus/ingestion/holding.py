"""Hold a landed image in quarantine, with what can be read of it."""

from contextlib import suppress

from qfundus.dicom.photograph import make_object, sidecar_of
from qfundus.errors import Discard
from qfundus.ingestion.curation import Curation
from qfundus.ingestion.images import LARGEST, instance_of
from qfundus.ingestion.isolation import Isolation
from qfundus.ingestion.landing import LandedObject
from qfundus.ingestion.outcome import Outcome
from qfundus.storage import digest

_HEAD = 1 << 20  # bytes of a large object that say which instance it is


def hold_image(curation: Curation, isolation: Isolation, item: LandedObject, why: Discard) -> Outcome:
    """Put a landed image into quarantine; return its outcome."""
    bucket, name, store = curation.site.settings.landing_bucket, item.name, curation.site.store
    if item.size > LARGEST:
        return _hold_large(curation, isolation, item, why)
    data = store.find(bucket, name)
    if data is None:
        return Outcome(item.source, "image", "withdrawn")
    before = digest(data)
    sidecar = store.find(bucket, sidecar_of(name)) if item.is_photograph else None
    instance = isolation.run(instance_of, name, data, sidecar)
    if item.is_photograph:
        with suppress(Discard):  # what is held says, where it can, what the sidecar said
            data = isolation.run(make_object, data, sidecar)
            name = f"{name}.dcm"
    curation.hold(item.source, name, data, why, instance)
    return Outcome(item.source, "image", "quarantined", why.reason, instance=instance, digest_before=before)


def _hold_large(curation: Curation, isolation: Isolation, item: LandedObject, why: Discard) -> Outcome:
    try:
        head = next(curation.site.store.stream(curation.site.settings.landing_bucket, item.name, _HEAD))
    except LookupError:
        return Outcome(item.source, "image", "withdrawn")
    instance = isolation.run(instance_of, item.name, head, None)
    before = curation.hold_landed(item, why, instance)
    return Outcome(item.source, "image", "quarantined", why.reason, instance=instance, digest_before=before)
