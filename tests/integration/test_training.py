"""Training from shards in S3, with checkpoints there, told to MLflow, and graded from there."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch
from command_line import call
from trainings import losses, make_labelled, make_recipe, run_job

from qfundus.classical.job import TrainingJob
from qfundus.classical.launch import Torchrun
from qfundus.classical.shards import write_shards
from qfundus.classical.storage_folder import open_folder
from qfundus.platform.ports import choose_ports

pytestmark = pytest.mark.platform
AWAY = float(os.environ.get("QFUNDUS_TEST_AWAY", "15"))  # seconds
RECIPE = """
name: small
seed: 1
images: {side: 32}
network: {}
augmentation: {}
training: {epochs: 2, patience: 5, batch: 20, learning_rate: 0.003, weight_decay: 0.01, checkpoint_every: 1}
grading: {folds: 2}
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
    told = called(
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
    assert json.loads(told.splitlines()[-1])["photographs"] == 60

    runs = mlflow.MlflowClient(settings.mlflow_uri).search_runs(
        [mlflow.get_experiment_by_name("training").experiment_id],
        filter_string="attributes.run_name LIKE 'small%fold%'",
    )
    assert len(runs) == 2
    known = runs[0].data
    assert known.params["training.epochs"] == "2"
    assert len(known.params["photographs"]) == 64
    assert {"held_loss", "train_loss"} <= known.metrics.keys()
    assert mlflow.artifacts.load_text(f"runs:/{runs[0].info.run_id}/qfundus.lock").startswith("#")


def test_a_run_goes_on_from_a_checkpoint_in_s3(settings, tmp_path):
    shards = f"s3://{settings.models_bucket}/resumed.lance"
    write_shards(make_labelled(60), make_recipe().images, shards)
    kept = f"s3://{settings.models_bucket}/resumed"
    job = TrainingJob(make_recipe(training__checkpoint_every=1), shards, str(tmp_path / "first"), 0, checkpoints=kept)
    run_job(job)
    again = replace(job, folder=str(tmp_path / "second"))
    assert "Training resumed" in run_job(again).stderr
    first, second = (torch.load(Path(one.folder) / "weights.pt", weights_only=True) for one in (job, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = TrainingJob(make_recipe(training__epochs=3), shards, str(tmp_path / "third"), 0, checkpoints=kept)
    assert "checkpoints of another recipe" in run_job(other, check=False).stderr


def test_a_store_that_is_away_for_a_while_costs_time_and_nothing_else(settings, platform, tmp_path):
    """The S3 server is stopped in the middle of a training whose photographs, checkpoints and results lie there."""
    work = f"s3://{settings.models_bucket}/away"
    write_shards(make_labelled(60), make_recipe().images, f"{work}/eyes.lance")
    recipe = make_recipe(training__epochs=12, training__checkpoint_every=1)
    job = TrainingJob(recipe, f"{work}/eyes.lance", f"{work}/00", 0)
    running = Torchrun(1, 2, tmp_path).start(job)  # a thread each, as `run_job` has
    wait_for(lambda: job.results.exists("log.jsonl") or running.has_ended(), 120)
    assert not running.has_ended()
    [weed] = [one for one in psutil.process_iter(["cmdline"]) if is_weed(one, platform)]
    weed.suspend()
    try:
        time.sleep(AWAY)
        assert not running.has_ended()
    finally:
        weed.resume()
    wait_for(running.has_ended, 120)
    calm = replace(job, folder=str(tmp_path / "calm"))
    run_job(calm)
    assert losses(job) == losses(calm)


def is_weed(process, platform):
    words = process.info["cmdline"] or []
    return bool(words) and words[0].endswith("/weed") and any(str(platform) in word for word in words)


def test_a_tracking_server_that_dies_costs_figures_and_not_the_training(tmp_path):
    """An MLflow of its own is killed after the first epoch."""
    port = choose_ports({"mlflow": 25870})["mlflow"]
    track = f"http://127.0.0.1:{port}"
    kept = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *kept, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: answers(f"{track}/health"), 90)
        shards = str(tmp_path / "eyes.lance")
        write_shards(make_labelled(60), make_recipe().images, shards)
        job = TrainingJob(make_recipe(training__epochs=12), shards, str(tmp_path / "00"), 0, track=track)
        running = Torchrun(1, 2, tmp_path).start(job)
        wait_for(lambda: losses(job) or running.has_ended(), 120)
        assert not running.has_ended()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    wait_for(running.has_ended, 150)
    assert job.is_done
    assert len(losses(job)) == 12
    assert "Figures are kept in the log alone" in (tmp_path / "00" / "output.log").read_text()


def answers(url):
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def wait_for(told, seconds):
    until = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < until
        time.sleep(0.1)
