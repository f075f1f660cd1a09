"""How good are the probabilities and the answers where a text may have several labels, or none?

Everywhere here `probabilities`, `truth` and `predicted` are [n, n_labels]: how probable each label
is, whether a text has it, and whether it is given it. Sets of labels are compared as scikit-learn
compares them; a mean over labels leaves out those of which the number is undefined, as
`zero_division=np.nan` does there.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.metrics import (
    N_BINS,
    RESAMPLES,
    accuracy_interval,
    bin_outcomes,
    calibration_error,
)
from ulmfit_app.evaluation.ranking import (
    average_precision,
    coverage_error,
    label_ranking_average_precision,
)

AT_ONCE = 100  # resamples; of 50,000 texts 40 MB


def score_sets(
    probabilities: np.ndarray,
    truth: np.ndarray,
    labels: list[str],
    predicted: np.ndarray,
    limits: np.ndarray | None = None,
) -> dict:
    """Every number of the report for one model, as plain data that JSON can hold.

    Args:
        probabilities: [n, n_labels].
        truth: [n, n_labels].
        labels: their names, in the order of the columns.
        predicted: [n, n_labels].
        limits: what the probability of each label had to reach, [n_labels], where that is known.

    Returns:
        n; micro and macro precision, recall and F1 (the two F1 with _ci95, as resample_f1 has
        it); subset_accuracy (the share of texts with exactly their labels) with its Wilson
        interval; hamming_loss (the share of wrong ones among all answers to text and label);
        mean_average_precision (over labels that a text has); coverage_error and
        label_ranking_average_precision; means over the labels of log_loss (nats), brier_score and
        expected_calibration_error; and per_label {label: support, predicted (texts that were
        given it), threshold, precision, recall, f1, average_precision, log_loss, brier_score,
        expected_calibration_error}. A number that is undefined is None, never NaN, and the label
        then has a key `undefined` that says why.

    Raises:
        ValueError: the arrays do not fit each other, or hold no probabilities.
    """
    check_sets(probabilities, truth)
    n, truth = len(truth), truth.astype(bool)
    per_label = {
        label: _label_scores(probabilities[:, i].astype(float), truth[:, i], predicted[:, i])
        for i, label in enumerate(labels)
    }
    if limits is not None:
        for scores, limit in zip(per_label.values(), limits, strict=True):
            scores["threshold"] = float(limit)
    exact = int((truth == predicted).all(axis=1).sum())
    return {
        "n": n,
        **_micro_scores(truth, predicted),
        **{f"macro_{of}": _mean(per_label, of) for of in ("precision", "recall", "f1")},
        **resample_f1(truth, predicted),
        "subset_accuracy": exact / n,
        "subset_accuracy_ci95": list(accuracy_interval(exact, n)),
        "hamming_loss": float((truth != predicted).mean()),
        "mean_average_precision": _mean(per_label, "average_precision"),
        "coverage_error": coverage_error(probabilities, truth),
        "label_ranking_average_precision": label_ranking_average_precision(probabilities, truth),
        **{of: _mean(per_label, of) for of in CALIBRATION},
        "per_label": per_label,
    }


def _micro_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    """Precision, recall and F1 of all answers together."""
    hits, said, true = (int(of.sum()) for of in (truth & predicted, predicted, truth))
    return {
        "micro_precision": hits / said if said else None,
        "micro_recall": hits / true if true else None,
        "micro_f1": 2 * hits / (said + true) if said + true else None,
    }


def _mean(per_label: dict[str, dict], of: str) -> float | None:
    """Over the labels of which it is defined."""
    found = [one[of] for one in per_label.values() if one[of] is not None]
    return float(np.mean(found)) if found else None


CALIBRATION = ("log_loss", "brier_score", "expected_calibration_error")


def _label_scores(probabilities: np.ndarray, has: np.ndarray, given: np.ndarray) -> dict:
    """The scores of one label; all [n]."""
    hits, said, support = (int(of.sum()) for of in (has & given, given, has))
    scores = {
        "support": support,
        "predicted": said,
        "precision": hits / said if said else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (said + support) if said + support else None,
        "average_precision": average_precision(probabilities, has),
        **calibration_of_label(probabilities, has),
    }
    reasons = []
    if not said:
        reasons.append("precision: no text was given this label")
    if not support:
        reasons.append("recall and average precision: no text has this label")
    return scores | ({"undefined": "; ".join(reasons)} if reasons else {})


def calibration_of_label(probabilities: np.ndarray, has: np.ndarray) -> dict[str, float]:
    """How well a label's probabilities, [n], fit which texts have it: CALIBRATION, 0 at best.

    Probabilities below 2.2e-16 count as that in the log loss; the calibration error is over
    N_BINS of equal width of the label's own probability.
    """
    of_truth = np.where(has, probabilities, 1 - probabilities)
    found = (
        -np.log(np.clip(of_truth, np.finfo(float).eps, 1)).mean(),
        ((1 - of_truth) ** 2).mean(),
        calibration_error(bin_outcomes(probabilities, has, N_BINS)),
    )
    return dict(zip(CALIBRATION, map(float, found), strict=True))


def calibration_of_labels(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The means over the labels of `calibration_of_label`, and the error of all labels pooled."""
    each = [
        calibration_of_label(column, has)
        for column, has in zip(probabilities.astype(float).T, truth.astype(bool).T, strict=True)
    ]
    means = {of: float(np.mean([one[of] for one in each])) for of in CALIBRATION}
    return means | {"pooled_calibration_error": calibration_error(pool(probabilities, truth))}


