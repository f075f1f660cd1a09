"""Probabilities that mean what they say, and what comes of answering only where they are high.

`probabilities` and `truth` are as in metrics. scipy.stats and scipy.optimize take longer to import
than a text takes to be classified, so they are imported where a temperature is fitted.
"""

import math

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.messages import Message
from ulmfit_app.evaluation.metrics import (
    N_BINS,
    SIGNIFICANT,
    accuracy_interval,
    check_predictions,
)

# The smallest is 1 / 100; beyond the two, probabilities are uniform, or all 0 and 1.
LARGEST_TEMPERATURE = 100.0
N_SAMPLES = 400  # drawn by chance; enough to know their 95th percentile to about one percentile
MAX_NAMES = 5  # of classes in a sentence


# ------------------------------------------------------------------------------------ temperature
def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities that logits divided by a temperature give (Guo et al. 2017, section 4.2).

    Logits are known from probabilities up to a constant, which a softmax does not see. Which class
    is the most probable does not change.

    Args:
        probabilities: [n, n_classes].
        temperature: above 1 moves all probabilities towards 1/n_classes, below 1 away from it.

    Returns:
        Probabilities [n, n_classes].

    >>> tempered(np.array([[0.8, 0.2]]), temperature=2).round(3).tolist()
    [[0.667, 0.333]]
    """
    if temperature == 1:
        return probabilities
    weights = np.exp(_shifted(_logits(probabilities) / temperature))
    return weights / weights.sum(axis=1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, truth: np.ndarray) -> tuple[float, str]:
    """The temperature of the lowest log loss on these texts; judge it on others.

    It stays 1 where log loss has no lowest point, and where so few texts cannot tell the best
    temperature from 1 (likelihood-ratio test at 5 %): fitted to noise it would do harm.

    Args:
        probabilities: [n, n_classes], at temperature 1.
        truth: [n] class indices.

    Returns:
        The temperature and "", or 1 and the reason for it, as half a sentence.

    Raises:
        ValueError: the arrays do not fit each other, or hold no probabilities.
    """
    from scipy.optimize import minimize_scalar
    from scipy.stats import chi2

    check_predictions(probabilities, truth)
    logits = _logits(probabilities)
    each = np.arange(len(truth))
    # Log loss is convex in 1 / temperature: its slopes at both ends tell whether it has a minimum.
    if (logits[each, truth] == logits.max(axis=1)).all():
        return 1.0, Message(
            "each of them is given its class, so that log loss falls with the temperature"
        )
    if logits[each, truth].mean() <= logits.mean():
        return 1.0, Message(
            "the probabilities are no better than a guess there, and log loss would be lowest if "
            "all classes were equally probable"
        )

    def log_loss(log_temperature: float) -> float:
        shifted = _shifted(logits / math.exp(log_temperature))
        normalizer = np.log(np.exp(shifted).sum(axis=1))
        return -(shifted[each, truth] - normalizer).mean()

    end = math.log(LARGEST_TEMPERATURE)
    found = minimize_scalar(
        log_loss, bounds=(-end, end), method="bounded", options={"xatol": 1e-8}
    )
    # Where 1 is right, twice the gain in log-likelihood is chi-squared, with one degree of freedom
    # (Wilks).
    p_value = chi2.sf(2 * len(truth) * (log_loss(0.0) - found.fun), df=1)
    if p_value > SIGNIFICANT:
        return 1.0, Message(
            "they are not enough to show that another is better (the best is {best:.3g}, p = "
            "{p_value:.2g})",
            best=math.exp(found.x),
            p_value=p_value,
        )
    return math.exp(found.x), ""


def _shifted(logits: np.ndarray) -> np.ndarray:
    """Logits less the largest of their row, so that their exponentials cannot overflow."""
    return logits - logits.max(axis=1, keepdims=True)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Logits of probabilities, in double precision; 0 counts as the smallest number."""
    return np.log(np.clip(probabilities.astype(float), np.finfo(float).tiny, None))


# ------------------------------------------------------------------------------ risk and coverage
def risk_coverage(
    probabilities: np.ndarray, truth: np.ndarray, predicted: np.ndarray | None = None
) -> pd.DataFrame:
    """The error among answered texts as more are answered (Geifman and El-Yaniv 2017).

    The most confident are answered first; texts of equal confidence together, or not at all.

    Args:
        probabilities: [n, n_classes].
        truth: [n] class indices.
        predicted: [n] the answers, as metrics.score takes them.

    Returns:
        One row per distinct confidence, falling: threshold (the lowest confidence that is
        answered), n (answered), wrong, coverage (share answered), error (wrong / n).

    Raises:
        ValueError: the arrays do not fit each other, or hold no probabilities.
    """
    check_predictions(probabilities, truth)
    confidence, right = confidence_of(probabilities, truth, predicted)
    order = np.argsort(-confidence, kind="stable")
    wrong = (~right)[order].cumsum()
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    n = last + 1
    return pd.DataFrame(
        {
            "threshold": confidence[order][last],
            "n": n,
            "wrong": wrong[last],
            "coverage": n / len(truth),
            "error": wrong[last] / n,
        }
    )


