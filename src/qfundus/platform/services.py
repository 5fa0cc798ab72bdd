"""The embedded services: how each is started, with what environment, and how it says that it is ready."""

import json
import os
import shlex
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from qfundus.layout import checkout
from qfundus.platform.ports import LOOPBACK
from qfundus.platform.secrets import write_private
from qfundus.settings import SERVED_MODEL

WANTED_PORTS = {
    "s3": 8333,
    "s3_grpc": 18333,
    "weed_master": 9333,
    "weed_master_grpc": 19333,
    "weed_volume": 9340,
    "weed_volume_grpc": 19340,
    "weed_filer": 8888,
    "weed_filer_grpc": 18888,
    "weed_admin": 23646,
    "weed_admin_grpc": 33646,
    "mlflow": 5000,
    "airflow": 8080,
    "triton_http": 8000,
    "triton_grpc": 8001,
    "triton_metrics": 8002,
    "quantum_metrics": 9108,
}
BUCKETS = ("landing", "curated", "quarantine", "audit", "vault", "features", "models", "mlflow")
PASSED_ON = tuple(
    f"QFUNDUS_{name}"
    for name in (
        "KFP_ENDPOINT",
        "NIGHTLY_RECIPE",
        "DICOMWEB_",
        "ORTHANC_",
        "RECEIVER_",
        "VAULT_",
        "IBM_",
        "AZURE_",
        "GOOGLE_",
        "JOBS_",
        "TRAINING_",
    )
)


@dataclass(frozen=True)
class Service:
    """One service of the embedded platform; `ready_url` answers 200 once it works."""

    name: str
    command: list[str]
    ready_url: str
    shown_url: str = ""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Platform:
    """The state folder of an embedded platform with its ports and secrets."""

    folder: Path
    ports: dict[str, int]
    secrets: dict[str, str] = field(repr=False)

    def url(self, port: str, path: str = "") -> str:
        """Return the address of a port by its name."""
        return f"http://{LOOPBACK}:{self.ports[port]}{path}"

    @property
    def model_repository(self) -> Path:
        """The folder that Triton serves from."""
        return self.folder / "triton" / "models"


def settings_environment(platform: Platform) -> dict[str, str]:
    """Return the `QFUNDUS_*` settings of a platform, with those that a person has set when starting it."""
    chosen = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    return {
        **chosen,
        "QFUNDUS_HOME": str(platform.folder),
        "QFUNDUS_SITE_KEY": platform.secrets["site_key"],
        "QFUNDUS_S3_ENDPOINT": platform.url("s3"),
        "QFUNDUS_S3_ACCESS_KEY": platform.secrets["s3_access_key"],
        "QFUNDUS_S3_SECRET_KEY": platform.secrets["s3_secret_key"],
        "QFUNDUS_MLFLOW_URI": platform.url("mlflow"),
        "QFUNDUS_AIRFLOW_URL": platform.url("airflow"),
        "QFUNDUS_AIRFLOW_PASSWORD": platform.secrets["airflow_password"],
        "QFUNDUS_TRITON_HTTP": f"{LOOPBACK}:{platform.ports['triton_http']}",
        "QFUNDUS_TRITON_GRPC": f"{LOOPBACK}:{platform.ports['triton_grpc']}",
        "QFUNDUS_TRITON_REPOSITORY": str(platform.model_repository),
    }


def shared_environment(platform: Platform) -> dict[str, str]:
    """Return what every service gets: a home of its own inside the state folder, and silence towards the outside."""
    return {
        "HOME": str(platform.folder / "home"),
        "MPLCONFIGDIR": str(platform.folder / "cache" / "matplotlib"),
        "NUMBA_CACHE_DIR": str(platform.folder / "cache" / "numba"),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONUNBUFFERED": "1",
        "QFUNDUS_CHECKOUT": str(checkout()),
        "QFUNDUS_PLATFORM": str(platform.folder),
        "DO_NOT_TRACK": "true",
        "ORT_DISABLE_TELEMETRY": "1",
        "QDK_PYTHON_TELEMETRY": "none",
        "FEAST_USAGE": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "NO_PROXY": f"{LOOPBACK},localhost",
    }


def services(platform: Platform, triton_environment: Path) -> list[Service]:
    """Return all services in the order in which they start."""
    return [
        seaweedfs(platform),
        mlflow(platform),
        triton(platform, triton_environment),
        *airflow(platform),
        quantum_worker(platform),
    ]


