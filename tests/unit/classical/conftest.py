"""Shards and a job for every test of training."""

import pytest
import torch
from trainings import make_recipe, make_shards, train_here

from qfundus.classical.job import TrainingJob


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors are no work for two, and waiting threads would hold the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def job(shards, tmp_path):
    return TrainingJob(make_recipe(), shards, str(tmp_path / "network"), seed=3)


@pytest.fixture(scope="session")
def trained_job(shards, tmp_path_factory):
    """The job that others are compared with, when it has ended."""
    done = TrainingJob(make_recipe(), shards, str(tmp_path_factory.mktemp("trained") / "network"), seed=3)
    train_here(done)
    return done
