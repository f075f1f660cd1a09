"""What calibration, thresholds and costs did to a classifier, on the tested texts.

All of them were chosen on validation texts, so that what they gain is measured on others.
`probabilities`, `truth` and `predicted` are as in metrics, or, of several labels, in multilabel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ulmfit_app.evaluation.calibration import (
    answered,
    calibration_error_by_chance,
    fit_temperature,
    risk_coverage,
    threshold_for,
)
from ulmfit_app.evaluation.decisions import Decision, fit_temperatures
from ulmfit_app.evaluation.messages import Message
from ulmfit_app.evaluation.metrics import (
    RESAMPLES,
    calibration_scores,
    macro_f1,
)
from ulmfit_app.evaluation.multilabel import calibration_of_labels, compare_sets
from ulmfit_app.evaluation.several_seeds import compare_macro_f1

WANTED_ERRORS = (0.01, 0.02, 0.05, 0.1)  # shares of the answers


@dataclass(frozen=True)
class Calibration:
    """What made answers of a classifier's outputs, and what it was chosen on.

    Attributes:
        decision: its temperatures, and perhaps thresholds or costs.
        before: probabilities of the tested texts at temperature 1, [n, n_classes].
        validation: of the texts that temperatures and thresholds were fitted on, at temperature 1,
            [n_valid, n_classes].
        groups, validation_groups: of the tested texts and of these, as `Decision.answer` takes
            them.
        validation_truth: the index of the true class of each of these, [n_valid]; of several
            labels, 1 for each that it has, [n_valid, n_classes].
    """

    decision: Decision
    before: np.ndarray
    validation: np.ndarray
    validation_truth: np.ndarray
    groups: Sequence[str] | None = None
    validation_groups: Sequence[str] | None = None


def before_and_after(
    calibration: Calibration, probabilities: np.ndarray, truth: np.ndarray
) -> dict:
    """Every number of the report about one temperature, as plain data that JSON can hold.

    Args:
        calibration: the temperature and what was known before it.
        probabilities: of the tested texts, calibrated, [n, n_classes].
        truth: [n] class indices.

    Returns:
        temperature (1 beside temperature_undefined, the reason, where none could be fitted);
        n_validation; before and after (accuracy of the most probable class and
        metrics.calibration_scores, on the tested texts); expected_calibration_error_by_chance; and
        thresholds of the confidence, one per wanted error: wanted_error, threshold, and what it
        gives on validation, where it is chosen, and on test, as `answered` has it of the answers
        that are decided on. Never NaN.
    """

    def scores(of: np.ndarray) -> dict:
        return {"accuracy": float((of.argmax(axis=1) == truth).mean())} | calibration_scores(
            of, truth
        )

    decision, known = calibration.decision, calibration.validation_truth
    _, reason = fit_temperature(calibration.validation, known)
    validation = decision.calibrate(calibration.validation)
    said = decision.answer(validation, calibration.validation_groups)
    on_validation = validation, known, said
    answers = decision.answer(probabilities, calibration.groups)
    curve = risk_coverage(*on_validation)
    thresholds = []
    for error in WANTED_ERRORS:
        threshold = threshold_for(error, curve)
        one = {"wanted_error": error, "threshold": threshold}
        if threshold is None:
            least = math.ceil(1 / error) - 1
            one["undefined"] = Message(
                "no confidence kept it on validation, which takes {least} answers at least, and "
                "none wrong",
                least=least,
            )
        else:
            on_test = probabilities, truth, threshold, answers
            one["validation"] = answered(*on_validation[:2], threshold, on_validation[2])
            one["test"] = answered(*on_test)
        thresholds.append(one)
    return {
        "temperature": decision.temperatures[0],
        **({"temperature_undefined": reason} if reason else {}),
        "n_validation": len(known),
        "before": scores(calibration.before),
        "after": scores(probabilities),
        "expected_calibration_error_by_chance": calibration_error_by_chance(probabilities),
        "thresholds": thresholds,
    }


def before_and_after_of_labels(
    calibration: Calibration, probabilities: np.ndarray, truth: np.ndarray, labels: list[str]
) -> dict:
    """Every number of the report about the temperatures of several labels, as plain data.

    Args:
        calibration: the temperatures and what was known before them.
        probabilities: of the tested texts, calibrated, [n, n_labels].
        truth: [n, n_labels].
        labels: their names.

    Returns:
        temperatures {label: temperature}; temperatures_undefined {label: reason} of those that
        stayed 1; n_validation; before and after, as multilabel.calibration_of_labels has them of
        the tested texts.
    """
    decision, known = calibration.decision, calibration.validation_truth
    temperatures = decision.temperatures * (len(labels) // len(decision.temperatures))
    _, reasons = fit_temperatures(calibration.validation, known)
    undefined = {of: reason for of, reason in zip(labels, reasons, strict=True) if reason}
    return {
        "temperatures": dict(zip(labels, temperatures, strict=True)),
        "temperatures_undefined": undefined,
        "n_validation": len(known),
        "before": calibration_of_labels(calibration.before, truth),
        "after": calibration_of_labels(probabilities, truth),
    }


# -------------------------------------------------------------------------- thresholds and costs
def judge_decision(
    calibration: Calibration, probabilities: np.ndarray, truth: np.ndarray, labels: list[str]
) -> dict | None:
    """What thresholds or costs gain over answers without them.

    Args:
        calibration: the decision and the validation texts.
        probabilities: of the tested texts, calibrated, [n, n_classes].
        truth: [n] class indices; of several labels [n, n_classes].
        labels: their names.

    Returns:
        None where there are neither. Else thresholds {label: threshold}, or costs {true label:
        {answer: cost}}, of several labels {label: {missed, in_vain}}, or by_group, as
        `_recall_by_group` has it; validation and test: n,
        macro_f1 and accuracy of the answers, plain_macro_f1 and plain_accuracy of those without
        thresholds or costs, and with costs mean_cost and plain_mean_cost, per text; and the
        differences as compare_macro_f1 and compare_costs have them. The accuracy of several labels
        is subset accuracy.
    """
    decision = calibration.decision
    found = {}
    if decision.by_group is not None:
        found["by_group"] = _recall_by_group(calibration, probabilities, truth, labels)
    elif not decision.thresholds and not decision.costs:
        return None
    if decision.costs:
        names = ("missed", "in_vain") if decision.multilabel else labels
        rows = (dict(zip(names, row, strict=True)) for row in decision.costs)
        found["costs"] = dict(zip(labels, rows, strict=True))
    elif decision.thresholds:
        found["thresholds"] = dict(zip(labels, decision.thresholds, strict=True))
    validation = decision.calibrate(calibration.validation)
    for split, p, of, groups in (
        ("validation", validation, calibration.validation_truth, calibration.validation_groups),
        ("test", probabilities, truth, calibration.groups),
    ):
        found[split] = _gains(decision, p, of, groups)
    return found


def _recall_by_group(
    calibration: Calibration, probabilities: np.ndarray, truth: np.ndarray, labels: list[str]
) -> dict:
    """column, label, and groups: group, threshold, n (tested texts of the label), recall with and
    plain_recall without the thresholds; None where there is no such text."""
    decision, groups = calibration.decision, np.asarray(calibration.groups, object)
    by = decision.by_group
    answers, plain = (decision.answer(probabilities, of) for of in (calibration.groups, None))
    rows = []
    for group, threshold in by.thresholds:
        has = (truth == by.label) & (groups == group)
        recalls = [float((said[has] == by.label).mean()) if has.any() else None
                   for said in (answers, plain)]  # fmt: skip
        names = ("recall", "plain_recall")
        row = {"group": group, "threshold": threshold, "n": int(has.sum())}
        rows.append(row | dict(zip(names, recalls, strict=True)))
    return {"column": by.column, "label": labels[by.label], "groups": rows}


def _gains(
    decision: Decision,
    probabilities: np.ndarray,
    truth: np.ndarray,
    groups: Sequence[str] | None,
) -> dict:
    """Scores of the answers, of the plain ones, and the differences."""
    answers = decision.answer(probabilities, groups)
    plain = Decision(decision.multilabel).answer(probabilities)
    if decision.multilabel:
        compared = compare_sets(truth, answers, plain)
        compared = {name: compared[name] for name in compared if name.startswith("macro")}
    else:
        compared = compare_macro_f1(truth, answers, plain, probabilities.shape[1])
    found = {"n": len(truth)}
    for name, said in (("", answers), ("plain_", plain)):
        found[f"{name}macro_f1"] = _macro_f1_of(said, truth)
        right = said == truth
        found[f"{name}accuracy"] = float((right.all(axis=1) if right.ndim == 2 else right).mean())
        if decision.costs:
            found[f"{name}mean_cost"] = float(costs_of(said, truth, decision).mean())
    if decision.costs:
        compared |= compare_costs(*(costs_of(of, truth, decision) for of in (answers, plain)))
    return found | compared


def _macro_f1_of(said: np.ndarray, truth: np.ndarray) -> float:
    """Over the classes that are said or true; 0 where no text has or is given any label."""
    if truth.ndim == 1:
        return macro_f1(said, truth)
    there = (said + truth.astype(int)).any(axis=0)
    of_labels = 2 * (said & (truth > 0)).sum(axis=0) / np.maximum((said + truth).sum(axis=0), 1)
    return float(of_labels[there].mean()) if there.any() else 0.0


def costs_of(said: np.ndarray, truth: np.ndarray, decision: Decision) -> np.ndarray:
    """What each text's answer costs, [n], of several labels their sum.

    said, truth: as the decision answers, and what is true.
    """
    costs = np.array(decision.costs, float)
    if not decision.multilabel:
        return costs[truth, said]
    missed, in_vain = costs.T
    has = truth > 0
    return (has & ~said) @ missed + (~has & said) @ in_vain


def compare_costs(costs: np.ndarray, other: np.ndarray) -> dict:
    """The mean of paired differences of costs, with the bootstrap's interval over texts.

    Args:
        costs, other: of the same texts, [n].

    Returns:
        mean_cost_difference (first minus other) and mean_cost_difference_ci95.
    """
    differences = costs - other
    return {
        "mean_cost_difference": float(differences.mean()),
        "mean_cost_difference_ci95": _resampled_mean(differences),
    }


def mean_cost(costs: np.ndarray) -> dict:
    """The mean cost per text and the bootstrap's 95 % interval over texts. costs: [n]."""
    return {"mean_cost": float(costs.mean()), "mean_cost_ci95": _resampled_mean(costs)}


def _resampled_mean(values: np.ndarray) -> list[float]:
    """The bounds of the middle 95 % of the means of RESAMPLES resamples. values: [n]."""
    distinct, counts = np.unique(values, return_counts=True)
    n = len(values)
    drawn = np.random.default_rng(0).multinomial(n, counts / n, RESAMPLES) @ distinct / n
    return np.quantile(drawn, [0.025, 0.975]).tolist()


def without_answers(predicted: np.ndarray, truth: np.ndarray, labels: list[str]) -> list[str]:
    """The labels that texts have, and no text is given.

    predicted, truth: [n] class indices; of several labels [n, n_labels].
    """
    if truth.ndim == 1:
        given, there = (np.bincount(of, minlength=len(labels)) for of in (predicted, truth))
    else:
        given, there = predicted.sum(axis=0), truth.sum(axis=0)
    return [
        label for label, n, n_true in zip(labels, given, there, strict=True) if n_true and not n
    ]
