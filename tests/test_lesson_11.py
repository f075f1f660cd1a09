"""Notebook 11: made texts, tables of what is right and what it costs, checks of exercises."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    hamming_loss,
    recall_score,
)

from tests.conftest import course_settings, says
from ulmfit_app.course import PRESETS, lesson_11, rare_trials
from ulmfit_app.course.rare_trials import Answers, Trials, make_mixed, make_rare
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.evaluation.metrics import expected_calibration_error

LABELS = ["neg", "pos"]


@pytest.fixture(scope="module")
def reviews() -> pd.DataFrame:
    settings = PRESETS["laptop"]
    return load_corpus(settings.data, settings.seed).table


@pytest.fixture
def found() -> Answers:
    """Of a classifier that holds a rare class too probable and knows something of it."""
    rng = np.random.default_rng(1)

    def draw(n):
        truth = (rng.random(n) < 0.1).astype(int)
        logit = rng.normal(-1, 1.5, n) + 2.5 * truth
        p = 1 / (1 + np.exp(-logit))
        return np.stack([1 - p, p], axis=1), truth

    return Answers(LABELS, *draw(300), *draw(500))


@pytest.fixture
def several() -> Answers:
    """Of a classifier of three labels, the last of them rare."""
    rng = np.random.default_rng(2)

    def draw(n):
        truth = (rng.random((n, 3)) < [0.5, 0.4, 0.1]).astype(np.float32)
        return 1 / (1 + np.exp(-rng.normal(-1, 1, (n, 3)) - 2 * truth)), truth

    return Answers(["a", "b", "c"], *draw(300), *draw(500))


# -------------------------------------------------------------------------------- the made texts
def test_a_rare_class_has_its_share_in_every_split_and_the_others_keep_their_texts(reviews):
    made = make_rare(reviews, np.random.default_rng(0))
    counts = made.groupby(["split", "label"]).size().unstack()
    shares = counts["pos"] / counts.sum(axis=1)
    assert shares.to_numpy() == pytest.approx(rare_trials.RARE_SHARE, abs=0.003)
    kept = reviews[reviews["label"] == "neg"].groupby("split").size()
    assert counts["neg"].to_dict() == kept.to_dict()
    original = set(zip(reviews["text"], reviews["label"], reviews["split"], strict=True))
    assert set(made.itertuples(index=False, name=None)) <= original
    other = make_rare(reviews, np.random.default_rng(1))
    assert set(other["text"]) != set(made["text"])


def test_a_mixed_text_has_the_labels_of_its_sentences_each_of_which_stands_in_one_alone(reviews):
    made = make_mixed(reviews, np.random.default_rng(0))
    label_of = reviews.set_index("text")["label"].to_dict()
    split_of = reviews.set_index("text")["split"].to_dict()
    # A text of one sentence is that sentence, and its label can be looked up.
    used = Counter()
    for text, cell, split in made.itertuples(index=False, name=None):
        labels = json.loads(cell)
        assert labels == sorted(set(labels))
        assert (rare_trials.LENGTH in labels) == ("it runs" in text and "minutes" in text)
        opinions = [label for label in labels if label != rare_trials.LENGTH]
        if len(opinions) == 1 and rare_trials.LENGTH not in labels:
            assert label_of[text] == opinions[0] and split_of[text] == split
            used[text] += 1
    assert max(used.values()) == 1
    shares = made["label"].value_counts(normalize=True)
    assert shares['["pos"]'] == pytest.approx(0.27, abs=0.04)
    assert shares["[]"] == pytest.approx(0.135, abs=0.03)
    is_long = made["label"].str.contains(rare_trials.LENGTH)
    assert is_long.mean() == pytest.approx(rare_trials.LENGTH_SHARE, abs=0.02)
    assert set(made["split"]) == {"train", "valid", "test"}


def test_trials_train_a_classifier_once_and_keep_the_made_splits():
    trials = Trials(course_settings(48), make_rare)
    answers = trials.train()
    assert trials.train() is answers and answers.labels == trials.labels == LABELS
    counts = trials.table["split"].value_counts()
    assert answers.valid.shape == (counts["valid"], 2) and answers.test.shape == (
        counts["test"],
        2,
    )
    test = trials.table[trials.table["split"] == "test"]
    assert answers.test_truth.tolist() == (test["label"] == "pos").astype(int).tolist()


def test_trials_of_several_labels_learn_and_count_words_of_the_same_texts():
    trials = Trials(course_settings(48), make_mixed, multilabel=True)
    answers = trials.train()
    assert answers.labels == ["length", "neg", "pos"]
    test = trials.table[trials.table["split"] == "test"]
    sets = [json.loads(cell) for cell in test["label"]]
    assert answers.test_truth.sum() == sum(map(len, sets))
    counted = trials.count_words()
    assert counted.shape == answers.test.shape == (len(test), 3)
    assert ((counted >= 0) & (counted <= 1)).all()


# ------------------------------------------------------------------------------ one label a text
def test_a_table_of_answers_is_scikit_learns(found):
    ways = {"never": np.zeros(500, int), "said": found.decide().answer(found.calibrated)}
    table, truth = lesson_11.tabulate_answers(ways, found.test_truth, LABELS), found.test_truth
    for name, predicted in ways.items():
        row = table.loc[name]
        assert row["accuracy"] == (predicted == truth).mean()
        assert row["balanced accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
        assert row["macro F1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
        assert row["recall of pos"] == pytest.approx(recall_score(truth, predicted))
        assert row["answers pos"] == predicted.mean()


def test_a_table_of_calibration_has_what_a_temperature_changes(found):
    before, after = lesson_11.tabulate_calibration({"one": found}).to_dict("records")
    assert before["temperature"] == 1 and after["temperature"] == found.decide().temperature
    assert before["mean probability"] == found.test[:, 1].mean()
    assert after["mean probability"] == found.calibrated[:, 1].mean()
    assert before["share"] == found.test_truth.mean()
    expected = expected_calibration_error(found.test, found.test_truth)
    assert before["calibration error"] == expected


def test_a_trace_of_thresholds_passes_through_the_answers_at_one_half(found):
    lines = lesson_11.trace_thresholds(found)
    answers = found.decide().answer(found.calibrated)
    expected = f1_score(found.test_truth, answers, average="macro")
    assert lines["test"][0.5] == pytest.approx(expected)
    assert lines.columns.tolist() == ["validation", "test"] and lines.index.name == "threshold"


def test_a_gain_is_measured_on_both_parts_and_never_a_loss_where_the_best_was_chosen(found):
    table = lesson_11.tabulate_gains({"one": found}).loc["one"]
    assert table.index.tolist() == ["one half", "best on validation", "a run's"]
    assert table["validation"].idxmax() == "best on validation"
    assert table["threshold"]["one half"] == 0.5 != table["threshold"]["best on validation"]
    decision = found.decide(has_thresholds=True)
    answers = decision.answer(decision.calibrate(found.test))
    expected = f1_score(found.test_truth, answers, average="macro")
    assert table["test"]["a run's"] == pytest.approx(expected)
    assert table["threshold"]["a run's"] == decision.thresholds[1]
    likeliest = f1_score(
        found.test_truth, found.decide().answer(found.calibrated), average="macro"
    )
    assert table["test"]["one half"] == pytest.approx(likeliest)


def test_costs_are_counted_by_what_is_true_and_what_is_said(found):
    costs = [[0, 1], [20, 0]]
    decisions = {"likeliest": found.decide(), "by costs": found.decide(costs=costs)}
    table = lesson_11.tabulate_costs(decisions, found, costs)
    for name, decision in decisions.items():
        matrix = confusion_matrix(found.test_truth, decision.answer(found.calibrated))
        assert table["missed"][name] == matrix[1, 0] and table["in vain"][name] == matrix[0, 1]
        assert table["cost per text"][name] == pytest.approx((matrix * costs).sum() / 500)
    assert table["missed"]["by costs"] < table["missed"]["likeliest"]


# ------------------------------------------------------------------------- several labels a text
def test_shown_sets_have_the_labels_and_a_sum_that_is_not_one(several):
    shown = lesson_11.show_sets(several, ["x"] * 500, 4)
    assert len(shown) == 4
    first = [label for label, has in zip("abc", several.test_truth[0], strict=True) if has]
    assert json.loads(shown["labels"][0]) == first
    assert shown["sum"][0] == pytest.approx(shown.loc[0, ["a", "b", "c"]].sum(), abs=0.02)


def test_a_table_of_sets_is_scikit_learns(several):
    given = several.calibrated >= 0.5
    ways = {"nothing": np.zeros_like(given), "said": given}
    table, truth = (
        lesson_11.tabulate_sets(ways, several.test_truth, several.labels),
        (several.test_truth > 0),
    )
    said = table.loc["said"]
    assert said["micro F1"] == pytest.approx(f1_score(truth, given, average="micro"))
    assert said["macro F1"] == pytest.approx(f1_score(truth, given, average="macro"))
    assert said["Hamming loss"] == pytest.approx(hamming_loss(truth, given))
    assert said["subset accuracy"] == pytest.approx((truth == given).all(axis=1).mean())
    assert table["c"]["said"] == pytest.approx(f1_score(truth[:, 2], given[:, 2]))
    assert table["micro F1"]["nothing"] == 0


def test_each_labels_own_threshold_is_a_runs_and_its_f1_that_of_scikit_learn(several):
    table = lesson_11.tabulate_thresholds(several)
    own, truth = several.decide(has_thresholds=True), several.test_truth > 0
    assert table["threshold"].tolist() == list(own.thresholds)
    for decision, column in ((several.decide(), "F1 at one half"), (own, "F1 at its own")):
        given = decision.answer(decision.calibrate(several.test))
        assert table[column].to_numpy() == pytest.approx(f1_score(truth, given, average=None))
    assert table["share"]["c"] == pytest.approx(truth[:, 2].mean())


# --------------------------------------------------------------------------------- the exercises
MATRIX = np.array([[80, 10], [6, 4]])


def test_macro_f1_is_told_from_what_is_like_it():
    f1 = 2 * np.diag(MATRIX) / (MATRIX.sum(0) + MATRIX.sum(1))
    recall = np.diag(MATRIX) / MATRIX.sum(1)

    def said(answer):
        return says(lesson_11.check_macro_f1(answer, MATRIX))

    assert lesson_11.check_macro_f1(f1.mean(), MATRIX).right
    assert "three dots" in said(...)
    assert "accuracy, in which common" in said(0.84)
    assert "balanced accuracy" in said(recall.mean())
    assert "F1 of one label" in said(f1[0]) and "F1 of one label" in said(f1[1])
    assert "weighted by the texts" in said(np.average(f1, weights=[90, 10]))
    assert "between 0 and 1" in said(62)
    assert "is not the mean" in said(0.5)


def test_a_threshold_is_told_from_the_other_way_round():
    def said(answer):
        return says(lesson_11.check_threshold(answer, 9, 1))

    assert lesson_11.check_threshold(0.1, 9, 1).right
    assert "other way round" in said(0.9) and "ratio" in said(1 / 9)
    assert "equal costs" in said(0.5) and "between 0 and 1" in said(9)
    assert "do not cost the same" in said(0.3) and "three dots" in said(...)


def test_subset_accuracy_is_told_from_shares_of_answers(several):
    given, truth = several.calibrated >= 0.5, several.test_truth
    same = given == (truth > 0)

    def said(answer):
        return says(lesson_11.check_subset_accuracy(answer, given, truth))

    assert lesson_11.check_subset_accuracy(same.all(axis=1).mean(), given, truth).right
    assert "1 minus the Hamming loss" in said(same.mean())
    assert "that is the Hamming loss" in said(1 - same.mean())
    assert "`all`, not `any`" in said(same.any(axis=1).mean())
    assert "`mean` counts" in said(int(same.all(axis=1).sum()))
    assert "is not the share" in said(0.01) and "three dots" in said(...)
