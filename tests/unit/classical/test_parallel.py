"""Trainings that several processes share."""

from pathlib import Path

import pytest
from data_parallel import agree_on_statistics
from products import product
from ranks import Ranks
from trainings import alike, changed, kill_after, losses, run_job, train_here, try_job, weights

TOLERANCE = 2e-4  # of a loss near 1.5: sums of float32 in another order


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [product("ddp"), "fsdp2"])
def test_two_processes_take_the_same_course_as_one(strategy, job, tmp_path):
    two = changed(job, tmp_path / "two", training__strategy=strategy, training__accumulate=2, training__ema=0.9)
    one = changed(job, tmp_path / "one", training__ema=0.9)
    train_here(one)
    run_job(two, processes=2)
    assert losses(two) == [pytest.approx(pair, abs=TOLERANCE) for pair in losses(one)]


@pytest.mark.slow
def test_deepspeed_goes_on_to_the_weights_of_one_never_stopped(job, tmp_path):
    """Alone: what several processes do is left to `make test-all`."""
    alone = changed(job, tmp_path / "alone", training__strategy="zero1")
    run_job(alone)
    whole = weights(alone)
    (tmp_path / "alone" / "checkpoints" / "00002-000000" / "complete.json").unlink()
    assert "Training resumed" in run_job(alone)
    assert alike(weights(alone), whole)


@pytest.mark.product
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_takes_the_same_course(stage, job, tmp_path):
    two = changed(job, tmp_path / "two", training__strategy=f"zero{stage}")
    train_here(job)
    run_job(two, processes=2)
    assert losses(two) == [pytest.approx(pair, abs=TOLERANCE) for pair in losses(job)]


@pytest.mark.product
def test_deepspeed_trains_alone_in_bfloat16_and_needs_as_many_processes_as_wrote_its_files(job, tmp_path):
    alone = changed(job, tmp_path / "alone", training__strategy="zero1", training__precision="bfloat16")
    plain = changed(job, tmp_path / "plain", training__precision="bfloat16")
    run_job(alone)
    train_here(plain)
    assert losses(alone) == [pytest.approx(pair, abs=0.02) for pair in losses(plain)]
    (tmp_path / "alone" / "checkpoints" / "00002-000000" / "complete.json").unlink()
    _, refusal = try_job(alone, processes=2)
    assert "was written by 1 processes" in refusal


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", product("zero1")])
def test_processes_agree_on_the_statistics_of_their_batches(strategy, tmp_path):
    assert Ranks(agree_on_statistics, (strategy,), 2, tmp_path / "output.log").wait() == 0


@pytest.mark.product
def test_what_two_processes_began_one_goes_on_with(job, tmp_path):
    settings = {"training__epochs": 8, "training__checkpoint_every": 1, "training__learning_rate": 0.0002}
    settings |= {"training__strategy": "fsdp2"}
    whole, stopped = changed(job, tmp_path / "whole", **settings), changed(job, tmp_path / "stopped", **settings)
    train_here(whole)
    kill_after(stopped, steps=3, processes=2)
    assert "Training resumed" in run_job(stopped)
    # At a high rate the differences of a sum's order would grow with each step.
    assert losses(stopped)[-1] == pytest.approx(losses(whole)[-1], abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", product("zero1")])
def test_two_processes_go_on_to_the_weights_of_two_never_stopped(strategy, job, tmp_path):
    """With each process's own batch statistics, dropout and dropped paths: all that differs between them."""
    how = {"network__batch_norm": "own", "network__dropout": 0.3, "network__drop_path": 0.2}
    both = changed(job, tmp_path / "both", training__strategy=strategy, **how)
    run_job(both, processes=2)
    whole = weights(both)
    (Path(both.folder) / "checkpoints" / "00002-000000" / "complete.json").unlink()
    assert "Training resumed" in run_job(both, processes=2)
    assert alike(weights(both), whole)


@pytest.mark.slow
def test_an_epoch_is_the_same_whatever_the_number_of_workers(trained_job, tmp_path):
    other = changed(trained_job, tmp_path / "workers", training__workers=2)
    train_here(other)
    assert alike(weights(other), weights(trained_job))
