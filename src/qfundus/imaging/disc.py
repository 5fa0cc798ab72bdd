"""Find the lit fundus disc in a photograph."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from qfundus.errors import Discard

_SMALLEST_SHARE = 0.15
_DARK = 12


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

    The threshold lies above the black margin's noise, which the image's four corners show.

    Raises:
        Discard: where less than 15 % of the image is lit.
    """
    brightest = ndimage.uniform_filter(pixels.max(axis=2).astype(np.float32), size=5)
    lit = brightest > max(_DARK, 0.12 * float(np.percentile(brightest, 99)))
    labels, count = ndimage.label(lit)  # pyright: ignore[reportGeneralTypeIssues]
    if count == 0:
        raise Discard("no_fundus_disc", "The image is black.")
    sizes = np.bincount(labels.ravel())[1:]
    share = float(sizes.max()) / lit.size
    if share < _SMALLEST_SHARE:
        raise Discard("no_fundus_disc", f"Only {share:.0%} of the image is lit.")
    rows, columns = ndimage.find_objects(labels)[sizes.argmax()]
    return Disc(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start, share)
