import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qfundus.dicom.jpeg import strip_jpeg
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


def test_a_second_time_changes_nothing():
    once = strip_jpeg(jpeg())
    assert strip_jpeg(once) == once


@given(st.integers(2, 600))
def test_a_cut_stream_is_refused(length):
    with pytest.raises(Discard, match="truncated"):
        strip_jpeg(jpeg()[:length])


def test_something_else_is_no_jpeg():
    with pytest.raises(Discard, match="no JPEG"):
        strip_jpeg(b"\x89PNG")
