import numpy as np
import pytest
import torch

from qfundus.evaluation.occlusion import PARTS, choose_eyes, map_occlusion
from qfundus.hybrid.report import draw_occlusion
from qfundus.onnx_graphs.export import export_module


class Spot(torch.nn.Module):
    """Grade 4 where the upper right corner is red, else grade 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        red = images[:, :32, -32:, 0].float().mean(dim=(1, 2)) / 255
        nothing = torch.zeros_like(red)
        return torch.stack((1 - red, nothing, nothing, nothing, red), dim=1)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    file = tmp_path_factory.mktemp("graph") / "spot.onnx"
    examples = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    export_module(Spot(), {"image": examples}, file, ("probabilities",))
    return file


def disc():
    pixels = np.full((224, 224, 3), 30, np.uint8)
    pixels[:32, -32:] = [250, 0, 0]
    return pixels


def test_the_part_that_decides_is_found_and_left_eyes_are_mirrored(graph):
    found = map_occlusion(graph, [disc(), None], [4, 4], [False, False])
    fall = np.array(found["4"]["fall"])
    assert found["4"]["eyes"] == 1  # the other one was erased
    assert fall.shape == (PARTS, PARTS)
    assert np.unravel_index(fall.argmax(), fall.shape) == (0, PARTS - 1)
    assert fall[0, -1] > 0.5
    assert np.abs(np.delete(fall.ravel(), PARTS - 1)).max() < 1e-3
    mirrored = map_occlusion(graph, [disc()], [4], [True])["4"]["fall"]
    assert np.allclose(mirrored, fall[:, ::-1])


def test_the_surest_eyes_of_each_predicted_grade_are_chosen():
    probabilities = np.array([[0.9, 0.1, 0, 0, 0], [0.6, 0.4, 0, 0, 0], [0.8, 0.2, 0, 0, 0], [0, 0, 0, 0.3, 0.7]])
    assert choose_eyes(probabilities, 2).tolist() == [0, 2, 3]
    assert choose_eyes(probabilities, 0).tolist() == []


def test_it_is_drawn_for_the_grades_that_were_predicted(graph):
    figure = draw_occlusion(map_occlusion(graph, [disc()], [4], [False]))
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title] == [*(f"grade {g}: not predicted" for g in range(4)), "grade 4 (1 eye)"]
