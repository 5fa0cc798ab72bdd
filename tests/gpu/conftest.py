"""What is needed on a GPU: one, and photographs to train on."""

import pytest
import torch
from training import make_labelled, make_recipe

from qfundus.classical.shards import write_shards
from qfundus.classical.train import Job


@pytest.fixture(autouse=True)
def _a_gpu():
    assert torch.cuda.is_available(), "There is no GPU here: `make test` passes all that needs none."


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("shards") / "photographs.lance")
    write_shards(make_labelled(80), make_recipe().pictures, uri)
    return uri


@pytest.fixture
def job(shards, tmp_path):
    return Job(make_recipe(), shards, str(tmp_path / "network"), seed=3)
