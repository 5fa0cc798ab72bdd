"""What is needed on a GPU: one, and photographs to train on."""

import pytest
import torch
from trainings import make_recipe, make_shards

from qfundus.classical.job import TrainingJob


@pytest.fixture(autouse=True)
def _a_gpu():
    assert torch.cuda.is_available(), "There is no GPU here: `make test` passes all that needs none."


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def job(shards, tmp_path):
    return TrainingJob(make_recipe(), shards, str(tmp_path / "network"), seed=3)
