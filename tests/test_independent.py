"""Shares and means of two samples of different texts, against published and other values."""

import math

import numpy as np
import pytest
from scipy.stats import chi2_contingency, fisher_exact, ttest_ind

from ulmfit_app.evaluation.independent import (
    adjust_holm,
    means_interval,
    same_shares,
    shares_interval,
    smallest_noticed,
)

# Newcombe 1998, Stat. Med. 17, table II, method 10, examples (a) to (h), four decimals; then two
# of statsmodels 0.15, confint_proportions_2indep(method="newcomb", compare="diff").
PUBLISHED = {
    (56, 70, 48, 80): (0.0524, 0.3339),
    (9, 10, 3, 10): (0.1705, 0.8090),
    (6, 7, 2, 7): (0.0582, 0.8062),
    (5, 56, 0, 29): (-0.0381, 0.1926),
    (0, 10, 0, 20): (-0.1611, 0.2775),
    (0, 10, 0, 10): (-0.2775, 0.2775),
    (10, 10, 0, 20): (0.6791, 1.0),
    (10, 10, 0, 10): (0.6075, 1.0),
    (4808, 10_000, 531, 1_000): (-0.082471, -0.017698),
}


@pytest.mark.parametrize("counts", PUBLISHED)
def test_a_difference_of_shares_has_the_published_interval(counts):
    assert shares_interval(*counts) == pytest.approx(PUBLISHED[counts], abs=6e-5)


def test_the_two_directions_of_a_difference_mirror_each_other():
    low, high = shares_interval(5, 56, 1, 29)
    assert shares_interval(1, 29, 5, 56) == pytest.approx((-high, -low))


@pytest.mark.parametrize("counts", [(1, 0, 1, 2), (3, 2, 1, 2), (1, 2, 1, 0)])
def test_shares_of_no_texts_have_no_interval(counts):
    with pytest.raises(ValueError, match="expected 0 <= correct <= n and n >= 1"):
        shares_interval(*counts)


def test_a_difference_of_means_has_scipys_interval():
    generator = np.random.default_rng(0)
    values, other = generator.beta(8, 1, 40), generator.beta(3, 1, 7)
    expected = ttest_ind(values, other, equal_var=False).confidence_interval(0.95)
    assert means_interval(values, other) == pytest.approx((expected.low, expected.high))


def test_means_of_one_value_have_no_interval_and_equal_values_have_no_width():
    assert means_interval(np.array([0.5]), np.array([0.1, 0.2])) is None
    assert means_interval(np.array([0.5, 0.5]), np.array([0.25, 0.25])) == (0.25, 0.25)


def test_large_counts_have_pearsons_p_value():
    counts = np.array([[300, 500, 200, 0], [40, 45, 35, 0]])
    expected = chi2_contingency(counts[:, :3], correction=False).pvalue
    assert same_shares(counts) == pytest.approx(expected)
    assert 1e-4 < expected < 0.2
    counts = counts[:, :2]
    expected = chi2_contingency(counts, correction=False).pvalue
    assert same_shares(counts) == pytest.approx(expected), "nor is one of two classes corrected"


def test_small_counts_of_two_classes_have_fishers_p_value():
    counts = np.array([[3, 57], [4, 8]])
    assert same_shares(counts) == pytest.approx(fisher_exact(counts).pvalue)
    assert fisher_exact(counts).pvalue > 2 * chi2_contingency(counts, correction=False).pvalue


def exact_p_value(counts: np.ndarray) -> float:
    """Of 2 x 3 tables with the same sums, the share whose chi-square is as large, by their
    hypergeometric chances."""
    n, m = counts.sum(axis=1)
    classes = counts.sum(axis=0)
    expected = np.outer([n, m], classes) / (n + m)

    def statistic(first: list[int]) -> float:
        table = np.array([first, classes - first])
        return ((table - expected) ** 2 / expected).sum()

    observed, total = statistic(counts[0]), 0.0
    for a in range(classes[0] + 1):
        for b in range(classes[1] + 1):
            first = [a, b, n - a - b]
            if 0 <= first[2] <= classes[2] and statistic(first) >= observed - 1e-9:
                total += math.prod(map(math.comb, classes.tolist(), map(int, first)))
    return total / math.comb(int(n + m), int(n))


def test_small_counts_of_more_classes_have_the_exact_p_value_but_for_what_drawing_adds():
    counts = np.array([[9, 3, 1], [2, 4, 4]])
    expected = exact_p_value(counts)
    assert 0.01 < expected < 0.2
    assert same_shares(counts) == pytest.approx(expected, abs=0.008)  # 4 standard errors
    assert same_shares(counts) == same_shares(counts), "drawn from a fixed seed"
    assert same_shares(np.array([[30, 0, 0], [0, 30, 5]])) == 1e-4, "never 0"


@pytest.mark.parametrize("counts", [[[5, 0], [7, 0]], [[5, 3], [0, 0]], [[4, 6], [8, 12]]])
def test_nothing_to_tell_apart_has_the_p_value_one(counts):
    assert same_shares(np.array(counts)) == pytest.approx(1)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.06, 0.03, 0.01]])
def test_at_most_one_in_twenty_pairs_of_samples_of_the_same_shares_is_told_apart(shares):
    generator = np.random.default_rng(1)
    n = 300 if len(shares) == 2 else 80
    pairs = [
        np.array([generator.multinomial(n, shares), generator.multinomial(40, shares)])
        for _ in range(200)
    ]
    assert 0.005 < np.mean([same_shares(pair) < 0.05 for pair in pairs]) < 0.09


def test_several_questions_have_holms_p_values():
    # statsmodels 0.15, multipletests(method="holm")
    found = adjust_holm([0.001, 0.2, 0.013, 0.04, 0.013, 0.9])
    assert found == pytest.approx([0.006, 0.4, 0.065, 0.12, 0.065, 0.9])
    assert adjust_holm([]) == []
    assert adjust_holm([0.7, 0.8]) == [1, 1]


def test_the_difference_that_should_be_noticed_is_noticed_four_times_in_five():
    share, n, m = 0.3, 900, 400
    difference = smallest_noticed(share, n, m)
    generator = np.random.default_rng(0)
    first = generator.binomial(n, share + difference * m / (n + m), 1_000)
    second = generator.binomial(m, share - difference * n / (n + m), 1_000)
    noticed = [
        same_shares(np.array([[a, n - a], [b, m - b]])) < 0.05
        for a, b in zip(first, second, strict=True)
    ]
    assert np.mean(noticed) == pytest.approx(0.8, abs=0.04)
    assert smallest_noticed(0.5, 3, 2) == 1
