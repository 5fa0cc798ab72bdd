"""Training on a GPU: the course of the processor, whatever the strategy and precision, and on from where it stopped."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from trainings import alike, changed, kill_after, losses, make_recipe, run_job, weights

from qfundus.classical.job import TrainingJob
from qfundus.classical.launch import Torchrun, command, train_all, visible_gpus

pytestmark = pytest.mark.gpu
HERE = {"CUDA_VISIBLE_DEVICES": ""}  # on the processor
EXACT = {"NVIDIA_TF32_OVERRIDE": "0"}  # else convolutions round to 10 bits of the mantissa
SLOW = {"training__learning_rate": 0.0002}  # at a high rate, differences of rounding grow with each step
TOLERANCE = 2e-3  # of a loss near 1.5


@pytest.fixture(scope="module")
def course(shards, tmp_path_factory):
    """What one process on the processor tells of each epoch."""
    job = TrainingJob(make_recipe(**SLOW), shards, str(tmp_path_factory.mktemp("course")), seed=3)
    run_job(job, **HERE)
    return losses(job)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"strategy": "ddp", "accumulate": 2},
        {"strategy": "zero1"},
        {"strategy": "zero2", "offload": True},
        {"strategy": "zero3", "offload": True},
    ],
)
def test_it_takes_the_course_of_the_processor(how, course, job, tmp_path):
    other = changed(job, tmp_path / "gpu", **SLOW, **{f"training__{name}": value for name, value in how.items()})
    run_job(other, **EXACT)
    assert losses(other) == [pytest.approx(pair, abs=TOLERANCE) for pair in course]


@pytest.mark.parametrize(("precision", "strategy"), [("bfloat16", "ddp"), ("float16", "ddp"), ("bfloat16", "zero1")])
def test_mixed_precision_comes_near(precision, strategy, course, job, tmp_path):
    mixed = changed(job, tmp_path / "mixed", **SLOW, training__precision=precision, training__strategy=strategy)
    run_job(mixed)
    assert losses(mixed)[0][0] == pytest.approx(course[0][0], abs=0.03)
    assert losses(mixed) != course


def test_torchrun_joins_processes_by_nccl(course, job, tmp_path):
    joined = changed(job, tmp_path / "joined", **SLOW)
    folder = Path(joined.folder)
    folder.mkdir()
    (folder / "job.json").write_text(joined.to_json())
    one = command(folder / "job.json", 2)
    one[one.index("--nproc-per-node") + 1] = "1"
    subprocess.run(one, check=True, timeout=100, env={**os.environ, **EXACT})
    assert losses(joined) == [pytest.approx(pair, abs=TOLERANCE) for pair in course]


def test_the_same_seed_gives_the_same_weights(job, tmp_path):
    twin = replace(job, folder=str(tmp_path / "twin"))
    for one in (job, twin):
        run_job(one)
    assert alike(weights(job), weights(twin))


OFTEN = {"training__epochs": 6, "training__checkpoint_every": 1, "training__ema": 0.9}


def test_killed_it_goes_on_to_the_weights_of_one_never_stopped(job, tmp_path):
    settings = {**OFTEN, "network__dropout": 0.2}
    whole, killed = changed(job, tmp_path / "whole", **settings), changed(job, tmp_path / "killed", **settings)
    run_job(whole)
    kill_after(killed, steps=3)
    assert "Training resumed" in run_job(killed)
    assert alike(weights(killed), weights(whole))


def test_what_a_gpu_began_the_processor_ends(job, tmp_path):
    settings = {**OFTEN, **SLOW}
    whole, killed = changed(job, tmp_path / "whole", **settings), changed(job, tmp_path / "killed", **settings)
    run_job(whole, **HERE)
    kill_after(killed, steps=3)
    assert "Training resumed" in run_job(killed, **HERE)
    assert losses(killed)[-1] == pytest.approx(losses(whole)[-1], abs=0.01)


def test_networks_take_turns_where_there_is_a_gpu_for_one(job, tmp_path):
    launcher = Torchrun.open(networks=2, processes=1, at_once=0, scratch=tmp_path / "scratch")
    assert launcher.at_once == min(2, len(visible_gpus()))
    jobs = [job, replace(job, folder=str(tmp_path / "second"), seed=4)]
    train_all(jobs, launcher)
    assert all(one.is_done for one in jobs)
