"""Metrics against scikit-learn, torchmetrics, scipy and values worked out by hand."""

import inspect
import json
import math
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from ulmfit_app import evaluation
from ulmfit_app.evaluation.metrics import (
    accuracy_interval,
    calibration_bins,
    expected_calibration_error,
    macro_f1,
    maximum_calibration_error,
    paired_comparison,
    score,
)
from ulmfit_app.evaluation.several_seeds import compare_macro_f1


def softmax_predictions(
    n: int = 2000, n_classes: int = 5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident probabilities that are right more often than chance, and the truth."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(n_classes, size=n)
    logits = 2 * generator.normal(size=(n, n_classes))
    logits[np.arange(n), truth] += 2
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True), truth


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (1, 1), (90, 100), (22000, 25000)])
def test_the_accuracy_interval_is_the_wilson_interval_of_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    assert accuracy_interval(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_an_impossible_count_of_correct_texts_is_refused(correct, n):
    with pytest.raises(ValueError, match=f"found correct = {correct} and n = {n}"):
        accuracy_interval(correct, n)


@pytest.mark.parametrize("n_classes", [2, 5, 200])
def test_all_scores_agree_with_scikit_learn(n_classes):
    probabilities, truth = softmax_predictions(n_classes=n_classes)
    labels = [f"class {index}" for index in range(n_classes)]
    predicted = probabilities.argmax(axis=1)
    found = score(probabilities, truth, labels)
    expected = sklearn_metrics.classification_report(
        truth,
        predicted,
        labels=range(n_classes),
        target_names=labels,
        output_dict=True,
        zero_division=np.nan,
    )
    assert found["n"] == len(truth)
    assert found["accuracy"] == pytest.approx(
        sklearn_metrics.accuracy_score(truth, predicted), abs=1e-6
    )
    assert found["log_loss"] == pytest.approx(
        sklearn_metrics.log_loss(truth, probabilities, labels=range(n_classes)), abs=1e-6
    )
    assert found["macro_f1"] == pytest.approx(expected["macro avg"]["f1-score"], abs=1e-6)
    assert found["confusion_matrix"] == sklearn_metrics.confusion_matrix(truth, predicted).tolist()
    assert found["balanced_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(truth, predicted), abs=1e-9
    )
    ranked = sklearn_metrics.average_precision_score(
        np.eye(n_classes)[truth], probabilities, average=None
    )
    assert found["mean_average_precision"] == pytest.approx(ranked.mean(), abs=1e-9)
    assert macro_f1(predicted, truth) == pytest.approx(found["macro_f1"], abs=1e-12)
    for label, of_label in zip(labels, ranked, strict=True):
        scores = found["per_class"][label]
        assert scores.pop("average_precision") == pytest.approx(of_label, abs=1e-9)
        low, high = scores.pop("recall_ci95")
        assert low - 1e-9 <= scores["recall"] <= high + 1e-9
        assert scores == pytest.approx(
            {
                "precision": expected[label]["precision"],
                "recall": expected[label]["recall"],
                "f1": expected[label]["f1-score"],
                "support": expected[label]["support"],
            },
            abs=1e-6,
        )


@pytest.mark.parametrize("n_classes", [2, 5, 200])
@pytest.mark.parametrize("n_bins", [10, 15])
def test_the_calibration_error_agrees_with_torchmetrics(n_classes, n_bins):
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.functional.classification")
    probabilities, truth = softmax_predictions(n_classes=n_classes)
    expected, largest = (
        classification.multiclass_calibration_error(
            torch.tensor(probabilities),
            torch.tensor(truth),
            num_classes=n_classes,
            n_bins=n_bins,
            norm=norm,
        ).item()
        for norm in ("l1", "max")
    )
    assert expected_calibration_error(probabilities, truth, n_bins) == pytest.approx(
        expected, abs=1e-6
    )
    assert maximum_calibration_error(probabilities, truth, n_bins)[0] == pytest.approx(
        largest, abs=1e-6
    )


@pytest.mark.parametrize("n_classes", [2, 5, 200])
def test_bins_of_equal_mass_are_those_of_scikit_learns_calibration_curve(n_classes):
    probabilities, truth = softmax_predictions(n=1995, n_classes=n_classes)  # 15 times 133
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    accuracy, mean = calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    bins = calibration_bins(probabilities, truth, equal_mass=True)
    assert bins["n"].tolist() == [133] * 15
    assert bins["accuracy"].to_numpy() == pytest.approx(accuracy, abs=1e-12)
    assert bins["confidence"].to_numpy() == pytest.approx(mean, abs=1e-12)
    distances = np.abs(accuracy - mean)
    assert expected_calibration_error(probabilities, truth, equal_mass=True) == pytest.approx(
        distances.mean(), abs=1e-6
    )
    assert maximum_calibration_error(probabilities, truth, equal_mass=True) == (
        pytest.approx(distances.max()),
        133,
    )


@pytest.mark.parametrize("equal_mass", [False, True])
def test_equal_confidences_share_a_bin_and_one_text_is_a_bin(equal_mass):
    probabilities = np.tile([0.75, 0.25], (5, 1))
    bins = calibration_bins(probabilities, np.array([0, 0, 0, 1, 1]), equal_mass=equal_mass).query(
        "n > 0"
    )
    assert bins["n"].tolist() == [5] and bins["accuracy"].tolist() == [0.6]
    assert maximum_calibration_error(probabilities[:1], np.array([1]), equal_mass=equal_mass) == (
        0.75,
        1,
    )


def test_the_largest_calibration_error_stands_with_the_n_of_its_bin():
    probabilities = np.array([[0.95, 0.05]] * 10 + [[0.6, 0.4]] * 2)
    found = maximum_calibration_error(probabilities, np.array([0] * 9 + [1, 1, 1]))
    assert found == (pytest.approx(0.6), 2)


@pytest.mark.parametrize("n_classes", [2, 5, 200])
def test_the_brier_score_agrees_with_scikit_learn(n_classes):
    probabilities, truth = softmax_predictions(n_classes=n_classes)
    found = score(probabilities, truth, [str(index) for index in range(n_classes)])["brier_score"]
    brier = sklearn_metrics.brier_score_loss
    summed = sum(brier(truth == index, probabilities[:, index]) for index in range(n_classes))
    assert found == pytest.approx(summed / 2 if n_classes == 2 else summed, abs=1e-6)
    if (
        "scale_by_half" in inspect.signature(brier).parameters
    ):  # a scikit-learn that knows more than two classes
        given = probabilities[:, 1] if n_classes == 2 else probabilities
        assert found == pytest.approx(brier(truth, given, labels=range(n_classes)), abs=1e-6)


@pytest.mark.parametrize(("truth", "expected"), [([0, 0], 0), ([1, 1], 1)])
def test_the_brier_score_of_two_classes_is_from_zero_to_one(truth, expected):
    assert (
        score(np.array([[1.0, 0.0]] * 2), np.array(truth), ["a", "b"])["brier_score"] == expected
    )


def test_a_model_that_is_as_often_right_as_it_says_has_no_calibration_error():
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1])) == pytest.approx(0)
    assert expected_calibration_error(probabilities, np.array([1, 1, 1, 1])) == pytest.approx(0.75)


