"""Several labels a text: every number against scikit-learn's."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.evaluation.multilabel import (
    calibration_of_labels,
    check_sets,
    compare_sets,
    mean_average_precision,
    pool,
    resample_f1,
    score_sets,
)
from ulmfit_app.evaluation.ranking import (
    average_precision,
    coverage_error,
    label_ranking_average_precision,
)


def several(n: int = 400, n_labels: int = 6, seed: int = 0):
    """Probabilities that know something, which texts have which labels, and answers at 0.4."""
    generator = np.random.default_rng(seed)
    truth = generator.random((n, n_labels)) < np.linspace(0.03, 0.5, n_labels)
    logits = 2 * truth + generator.normal(size=truth.shape) - 1.2
    probabilities = (1 / (1 + np.exp(-logits))).round(3)
    return probabilities, truth, probabilities >= 0.4


def names(n: int) -> list[str]:
    return [f"label {i}" for i in range(n)]


@pytest.mark.parametrize("n_labels", [2, 6, 28])
def test_all_scores_of_sets_agree_with_scikit_learn(n_labels):
    probabilities, truth, said = several(n_labels=n_labels)
    found = score_sets(probabilities, truth, names(n_labels), said, np.full(n_labels, 0.4))
    expected = {
        "subset_accuracy": sk.accuracy_score(truth, said),
        "hamming_loss": sk.hamming_loss(truth, said),
        "mean_average_precision": sk.average_precision_score(truth, probabilities),
        "coverage_error": sk.coverage_error(truth, probabilities),
        "label_ranking_average_precision": sk.label_ranking_average_precision_score(
            truth, probabilities
        ),
    }
    for average in ("micro", "macro"):
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            truth, said, average=average, zero_division=np.nan
        )
        parts = {"precision": precision, "recall": recall, "f1": f1}
        expected |= {f"{average}_{name}": value for name, value in parts.items()}
    pairs = list(zip(truth.T.astype(int), probabilities.T, strict=True))
    expected["log_loss"] = np.mean([sk.log_loss(of, p, labels=[0, 1]) for of, p in pairs])
    expected["brier_score"] = np.mean([sk.brier_score_loss(of, p) for of, p in pairs])
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    exact = int((truth == said).all(axis=1).sum())
    assert found["subset_accuracy_ci95"] == list(accuracy_interval(exact, len(truth)))
    each = sk.precision_recall_fscore_support(truth, said, zero_division=np.nan)
    ranked = sk.average_precision_score(truth, probabilities, average=None)
    for i, scores in enumerate(found["per_label"].values()):
        got = [scores[name] for name in ("precision", "recall", "f1", "support")]
        assert got == pytest.approx([of[i] for of in each], abs=1e-9)
        assert scores["average_precision"] == pytest.approx(ranked[i], abs=1e-9)
        assert scores["threshold"] == 0.4 and scores["predicted"] == said[:, i].sum()


@pytest.mark.parametrize("seed", range(20))
def test_rankings_agree_with_scikit_learn_whatever_is_tied_or_missing(seed):
    generator = np.random.default_rng(seed)
    n, n_labels = generator.integers(1, 30), generator.integers(2, 7)
    probabilities = generator.random((n, n_labels)).round(1)
    truth = generator.random((n, n_labels)) < 0.3
    found = coverage_error(probabilities, truth)
    assert found == pytest.approx(sk.coverage_error(truth, probabilities), abs=1e-9)
    found = label_ranking_average_precision(probabilities, truth)
    expected = sk.label_ranking_average_precision_score(truth, probabilities)
    assert found == pytest.approx(expected, abs=1e-9)
    for has, scores in zip(truth.T, probabilities.T, strict=True):
        expected = sk.average_precision_score(has, scores) if has.any() else None
        assert average_precision(scores, has) == pytest.approx(expected, abs=1e-9)


def test_the_calibration_error_of_a_label_is_of_its_own_probability():
    truth = np.array([[1, 0], [0, 0], [1, 0], [0, 0]])
    probabilities = np.array([[0.5, 0.3], [0.5, 0.3], [0.5, 0.3], [0.5, 0.3]])
    found = calibration_of_labels(probabilities, truth)
    assert found["expected_calibration_error"] == pytest.approx(0.15)  # the mean of 0 and 0.3
    bins = pool(probabilities, truth).query("n > 0")
    assert bins["confidence"].tolist() == pytest.approx([0.3, 0.5])
    assert bins["accuracy"].tolist() == [0, 0.5] and bins["n"].tolist() == [4, 4]
    assert found["pooled_calibration_error"] == pytest.approx(0.15)


def test_what_is_undefined_is_none_with_its_reason_and_left_out_of_means():
    truth = np.array([[1, 0, 0], [1, 1, 0]], bool)
    probabilities = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1]])
    said = np.array([[1, 0, 0], [1, 0, 0]], bool)
    found = score_sets(probabilities, truth, ["a", "missed", "absent"], said)
    json.dumps(found, allow_nan=False)
    assert found["per_label"]["missed"]["precision"] is None
    assert found["per_label"]["missed"]["undefined"] == "precision: no text was given this label"
    absent = found["per_label"]["absent"]
    assert absent["f1"] is absent["recall"] is absent["average_precision"] is None
    assert absent["undefined"].endswith("recall and average precision: no text has this label")
    assert found["macro_f1"] == 0.5 and found["mean_average_precision"] == 1
    assert "threshold" not in absent
    assert mean_average_precision(probabilities, truth) == 1
    assert mean_average_precision(probabilities, 0 * truth) == 0


def test_texts_without_any_label_or_answer_have_no_nan():
    nothing = np.zeros((3, 2), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_sets(np.full((3, 2), 0.1), nothing, ["a", "b"], nothing)
        compared = compare_sets(nothing, nothing, nothing)
    json.dumps(found | compared, allow_nan=False)
    assert found["micro_f1"] is found["macro_f1"] is None and found["subset_accuracy"] == 1


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_the_difference_in_f1_and_its_interval_are_a_bootstraps_over_texts(average):
    probabilities, truth, said = several(150)
    other = probabilities >= 0.7
    found = compare_sets(truth, said, other)

    def difference(rows) -> float:
        one, two = (
            sk.f1_score(truth[rows], of[rows], average=average, zero_division=np.nan)
            for of in (said, other)
        )
        return one - two

    assert found[f"{average}_f1_difference"] == pytest.approx(difference(slice(None)), abs=1e-9)
    generator = np.random.default_rng(1)
    drawn = [difference(generator.integers(len(truth), size=len(truth))) for _ in range(300)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found[f"{average}_f1_difference_ci95"] == pytest.approx([low, high], abs=0.02)
    (low, high), of = resample_f1(truth, said)[f"{average}_f1_ci95"], dict(average=average)
    assert low < sk.f1_score(truth, said, **of) < high < low + 0.2


@pytest.mark.parametrize(
    ("probabilities", "truth", "words"),
    [
        (np.full((2, 2), 0.5), np.zeros((2, 3)), "found \\[2, 2\\] and \\[2, 3\\]"),
        (np.full((2, 2), 0.5), np.full((2, 2), 0.5), "expected a truth of 0 and 1"),
        (np.array([[0.5, 1.5]]), np.zeros((1, 2)), "from 0 to 1, found 1 other rows"),
        (np.array([[0.5, np.nan]]), np.zeros((1, 2)), "the first of them row 0"),
    ],
)
def test_what_are_no_probabilities_of_labels_is_refused(probabilities, truth, words):
    with pytest.raises(ValueError, match=words):
        check_sets(probabilities, truth)
