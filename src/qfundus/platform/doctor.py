"""What a machine lacks to run qfundus, and how to get it."""

import shutil
import sys
from dataclasses import dataclass

import psutil

from qfundus.errors import Retry, SetupError
from qfundus.platform.airflow import AirflowClient
from qfundus.platform.supervision import is_running, platform_status, triton_environment
from qfundus.settings import load_settings, state_folder

_NEEDED_GB = {"memory": 4, "disk": 8}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    good: bool
    remedy: str


def examine() -> list[Finding]:
    """Look at everything that qfundus needs."""
    folder = state_folder()
    place = folder if folder.exists() else folder.parent
    memory = psutil.virtual_memory().available / 1e9
    disk = shutil.disk_usage(place).free / 1e9
    findings = [
        Finding(f"Python {sys.version.split()[0]}", sys.version_info[:2] == (3, 11), "Use Python 3.11."),
        Finding("the Triton server's environment", triton_environment().is_dir(), "Run `make setup`."),
        Finding(
            f"{memory:.0f} GB of memory free",
            memory > _NEEDED_GB["memory"],
            "Free some memory: 4 GB are needed.",
        ),
        Finding(
            f"{disk:.0f} GB of disk free",
            disk > _NEEDED_GB["disk"],
            "Free some disk space: qfundus needs 8 GB.",
        ),
        Finding(
            "dciodvfy, which checks DICOM files (for tests)",
            shutil.which("dciodvfy") is not None,
            "Install Debian's package dicom3tools.",
        ),
        Finding("the platform runs", is_running(folder), "Run `qfundus up`."),
    ]
    return findings + (_examine_platform() if findings[-1].good else [])


def _examine_platform() -> list[Finding]:
    findings = [
        Finding(f"{s.name} is ready", s.ready, f"Read {s.log}; then `qfundus down` and `qfundus up`.")
        for s in platform_status()
    ]
    try:
        errors = AirflowClient(load_settings()).import_errors()
    except (Retry, SetupError) as error:
        return [*findings, Finding("Airflow answers", good=False, remedy=str(error))]
    return [*findings, Finding("every DAG can be imported", not errors, "\n".join(errors))]
