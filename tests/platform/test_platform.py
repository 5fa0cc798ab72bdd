import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from qfundus.platform.supervision import platform_status, start_platform


def test_every_service_is_ready_and_says_where_it_is(platform):
    states = platform_status()
    assert {s.name for s in states} == {
        *("seaweedfs", "mlflow", "triton", "quantum-worker"),
        *("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"),
    }
    assert all(s.ready and s.state == "RUNNING" and s.memory_mb > 5 and s.log.exists() for s in states)


def test_the_scheduler_has_imported_what_the_tasks_that_it_forks_need(platform):
    [scheduler] = [service for service in platform_status() if service.name == "airflow-scheduler"]
    libraries = {Path(mapped.path).name for mapped in psutil.Process(scheduler.pid).memory_maps()}
    assert any(name.startswith("libarrow") for name in libraries)


def test_starting_twice_is_harmless(platform):
    before = {s.name: s.pid for s in platform_status()}
    start_platform()
    assert {s.name: s.pid for s in platform_status()} == before


def test_it_listens_on_loopback_alone(platform):
    listening = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("QFUNDUS_PLATFORM") == str(platform / "state"):
                listening += [c.laddr.ip for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    assert len(listening) >= 10
    assert set(listening) <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_secrets_are_their_owners_alone(platform):
    folder = platform / "state"
    for name in ("secrets.json", "settings.env", "supervisord.conf", "airflow/passwords.json", "supervisor.sock"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name


def test_no_secret_is_in_a_log(platform):
    secrets = json.loads((platform / "state" / "secrets.json").read_text())
    logs = list((platform / "state").rglob("*.log"))
    assert logs
    for file in logs:
        text = file.read_bytes()
        assert not [name for name, value in secrets.items() if value.encode() in text], file.name


def test_nothing_is_written_to_the_home_directory(platform):
    assert list((platform / "home").rglob("*")) == []


def test_the_doctor_finds_nothing_wrong(platform):
    from qfundus.platform.doctor import examine

    assert [f.what for f in examine() if not f.good and "dciodvfy" not in f.what] == []


@pytest.mark.parametrize("command", ["status", "doctor", "login", "quarantine list"])
def test_the_command_line_answers(platform, command):
    cli = Path(sys.executable).parent / "qfundus"
    done = subprocess.run([cli, *command.split()], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_a_wrong_name_is_one_clear_message(platform):
    cli = Path(sys.executable).parent / "qfundus"
    done = subprocess.run(
        [cli, "quarantine", "release", "NOBODY", "--why", "a test"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 1
    assert "quarantine list" in done.stderr
    assert "Traceback" not in done.stderr
