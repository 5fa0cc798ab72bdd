"""Fixtures for every test: a key, a policy, photographs real or drawn, and poisoned studies."""

import gc
import os
import random
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import pytest_randomly
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from qfundus.dicom.compiled_policy import CompiledPolicy
from qfundus.dicom.policy import load_policy
from qfundus.features.embed import export_backbone
from qfundus.features.snapshot import Split
from qfundus.hospital.people import Clinic, invent_patient
from qfundus.hospital.photographs import Photographs, draw_phantoms, read_photographs
from qfundus.hospital.wrap import wrap_eye
from qfundus.layout import checkout, policy_file
from qfundus.security.keys import SiteKey

# DeepSpeed offers to seed its accelerator before each test: to hear that, every process would import it, PyTorch and
# MLflow before it collects.
pytest_randomly.entrypoint_reseeds = []

REAL_DATA = Path(os.environ.get("QFUNDUS_TEST_DATA", checkout().parent / "shared" / "data"))


# Fixtures that take half a minute: a grader that was trained, one that was exported, a hospital de-identified.
COSTLY = {"trained", "exported", "backbone", "deidentified_hospital"}
# Files, or tests, that go to one process: they share such a fixture, a server that forks, or imports of
# ten seconds.
TOGETHER = {
    "tests/dags/test_dags.py": "dags",
    "tests/object_store/test_corrections.py::test_the_features_of_what_is_erased_go_from_all_parts": "exported",
    "tests/unit/classical/test_parallel.py": "ranks",
    "tests/unit/classical/test_session.py": "trained",
    "tests/unit/hospital/test_answers.py": "deidentified",
    "tests/unit/hybrid/test_grader.py": "exported",
    "tests/unit/hybrid/test_serving.py": "exported",
    "tests/unit/quantum/test_layer.py": "exported",
    "tests/unit/quantum/test_layer.py::test_two_processes_share_a_batch_in_distributed_data_parallel": "ranks",
}


class Together(LoadScopeScheduling):
    """Gives tests that share a costly fixture to one process, and all others one by one to whichever is free.

    xdist's own groups write into a test's name, where pytest 9 no longer looks.
    """

    def _split_scope(self, nodeid):
        test, file = nodeid.partition("[")[0], nodeid.partition("::")[0]
        return TOGETHER.get(test) or TOGETHER.get(file, nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Together(config, log)


def pytest_collection_modifyitems(items):
    """Begin with what takes long."""
    for item in items:
        if COSTLY & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Look for garbage no more in what was imported: it stays, and forked processes need not copy it."""
    gc.freeze()


@pytest.fixture(scope="session")
def key():
    return SiteKey(bytes(range(32)))


@pytest.fixture(scope="session")
def policy():
    return CompiledPolicy(load_policy(policy_file()))


@pytest.fixture(scope="session")
def backbone():
    """The backbone's graph, which takes ten seconds to export."""
    return export_backbone()


@pytest.fixture(scope="session")
def photographs():
    """1,200 real graded eyes where they are at hand, else 240 phantoms."""
    file = REAL_DATA / "retinamnist" / "retinamnist-train-val.npz"
    return read_photographs(file) if file.exists() else draw_phantoms(240)


@pytest.fixture
def wrapped(photographs):
    """One eye as a hospital sends it."""
    return make_eye(photographs)


def make_eye(photographs: Photographs, number: int = 0, *, burned_in: bool = False, side: int = 0):
    rng = random.Random(number)
    image = Image.fromarray(photographs.images[number % len(photographs.images)])
    # Letters need some pixels; what looks for them takes its time by the pixel.
    side = side or (280 if burned_in else 160)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    return wrap_eye(
        pixels,
        invent_patient(rng, date(2026, 5, 4)),
        Clinic(),
        laterality="R",
        study_uid=f"1.2.826.0.1.3680043.8.498.{number + 1}",
        entropy=f"test/{number}",
        burned_in=burned_in,
    )


def separable(eyes: int, seed: int) -> Split:
    """Embeddings in which each grade raises values of its own: what any head should learn."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 5, eyes)
    embeddings = rng.normal(0, 0.2, (eyes, 1280)).astype(np.float32)
    embeddings[:, :400] += np.repeat(np.eye(5, dtype=np.float32), 80, axis=1)[grades] * 0.5
    return Split(embeddings, grades, np.arange(eyes).astype(str), pd.DataFrame())
