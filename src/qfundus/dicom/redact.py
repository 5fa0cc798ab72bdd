"""Black out rectangles of the pixels; all others stay as they are, bit by bit where the compression allows it."""

import io
import shutil
import struct
import tempfile
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

import jpeglib
import numpy as np
from pydicom import dcmread
from pydicom.pixels.encoders.base import get_encoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from qfundus.dicom.burned_in import Box
from qfundus.dicom.elements import PIXEL_DATA, DicomFile, Element, parse_file
from qfundus.dicom.encoding import DEFLATED, Buffer, is_encapsulated
from qfundus.dicom.pixels import Shape, frames, read_shape, stripper
from qfundus.errors import Discard
from qfundus.scratch import file_in_memory

_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_BLACK_LUMINANCE = -1024  # the DC coefficient of black before quantisation, 8 x -128 (ITU-T T.81 A.3.1)
# What a frame of each syntax is encoded with anew; the near-lossless and lossy ones allow lossless frames as well.
_LOSSLESS = {
    "1.2.840.10008.1.2.5": RLELossless,
    "1.2.840.10008.1.2.4.80": JPEGLSLossless,
    "1.2.840.10008.1.2.4.81": JPEGLSLossless,
    "1.2.840.10008.1.2.4.90": JPEG2000Lossless,
    "1.2.840.10008.1.2.4.91": JPEG2000Lossless,
}


def black_out(path: Path, boxes_of: dict[int, list[Box]]) -> None:
    """Make the boxes of a de-identified file black, in place; only frames with boxes are touched.

    JPEG baseline keeps its coefficients elsewhere; a frame of RLE, JPEG-LS or JPEG 2000 is encoded anew without loss.
    Where a syntax cannot be written, the object becomes uncompressed. Half written it is left where this fails.
    """
    with tempfile.TemporaryFile() as draft:  # it has no name: even a killed process leaves nothing of it
        with path.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
            file = parse_file(data)
            element = file.find(PIXEL_DATA)
            if element is None:
                raise Discard("burned_in_text", "The text is in floating-point pixels, which cannot be blacked out.")
            for part in _rewritten(file, element, boxes_of, path):
                draft.write(part)
                del part
            del file, element
        draft.seek(0)
        with path.open("wb") as out:
            shutil.copyfileobj(draft, out)


def _rewritten(file: DicomFile, element: Element, boxes_of: dict[int, list[Box]], path: Path) -> Iterator[Buffer]:
    shape = read_shape(file)
    if file.transfer_syntax == _JPEG_BASELINE or file.transfer_syntax in _LOSSLESS:
        return _encapsulated(file, element, shape, boxes_of, path)
    subsampled = shape.photometric == "YBR_FULL_422"
    if is_encapsulated(file.transfer_syntax) or file.transfer_syntax == DEFLATED or subsampled or shape.allocated == 1:
        return iter((_native(path, boxes_of),))
    return _patched(file, element, shape, boxes_of, path)


def _patched(
    file: DicomFile, element: Element, shape: Shape, boxes_of: dict[int, list[Box]], path: Path
) -> Iterator[Buffer]:
    darkest = _darkest(path, shape.photometric)
    size = shape.rows * shape.columns * shape.samples * shape.allocated // 8
    planar = shape.samples > 1 and _planar(file)
    order = (shape.samples, shape.rows, shape.columns) if planar else (shape.rows, shape.columns, shape.samples)
    dtype = f"{file.syntax.order}{'i' if shape.signed else 'u'}{shape.allocated // 8}"
    yield file.data[: element.start]
    for number in range(shape.frames):
        start = element.start + number * size
        frame = file.data[start : start + size]
        if number in boxes_of:
            pixels = np.frombuffer(frame, dtype).reshape(order).copy()
            _blacken(pixels.transpose(1, 2, 0) if planar else pixels, boxes_of[number], shape.photometric, darkest)
            frame = pixels.tobytes()
        yield frame
    yield file.data[element.start + shape.frames * size :]


def _planar(file: DicomFile) -> bool:
    element = file.find(0x00280006)
    return element is not None and struct.unpack(f"{file.syntax.order}H", file.value(element))[0] == 1


def _darkest(path: Path, photometric: str) -> int:
    """Return the index of a palette's darkest colour, 0 without a palette."""
    if photometric != "PALETTE COLOR":
        return 0
    dataset = dcmread(path, stop_before_pixels=True)
    entries, first, _ = dataset.RedPaletteColorLookupTableDescriptor
    indices = np.arange(first, first + (entries or 1 << 16))
    colours = apply_color_lut(indices[None].astype(np.uint16), dataset)
    return int(indices[colours[0].astype(np.int64).sum(axis=1).argmin()])


