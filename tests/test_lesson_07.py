"""Notebook 07: what is drawn and scored at each number of labels; checked exercises."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.conftest import says
from ulmfit_app.course import PRESETS, label_trials, lesson_07
from ulmfit_app.course.label_trials import NOT_TUNED, LabelTrials
from ulmfit_app.evaluation.metrics import accuracy_interval, paired_comparison
from ulmfit_app.experiments.label_curve import SCRATCH, SEMI_SUPERVISED, TFIDF
from ulmfit_app.pipeline.run import Run


@pytest.fixture(scope="module")
def trials() -> LabelTrials:
    settings = PRESETS["tiny"]
    data = replace(settings.data, max_train=200, max_valid=20, max_test=150)
    return LabelTrials(
        replace(settings, data=data, classifier=replace(settings.classifier, epochs=1))
    )


def planted(trials: LabelTrials, right: dict[tuple[str, int, int], np.ndarray]) -> LabelTrials:
    """The same texts, on which classifiers are right where it is said."""
    found = object.__new__(LabelTrials)
    found.table, found._right = trials.table, right
    return found


# -------------------------------------------------------------------------------------- the labels
def test_labels_are_drawn_from_train_alone_and_in_the_shares_of_the_classes(trials):
    train = trials.table[trials.table["split"] == "train"]
    rows = trials.draw_labels(20)
    assert len(set(rows)) == 20 and set(rows) <= set(train.index)
    shares = train["label"].value_counts(normalize=True) * 20
    assert (trials.table.loc[rows, "label"].value_counts() - shares).abs().max() < 1
    assert set(trials.draw_labels(20)) == set(rows) != set(trials.draw_labels(20, draw=1))
    assert set(trials.draw_labels(10_000)) == set(train.index)


def test_counting_words_learns_from_the_drawn_labels_and_is_scored_on_test(trials):
    right = trials.find_right(TFIDF, 40)
    assert right.shape == ((trials.table["split"] == "test").sum(),) and right.dtype == bool
    assert trials.find_right(TFIDF, 40) is right, "what was trained is kept"
    assert trials.find_right(TFIDF, 200).mean() > 0.5


def test_a_language_model_is_fine_tuned_only_when_a_way_needs_it(trials):
    without = planted(trials, {})
    without._settings = replace(
        trials._settings, lm=replace(trials._settings.lm, pretrained="no such model")
    )
    without.labels = trials.labels
    lesson_07.tabulate_draws(without, 20, 2, [TFIDF])


@pytest.mark.parametrize(
    ("general", "asked"), [("en-small", "en-reviews-small"), ("wt103", "wt103"), ("none", "none")]
)
def test_what_reads_the_unlabelled_texts_has_read_others_before_where_the_package_has_such_a_model(
    trials, monkeypatch, general, asked
):
    class Made:
        def __init__(self, folder, settings):
            self.settings = settings

        def carry_out(self, last):
            raise StopIteration(self.settings.lm.pretrained)

    monkeypatch.setattr(label_trials, "begin", Made)
    with pytest.raises(StopIteration, match=f"^{asked}$"):
        _ = LabelTrials(
            replace(trials._settings, lm=replace(trials._settings.lm, pretrained=general))
        ).history


def test_every_way_is_scored_on_the_same_texts_in_the_same_order(trials, monkeypatch):
    seen = []
    monkeypatch.setattr(label_trials, "load_predictor", lambda folder: _Told(folder, seen))
    for way in (SEMI_SUPERVISED, SCRATCH, NOT_TUNED):
        assert trials.find_right(way, 20).all(), (
            "the classes of the true labels, as they stand in the table"
        )
    first, *others = seen
    assert all(other["label"].tolist() == first["label"].tolist() for other in others)
    assert all((other["split"] == "train").sum() == 20 for other in seen)
    trials._right.clear()


def test_more_labels_and_another_draw_are_learned_from_when_asked_for(trials, monkeypatch):
    """A run keeps the corpus of a path: a file that was written anew would be read as it was."""
    seen = []
    monkeypatch.setattr(label_trials, "load_predictor", lambda folder: _Told(folder, seen))
    points = [(20, 0), (40, 0), (40, 1)]
    for n_labels, draw in points:
        trials.find_right(SCRATCH, n_labels, draw)
    learned = [rows["row"][rows["split"] == "train"].tolist() for rows in seen]
    assert [sorted(rows) for rows in learned] == [
        trials.draw_labels(*point).tolist() for point in points
    ]
    trials._right.clear()


class _Told:
    """In the place of a predictor: it reads the answers from the run's rows."""

    def __init__(self, folder, seen) -> None:
        self.rows = Run.open(folder).rows
        seen.append(self.rows)

    def probabilities(self, store, texts):
        assert len(store) == len(self.rows)
        labels = self.rows["label"][texts].to_numpy()
        return np.stack([labels == label for label in ("neg", "pos")], axis=1).astype(float)


