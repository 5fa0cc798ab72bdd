"""Model versions in MLflow: each retraining is a run, each candidate a version, aliases say which one serves."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qfundus.errors import SetupError
from qfundus.evaluation.gate import Verdict
from qfundus.hybrid.grader_files import OUTPUTS, REPORT_FILE, SUMMARY_FILE, Figures, read_summary
from qfundus.imaging.normalise import SIDE
from qfundus.mlflow_import import import_mlflow
from qfundus.onnx_graphs.run import GRADER_FILE
from qfundus.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

MODEL = "fundus-grader"
CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"
_KEY = "qfundus.key"
_FILES = "grader_files"  # the folder of a run's artifacts that holds the grader


@dataclass(frozen=True)
class Recorded:
    """What MLflow keeps of one retraining; `version` is empty where the gate refused it."""

    run_id: str
    version: str
    verdict: Verdict
    figures: Figures
    eyes: dict[str, Any]
    recipe: str
    as_of: str
    refer_below: float  # the threshold of the highest probability; NaN for a version without one

    @property
    def cameras(self) -> str:
        """The cameras that took the photographs, as one text."""
        return str(self.eyes.get("cameras", ""))


def connect(settings: Settings) -> "MlflowClient":
    """Connect to MLflow."""
    mlflow = import_mlflow()
    mlflow.set_tracking_uri(settings.mlflow_uri)
    return mlflow.MlflowClient(settings.mlflow_uri)


def record_retraining(
    settings: Settings,
    key: str,
    folder: Path,
    report: Path,
    verdict: Verdict,
    parameters: dict[str, str],
    metrics: dict[str, float],
) -> Recorded:
    """Record a retraining as a run and, where the gate passed it, register its grader; once for each key.

    `folder` holds the grader's files, among them `summary.json`; its metrics are logged beside `metrics`.
    """
    client = connect(settings)
    recorded = find_retraining(settings, key)
    if recorded is not None:
        return recorded
    mlflow = import_mlflow()
    mlflow.set_experiment(settings.mlflow_experiment)
    tags = {_KEY: key, "qfundus.gate": "passed" if verdict.passed else "refused"}
    name = f"{parameters['name']} {parameters['as_of']}"
    version = ""
    with mlflow.start_run(run_name=name, tags=tags, description=verdict.reason) as run:
        mlflow.log_params(parameters)
        mlflow.log_metrics(metrics)
        mlflow.log_artifacts(str(folder), _FILES)
        mlflow.log_artifact(str(report), "report")
        mlflow.log_text(verdict.to_json(), "verdict.json")
        if verdict.passed:
            version = _register(folder)
    if version:
        client.set_registered_model_alias(MODEL, CANDIDATE, version)
        client.set_model_version_tag(MODEL, version, "qfundus.gate", verdict.reason[:500])
    # The tag comes last: a run without it was interrupted, and the next attempt records anew.
    client.set_tag(run.info.run_id, "qfundus.version", version or "none")
    return _read(client, client.get_run(run.info.run_id))


def find_retraining(settings: Settings, key: str) -> Recorded | None:
    """Return the finished retraining of a key, or None."""
    client = connect(settings)
    experiment = client.get_experiment_by_name(settings.mlflow_experiment)
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], f"tags.`{_KEY}` = '{key}' and status = 'FINISHED'")
    finished = [run for run in runs if "qfundus.version" in run.data.tags]
    return _read(client, finished[0]) if finished else None


def read_version(settings: Settings, version: str) -> Recorded:
    """Return what is recorded of a model version.

    Raises:
        SetupError: if the version does not exist.
    """
    client = connect(settings)
    return _read(client, client.get_run(str(_get_version(client, version).run_id)))


def champion_version(settings: Settings) -> str:
    """Return the version in service, '' if none is in service."""
    return find_alias(settings, CHAMPION)


def find_alias(settings: Settings, alias: str) -> str:
    """Return the version that an alias names, '' if it names none."""
    from mlflow.exceptions import MlflowException

    try:
        return str(connect(settings).get_model_version_by_alias(MODEL, alias).version)
    except MlflowException:
        return ""


def move_alias(settings: Settings, version: str) -> None:
    """Let `champion` name a version, and `previous` the one it named before."""
    client = connect(settings)
    before = champion_version(settings)
    if before == version:
        return
    if before:
        client.set_registered_model_alias(MODEL, PREVIOUS, before)
    client.set_registered_model_alias(MODEL, CHAMPION, version)


def download_file(settings: Settings, version: str, name: str, folder: Path) -> Path:
    """Fetch one of a version's grader files into a folder; return where it lies."""
    client = connect(settings)
    run_id = str(_get_version(client, version).run_id)
    folder.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run_id, f"{_FILES}/{name}", str(folder)))


