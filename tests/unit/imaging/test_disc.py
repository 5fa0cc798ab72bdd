import numpy as np
import pytest

from qfundus.errors import Discard
from qfundus.imaging.disc import find_disc
from qfundus.imaging.normalise import SIDE, crop_disc
from qfundus.imaging.quality import measure_quality


def disc_image(height, width, centre, radius):
    y, x = np.mgrid[:height, :width]
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    return np.where(inside[..., None], np.uint8(120), np.uint8(2)) * np.ones((1, 1, 3), np.uint8)


@pytest.mark.parametrize(("centre", "radius"), [((150, 200), 120), ((150, 140), 130), ((150, 200), 170)])
def test_the_disc_is_found_wherever_it_lies(centre, radius):
    disc = find_disc(disc_image(300, 400, centre, radius))
    assert abs(disc.left - max(0, centre[1] - radius)) <= 4
    assert abs(disc.height - min(300, 2 * radius)) <= 8


@pytest.mark.parametrize("image", [np.zeros((200, 200, 3), np.uint8), disc_image(300, 300, (150, 150), 30)])
def test_an_image_without_a_fundus_is_refused(image):
    with pytest.raises(Discard, match="no_fundus_disc"):
        find_disc(image)


def test_the_crop_is_square_and_filled_by_the_disc():
    image = disc_image(300, 400, (150, 200), 120)
    cropped = crop_disc(image, find_disc(image))
    assert cropped.shape == (SIDE, SIDE, 3)
    assert cropped[SIDE // 2, 3, 0] > 60


def test_every_real_eye_has_a_disc(photographs):
    discs = [find_disc(np.kron(image, np.ones((4, 4, 1), np.uint8))) for image in photographs.images[:200]]
    assert min(disc.lit_share for disc in discs) > 0.3


def test_a_blurred_image_is_less_sharp():
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    assert measure_quality(gaussian_filter(noise, 2)).sharpness < measure_quality(noise).sharpness / 10
