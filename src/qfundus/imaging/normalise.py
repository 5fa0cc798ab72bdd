"""Bring every photograph to one shape: the disc, square, at the size the networks expect."""

import numpy as np
from PIL import Image

from qfundus.imaging.disc import Disc

SIDE = 224
# The mean and spread of ImageNet, on which the backbone was trained (EfficientNet-Lite: 127 and 128).
MEAN, SPREAD = 127.0, 128.0


def crop_disc(pixels: np.ndarray, disc: Disc, side: int = SIDE) -> np.ndarray:
    """Cut out the disc, pad it to a square and scale it to `(side, side, 3)` of uint8."""
    cut = pixels[disc.top : disc.top + disc.height, disc.left : disc.left + disc.width]
    return np.asarray(Image.fromarray(pad_square(cut)).resize((side, side), Image.Resampling.BILINEAR))


def pad_square(pixels: np.ndarray) -> np.ndarray:
    """Add black to the shorter sides of `(height, width, 3)`."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    square = np.zeros((longer, longer, 3), np.uint8)
    top, left = (longer - height) // 2, (longer - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square
