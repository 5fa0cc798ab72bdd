import shutil

import numpy as np
import pytest

from qfundus.evaluation.gate import Drop
from qfundus.evaluation.metrics import Estimate
from qfundus.hospital.photographs import draw_phantoms
from qfundus.hybrid.grader_files import HEAD_FILE, OUTPUTS
from qfundus.hybrid.serving import INT8_FILE, serve_if_accepted, write_int8_form
from qfundus.onnx_graphs.quantise import choose_calibration, is_quantised
from qfundus.onnx_graphs.run import GRADER_FILE, grade_images


@pytest.fixture(scope="module")
def discs():
    return np.stack(draw_phantoms(8, 224).images)


@pytest.fixture(scope="module")
def quantised(exported, discs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantised") / "grader"
    shutil.copytree(exported[0], folder)
    write_int8_form(folder, discs)
    return folder


@pytest.fixture
def folder(quantised, tmp_path):
    return shutil.copytree(quantised, tmp_path / "grader")


def test_int8_grades_nearly_as_the_grader_does_by_each_form(quantised, discs):
    plain, small = (grade_images(quantised / file, discs, OUTPUTS) for file in (GRADER_FILE, INT8_FILE))
    assert plain.shape == small.shape == (3, 8, 5)
    assert 0 < np.abs(plain - small).max() < 0.1


def test_an_accepted_form_takes_the_graders_place(folder, discs):
    large = (folder / GRADER_FILE).stat().st_size
    served = serve_if_accepted(folder, Drop("kappa", Estimate(0.01, -0.01, 0.03), allowed=0.05), discs[:1])
    assert served.form == "int8"
    assert "kept: kappa drops by 0.010 (-0.010 to 0.030); it takes " in str(served)
    assert is_quantised(folder / GRADER_FILE)
    assert (folder / GRADER_FILE).stat().st_size < large / 2
    # The head's float32 graph would answer differently from what is served.
    assert not (folder / HEAD_FILE).exists()


def test_a_form_that_costs_too_much_is_not_served(folder, discs):
    served = serve_if_accepted(folder, Drop("kappa", Estimate(0.1, 0.05, 0.2), allowed=0.05), discs[:1])
    assert served.form == "float32"
    assert "refused" in str(served)
    assert not is_quantised(folder / GRADER_FILE)
    assert (folder / HEAD_FILE).exists()
    assert not (folder / INT8_FILE).exists()


@pytest.mark.parametrize("count", [0, 1, 100, 200, 500])
def test_ranges_are_calibrated_on_photographs_of_the_whole_list(count):
    chosen = choose_calibration(list(range(count)))
    assert len(chosen) == min(count, 128)
    assert not chosen or (chosen[0], chosen[-1]) == (0, count - 1)
    assert np.diff(chosen).max(initial=0) <= -(-count // 128) + 1
