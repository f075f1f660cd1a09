"""Temperature, thresholds and what is undefined, against scikit-learn, scipy and hand counts."""

import inspect
import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binom, binomtest, chi2
from sklearn import calibration as sklearn_calibration
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import log_loss

from ulmfit_app.evaluation.calibrated import WANTED_ERRORS, Calibration, before_and_after
from ulmfit_app.evaluation.calibration import (
    answered,
    calibration_error_by_chance,
    fit_temperature,
    risk_coverage,
    tempered,
    threshold_for,
    undefined,
)
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.metrics import expected_calibration_error


def drawn(
    n: int = 2000, n_classes: int = 4, sharpened: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that truth is drawn from, then sharpened: their temperature is `sharpened`."""
    generator = np.random.default_rng(seed)
    logits = 2 * generator.normal(size=(n, n_classes))
    truth = (softmax(logits, axis=1).cumsum(axis=1) > generator.random((n, 1))).argmax(axis=1)
    return softmax(logits * sharpened, axis=1), truth


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose probabilities are its input."""

    def __init__(self, n_classes: int = 2):
        self.n_classes = n_classes

    def fit(self, X, y):
        self.classes_ = np.arange(self.n_classes)
        return self

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return X.argmax(axis=1)


def calibrated_by_sklearn(validation, truth, probabilities):
    frozen = pytest.importorskip("sklearn.frozen")
    if "temperature" not in inspect.getsource(sklearn_calibration):
        pytest.skip("this scikit-learn has no temperature scaling")
    model = frozen.FrozenEstimator(Given(validation.shape[1]).fit(validation, truth))
    fitted = sklearn_calibration.CalibratedClassifierCV(
        model, method="temperature", ensemble=False
    ).fit(validation, truth)
    return fitted.predict_proba(probabilities)


# ------------------------------------------------------------------------------------ temperature
# Sharper, and scikit-learn's addition of 2e-16 to each probability begins to show.
@pytest.mark.parametrize("n_classes", [2, 4, 50])
@pytest.mark.parametrize("sharpened", [0.5, 1.6])
def test_the_temperature_gives_what_scikit_learns_temperature_scaling_gives(n_classes, sharpened):
    validation, truth = drawn(n=800, n_classes=n_classes, sharpened=sharpened)
    probabilities, _ = drawn(n=300, n_classes=n_classes, sharpened=sharpened, seed=1)
    temperature, _ = fit_temperature(validation, truth)
    expected = calibrated_by_sklearn(validation, truth, probabilities)
    assert tempered(probabilities, temperature) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n_classes", [2, 4, 50])
@pytest.mark.parametrize("sharpened", [0.5, 2.5])
def test_no_temperature_of_a_grid_has_a_lower_log_loss(n_classes, sharpened):
    probabilities, truth = drawn(n=1000, n_classes=n_classes, sharpened=sharpened)
    temperature, reason = fit_temperature(probabilities, truth)
    assert reason == "" and temperature == pytest.approx(sharpened, rel=0.1)

    def loss(at):
        return log_loss(truth, tempered(probabilities, at), labels=range(n_classes))

    grid = sharpened * np.geomspace(0.7, 1.4, 50)
    losses = [loss(at) for at in grid]
    assert loss(temperature) <= min(losses)
    assert temperature == pytest.approx(grid[np.argmin(losses)], rel=0.015)  # the grid's step


def test_at_the_temperature_confidence_is_what_is_found():
    """The log loss is flat where the mean logit of the true class is the expected one."""
    probabilities, truth = drawn(sharpened=2)
    temperature, _ = fit_temperature(probabilities, truth)
    logits, after = np.log(probabilities), tempered(probabilities, temperature)
    assert logits[np.arange(len(truth)), truth].mean() == pytest.approx(
        (after * logits).sum(axis=1).mean(), abs=1e-6
    )


@pytest.mark.parametrize("n_classes", [2, 4, 50])
@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 3.0, 50.0])
def test_no_prediction_changes_with_the_temperature(n_classes, temperature):
    probabilities, _ = drawn(n_classes=n_classes)
    rough = np.round(probabilities, 1) + 0.01  # many classes equally probable
    for before in (probabilities, rough / rough.sum(axis=1, keepdims=True)):
        after = tempered(before, temperature)
        assert (after.argmax(axis=1) == before.argmax(axis=1)).all()
        assert after.sum(axis=1) == pytest.approx(1)