def threshold_for(error: float, curve: pd.DataFrame) -> float | None:
    """The lowest confidence from which on answers are wrong no more often than wanted.

    One wrong answer more is counted than there are, as in conformal risk control (Angelopoulos et
    al. 2024). Otherwise the lowest of many thresholds would be one that luck favoured, and three
    right answers would promise an error of 0.

    Args:
        error: wanted share of wrong answers among the answers.
        curve: what risk_coverage returns.

    Returns:
        The threshold; 0 where all texts can be answered; None where no confidence keeps the error
        so low, which takes at least 1 / error - 1 answers.
    """
    fitting = curve[(curve["wrong"] + 1) / (curve["n"] + 1) <= error]
    if fitting.empty:
        return None
    return 0.0 if fitting["coverage"].iloc[-1] == 1 else float(fitting["threshold"].iloc[-1])


def confidence_of(
    probabilities: np.ndarray, truth: np.ndarray, predicted: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of each text's answer, [n], and whether it is right, boolean [n].

    predicted: [n] the answers; None: the most probable classes.
    """
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    return probabilities[np.arange(len(truth)), predicted], predicted == truth


def answered(
    probabilities: np.ndarray,
    truth: np.ndarray,
    threshold: float,
    predicted: np.ndarray | None = None,
) -> dict:
    """What comes of answering only from a confidence on.

    Args:
        probabilities: [n, n_classes].
        truth: [n] class indices.
        threshold: the lowest confidence that is answered.
        predicted: [n] the answers, as metrics.score takes them.

    Returns:
        n (answered), wrong, coverage (share answered) with coverage_ci95, error (wrong / n) with
        error_ci95. Where no text is answered, error and its interval are None, and the key
        `undefined` says why.
    """
    confidence, right = confidence_of(probabilities, truth, predicted)
    members = confidence >= threshold
    n, wrong = int(members.sum()), int((~right)[members].sum())
    found = {
        "n": n,
        "wrong": wrong,
        "coverage": n / len(truth),
        "coverage_ci95": list(accuracy_interval(n, len(truth))),
    }
    if not n:
        return found | {
            "error": None,
            "error_ci95": None,
            "undefined": Message("no text has so high a confidence"),
        }
    return found | {"error": wrong / n, "error_ci95": list(accuracy_interval(wrong, n))}


# ------------------------------------------------------------------------------------ in a report
def calibration_error_by_chance(probabilities: np.ndarray, seed: int = 0) -> float:
    """How large an expected calibration error means nothing, with so many texts.

    A finite sample has an error above 0 by chance alone. If each confidence is exactly right, 95
    of 100 samples stay below this one. Found by drawing what is true from the confidences (Bröcker
    and Smith 2007, "consistency resampling"), over 15 bins of equal width.

    Args:
        probabilities: [n, n_classes].
        seed: of the drawing.
    """
    confidence = probabilities.max(axis=1).astype(float)
    generator = np.random.default_rng(seed)
    edges = np.linspace(0, 1, N_BINS + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence, side="left")
    errors = []
    for _ in range(N_SAMPLES):
        surplus = confidence - (generator.random(len(confidence)) < confidence)
        errors.append(np.abs(np.bincount(bin_of, surplus)).sum() / len(confidence))
    return float(np.quantile(errors, 0.95))


def undefined(truth: np.ndarray, labels: list[str]) -> list[str]:
    """What the tested texts cannot tell, in sentences.

    Args:
        truth: [n] class indices.
        labels: the class names, in the order of their indices.
    """
    notes = []
    if len(truth) < N_BINS:
        note = Message(
            "Tested texts (n = {n}) are fewer than bins ({n_bins}): calibration errors are mostly "
            "chance.",
            n=len(truth),
            n_bins=N_BINS,
        )
        notes.append(note)
    support = np.bincount(truth, minlength=len(labels))
    absent = [label for label, n in zip(labels, support, strict=True) if not n]
    if len(absent) == len(labels) - 1:
        note = Message(
            "All tested texts are of the class “{label}”: how well the probabilities of other "
            "classes fit cannot be seen on them.",
            label=labels[int(truth[0])],
        )
        notes.append(note)
    elif absent:
        names = ", ".join(absent[:MAX_NAMES]) + (", …" if len(absent) > MAX_NAMES else "")
        note = Message(
            "No tested text is of {n_absent} of the {n_classes} classes ({names}): how well their "
            "probabilities fit cannot be seen here.",
            n_absent=len(absent),
            n_classes=len(labels),
            names=names,
        )
        notes.append(note)
    return notes
