"""What curating one run needs, made once and shared by its steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

from qfundus.dicom.deidentify import CompiledPolicy
from qfundus.ingestion.instances import InstanceIndex
from qfundus.ingestion.names import account_name
from qfundus.ingestion.quarantine import Quarantine
from qfundus.security.keys import SiteKey
from qfundus.security.vault import Vault
from qfundus.settings import Settings
from qfundus.storage import ObjectStore


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

    def owns(self, run: str) -> bool:
        """Say whether what a run has entered is this run's to finish: its own, or that of a run that never closed."""
        return run == self.run or not self._is_closed(run)

    @cached_property
    def _is_closed(self) -> Callable[[str], bool]:
        return cache(lambda run: self.store.find(self.settings.curated_bucket, account_name(run)) is not None)
