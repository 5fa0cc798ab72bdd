import pytest

from qfundus.security.keys import SiteKey
from qfundus.security.sealing import seal, unseal


def test_what_was_sealed_opens_again(key):
    assert unseal(key, seal(key, b"Jane Doe", "a"), "a") == b"Jane Doe"


def test_sealed_bytes_do_not_show_their_content(key):
    assert b"Jane Doe" not in seal(key, b"Jane Doe", "a")


@pytest.mark.parametrize("change", ["byte", "name", "key"])
def test_a_changed_renamed_or_foreign_object_does_not_open(key, change):
    sealed = bytearray(seal(key, b"Jane Doe", "a"))
    if change == "byte":
        sealed[-1] ^= 1
    opener = SiteKey(b"y" * 32) if change == "key" else key
    with pytest.raises(ValueError, match="changed, renamed"):
        unseal(opener, bytes(sealed), "b" if change == "name" else "a")


def test_something_else_is_no_sealed_object(key):
    with pytest.raises(ValueError, match="not a sealed object"):
        unseal(key, b"DICM", "a")
