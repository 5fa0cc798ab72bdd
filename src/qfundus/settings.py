"""Where things are: endpoints, folders and secrets, read from the environment at the edge of the program."""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from qfundus import __version__
from qfundus.errors import SetupError, suggest

STATE_FOLDER = ".qfundus"
SERVED_MODEL = "fundus_grader"  # by this name Triton serves


class Settings(BaseSettings):
    """Every setting, from `QFUNDUS_*` in the environment or from the state folder's `settings.env`."""

    model_config = SettingsConfigDict(env_prefix="QFUNDUS_", frozen=True, extra="forbid")

    home: Path = Path(STATE_FOLDER)
    site_key: SecretStr

    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: SecretStr
    s3_region: str = "us-east-1"
    landing_bucket: str = "landing"
    curated_bucket: str = "curated"
    quarantine_bucket: str = "quarantine"
    audit_bucket: str = "audit"
    vault_bucket: str | None = "vault"
    features_bucket: str = "features"
    models_bucket: str = "models"
    mlflow_bucket: str | None = "mlflow"

    dicomweb_url: str | None = None
    dicomweb_user: str = ""
    dicomweb_password: SecretStr | None = None
    dicomweb_token: SecretStr | None = None
    dicomweb_ca: Path | None = None
    dicomweb_modality: str = "OP"
    orthanc_url: str | None = None

    receiver_title: str = "QFUNDUS"
    receiver_host: str = "127.0.0.1"
    receiver_port: int = 11112
    receiver_peers: str = ""
    receiver_certificate: Path | None = None
    receiver_certificate_key: Path | None = None
    receiver_ca: Path | None = None

    feast_registry: str = "s3://features/registry.db"
    feast_online_store: Path | None = None
    mlflow_uri: str
    mlflow_experiment: str = "retraining"

    kfp_endpoint: str | None = None
    nightly_recipe: str = "nightly"

    airflow_url: str
    airflow_user: str = "admin"
    airflow_password: SecretStr

    triton_http: str
    triton_grpc: str
    triton_repository: Path
    triton_backend: str = "python"
    triton_accelerator: Literal["cpu", "gpu", "tensorrt"] = "cpu"
    triton_engines: str = "/tmp/tensorrt"  # noqa: S108  (on Triton's machine, in its container)

    @property
    def online_store(self) -> Path:
        """The Feast online store's file."""
        return self.feast_online_store or self.home / "feast" / "online.db"


class QuantumSettings(BaseSettings):
    """The credentials of quantum machines, and where their jobs are kept, from `QFUNDUS_*` in the environment."""

    model_config = SettingsConfigDict(env_prefix="QFUNDUS_", frozen=True)

    ibm_token: SecretStr | None = None
    ibm_instance: str | None = None
    azure_connection: SecretStr | None = None
    google_project: str | None = None
    jobs_database: SecretStr | None = None

    @property
    def needed_google_project(self) -> str:
        """The Google Cloud project whose processors are used."""
        if self.google_project is None:
            raise SetupError(
                "Google's processors need a project: set QFUNDUS_GOOGLE_PROJECT and GOOGLE_APPLICATION_CREDENTIALS, "
                "or `virtual: true` for the virtual engine."
            )
        return self.google_project

    @property
    def jobs_address(self) -> str:
        """The address of the job store's database: SQLite in the state folder, unless set."""
        if self.jobs_database is not None:
            return self.jobs_database.get_secret_value()
        folder = state_folder() / "quantum"
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / 'jobs.db'}"


def state_folder() -> Path:
    """Return the folder that holds all state, `QFUNDUS_HOME` or `.qfundus` here."""
    return Path(os.environ.get("QFUNDUS_HOME", STATE_FOLDER)).resolve()


def load_settings() -> Settings:
    """Read the settings from the environment, over those that `qfundus up` wrote.

    Raises:
        SetupError: if a needed setting is in neither place.
    """
    from pydantic import ValidationError

    written = state_folder() / "settings.env"
    try:
        return Settings(_env_file=written if written.exists() else None)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        names = ", ".join(f"QFUNDUS_{str(e['loc'][0]).upper()}" for e in error.errors())
        raise SetupError(f"Settings missing or wrong: {names}. Run `qfundus up`, or set them.") from None


