"""Two samples of different texts: how far do their shares and means differ, beyond chance?

What two classifiers say of the same texts is compared by `metrics.difference_interval` and
`metrics.paired_comparison` instead, which are much sharper. scipy.stats takes long to import, and
classifying needs no test: it is imported where it is used.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from ulmfit_app.evaluation.metrics import Z_95, accuracy_interval

FEWEST_EXPECTED = 5  # per cell, for the chi-square approximation (Cochran 1954)
N_TABLES = 9_999  # drawn where that approximation is not to be trusted
POWER = 0.8  # how often a difference should be noticed


def shares_interval(count: float, n: int, other_count: float, other_n: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares (Newcombe 1998, Stat. Med. 17, pp. 873-890).

    It is the hybrid score interval, method 10, without a correction for continuity: from the two
    score intervals of Wilson, so that it stays between -1 and 1 and has a width at shares of 0.

    Args:
        count: how many of the first n.
        n: texts of the first sample.
        other_count: how many of the other n.
        other_n: texts of the other sample.

    Returns:
        The bounds of the first share less the other, from -1 to 1.

    Raises:
        ValueError: a count is below 0 or above its n, or an n is 0.

    >>> [round(bound, 4) for bound in shares_interval(56, 70, 48, 80)]  # Newcombe's example (a)
    [0.0524, 0.3339]
    """
    low, high = accuracy_interval(count, n)
    other_low, other_high = accuracy_interval(other_count, other_n)
    share, other = count / n, other_count / other_n
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return max(share - other - below, -1.0), min(share - other + above, 1.0)


def means_interval(values: np.ndarray, other: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the difference of two means (Welch 1947, Biometrika 34, pp. 28-35).

    Args:
        values: the first sample, [n].
        other: the other one, [m]; its variance may be another.

    Returns:
        The bounds of the first mean less the other; None where a sample has fewer than two values.
    """
    if min(len(values), len(other)) < 2:
        return None
    from scipy.stats import t

    difference = float(values.mean() - other.mean())
    first, second = (float(each.var(ddof=1)) / len(each) for each in (values, other))
    if not first + second:
        return difference, difference
    freedom = (first + second) ** 2 / (first**2 / (len(values) - 1) + second**2 / (len(other) - 1))
    half_width = float(t.ppf(0.975, freedom)) * math.sqrt(first + second)
    return difference - half_width, difference + half_width


def same_shares(counts: np.ndarray) -> float:
    """How likely two samples from the same shares differ at least as much as these two.

    Pearson's chi-square test; Fisher's exact one for two classes, and for more the share of
    N_TABLES tables with the same sums, drawn from a fixed seed, whose chi-square is as large,
    where some cell is expected to hold fewer than FEWEST_EXPECTED.

    Args:
        counts: how many texts of each class there are in each sample, [2, n_classes].

    Returns:
        The p-value; 1 where one class, or one sample, has all texts.
    """
    from scipy.stats import chi2_contingency, fisher_exact, random_table

    counts = counts[:, counts.sum(axis=0) > 0]
    of_samples, of_classes = counts.sum(axis=1), counts.sum(axis=0)
    if len(of_classes) < 2 or not of_samples.all():
        return 1.0
    expected = np.outer(of_samples, of_classes) / counts.sum()
    if expected.min() >= FEWEST_EXPECTED:
        return float(chi2_contingency(counts, correction=False).pvalue)
    if len(of_classes) == 2:
        return float(fisher_exact(counts).pvalue)
    statistic = float(((counts - expected) ** 2 / expected).sum())
    tables, generator = random_table(of_samples, of_classes), np.random.default_rng(0)
    as_large = 0
    for size in [N_TABLES // 9] * 9:  # in parts, for tables of many classes
        drawn = tables.rvs(size, random_state=generator)
        found = ((drawn - expected) ** 2 / expected).sum(axis=(1, 2))
        # The same table may come to a sum that differs in its last digit.
        as_large += int((found >= statistic * (1 - 1e-9)).sum())
    return (1 + as_large) / (1 + N_TABLES)


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several questions, so that one in twenty sets has any below 0.05 by chance.

    Holm 1979, Scand. J. Stat. 6, pp. 65-70: the smallest is multiplied by their number, the next
    by one less, and so on; none may fall below the one before.

    >>> [round(p, 3) for p in adjust_holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.asarray(p_values, float)[order] * factors)
    return np.minimum(adjusted, 1).tolist()


def smallest_noticed(share: float, n: int, other_n: int) -> float:
    """The difference of two shares that a test at 0.05 notices four times in five.

    By the normal approximation, as in Fleiss, Levin and Paik 2003, Statistical Methods for Rates
    and Proportions, chapter 4, with the same variance in both samples.

    Args:
        share: in both samples together.
        n: texts of the first sample.
        other_n: texts of the other one.

    Returns:
        The difference; at most 1.

    >>> round(smallest_noticed(0.5, 1000, 1000), 3)
    0.063
    """
    wanted = Z_95 + NormalDist().inv_cdf(POWER)
    return min(wanted * math.sqrt(share * (1 - share) * (1 / n + 1 / other_n)), 1.0)
