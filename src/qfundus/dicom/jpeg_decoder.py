"""A decoder plugin for pydicom: the JPEG processes that Pillow does not know, lossless and 12-bit, by libjpeg-turbo.

It stands where GDCM could: GDCM crashes on damaged streams.
"""

from pydicom.pixels.decoders.base import (
    DecodeRunner,
    JPEGExtended12BitDecoder,
    JPEGLosslessDecoder,
    JPEGLosslessSV1Decoder,
)

DECODER_DEPENDENCIES: dict[str, tuple[str, ...]] = {}


def is_available(_uid: str) -> bool:
    """Say that the decoder can be used: its library is always installed."""
    return True


def decode_frame(stream: bytes, runner: DecodeRunner) -> bytearray:
    """Decode one frame; colours come pixel by pixel."""
    import imagecodecs

    pixels = imagecodecs.jpeg8_decode(stream)
    if pixels.ndim == 3:
        runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", pixels.dtype.itemsize * 8)
    return bytearray(pixels.tobytes())


def add_to_pydicom() -> None:
    """Make pydicom decode with this plugin; a second time changes nothing."""
    for decoder in (JPEGExtended12BitDecoder, JPEGLosslessDecoder, JPEGLosslessSV1Decoder):
        if "qfundus" not in decoder.available_plugins:
            decoder.add_plugin("qfundus", ("qfundus.dicom.jpeg_decoder", "decode_frame"))
