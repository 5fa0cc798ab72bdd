"""Training whose photographs and checkpoints lie in S3."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from products import product
from trainings import losses, make_labelled, make_recipe, run_job, train_here
from waiting import wait_until

from qfundus.classical.job import TrainingJob
from qfundus.classical.launch import Torchrun
from qfundus.classical.shards import write_shards
from qfundus.errors import TrainingError


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_in_s3(settings, tmp_path, capsys):
    shards = f"s3://{settings.models_bucket}/resumed.lance"
    write_shards(make_labelled(60), make_recipe().images, shards)
    kept = f"s3://{settings.models_bucket}/resumed"
    job = TrainingJob(make_recipe(training__checkpoint_every=1), shards, str(tmp_path / "first"), 0, checkpoints=kept)
    train_here(job)
    again = replace(job, folder=str(tmp_path / "second"))
    train_here(again)
    assert "Training resumed" in "".join(capsys.readouterr())
    first, second = (torch.load(Path(one.folder) / "weights.pt", weights_only=True) for one in (job, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = TrainingJob(make_recipe(training__epochs=3), shards, str(tmp_path / "third"), 0, checkpoints=kept)
    with pytest.raises(TrainingError, match="checkpoints of another recipe"):
        train_here(other)


@pytest.mark.product
@pytest.mark.parametrize("seconds", [5, product(60)])
def test_a_store_that_is_away_for_a_while_costs_time_and_nothing_else(seconds, settings, seaweedfs, tmp_path):
    """The S3 server is stopped in the middle of a training whose photographs, checkpoints and results lie there."""
    work = f"s3://{settings.models_bucket}/away"
    write_shards(make_labelled(60), make_recipe().images, f"{work}/eyes.lance")
    recipe = make_recipe(training__epochs=12, training__checkpoint_every=1)
    job = TrainingJob(recipe, f"{work}/eyes.lance", f"{work}/00", 0)
    running = Torchrun(1, 2, tmp_path).start(job)  # a thread each, as `run_job` has
    wait_until(lambda: job.results.exists("log.jsonl") or running.has_ended(), 120)
    assert not running.has_ended()
    seaweedfs.suspend()
    try:
        time.sleep(seconds)
        assert not running.has_ended()
    finally:
        seaweedfs.resume()
    wait_until(running.has_ended, 120)
    calm = replace(job, folder=str(tmp_path / "calm"))
    run_job(calm)
    assert losses(job) == losses(calm)
