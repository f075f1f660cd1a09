"""What one comparison is made of: shares, means over seeds, and how they are written."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm

from ulmfit_app.config import GENERAL
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.experiments.comparing import (
    AGAINST,
    Row,
    average_over_seeds,
    compare_rows,
    format_difference,
    format_error,
    format_tables,
    measure_difference,
    measure_share,
    start_from_general_text,
    state_finding,
)
from ulmfit_app.presets import TINY


def test_a_share_is_in_percent_of_the_texts_and_inside_its_interval():
    found = measure_share("error", np.array([1.0, 0.5, 0.0, 0.0]))
    assert (found["n"], found["error"]) == (4, 37.5)
    expected = [100 * bound for bound in accuracy_interval(1.5, 4)]
    assert [found["low"], found["high"]] == pytest.approx(expected)
    assert list(found) == ["n", "error", "low", "high"]


def test_a_text_of_several_seeds_counts_once_with_the_mean_of_them():
    seeds = [
        pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"], "right": [1, 0]}),
        pd.DataFrame({"text": ["b", "c"], "label": ["y", "x"], "right": [1, 1]}),
    ]
    table = average_over_seeds(seeds)
    assert table.to_dict("list") == {
        "text": ["a", "b", "c"],
        "label": ["x", "y", "x"],
        "right": [1.0, 0.5, 1.0],
    }


def test_equal_texts_of_one_seed_count_each():
    twice = pd.DataFrame({"text": ["a", "a"], "label": ["x", "x"], "right": [1, 0]})
    assert average_over_seeds([twice, twice])["right"].tolist() == [1.0, 0.0]


def test_the_p_value_of_shares_is_mcnemars_of_the_sum_of_the_differences():
    ours, other = np.array([1, 0.5, 1, 1, 0.5, 0]), np.array([0.5, 0.5, 0, 1, 1, 0])
    differences = ours - other
    statistic = differences.sum() / np.sqrt((differences**2).sum())
    found = measure_difference(ours, other)
    assert found["p_value"] == pytest.approx(2 * norm.sf(abs(statistic)))
    assert found["difference"] == pytest.approx(100 * differences.mean())
    assert found["difference_low"] < found["difference"] < found["difference_high"]
    turned = measure_difference(other, ours)
    assert turned["difference"] == -found["difference"]
    assert turned["p_value"] == found["p_value"]


def test_the_p_value_of_right_and_wrong_is_the_exact_one_of_the_texts_that_tell_them_apart():
    ours, other = np.array([1, 1, 1, 1, 0, 0, 1]), np.array([0, 0, 0, 1, 0, 1, 0])
    assert measure_difference(ours, other)["p_value"] == binomtest(4, 5).pvalue


@pytest.mark.parametrize(("of_other", "is_compared"), [({"imdb": 9.0}, True), ({}, False)])
def test_the_papers_order_is_told_where_it_has_two_figures(of_other, is_compared):
    rows = [Row("worse", of_other), Row("all of it", {"imdb": 5.0})]
    table = compare_rows("Table 7", rows, [np.zeros(30), np.ones(30)], "imdb")
    said = state_finding(table)
    assert said.startswith("Table 7: ULMFiT is better than 'worse' (+100.0 points")
    assert said.endswith("The paper's order holds.") == is_compared
    assert ("paper" in said) == is_compared


def test_two_models_with_the_same_shares_are_not_told_apart():
    shares = np.array([0.5, 0.5, 1.0])
    assert measure_difference(shares, shares)["p_value"] == 1.0
    assert list(measure_difference(shares, shares)) == list(AGAINST)


def test_rows_share_a_folder_where_they_differ_in_direction_alone():
    row = Row("a", lm="full + discr", classifier={"plan": "chain-thaw", "schedule": "cosine"})
    assert row.folder == "full-discr-chain-thaw-cosine"
    assert replace(row, name="b", direction="both").folder == row.folder
    assert replace(row, classifier={}).folder == "full-discr"


def test_a_start_from_general_text_takes_the_place_of_auto_alone():
    for given, expected in (("auto", GENERAL), ("none", "none"), ("folder", "folder")):
        settings = replace(TINY, lm=replace(TINY.lm, pretrained=given))
        found = start_from_general_text(settings)
        assert found == replace(settings, lm=replace(settings.lm, pretrained=expected))


def test_the_page_of_tables_has_a_line_a_row_with_the_papers_error_where_it_has_one():
    rows = [Row("worse", {"imdb": 9.0}), Row("other"), Row("all of it")]
    right = [np.array([0.0, 1.0] * 50), np.ones(100), np.array([1.0] * 90 + [0.0] * 10)]
    table = compare_rows("Table 7", rows, right, "imdb")
    page = format_tables(table, ["A finding.", "Another."])
    lines = [line for line in page.splitlines() if line.startswith("| Table 7")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [cell[1] for cell in cells] == ["worse", "other", "all of it"]
    assert [cell[3] for cell in cells] == ["9.00", "", ""]
    first, *_, last = table.itertuples()
    assert cells[0][2] == format_error(first) == f"50.0 ({first.low:.1f} to {first.high:.1f})"
    assert cells[0][4] == format_difference(first) and cells[-1][4] == ""
    assert format_difference(first).startswith("+40.0 (+")
    assert page.index("n = 100 texts") < page.index("A finding.\n") < page.index("Another.\n")
    assert np.isnan(last.difference)
