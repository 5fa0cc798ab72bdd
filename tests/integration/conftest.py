"""One real platform for all tests: started once, in a folder and a home of its own, stopped at the end."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from qfundus.settings import load_settings
from qfundus.site import Site
from qfundus.storage import ObjectStore

OWN_BUCKETS = ("landing", "curated", "quarantine", "features", "audit", "vault")


@pytest.fixture(scope="session")
def platform():
    """The embedded platform, with the tiny recipe as its nightly one; `qfundus down` at the end."""
    from qfundus.platform.supervision import platform_status, start_platform, stop_platform

    # Not pytest's own folder: its path is too long for a Unix socket.
    folder = Path(tempfile.mkdtemp(prefix="qfundus-test-"))
    before = dict(os.environ)
    os.environ.update(HOME=str(folder / "home"), TMPDIR=str(folder), QFUNDUS_HOME=str(folder / "state"))
    os.environ.update(QFUNDUS_NIGHTLY_RECIPE="tiny", QFUNDUS_TRAINING_LAUNCHER="torchrun")
    (folder / "home").mkdir()
    (folder / "callers_home").mkdir()
    try:
        start_platform()
        # What other tests import or start keeps its caches in its home, which is not the platform's.
        os.environ["HOME"] = str(folder / "callers_home")
        yield folder
    finally:
        stop_platform()
        assert platform_status() == []
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def settings(platform):
    return load_settings()


@pytest.fixture(scope="session")
def store(settings):
    return ObjectStore(settings)


@pytest.fixture(scope="session")
def site_key(settings):
    from qfundus.security.keys import SiteKey

    return SiteKey.from_hex(settings.site_key.get_secret_value())


@pytest.fixture(scope="session")
def site(settings, store, site_key):
    return Site(settings, store, site_key)


@pytest.fixture
def fresh(settings, store, site_key, policy):
    """A curation on buckets of its own, so that a test sees only what it landed."""
    import secrets

    from qfundus.ingestion.curation import Curation

    tail = secrets.token_hex(4)
    own = settings.model_copy(update={f"{name}_bucket": f"{name}-{tail}" for name in OWN_BUCKETS})
    buckets = [f"{name}-{tail}" for name in OWN_BUCKETS]
    for bucket in buckets:
        store.create_bucket(bucket)
    yield Curation(Site(own, store, site_key), policy, "run-1")
    for bucket in buckets:
        store.delete_all(bucket, [o.name for o in store.list(bucket)])
        store._client.delete_bucket(Bucket=bucket)  # noqa: SLF001  (its volumes go with it)
