"""Find text that is burned into the pixels, whatever the header says of it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.pixels.utils import iter_pixels
from scipy import ndimage

from qfundus.dicom.jpeg_decoder import add_to_pydicom
from qfundus.errors import Discard, SetupError

if TYPE_CHECKING:
    import onnxruntime

add_to_pydicom()
_SIDE = 960  # pixels of the longer side as the detector sees it
_MOST_ENLARGED = 2  # times: in a smaller picture no text can be read
_STEP = 32  # the detector halves the picture five times
_IS_TEXT = 0.3  # probability from which a pixel belongs to text
_IS_LINE = 0.5  # mean probability of a whole line
_THINNEST = 3  # detector pixels
# Letters in a row are long; what the detector takes for text on a fundus (vessels crossing the optic disc) is not.
_LONG = 1.8
_DARK = 0.12  # share of the brightest value under which the surround of a fundus lies


_WIDENED = 1.25  # times a blob's thickness, on each side
_GLOW = 0.08  # of the shorter side, twice the width of the rim around what is lit
_BRIGHTENED = 4  # times
_EVERY = 4  # pixel is looked at to find what is lit; it divides _STEP


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, its ends excluded."""

    top: int
    left: int
    bottom: int
    right: int


def find_burned_in_text(source: BinaryIO | Path) -> dict[int, list[Box]]:
    """Return where text stands in the frames of a DICOM file; frames without text are left out.

    Raises:
        Discard: where the pixels cannot be decoded.
    """
    found: dict[int, list[Box]] = {}
    for number, frame in enumerate(_decoded(source)):
        if boxes := find_text(to_rgb(frame)):
            found[number] = boxes
    return found


def _decoded(source: BinaryIO | Path) -> Iterator[np.ndarray]:
    try:
        head = dcmread(source, stop_before_pixels=True)
        if not isinstance(source, Path):
            source.seek(0)
        # pydicom decodes frame by frame from a file, but not from a deflated one.
        yield from iter_pixels(dcmread(source) if head.file_meta.TransferSyntaxUID.is_deflated else source)
    except Exception as error:  # noqa: BLE001  (decoders raise what they like)
        raise Discard("unreadable_pixels", f"The decoder gave up ({type(error).__name__}).") from None


def to_rgb(frame: np.ndarray) -> np.ndarray:
    """Turn any frame into `(height, width, 3)` of uint8; greys are spread over what 99.8 % of the pixels use."""
    if frame.ndim == 3 and frame.dtype == np.uint8:
        return np.ascontiguousarray(frame[..., :3])
    low, high = np.percentile(frame, (0.1, 99.9))
    grey = np.clip((frame.astype(np.float32) - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)


def find_text(image: np.ndarray) -> list[Box]:
    """Return where text stands in an image `(height, width, 3)` of uint8.

    The detector is PP-OCRv4's differentiable binarisation network (Liao et al., AAAI 2020, arXiv 1911.08947).
    """
    probability = _text_probability(image)
    scale = np.array(image.shape[:2]) / probability.shape
    labels, _ = ndimage.label(probability > _IS_TEXT)  # pyright: ignore[reportGeneralTypeIssues]
    boxes: list[Box] = []
    bright = _bright_marks(image)
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        mask = labels[rows, columns] == number
        if min(mask.shape) < _THINNEST or probability[rows, columns][mask].mean() < _IS_LINE:
            continue
        box = _widened((rows, columns), _thickness(mask), scale, image.shape[:2])
        if _is_off_disc(image, box):
            boxes.append(_with_marks(box, bright, _thickness(mask) * scale.max()))
        elif _elongation(mask) >= _LONG:
            boxes.append(box)
    return boxes


def _text_probability(image: np.ndarray) -> np.ndarray:
    """Return for each pixel of the reduced image how probably it belongs to text."""
    height, width = image.shape[:2]
    scale = min(_SIDE / max(height, width), _MOST_ENLARGED)
    size = [max(_STEP, round(side * scale / _STEP) * _STEP) for side in (width, height)]
    reduced = np.asarray(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BILINEAR))
    batch = (_with_bright_dark(reduced)[..., ::-1] / np.float32(127.5) - 1).transpose(2, 0, 1)[None]
    session = _detector()
    [answer] = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(batch)})
    return np.asarray(answer)[0, 0]


