from pathlib import Path
from typing import get_args

import pytest

from qfundus.cli import explain
from qfundus.errors import REMEDIES, Discard, ReasonCode
from qfundus.ingestion.isolation import Isolation


def _refuse():
    raise Discard("truncated", "Its end is missing.")


def test_a_discard_travels_between_processes():
    with Isolation(1, int) as isolation, pytest.raises(Discard) as refused:
        isolation.run(_refuse)
    assert (refused.value.reason, refused.value.detail) == ("truncated", "Its end is missing.")


def test_every_reason_has_a_remedy():
    assert set(REMEDIES) == set(get_args(ReasonCode))


def test_a_disk_that_is_full_is_said_to_be_and_not_traced_back():
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left") as refused:
        full.write(b"1")
    assert "free some space" in explain(refused.value)
