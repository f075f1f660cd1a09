"""Accuracy over time: periods of the calendar, a trend as scipy has it, chance told as chance."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, chi2_contingency, linregress, pearsonr

from ulmfit_app.evaluation.independent import adjust_holm
from ulmfit_app.evaluation.over_time import FEWEST, MAX_PERIODS, accuracy_over_time


def texts(n: int, days: float, falls: float = 0.0, seed: int = 0) -> tuple[pd.Series, np.ndarray]:
    """When texts are from, and whether their answers are right, less often as time passes."""
    generator = np.random.default_rng(seed)
    after = generator.random(n) * days
    times = pd.Timestamp("2025-01-01") + pd.to_timedelta(after, unit="D").floor("min")
    return pd.Series(times, name="date"), generator.random(n) < 0.85 - falls * after / max(days, 1)


def test_the_trend_is_that_of_scipy_and_its_interval_whites():
    times, right = texts(700, 300, falls=0.2)
    trend = accuracy_over_time(times, right)["trend"]
    along = (times - times.min()) / (times.max() - times.min())
    line = linregress(along, right)
    assert trend["change"] == pytest.approx(line.slope)
    # The score test of a logistic regression is n times the squared correlation.
    r = pearsonr(along, right).statistic
    assert trend["p_value"] == pytest.approx(chi2.sf(700 * r**2, 1))
    design = np.c_[np.ones(700), along]
    rest = right - design @ [line.intercept, line.slope]
    inverse = np.linalg.inv(design.T @ design)
    spread = (inverse @ (design.T * rest**2) @ design @ inverse)[1, 1] * 700 / 698
    half = (trend["change_ci95"][1] - trend["change_ci95"][0]) / 2
    assert half == pytest.approx(1.959964 * spread**0.5)
    at_mean = line.intercept + line.slope * trend["mean_place"]
    assert trend["mean_accuracy"] == pytest.approx(at_mean)


def test_the_trend_is_cochrans_and_armitages_where_times_are_years():
    # 2 x k counts; the statistic by the formula of Agresti 2013, section 3.4.5.
    right, wrong = np.array([60, 55, 45]), np.array([10, 15, 25])
    years = np.repeat([2023, 2024, 2025], right + wrong)
    answers = np.concatenate(
        [np.repeat([True, False], pair) for pair in zip(right, wrong, strict=True)]
    )
    times = pd.Series(pd.to_datetime(years.astype(str), format="%Y"), name="year")
    found = accuracy_over_time(times, answers)
    n, p = right + wrong, right.sum() / (right + wrong).sum()
    scores = np.array([0, 365, 731])  # days: 2024 was a leap year
    off = scores - (n * scores).sum() / n.sum()
    z_squared = (right * off).sum() ** 2 / (p * (1 - p) * (n * off**2).sum())
    assert found["trend"]["p_value"] == pytest.approx(chi2.sf(z_squared, 1))
    expected = chi2_contingency(np.stack([right, wrong]), correction=False).pvalue
    assert found["difference"]["p_value"] == pytest.approx(expected)
    pair = found["trend"], found["difference"]
    adjusted = adjust_holm([one["p_value"] for one in pair])
    assert [one["p_adjusted"] for one in pair] == adjusted
    assert [one["period"] for one in found["periods"]] == ["2023", "2024", "2025"]
    assert "falls by 21.4 points along a straight line" in found["said"][0]


@pytest.mark.parametrize(
    ("n", "days", "unit", "first"),
    [
        (1_000, 0.5, "hour", "2025-01-01 00:00"),
        (1_000, 14, "day", "2025-01-01"),
        (1_000, 60, "week", "2024-12-30"),
        (1_000, 300, "month", "2025-01"),
        (1_000, 1_100, "quarter", "2025-01"),
        (1_000, 2_900, "year", "2025"),
    ],
)
def test_periods_are_of_the_finest_unit_that_has_few_and_full_ones(n, days, unit, first):
    found = accuracy_over_time(*texts(n, days))
    periods = found["periods"]
    assert found["unit"] == unit and periods[0]["period"].startswith(first)
    assert 3 <= len(periods) <= MAX_PERIODS
    assert min(one["n"] for one in periods) >= FEWEST
    assert sum(one["n"] for one in periods) == n


def test_a_months_numbers_are_those_of_its_texts():
    times, right = texts(1_500, 240)
    confidence = np.linspace(0.5, 1, 1_500)
    found = accuracy_over_time(times, right, confidence)
    json.dumps(found, allow_nan=False)
    table = pd.DataFrame({"right": right, "confidence": confidence})
    expected = table.groupby(times.dt.strftime("%Y-%m")).agg(["size", "mean"])
    for one in found["periods"]:
        row = expected.loc[one["period"]]
        assert (one["n"], one["accuracy"]) == (row["right", "size"], row["right", "mean"])
        assert one["confidence"] == pytest.approx(row["confidence", "mean"])
        assert one["accuracy_ci95"][0] < one["accuracy"] < one["accuracy_ci95"][1]


def test_a_first_or_last_month_of_few_texts_joins_the_next():
    times, right = texts(1_000, 150)
    few = pd.Series(pd.to_datetime(["2024-12-31", "2025-06-02"]), name="date")
    found = accuracy_over_time(pd.concat([few, times]), np.r_[True, False, right])
    names = [one["period"] for one in found["periods"]]
    assert names == ["2024-12 to 2025-01", "2025-02", "2025-03", "2025-04", "2025-05 to 2025-06"]


def test_where_no_unit_fits_periods_have_equally_many_texts_and_a_moment_is_not_divided():
    generator = np.random.default_rng(0)
    # Two seasons with years between them, and one day that has many texts.
    days = np.r_[generator.integers(0, 30, 200), generator.integers(900, 930, 100), [910] * 120]
    times = pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(days, unit="D"), name="date")
    found = accuracy_over_time(times, np.arange(420) % 7 > 0)
    assert found["unit"] is None and 2 <= len(found["periods"]) <= 420 // FEWEST
    ends = [(one["first"], one["last"]) for one in found["periods"]]
    assert all(last < first for (_, last), (first, _) in zip(ends, ends[1:], strict=False))
    assert sum(one["n"] for one in found["periods"]) == 420


def test_too_few_texts_are_not_divided_but_their_trend_is_told():
    times, right = texts(2 * FEWEST - 1, 300)
    found = accuracy_over_time(times, right)
    assert len(found["periods"]) == 1 and found["difference"]["p_value"] is None
    assert found["trend"]["change"] is not None
    assert "too few, or of too few moments, for two periods of 50 texts" in found["said"][1]


@pytest.mark.parametrize("days", [0, 300])
def test_of_one_moment_or_of_right_answers_alone_nothing_is_said_of_a_trend(days):
    times, right = texts(200, days)
    found = accuracy_over_time(times, right | (days > 0))
    json.dumps(found, allow_nan=False)
    assert found["trend"]["change"] is None and found["trend"]["p_value"] is None
    assert found["said"][0].startswith("Nothing can be said of a trend")


def test_texts_without_a_time_are_left_out_and_counted():
    times, right = texts(300, 300)
    times[:40], right[:40] = pd.NaT, False
    found = accuracy_over_time(times, right)
    assert (found["n"], found["n_without"]) == (260, 40)
    assert found["said"][-1] == "Left out, without a time: 40 of the tested texts."
    assert (
        found["trend"]["change"] == accuracy_over_time(times[40:], right[40:])["trend"]["change"]
    )
    nothing = accuracy_over_time(times[:40], right[:40])
    assert nothing["periods"] == [] and nothing["n"] == 0


def test_a_trend_or_a_difference_rings_by_chance_in_one_of_twenty_at_most():
    rang = 0
    for seed in range(40):
        found = accuracy_over_time(*texts(400, 200, seed=seed))
        p_values = found["trend"]["p_adjusted"], found["difference"]["p_adjusted"]
        rang += min(p_values) < 0.05
    assert rang < 7  # 2 are expected; 7 or more come once in 290 times


def test_what_falls_and_rises_again_is_no_trend_but_a_difference():
    times, right = texts(1_200, 240)
    middle = times.dt.month.isin([4, 5]).to_numpy()
    right[middle] &= np.arange(middle.sum()) % 3 > 0
    found = accuracy_over_time(times, right)
    assert found["said"][0].startswith("From 2025-01-01 ") and "no trend" in found["said"][0]
    assert found["said"][1].startswith("Periods differ beyond chance (p < 0.0001): ")
    assert "in 2025-05, " in found["said"][1] or "in 2025-04, " in found["said"][1]
