"""How much of a search's result is luck, and the figures of a search."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from ulmfit_app.evaluation.drawing import save_png
from ulmfit_app.evaluation.search_figures import (
    history_figure,
    importance_figure,
    parallel_figure,
)
from ulmfit_app.evaluation.search_scores import expected_best, resampled_difference, score_by


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_expected_best_is_the_mean_over_all_draws(n):
    errors = np.array([0.3, 0.1, 0.1, 0.25])
    every = [min(draw) for draw in itertools.product(errors, repeat=n)]
    assert expected_best(errors, n) == pytest.approx(np.mean(every))


def test_no_trials_have_no_expected_best():
    with pytest.raises(ValueError, match="expected one value or more"):
        expected_best(np.array([]), 3)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "average_precision"])
def test_a_text_that_counts_twice_counts_as_two_texts(metric):
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), 40)
    truth = rng.integers(3, size=40)
    weights = rng.integers(3, size=40).astype(float)
    several = np.repeat(np.arange(40), weights.astype(int))
    if metric == "average_precision":
        truth = rng.integers(2, size=(40, 3))
        expected = average_precision_score(truth[several], scores[several], average="macro")
    else:
        said = scores[several].argmax(axis=1)
        how = {"accuracy": accuracy_score, "macro_f1": lambda *a: f1_score(*a, average="macro")}
        expected = how[metric](truth[several], said)
    assert score_by(metric, scores, truth, weights) == pytest.approx(expected)


def test_a_difference_that_chance_makes_has_zero_in_its_interval_and_a_real_one_has_not():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=300)
    good, bad = (np.eye(2)[np.where(rng.random(300) < p, truth, 1 - truth)] for p in (0.9, 0.6))
    ids = np.arange(300)
    same = resampled_difference("macro_f1", [(good, good, truth)], [ids], resamples=200)
    assert same == (0, 0, 0)
    value, low, high = resampled_difference("macro_f1", [(good, bad, truth)], [ids], resamples=200)
    assert 0.2 < low < value < high < 0.4
    # Read by two seeds, a text is still one text: intervals get no narrower.
    twice = resampled_difference("macro_f1", [(good, bad, truth)] * 2, [ids] * 2, resamples=200)
    assert twice == pytest.approx((value, low, high))


def test_the_history_shows_the_best_so_far_and_what_ended_early():
    errors, whole = [0.3, 0.2, np.nan, 0.1, 0.25], [True, True, False, False, True]
    figure = history_figure(errors, whole, [0.28, 0.2], {"random": [0.3, 0.25]})
    axes = figure.axes[0]
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["best so far"]) == pytest.approx([30, 20, 20, 20, 20])
    assert list(lines["ended early"]) == pytest.approx([10])
    assert list(lines["random"]) == pytest.approx([30, 25])
    assert list(lines["expected of the best of n random trials"]) == pytest.approx([28, 20])


def test_a_parallel_plot_has_a_line_a_trial_and_the_best_on_top(tmp_path):
    columns = {
        "lm.lr": [0.001, 0.01, 0.1, 0.02, 0.03],
        "classifier.plan": ["full", "last", "full", "None", "last"],
    }
    figure = parallel_figure(columns, [0.3, 0.1, 0.2, 0.4, 0.5], ["lm.lr"])
    lines = [line for line in figure.axes[0].lines if len(line.get_ydata()) == 2 and
             line.get_linewidth() > 1]  # fmt: skip
    best = lines[4]
    assert len(lines) == 5 and best.get_linewidth() == 3
    assert best.get_ydata()[0] == pytest.approx(0.5), "0.01 is half way from 0.001 to 0.1"
    save_png(figure, tmp_path / "parallel.png")


def test_importances_are_drawn_from_the_largest_on():
    axes = importance_figure({"lm.lr": 0.7, "classifier.plan": 0.3}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.3]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["lm.lr", "classifier.plan"]
