"""Find the lit fundus disc in a photograph."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from qfundus.errors import Discard

_SMALLEST_SHARE = 0.15
_DARK = 12
_FINEST = 256  # pixels of the shorter side: the disc's edge needs no more


@dataclass(frozen=True)
class Disc:
    """The box around the lit fundus, in pixels, and the share of the image that is lit."""

    top: int
    left: int
    height: int
    width: int
    lit_share: float


def find_disc(pixels: np.ndarray) -> Disc:
    """Find the fundus disc in an RGB photograph `(height, width, 3)` of uint8.

    Of a large photograph every n-th pixel is looked at; the box is right to n pixels.

    Raises:
        Discard: if less than 15 % of the image is lit.
    """
    step = max(1, min(pixels.shape[:2]) // _FINEST)
    brightest = ndimage.uniform_filter(pixels[::step, ::step].max(axis=2).astype(np.float32), size=5)
    lit = brightest > max(_DARK, 0.12 * float(np.percentile(brightest, 99)))
    labels, count = ndimage.label(lit)  # pyright: ignore[reportGeneralTypeIssues]
    if count == 0:
        raise Discard("no_fundus_disc", "The image is black.")
    sizes = np.bincount(labels.ravel())[1:]
    share = float(sizes.max()) / lit.size
    if share < _SMALLEST_SHARE:
        raise Discard("no_fundus_disc", f"Only {share:.0%} of the image is lit.")
    rows, columns = ndimage.find_objects(labels)[sizes.argmax()]
    bottom, right = min(rows.stop * step, pixels.shape[0]), min(columns.stop * step, pixels.shape[1])
    top, left = rows.start * step, columns.start * step
    return Disc(top, left, bottom - top, right - left, share)
