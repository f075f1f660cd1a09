"""How good are the probabilities, and how sure can n texts make us of it?

Everywhere here `probabilities` is [n, n_classes], each row summing to 1, and `truth` is [n], the
index of the true class. The predicted class is the most probable one, unless `predicted` says
another; its probability is the confidence.
"""

import math
from statistics import NormalDist

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.ranking import average_precision

Z_95 = NormalDist().inv_cdf(0.975)
N_BINS = 15  # of confidence; Guo et al. 2017
RESAMPLES = 2_000  # of a bootstrap; its percentiles then move by a few hundredths of their width
SIGNIFICANT = 0.05  # p-value below which two things count as told apart


def accuracy_interval(correct: float, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, pp. 209-212).

    Unlike the textbook interval p ± 1.96 s it stays inside 0 and 1 and keeps its width at
    accuracies near 1. It covers the chance in which n texts were drawn, not the chance in which
    another seed would train.

    Args:
        correct: how many of the n texts; each may count in part, such as the mean over seeds.
        n: texts.

    Returns:
        The bounds, shares from 0 to 1.

    Raises:
        ValueError: unless 0 <= correct <= n and n >= 1.

    >>> [round(bound, 3) for bound in accuracy_interval(90, 100)]
    [0.826, 0.945]
    """
    if not (n >= 1 and 0 <= correct <= n):
        raise ValueError(
            f"expected 0 <= correct <= n and n >= 1, found correct = {correct} and n = {n}"
        )
    share = correct / n
    shrink = 1 + Z_95**2 / n
    centre = (share + Z_95**2 / (2 * n)) / shrink
    half_width = Z_95 / shrink * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n**2))
    # Rounding may put a bound 1e-17 outside, or on the other side of the share itself.
    return min(max(0.0, centre - half_width), share), max(min(1.0, centre + half_width), share)


def difference_interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of paired differences (Agresti and Min 2005, Stat. Med. 24).

    It is the interval after half a text more in each cell of the table of two classifiers, whose
    differences are 0, 0, 1 and -1. So it has a width even where the two agree on all texts.

    Args:
        differences: [n], each from -1 to 1: whether one classifier is right on a text (0 or 1, or
            the share of seeds), less the same of the other.

    Returns:
        The bounds, from -1 to 1.
    """
    n, total = len(differences) + 2, float(differences.sum())
    squares = float((differences**2).sum()) + 1
    centre, half_width = total / n, Z_95 * math.sqrt(squares - total**2 / n) / n
    return max(centre - half_width, -1.0), min(centre + half_width, 1.0)


def expected_calibration_error(
    probabilities: np.ndarray, truth: np.ndarray, n_bins: int = N_BINS, equal_mass: bool = False
) -> float:
    """Mean distance between confidence and accuracy over bins, each weighed by its n; 0 is best.

    Top-label calibration as in Guo et al. 2017, "On Calibration of Modern Neural Networks",
    equation 3. Arguments and errors are those of calibration_bins.
    """
    return calibration_error(calibration_bins(probabilities, truth, n_bins, equal_mass))


def calibration_error(bins: pd.DataFrame) -> float:
    """The expected calibration error of bins as bin_outcomes gives them."""
    filled = bins[bins["n"] > 0]
    return float(
        (filled["n"] * (filled["confidence"] - filled["accuracy"]).abs()).sum() / filled["n"].sum()
    )


def maximum_calibration_error(
    probabilities: np.ndarray, truth: np.ndarray, n_bins: int = N_BINS, equal_mass: bool = False
) -> tuple[float, int]:
    """The largest distance between confidence and accuracy in a bin (Guo et al. 2017, equation 5).

    Arguments and errors are those of calibration_bins. Returns the distance, and the n of that
    bin: few texts are often far off by chance.
    """
    bins = calibration_bins(probabilities, truth, n_bins, equal_mass)
    distance = (bins["confidence"] - bins["accuracy"]).abs()
    return float(distance.max()), int(bins["n"][distance.idxmax()])


def calibration_bins(
    probabilities: np.ndarray, truth: np.ndarray, n_bins: int = N_BINS, equal_mass: bool = False
) -> pd.DataFrame:
    """Confidence against accuracy, one row per bin; a bin holds the confidences in (lower, upper].

    Args:
        probabilities: [n, n_classes].
        truth: [n] class indices.
        n_bins: of confidence.
        equal_mass: bins between quantiles of the confidence instead of bins of equal width from 0
            to 1. Equal confidences share a bin, so that there may be fewer than n_bins.

    Returns:
        As bin_outcomes.

    Raises:
        ValueError: the arrays do not fit each other, or hold no probabilities.
    """
    check_predictions(probabilities, truth)
    confidence = probabilities.max(axis=1).astype(float)
    return bin_outcomes(confidence, probabilities.argmax(axis=1) == truth, n_bins, equal_mass)