def test_calibration_bins_hold_every_text_once_and_leave_empty_bins_open():
    probabilities, truth = softmax_predictions(n_classes=2)
    bins = calibration_bins(probabilities, truth, n_bins=10)
    assert bins["n"].sum() == len(truth)
    empty = bins[bins["upper"] <= 0.5]  # two classes: the most probable one has at least a half
    assert (empty["n"] == 0).all() and empty[["confidence", "accuracy", "low", "high"]].isna().all(
        axis=None
    )
    filled = bins[bins["n"] > 0]
    assert ((filled["low"] <= filled["accuracy"]) & (filled["accuracy"] <= filled["high"])).all()
    assert (
        (filled["lower"] < filled["confidence"]) & (filled["confidence"] <= filled["upper"])
    ).all()


def test_a_confidence_of_one_belongs_to_the_last_bin():
    # Single-precision softmax can sum to a little more than 1.
    bins = calibration_bins(
        np.array([[1.0, 0.0], [np.float32(1.0000001), 0.0]]), np.array([0, 0]), n_bins=10
    )
    assert bins["n"].tolist() == [0] * 9 + [2]


def test_an_undefined_score_is_none_beside_its_reason_and_never_nan():
    probabilities = np.array([[0.8, 0.2, 0.0], [0.7, 0.3, 0.0]])
    found = score(probabilities, np.array([0, 1]), ["common", "missed", "absent"])
    assert found["per_class"]["missed"] == {
        "precision": None,
        "recall": 0.0,
        "recall_ci95": list(accuracy_interval(0, 1)),
        "f1": 0.0,
        "average_precision": 1.0,
        "support": 1,
        "undefined": "precision: no text was predicted as this class",
    }
    assert (
        found["per_class"]["absent"]["f1"] is None
        and found["per_class"]["absent"]["recall_ci95"] is None
    )
    assert found["per_class"]["absent"]["undefined"].endswith(
        "recall and average precision: no text is of this class"
    )
    assert found["per_class"]["absent"]["average_precision"] is None
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert macro_f1(np.array([0, 3]), np.array([0, 3])) == 1
    # Of the classes that have texts.
    assert found["balanced_accuracy"] == 0.5 and found["mean_average_precision"] == 1.0
    json.dumps(found, allow_nan=False)


def test_a_true_class_given_no_probability_costs_a_finite_log_loss():
    found = score(np.array([[1.0, 0.0]]), np.array([1]), ["neg", "pos"])
    assert found["log_loss"] == pytest.approx(-math.log(np.finfo(float).eps))


