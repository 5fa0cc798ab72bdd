"""One real platform for all tests: started once, in a folder and a home of its own, stopped at the end."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from sites import fresh, site, site_key, store

from qfundus.platform.supervision import platform_status, start_platform, stop_platform
from qfundus.settings import load_settings

__all__ = ["fresh", "site", "site_key", "store"]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("platform")


@pytest.fixture(scope="session")
def platform():
    """The embedded platform, with the tiny recipe as its nightly one; `qfundus down` at the end."""
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
