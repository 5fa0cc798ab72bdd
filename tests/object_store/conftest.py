"""Each worker's own object store, started once; no other server of the platform runs."""

import shutil
import tempfile
from pathlib import Path

import pytest
from seaweedfs import SeaweedFS, ports_of_its_own
from sites import fresh, site, site_key, store

__all__ = ["fresh", "site", "site_key", "store"]


@pytest.fixture(scope="session")
def seaweedfs():
    # Not pytest's own folder: its path is too long for a Unix socket.
    folder = Path(tempfile.mkdtemp(prefix="qfundus-store-"))
    with ports_of_its_own() as offset:
        server = SeaweedFS(folder, offset)
        try:
            server.start()
            server.create_buckets()
            yield server
        finally:
            server.stop()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def settings(seaweedfs):
    return seaweedfs.settings


@pytest.fixture(autouse=True)
def _environment(seaweedfs, monkeypatch):
    """What a test starts in a process of its own finds this store."""
    for name, value in seaweedfs.environment.items():
        monkeypatch.setenv(name, value)
