"""Thresholds of labels, chosen for the best F1 on texts that are not tested on.

`probabilities` and `truth` are as in decisions, the probabilities calibrated. What thresholds gain
has to be measured on other texts: on those that chose them it is too high.
"""

import numpy as np

from ulmfit_app.evaluation.messages import Message

PRIOR = 20.0  # texts of a label; more of them are trusted more than its probabilities
MIDDLE = 0.5  # the threshold of one of several labels where none was chosen
MAX_SWEEPS = 20  # over the classes; most need three or four
STEP = float(np.log(2))  # beyond the nearest text at most, in logarithms of a threshold
EQUAL = 1e-9  # logarithms this close are one, and so are two F1


def soften(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """What is true, in part as it was seen and in part as calibrated probabilities promise it.

    The best threshold of five texts with a label is one that luck favoured. Probabilities that
    mean what they say know the F1 to expect from any threshold without a label (Ye et al. 2012,
    "Optimizing F-Measure: A Tale of Two Approaches", section 2), but not where they are wrong. A
    label of n texts here is taken by n / (n + PRIOR) from what was seen.

    Args:
        truth: class indices [n], or of several labels 1 and 0 [n, n_labels].
        probabilities: calibrated, [n, n_labels].

    Returns:
        Shares of each label, from 0 to 1, [n, n_labels].
    """
    seen = np.eye(probabilities.shape[1])[truth] if truth.ndim == 1 else truth.astype(float)
    weight = seen.sum(axis=0) / (seen.sum(axis=0) + PRIOR)
    return weight * seen + (1 - weight) * probabilities


def choose_thresholds(probabilities: np.ndarray, truth: np.ndarray) -> list[float]:
    """Thresholds of one label a text, for the best macro F1 on these texts.

    Coordinate ascent from equal thresholds: class after class is given its best threshold beside
    the others' until none gains. Each search is exact: between two texts at which the answer
    changes, F1 does not (as Lipton et al. 2014, "Optimal Thresholding of Classifiers to Maximize
    F1 Measure", do of one class). Of two classes that is the best of all thresholds.

    Args:
        probabilities: calibrated, [n, n_classes].
        truth: class indices [n], or shares of each class as `soften` gives them [n, n_classes].

    Returns:
        One for each class, summing to 1, as Decision takes them; equal where nothing is gained.
        The mean is over the classes that these texts have; any other one's weight stays as it is.
    """
    n_classes = probabilities.shape[1]
    shares = np.eye(n_classes)[truth] if truth.ndim == 1 else truth
    with np.errstate(divide="ignore"):  # what has no probability is never the answer
        logs = np.log(probabilities.astype(float))
    there, weights = np.flatnonzero(shares.sum(axis=0)), np.zeros(n_classes)
    best = _sum_of_f1(shares, probabilities.argmax(axis=1))
    for _ in range(MAX_SWEEPS):
        before = best
        for one in there:
            weights[one], best = _best_weight(logs, shares, weights, one, best)
        if best - before <= EQUAL:
            break
    thresholds = np.exp(weights.min() - weights)
    return (thresholds / thresholds.sum()).tolist()


def _sum_of_f1(shares: np.ndarray, predicted: np.ndarray) -> float:
    """Over the classes that have texts. shares: [n, n_classes]. predicted: [n]."""
    n_classes = shares.shape[1]
    own = shares[np.arange(len(shares)), predicted]
    hits = np.bincount(predicted, own, minlength=n_classes)
    support = shares.sum(axis=0)
    found = np.bincount(predicted, minlength=n_classes) + support
    return float((2 * hits[support > 0] / found[support > 0]).sum())


def _best_weight(
    logs: np.ndarray, shares: np.ndarray, weights: np.ndarray, one: int, best: float
) -> tuple[float, float]:
    """The logarithm of 1 / threshold that is best for one class while the others keep theirs.

    Args:
        logs: of probabilities, [n, n_classes].
        shares: of each class, [n, n_classes].
        weights: of the classes now.
        one: the class.
        best: the sum of F1 now.

    Returns:
        The weight and the sum of F1; those of now where no other gives more.
    """
    scores = logs + weights
    scores[:, one] = -np.inf
    rival, n = scores.argmax(axis=1), len(logs)
    # From this weight on, a text's answer is this class.
    enough = scores[np.arange(n), rival] - logs[:, one]
    order = np.argsort(enough, kind="stable")
    rival, shares = rival[order], shares[order]
    edges = np.r_[-np.inf, enough[order], np.inf]

    hits = np.r_[0, shares[:, one].cumsum()]
    own = 2 * hits / (np.arange(n + 1) + shares[:, one].sum())
    losses = np.r_[0, _losses_of_rivals(rival, shares).cumsum()]
    sums = _sum_of_f1(shares, rival) + losses + own
    low, high = edges[:-1], edges[1:]
    with np.errstate(invalid="ignore"):  # of two infinite edges
        sums[~(high - low > EQUAL)] = -np.inf
    if sums.max() <= best + EQUAL:
        return weights[one], best
    now = weights[one]
    away = np.maximum(low - now, now - high)
    at = min(np.flatnonzero(sums >= sums.max() - EQUAL), key=away.__getitem__)
    # Halfway to the next text, but not far where that is far: the best is not known to be there.
    step = min(STEP, (high[at] - low[at]) / 2)
    return (low[at] + step if low[at] >= now else high[at] - step), float(sums[at])


def _losses_of_rivals(rival: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """What F1 of its rival changes by when each text in turn is taken from it.

    Args:
        rival: [n] the class that each text is taken from, in the order in which they are.
        shares: of each class, [n, n_classes].
    """
    support = shares.sum(axis=0)
    order = np.argsort(rival, kind="stable")
    rivals = rival[order]
    right = shares[order, rivals]
    n_of = np.bincount(rival, minlength=len(support))
    begins = np.r_[0, n_of.cumsum()[:-1]][rivals]
    taken = np.arange(len(rival)) - begins  # from the same rival before
    right_before = np.r_[0, right.cumsum()]
    hits = np.bincount(rivals, right, minlength=len(support))[rivals]
    hits = hits - (right_before[:-1] - right_before[begins])
    found = (n_of + support)[rivals] - taken
    # A rival without texts of its own has no F1 to lose; the last text may leave it nothing.
    change = 2 * (hits - right) / np.maximum(found - 1, EQUAL) - 2 * hits / found
    losses = np.zeros(len(rival))
    losses[order] = np.where((support > 0)[rivals], change, 0.0)
    return losses


def choose_label_thresholds(
    probabilities: np.ndarray, truth: np.ndarray
) -> tuple[list[float], list[str]]:
    """A threshold for each of several labels, of the best F1 of the label on these texts.

    Args:
        probabilities: calibrated, [n, n_labels].
        truth: [n, n_labels], 1 where a text has the label, or shares as `soften` gives them.

    Returns:
        Thresholds, which a probability has to reach; and for each label "", or why it stayed
        MIDDLE. Where several are equally good, the one nearest to MIDDLE.
    """
    pairs = [
        _best_threshold(column.astype(float), has.astype(float))
        for column, has in zip(probabilities.T, truth.T, strict=True)
    ]
    return [threshold for threshold, _ in pairs], [reason for _, reason in pairs]


def _best_threshold(probabilities: np.ndarray, has: np.ndarray) -> tuple[float, str]:
    """The threshold of one label, or MIDDLE and the reason. probabilities, has: [n]."""
    if not has.any():
        return MIDDLE, Message("none of these texts has it")
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    f1 = 2 * has[order].cumsum() / (np.arange(1, len(has) + 1) + has.sum())
    below = np.r_[falling[1:], 0.0]
    f1[:-1][falling[:-1] == below[:-1]] = 0  # texts of equal probability are answered together
    # Halfway between two texts; between neighbours among numbers, the upper one.
    halfway = np.where((falling + below) / 2 > below, (falling + below) / 2, falling)
    ways = np.flatnonzero(f1 >= f1.max() - EQUAL)
    return float(min(halfway[ways], key=lambda threshold: abs(threshold - MIDDLE))), ""
