import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfundus.security.keys import (
    SiteKey,
    date_shift,
    pseudonymise_patient,
    pseudonymise_uid,
    split_fraction,
)


def test_a_patient_keeps_one_pseudonym_whatever_the_white_space(key):
    assert pseudonymise_patient(key, "MRN1", "A") == pseudonymise_patient(key, " MRN1 ", "A ")


def test_the_same_number_of_two_issuers_is_two_patients(key):
    assert pseudonymise_patient(key, "MRN1", "A") != pseudonymise_patient(key, "MRN1", "B")


def test_another_key_gives_another_pseudonym(key):
    assert pseudonymise_patient(SiteKey(b"x" * 32), "MRN1") != pseudonymise_patient(key, "MRN1")


def test_each_purpose_has_a_key_of_its_own(key):
    assert len({key.derive(p) for p in ("patient", "uid", "date", "source", "grader", "split", "seal")}) == 7


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        SiteKey(b"short")


def test_the_key_shows_in_no_representation(key):
    assert bytes(range(32)).hex() not in repr(key)
    assert "\\x01" not in repr(key)


@given(st.from_regex(r"[1-9][0-9]{0,9}(\.[0-9]{1,9}){1,5}", fullmatch=True))
def test_a_mapped_uid_is_valid_and_new(uid):
    mapped = pseudonymise_uid(SiteKey(bytes(range(32))), uid)
    assert mapped.startswith("2.25.")
    assert len(mapped) <= 64
    assert mapped != uid


def test_dates_move_into_the_past_by_one_to_730_days(key):
    shifts = {date_shift(key, f"P{n}") for n in range(500)}
    assert min(shifts) >= 1
    assert max(shifts) <= 730
    assert len(shifts) > 300


def test_patients_spread_evenly_over_the_splits(key):
    fractions = [split_fraction(key, f"P{n}") for n in range(4000)]
    assert 0.47 < sum(f < 0.5 for f in fractions) / 4000 < 0.53


@pytest.mark.parametrize("text", ["00" * 32, "0123456789abcdef" * 4, "ab" * 40])
def test_a_key_that_nobody_drew_at_random_is_refused(text):
    with pytest.raises(ValueError, match="at random"):
        SiteKey.from_hex(text)
