"""Probabilities that mean what they say, and what comes of answering only where they are high.

`probabilities` and `truth` are as in metrics.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import chi2

from ulmfit_app.evaluation.metrics import (
    N_BINS,
    SIGNIFICANT,
    accuracy_interval,
    calibration_scores,
    check_predictions,
)

LARGEST_TEMPERATURE = (
    100.0  # and the smallest is 1 / 100; beyond, probabilities are uniform or all 0 and 1
)
WANTED_ERRORS = (0.01, 0.02, 0.05, 0.1)  # shares of the answers
N_SAMPLES = 400  # of what chance does; the 95th in 100 is then known to about one in 100
MAX_NAMES = 5  # of classes in a sentence


@dataclass(frozen=True)
class Calibration:
    """What calibrated the probabilities of tested texts, and the probabilities before it, at temperature 1.

    before: of the tested texts [n, n_classes]. validation: of the texts that the temperature was fitted on
    [n_valid, n_classes], with the index of the true class of each [n_valid].
    """

    temperature: float
    before: np.ndarray
    validation: np.ndarray
    validation_truth: np.ndarray


# --------------------------------------------------------------------------------------------------------- temperature
def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities that logits divided by `temperature` give (Guo et al. 2017, section 4.2).

    Logits are known from probabilities up to a constant, which a softmax does not see. Above 1 all move towards 1/n_classes,
    below 1 away from it; which one is the largest does not change.

    >>> tempered(np.array([[0.8, 0.2]]), temperature=2).round(3).tolist()
    [[0.667, 0.333]]
    """
    return (
        probabilities
        if temperature == 1
        else softmax(_logits(probabilities) / temperature, axis=1)
    )


def fit_temperature(probabilities: np.ndarray, truth: np.ndarray) -> tuple[float, str]:
    """The temperature of the lowest log loss on these texts, which must not be those that it is then judged on.

    Returns it with "", or 1 and the reason, as half a sentence: where log loss has no lowest point, or so few texts cannot
    tell that temperature from 1 (likelihood-ratio test at 5 %); as noise it would do more harm than good.
    Raises ValueError when the arrays do not fit each other or hold no probabilities.
    """
    check_predictions(probabilities, truth)
    logits = _logits(probabilities)
    each = np.arange(len(truth))
    # Log loss is convex in 1 / temperature; the two slopes at its ends tell whether there is a minimum between them.
    if (logits[each, truth] == logits.max(axis=1)).all():
        return 1.0, "each of them is given its class, so that log loss falls with the temperature"
    if logits[each, truth].mean() <= logits.mean():
        return (
            1.0,
            "their classes are no more probable than others, so that log loss falls as the temperature rises",
        )

    def log_loss(log_temperature: float) -> float:
        return -log_softmax(logits / math.exp(log_temperature), axis=1)[each, truth].mean()

    end = math.log(LARGEST_TEMPERATURE)
    found = minimize_scalar(
        log_loss, bounds=(-end, end), method="bounded", options={"xatol": 1e-8}
    )
    # Where 1 is right, twice the gain in log-likelihood is distributed as chi-squared with one degree of freedom (Wilks).
    p_value = chi2.sf(2 * len(truth) * (log_loss(0.0) - found.fun), df=1)
    if p_value > SIGNIFICANT:
        return (
            1.0,
            f"they are no proof that any other is better (the best is {math.exp(found.x):.3g}, p = {p_value:.2g})",
        )
    return math.exp(found.x), ""


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Logits of probabilities, in double precision; 0 counts as the smallest number."""
    return np.log(np.clip(probabilities.astype(float), np.finfo(float).tiny, None))


# ----------------------------------------------------------------------------------------------------- risk and coverage
def risk_coverage(probabilities: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """The error among answered texts, as more and more are answered, the most confident first (Geifman and El-Yaniv 2017).

    One row a distinct confidence, falling. Columns: threshold (the lowest confidence that is answered), n (answered),
    wrong, coverage (share answered), error (wrong / n).
    """
    check_predictions(probabilities, truth)
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    wrong = (probabilities.argmax(axis=1) != truth)[order].cumsum()
    # Texts of one confidence are answered together, or not at all.
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
    """The lowest confidence from which on answers are wrong no more often than `error`: 0 where all texts can be answered.

    curve: what risk_coverage returns. One wrong answer more is counted than there are, as in conformal risk control
    (Angelopoulos et al. 2024), or the lowest of many thresholds would be one that luck favoured, and three right answers
    would promise an error of 0. None where no confidence keeps the error so low; that takes 1 / error - 1 answers or more.
    """
    fitting = curve[(curve["wrong"] + 1) / (curve["n"] + 1) <= error]
    if fitting.empty:
        return None
    return 0.0 if fitting["coverage"].iloc[-1] == 1 else float(fitting["threshold"].iloc[-1])


def answered(probabilities: np.ndarray, truth: np.ndarray, threshold: float) -> dict:
    """What comes of answering only where the confidence is `threshold` or more.

    Returns n (answered), wrong, coverage (share answered) with coverage_ci95, error (wrong / n) with error_ci95. Where no
    text is answered, error and its interval are None, and the key `undefined` says why.
    """
    members = probabilities.max(axis=1) >= threshold
    n, wrong = int(members.sum()), int((probabilities.argmax(axis=1) != truth)[members].sum())
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
            "undefined": "no text has so high a confidence",
        }
    return found | {"error": wrong / n, "error_ci95": list(accuracy_interval(wrong, n))}


# ------------------------------------------------------------------------------------------------------------- in a report
def calibration_error_by_chance(probabilities: np.ndarray, seed: int = 0) -> float:
    """An expected calibration error that 95 of 100 samples of so many texts stay below if each confidence is exactly right.

    A finite sample has an error above 0 by chance alone; this says how large one means nothing. By drawing what is true
    from the confidences (Bröcker and Smith 2007, "consistency resampling"), over 15 bins of equal width.
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