def bin_outcomes(
    confidence: np.ndarray, right: np.ndarray, n_bins: int = N_BINS, equal_mass: bool = False
) -> pd.DataFrame:
    """Probabilities against what came true: confidence [n], right [n]; bins as calibration_bins.

    Returns:
        Columns lower, upper (the bin's edges), n, confidence (mean), accuracy, low, high (95 %
        interval of the accuracy). The last four are NaN where n is 0.
    """
    edges = np.linspace(0, 1, n_bins + 1)
    if equal_mass:
        edges = np.unique(np.quantile(confidence, edges))
        edges = edges if len(edges) > 1 else edges.repeat(2)
    # Of the inner edges alone: a softmax in single precision may sum to a little more than 1, and
    # belongs to the last bin.
    bin_of = np.searchsorted(edges[1:-1], confidence, side="left")

    rows = []
    for index in range(len(edges) - 1):
        members = bin_of == index
        n = int(members.sum())
        row = {"lower": edges[index], "upper": edges[index + 1], "n": n}
        if n:
            low, high = accuracy_interval(int(right[members].sum()), n)
            row |= {
                "confidence": confidence[members].mean(),
                "accuracy": right[members].mean(),
                "low": low,
                "high": high,
            }
        rows.append(row)
    return pd.DataFrame(
        rows, columns=["lower", "upper", "n", "confidence", "accuracy", "low", "high"]
    )


def calibration_scores(probabilities: np.ndarray, truth: np.ndarray) -> dict:
    """How well probabilities fit what is true, each number 0 at best; ready for JSON.

    Args:
        probabilities: [n, n_classes].
        truth: [n] class indices.

    Returns:
        log_loss (nats per text; probabilities below 2.2e-16 count as that); brier_score (Brier
        1950: mean squared distance to what is true, summed over the classes; half of it for two
        classes, as scikit-learn has it, so that the worst is 1 with two and 2 with more); and for
        15 bins of equal width, then of equal mass (names ending in _equal_mass),
        expected_calibration_error, maximum_calibration_error and maximum_calibration_error_n, the
        n of that bin.

    Raises:
        ValueError: the arrays do not fit each other, or hold no probabilities.
    """
    check_predictions(probabilities, truth)
    # Single precision would be too coarse for the logarithm of a confident mistake.
    probabilities = probabilities.astype(float)
    of_truth = probabilities[np.arange(len(truth)), truth]
    squares = (probabilities**2).sum(axis=1) - 2 * of_truth + 1
    scores = {
        "log_loss": float(-np.log(np.clip(of_truth, np.finfo(float).eps, 1)).mean()),
        "brier_score": float(squares.mean() / (2 if probabilities.shape[1] == 2 else 1)),
    }
    for ending, equal_mass in (("", False), ("_equal_mass", True)):
        largest, n = maximum_calibration_error(probabilities, truth, equal_mass=equal_mass)
        scores |= {
            f"expected_calibration_error{ending}": expected_calibration_error(
                probabilities, truth, equal_mass=equal_mass
            ),
            f"maximum_calibration_error{ending}": largest,
            f"maximum_calibration_error{ending}_n": n,
        }
    return scores


def score(
    probabilities: np.ndarray,
    truth: np.ndarray,
    labels: list[str],
    predicted: np.ndarray | None = None,
) -> dict:
    """Every number of the report for one model, as plain data that JSON can hold.

    Args:
        probabilities: [n, n_classes].
        truth: [n] class indices.
        labels: the class names, in the order of the columns of `probabilities`.
        predicted: [n] the classes that were decided on, such as at a threshold; None: the most
            probable ones. Only what calibration_scores returns does not depend on them.

    Returns:
        n, accuracy, accuracy_ci95 [low, high], what calibration_scores returns, macro_f1 (mean
        over the classes whose F1 is defined), balanced_accuracy and mean_average_precision (means
        over the classes that have texts of recall and of average precision), per_class {label:
        precision, recall, recall_ci95, f1, average_precision (one class against the rest),
        support} and confusion_matrix (rows: true class, columns: predicted class, counts). A
        number that is undefined is None, never NaN, and the class then has a key `undefined` that
        says why.

    Raises:
        ValueError: the arrays do not fit each other, or hold no probabilities.
    """
    check_predictions(probabilities, truth)
    n, n_classes = probabilities.shape
    if len(labels) != n_classes:
        raise ValueError(
            f"expected one label for each of the {n_classes} columns, found {len(labels)} labels"
        )
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    matrix = np.zeros((n_classes, n_classes), dtype=int)
    np.add.at(matrix, (truth, predicted), 1)
    correct = int(matrix.trace())
    per_class = {
        label: _class_scores(matrix, i, average_precision(probabilities[:, i], truth == i))
        for i, label in enumerate(labels)
    }

    def mean(of: str) -> float:
        return float(np.mean([one[of] for one in per_class.values() if one[of] is not None]))

    return {
        "n": n,
        "accuracy": correct / n,
        "accuracy_ci95": list(accuracy_interval(correct, n)),
        **calibration_scores(probabilities, truth),
        "macro_f1": mean("f1"),
        "balanced_accuracy": mean("recall"),
        "mean_average_precision": mean("average_precision"),
        "per_class": per_class,
        "confusion_matrix": matrix.tolist(),
    }


