"""Thresholds chosen for F1: against brute force and scikit-learn's curve."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_recall_curve

from ulmfit_app.evaluation.decisions import MIDDLE, Decision
from ulmfit_app.evaluation.thresholds import (
    PRIOR,
    choose_label_thresholds,
    choose_thresholds,
    soften,
)


def predictions(n: int, n_classes: int, seed: int, rare: float = 0.3):
    """Probabilities that know something, where each class is rarer than the one before."""
    generator = np.random.default_rng(seed)
    shares = rare ** np.arange(n_classes)
    truth = generator.choice(n_classes, n, p=shares / shares.sum())
    truth[:n_classes] = np.arange(n_classes)
    logits = generator.normal(size=(n, n_classes)) + np.log(shares)
    logits[np.arange(n), truth] += 1.5
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True), truth


def macro_f1(probabilities, truth, thresholds) -> float:
    answers = Decision(thresholds=tuple(thresholds)).answer(probabilities)
    classes = np.unique(truth)
    return f1_score(truth, answers, labels=classes, average="macro", zero_division=0)


@pytest.mark.parametrize("decimals", [2, 15])
@pytest.mark.parametrize("seed", range(8))
def test_of_two_classes_no_threshold_is_better(seed, decimals):
    probabilities, truth = predictions(60, 2, seed)
    rounded = probabilities[:, 1].round(decimals)  # so that some are equal
    probabilities = np.c_[1 - rounded, rounded]
    chosen = choose_thresholds(probabilities, truth)
    assert sum(chosen) == pytest.approx(1)
    grid = np.unique(np.r_[0, probabilities[:, 1], 1])
    ways = [(1 - t, t) for t in (grid[1:] + grid[:-1]) / 2]
    best = max(macro_f1(probabilities, truth, way) for way in ways)
    assert macro_f1(probabilities, truth, chosen) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_no_single_class_gains_by_another_threshold(seed):
    probabilities, truth = predictions(50, 4, seed)
    chosen = np.array(choose_thresholds(probabilities, truth))
    found = macro_f1(probabilities, truth, chosen)
    assert found >= macro_f1(probabilities, truth, [0.25] * 4)
    for one in range(4):
        others = np.delete(probabilities / chosen, one, axis=1).max(axis=1)
        critical = np.unique(probabilities[:, one] / others)
        between = np.r_[critical[0] / 2, np.sqrt(critical[1:] * critical[:-1]), 2 * critical[-1]]
        for threshold in between:
            tried = chosen.copy()
            tried[one] = threshold
            assert macro_f1(probabilities, truth, tried) <= found + 1e-9


def test_rare_classes_gain_and_the_same_texts_give_the_same_thresholds():
    probabilities, truth = predictions(2000, 5, 0)
    chosen = choose_thresholds(probabilities, truth)
    gain = macro_f1(probabilities, truth, chosen) - macro_f1(probabilities, truth, [0.2] * 5)
    assert gain > 0.02
    assert chosen == choose_thresholds(probabilities, truth)


def test_thresholds_stay_equal_where_nothing_can_be_gained():
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.3, 0.4]])
    assert choose_thresholds(probabilities, np.arange(3)) == pytest.approx([1 / 3] * 3, abs=1e-15)


def test_a_class_without_a_text_here_is_not_made_unreachable():
    probabilities, truth = predictions(300, 4, 1)
    keep = truth != 2
    chosen = choose_thresholds(probabilities[keep], truth[keep])
    # The weight that it began with beside others, which rose or fell.
    assert chosen[2] <= 10 * min(chosen[:2]) and chosen[2] > 0
    assert (Decision(thresholds=tuple(chosen)).answer(probabilities) == 2).any()


def test_a_class_of_probability_0_and_texts_of_equal_probability_do_no_harm():
    probabilities, truth = predictions(200, 3, 2)
    probabilities = probabilities.round(1)
    probabilities[:50, 2] = 0
    probabilities[50] = 0, 0, 1
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    chosen = choose_thresholds(probabilities, truth)
    assert np.isfinite(chosen).all() and min(chosen) > 0
    found = macro_f1(probabilities, truth, chosen)
    assert found >= macro_f1(probabilities, truth, [1 / 3] * 3)


def test_texts_of_equal_probability_are_not_taken_for_some_of_them():
    rare = np.array([0.6, 0.6, 0.6, 0.6, 0.1, 0.1, 0.1])
    probabilities, truth = np.c_[1 - rare, rare], np.array([1, 1, 1, 0, 0, 0, 0])
    chosen = choose_thresholds(probabilities, truth)
    assert macro_f1(probabilities, truth, chosen) == pytest.approx(6 / 7)
    assert chosen == pytest.approx([0.5, 0.5])


def test_the_fewer_texts_a_label_has_the_more_its_probabilities_count():
    truth = np.zeros((1000, 3))
    for label, n in enumerate([1, int(PRIOR), 900]):
        truth[:n, label] = 1
    found = soften(truth, np.full((1000, 3), 0.25))
    seen = [1 / (1 + PRIOR), 0.5, 900 / (900 + PRIOR)]
    assert found[0] == pytest.approx([w + (1 - w) * 0.25 for w in seen])
    assert found[-1] == pytest.approx([(1 - w) * 0.25 for w in seen])
    of_one = soften(np.array([0, 1, 1]), np.eye(3)[[0, 1, 1]])
    assert of_one == pytest.approx(np.eye(3)[[0, 1, 1]])


def test_what_probabilities_promise_makes_thresholds_of_few_texts_better():
    """On drawn texts of calibrated probabilities, of which few validate."""
    generator, gains = np.random.default_rng(0), []
    for _ in range(20):
        p = generator.beta(0.4, 6, (4_000, 6))
        truth = (generator.random(p.shape) < p).astype(float)
        few, known = p[:150], truth[:150]
        alone, _ = choose_label_thresholds(few, known)
        both, _ = choose_label_thresholds(few, soften(known, few))
        f1 = [
            f1_score(truth[150:], p[150:] >= limits, average="macro", zero_division=0)
            for limits in (np.array(alone), np.array(both))
        ]
        gains.append(f1[1] - f1[0])
    assert np.mean(gains) > 0.01


def several(n: int, n_labels: int, seed: int):
    """Probabilities of several labels that know something, rounded, so that some are equal."""
    generator = np.random.default_rng(seed)
    truth = (generator.random((n, n_labels)) < np.linspace(0.05, 0.6, n_labels)).astype(int)
    logits = 1.5 * truth + generator.normal(size=truth.shape) - 1
    return (1 / (1 + np.exp(-logits))).round(2), truth


@pytest.mark.parametrize("seed", range(5))
def test_a_labels_threshold_is_the_best_of_scikit_learns_curve(seed):
    probabilities, truth = several(120, 6, seed)
    chosen, reasons = choose_label_thresholds(probabilities, truth)
    answers = Decision(True, thresholds=tuple(chosen)).answer(probabilities)
    for label, reason in enumerate(reasons):
        if not truth[:, label].any():
            assert chosen[label] == MIDDLE and reason == "none of these texts has it"
            continue
        precision, recall, _ = precision_recall_curve(truth[:, label], probabilities[:, label])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
        found = f1_score(truth[:, label], answers[:, label])
        assert found == pytest.approx(best, abs=1e-12) and not reason


def test_labels_that_no_text_or_every_text_has_get_a_threshold():
    probabilities = np.array([[0.3, 0.2], [0.4, 0.6], [0.1, 0.9]])
    truth = np.array([[0, 1], [0, 1], [0, 1]])
    chosen, reasons = choose_label_thresholds(probabilities, truth)
    assert chosen[0] == MIDDLE and "none" in reasons[0]
    assert 0 < chosen[1] <= 0.2 and reasons[1] == ""


def test_of_equally_good_thresholds_the_one_nearest_to_the_middle_is_taken():
    probabilities = np.array([[0.9], [0.45], [0.3], [0.05]])
    truth = np.array([[1], [0], [1], [0]])  # F1 is 2/3 from 0.9 on, 4/5 from 0.3 on
    assert choose_label_thresholds(probabilities, truth)[0] == [pytest.approx(0.175)]
    # F1 is 2/3 from 0.9 on and where all are given it.
    assert choose_label_thresholds(probabilities, np.array([[1], [0], [0], [1]]))[0] == [
        pytest.approx(0.675)
    ]
    truth = np.array([[1], [0], [0], [0]])
    assert choose_label_thresholds(probabilities, truth)[0] == [pytest.approx(0.675)]
    # Between neighbours among numbers there is none.
    close = np.array([[np.nextafter(0.5, 1)], [0.5]])
    (threshold,), _ = choose_label_thresholds(close, np.array([[1], [0]]))
    assert threshold == close[0]
