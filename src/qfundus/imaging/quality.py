"""Measure how well a photograph can be graded."""

from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Quality:
    """Brightness and contrast on a scale of 0 to 1, sharpness as the Laplacian's variance."""

    brightness: float
    contrast: float
    sharpness: float

    def to_dict(self) -> dict[str, float]:
        """Return the measures by name."""
        return asdict(self)


def measure_quality(cropped: np.ndarray) -> Quality:
    """Measure a cropped disc `(side, side, 3)` of uint8 on its green channel, where vessels show best."""
    green = cropped[..., 1].astype(np.float64) / 255
    return Quality(
        brightness=float(green.mean()),
        contrast=float(green.std()),
        sharpness=float(ndimage.laplace(green).var()),
    )