class TrainingSettings(BaseSettings):
    """How the nightly retraining's networks are trained, from `QFUNDUS_TRAINING_*` in the environment.

    `launcher` is in_place (in the pipeline's step), torchrun (in processes beside it) or trainjob (Kubeflow Trainer).
    `processes` train one network: processes of this machine, or nodes of the cluster; `at_once` is how many networks
    are trained side by side, 0 for as many as fit. The rest is of a TrainJob: the cluster (that of this pod, unless a
    `kubeconfig` names one), the image and resources of its nodes, and the secret that holds the settings of S3.
    """

    model_config = SettingsConfigDict(env_prefix="QFUNDUS_TRAINING_", frozen=True, extra="ignore")

    launcher: Literal["in_place", "torchrun", "trainjob"] = "in_place"
    processes: int = Field(default=1, ge=1)
    at_once: int = Field(default=0, ge=0)
    image: str = f"qfundus/pipeline:{__version__}"
    namespace: str | None = None
    kubeconfig: str | None = None
    runtime: str = "torch-distributed"
    secret: str = "qfundus-settings"  # noqa: S105  (its name, not its content)
    cpus: int = Field(default=4, ge=1)
    gpus: int = Field(default=0, ge=0)
    memory: str = "8Gi"


def load_training_settings() -> TrainingSettings:
    """Read how networks are trained.

    Raises:
        SetupError: if a setting is wrong.
    """
    from pydantic import ValidationError

    known = [f"QFUNDUS_TRAINING_{name.upper()}" for name in TrainingSettings.model_fields]
    for name in os.environ:
        if name.startswith("QFUNDUS_TRAINING_") and name not in known:
            raise SetupError(f"Unknown setting {name}.{suggest(name, known)}")
    try:
        return TrainingSettings()
    except ValidationError as error:
        message = "; ".join(f"QFUNDUS_TRAINING_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise SetupError(f"Invalid training settings: {message}.") from None


class ObjectSettings(BaseSettings):
    """Where objects are, for what needs nothing else, from `QFUNDUS_S3_*` or the state folder's `settings.env`."""

    model_config = SettingsConfigDict(env_prefix="QFUNDUS_S3_", frozen=True, extra="ignore")

    endpoint: str
    access_key: str
    secret_key: SecretStr
    region: str = "us-east-1"


def fsspec_options(uri: str) -> dict[str, Any]:
    """Return what fsspec needs to open an address, nothing unless it is an S3 address."""
    if not uri.startswith("s3://"):
        return {}
    s3 = _object_settings()
    return {
        "key": s3.access_key,
        "secret": s3.secret_key.get_secret_value(),
        "endpoint_url": s3.endpoint,
        "client_kwargs": {"region_name": s3.region},
        "config_kwargs": {"retries": {"max_attempts": 10, "mode": "adaptive"}},
    }


def lance_options(uri: str) -> dict[str, str] | None:
    """Return what Lance needs to open an address, None unless it is an S3 address."""
    if not uri.startswith("s3://"):
        return None
    s3 = _object_settings()
    return {
        "access_key_id": s3.access_key,
        "secret_access_key": s3.secret_key.get_secret_value(),
        "endpoint": s3.endpoint,
        "region": s3.region,
        "allow_http": str(s3.endpoint.startswith("http://")).lower(),
        "client_max_retries": "20",
        "client_retry_timeout": "180",  # seconds: a store may be away for a minute or two
    }


def _object_settings() -> ObjectSettings:
    from pydantic import ValidationError

    written = state_folder() / "settings.env"
    try:
        return ObjectSettings(_env_file=written if written.exists() else None)  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        names = ", ".join(f"QFUNDUS_S3_{str(e['loc'][0]).upper()}" for e in error.errors())
        raise SetupError(f"S3 is not configured: {names}. Run `qfundus up`, or set them.") from None
