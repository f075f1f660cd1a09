"""Macro F1 in the mean over seeds, with intervals over texts.

`truth` is [n], the index of each text's class. `predicted` is [n, n_seeds], the class that each
seed's classifier answers, and -1 where the seed has the text in another split than the tested one.
A text that several seeds test is still one text: counted once per seed, it would make intervals
too narrow.
"""

import numpy as np

from ulmfit_app.evaluation.metrics import RESAMPLES


def macro_f1_interval(
    truth: np.ndarray, predicted: np.ndarray, n_classes: int
) -> tuple[float, float, float]:
    """Macro F1 in the mean over seeds, and its 95 % interval.

    The interval is the percentile bootstrap's over texts (Efron and Tibshirani 1993, chapter 13),
    of RESAMPLES resamples that are always the same. It is about other texts, not other seeds.

    Args:
        truth, predicted: as above.
        n_classes: classes.

    Returns:
        The mean, and the bounds, from 0 to 1.
    """
    whole, drawn = _resample(truth, predicted, n_classes)
    return whole.mean(), *np.quantile(drawn.mean(axis=1), [0.025, 0.975])


def macro_f1_difference(
    truth: np.ndarray, predicted: np.ndarray, other: np.ndarray, n_classes: int
) -> tuple[float, float, float]:
    """How much more macro F1 a way has than another on the same texts, and the 95 % interval.

    Args:
        truth, predicted: as above.
        other: of the other way, [n, n_seeds].
        n_classes: classes.

    Returns:
        The difference of the means, positive where the other way has less, and the bounds.
    """
    whole, drawn = _resample(truth, np.hstack([predicted, other]), n_classes)
    half = predicted.shape[1]
    differences = drawn[:, :half].mean(axis=1) - drawn[:, half:].mean(axis=1)
    low, high = np.quantile(differences, [0.025, 0.975])
    return whole[:half].mean() - whole[half:].mean(), low, high


def compare_macro_f1(
    truth: np.ndarray, predicted: np.ndarray, other: np.ndarray, n_classes: int
) -> dict:
    """Two classifiers on the same texts by macro F1, which counts rare classes as common ones.

    It is `macro_f1_difference` of a single seed.

    Args:
        truth, predicted, other: [n] class indices, the last two each classifier's.
        n_classes: classes.

    Returns:
        macro_f1_difference (first minus other) and macro_f1_difference_ci95.
    """
    ways = predicted[:, None], other[:, None]
    difference, low, high = macro_f1_difference(truth, *ways, n_classes)
    return {
        "macro_f1_difference": float(difference),
        "macro_f1_difference_ci95": [float(low), float(high)],
    }


def recalls(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """The recall of each class, NaN where a seed tests none of its texts.

    truth, predicted, n_classes: as above. Returns [n_seeds, n_classes], from 0 to 1.
    """
    found = np.full((predicted.shape[1], n_classes), np.nan)
    for seed, answers in enumerate(predicted.T):
        for one in range(n_classes):
            its = answers[(truth == one) & (answers >= 0)]
            if len(its):
                found[seed, one] = (its == one).mean()
    return found


def _resample(
    truth: np.ndarray, columns: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Macro F1 of each column of answers, [n_columns], and in resamples, [RESAMPLES, n_columns].

    The mean is over the classes that are predicted or true.
    """
    # Texts with the same classes are alike; few of all combinations occur.
    kinds, counts = np.unique(np.column_stack([truth, columns]), axis=0, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(truth), counts / len(truth), RESAMPLES)
    times = np.vstack([counts, drawn]).astype(float)  # products of floats are the fast ones
    classes = np.arange(n_classes)
    means = []
    for answers in kinds.T[1:]:
        said = answers[:, None] == classes
        true = (kinds[:, [0]] == classes) & (answers[:, None] >= 0)
        hits = times @ (said & true)
        found = times @ said + times @ true
        f1 = np.divide(2 * hits, found, where=found > 0, out=np.full(hits.shape, np.nan))
        means.append(np.nanmean(f1, axis=1))
    whole, *resampled = np.column_stack(means)
    return whole, np.array(resampled)
