"""Where a training's figures go, and what happens when that place is away."""

import os
import signal
import subprocess
import sys

import httpx
import pytest
from trainings import losses, make_labelled, make_recipe
from waiting import wait_until

from qfundus.classical.job import TrainingJob
from qfundus.classical.launch import Torchrun
from qfundus.classical.shards import write_shards
from qfundus.platform.ports import choose_ports


@pytest.mark.product
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
        [sys.executable, "-m", "mlflow", "server", *kept, "--workers", "1", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: answers(f"{track}/health"), 90)
        shards = str(tmp_path / "eyes.lance")
        write_shards(make_labelled(60), make_recipe().images, shards)
        job = TrainingJob(make_recipe(training__epochs=4), shards, str(tmp_path / "00"), 0, track=track)
        running = Torchrun(1, 2, tmp_path).start(job)
        wait_until(lambda: losses(job) or running.has_ended(), 120)
        assert not running.has_ended()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    wait_until(running.has_ended, 150)
    assert job.is_done
    assert len(losses(job)) == 4
    assert "Figures are only in the log" in (tmp_path / "00" / "output.log").read_text()


def answers(url):
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False