def seaweedfs(platform: Platform) -> Service:
    """SeaweedFS: S3 with chunks encrypted at rest, on loopback, without telemetry."""
    ports = platform.ports
    identity = {
        "name": "qfundus",
        "credentials": [
            {"accessKey": platform.secrets["s3_access_key"], "secretKey": platform.secrets["s3_secret_key"]}
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = platform.folder / "seaweedfs" / "identities.json"
    write_private(config, json.dumps({"identities": [identity]}))
    data = platform.folder / "seaweedfs" / "data"
    data.mkdir(parents=True, exist_ok=True)
    command = [
        str(Path(sys.executable).parent / "weed"),
        "-logtostderr=true",
        "mini",
        f"-dir={data}",
        f"-admin.dataDir={platform.folder / 'seaweedfs' / 'admin'}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-master.port={ports['weed_master']}",
        f"-master.port.grpc={ports['weed_master_grpc']}",
        f"-volume.port={ports['weed_volume']}",
        f"-volume.port.grpc={ports['weed_volume_grpc']}",
        f"-filer.port={ports['weed_filer']}",
        f"-filer.port.grpc={ports['weed_filer_grpc']}",
        f"-filer.localSocket={platform.folder / 'filer.sock'}",
        f"-admin.port={ports['weed_admin']}",
        f"-admin.port.grpc={ports['weed_admin_grpc']}",
        f"-s3.port={ports['s3']}",
        f"-s3.port.grpc={ports['s3_grpc']}",
        f"-s3.localSocket={platform.folder / 's3.sock'}",
        f"-s3.config={config}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-s3.encryptVolumeData",
        "-filer.encryptVolumeData",
        "-filer.exposeDirectoryData=false",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",
        "-volume.max=0",  # as many as the disk takes: each bucket takes several, and a write without one waits forever
    ]
    jwt = platform.secrets["weed_jwt"]
    # The server logs the names of objects that it deletes or fails on, and a landed object's may be a person's.
    quiet = f"{shlex.join(command)} 2>&1 | sed -u -E 's#(landing[^/ ]*[/ ]).*#\\1(name withheld)#'"
    return Service(
        "seaweedfs",
        ["/bin/sh", "-c", quiet],
        platform.url("s3", "/healthz"),
        platform.url("s3"),
        # Without all four keys the filer takes unauthenticated writes.
        {
            "WEED_JWT_SIGNING_KEY": jwt,
            "WEED_JWT_SIGNING_READ_KEY": jwt,
            "WEED_JWT_FILER_SIGNING_KEY": jwt,
            "WEED_JWT_FILER_SIGNING_READ_KEY": jwt,
        },
    )


def mlflow(platform: Platform) -> Service:
    """MLflow: runs in SQLite, artifacts through the server into S3."""
    folder = platform.folder / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", LOOPBACK, "--port", str(platform.ports["mlflow"])),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", "s3://mlflow", "--serve-artifacts"),
        *("--workers", "1"),
    ]
    environment = {
        "AWS_ACCESS_KEY_ID": platform.secrets["s3_access_key"],
        "AWS_SECRET_ACCESS_KEY": platform.secrets["s3_secret_key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": platform.url("s3"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": platform.secrets["mlflow_secret"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return Service("mlflow", command, platform.url("mlflow", "/health"), platform.url("mlflow"), environment)


def triton(platform: Platform, environment: Path) -> Service:
    """Triton from its wheel: its Python backend runs ONNX models on the CPU."""
    repository = platform.model_repository
    repository.mkdir(parents=True, exist_ok=True)
    site = environment / "lib" / "python3.11" / "site-packages"
    server = site / "pytriton" / "tritonserver"
    ports = platform.ports
    flags = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        f"--backend-directory={server / 'backends'}",
        *(f"--http-address={LOOPBACK}", f"--http-port={ports['triton_http']}"),
        *(f"--grpc-address={LOOPBACK}", f"--grpc-port={ports['triton_grpc']}"),
        *(f"--metrics-address={LOOPBACK}", f"--metrics-port={ports['triton_metrics']}"),
        "--log-verbose=0",
        "--exit-on-error=false",
    ]
    # Asked at every start, so that a restart after a promotion serves the model again.
    load = (
        f"$(test -e {shlex.quote(str(repository / SERVED_MODEL / 'config.pbtxt'))} && echo --load-model={SERVED_MODEL})"
    )
    return Service(
        "triton",
        ["/bin/sh", "-c", f"exec {shlex.join(flags)} {load}"],
        platform.url("triton_http", "/v2/health/ready"),
        platform.url("triton_http", "/v2"),
        {
            "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
            # The server's interpreter takes the packages beside the first python3 on PATH.
            "PATH": f"{environment / 'bin'}:/usr/bin:/bin",
        },
    )


def airflow(platform: Platform) -> list[Service]:
    """Airflow's four parts, each a process of its own."""
    environment = airflow_environment(platform)
    health = platform.url("airflow", "/api/v2/monitor/health")

    def part(name: str, *arguments: str, shown: str = "") -> Service:
        command = [sys.executable, "-m", "airflow", *arguments]
        return Service(f"airflow-{name}", command, f"{health}#{name}", shown, environment)

    address = ("--host", LOOPBACK, "--port", str(platform.ports["airflow"]))
    # The API server reads the logs from their files: no second server, which would listen on every interface.
    return [
        part("api-server", "api-server", *address, "--workers", "1", shown=platform.url("airflow")),
        part("scheduler", "scheduler", "--skip-serve-logs"),
        part("dag-processor", "dag-processor"),
        part("triggerer", "triggerer", "--skip-serve-logs"),
    ]


def quantum_worker(platform: Platform) -> Service:
    """Send quantum jobs and fetch their results."""
    port = platform.ports["quantum_metrics"]
    command = [str(Path(sys.executable).parent / "qfundus"), "quantum", "work", "--metrics-port", str(port)]
    return Service(
        "quantum-worker", command, platform.url("quantum_metrics", "/metrics"), "", settings_environment(platform)
    )


def airflow_environment(platform: Platform) -> dict[str, str]:
    """Return Airflow's configuration; the DAGs get the settings of qfundus with it."""
    folder = platform.folder / "airflow"
    return {
        **settings_environment(platform),
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__API__BASE_URL": platform.url("airflow"),
        "AIRFLOW__API_AUTH__JWT_SECRET": platform.secrets["airflow_jwt_secret"],
        "AIRFLOW__API__SECRET_KEY": platform.secrets["airflow_jwt_secret"],
        "AIRFLOW__CORE__DAGS_FOLDER": str(checkout() / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": platform.url("airflow", "/execution/"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": platform.secrets["airflow_fernet_key"],
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "qfundus.platform.ports.loopback_name",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "3",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(checkout() / "deploy" / "airflow" / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