def test_single_precision_probabilities_give_the_same_scores():
    probabilities, truth = softmax_predictions()
    labels = list("abcde")
    exact, single = (
        score(probabilities, truth, labels),
        score(probabilities.astype(np.float32), truth, labels),
    )
    for key in ("accuracy", "log_loss", "macro_f1"):
        assert single[key] == pytest.approx(exact[key], abs=1e-6)


@pytest.mark.parametrize(
    ("probabilities", "truth", "message"),
    [
        ([[0.5, 0.5]], [0, 1], r"found \[1, 2\] and \[2\]"),
        (np.empty((0, 2)), [], "n >= 1"),
        ([[0.5, 0.5]], [2], "expected class indices from 0 to 1"),
        ([[0.5, 0.5]], [-1], "expected class indices from 0 to 1"),
        ([[0.5, 0.5], [np.nan, 1.0]], [0, 1], "1 other rows, the first of them row 1"),
        ([[2.0, -1.0]], [0], "rows of probabilities that sum to 1"),
        ([[3.0, 1.0]], [0], "rows of probabilities that sum to 1"),
    ],
)
def test_arrays_that_are_no_predictions_are_refused(probabilities, truth, message):
    with pytest.raises(ValueError, match=message):
        score(np.array(probabilities), np.array(truth, dtype=int), ["neg", "pos"])


def test_a_label_too_many_is_refused():
    with pytest.raises(ValueError, match="each of the 2 columns, found 3 labels"):
        score(np.array([[0.5, 0.5]]), np.array([0]), ["a", "b", "c"])


def test_the_paired_comparison_is_the_exact_binomial_of_the_disagreements():
    # 9 texts only the first gets right, 2 only the other, 5 both, 4 none.
    first = np.array([True] * 9 + [False] * 2 + [True] * 5 + [False] * 4)
    other = np.array([False] * 9 + [True] * 2 + [True] * 5 + [False] * 4)
    found = paired_comparison(first, other)
    assert found["only_first_right"] == 9 and found["only_other_right"] == 2
    assert found["accuracy_difference"] == pytest.approx(7 / 20)
    assert found["p_value"] == pytest.approx(2 * sum(math.comb(11, k) for k in (0, 1, 2)) / 2**11)


def test_two_classifiers_that_never_disagree_cannot_be_told_apart():
    right = np.array([True, False])
    assert paired_comparison(right, right)["p_value"] == 1.0


def test_the_difference_in_macro_f1_is_scikit_learns_and_its_interval_a_bootstraps():
    generator = np.random.default_rng(5)
    truth = generator.choice(4, 300, p=[0.6, 0.3, 0.08, 0.02])
    first, other = (
        np.where(generator.random(300) < share, truth, generator.integers(0, 3, 300))
        for share in (0.8, 0.5)
    )
    found = compare_macro_f1(truth, first, other, 5)

    def difference(rows: np.ndarray) -> float:
        of_each = (
            sklearn_metrics.f1_score(truth[rows], said[rows], average="macro", zero_division=0)
            for said in (first, other)
        )
        one, two = of_each
        return one - two

    whole = difference(np.arange(300))
    assert found["macro_f1_difference"] == pytest.approx(whole)
    resampled = [difference(generator.integers(0, 300, 300)) for _ in range(800)]
    expected = np.quantile(resampled, [0.025, 0.975])
    assert found["macro_f1_difference_ci95"] == pytest.approx(expected, abs=0.025)
    assert compare_macro_f1(truth, first, other, 5) == found


def test_a_classifier_against_itself_differs_in_macro_f1_by_nothing():
    truth = np.array([0, 1, 1, 2])
    found = compare_macro_f1(truth, truth, truth, 3)
    assert found == {"macro_f1_difference": 0.0, "macro_f1_difference_ci95": [0.0, 0.0]}


# ----------------------------------------------------------------------------------------- imports
def modules_after(code: str) -> set[str]:
    """The modules in a fresh interpreter that has run some code."""
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", ["metrics", "calibration", "tables"])
def test_what_a_prediction_needs_is_light_to_import(name):
    loaded = modules_after(f"import ulmfit_app.evaluation.{name}")
    assert "pandas" in loaded
    assert not loaded & {"scipy", "sklearn", "matplotlib", "seaborn", "torch", "fastai"}


def test_importing_the_room_brings_no_pyplot_and_sets_no_backend():
    names = [module.name for module in pkgutil.iter_modules(evaluation.__path__)]
    assert {"drawing", "figures", "page", "report"} <= set(names)
    code = f"from ulmfit_app.evaluation import {', '.join(names)}; import matplotlib"
    # As a dict, since asking matplotlib itself for its backend chooses one and imports pyplot.
    code += "; assert dict.__eq__(matplotlib.rcParams, matplotlib.rcParamsOrig)"
    loaded = modules_after(code)
    assert "matplotlib.figure" in loaded
    assert not loaded & {"matplotlib.pyplot", "seaborn", "torch", "fastai"}
