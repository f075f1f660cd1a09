"""Notebook 07: what is drawn and scored at each number of labels; checked exercises."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.conftest import says
from ulmfit_app.course import PRESETS, label_trials, lesson_07
from ulmfit_app.course.label_trials import GENERAL_TEXT, NOT_TUNED, LabelTrials
from ulmfit_app.course.starts import list_starts
from ulmfit_app.evaluation.metrics import accuracy_interval, paired_comparison
from ulmfit_app.experiments.label_curve import SCRATCH, SEMI_SUPERVISED, TFIDF, Sizes
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
    found.table, found.sizes, found._right = trials.table, trials.sizes, right
    return found


# -------------------------------------------------------------------------------------- the labels
def test_labels_to_validate_on_are_among_those_that_are_counted(trials):
    splits = trials.table["split"]
    for n_labels, parts in ((20, (16, 4)), (50, (40, 10)), (10_000, (200, 20))):
        rows = trials.draw_labels(n_labels)
        counts = splits[rows].value_counts()
        assert trials.divide(n_labels) == parts == (counts["train"], counts["valid"])
        assert len(set(rows)) == len(rows) == sum(parts)
    fewer = planted(trials, {})
    fewer.sizes = Sizes(2, 600, 200, 48)
    assert fewer.divide(800) == fewer.divide(10_000) == (600, 150)


def test_labels_are_drawn_in_the_shares_of_the_classes_and_fewer_are_among_more(trials):
    train = trials.table[trials.table["split"] == "train"]
    rows = trials.draw_labels(50)
    shares = train["label"].value_counts(normalize=True) * 50
    assert (trials.table.loc[rows, "label"].value_counts() - shares).abs().max() < 2
    assert set(trials.draw_labels(20)) < set(rows) != set(trials.draw_labels(50, draw=1))
    assert rows.tolist() == trials.draw_labels(50).tolist() == sorted(rows)


def test_counting_words_learns_from_all_drawn_labels_and_is_scored_on_test(trials, monkeypatch):
    learned = []
    real = label_trials.tfidf_logistic_regression
    monkeypatch.setattr(
        label_trials,
        "tfidf_logistic_regression",
        lambda texts, *rest: (learned.append(texts), real(texts, *rest))[1],
    )
    right = trials.find_right(TFIDF, 40)
    assert learned == [trials.table["text"][trials.draw_labels(40)].tolist()]
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
    ("preset", "general"), [("en-reviews-small", "en-small"), ("wt103", "wt103"), ("none", "none")]
)
def test_each_way_starts_from_the_model_that_its_name_says(trials, monkeypatch, preset, general):
    asked = []

    class Made:
        def __init__(self, folder, settings):
            asked.append((settings.lm.pretrained, settings.lm.epochs))

        def carry_out(self, last):
            raise StopIteration

    monkeypatch.setattr(label_trials, "begin", Made)
    lm = replace(trials._settings.lm, pretrained=preset)
    own = LabelTrials(replace(trials._settings, lm=lm))
    for way in (NOT_TUNED, GENERAL_TEXT, SCRATCH, SEMI_SUPERVISED):
        with pytest.raises(StopIteration):
            own.find_right(way, 20)
    assert asked == [(preset, 0), (general, 0), ("none", 0), (preset, lm.epochs)]
    packaged = ["en-small", "en-reviews-small"]
    assert own.models == (packaged if preset == "en-reviews-small" else [])


def test_every_way_is_scored_on_the_same_texts_in_the_same_order(trials, monkeypatch):
    seen = []
    monkeypatch.setattr(label_trials, "load_predictor", lambda folder: _Told(folder, seen))
    for way in (SEMI_SUPERVISED, SCRATCH, NOT_TUNED, GENERAL_TEXT):
        assert trials.find_right(way, 20).all(), (
            "the classes of the true labels, as they stand in the table"
        )
    first, *others = seen
    assert all(other["label"].tolist() == first["label"].tolist() for other in others)
    assert all((other["split"] == "train").sum() == 16 for other in seen)
    assert all((other["split"] == "valid").sum() == 4 for other in seen)
    trials._right.clear()


def test_more_labels_and_another_draw_are_learned_from_when_asked_for(trials, monkeypatch):
    """A run keeps the corpus of a path: a file that was written anew would be read as it was."""
    seen = []
    monkeypatch.setattr(label_trials, "load_predictor", lambda folder: _Told(folder, seen))
    points = [(20, 0), (40, 0), (40, 1)]
    for n_labels, draw in points:
        trials.find_right(SCRATCH, n_labels, draw)
    learned = [rows["text"][rows["split"].isin(["train", "valid"])].tolist() for rows in seen]
    assert [sorted(texts) for texts in learned] == [
        sorted(trials.table["text"][trials.draw_labels(*point)]) for point in points
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
    pairs = [(TFIDF, SEMI_SUPERVISED), (SEMI_SUPERVISED, TFIDF)]
    compared = lesson_07.compare_ways(plain, pairs, [50, 200])
    assert compared["labels"].tolist() == [50, 200] * 2
    row, other_way = compared.iloc[0], compared.iloc[2]
    assert (row["first"], row["other"]) == pairs[0]
    assert other_way["difference"] == -row["difference"]
    wanted = paired_comparison(plain.find_right(TFIDF, 50), plain.find_right(SEMI_SUPERVISED, 50))
    assert row["difference"] == pytest.approx(100 * wanted["accuracy_difference"])
    assert (row["only_first"], row["only_other"]) == (
        wanted["only_first_right"],
        wanted["only_other_right"],
    )
    assert row["p_value"] == wanted["p_value"] and row["low"] < row["difference"] < row["high"]


def test_comparisons_are_shown_with_signs_and_judged_by_their_p_value_alone():
    compared = pd.DataFrame(
        {
            "labels": 50,
            "first": "new",
            "other": "old",
            "only_first": [30, 10, 21],
            "only_other": [10, 40, 19],
            "difference": [4.0, -6.0, 0.04],
            "low": [1.54, -9.0, -2.0],
            "high": [6.5, -3.0, 2.1],
            "p_value": [0.0022, 1.2e-8, 0.87],
        }
    )
    shown = lesson_07.format_comparison(compared)
    assert shown["difference (points)"].tolist() == [
        "+4.0 (+1.5 to +6.5)",
        "-6.0 (-9.0 to -3.0)",
        "+0.0 (-2.0 to +2.1)",
    ]
    assert shown["p"].tolist() == ["0.0022", "< 0.0001", "0.87"]
    assert shown["on these texts"].tolist() == [
        "the first is better",
        "the second is better",
        "not told apart",
    ]
    assert shown["right alone"].tolist() == ["30 : 10", "10 : 40", "21 : 19"]


def test_errors_are_shown_with_a_row_per_number_of_labels_and_a_column_per_way(plain):
    curve = lesson_07.tabulate_curve(plain, [50, 200], ways=[SEMI_SUPERVISED, TFIDF])
    shown = lesson_07.format_errors(curve)
    assert shown.columns.tolist() == ["labels", SEMI_SUPERVISED, TFIDF]
    assert shown["labels"].tolist() == [50, 200]
    error, low, high = curve.loc[1, ["error", "low", "high"]]
    assert shown[SEMI_SUPERVISED][1] == f"{error:.1f} % ({low:.1f} to {high:.1f})"


def test_draws_are_shown_with_how_far_the_first_way_is_below_the_second():
    draws = pd.DataFrame({"new": [38.0, 41.25], "old": [40.0, 41.0]}).rename_axis("draw")
    shown = lesson_07.format_draws(draws)
    assert shown["difference (points)"].tolist() == ["+2.0", "-0.2"]
    assert shown["draw"].tolist() == [0, 1] and shown["new"].tolist() == ["38.0 %", "41.2 %"]


def test_costs_are_those_of_the_bundles_of_fine_tuning_and_of_a_person(plain, monkeypatch):
    monkeypatch.setattr(LabelTrials, "models", ["en-small", "en-reviews-small"])
    monkeypatch.setattr(LabelTrials, "history", pd.DataFrame({"seconds": [12.0, 18.0]}))
    plain.sizes = Sizes(2, 1_200, 200, 150)
    costs = lesson_07.tabulate_costs(plain, 30)
    hours = list_starts().set_index("model")["hours"]
    of_models = [60 * hours["en-small"], 60 * hours["en-reviews-small"]]
    assert costs["machine"].tolist() == pytest.approx([*of_models, 0.5, 0])
    assert costs["person"].tolist() == [0, 0, 0, 30 * lesson_07.SECONDS_PER_LABEL / 60]
    shown = lesson_07.format_costs(costs)
    assert shown["what"][0] == "en-small: reading English Wikipedia"
    assert shown["person (minutes)"].tolist() == ["", "", "", "10.0"]


def test_the_models_of_the_package_say_what_they_read():
    table = list_starts().set_index("model")
    assert table.loc["en-reviews-small", "started from"] == "en-small"
    assert table.loc["en-small", "started from"] == "random weights"
    assert table.loc["en-small", "then read"] == "English Wikipedia"
    assert table.loc["en-small-bwd", "reads"] == "backward"
    assert (table[["million tokens", "hours"]] > 0).all(axis=None)


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
    assert table["per_hour"].tolist()[1] == pytest.approx(12)
    shown = lesson_07.format_doublings(table)
    assert shown["gained (points)"].tolist() == ["", "+6.0"]
    assert shown["points per hour"].tolist() == ["", "+12.0"]


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