def test_temperature_one_changes_no_bit():
    probabilities, _ = drawn()
    assert np.array_equal(tempered(probabilities, 1.0), probabilities)


def test_a_probability_of_zero_stays_the_smallest_and_gives_no_nan():
    after = tempered(np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]), 2)
    assert np.isfinite(after).all() and after[0].argmax() == 0 and after[1, 2] < 1e-100
    certain = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2]])
    assert np.isfinite(fit_temperature(certain, np.array([1, 0, 0]))[0])


def test_thousands_of_equally_probable_classes_give_no_nan_at_a_small_temperature():
    after = tempered(np.full((1, 2000), 1 / 2000), 0.01)
    assert after == pytest.approx(np.full((1, 2000), 1 / 2000))


def test_overconfidence_is_a_temperature_above_one_and_calibrating_takes_its_error_away():
    validation, truth = drawn(sharpened=2)
    probabilities, of_test = drawn(n=20_000, sharpened=2, seed=1)
    temperature, _ = fit_temperature(validation, truth)
    assert temperature > 1.8
    assert expected_calibration_error(probabilities, of_test) > 0.1
    assert expected_calibration_error(tempered(probabilities, temperature), of_test) < 0.02


@pytest.mark.parametrize(
    ("truth", "words"),
    [
        ([0, 1, 0, 1], "each of them is given its class"),
        ([1, 0, 1, 0], "no better than a guess"),
    ],
)
def test_where_log_loss_has_no_lowest_point_the_temperature_stays_one_and_the_reason_is_said(
    truth, words
):
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4], [0.2, 0.8]])
    temperature, reason = fit_temperature(probabilities, np.array(truth))
    assert temperature == 1 and words in reason


def test_a_temperature_is_left_at_one_as_often_as_its_likelihood_ratio_test_promises():
    found = [fit_temperature(*drawn(n=100, sharpened=1.0, seed=seed)) for seed in range(200)]
    kept = [reason for temperature, reason in found if temperature == 1]
    assert all("not enough to show that another is better" in reason for reason in kept)
    assert 180 <= len(kept) <= 199, "19 of 20 where 1 is right"

    probabilities, truth = drawn(n=100, sharpened=1.15, seed=1)
    best = minimize_scalar(
        lambda t: log_loss(truth, tempered(probabilities, t)), bounds=(0.1, 10), method="bounded"
    )
    ratio = 2 * 100 * (log_loss(truth, probabilities) - best.fun)
    _, reason = fit_temperature(probabilities, truth)
    assert f"(the best is {best.x:.3g}, p = {chi2.sf(ratio, 1):.2g})" in reason


@pytest.mark.parametrize("truth", [0, 1])
def test_one_text_is_no_reason_for_a_temperature(truth):
    assert fit_temperature(np.array([[0.9, 0.1]]), np.array([truth]))[0] == 1


def test_a_temperature_is_not_fitted_on_what_is_no_probability():
    with pytest.raises(ValueError, match="rows of probabilities that sum to 1"):
        fit_temperature(np.array([[0.5, 0.6]]), np.array([0]))


