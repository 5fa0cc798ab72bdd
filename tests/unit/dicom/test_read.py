import io
from contextlib import suppress

import pytest
from conftest import make_eye
from faults import FAULTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from poison import MARK, poison

from qfundus.dicom.deidentify import deidentify
from qfundus.dicom.read import read_eye, read_pixels
from qfundus.errors import REMEDIES, Discard
from qfundus.hospital.wrap import to_bytes


@pytest.mark.parametrize("reason", [r for r in FAULTS if r not in {"no_fundus_disc", "unreadable_header"}])
def test_a_bad_file_is_refused_with_its_reason(photographs, reason):
    data = FAULTS[reason](make_eye(photographs))
    with pytest.raises(Discard) as refused:
        read_pixels(read_eye(data))
    assert refused.value.reason == reason
    assert REMEDIES[reason] in str(refused.value)


@pytest.mark.parametrize("reason", FAULTS)
def test_no_message_quotes_the_file(photographs, reason):
    eye = make_eye(photographs)
    try:
        read_pixels(read_eye(FAULTS[reason](make_eye(photographs))))
        message = ""
    except Discard as refused:
        message = str(refused)
    assert str(eye.PatientID) not in message
    assert eye.PatientName.family_name not in message


def test_reading_a_poisoned_study_warns_and_logs_nothing(photographs, policy, key, caplog, recwarn, capfd):
    data = poison(make_eye(photographs))
    read_eye(data)
    deidentify(data, policy, key).to_bytes()
    printed = caplog.text + "".join(str(warning.message) for warning in recwarn) + "".join(capfd.readouterr())
    assert MARK not in printed


def test_a_good_file_is_read(wrapped):
    assert read_pixels(read_eye(to_bytes(wrapped))).shape == (160, 160, 3)


@pytest.mark.parametrize("cut", [200, 1000, -3000])
def test_a_file_cut_anywhere_is_refused(wrapped, cut):
    with pytest.raises(Discard):
        read_pixels(read_eye(to_bytes(wrapped)[:cut]))


@pytest.mark.slow
@given(st.integers(132, 3000), st.binary(min_size=1, max_size=12))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(photographs, place, damage):
    data = bytearray(to_bytes(make_eye(photographs)))
    data[place : place + len(damage)] = damage
    with suppress(Discard):
        read_pixels(read_eye(bytes(data)))


def test_random_bytes_are_no_dicom():
    with pytest.raises(Discard, match="not_dicom"):
        read_eye(io.BytesIO(b"\0" * 4000).getvalue())
