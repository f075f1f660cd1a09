"""Macro F1 in the mean over seeds, with intervals over texts."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from ulmfit_app.evaluation import several_seeds
from ulmfit_app.evaluation.several_seeds import (
    compare_macro_f1,
    macro_f1_difference,
    macro_f1_interval,
    recalls,
)


@pytest.fixture
def answers():
    """Truth of 300 texts in three classes, and what four classifiers answer."""
    rng = np.random.default_rng(3)
    truth = rng.choice(3, 300, p=[0.8, 0.15, 0.05])
    guesses = rng.choice(3, (300, 4), p=[0.7, 0.2, 0.1])
    return truth, np.where(rng.random((300, 4)) < 0.6, truth[:, None], guesses)


def test_macro_f1_is_scikit_learns_in_the_mean_over_seeds(answers):
    truth, predicted = answers
    expected = np.mean([f1_score(truth, each, average="macro") for each in predicted.T])
    found, low, high = macro_f1_interval(truth, predicted, 3)
    assert found == pytest.approx(expected, abs=1e-12) and low < found < high


def test_of_one_seed_the_difference_is_that_of_compare_macro_f1(answers):
    truth, predicted = answers
    ours, other = predicted[:, :1], predicted[:, 1:2]
    expected = compare_macro_f1(truth, ours[:, 0], other[:, 0], 3)
    assert macro_f1_difference(truth, ours, other, 3) == pytest.approx(
        (expected["macro_f1_difference"], *expected["macro_f1_difference_ci95"]), abs=1e-12
    )


def test_a_text_that_several_seeds_test_is_one_text(answers):
    truth, predicted = answers
    one = macro_f1_interval(truth, predicted[:, :1], 3)
    assert macro_f1_interval(truth, predicted[:, [0, 0, 0]], 3) == pytest.approx(one)
    assert macro_f1_difference(truth, predicted[:, [0, 0]], predicted[:, [0, 0]], 3) == (0, 0, 0)


def test_the_interval_is_as_wide_as_that_of_texts_drawn_anew(monkeypatch):
    monkeypatch.setattr(several_seeds, "RESAMPLES", 500)
    rng = np.random.default_rng(5)

    def draw():
        truth = rng.choice(2, 400, p=[0.8, 0.2])
        right = rng.random((400, 2)) < 0.8
        return truth, np.where(right, truth[:, None], 1 - truth[:, None])

    drawn = [macro_f1_interval(*draw(), 2) for _ in range(200)]
    spread = np.std([found for found, _, _ in drawn])
    widths = [high - low for _, low, high in drawn]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * spread, rel=0.2)


def test_what_a_seed_does_not_test_does_not_count_for_it(answers):
    truth, predicted = answers
    there = np.arange(300)[:, None] % 2 == np.array([0, 1, 0, 1])
    held_out = np.where(there, predicted, -1)
    expected = np.mean(
        [
            f1_score(truth[which], each[which], average="macro")
            for each, which in zip(predicted.T, there.T, strict=True)
        ]
    )
    assert macro_f1_interval(truth, held_out, 3)[0] == pytest.approx(expected, abs=1e-12)
    found = recalls(truth, held_out, 3)
    for of_seed, each, which in zip(found, predicted.T, there.T, strict=True):
        assert of_seed == pytest.approx(recall_score(truth[which], each[which], average=None))


def test_a_class_that_is_neither_true_nor_predicted_has_no_f1_and_one_without_texts_no_recall():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([[0], [0], [1], [2]])
    found, low, high = macro_f1_interval(truth, predicted, 4)
    assert found == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert 0 < low < found <= high <= 1
    assert recalls(truth, predicted, 4)[0] == pytest.approx([1, 0.5, np.nan, np.nan], nan_ok=True)