def pool(probabilities: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """Bins of all texts and labels together, as metrics.bin_outcomes gives them."""
    return bin_outcomes(probabilities.astype(float).ravel(), truth.astype(bool).ravel())


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """The mean of average precision over the labels that a text has; 0 where none has any.

    Args:
        scores: anything that ranks as probabilities do, [n, n_labels].
        truth: [n, n_labels].
    """
    each = [average_precision(*of) for of in zip(scores.T, truth.T, strict=True)]
    found = [one for one in each if one is not None]
    return float(np.mean(found)) if found else 0.0


# --------------------------------------------------------------------------------------- bootstrap
def resample_f1(truth: np.ndarray, predicted: np.ndarray) -> dict[str, list[float]]:
    """95 % intervals of micro and macro F1, as compare_sets has those of their differences.

    Returns:
        micro_f1_ci95 and macro_f1_ci95.
    """
    (true, said), counts = _kinds(truth, predicted)
    drawn = _draw(counts, lambda times: _f1(times, true, said))
    return {f"{kind}_f1_ci95": _interval(of) for kind, of in drawn.items()}


def compare_sets(truth: np.ndarray, predicted: np.ndarray, other: np.ndarray) -> dict:
    """Two classifiers on the same texts by micro and by macro F1.

    The intervals are the percentile bootstrap's over texts (Efron and Tibshirani 1993, chapter
    13), of RESAMPLES resamples that are always the same.

    Args:
        truth: [n, n_labels].
        predicted, other: [n, n_labels], each classifier's answers.

    Returns:
        micro_f1_difference and macro_f1_difference (first minus other), each with _ci95.
    """
    (true, first, second), counts = _kinds(truth, predicted, other)

    def differ(times: np.ndarray) -> dict[str, np.ndarray]:
        one, two = (_f1(times, true, said) for said in (first, second))
        return {kind: one[kind] - two[kind] for kind in one}

    whole, drawn = differ(counts[None].astype(float)), _draw(counts, differ)
    found = {}
    for kind, values in drawn.items():
        difference = float(whole[kind][0])
        found[f"{kind}_f1_difference"] = difference if np.isfinite(difference) else 0.0
        found[f"{kind}_f1_difference_ci95"] = _interval(values)
    return found


def _kinds(*sets: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Texts that are alike in all of these [n, n_labels], once, and how many each stands for."""
    together = np.concatenate([one.astype(bool) for one in sets], axis=1)
    _, first, counts = np.unique(
        np.packbits(together, axis=1), axis=0, return_index=True, return_counts=True
    )
    return np.split(together[first], len(sets), axis=1), counts


def _f1(times: np.ndarray, true: np.ndarray, said: np.ndarray) -> dict[str, np.ndarray]:
    """Micro and macro F1, [n_samples], of samples in which a kind of text is so many times.

    times: [n_samples, n_kinds]; true, said: [n_kinds, n_labels].
    """
    hits, found = times @ (true & said), times @ said + times @ true
    none = np.full(hits.shape, np.nan)
    macro = np.divide(2 * hits, found, where=found > 0, out=none)
    n_defined = (found > 0).sum(axis=1)
    with np.errstate(invalid="ignore"):  # where no text has or is given any label
        return {
            "micro": 2 * hits.sum(axis=1) / found.sum(axis=1),
            "macro": np.nansum(macro, axis=1) / n_defined,
        }


def _draw(
    counts: np.ndarray, of: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What a function gives of RESAMPLES resamples. of: [n_samples, n_kinds] -> by name."""
    generator, shares = np.random.default_rng(0), counts / counts.sum()
    parts = [
        of(generator.multinomial(counts.sum(), shares, AT_ONCE).astype(float))
        for _ in range(RESAMPLES // AT_ONCE)
    ]
    return {kind: np.concatenate([part[kind] for part in parts]) for kind in parts[0]}


def _interval(values: np.ndarray) -> list[float]:
    """The middle 95 % of values; no width at 0 where all of them are undefined."""
    values = values[np.isfinite(values)]
    return np.quantile(values, [0.025, 0.975]).tolist() if len(values) else [0.0, 0.0]


def check_sets(probabilities: np.ndarray, truth: np.ndarray) -> None:
    """Refuse arrays that would give a number without a meaning.

    Args:
        probabilities: expected to be [n, n_labels], from 0 to 1.
        truth: expected to be [n, n_labels] of 0 and 1.

    Raises:
        ValueError: they are not; the message says what was found.
    """
    if probabilities.ndim != 2 or truth.shape != probabilities.shape or not len(truth):
        raise ValueError(
            "expected probabilities and truth [n, n_labels] with n >= 1, "
            f"found {list(probabilities.shape)} and {list(truth.shape)}"
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(f"expected a truth of 0 and 1, found {np.unique(truth)[:10]}")
    # Written so that NaN, which compares as False with everything, is caught too.
    proper = ((probabilities >= 0) & (probabilities <= 1)).all(axis=1)
    if not proper.all():
        row = int(np.argmin(proper))
        raise ValueError(
            f"expected probabilities from 0 to 1, found {int((~proper).sum())} other rows, the "
            f"first of them row {row}: {probabilities[row][:10]}"
        )