def before_and_after(
    calibration: Calibration, probabilities: np.ndarray, truth: np.ndarray
) -> dict:
    """Every number of the report about one temperature, as plain data that JSON can hold (never NaN).

    probabilities: of the tested texts, calibrated.
    Returns temperature (1 beside temperature_undefined, the reason, where none could be fitted); n_validation; before and
    after (accuracy and metrics.calibration_scores, on the tested texts); expected_calibration_error_by_chance; thresholds,
    one for each wanted error (wanted_error, threshold, and what it gives on validation, where it is chosen, and on test, as
    `answered` has it).
    """

    def scores(of: np.ndarray) -> dict:
        return {"accuracy": float((of.argmax(axis=1) == truth).mean())} | calibration_scores(
            of, truth
        )

    validation, validation_truth = calibration.validation, calibration.validation_truth
    _, reason = fit_temperature(validation, validation_truth)
    validation = tempered(validation, calibration.temperature)
    curve = risk_coverage(validation, validation_truth)
    thresholds = []
    for error in WANTED_ERRORS:
        threshold = threshold_for(error, curve)
        one = {"wanted_error": error, "threshold": threshold}
        if threshold is None:
            least = math.ceil(1 / error) - 1
            one["undefined"] = (
                f"no confidence assured it on validation, which takes {least} answers at least, and none wrong"
            )
        else:
            one["validation"] = answered(validation, validation_truth, threshold)
            one["test"] = answered(probabilities, truth, threshold)
        thresholds.append(one)
    return {
        "temperature": calibration.temperature,
        **({"temperature_undefined": reason} if reason else {}),
        "n_validation": len(validation_truth),
        "before": scores(calibration.before),
        "after": scores(probabilities),
        "expected_calibration_error_by_chance": calibration_error_by_chance(probabilities),
        "thresholds": thresholds,
    }


def undefined(truth: np.ndarray, labels: list[str]) -> list[str]:
    """What the tested texts cannot tell, in sentences. labels: the class names, in the order of their indices."""
    notes = []
    if len(truth) < N_BINS:
        notes.append(
            f"Tested texts (n = {len(truth)}) are fewer than bins ({N_BINS}): calibration errors are mostly chance."
        )
    support = np.bincount(truth, minlength=len(labels))
    absent = [label for label, n in zip(labels, support, strict=True) if not n]
    if len(absent) == len(labels) - 1:
        notes.append(
            f"All tested texts are of the class “{labels[int(truth[0])]}”: how well the probabilities of other classes fit "
            "cannot be seen on them."
        )
    elif absent:
        names = ", ".join(absent[:MAX_NAMES]) + (", …" if len(absent) > MAX_NAMES else "")
        notes.append(
            f"No tested text is of {len(absent)} of the {len(labels)} classes ({names}): how well their probabilities fit "
            "cannot be seen here."
        )
    return notes
