"""A real picture archive: Orthanc, in a network namespace of its own, since it binds every interface that it finds.

Unix sockets lead in and out: the archive is reached at loopback ports here, and reaches the receiver here as its own.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from pydantic import SecretStr

NEEDED = ("Orthanc", "socat", "unshare", "ip", "storescu")
USER, PASSWORD = "reader", "a-password-of-tests"  # of a server that lives as long as the tests
_PLUGINS = Path("/usr/share/orthanc/plugins")


def is_installed() -> bool:
    return all(shutil.which(tool) for tool in NEEDED) and _PLUGINS.exists()


@dataclass(frozen=True)
class Orthanc:
    url: str
    dicom_port: int
    receiver_port: int
    session: requests.Session

    def settings(self, settings, *, with_feed: bool):
        return settings.model_copy(
            update={
                "dicomweb_url": f"{self.url}/dicom-web",
                "dicomweb_user": USER,
                "dicomweb_password": SecretStr(PASSWORD),
                "orthanc_url": self.url if with_feed else None,
            }
        )

    def send(self, data: bytes) -> str:
        answer = self.session.post(f"{self.url}/instances", data=data, timeout=30)
        answer.raise_for_status()
        return answer.json()["ID"]

    def delete(self, instance: str) -> None:
        self.session.delete(f"{self.url}/instances/{instance}", timeout=30).raise_for_status()

    def post(self, path: str, body) -> dict:
        answer = self.session.post(self.url + path, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def get(self, path: str):
        answer = self.session.get(self.url + path, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def empty(self) -> None:
        for study in self.get("/studies"):
            self.session.delete(f"{self.url}/studies/{study}", timeout=30)


@contextmanager
def run_orthanc(folder: Path) -> Generator[Orthanc]:
    """Start an Orthanc in a folder, whose path must be short enough for Unix sockets."""
    http, dicom, receiver = _free_port(), _free_port(), _free_port()
    (folder / "orthanc.json").write_text(json.dumps(_configuration(folder)))
    inside = f"""
        ip link set lo up
        socat UNIX-LISTEN:{folder}/http.sock,fork TCP:127.0.0.1:8042 &
        socat UNIX-LISTEN:{folder}/dicom.sock,fork TCP:127.0.0.1:4242 &
        socat TCP-LISTEN:11112,bind=127.0.0.1,fork UNIX-CONNECT:{folder}/receiver.sock &
        exec Orthanc {folder}/orthanc.json"""
    commands = [
        ["unshare", "--net", "bash", "-c", inside],
        ["socat", f"TCP-LISTEN:{http},bind=127.0.0.1,fork", f"UNIX-CONNECT:{folder}/http.sock"],
        ["socat", f"TCP-LISTEN:{dicom},bind=127.0.0.1,fork", f"UNIX-CONNECT:{folder}/dicom.sock"],
        ["socat", f"UNIX-LISTEN:{folder}/receiver.sock,fork", f"TCP:127.0.0.1:{receiver}"],
    ]
    with (folder / "log").open("wb") as log:
        started = [subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) for command in commands]
    try:
        session = requests.Session()
        session.auth = (USER, PASSWORD)
        orthanc = Orthanc(f"http://127.0.0.1:{http}", dicom, receiver, session)
        _await(orthanc)
        yield orthanc
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            process.wait(20)


def _configuration(folder: Path) -> dict:
    return {
        "Name": "TESTPACS",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomAet": "TESTPACS",
        "RemoteAccessAllowed": True,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "OverwriteInstances": True,
        "Plugins": [str(_PLUGINS)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomModalities": {"qfundus": {"AET": "QFUNDUS", "Host": "127.0.0.1", "Port": 11112}},
    }


def _await(orthanc: Orthanc) -> None:
    for _ in range(100):
        try:
            orthanc.get("/system")
        except requests.RequestException:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("Orthanc does not answer.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
