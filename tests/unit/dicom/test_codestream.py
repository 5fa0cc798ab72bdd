import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qfundus.dicom.codestream import strip_jpeg, strip_jpeg2000
from qfundus.dicom.pixels import Shape, strip_rle
from qfundus.errors import Discard


def jpeg(**options):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


def decode(stream):
    return np.asarray(Image.open(io.BytesIO(stream)))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 4}, {"comment": b"Jane Doe"}])
def test_the_pixels_stay_and_the_margins_go(options):
    stream = jpeg(**options) + b"Jane Doe"
    stripped = strip_jpeg(stream)
    assert np.array_equal(decode(stripped), decode(stream))
    assert b"Jane Doe" not in stripped
    assert len(stripped) % 2 == 0


WORDS = (b"Jane Doe 47112233 " * 4)[:64]
UNNEEDED = {
    "a quantisation table that no component names": b"\xff\xdb\x00\x43\x03" + WORDS,
    "a quantisation table that is defined anew": b"\xff\xdb\x00\x43\x00" + WORDS,
    "a Huffman table that no scan names": b"\xff\xc4\x00\x2c\x13" + bytes([0] * 11 + [25] + [0] * 4) + WORDS[:25],
    "a restart interval with a tail": b"\xff\xdd\x00\x0c\0\0Jane Doe",
    "a JFIF head with words for numbers": b"\xff\xe0\x00\x10JFIF\0\1\2Jane Do",
    "an Adobe head with words for numbers": b"\xff\xee\x00\x0eAdobeJane D\1",
    **{
        f"the segment {marker:02X}": bytes((0xFF, marker)) + b"\x00\x0aJane Doe"
        for marker in (0x02, 0xBF, 0xC8, 0xDC, 0xDE, 0xDF, 0xF0, 0xF8, 0xFD, 0xFE)
    },
}


@pytest.mark.parametrize("segment", UNNEEDED.values(), ids=UNNEEDED)
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_segment_that_the_decoder_does_not_need_goes(segment, options):
    plain = jpeg(**options)
    stripped = strip_jpeg(plain[:2] + segment + plain[2:])
    assert np.array_equal(decode(stripped), decode(plain))
    assert b"Jane" not in stripped


def test_a_second_time_changes_nothing():
    once = strip_jpeg(jpeg())
    assert strip_jpeg(once) == once


@given(st.integers(2, 600))
def test_a_cut_stream_is_refused(length):
    with pytest.raises(Discard, match="truncated"):
        strip_jpeg(jpeg()[:length])


def test_something_else_is_no_jpeg():
    with pytest.raises(Discard, match="not a JPEG"):
        strip_jpeg(b"\x89PNG")


def jpeg2000(comment=b"Jane Doe"):
    import openjpeg

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = bytes(openjpeg.encode(pixels, photometric_interpretation=1, use_mct=False))
    segment = b"\xff\x64" + (len(comment) + 4).to_bytes(2, "big") + b"\0\1" + comment
    head = stream.index(b"\xff\x90")
    return stream[:head] + segment + stream[head:]


def test_jpeg_2000_loses_comments_and_margins_and_no_pixel():
    import openjpeg

    stream = jpeg2000() + b"Jane Doe"
    stripped = strip_jpeg2000(stream)
    assert b"Jane Doe" not in stripped
    assert np.array_equal(openjpeg.decode(stripped), openjpeg.decode(jpeg2000()))


@pytest.mark.parametrize("marker", [0x51, 0x52, 0x5C])
def test_a_jpeg_2000_segment_that_is_longer_than_it_says_is_refused(marker):
    stream = jpeg2000()
    at = stream.index(bytes((0xFF, marker)))
    length = int.from_bytes(stream[at + 2 : at + 4], "big")
    longer = stream[: at + 2] + (length + 8).to_bytes(2, "big") + stream[at + 4 : at + 2 + length] + b"Jane Doe"
    with pytest.raises(Discard, match="longer or shorter than it says"):
        strip_jpeg2000(longer + stream[at + 2 + length :])


def test_a_jpeg_2000_change_of_progression_that_is_none_is_refused():
    stream = jpeg2000()
    at = stream.index(b"\xff\x90")
    with pytest.raises(Discard, match="longer or shorter than it says"):
        strip_jpeg2000(stream[:at] + b"\xff\x5f\0\x09Ann Lee" + stream[at:])


def test_a_jp2_file_loses_its_boxes():
    codestream = jpeg2000()
    boxes = b"\0\0\0\x0cjP  \r\n\x87\n" + (16).to_bytes(4, "big") + b"xml Jane Doe" + b"\0\0\0\0jp2c"
    assert strip_jpeg2000(boxes + codestream) == strip_jpeg2000(codestream)


def test_jpeg_ls_keeps_its_scan_whole():
    import jpeg_ls

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    stream = bytes(jpeg_ls.encode_array(pixels))
    segment = b"\xff\xfe\0\x0aJane Doe"
    stripped = strip_jpeg(stream[:2] + segment + stream[2:] + b"Jane Doe", (64, 64))
    assert b"Jane Doe" not in stripped
    assert np.array_equal(jpeg_ls.decode(np.frombuffer(stripped, np.uint8)), pixels)


def test_a_frame_of_another_size_than_promised_is_refused():
    with pytest.raises(Discard, match="size"):
        strip_jpeg(jpeg(), (64, 63))


@pytest.mark.parametrize(("marker", "place"), [(b"\xff\xc0", 2), (b"\xff\xda", 2)])
def test_a_head_that_is_longer_than_its_components_is_cut(marker, place):
    plain = jpeg()
    start = plain.index(marker) + place
    length = int.from_bytes(plain[start : start + 2], "big")
    padded = (length + 8).to_bytes(2, "big") + plain[start + 2 : start + length] + b"Jane Doe"
    stripped = strip_jpeg(plain[:start] + padded + plain[start + length :])
    assert np.array_equal(decode(stripped), decode(plain))
    assert b"Jane" not in stripped


GREY = Shape(4, 4, 1, 1, 8, 8, 7, signed=False, photometric="MONOCHROME2")


@pytest.mark.parametrize("segment", [b"", b"\x7f", b"\x05ab", b"\xfd\x07"], ids=["empty", "no bytes", "cut", "short"])
def test_a_broken_rle_segment_is_refused(segment):
    with pytest.raises(Discard, match="RLE segment"):
        strip_rle(struct.pack("<16I", 1, 64, *[0] * 14) + segment, GREY)