def test_a_classifier_from_few_labels_knows_the_words_of_the_unlabelled_texts(trials, monkeypatch):
    words = {}
    real = label_trials.load_predictor

    def load(folder):
        predictor = real(folder)
        words[len(words)] = set(predictor.bundle.vocab)
        return predictor

    monkeypatch.setattr(label_trials, "load_predictor", load)
    trials.find_right(SEMI_SUPERVISED, 10)
    trials.find_right(SEMI_SUPERVISED, 100)
    assert words[0] == words[1]
    assert trials.history["perplexity"].gt(1).all()


# -------------------------------------------------------------------------------------- the tables
@pytest.fixture
def plain(trials) -> LabelTrials:
    """Two ways at two numbers of labels, in two draws, on 150 test texts."""
    right = {}
    for way, share in ((SEMI_SUPERVISED, 0.6), (TFIDF, 0.7)):
        for n_labels in (50, 200):
            for draw in range(2):
                generator = np.random.default_rng([n_labels, draw, int(100 * share)])
                right[way, n_labels, draw] = generator.random(150) < share
    return planted(trials, right)


def test_a_curve_has_the_mean_of_the_draws_and_the_interval_of_the_test_texts(plain):
    curve = lesson_07.tabulate_curve(plain, [50, 200], draws=2, ways=[TFIDF])
    wrong = [1 - plain.find_right(TFIDF, 50, draw).mean() for draw in range(2)]
    row = curve.iloc[0]
    assert row["error"] == pytest.approx(100 * np.mean(wrong)) and row["n"] == 150
    assert [row["low"] / 100, row["high"] / 100] == pytest.approx(
        accuracy_interval(round(150 * np.mean(wrong)), 150)
    )
    errors = lesson_07.tabulate_draws(plain, 50, 2, [TFIDF])[TFIDF]
    assert errors.tolist() == pytest.approx([100 * one for one in wrong])


def test_two_ways_are_compared_text_by_text(plain):
    row = lesson_07.compare_ways(plain, TFIDF, SEMI_SUPERVISED, [50]).iloc[0]
    wanted = paired_comparison(plain.find_right(TFIDF, 50), plain.find_right(SEMI_SUPERVISED, 50))
    assert row["difference"] == pytest.approx(100 * wanted["accuracy_difference"])
    assert (row["only_first"], row["only_other"]) == (
        wanted["only_first_right"],
        wanted["only_other_right"],
    )
    assert row["p_value"] == wanted["p_value"] and row["low"] < row["difference"] < row["high"]


def test_what_may_be_chosen_says_more_than_all_texts_do(plain):
    def gain(table: pd.DataFrame) -> float:
        errors = table.groupby("way")["error"].mean()
        return errors[SEMI_SUPERVISED] - errors[TFIDF]

    honest = gain(
        lesson_07.tabulate_curve(plain, [50, 200], draws=2, ways=[SEMI_SUPERVISED, TFIDF])
    )
    for_words = lesson_07.pick_favourable(
        plain, TFIDF, SEMI_SUPERVISED, [50, 200], draws=2, size=30
    )
    for_ulmfit = lesson_07.pick_favourable(
        plain, SEMI_SUPERVISED, TFIDF, [50, 200], draws=2, size=30
    )
    assert gain(for_words) > honest > gain(for_ulmfit)
    assert for_words["way"].tolist() == for_ulmfit["way"].tolist(), (
        "one order of lines in both figures"
    )
    assert (for_words["low"] == for_words["error"]).all() and (
        for_words["high"] == for_words["error"]
    ).all()
    with_intervals = lesson_07.pick_favourable(
        plain, TFIDF, SEMI_SUPERVISED, [50, 200], draws=2, size=30, intervals=True
    )
    assert with_intervals["error"].tolist() == for_words["error"].tolist()
    assert (with_intervals["low"] < with_intervals["error"]).all()
    assert gain(
        lesson_07.pick_favourable(plain, TFIDF, SEMI_SUPERVISED, [50, 200], size=10_000)
    ) == pytest.approx(
        gain(lesson_07.tabulate_curve(plain, [50, 200], ways=[SEMI_SUPERVISED, TFIDF]))
    ), "where there is nothing to choose"