# ------------------------------------------------------------------------------ risk and coverage
def test_risk_and_coverage_are_those_of_every_threshold_tried_alone():
    probabilities, truth = drawn(n=300, n_classes=2)
    probabilities = probabilities.round(2)  # so that texts share confidences
    curve, confidence = risk_coverage(probabilities, truth), probabilities.max(axis=1)
    assert curve["threshold"].tolist() == sorted(set(confidence), reverse=True)
    for row in curve.itertuples():
        members = confidence >= row.threshold
        wrong = probabilities[members].argmax(axis=1) != truth[members]
        assert (row.n, row.wrong) == (members.sum(), wrong.sum())
        assert (row.coverage, row.error) == (members.mean(), wrong.mean())


def test_there_is_no_curve_of_what_is_no_probability():
    with pytest.raises(ValueError, match="rows of probabilities that sum to 1"):
        risk_coverage(np.array([[0.5, 0.6]]), np.array([0]))


def made_curve(right: list[bool]):
    """The curve of texts of falling confidence, right or wrong."""
    confidence = np.linspace(0.99, 0.51, len(right))
    return risk_coverage(np.c_[confidence, 1 - confidence], np.where(right, 0, 1)), confidence


def test_the_threshold_is_the_lowest_with_one_wrong_answer_to_spare():
    # 20 right, 1 wrong, 20 right, 9 wrong: (1 + 1) / (41 + 1) and (3 + 1) / (43 + 1) are within
    # 10 %, 5 / 45 is not.
    curve, confidence = made_curve([True] * 20 + [False] + [True] * 20 + [False] * 9)
    assert threshold_for(0.1, curve) == confidence[42]
    assert threshold_for(0.05, curve) == confidence[40]
    assert threshold_for(0.5, curve) == 0


def test_few_right_answers_do_not_promise_a_small_error():
    curve, _ = made_curve([True] * 98 + [False] * 30)
    assert threshold_for(0.01, curve) is None
    curve, confidence = made_curve([True] * 99 + [False] * 30)
    assert threshold_for(0.01, curve) == confidence[98]


def test_over_many_validation_splits_thresholds_give_the_wanted_error():
    given = []
    probabilities, truth = drawn(n=20_000, n_classes=2, seed=99)
    for seed in range(30):
        curve = risk_coverage(*drawn(n=1000, n_classes=2, seed=seed))
        given.append(answered(probabilities, truth, threshold_for(0.1, curve))["error"])
    assert np.mean(given) == pytest.approx(0.1, abs=0.01)


def test_answers_from_a_threshold_on_stand_with_their_intervals():
    probabilities, truth = drawn(n=500)
    found = answered(probabilities, truth, 0.8)
    members = probabilities.max(axis=1) >= 0.8
    wrong = int((probabilities[members].argmax(axis=1) != truth[members]).sum())
    assert (found["n"], found["wrong"]) == (members.sum(), wrong)
    for share, counts in (
        ("error", (wrong, int(members.sum()))),
        ("coverage", (int(members.sum()), 500)),
    ):
        expected = binomtest(*counts).proportion_ci(method="wilson")
        assert found[share] == counts[0] / counts[1]
        assert found[f"{share}_ci95"] == pytest.approx([expected.low, expected.high], abs=1e-9)


def test_no_answer_has_no_error_and_says_why():
    found = answered(np.array([[0.6, 0.4]]), np.array([0]), 0.9)
    assert (found["n"], found["coverage"], found["error"], found["error_ci95"]) == (
        0,
        0,
        None,
        None,
    )
    assert found["undefined"] == "no text has so high a confidence"


# ------------------------------------------------------------------------------------ in a report
@pytest.mark.parametrize("n", [1, 30, 400])
def test_the_calibration_error_by_chance_is_that_of_the_binomial_where_all_confidences_are_equal(
    n,
):
    outcomes = np.arange(n + 1)
    errors = np.abs(outcomes / n - 0.8)
    order = errors.argsort()
    expected = errors[order][np.searchsorted(binom.pmf(outcomes, n, 0.8)[order].cumsum(), 0.95)]
    found = calibration_error_by_chance(np.tile([0.8, 0.2], (n, 1)))
    assert found == pytest.approx(expected, abs=0.1 * expected)


