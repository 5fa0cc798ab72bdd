"""Make what matters on a fundus photograph easier to see; pure functions of its pixels."""

import numpy as np
from scipy import ndimage

_BLUR = 1 / 15  # of the side: wider than a lesion, narrower than the shade of the lens
_TILE, _LIMIT = 1 / 4, 0.01


def even_illumination(pixels: np.ndarray) -> np.ndarray:
    """Take a photograph's local mean away, so that the shade of lens and lid goes; `(side, side, 3)` of uint8.

    After B. Graham's report on the Kaggle diabetic retinopathy competition (2015); what is unlit stays black.
    """
    image = pixels.astype(np.float32)
    lit = (image.max(axis=2, keepdims=True) > 12).astype(np.float32)
    width = pixels.shape[0] * _BLUR
    # The mean of what is lit alone: else the black around would pull the rim's mean down.
    share = ndimage.gaussian_filter(lit, (width, width, 0))
    mean = ndimage.gaussian_filter(image * lit, (width, width, 0)) / np.maximum(share, 1e-3)
    return (np.clip(128 + 3 * (image - mean), 0, 255) * lit).astype(np.uint8)


def stretch_contrast(pixels: np.ndarray) -> np.ndarray:
    """Stretch the local contrast of the lightness over its whole range, colours kept; `(side, side, 3)` of uint8.

    CLAHE (S. Pizer et al., 1987), in CIELAB. A photograph of one lightness has none to stretch, and stays as it is.
    """
    from skimage.color import lab2rgb, rgb2lab
    from skimage.exposure import equalize_adapthist

    lab = rgb2lab(pixels)
    if np.ptp(lab[..., 0]) < 1:
        return pixels.copy()
    side = max(8, int(pixels.shape[0] * _TILE))
    lab[..., 0] = 100 * equalize_adapthist(lab[..., 0] / 100, kernel_size=side, clip_limit=_LIMIT)
    return np.rint(255 * np.clip(lab2rgb(lab), 0, 1)).astype(np.uint8)