def test_a_doubling_costs_the_labels_that_come_in_addition():
    curve = pd.DataFrame(
        {"way": [TFIDF, TFIDF, "other"], "labels": [90, 180, 90], "error": [40.0, 34.0, 1.0]}
    )
    table = lesson_07.tabulate_doublings(curve, TFIDF)
    assert table["labels"].tolist() == [90, 180] and table["gained"].tolist()[1] == 6
    assert table["hours"].tolist() == pytest.approx([90 * lesson_07.SECONDS_PER_LABEL / 3600] * 2)


def test_a_power_law_takes_the_same_share_off_with_each_doubling():
    errors = [lesson_07.extrapolate((50, 40.0), (100, 36.0), n) for n in (200, 400, 800)]
    assert errors == pytest.approx([36 * 0.9, 36 * 0.9**2, 36 * 0.9**3])


# ----------------------------------------------------------------------------------- the exercises
def test_texts_that_the_second_alone_gets_right_are_told_from_other_counts():
    first = np.array([1] * 7 + [0] * 8 + [1] * 20, bool)  # 7 alone, 3 of the other alone
    other = np.array([0] * 7 + [1] * 3 + [0] * 5 + [1] * 20, bool)
    assert lesson_07.check_only(3, first, other).right
    assert "other way round" in says(lesson_07.check_only(7, first, other))
    assert "differ in all" in says(lesson_07.check_only(4, first, other))
    assert "first gets right, too" in says(lesson_07.check_only(23, first, other))
    assert "disagree, either way" in says(lesson_07.check_only(10, first, other))
    assert "other & ~first" in says(lesson_07.check_only(5, first, other))
    assert lesson_07.check_only(7, other, first).right


def test_the_interval_of_a_mean_is_told_from_that_of_a_draw():
    errors = [40.0, 42.5, 38.0, 44.0, 41.0]
    mean, spread, n = np.mean(errors), np.std(errors, ddof=1), len(errors)
    right = stats.t.interval(0.95, n - 1, loc=mean, scale=spread / math.sqrt(n))
    factor = stats.t.ppf(0.975, n - 1)

    def check(half: float, middle: float = mean):
        return lesson_07.check_mean_interval((middle - half, middle + half), errors)

    assert lesson_07.check_mean_interval(right, errors).right
    assert "single draw" in says(check(factor * spread))
    assert "Student's t with 4 degrees" in says(check(1.96 * spread / math.sqrt(n)))
    assert "divide by n - 1" in says(check(factor * np.std(errors) / math.sqrt(n)))
    assert "the mean of the draws" in says(check(1.0, mean + 1))
    assert "points wide" in says(check(1.0))
    assert "lower one" in says(check(-1.0))
    assert "two numbers" in says(lesson_07.check_mean_interval(41.0, errors))


def test_a_promise_is_told_from_those_of_other_lines():
    few, many = (50, 44.0), (800, 33.0)
    right = 33 * (33 / 44) ** (2 / 4)
    assert lesson_07.check_extrapolated(right, few, many, 3_200).right
    assert "straight line" in says(
        lesson_07.check_extrapolated(33 - 11 * 2_400 / 750, few, many, 3_200)
    )
    assert "same points off" in says(
        lesson_07.check_extrapolated(33 - 11 * 2 / 4, few, many, 3_200)
    )
    assert "in %" in says(lesson_07.check_extrapolated(right / 100, few, many, 3_200))
    assert "is above the error" in says(
        lesson_07.check_extrapolated(44 * (33 / 44) ** (2 / 4), few, many, 3_200)
    )
    assert "not on the line" in says(lesson_07.check_extrapolated(20.0, few, many, 3_200))


def test_three_dots_are_no_answer_in_any_of_the_exercises():
    texts = np.array([True])
    for verdict in (
        lesson_07.check_only(..., texts, texts),
        lesson_07.check_mean_interval(..., [1.0, 2.0]),
        lesson_07.check_extrapolated(..., (50, 40.0), (100, 30.0), 200),
    ):
        assert "in place of the three dots" in says(verdict)
