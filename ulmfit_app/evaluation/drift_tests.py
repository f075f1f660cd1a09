"""How far two samples of texts differ: one question a function, each with an effect, its 95 %
interval and a p-value.

All effects but one are shares of texts: at least so many of the new ones are not as the old ones
were (the total variation distance, or a lower bound of it). MMD's is a distance of means, in
standard deviations. scipy and scikit-learn take long to import: they are imported where they are
used.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ulmfit_app.evaluation.independent import same_shares, shares_interval
from ulmfit_app.evaluation.metrics import Z_95

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

N_PERMUTATIONS = 499  # of MMD: its smallest p is 1 / (1 + 499)
N_BOOTSTRAPS = 500
N_CELLS = 200  # of the values of a bootstrap's distributions
NEAREST = 5  # the neighbour by whose distance a text is familiar or not
UNFAMILIAR = 0.05  # share of old texts that are further from the others than all the rest
FEWEST_TO_LEARN = 20  # texts of each sample, from which on a classifier learns from half of them
MOST_TO_LEARN = 1_000  # texts of each sample; of more, the others make the test sharper


@dataclass(frozen=True)
class Difference:
    """How far two samples differ in one respect.

    Attributes:
        effect: 0 where they agree.
        low, high: its 95 % interval.
        p_value: how likely samples of the same texts differ as much.
    """

    effect: float
    low: float
    high: float
    p_value: float


def compare_values(old: np.ndarray, new: np.ndarray, seed: int = 0) -> Difference:
    """The largest distance between two distributions of a number (Kolmogorov and Smirnov).

    A distance is never below 0, so that samples are further apart than what they were drawn from.
    The interval is the estimate plus and minus the 97.5th percentile of how far the distances of
    resampled texts lie above it, and below that by their mean once more, which is the bias.

    Args:
        old, new: values, [n] and [m].
        seed: of the bootstrap.

    Returns:
        The effect is from 0 to 1: a share of the texts, at the least, has other values.
    """
    from scipy.stats import ks_2samp

    found = ks_2samp(old, new)
    pooled = np.concatenate([old, new])
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, N_CELLS + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(edges, one), minlength=len(edges) + 1) for one in (old, new)
    ]

    def distance(first: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.abs(np.cumsum(first - other, axis=-1)).max(axis=-1)

    low, high = _around(float(found.statistic), *counts, distance, seed)
    return Difference(float(found.statistic), low, high, float(found.pvalue))


def compare_shares(counts: np.ndarray, seed: int = 0) -> Difference:
    """The total variation distance of the shares of some classes.

    Args:
        counts: texts of each class, old and new, [2, n_classes].
        seed: of the bootstrap.

    Returns:
        The effect is from 0 to 1: the share of texts that would have to be of another class for
        the samples to agree. The p-value is `same_shares`'.
    """

    def distance(first: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.abs(first - other).sum(axis=-1) / 2

    found = float(distance(*(one / one.sum() for one in counts)))
    return Difference(found, *_around(found, *counts, distance, seed), same_shares(counts))


def _around(
    found: float, old: np.ndarray, new: np.ndarray, distance: Callable, seed: int
) -> tuple[float, float]:
    """The interval that `compare_values` describes. old, new: counts in cells."""
    generator = np.random.default_rng(seed)
    drawn = [
        generator.multinomial(one.sum(), one / one.sum(), N_BOOTSTRAPS) / one.sum()
        for one in (old, new)
    ]
    exact = distance(*(one / one.sum() for one in (old, new)))
    resampled = distance(*drawn)
    above = max(float(np.quantile(resampled, 0.975) - exact), 0.0)
    bias = max(float(resampled.mean() - exact), 0.0)
    return max(found - above - bias, 0.0), min(found + above, 1.0)


def compare_sets(old: np.ndarray, new: np.ndarray) -> tuple[Difference, int]:
    """The label, of several that a text may have, whose share differs most.

    Args:
        old, new: whether each text has each label, bool [n, n_labels] and [m, n_labels].

    Returns:
        The difference, from 0 to 1, with a p-value multiplied by the number of labels; and the
        index of the label.
    """
    counts = [one.sum(axis=0) for one in (old, new)]
    tables = [
        np.array([[has, len(one) - has] for has, one in zip(pair, (old, new), strict=True)])
        for pair in zip(*counts, strict=True)
    ]
    moved = np.abs(new.mean(axis=0) - old.mean(axis=0))
    most = int(moved.argmax())
    p_value = min(1.0, len(tables) * min(map(same_shares, tables)))
    bounds = sorted(map(abs, _interval_of(tables[most])))
    crosses = np.prod(_interval_of(tables[most])) < 0
    low, high = (0.0 if crosses else bounds[0]), bounds[1]
    return Difference(float(moved[most]), low, high, p_value), most


def _interval_of(table: np.ndarray) -> tuple[float, float]:
    (old, without), (new, other_without) = table.tolist()
    return shares_interval(new, new + other_without, old, old + without)


# ------------------------------------------------------------------------------ what a model reads
def count_unfamiliar(
    old: np.ndarray, new: np.ndarray, seed: int = 0
) -> tuple[Difference, np.ndarray, float]:
    """How many more new texts than old ones are unlike the old ones.

    A text is unfamiliar where its NEAREST-th neighbour among half of the old texts is further away
    than those of all but UNFAMILIAR of that half are from each other. The other half of the old
    texts is compared with the new ones, so that both are judged by texts that neither is among.

    Args:
        old, new: states, [n, d] and [m, d].
        seed: of the halves.

    Returns:
        The share of the new less that of the old half, from -1 to 1 (Newcombe's interval, and the
        test of `same_shares`); of each new text, its distance over the bound; and the share of the
        old half that is unfamiliar.
    """
    order = np.random.default_rng(seed).permutation(len(old))
    known, other = old[order[: len(old) // 2]], old[order[len(old) // 2 :]]
    scale = known.std(axis=0)
    scale[scale == 0] = 1
    known, other, new = (one / scale for one in (known, other, new))
    nearest = min(NEAREST, len(known) - 1)
    own = _distances(known, known)
    np.fill_diagonal(own, np.inf)
    bound = float(
        np.quantile(np.partition(own, nearest - 1, axis=1)[:, nearest - 1], 1 - UNFAMILIAR)
    )
    of_other, of_new = (
        np.partition(_distances(one, known), nearest - 1, axis=1)[:, nearest - 1]
        for one in (other, new)
    )
    counted = [(int((one > bound).sum()), len(one)) for one in (of_new, of_other)]
    (count, n), (before, m) = counted
    table = np.array([[before, m - before], [count, n - count]])
    interval = shares_interval(count, n, before, m)
    found = Difference(count / n - before / m, *interval, same_shares(table))
    return found, of_new / (bound or 1.0), before / m


def compare_means(old: np.ndarray, new: np.ndarray, seed: int = 0) -> Difference:
    """Maximum mean discrepancy with a Gaussian kernel (Gretton et al. 2012, JMLR 13, section 3).

    The kernel is as wide as the median distance of the pooled texts, whose features are scaled by
    their spread. p is by N_PERMUTATIONS permutations of which text is new.

    Args:
        old, new: states, [n, d] and [m, d].
        seed: of the permutations.

    Returns:
        The effect is the distance of the two means in the kernel's space, in standard deviations
        of a text there: from the unbiased MMD², 0 where it is negative. Its interval is by the
        first-order variance of a U-statistic (Serfling 1980, section 5.5.1).
    """
    n, m = len(old), len(new)
    pooled = np.concatenate([old, new]).astype(np.float32)
    spread = pooled.std(axis=0)
    squares = _distances(pooled / np.where(spread, spread, 1), None) ** 2
    upper = squares[np.triu_indices(min(len(pooled), 1_000), 1)]
    kernel = np.exp(squares / (-2 * max(float(np.median(upper)), 1e-12)))
    np.fill_diagonal(kernel, 0)  # a text is not compared with itself

    is_new = np.zeros((n + m, 1 + N_PERMUTATIONS), np.float32)
    is_new[n:, 0] = 1
    generator = np.random.default_rng(seed)
    for column in range(1, 1 + N_PERMUTATIONS):
        is_new[generator.permutation(n + m)[:m], column] = 1
    of_new = kernel @ is_new
    total, both = float(kernel.sum(dtype=float)), (is_new * of_new).sum(axis=0, dtype=float)
    mixed = of_new.sum(axis=0, dtype=float) - both
    neither = total - both - 2 * mixed
    squared = neither / (n * (n - 1)) + both / (m * (m - 1)) - 2 * mixed / (n * m)
    as_large = int((squared[1:] >= squared[0] - 1e-9).sum())

    row_new, row_all = of_new[:, 0].astype(float), kernel.sum(axis=1, dtype=float)
    row_old = row_all - row_new
    projected = [
        row_old[:n] / (n - 1) - row_new[:n] / m,
        row_new[n:] / (m - 1) - row_old[n:] / n,
    ]
    variance = sum(4 * one.var(ddof=1) / len(one) for one in projected)
    within = 1 - (neither[0] / (n * (n - 1)) + both[0] / (m * (m - 1))) / 2
    bounds = [squared[0] + sign * Z_95 * math.sqrt(variance) for sign in (0, -1, 1)]
    effect, low, high = (math.sqrt(max(one, 0) / max(within, 1e-12)) for one in bounds)
    return Difference(effect, low, high, (1 + as_large) / (1 + N_PERMUTATIONS))


def _distances(first: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    """Euclidean distances, [n, m]; among the first themselves without another."""
    other = first if other is None else other
    products = first @ other.T
    squares = (first**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * products
    return np.sqrt(np.maximum(squares, 0))


# --------------------------------------------------------------------------------------- its words
def tell_apart(
    old: "csr_matrix", new: "csr_matrix", seed: int = 0
) -> tuple[Difference, np.ndarray]:
    """How well a classifier tells new texts from old ones by their words.

    Logistic regression on TF-IDF learns from half of each sample, at most MOST_TO_LEARN texts, and
    is tested on the others, where it ranks new texts no better than chance if nothing has changed:
    the test of Mann and Whitney then holds as it is (Lopez-Paz and Oquab 2017, "Revisiting
    Classifier Two-Sample Tests"; folds that learn from each other's texts would need another).

    Args:
        old, new: how often each word stands in each text, [n, n_words] and [m, n_words].
        seed: of the halves.

    Returns:
        The effect is 2 AUC - 1, from -1 to 1: where a share of new texts can be told from all old
        ones and the rest from none, it is that share. Its interval is DeLong's (1988, Biometrics
        44, pp. 837-845). And the weight of each word, above 0 where it speaks for a new text.

    Raises:
        ValueError: a sample has fewer than FEWEST_TO_LEARN texts.
    """
    from scipy.sparse import vstack
    from scipy.stats import mannwhitneyu
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    if min(old.shape[0], new.shape[0]) < FEWEST_TO_LEARN:
        raise ValueError(f"expected {FEWEST_TO_LEARN} texts of each sample or more")
    generator = np.random.default_rng(seed)
    halves = []
    for sample in (old, new):
        order = generator.permutation(sample.shape[0])
        n_learned = count_learned(sample.shape[0])
        halves.append((sample[order[:n_learned]], sample[order[n_learned:]]))
    learned = vstack([first for first, _ in halves])
    truth = np.repeat([0, 1], [first.shape[0] for first, _ in halves])
    weigh = TfidfTransformer(sublinear_tf=True).fit(learned)
    model = LogisticRegression(
        C=10, class_weight="balanced", solver="liblinear", random_state=seed
    )
    model.fit(weigh.transform(learned), truth)
    of_old, of_new = (model.decision_function(weigh.transform(other)) for _, other in halves)
    p_value = float(
        mannwhitneyu(of_new, of_old, alternative="greater", method="asymptotic").pvalue
    )
    auc, deviation = area_under_curve(of_old, of_new)
    bounds = (2 * auc - 1 + 2 * sign * Z_95 * deviation for sign in (0, -1, 1))
    effect, low, high = (min(max(one, -1.0), 1.0) for one in bounds)
    return Difference(effect, low, high, p_value), model.coef_[0]


def count_learned(n: int) -> int:
    """How many of a sample's texts a classifier learns from."""
    return min(n // 2, MOST_TO_LEARN)


def area_under_curve(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """How often a score of `high` is above one of `low`, ties half, with DeLong's deviation.

    >>> area_under_curve(np.array([1.0, 2.0]), np.array([2.0, 3.0]))[0]
    0.875
    """
    above, below = _share_below(high, low), 1 - _share_below(low, high)
    variance = sum(float(one.var(ddof=1)) / len(one) for one in (above, below))
    return float(above.mean()), math.sqrt(variance)


def _share_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each score, the share of the others that lies below it, ties half."""
    ranked = np.sort(others)
    below, up_to = (np.searchsorted(ranked, scores, side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(others))
