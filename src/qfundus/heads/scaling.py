"""Bring the embedding's values to one scale."""

import numpy as np

_SMALLEST_SHARE = 0.3


def fit_scaling(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the spread of each value, `(1280,)` each, from embeddings `(eyes, 1280)`.

    Values that hardly ever change would become huge on the eye that does change them: no spread counts as less than
    30 % of the average one.
    """
    mean, spread = embeddings.mean(axis=0), embeddings.std(axis=0)
    return mean, np.maximum(spread, _SMALLEST_SHARE * spread.mean())
