"""An object store of a test's own: SeaweedFS as the platform runs it, without the rest of the platform."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import httpx

from qfundus.platform.ports import choose_ports
from qfundus.platform.secrets import load_or_make_secrets
from qfundus.platform.services import BUCKETS, WANTED_PORTS, Platform, seaweedfs, settings_environment
from qfundus.settings import Settings
from qfundus.storage import ObjectStore

STORE_PORTS = [name for name in WANTED_PORTS if name.startswith(("weed", "s3"))]


@contextmanager
def ports_of_its_own() -> Iterator[int]:
    """Yield an offset to ports that no other process of these tests takes, whichever lane it is in."""
    for number in range(1, 20):
        with (Path(tempfile.gettempdir()) / f"qfundus-test-ports-{number}").open("w") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                continue
            # Small steps: no port of one store is another's, nor the platform's, though they begin at the same moment.
            yield 8000 + 10 * number
            return
    raise AssertionError("Twenty object stores run already")


class SeaweedFS:
    """A server in a folder of its own; `offset` keeps its ports away from another worker's."""

    def __init__(self, folder: Path, offset: int) -> None:
        ports = choose_ports({name: WANTED_PORTS[name] + offset for name in STORE_PORTS})
        # Nothing answers at the ports of the services that do not run.
        others = {name: 9 for name in WANTED_PORTS if name not in ports}
        self.platform = Platform(folder, ports | others, load_or_make_secrets(folder))
        self.environment = settings_environment(self.platform)
        self.settings = Settings(
            **{name.removeprefix("QFUNDUS_").lower(): value for name, value in self.environment.items()}
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        service = seaweedfs(self.platform)
        with (self.platform.folder / "seaweedfs.log").open("ab") as log:
            self._process = subprocess.Popen(
                service.command,
                stdout=log,
                stderr=log,
                env={**os.environ, **service.environment, "HOME": str(self.platform.folder)},
                start_new_session=True,
            )
        until = time.monotonic() + 60
        while not self._is_ready(service.ready_url):
            assert self._process.poll() is None, "SeaweedFS has ended"
            assert time.monotonic() < until, "SeaweedFS is not ready after a minute"
            time.sleep(0.05)

    def create_buckets(self) -> None:
        store = ObjectStore(self.settings)
        for bucket in BUCKETS:
            store.create_bucket(bucket)

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def suspend(self) -> None:
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    @staticmethod
    def _is_ready(url: str) -> bool:
        try:
            return httpx.get(url, timeout=2).is_success
        except httpx.HTTPError:
            return False
