"""How much of what a search found is luck, and how sure the difference to the defaults is."""

import numpy as np
from sklearn.metrics import average_precision_score

from ulmfit_app.evaluation.metrics import RESAMPLES


def expected_best(values: np.ndarray, n: int) -> float:
    """The lowest value that n random trials have, on average (Dodge et al. 2019, "Show Your Work:
    Improved Reporting of Experimental Results", section 3.1, for the lowest instead of the
    highest).

    By the distribution of the trials that there are: what n trials would have found by chance.

    Args:
        values: errors of trials that were drawn at random, [m].
        n: trials.

    Raises:
        ValueError: there are no values, or n is less than 1.

    >>> round(expected_best(np.array([0.2, 0.4]), 1), 3), expected_best(np.array([0.2, 0.4]), 2)
    (0.3, 0.25)
    """
    if not len(values) or n < 1:
        raise ValueError(f"expected one value or more and n >= 1, found {len(values)} and {n}")
    found, counts = np.unique(values, return_counts=True)
    # P(V >= v) for each of them, and for what comes after the last one.
    at_least = np.append(np.cumsum(counts[::-1])[::-1] / counts.sum(), 0.0) ** n
    return float(found @ (at_least[:-1] - at_least[1:]))


def score_by(
    metric: str, probabilities: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> float:
    """A metric that epochs are kept by, of texts that count several times or not at all.

    Args:
        metric: accuracy, macro_f1 or average_precision.
        probabilities: [n, n_classes].
        truth: the true classes [n], or, of several labels, which of them each text has
            [n, n_classes].
        weights: how often each text counts, [n].
    """
    if metric == "average_precision":
        has = (truth * weights[:, None]).any(axis=0)
        how = {"average": "macro", "sample_weight": weights}
        return float(average_precision_score(truth[:, has], probabilities[:, has], **how))
    predicted = probabilities.argmax(axis=1)
    if metric == "accuracy":
        return float(weights @ (predicted == truth) / weights.sum())
    n_classes = probabilities.shape[1]
    hits, said, true = (
        np.bincount(of, weights * counts, n_classes)
        for of, counts in ((truth, predicted == truth), (predicted, 1), (truth, 1))
    )
    there = said + true > 0
    return float((2 * hits[there] / (said + true)[there]).mean())


def resampled_difference(
    metric: str,
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    texts: list[np.ndarray],
    resamples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """How much better one model does than another, by a bootstrap over texts.

    Args:
        metric: as `score_by` has it.
        pairs: of each seed or fold: the first model's probabilities, the other's, and the truth,
            of the same texts.
        texts: of each of these, which text each row is, as whole numbers: a text that several
            seeds read is drawn once for all.
        resamples: how many.

    Returns:
        The mean difference of the metric, and the bounds of its 95 % interval.
    """
    n = 1 + max(int(each.max()) for each in texts)
    rng = np.random.default_rng(0)

    def difference(counts: np.ndarray) -> float:
        found = []
        for (ours, other, truth), which in zip(pairs, texts, strict=True):
            weights = counts[which].astype(float)
            if weights.any():
                of_each = (score_by(metric, each, truth, weights) for each in (ours, other))
                found.append(next(of_each) - next(of_each))
        return float(np.mean(found))

    drawn = [difference(rng.multinomial(n, np.full(n, 1 / n))) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return difference(np.ones(n)), float(low), float(high)
