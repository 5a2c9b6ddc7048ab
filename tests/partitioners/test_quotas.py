import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from partitioners.base import check_ratios
from partitioners.quotas import quotas, round_table


def test_largest_remainder_with_ties_to_the_lowest_rank() -> None:
    shares = check_ratios([1, 1, 1, 1, 2, 2, 4, 4])

    assert quotas([5000], shares)[0].tolist() == [313, 313, 312, 312, 625, 625, 1250, 1250]


def test_what_one_class_owes_is_paid_by_the_next() -> None:
    table = quotas([5000, 5000, 3], check_ratios([1, 1, 1, 1, 2, 2, 4, 4]))

    assert table[1].tolist() == [312, 312, 313, 313, 625, 625, 1250, 1250]
    assert table[2].tolist() == [0, 0, 0, 0, 1, 0, 1, 1]


def test_equal_fractions_count_as_equal_in_spite_of_rounding() -> None:
    shares = check_ratios([0.1] * 10)

    assert quotas([13], shares)[0].tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    assert (quotas([30], shares) == 3).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=24),
)
def test_entries_and_totals_stay_within_one_of_their_share(counts: list[int], ratios: list[float]) -> None:
    shares = check_ratios(ratios)

    table = quotas(counts, shares)

    assert (table >= 0).all()
    assert table.sum(axis=1).tolist() == counts
    assert np.abs(table - np.outer(counts, shares)).max() < 1
    assert np.abs(table.sum(axis=0) - np.sum(counts) * shares).max() < 1


def test_totals_that_the_row_by_row_rule_leaves_off_by_one_are_repaired() -> None:
    """Each row is shared by those not served before, so that the last two would be owed 1/8 + ... + 1/3 = 1.22."""
    table = np.zeros((6, 8))
    for row in range(6):
        table[row, row:] = 1 / (8 - row)

    rounded = round_table(table)

    assert (rounded.sum(axis=1) == 1).all()
    assert (rounded <= np.ceil(table)).all()
    assert np.abs((rounded - table).sum(axis=0)).max() < 1
    assert np.abs((round_table(table[:, ::-1]) - table[:, ::-1]).sum(axis=0)).max() < 1
