from typing import get_args

import pytest

from qfundus.errors import REMEDIES, Discard, ReasonCode
from qfundus.isolation import Isolation


def _refuse():
    raise Discard("truncated", "Its end is missing.")


def test_a_discard_travels_between_processes():
    with Isolation(1, int) as isolation, pytest.raises(Discard) as refused:
        isolation.run(_refuse)
    assert (refused.value.reason, refused.value.detail) == ("truncated", "Its end is missing.")


def test_every_reason_has_a_remedy():
    assert set(REMEDIES) == set(get_args(ReasonCode))
