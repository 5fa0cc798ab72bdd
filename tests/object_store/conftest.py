"""Each worker's own object store, started once; no other server of the platform runs."""

import shutil
import tempfile
from pathlib import Path

import pytest
from seaweedfs import SeaweedFS
from sites import fresh, site, site_key, store

__all__ = ["fresh", "site", "site_key", "store"]


@pytest.fixture(scope="session")
def seaweedfs(worker_id):
    # Not pytest's own folder: its path is too long for a Unix socket.
    folder = Path(tempfile.mkdtemp(prefix="qfundus-store-"))
    number = 0 if worker_id == "master" else int(worker_id.removeprefix("gw"))
    server = SeaweedFS(folder, offset=1000 * (number + 1))
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