def _blacken(frame: np.ndarray, boxes: list[Box], photometric: str, darkest: int) -> None:
    """Write black into `(rows, columns, samples)` in place."""
    black: object = darkest
    if photometric.startswith("MONOCHROME"):
        black = frame.max() if photometric == "MONOCHROME1" else frame.min()
    elif photometric in {"YBR_FULL", "YBR_FULL_422"}:
        black = np.array([0, 128, 128])
    for box in boxes:
        frame[box.top : box.bottom, box.left : box.right] = black


def _encapsulated(
    file: DicomFile, element: Element, shape: Shape, boxes_of: dict[int, list[Box]], path: Path
) -> Iterator[Buffer]:
    yield file.data[: element.start]
    yield struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    for number, frame in enumerate(frames(file, element, shape)):
        touched = frame
        if number in boxes_of and file.transfer_syntax == _JPEG_BASELINE:
            touched = black_out_jpeg(frame, boxes_of[number])
        elif number in boxes_of:
            touched = _encoded_anew(path, number, boxes_of[number], file.transfer_syntax, shape)
        if number in boxes_of:  # encoders like to sign their work
            touched = stripper(file.transfer_syntax, shape)(touched)
        padding = len(touched) % 2
        yield struct.pack("<HHI", 0xFFFE, 0xE000, len(touched) + padding)
        yield touched + b"\0" * padding
    yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _encoded_anew(path: Path, number: int, boxes: list[Box], transfer_syntax: str, shape: Shape) -> bytes:
    with path.open("rb") as stream:
        pixels = np.array(pixel_array(stream, index=number, raw=True))
    _blacken(
        pixels if pixels.ndim == 3 else pixels[..., None], boxes, shape.photometric, _darkest(path, shape.photometric)
    )
    return get_encoder(_LOSSLESS[transfer_syntax]).encode(
        pixels,
        rows=shape.rows,
        columns=shape.columns,
        samples_per_pixel=shape.samples,
        number_of_frames=1,
        bits_allocated=shape.allocated,
        bits_stored=shape.stored,
        pixel_representation=int(shape.signed),
        # The lossless encoder knows the reversible colour transform only; the codestream says which one it used.
        photometric_interpretation=shape.photometric.replace("YBR_ICT", "YBR_RCT"),
        planar_configuration=0 if shape.samples > 1 else None,
    )


def black_out_jpeg(stream: bytes, boxes: list[Box]) -> bytes:
    """Set the blocks under the boxes of a baseline JPEG to black; every other coefficient stays as it was."""
    with file_in_memory() as file:
        file.write_bytes(stream)
        jpeg = jpeglib.read_dct(str(file))
        planes = [plane for plane in (jpeg.Y, jpeg.Cb, jpeg.Cr) if plane is not None]  # pyright: ignore[reportUnnecessaryComparison]  (grey has none)
        for number, plane in enumerate(planes):
            steps = jpeg.get_component_qt(number)
            down, across = 8 * planes[0].shape[0] / plane.shape[0], 8 * planes[0].shape[1] / plane.shape[1]
            for box in boxes:
                blocks = plane[
                    int(box.top // down) : int(-(-box.bottom // down)),
                    int(box.left // across) : int(-(-box.right // across)),
                ]
                blocks[:] = 0
                if number == 0 or _is_rgb(jpeg):
                    blocks[..., 0, 0] = round(_BLACK_LUMINANCE / steps[0, 0])
        jpeg.write_dct(str(file))
        return file.read_bytes()


def _is_rgb(jpeg: jpeglib.DCTJPEG) -> bool:
    # By name: jpeglib's colour spaces all count as equal.
    return str(jpeg.jpeg_color_space) == "JCS_RGB"


def _native(path: Path, boxes_of: dict[int, list[Box]]) -> bytes:
    """Return the file uncompressed."""
    dataset = dcmread(path)
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        dataset.decompress()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pixels = np.array(pixel_array(dataset, raw=True))
    if dataset.PhotometricInterpretation == "YBR_FULL_422":  # decoded, each pixel has its own chroma
        dataset.PhotometricInterpretation = "YBR_FULL"
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
    stacked = pixels.reshape(-1, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    darkest = _darkest(path, dataset.PhotometricInterpretation)
    for number, boxes in boxes_of.items():
        _blacken(stacked[number], boxes, dataset.PhotometricInterpretation, darkest)
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