@pytest.mark.parametrize(("n_classes", "sharpened"), [(2, 1.0), (60, 0.3)])
def test_the_calibration_error_by_chance_is_that_of_truths_drawn_from_spread_confidences(
    n_classes, sharpened
):
    probabilities, _ = drawn(200, n_classes, sharpened)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    generator, errors = np.random.default_rng(1), []
    for _ in range(400):
        is_right = generator.random(200) < confidence
        truth = np.where(is_right, predicted, (predicted + 1) % n_classes)
        errors.append(expected_calibration_error(probabilities, truth))
    found = calibration_error_by_chance(probabilities)
    assert found == pytest.approx(np.quantile(errors, 0.95), rel=0.08)
    assert found == calibration_error_by_chance(probabilities, seed=0)
    assert found != calibration_error_by_chance(probabilities, seed=1)


def report_of(n: int, n_validation: int, n_classes: int = 3, truth=None):
    probabilities, of_test = drawn(n, n_classes, sharpened=2, seed=1)
    validation, of_validation = drawn(n_validation, n_classes, sharpened=2)
    temperature, _ = fit_temperature(validation, of_validation)
    decision = Decision(temperatures=(temperature,))
    calibration = Calibration(decision, probabilities, validation, of_validation)
    return before_and_after(
        calibration, tempered(probabilities, temperature), of_test if truth is None else truth
    )


def test_before_and_after_differ_in_all_but_the_accuracy():
    found = report_of(2000, 1000)
    before, after = found["before"], found["after"]
    probabilities, truth = drawn(2000, 3, sharpened=2, seed=1)
    assert before["accuracy"] == after["accuracy"] == (probabilities.argmax(1) == truth).mean()
    for key in (
        "log_loss",
        "brier_score",
        "expected_calibration_error",
        "expected_calibration_error_equal_mass",
    ):
        assert after[key] < before[key]
    assert "temperature_undefined" not in found and found["n_validation"] == 1000
    assert [one["wanted_error"] for one in found["thresholds"]] == list(WANTED_ERRORS)
    for one in found["thresholds"]:
        assert one["validation"]["error"] <= one["wanted_error"]
        assert one["test"]["error_ci95"][0] <= one["test"]["error"] <= one["test"]["error_ci95"][1]
    coverages = [one["test"]["coverage"] for one in found["thresholds"]]
    assert coverages == sorted(coverages)


def test_what_is_undefined_is_said_and_never_nan():
    for n, n_validation in ((1, 1), (5, 2), (40, 1)):
        found = report_of(n, n_validation)
        json.dumps(found, allow_nan=False)
        for one, fewest in zip(found["thresholds"], (99, 49, 19, 9), strict=True):
            assert f"takes {fewest} answers at least" in one["undefined"]
    json.dumps(report_of(50, 500, truth=np.zeros(50, dtype=int)), allow_nan=False)
    assert (
        "each of them is given its class" in report_of(20, 1, n_classes=2)["temperature_undefined"]
    )


def test_what_the_tested_texts_cannot_tell_is_said_in_sentences():
    labels = [f"c{index}" for index in range(9)]
    assert undefined(np.arange(50) % 9, labels) == []
    assert undefined(np.arange(15) % 9, labels) == []
    assert "of 5 of the 9 classes (c4, c5, c6, c7, c8)" in undefined(np.arange(50) % 4, labels)[0]
    assert "calibration errors are mostly chance" in undefined(np.arange(14) % 9, labels)[0]
    assert (
        "All tested texts are of the class “c0”" in undefined(np.zeros(50, dtype=int), labels)[0]
    )
    assert (
        "of 7 of the 9 classes (c2, c3, c4, c5, c6, …)" in undefined(np.arange(50) % 2, labels)[0]
    )
