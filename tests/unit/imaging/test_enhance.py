import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfundus.hospital.photographs import draw_phantoms
from qfundus.imaging.enhance import even_illumination, stretch_contrast
from qfundus.imaging.normalise import SIDE


@pytest.fixture(scope="module")
def eye():
    return draw_phantoms(1, SIDE).images[0]


def shade(image):
    """Darken towards the left, as a badly held lens does."""
    return (image * np.linspace(0.4, 1, image.shape[1])[None, :, None]).astype(np.uint8)


def halves(image):
    lit = image.max(axis=2) > 12
    middle = image.shape[1] // 2
    left, right = image[:, :middle][lit[:, :middle]], image[:, middle:][lit[:, middle:]]
    return left.mean(), right.mean()


def test_evening_takes_a_shade_away(eye):
    before, after = halves(shade(eye)), halves(even_illumination(shade(eye)))
    assert before[1] - before[0] > 20
    assert abs(after[1] - after[0]) < 5


def test_what_is_unlit_stays_black(eye):
    assert even_illumination(eye)[eye.max(axis=2) == 0].max() == 0


def test_stretching_raises_the_contrast_and_keeps_the_colour(eye):
    dull = (eye * 0.3 + 60).astype(np.uint8)
    stretched = stretch_contrast(dull)
    assert stretched.std() > 1.3 * dull.std()
    ratio = stretched[..., 0].mean() / stretched[..., 2].mean()
    assert ratio == pytest.approx(dull[..., 0].mean() / dull[..., 2].mean(), rel=0.1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(32, 96))
def test_any_pixels_give_pixels(seed, side):
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for enhance in (even_illumination, stretch_contrast):
        found = enhance(noise)
        assert found.shape == noise.shape
        assert found.dtype == np.uint8


@pytest.mark.parametrize("grey", [0, 100])
def test_a_photograph_of_one_lightness_stays_as_it_is(grey):
    """The method spreads lightness over its whole range: black would come out white."""
    plain = np.full((64, 64, 3), grey, np.uint8)
    assert np.array_equal(stretch_contrast(plain), plain)
