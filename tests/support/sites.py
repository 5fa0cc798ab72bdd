"""Fixtures of a site, for every folder of tests whose `settings` name a real object store."""

import secrets

import pytest

from qfundus.ingestion.curation import Curation
from qfundus.security.keys import SiteKey
from qfundus.site import Site
from qfundus.storage import ObjectStore

OWN_BUCKETS = ("landing", "curated", "quarantine", "features", "audit", "vault")


@pytest.fixture(scope="session")
def store(settings):
    return ObjectStore(settings)


@pytest.fixture(scope="session")
def site_key(settings):
    return SiteKey.from_hex(settings.site_key.get_secret_value())


@pytest.fixture(scope="session")
def site(settings, store, site_key):
    return Site(settings, store, site_key)


@pytest.fixture
def fresh(settings, store, site_key, policy):
    """A curation on buckets of its own, so that a test sees only what it landed."""
    tail = secrets.token_hex(4)
    own = settings.model_copy(update={f"{name}_bucket": f"{name}-{tail}" for name in OWN_BUCKETS})
    buckets = [f"{name}-{tail}" for name in OWN_BUCKETS]
    for bucket in buckets:
        store.create_bucket(bucket)
    yield Curation(Site(own, store, site_key), policy, "run-1")
    for bucket in buckets:
        store.delete_all(bucket, [o.name for o in store.list(bucket)])
        store._client.delete_bucket(Bucket=bucket)  # noqa: SLF001  (its volumes go with it)
