"""What curating one run needs, made once and shared by its steps."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import structlog

from qfundus.dicom.deidentify import CompiledPolicy
from qfundus.errors import Discard
from qfundus.ingestion.instances import InstanceIndex
from qfundus.ingestion.landing import LandedObject
from qfundus.ingestion.names import account_name
from qfundus.ingestion.quarantine import PART, Quarantine
from qfundus.security.keys import SiteKey
from qfundus.security.vault import Vault
from qfundus.settings import Settings
from qfundus.storage import ObjectStore

_log = structlog.get_logger()


@dataclass(frozen=True)
class Curation:
    """One run's curation: the store, the settings, the site's key and policy, and what hangs on them."""

    store: ObjectStore
    settings: Settings
    key: SiteKey
    policy: CompiledPolicy
    run: str

    @cached_property
    def index(self) -> InstanceIndex:
        """The index of SOP instances."""
        return InstanceIndex(self.store, self.settings)

    @cached_property
    def quarantine(self) -> Quarantine:
        """The quarantine bucket."""
        return Quarantine(self.store, self.settings, self.key)

    @cached_property
    def vault(self) -> Vault:
        """The vault of identities."""
        return Vault(self.store, self.settings, self.key)

    def hold(self, source: str, name: str, data: bytes | Iterable[bytes], why: Discard, instance: str = "") -> None:
        """Put something into quarantine, and say so in the log."""
        self.quarantine.put(source, name, data, why, self.run, instance)
        _log.warning("Quarantined", source=source, reason=why.reason, detail=why.detail, remedy=why.remedy)

    def hold_landed(self, item: LandedObject, why: Discard, instance: str = "") -> str:
        """Put a landed object into quarantine part by part, whatever its size; return the digest of its content."""
        seen = hashlib.sha256()

        def parts() -> Iterator[bytes]:
            for part in self.store.stream(self.settings.landing_bucket, item.name, PART):
                seen.update(part)
                yield part

        self.hold(item.source, item.name, parts(), why, instance)
        return seen.hexdigest()

    def owns(self, run: str) -> bool:
        """Say whether what a run has entered is this run's to finish: its own, or that of a run that never closed."""
        return run == self.run or not self._is_closed(run)

    @cached_property
    def _is_closed(self) -> Callable[[str], bool]:
        return cache(lambda run: self.store.find(self.settings.curated_bucket, account_name(run)) is not None)