def paired_comparison(right: np.ndarray, other_right: np.ndarray) -> dict:
    """Two classifiers on the same texts: the exact McNemar test.

    As in Dietterich 1998, Neural Computation 10, section 3.1. Texts that both get right, or both
    wrong, say nothing about which is better; the p-value is that of a fair coin on the rest.
    Comparing the two accuracy intervals instead would be too cautious: it ignores that the texts
    are the same.

    Args:
        right, other_right: boolean [n], whether each classifier is right on each text.

    Returns:
        accuracy_difference (first minus other), accuracy_difference_ci95 (from
        difference_interval), only_first_right, only_other_right (counts) and p_value.
    """
    from scipy.stats import binomtest  # slow to import, and classifying needs no test

    only_first = int((right & ~other_right).sum())
    only_other = int((other_right & ~right).sum())
    disagreements = only_first + only_other
    return {
        "accuracy_difference": (only_first - only_other) / len(right),
        "accuracy_difference_ci95": list(difference_interval(right.astype(float) - other_right)),
        "only_first_right": only_first,
        "only_other_right": only_other,
        "p_value": float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0,
    }


def macro_f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The mean F1 of the classes that are predicted or true.

    predicted, truth: [n] class indices.

    >>> macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1]))
    0.6666666666666666
    """
    said, true = (
        np.bincount(of, minlength=1 + max(predicted.max(), truth.max()))
        for of in (predicted, truth)
    )
    hits = np.bincount(truth[truth == predicted], minlength=len(true))
    there = said + true > 0
    return float((2 * hits[there] / (said + true)[there]).mean())


def _class_scores(matrix: np.ndarray, index: int, ranked: float | None) -> dict:
    """The scores of one class, from the confusion matrix. ranked: its average precision."""
    hits, predicted, support = (
        int(count) for count in (matrix[index, index], matrix[:, index].sum(), matrix[index].sum())
    )
    scores = {
        "precision": hits / predicted if predicted else None,
        "recall": hits / support if support else None,
        "recall_ci95": list(accuracy_interval(hits, support)) if support else None,
        "f1": 2 * hits / (predicted + support) if predicted + support else None,
        "average_precision": ranked,
        "support": support,
    }
    reasons = []
    if not predicted:
        reasons.append("precision: no text was predicted as this class")
    if not support:
        reasons.append("recall and average precision: no text is of this class")
    return scores | ({"undefined": "; ".join(reasons)} if reasons else {})


def check_predictions(probabilities: np.ndarray, truth: np.ndarray) -> None:
    """Refuse arrays that would give a number without a meaning.

    Args:
        probabilities: expected to be [n, n_classes], with rows that sum to 1.
        truth: expected to be [n], whole numbers below n_classes.

    Raises:
        ValueError: they are not; the message says what was found.
    """
    if probabilities.ndim != 2 or truth.shape != probabilities.shape[:1] or not len(truth):
        raise ValueError(
            "expected probabilities [n, n_classes] and truth [n] with n >= 1, "
            f"found {list(probabilities.shape)} and {list(truth.shape)}"
        )
    if (
        not np.issubdtype(truth.dtype, np.integer)
        or truth.min() < 0
        or truth.max() >= probabilities.shape[1]
    ):
        raise ValueError(
            f"expected class indices from 0 to {probabilities.shape[1] - 1}, "
            f"found {np.unique(truth)[:10]}"
        )
    # Written so that NaN, which compares as False with everything, is caught too.
    proper = (probabilities >= 0).all(axis=1) & (
        np.abs(probabilities.sum(axis=1, dtype=float) - 1) < 1e-3
    )
    if not proper.all():
        row = int(np.argmin(proper))
        raise ValueError(
            f"expected rows of probabilities that sum to 1, found {int((~proper).sum())} other "
            f"rows, the first of them row {row}: {probabilities[row][:10]}"
        )


def spell_p(p_value: float) -> str:
    """A p-value with its name, as few digits as tell it.

    >>> spell_p(0.0312), spell_p(1e-9)
    ('p = 0.031', 'p < 0.0001')
    """
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.2g}"
