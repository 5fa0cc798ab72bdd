import pytest

from qfundus.errors import AccountError
from qfundus.ingestion.account import check_account, describe_counts
from qfundus.ingestion.duplicates import mark_duplicates
from qfundus.ingestion.outcome import Outcome, count_objects, count_outcomes, has_news, to_table


def test_an_account_that_adds_up_passes():
    check_account(["a", "b"], ["b", "a"])


@pytest.mark.parametrize(
    ("landed", "outcomes", "message"),
    [
        (["a", "b"], ["a"], "1 lost, 0 unexpected"),
        (["a"], ["a", "a"], "0 lost, 1 unexpected"),
        (["a"], ["b"], "1 lost, 1"),
    ],
)
def test_a_difference_of_one_fails(landed, outcomes, message):
    with pytest.raises(AccountError, match=message):
        check_account(landed, outcomes)


def test_of_two_copies_one_is_curated():
    pair = [Outcome(source, "image", "curated", digest="d") for source in "ab"]
    assert [outcome.status for outcome in mark_duplicates(pair)] == ["curated", "duplicate"]


def test_counts_name_reasons_and_read_as_a_sentence():
    outcomes = [
        Outcome("a", "image", "curated", digest="d"),
        Outcome("b", "image", "quarantined", "no_pixels"),
        Outcome("c", "sheet", "read"),
        Outcome("c-1", "grade", "graded", part_of="c"),
    ]
    counts = count_outcomes(to_table(outcomes))
    assert counts["quarantined: no_pixels"] == 1
    assert count_objects(counts) == 3
    assert has_news(counts)
    assert describe_counts({"landed": 3, **counts}) == (
        "3 landed: 1 grades graded, 1 images curated, 1 images quarantined, 1 sheets read (1 no_pixels)."
    )


def test_a_night_of_nothing_is_no_news():
    assert not has_news(count_outcomes(to_table([])))
