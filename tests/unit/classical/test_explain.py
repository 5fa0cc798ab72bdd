import numpy as np
import pytest
import torch
from torch import nn

from qfundus.classical.explain import draw_overlay, explain_photograph

SIDE = 16


class Corner(nn.Module):
    """Grades by the red of one corner alone."""

    def forward(self, images):
        red = images[:, :4, :4, 0].mean(dim=(1, 2)) / 50
        return torch.stack([torch.zeros_like(red)] * 4 + [red], dim=1)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(60, 200, (SIDE, SIDE, 3), dtype=np.uint8)


def test_what_is_pointed_at_is_what_the_grade_comes_from(image):
    image[:4, :4, 0] = 250
    attributions = explain_photograph([Corner()], image, 4)
    assert attributions[:4, :4].sum() == pytest.approx(attributions.sum(), rel=1e-4)
    assert attributions[:4, :4].min() > 0


def test_it_adds_up_to_what_the_photograph_changes(image):
    image[:4, :4, 0] = 250
    pixels = torch.from_numpy(image).float()[None]
    start = pixels.mean(dim=(1, 2), keepdim=True).expand_as(pixels)
    gained = [float(Corner()(one).log_softmax(dim=1)[0, 4]) for one in (start, pixels)]
    assert explain_photograph([Corner()], image, 4).sum() == pytest.approx(gained[1] - gained[0], rel=0.02)


def test_red_speaks_for_it_and_blue_against_it():
    attributions = np.zeros((SIDE, SIDE))
    attributions[:, :8], attributions[:, 8:] = 1, -1
    shown = np.asarray(draw_overlay(np.full((SIDE, SIDE, 3), 100, np.uint8), attributions)).astype(int)
    left, right = shown[:, 100].mean(axis=0), shown[:, 400].mean(axis=0)
    assert left[0] > left[2]
    assert right[2] > right[0]
