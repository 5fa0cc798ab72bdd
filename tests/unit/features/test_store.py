from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from qfundus.features.store import part_name, part_time, plan_chunks

START = datetime(2026, 1, 1, tzinfo=UTC)
moments = st.lists(st.integers(0, 400 * 24 * 3600).map(lambda s: START + timedelta(seconds=s)), max_size=40)


@given(moments, st.integers(0, 400), st.integers(1, 72))
def test_every_new_row_is_loaded_once_in_short_chunks(times, watermark_day, hours):
    watermark, until, longest = (
        START + timedelta(days=watermark_day),
        START + timedelta(days=400),
        timedelta(hours=hours),
    )
    chunks = plan_chunks(watermark, until, times, longest)
    for time in times:
        inside = [chunk for chunk in chunks if chunk.start < time <= chunk.end]
        assert len(inside) == (1 if watermark < time <= until else 0)
    assert all(chunk.end - chunk.start <= longest for chunk in chunks)
    assert all(before.end <= after.start for before, after in pairwise(chunks))
    assert all(any(chunk.start < time <= chunk.end for time in times) for chunk in chunks)


def test_a_part_tells_when_it_became_known():
    moment = datetime(2026, 7, 1, 2, 3, 4, tzinfo=UTC)
    assert part_time("eye_grade/" + part_name("manual__x", moment)) == moment
