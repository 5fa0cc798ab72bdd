"""Find text that is burned into the pixels, whatever the header says of it."""

import os
from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import zxingcpp
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_color_lut, apply_rescale, apply_voi, apply_windowing
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
_EVERY = 4  # pixel is looked at to find what is lit
_ONE_LOOK = 1500  # pixels of the longer side up to which the reduced image shows the smallest letters
_OVERLAP = 128  # pixels by which tiles overlap
_SHARP, _FEWEST_SHARP = 40, 12  # grey levels between neighbours, and how often: no letter has less
_MOST_VIEWS = 16
_SMOOTHED = 15  # pixels
_MOSTLY = 0.6  # of a box
_BLOCK, _BLACK = 16, 12  # pixels that a JPEG's blocks of colour are wide; grey levels
_LARGEST_LINE = 0.15  # of the picture
_THICKEST = 0.2  # of the shorter side: letters that fill half of a picture are a part of it


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, its ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Its pixels."""
        return (self.bottom - self.top) * (self.right - self.left)


def find_burned_in_text(source: BinaryIO | Path, black: dict[int, list[Box]] | None = None) -> dict[int, list[Box]]:
    """Return where text stands in the frames of a DICOM file; frames without text are left out.

    Of a barcode a reader says no more than that it is there, and bars that it cannot read may yet be read by another.

    What was made `black` before is not looked at again: on the disc it would look like a stroke itself.

    Raises:
        Discard: if the pixels cannot be decoded, or a line would be so large that a person should look, or where no
            text is left but a barcode.
    """
    boxes_of: dict[int, list[Box]] = {}
    with closing(_viewed(source)) as viewed:
        for number, views in enumerate(viewed):
            done = (black or {}).get(number, [])
            boxes = [
                box
                for view in views
                for box in find_text(_filled(view, done) if done else view)
                if not _is_covered(box, view, done)
            ]
            if any(box.area > _LARGEST_LINE * views[0][..., 0].size for box in boxes):
                raise Discard("burned_in_text", "What looks like text covers much of the picture or belongs to it.")
            if boxes:
                boxes_of[number] = boxes
            elif any(zxingcpp.read_barcodes(view) for view in views):
                raise Discard("burned_in_text", "The picture shows a barcode.")
    return boxes_of


def _is_covered(box: Box, view: np.ndarray, black: list[Box]) -> bool:
    """Return whether a box is mostly what was made black, and is: a box is wider than its letters, so none are left."""
    made = np.zeros((box.bottom - box.top, box.right - box.left), bool)
    for other in black:
        top, begin = max(0, other.top - box.top), max(0, other.left - box.left)
        made[top : max(0, other.bottom - box.top), begin : max(0, other.right - box.left)] = True
    dark = view[box.top : box.bottom, box.left : box.right].max(axis=2) < _BLACK
    return made.mean() > _MOSTLY and bool(dark[made].all())


def _filled(view: np.ndarray, boxes: list[Box]) -> np.ndarray:
    """Give what is black in boxes, and in the blocks of a JPEG that they touch, the colours next to it."""
    filled = view.copy()
    for box in boxes:
        top, left = box.top // _BLOCK * _BLOCK - 1, box.left // _BLOCK * _BLOCK - 1
        bottom, right = -(-box.bottom // _BLOCK) * _BLOCK + 1, -(-box.right // _BLOCK) * _BLOCK + 1
        part = filled[max(0, top) : bottom, max(0, left) : right]
        black = part.max(axis=2) < _BLACK
        if not black.all():
            nearest = ndimage.distance_transform_edt(black, return_distances=False, return_indices=True)
            spread = part[tuple(np.asarray(nearest))]
            # Smooth, as streaks would look like strokes.
            smooth = ndimage.uniform_filter(spread, _SMOOTHED, axes=(0, 1))
            part[black] = smooth[black]
    return filled


def _viewed(source: BinaryIO | Path) -> Generator[list[np.ndarray]]:
    """Yield for each frame the pictures that a viewer may show of it."""
    try:
        # Opened here: pydicom would look for the end of each link, which a file in memory does not have.
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as stream:
            head = dcmread(stream, stop_before_pixels=True)
            stream.seek(0)
            # pydicom decodes frame by frame from a file, but not from a deflated one.
            whole = dcmread(stream) if head.file_meta.TransferSyntaxUID.is_deflated else stream
            with closing(
                cast("Generator[np.ndarray]", iter_pixels(whole))
            ) as frames:  # it goes back in the stream, which must be open then
                yield from (list(_views(frame, head)) for frame in frames)
    except Exception as error:  # noqa: BLE001  (decoders raise what they like)
        why = "no decoder knows this way of compressing" if isinstance(error, NotImplementedError) else "it gave up"
        raise Discard("unreadable_pixels", f"The pixels cannot be decoded: {why} ({type(error).__name__}).") from None


def _views(frame: np.ndarray, head: Dataset) -> Iterator[np.ndarray]:
    if head.get("PhotometricInterpretation") == "PALETTE COLOR":
        yield to_rgb(apply_color_lut(frame, head))
        yield _ranked(frame)  # two indices may have one colour
        return
    yield to_rgb(frame)
    if frame.ndim == 3:
        return
    tables = list(_by_tables(frame, head))
    yield from tables
    # Where the header says nothing of the contrast, somebody may turn it up where most pixels are alike.
    if not tables and frame.dtype.itemsize > 1:
        yield _ranked(frame)


def _by_tables(frame: np.ndarray, head: Dataset) -> Iterator[np.ndarray]:
    """Yield a grey frame as each window and table of the header shows it; one that makes no sense shows nothing."""
    measured = apply_rescale(frame, head)
    if "ModalityLUTSequence" in head:
        yield _spread(measured, 0, 100)
    ways = [partial(apply_voi, measured, head, n) for n in range(len(head.get("VOILUTSequence") or ()))]
    for described in (head, *_of_frames(head)):
        windows = described.get("WindowCenter")
        several = 0 if windows is None else getattr(windows, "__len__", lambda: 1)()
        ways += [partial(apply_windowing, measured, described, n) for n in range(several)]
    for way in ways[:_MOST_VIEWS]:
        with suppress(Exception):  # nor can a viewer
            yield _spread(way(), 0, 100)


def _of_frames(head: Dataset) -> Iterator[Dataset]:
    """Yield the different windows that an enhanced image has for its frames, with what they need of its head."""
    known: set[str] = set()
    groups = (
        *(head.get("SharedFunctionalGroupsSequence") or ()),
        *(head.get("PerFrameFunctionalGroupsSequence") or ()),
    )
    for group in groups:
        for item in group.get("FrameVOILUTSequence") or ():
            view = f"{item.get('WindowCenter')} {item.get('WindowWidth')} {item.get('VOILUTFunction')}"
            if view in known or len(known) == _MOST_VIEWS:
                continue
            known.add(view)
            described = Dataset()
            for name in (
                "PhotometricInterpretation",
                "BitsStored",
                "PixelRepresentation",
                "RescaleSlope",
                "RescaleIntercept",
            ):
                if name in head:
                    setattr(described, name, head[name].value)
            described.update(item)
            yield described


def _ranked(frame: np.ndarray) -> np.ndarray:
    """Spread greys so that each shows as different from the next as it is common."""
    return _spread(np.searchsorted(np.sort(frame, axis=None), frame), 0, 100)


def to_rgb(frame: np.ndarray) -> np.ndarray:
    """Turn any frame into `(height, width, 3)` of uint8; greys are spread over what 99.8 % of the pixels use."""
    if frame.ndim == 3 and frame.dtype == np.uint8:
        return np.ascontiguousarray(frame[..., :3])
    return _spread(frame, 0.1, 99.9)


def _spread(frame: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    low, high = np.percentile(frame, (lowest, highest))
    grey = np.clip((frame.astype(np.float32) - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    return grey if grey.ndim == 3 else np.repeat(grey[..., None], 3, axis=2)


def find_text(image: np.ndarray) -> list[Box]:
    """Return where text stands in an image `(height, width, 3)` of uint8.

    The detector is PP-OCRv4's differentiable binarisation network (Liao et al., AAAI 2020, arXiv 1911.08947).
    """
    shown = _with_bright_dark(image)
    boxes = _lines(image, shown, 0, 0)
    # Reduced to what the detector takes, small letters of a large photograph are gone: its sharp parts are looked at
    # once more as they are.
    for top, left in _sharp_tiles(image):
        boxes += _lines(image, shown[top : top + _SIDE, left : left + _SIDE], top, left)
    return boxes


def _sharp_tiles(image: np.ndarray) -> Iterator[tuple[int, int]]:
    height, width = image.shape[:2]
    if max(height, width) <= _ONE_LOOK:
        return
    for top in range(0, max(1, height - _OVERLAP), _SIDE - _OVERLAP):
        for left in range(0, max(1, width - _OVERLAP), _SIDE - _OVERLAP):
            tile = image[top : top + _SIDE, left : left + _SIDE, 1]
            across, down = (np.abs(np.diff(tile.astype(np.int16), axis=axis)) > _SHARP for axis in (0, 1))
            if across.sum() + down.sum() >= _FEWEST_SHARP:
                yield top, left


def _lines(image: np.ndarray, shown: np.ndarray, top: int, left: int) -> list[Box]:
    """Return the lines of text in a part of an image, which is `shown` and begins at `top` and `left`."""
    probability = _text_probability(shown)
    scale = np.array(shown.shape[:2]) / probability.shape
    labels, _ = ndimage.label(probability > _IS_TEXT)  # pyright: ignore[reportGeneralTypeIssues]
    boxes: list[Box] = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        mask = labels[rows, columns] == number
        if min(mask.shape) < _THINNEST or probability[rows, columns][mask].mean() < _IS_LINE:
            continue
        if _thickness(mask) > _THICKEST * min(probability.shape):
            continue
        widened = _widened((rows, columns), _thickness(mask), scale, shown.shape[:2])
        box = Box(widened.top + top, widened.left + left, widened.bottom + top, widened.right + left)
        if _is_off_disc(image, box):
            boxes.append(_with_marks(box, image, _thickness(mask) * scale.max()))
        elif _elongation(mask) >= _LONG:
            boxes.append(box)
    return boxes


def _text_probability(shown: np.ndarray) -> np.ndarray:
    """Return for each pixel of an image, reduced, how probably it belongs to text."""
    height, width = shown.shape[:2]
    scale = min(_SIDE / max(height, width), _MOST_ENLARGED)
    size = [max(_STEP, round(side * scale / _STEP) * _STEP) for side in (width, height)]
    reduced = np.asarray(Image.fromarray(shown).resize((size[0], size[1]), Image.Resampling.BILINEAR))
    # A line that the edge cuts is none to the network; with black around it is one.
    framed = np.pad(reduced, ((_STEP, _STEP), (_STEP, _STEP), (0, 0)))
    batch = (framed[..., ::-1] / np.float32(127.5) - 1).transpose(2, 0, 1)[None]
    session = _detector()
    [answer] = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(batch)})
    return np.asarray(answer)[0, 0, _STEP:-_STEP, _STEP:-_STEP]


def _with_bright_dark(image: np.ndarray) -> np.ndarray:
    """Brighten what is dark: letters may be too faint for the eye there, until somebody turns the contrast up."""
    few = image[::_EVERY, ::_EVERY].max(axis=2)
    lit = few >= _DARK * float(few.max())
    # The glow around the fundus would look like a stroke.
    near = np.asarray(ndimage.maximum_filter(lit, size=max(3, int(_GLOW * min(few.shape)))), bool)
    near = near.repeat(_EVERY, axis=0).repeat(_EVERY, axis=1)[: image.shape[0], : image.shape[1]]
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
    """Return whether the pixels around a box are dark: there nothing but text is bright."""
    grown = image[max(0, box.top - 4) : box.bottom + 4, max(0, box.left - 4) : box.right + 4].mean(axis=2)
    border = np.concatenate((grown[0], grown[-1], grown[:, 0], grown[:, -1]))
    return float(np.median(border)) < _DARK * float(image.max())


def _with_marks(box: Box, image: np.ndarray, height: float) -> Box:
    """Grow a box around marks of a letter's size in it or next to it: the detector cuts first letters off."""
    near = int(height)
    top, left = max(0, box.top - near // 3), max(0, box.left - near)
    window = image[top : box.bottom + near // 3, left : box.right + near].max(axis=2)
    bright = window > _DARK * 2 * float(image.max())
    labels, _ = ndimage.label(bright, structure=np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    grown = [box.top, box.left, box.bottom, box.right]
    for rows, columns in ndimage.find_objects(labels):
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
        raise SetupError("The text detector is not installed: run `make setup`, or switch clean_pixel_data off.")
    network = Path(package.submodule_search_locations[0]) / "models" / "ch_PP-OCRv4_det_infer.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("QFUNDUS_TEXT_THREADS", "1"))
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
