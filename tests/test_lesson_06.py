"""Notebook 06: a classifier's scores, what its promises are worth, and checked exercises."""

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest

from tests.conftest import course_settings, says
from ulmfit_app.course import Verdict, lesson_06, promises
from ulmfit_app.course.lesson_05 import TrainedClassifier
from ulmfit_app.evaluation.calibration import (
    fit_temperature,
    risk_coverage,
    tempered,
    threshold_for,
)
from ulmfit_app.evaluation.figures import risk_coverage_figure
from ulmfit_app.evaluation.metrics import calibration_bins, expected_calibration_error, score
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.training.recipes import Phase, Plan


def made(n: int, seed: int = 0, boldness: float = 2.0) -> lesson_06.ScoredSplit:
    """n texts, and a classifier whose logits are too large by a factor: boldness above 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, n)
    truth = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int)
    p = 1 / (1 + np.exp(-boldness * logits))
    texts = pd.Series([f"text {'long ' * (i % 7)}{i}" for i in range(n)])
    return lesson_06.ScoredSplit(texts, truth, ["neg", "pos"], np.stack([1 - p, p], axis=1))


def scored(of: lesson_06.ScoredSplit) -> promises.Outcome:
    return of.probabilities, of.truth


# ---------------------------------------------------------------------------- a trained classifier
@lru_cache
def lab() -> lesson_06.CalibrationLab:
    return lesson_06.CalibrationLab(course_settings(max_test=30))


@lru_cache
def trained() -> TrainedClassifier:
    return lab().keep(Plan("all", (Phase("all groups", 1, freeze_to=0, lr=1e-2),), 0.5))


def test_a_split_is_scored_text_by_text_and_the_history_has_its_calibration_error():
    valid, test = (lab().score_split(trained(), split) for split in ("valid", "test"))
    assert (len(valid.truth), len(test.truth)) == (24, 30)
    table = test.tabulate()
    assert sorted(table["text"]) == sorted(lab().corpus.texts("test"))
    labels = lab().corpus.table.set_index("text")["label"]
    assert (labels[table["text"]].to_numpy() == table["label"]).all()
    watched = expected_calibration_error(valid.probabilities, valid.truth)
    assert trained().history["calibration_error"].tolist() == pytest.approx([watched], abs=0.05)
    assert trained().history["accuracy"].iloc[0] == pytest.approx(
        (valid.probabilities.argmax(1) == valid.truth).mean(), abs=0.05
    )


def test_named_words_and_random_ones_are_deleted_from_each_text():
    texts = lab().corpus.texts("test")[:4]
    found = lesson_06.delete_words(
        Predictor(trained().folder, "fp32"), texts, n_words=2
    ).set_index("deleted")
    assert (
        list(found.index) == ["named by occlusion", "named by gradient", "random"]
        and (found["n"] == 4).all()
    )
    # On four texts of one sentence, occlusion finds the words that count by trying each of them.
    assert found.loc["named by occlusion", "mean fall"] > found.loc["random", "mean fall"]


def test_words_are_cut_out_where_they_stand():
    words = pd.DataFrame({"start": [0, 9], "stop": [3, 13]})
    assert lesson_06._cut_out("the dull film.", words) == " dull ."


# ---------------------------------------------------------------------------------------- promises
def test_a_threshold_keeps_less_than_it_promises_where_it_was_chosen_and_one_more_error_helps():
    of = made(2_000)
    found = promises.measure_promises(*scored(of), error=0.1, n=60).set_index("rule")
    plain, careful = (found.loc[rule] for rule in promises.RULES)
    assert plain["promised"] < 0.1 < plain["kept"]
    assert (
        careful["kept"] <= 0.1
        and careful["broken"] < plain["broken"]
        and careful["answered"] < plain["answered"]
    )


def test_promises_on_few_texts_are_drawn_from_half_of_them():
    assert promises.measure_promises(*scored(made(30)), error=0.3, n=1_000)["kept"].notna().all()


def test_thresholds_are_chosen_on_validation_and_drawn_on_test():
    valid, test = made(500, seed=1), made(400, seed=2)
    found = lesson_06.choose_thresholds(scored(valid), scored(test), [0.0001, 0.1, 0.2])
    assert [one["wanted_error"] for one in found] == [0.1, 0.2], (
        "so little error cannot be promised"
    )
    assert found[0]["threshold"] == threshold_for(0.1, risk_coverage(*scored(valid)))
    assert risk_coverage_figure(*scored(test), found)


# ------------------------------------------------------------------------------------------ tables
def test_an_accuracy_stands_with_its_n_and_interval():
    found = lesson_06.tabulate_accuracies(made(100), [10, 1_000])
    assert found["n"].tolist() == [10, 100]
    assert (found["high"] - found["low"]).is_monotonic_decreasing
    assert found["accuracy"].between(found["low"], found["high"]).all()


def test_scores_stand_before_and_after_a_temperature():
    of = made(1_000)
    found = lesson_06.compare_calibration(of, fit_temperature(*scored(of))[0])
    assert found.loc["accuracy", "before"] == found.loc["accuracy", "after"]
    assert found.loc["calibration error", "after"] < found.loc["calibration error", "before"]
    assert (found.loc["log loss", "after"]) < found.loc["log loss", "before"]


def test_accuracies_are_compared_by_their_intervals():
    of, p = made(400), np.full((400, 2), 0.5)
    coin = lesson_06.ScoredSplit(of.texts, np.arange(400) % 2, of.labels, p)
    assert lesson_06.compare_accuracies({"new": of, "coin": coin}).startswith("new is above coin")
    assert "new and old: their" in lesson_06.compare_accuracies({"new": of, "old": of})


def test_a_recall_stands_with_its_interval():
    of = made(300)
    scores = score(of.probabilities, of.truth, of.labels)
    found = lesson_06.tabulate_recalls(scores)
    predicted = of.probabilities.argmax(axis=1)
    for index, row in found.iterrows():
        assert row["what"] == f"recall of {of.labels[index]}"
        assert row["recall"] == (predicted[of.truth == index] == index).mean()
        assert row["low"] < row["recall"] < row["high"]


def test_too_much_confidence_is_told_from_too_little_and_from_chance():
    bold, shy, right = made(2_000, boldness=4), made(2_000, boldness=0.3), made(2_000, boldness=1)
    assert lesson_06.judge_confidence(bold).endswith("on the whole it is overconfident")
    assert lesson_06.judge_confidence(shy).endswith("on the whole it is underconfident")
    assert lesson_06.judge_confidence(right).endswith("no more than chance can make")
    milder = tempered(bold.probabilities, 4)
    assert lesson_06.judge_confidence(bold, milder).endswith("no more than chance can make")


def test_the_ends_of_each_kind_of_part_are_compared():
    of = made(2_000)
    shortest, least = lesson_06.compare_ends(lesson_06.tabulate_parts(of, of.probabilities)).split(
        "\n"
    )
    assert shortest.startswith("length in characters up to") and "overlap and" in shortest
    assert "and length in characters over" in shortest
    assert least.startswith("confidence 99% or more is above confidence 50% to under 75%")


def test_parts_hold_each_text_once():
    of = made(200)
    found = lesson_06.tabulate_parts(of, of.probabilities)
    assert found.groupby("by")["n"].sum().to_dict() == {
        "confidence": 200,
        "length in characters": 200,
    }
    right = (of.probabilities.argmax(axis=1) == of.truth).sum()
    assert (found["n"] * found["accuracy"]).sum() == pytest.approx(2 * right)


# --------------------------------------------------------------------------------------- exercises
def test_a_calibration_error_is_weighted_unsigned_and_a_mean():
    of = made(300)
    bins = calibration_bins(of.probabilities, of.truth, 5).query("n > 0")
    distance, n = bins["confidence"] - bins["accuracy"], bins["n"]

    def check(answer: object) -> Verdict:
        return lesson_06.check_error(answer, of, 5)

    assert check((distance.abs() * n).sum() / n.sum()).right
    assert "as if all had the same number" in says(check(distance.abs().mean()))
    assert "largest distance" in says(check(distance.abs().max()))
    assert "a sum over texts" in says(check((distance.abs() * n).sum()))
    assert "weighted by n" in says(check(0.5))
    assert "three dots" in says(check(...))


def test_signs_that_cancel_out_are_seen():
    p = np.array([0.9] * 10 + [0.6] * 10)
    truth = np.array([1] * 5 + [0] * 5 + [1] * 10)  # half right at 0.9, all right at 0.6
    of = lesson_06.ScoredSplit(
        pd.Series([""] * 20), truth, ["neg", "pos"], np.stack([1 - p, p], axis=1)
    )
    assert lesson_06.check_error(0.4, of, 5).right
    assert "cancel each other" in says(lesson_06.check_error(0.0, of, 5))


def test_a_temperature_is_fitted_on_validation():
    valid, test = made(400, seed=1), made(400, seed=2, boldness=3)
    right, of_test = (fit_temperature(*scored(one))[0] for one in (valid, test))

    def check(answer: object) -> Verdict:
        return lesson_06.check_temperature(answer, valid, test)

    assert check(right).right
    assert "will be judged on" in says(check(of_test))
    assert "multiplied" in says(check(1 / right))
    assert "lowest log loss" in says(check(50.0))
    assert "above 0" in says(check(0))


def test_a_threshold_is_chosen_on_validation_with_one_more_error_than_there_is():
    valid, test = scored(made(400, seed=1)), scored(made(400, seed=2))
    right = threshold_for(0.1, risk_coverage(*valid))

    def check(answer: object, error: float = 0.1) -> Verdict:
        return lesson_06.check_threshold(answer, valid, test, error)

    assert check(right).right and "of the test texts are answered" in check(right).says
    assert "chosen on the texts" in says(check(threshold_for(0.1, risk_coverage(*test))))
    assert "luck is in it" in says(check(promises.find_lowest(0.1, risk_coverage(*valid))))
    assert "a share of wrong answers" in says(check(0.1))
    assert "not what the rule gives" in says(check(0.123))
    assert "that there is none: not" in says(check(None))
    assert check(None, 0.0001).right and "it is right to say so" in check(None, 0.0001).says
