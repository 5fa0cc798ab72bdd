"""Damaged and forged files: refused with a reason, in bounded time and memory, and no word of theirs is repeated."""

import os
import random
import resource
import time
from pathlib import Path

import pytest
from conftest import make_eye
from leaky_objects import LEAKS
from poison import MARK, poison
from pydicom.data import get_testdata_file

from qfundus.dicom.deidentify import deidentify
from qfundus.errors import REMEDIES, Discard
from qfundus.hospital.wrap import to_bytes

# A hundred thousand take five minutes: `QFUNDUS_FUZZ=100000 make fuzz`.
MUTATIONS = int(os.environ.get("QFUNDUS_FUZZ", "3000"))
SHIPPED = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm", "priv_SQ.dcm")
TRICKY = (
    b"\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\xdd\xe0",
    b"\0\0\0\0",
    b"SQ",
    b"UN",
    b"\xff\xd9",
    b"\xff\xd8",
)


@pytest.fixture(scope="module")
def seeds(photographs):
    files = [Path(str(get_testdata_file(name))).read_bytes() for name in SHIPPED]
    poisoned = [poison(make_eye(photographs, number), number) for number in range(2)]
    return [*files, *poisoned, *(plant(make_eye(photographs)) for plant in LEAKS.values())]


def mutate(data, rng):
    """Change, cut, repeat or insert a few bytes, mostly in the header."""
    mutated = bytearray(data)
    for _ in range(rng.randrange(1, 6)):
        place = rng.randrange(min(len(mutated), 4000)) if rng.random() < 0.8 else rng.randrange(len(mutated))
        match rng.randrange(5):
            case 0:
                mutated[place] = rng.randrange(256)
            case 1:
                trick = rng.choice(TRICKY)
                mutated[place : place + len(trick)] = trick
            case 2:
                del mutated[place : place + rng.randrange(1, 40)]
            case 3:
                mutated[place:place] = mutated[place : place + rng.randrange(1, 60)]
            case _:
                del mutated[max(place, 200) :]
        if len(mutated) < 8:
            return bytes(data[:8])
    return bytes(mutated)


def test_no_mutation_crashes_hangs_or_is_quoted(seeds, policy, key):
    rng = random.Random(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = []
    for number in range(MUTATIONS):
        data = mutate(rng.choice(seeds), rng)
        started = time.thread_time()  # not the process: other tests leave threads behind
        try:
            deidentify(data, policy, key).to_bytes()
        except Discard as why:
            refused.append(why)
        assert time.thread_time() - started < 3, number
    assert {why.reason for why in refused} <= set(REMEDIES)
    assert not any(MARK in str(why) for why in refused)
    assert MUTATIONS * 0.1 < len(refused) < MUTATIONS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_four_gigabytes_declared_are_not_believed(photographs, policy, key):
    data = bytearray(to_bytes(make_eye(photographs)))
    place = data.index(b"\x08\x00\x18\x22SQ") if b"\x08\x00\x18\x22SQ" in data else data.index(b"\x08\x00\x18\x22")
    data[place + 8 : place + 12] = b"\xfe\xff\xff\xff"
    started = time.process_time()
    with pytest.raises(Discard, match="truncated"):
        deidentify(bytes(data), policy, key)
    assert time.process_time() - started < 0.5


def test_a_frame_that_claims_to_be_enormous_is_refused(photographs, policy, key):
    eye = make_eye(photographs)
    eye.decompress()
    eye.Rows = eye.Columns = 65535
    with pytest.raises(Discard, match="too_large"):
        deidentify(to_bytes(eye), policy, key).to_bytes()


def test_a_million_elements_are_refused(photographs, policy, key):
    data = to_bytes(make_eye(photographs))
    place = data.index(b"\x10\x00\x10\x00PN")
    flood = b"\x09\x00\x10\x00LO\0\0" * 1_000_000
    with pytest.raises(Discard, match="elements"):
        deidentify(data[:place] + flood + data[place:], policy, key)
