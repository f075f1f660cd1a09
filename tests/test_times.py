"""Dates and times of a column, and the refusal of what could be read in two ways."""

import pandas as pd
import pytest

from ulmfit_app.errors import DataError
from ulmfit_app.evaluation.times import read_times


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (["2026-01-31", "2025-12-01"], "2026-01-31"),
        (["2026-01-31T12:00:00+02:00", "2025-12-01T00:00:00Z"], "2026-01-31 10:00"),
        (["2026-01-31 12:00", "2025-12-01T01:02:03.004"], "2026-01-31 12:00"),
        (["2026/01/31", "2025/1/2"], "2026-01-31"),
        (["20260131", "20251201"], "2026-01-31"),
        (["2026", "1999"], "2026-01-01"),
        (["1769817600", "1"], None),
        (["1769817600", "1769817601.5"], "2026-01-31"),
        (["1769817600000", "1769817601000"], "2026-01-31"),
        (["31/01/2026", "01/02/2026"], "2026-01-31"),
        (["01/31/2026", "02/01/2026"], "2026-01-31"),
        (["Jan 31, 2026", "Feb 1, 2026"], "2026-01-31"),
        (["31 January 2026", "1 February 2026"], "2026-01-31"),
    ],
)
def test_times_are_read_in_one_way_of_writing(cells, first):
    if first is None:
        with pytest.raises(DataError, match="no date"):
            read_times(pd.Series(cells), "when")
    else:
        assert read_times(pd.Series(cells), "when")[0] == pd.Timestamp(first)


def test_a_cell_without_a_time_stays_without_one_and_the_index_is_kept():
    found = read_times(pd.Series(["", "2026-01-31", " "], index=[5, 7, 9]), "when")
    assert found.index.tolist() == [5, 7, 9]
    assert found.isna().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["01/02/2026", "03/04/2026"], "nobody can tell day from month: both orders fit"),
        (["31/01/2026", "01/31/2026"], "some have the day first and others the month"),
        (["31/01/2026", "32/01/2026"], "1 of 2 cells that are no date"),
        (["2026-01-31", "soon", "later"], "2 of 3 cells that are no date, first 'soon', 'later'"),
        (["2026-02-30", "2026-02-01"], "1 of 2 cells that are no date, first '2026-02-30'"),
        (["5 Jan 2026", "2026-01-31"], "more than one way of writing: '2026-01-31', '5 Jan 2026'"),
        (["red", "green"], "holds no dates: 'red', 'green'"),
        # pandas alone would take them for days of this month.
        (["3", "1"], "holds no dates: '3', '1'"),
        (["", ""], "has no date in any row"),
    ],
)
def test_what_is_no_time_or_can_be_read_in_two_ways_is_refused(cells, said):
    with pytest.raises(DataError, match="'when'") as refused:
        read_times(pd.Series(cells), "when")
    assert said in str(refused.value)
