"""Training from shards in S3, with checkpoints there, recorded in MLflow, and graded from there."""

import json

import numpy as np
import pytest
from command_line import call
from trainings import make_labelled

from qfundus.classical.storage_folder import open_folder

RECIPE = """
name: small
seed: 1
images: {side: 32}
network: {}
augmentation: {}
training: {epochs: 2, patience: 5, batch: 20, learning_rate: 0.003, weight_decay: 0.01, checkpoint_every: 1}
grading: {}
"""


@pytest.fixture
def data(tmp_path):
    labelled = make_labelled(60)
    file = tmp_path / "eyes.npz"
    np.savez(
        file,
        train_images=np.stack([one.read() for one in labelled]),
        train_labels=np.array([one.grade for one in labelled]),
    )
    return file


def test_shards_and_checkpoints_in_s3_and_figures_and_grader_in_mlflow(settings, data, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recipe, out = tmp_path / "small.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    shards, checkpoints = f"s3://{settings.models_bucket}/eyes.lance", f"s3://{settings.models_bucket}/checkpoints"

    def called(*words):
        done = call(*words)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.stdout

    called("shard", recipe, "--data", data, "--to", shards)
    printed = called(
        *("train", recipe, "--data", shards, "--out", out, "--checkpoints", checkpoints),
        *("--track", settings.mlflow_uri, "--json"),
    )
    fs, root = open_folder(checkpoints)
    fs.invalidate_cache()
    assert not fs.glob(f"{root}/**/complete.json")  # gone once the grader is written
    address = (out / "mlflow_model").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.mlflow_uri)
    mlflow.set_tracking_uri(settings.mlflow_uri)
    graded = json.loads(called("evaluate", "--data", data, "--model", address, "--split", "train", "--json"))
    assert graded["photographs"] == 60
    assert json.loads(printed.splitlines()[-1])["photographs"] == 8  # held out from the one network

    runs = mlflow.MlflowClient(settings.mlflow_uri).search_runs(
        [mlflow.get_experiment_by_name("training").experiment_id],
        filter_string="attributes.run_name LIKE 'small%fold%'",
    )
    assert len(runs) == 1
    known = runs[0].data
    assert known.params["training.epochs"] == "2"
    assert len(known.params["photographs"]) == 64
    assert {"held_loss", "train_loss"} <= known.metrics.keys()
    assert mlflow.artifacts.load_text(f"runs:/{runs[0].info.run_id}/qfundus.lock").startswith("#")
