"""Start, watch and stop the embedded services with supervisord."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy

import httpx
import psutil
from supervisor.xmlrpc import SupervisorTransport

from qfundus.errors import SetupError
from qfundus.layout import checkout
from qfundus.platform.ports import LOOPBACK, choose_ports
from qfundus.platform.secrets import load_or_make_secrets, write_private
from qfundus.platform.services import (
    BUCKETS,
    WANTED_PORTS,
    Platform,
    Service,
    airflow_environment,
    services,
    settings_environment,
    shared_environment,
)
from qfundus.settings import Settings, load_settings, state_folder
from qfundus.storage import ObjectStore

LONGEST_SOCKET_PATH = 100  # Unix: 107 bytes, less a suffix that supervisord adds while it starts
START_LIMIT = 240  # seconds
_STOP_LIMIT = 25  # seconds
_STORES = {"seaweedfs", "mlflow"}  # where the other services write
Report = Callable[[str], None]


@dataclass(frozen=True)
class ServiceStatus:
    """What one service is doing; `state` is supervisord's word, `ready` what its own health check says."""

    name: str
    state: str
    ready: bool
    url: str
    log: Path
    pid: int
    memory_mb: float


def start_platform(report: Report = print) -> Platform:
    """Start every service and wait until each is ready; where all run already, nothing is done.

    Raises:
        SetupError: naming the service that did not come up, the end of its log, and the remedy.
    """
    folder = state_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if len(str(folder / "supervisor.sock")) > LONGEST_SOCKET_PATH:
        raise SetupError(f"The path of {folder} is too long for a Unix socket: set QFUNDUS_HOME to a shorter one.")
    running = is_running(folder)
    platform = _load(folder) if running else _plan(folder)
    listed = services(platform, triton_environment())
    if not running:
        _prepare(platform, report)
        _start_supervisor(platform, listed)
    _wait_until_ready(platform, listed, report)
    create_buckets()
    return platform


def create_buckets() -> None:
    """Create the buckets that are missing."""
    store = ObjectStore(load_settings())
    for bucket in BUCKETS:
        store.create_bucket(bucket)


def stop_platform(report: Report = print) -> None:
    """Stop every service, and whatever it has left behind; with nothing running, nothing is done."""
    folder = state_folder()
    if is_running(folder):
        report("Stopping the services ...")
        with _supervisor(folder) as supervisor:
            _stop_all_but_stores(supervisor)
            supervisor.supervisor.shutdown()
        _wait(lambda: not is_running(folder), 60)
    for process in _left_behind(folder):
        process.kill()
    report("Stopped.")


def _stop_all_but_stores(supervisor: ServerProxy) -> None:
    """Stop them at the same time; supervisord would stop them one after another, and the stores among them."""
    for info in _processes(supervisor):
        if info["name"] not in _STORES:
            with suppress(Fault):  # it had ended
                supervisor.supervisor.stopProcess(info["name"], False)  # noqa: FBT003  (whether to wait)
    _wait(lambda: all(p["pid"] == 0 for p in _processes(supervisor) if p["name"] not in _STORES), _STOP_LIMIT)


def _processes(supervisor: ServerProxy) -> list[dict[str, Any]]:
    processes: Any = supervisor.supervisor.getAllProcessInfo()
    return processes


def platform_status() -> list[ServiceStatus]:
    """Say what each service is doing; an empty list means that the platform is down."""
    folder = state_folder()
    if not is_running(folder):
        return []
    platform = _load(folder)
    with _supervisor(folder) as supervisor:
        states = {info["name"]: info for info in _processes(supervisor)}
    return [
        ServiceStatus(
            name=service.name,
            state=states[service.name]["statename"],
            ready=is_ready(service),
            url=service.shown_url,
            log=_log_file(folder, service),
            pid=states[service.name]["pid"],
            memory_mb=_memory_mb(states[service.name]["pid"]),
        )
        for service in services(platform, triton_environment())
    ]


def is_running(folder: Path) -> bool:
    """Return whether a supervisor answers for a state folder."""
    if not (folder / "supervisor.sock").exists():
        return False
    try:
        with _supervisor(folder) as supervisor:
            supervisor.supervisor.getState()
    except Fault:  # it is shutting down, and so still there
        return True
    except OSError:
        return False
    return True


def is_ready(service: Service) -> bool:
    """Ask a service whether it works."""
    try:
        answer = httpx.get(service.ready_url, timeout=5)
    except httpx.HTTPError:
        return False
    part = service.name.removeprefix("airflow-").replace("-", "_")
    if service.name.startswith("airflow-") and part != "api_server":
        return answer.is_success and (answer.json().get(part) or {}).get("status") == "healthy"
    return answer.is_success


