"""Seal again, after the site key was rotated, what older secrets sealed."""

from qfundus.security.vault import reseal
from qfundus.site import Site


def reseal_site(site: Site, why: str) -> int:
    """Seal quarantine and vault again with the newest secret, and record why; return how many objects that were."""
    # The vault binds an object to its name, quarantine to the item's pseudonym.
    resealed = reseal(site.store, site.settings.quarantine_bucket, site.key, ending=".sealed")
    if site.settings.vault_bucket:
        resealed += reseal(site.store, site.settings.vault_bucket, site.key)
    site.trail.append("110100", "U", "site key", why, resealed=resealed)
    return resealed
