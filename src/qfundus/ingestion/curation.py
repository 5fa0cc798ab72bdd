"""What curating one run needs, made once and shared by its steps."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import structlog

from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.errors import Discard
from qfundus.ingestion.instances import InstanceIndex
from qfundus.ingestion.landing import LandedObject
from qfundus.ingestion.quarantine import PART, Quarantine
from qfundus.object_names import account_name
from qfundus.site import Site

_log = structlog.get_logger()


@dataclass(frozen=True)
class Curation:
    """One run of ingestion: the site, the policy, and what is made from them once."""

    site: Site
    policy: CompiledPolicy
    run: str

    @cached_property
    def index(self) -> InstanceIndex:
        """The index of SOP instances."""
        return InstanceIndex(self.site)

    @cached_property
    def quarantine(self) -> Quarantine:
        """The quarantine bucket."""
        return Quarantine(self.site)

    def hold(self, source: str, name: str, data: bytes | Iterable[bytes], why: Discard, instance: str = "") -> None:
        """Put something into quarantine, and say so in the log."""
        self.quarantine.put(source, name, data, why, self.run, instance)
        _log.warning("Quarantined", source=source, reason=why.reason, detail=why.detail, remedy=why.remedy)

    def hold_landed(self, item: LandedObject, why: Discard, instance: str = "") -> str:
        """Put a landed object into quarantine part by part, whatever its size; return the digest of its content."""
        seen = hashlib.sha256()

        def parts() -> Iterator[bytes]:
            for part in self.site.store.stream(self.site.settings.landing_bucket, item.name, PART):
                seen.update(part)
                yield part

        self.hold(item.source, item.name, parts(), why, instance)
        return seen.hexdigest()

    def owns(self, run: str) -> bool:
        """Return whether this run is to finish what a run has entered: its own, or that of a run that never closed."""
        return run == self.run or not self._is_closed(run)

    @cached_property
    def _is_closed(self) -> Callable[[str], bool]:
        return cache(lambda run: self.site.store.find(self.site.settings.curated_bucket, account_name(run)) is not None)
