"""Find text that is burned into a photograph."""

import numpy as np
from scipy import ndimage

_STROKE = 9  # pixels; letters' strokes are thinner, the optic disc and exudates are wider
_CONTRAST = 70
_LETTERS_IN_A_ROW = 5


def has_burned_in_text(pixels: np.ndarray) -> bool:
    """Say whether an RGB photograph `(height, width, 3)` shows something like a line of text.

    Letters are thin, sharp, and stand in rows: bright and dark strokes are lifted by a top-hat transform and counted
    where five or more of like height share a line.
    """
    grey = pixels.astype(np.float32).mean(axis=2)
    bright = np.asarray(ndimage.white_tophat(grey, size=_STROKE)) > _CONTRAST
    dark = np.asarray(ndimage.black_tophat(grey, size=_STROKE)) > _CONTRAST
    return _has_row_of_letters(bright) or _has_row_of_letters(dark)


def _has_row_of_letters(strokes: np.ndarray) -> bool:
    labels, _ = ndimage.label(strokes, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    boxes = [box for box in ndimage.find_objects(labels) if _letter_sized(box, strokes.shape[0])]
    middles = np.array([(rows.start + rows.stop) / 2 for rows, _ in boxes])
    heights = np.array([rows.stop - rows.start for rows, _ in boxes])
    return any(
        np.count_nonzero(
            (np.abs(middles - middle) < height * 0.6) & (heights < height * 1.8) & (heights > height / 1.8)
        )
        >= _LETTERS_IN_A_ROW
        for middle, height in zip(middles, heights, strict=True)
    )


def _letter_sized(box: tuple[slice, slice], image_height: int) -> bool:
    height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
    return 5 <= height <= image_height / 8 and width <= height * 12