def has_file(settings: Settings, version: str, name: str) -> bool:
    """Return whether a version's grader has a file of that name."""
    client = connect(settings)
    listed = client.list_artifacts(str(_get_version(client, version).run_id), _FILES)
    return any(file.path == f"{_FILES}/{name}" for file in listed)


def download_report(settings: Settings, run_id: str, folder: Path) -> Path:
    """Fetch a retraining's report into a folder; return where it lies."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(connect(settings).download_artifacts(run_id, "report", str(folder))) / REPORT_FILE


def described_runs(settings: Settings, since: datetime) -> Iterator[tuple[str, str]]:
    """Yield all text that MLflow keeps of the runs and versions since a moment, each with where."""
    client, moment = connect(settings), int(since.timestamp() * 1000)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    token: str | None = ""
    while token is not None:
        runs = client.search_runs(experiments, f"attributes.start_time >= {moment}", page_token=token or None)
        for run in runs:
            yield f"run {run.info.run_id}", json.dumps(run.to_dictionary(), default=str)
        token = runs.token or None
    for version in client.search_model_versions():
        if (version.last_updated_timestamp or 0) >= moment:
            yield f"{version.name} version {version.version}", repr(version)


def run_page(settings: Settings, run_id: str) -> str:
    """Return the address of a run's page in MLflow."""
    experiment = connect(settings).get_run(run_id).info.experiment_id
    return f"{settings.mlflow_uri}/#/experiments/{experiment}/runs/{run_id}"


def _register(folder: Path) -> str:
    import onnx
    from mlflow import onnx as mlflow_onnx
    from mlflow.models import infer_signature
    from numpy import float32, uint8, zeros

    signature = infer_signature(
        {"image": zeros((1, SIDE, SIDE, 3), uint8)}, {name: zeros((1, 5), float32) for name in OUTPUTS}
    )
    logged = mlflow_onnx.log_model(
        onnx.load(folder / GRADER_FILE),
        name="grader",
        signature=signature,
        registered_model_name=MODEL,
        pip_requirements=["onnxruntime", "numpy"],
        metadata={"refer_below": str(read_summary(folder / SUMMARY_FILE).refer_below)},
        await_registration_for=60,
    )
    return str(logged.registered_model_version)


def _get_version(client: "MlflowClient", version: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(MODEL, version)
    except MlflowException:
        raise SetupError(f"Version {version} of {MODEL} does not exist: see the model's page in MLflow.") from None


def _read(client: "MlflowClient", run: "Run") -> Recorded:
    with tempfile.TemporaryDirectory() as folder:
        verdict = Path(client.download_artifacts(run.info.run_id, "verdict.json", folder)).read_text()
        summary = read_summary(Path(client.download_artifacts(run.info.run_id, f"{_FILES}/{SUMMARY_FILE}", folder)))
    version = str(run.data.tags["qfundus.version"])
    return Recorded(
        run_id=run.info.run_id,
        version="" if version == "none" else version,
        verdict=Verdict.from_json(verdict),
        figures=summary.figures,
        eyes=summary.eyes,
        recipe=run.data.params.get("name", ""),
        as_of=run.data.params.get("as_of", ""),
        refer_below=summary.refer_below,
    )
