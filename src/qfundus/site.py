"""A site: its settings, its object store and its key, opened once at the edge and handed on together."""

from dataclasses import dataclass
from functools import cached_property

from qfundus.security.audit import AuditTrail
from qfundus.security.keys import SiteKey
from qfundus.security.vault import Vault
from qfundus.settings import Settings, load_settings
from qfundus.storage import ObjectStore


@dataclass(frozen=True)
class Site:
    """Where one hospital's data lie, and the secret by which they are pseudonymised, sealed and signed."""

    settings: Settings
    store: ObjectStore
    key: SiteKey

    @cached_property
    def trail(self) -> AuditTrail:
        """The audit trail."""
        return AuditTrail(self.store, self.settings.audit_bucket, self.key)

    @cached_property
    def vault(self) -> Vault:
        """The vault of identities."""
        return Vault(self.store, self.settings.vault_bucket, self.key, self.trail)


def open_site(settings: Settings | None = None, key: SiteKey | None = None) -> Site:
    """Open the site that the environment describes, or that of given settings; its key is in them, unless given.

    Raises:
        SetupError: if a needed setting is missing.
    """
    settings = settings or load_settings()
    return Site(settings, ObjectStore(settings), key or SiteKey.from_hex(settings.site_key.get_secret_value()))
