"""How well scores rank: texts for one label, or labels for one text.

As scikit-learn's functions of the same names have it, without a number where there is none.
"""

import numpy as np


def average_precision(scores: np.ndarray, has: np.ndarray) -> float | None:
    """The mean precision over the texts that have a label, ranked by its scores.

    The precision at each rise of the recall, weighed by the rise; texts of equal score rise
    together. Of scores by chance it is the share of the texts that have the label.

    Args:
        scores: of the label, [n].
        has: [n], whether each text has it.

    Returns:
        From 0 to 1; None where no text has it.

    >>> average_precision(np.array([0.9, 0.8, 0.1]), np.array([1, 0, 1]))
    0.8333333333333333
    """
    has = has.astype(bool)
    if not has.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], has[order].cumsum()
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    precision, recall = hits[last] / (last + 1), hits[last] / hits[-1]
    return float((precision * np.diff(recall, prepend=0)).sum())


def coverage_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """How far down the likeliest labels one has to go to have all of a text's, on average.

    Args:
        probabilities: [n, n_labels].
        truth: [n, n_labels], 1 where a text has the label.

    Returns:
        Labels per text, at best the mean number of labels; a text without labels counts as 0.

    >>> coverage_error(np.array([[0.9, 0.2, 0.5]]), np.array([[1, 1, 0]]))
    3.0
    """
    lowest = np.where(truth > 0, probabilities, np.inf).min(axis=1, keepdims=True)
    return float((probabilities >= lowest).sum(axis=1).mean())


def label_ranking_average_precision(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Of the labels ranked as high as one of a text's, the share that it has, on average.

    Args:
        probabilities: [n, n_labels].
        truth: [n, n_labels], 1 where a text has the label.

    Returns:
        From 0 to 1; a text that has no label, or all, counts as 1.

    >>> label_ranking_average_precision(np.array([[0.9, 0.2, 0.5]]), np.array([[1, 1, 0]]))
    0.8333333333333333
    """
    found = []
    for scores, has in zip(probabilities, truth > 0, strict=True):
        own = scores[has]
        if not len(own):
            found.append(1.0)
            continue
        at_least = np.sort(own)[::-1], np.sort(scores)[::-1]
        # How many labels, of the text's and of all, have at least the score of each of its own.
        hits, ranks = (np.searchsorted(-falling, -own, side="right") for falling in at_least)
        found.append(float((hits / ranks).mean()))
    return float(np.mean(found))