def triton_environment() -> Path:
    """Return the environment of the Triton server, `QFUNDUS_TRITON_ENVIRONMENT` or `.venv-triton` in the checkout."""
    return Path(os.environ.get("QFUNDUS_TRITON_ENVIRONMENT", checkout() / ".venv-triton"))


def supervisor_of(folder: Path) -> ServerProxy:
    """Return supervisord's interface, for those who stop a single service."""
    return _supervisor(folder)


def _supervisor(folder: Path) -> ServerProxy:
    transport: Any = SupervisorTransport(None, None, f"unix://{folder / 'supervisor.sock'}")
    return ServerProxy(f"http://{LOOPBACK}", transport)


def _plan(folder: Path) -> Platform:
    platform = Platform(folder, choose_ports(WANTED_PORTS), load_or_make_secrets(folder))
    write_private(folder / "ports.json", json.dumps(platform.ports, indent=1))
    # What is passed on for others than `Settings` stands in the services' environment alone.
    known = {f"QFUNDUS_{name.upper()}" for name in Settings.model_fields}
    lines = [f"{name}={value}" for name, value in settings_environment(platform).items() if name in known]
    write_private(folder / "settings.env", "\n".join(lines) + "\n")
    write_private(folder / "airflow" / "passwords.json", json.dumps({"admin": platform.secrets["airflow_password"]}))
    return platform


def _load(folder: Path) -> Platform:
    return Platform(folder, json.loads((folder / "ports.json").read_text()), load_or_make_secrets(folder))


def _prepare(platform: Platform, report: Report) -> None:
    for name in ("logs", "home", "cache"):
        (platform.folder / name).mkdir(exist_ok=True)
    if not triton_environment().is_dir():
        raise SetupError("The Triton server's environment is missing: run `make setup`.")
    report("Preparing Airflow's database ...")
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env={**shared_environment(platform), **airflow_environment(platform)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SetupError(f"Airflow's database could not be prepared:\n{done.stderr[-2000:]}")


def _start_supervisor(platform: Platform, listed: list[Service]) -> None:
    config = platform.folder / "supervisord.conf"
    write_private(config, _supervisor_config(platform, listed))
    subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(config)],
        env=shared_environment(platform),
        # Not the state folder: Python would take its folders (triton, mlflow, ...) for packages.
        cwd=platform.folder / "home",
        check=True,
    )


def _supervisor_config(platform: Platform, listed: list[Service]) -> str:
    folder = platform.folder
    head = f"""[unix_http_server]
file={folder}/supervisor.sock
chmod=0600
[supervisord]
logfile={folder}/logs/supervisord.log
pidfile={folder}/supervisord.pid
directory={folder}/home
umask=077
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
    return head + "".join(_program(folder, service) for service in listed)


def _program(folder: Path, service: Service) -> str:
    import shlex

    # supervisord expands % and reads the environment as quoted pairs.
    command = shlex.join(service.command).replace("%", "%%")
    environment = ",".join(f'{name}="{value}"' for name, value in service.environment.items()).replace("%", "%%")
    return f"""[program:{service.name}]
command={command}
environment={environment}
directory={folder}/home
stdout_logfile={_log_file(folder, service)}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=2
redirect_stderr=true
autorestart=true
startsecs=2
startretries=5
stopwaitsecs=20
stopasgroup=true
killasgroup=true
"""


def _log_file(folder: Path, service: Service) -> Path:
    return folder / "logs" / f"{service.name}.log"


def _wait_until_ready(platform: Platform, listed: list[Service], report: Report) -> None:
    begun = time.monotonic()
    for service in listed:
        if not _wait(lambda service=service: is_ready(service), START_LIMIT):
            log = _log_file(platform.folder, service)
            end = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else "(no log)"
            raise SetupError(
                f"{service.name} is not ready after {START_LIMIT} s. The end of {log}:\n{end}\n"
                "Run `qfundus doctor`, then `qfundus down` and `qfundus up`."
            )
        report(f"{service.name:<22} ready after {time.monotonic() - begun:4.0f} s")


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.3)
    return False


def _left_behind(folder: Path) -> list[psutil.Process]:
    """Find the processes that carry this platform's mark in their environment."""
    marked: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("QFUNDUS_PLATFORM") == str(folder) and process.pid != os.getpid():
                marked.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return marked


def _memory_mb(pid: int) -> float:
    """Sum the memory of a process and its children that no other process shares (PSS), in MB."""
    if not pid:
        return 0.0
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss  # pyright: ignore[reportAttributeAccessIssue]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        pass
    return total / 1e6
