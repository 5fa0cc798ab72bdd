import numpy as np
import pytest
from conftest import REAL_DATA
from PIL import Image

from qfundus.dicom.pixels import has_burned_in_text
from qfundus.hospital.wrap import burn_in


@pytest.fixture(scope="module")
def enlarged(photographs):
    return [
        np.asarray(Image.fromarray(i).resize((280, 280), Image.Resampling.BICUBIC)) for i in photographs.images[:60]
    ]


def test_a_name_burned_in_is_found(enlarged):
    assert all(has_burned_in_text(burn_in(image, "Jane Doe MRN12345678")) for image in enlarged)


def test_an_eye_without_text_is_let_through(enlarged):
    assert not any(has_burned_in_text(image) for image in enlarged)


@pytest.mark.skipif(not (REAL_DATA / "chasedb1").exists(), reason="CHASE_DB1, 28 full-size photographs, is not at hand")
def test_full_size_photographs_are_told_apart():
    images = [np.asarray(Image.open(file).convert("RGB")) for file in sorted((REAL_DATA / "chasedb1").glob("*.jpg"))]
    assert len(images) == 28
    assert not any(has_burned_in_text(image) for image in images)
    assert all(has_burned_in_text(burn_in(image, "Jane Doe MRN12345678")) for image in images)