def _with_bright_dark(image: np.ndarray) -> np.ndarray:
    """Brighten what is dark: letters may be too faint for the eye there, until somebody turns the contrast up."""
    few = image[::_EVERY, ::_EVERY].max(axis=2)
    lit = few >= _DARK * float(few.max())
    # The glow around the fundus would look like a stroke.
    near = np.asarray(ndimage.maximum_filter(lit, size=max(3, int(_GLOW * min(few.shape)))), bool)
    near = near.repeat(_EVERY, axis=0).repeat(_EVERY, axis=1)
    return np.where(near[..., None], image, np.minimum(image, 255 // _BRIGHTENED) * np.uint8(_BRIGHTENED))


def _elongation(mask: np.ndarray) -> float:
    """Return length by thickness of a blob, whichever way it lies."""
    small, large = _moments(mask)
    return float(np.sqrt(large / small))


def _thickness(mask: np.ndarray) -> float:
    return float(np.sqrt(12 * _moments(mask)[0]))


def _moments(mask: np.ndarray) -> np.ndarray:
    return np.linalg.eigvalsh(np.cov(np.stack(np.nonzero(mask))) + np.eye(2) / 12)


def _widened(where: tuple[slice, slice], thickness: float, scale: np.ndarray, shape: tuple[int, ...]) -> Box:
    # The network learnt lines shrunk to four tenths of their height: widened by all of its thickness, one is whole.
    margin = _WIDENED * thickness + 1
    top, left = (max(0, int((side.start - margin) * by)) for side, by in zip(where, scale, strict=True))
    bottom, right = (
        min(most, int(np.ceil((side.stop + margin) * by))) for side, by, most in zip(where, scale, shape, strict=True)
    )
    return Box(top, left, bottom, right)


def _is_off_disc(image: np.ndarray, box: Box) -> bool:
    """Say whether the pixels around a box are dark: there nothing but text is bright."""
    grown = image[max(0, box.top - 4) : box.bottom + 4, max(0, box.left - 4) : box.right + 4].mean(axis=2)
    border = np.concatenate((grown[0], grown[-1], grown[:, 0], grown[:, -1]))
    return float(np.median(border)) < _DARK * float(image.max())


def _bright_marks(image: np.ndarray) -> np.ndarray:
    """Number the bright connected marks of an image; 0 is the dark between them."""
    bright = image.max(axis=2) > _DARK * 2 * float(image.max())
    labels, _ = ndimage.label(bright, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    return labels


def _with_marks(box: Box, marks: np.ndarray, height: float) -> Box:
    """Grow a box around marks of a letter's size in it or next to it: the detector cuts first letters off."""
    near = int(height)
    top, left = max(0, box.top - near // 3), max(0, box.left - near)
    window = marks[top : box.bottom + near // 3, left : box.right + near]
    grown = [box.top, box.left, box.bottom, box.right]
    for number, found in enumerate(ndimage.find_objects(window), 1):
        if found is None or not np.any(window[found] == number):
            continue
        rows, columns = found
        if rows.stop - rows.start <= 2 * height and columns.stop - columns.start <= 4 * height:
            grown[:2] = [min(grown[0], top + rows.start), min(grown[1], left + columns.start)]
            grown[2:] = [max(grown[2], top + rows.stop), max(grown[3], left + columns.stop)]
    return Box(*grown)


@cache
def _detector() -> "onnxruntime.InferenceSession":
    import onnxruntime

    # Only the network is wanted of this package: the package itself would bring in OpenCV.
    package = find_spec("rapidocr_onnxruntime")
    if package is None or not package.submodule_search_locations:
        raise SetupError("The text detector is not installed: `make setup`, or switch clean_pixel_data off.")
    network = Path(package.submodule_search_locations[0]) / "models" / "ch_PP-OCRv4_det_infer.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("QFUNDUS_TEXT_THREADS", "1"))
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
