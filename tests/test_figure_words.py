"""A figure says in words what it shows, and has no legend on it, whatever it draws."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.test_figures import confusion, history, predictions, thresholds
from ulmfit_app.evaluation import (
    data_figures,
    drawing,
    figures,
    groups_figure,
    multilabel_figures,
    study_figures,
)
from ulmfit_app.evaluation.calibration import tempered
from ulmfit_app.evaluation.groups import compare_groups
from ulmfit_app.evaluation.matrix_figure import matrix_figure
from ulmfit_app.evaluation.metrics import score
from ulmfit_app.evaluation.multilabel import score_sets
from ulmfit_app.evaluation.over_time import accuracy_over_time


def curve() -> pd.DataFrame:
    rows = [
        dict(way=way, labels=labels, n=680, error=error, low=error - 4, high=error + 4)
        for way, errors in (("TF-IDF", (38, 30)), ("ULMFiT", (30, 24)))
        for labels, error in zip((50, 1_950), errors, strict=True)
    ]
    return pd.DataFrame(rows)


def every_figure() -> dict[str, Figure]:
    """Each function of evaluation that draws a figure, and one that it drew."""
    probabilities, truth = predictions()
    scores = {"ULMFiT": score(probabilities, truth, ["a", "b"])}
    sizes = {"low": [38.0, 18.0], "high": [42.0, 22.0], "n": [680, 680]}
    errors = pd.DataFrame({"error": [40.0, 20.0], **sizes})
    rows = errors.assign(table="Table 7", row=["full", "no lm"], paper=[5.0, float("nan")])
    numbers = pd.DataFrame({"one": [0.5, 0.2]}, pd.Index([1, 2], name="epoch"))
    counts = pd.DataFrame({"train": [30, 10], "valid": [3, 3], "test": [1, 4]}, index=["a", "b"])
    before = tempered(probabilities, 0.5)
    has, said = probabilities > 0.4, probabilities > 0.5
    sets = score_sets(probabilities, has, ["a", "b"], said)
    senders = np.array(["web", "mail"])[np.arange(len(truth)) % 2]
    days = pd.Series(pd.date_range("2026-01-01", periods=len(truth)), name="date")
    answers = probabilities.argmax(axis=1)
    groups = compare_groups(
        pd.Series(senders, name="sender"), truth, answers, probabilities, ["a", "b"]
    )
    return {
        "groups_figure": groups_figure.groups_figure(groups),
        "time_figure": groups_figure.time_figure(accuracy_over_time(days, answers == truth)),
        "labels_figure": multilabel_figures.labels_figure(sets),
        "together_figure": multilabel_figures.together_figure(has, ["a", "b"]),
        "given_figure": multilabel_figures.given_figure(has, said, ["a", "b"]),
        "pooled_reliability_figure": multilabel_figures.pooled_reliability_figure(
            probabilities, has, before
        ),
        "matrix_figure": matrix_figure(
            confusion(2), np.array([9, 9]), ["a", "b"], "A title", "columns", "rows", "shares"
        ),
        "confusion_figure": figures.confusion_figure(confusion(2), ["neg", "$pos$"]),
        "confidence_figure": figures.confidence_figure(probabilities, truth),
        "reliability_figure": figures.reliability_figure(probabilities, truth, before),
        "risk_coverage_figure": figures.risk_coverage_figure(
            probabilities, truth, thresholds(probabilities, truth)
        ),
        "training_curves_figure": figures.training_curves_figure(history(["a", "b"]), "Curves"),
        "comparison_figure": figures.comparison_figure(scores),
        "balance_figure": data_figures.balance_figure(counts),
        "lengths_figure": data_figures.lengths_figure({"train": np.array([1, 2, 9])}, 1440),
        "ablation_figure": study_figures.ablation_figure(rows),
        "label_curve_figure": study_figures.label_curve_figure(curve()),
        "starts_figure": study_figures.starts_figure(errors.assign(million_tokens=[0, 10])),
        "methods_figure": study_figures.methods_figure(
            errors.assign(method=["full", "LoRA"], trained_parameters=[1e6, float("nan")])
        ),
        "schedules_figure": study_figures.schedules_figure({"rising": [0, 1]}),
        "plan_figure": study_figures.plan_figure(
            np.array([[0, 0, 1e-4], [0, 1e-3, 1e-3], [1e-2, 1e-2, 1e-2]]),
            {"head": 1, "last LSTM": 1, "all": 1},
            "A plan",
        ),
        "coverage_figure": study_figures.coverage_figure({"train": np.array([0.5, 1.0])}),
        "perplexities_figure": study_figures.perplexities_figure({"ours": [900.0, 90.0]}, "One"),
        "lines_figure": study_figures.lines_figure(numbers, "probability", "Two lines"),
        "panels_figure": study_figures.panels_figure(numbers, "Two panels"),
    }


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return every_figure()


def test_every_figure_says_in_a_few_sentences_what_it_shows(drawn):
    functions = {
        name
        for module in (figures, data_figures, study_figures, multilabel_figures, groups_figure)
        for name in vars(module)
        if name.endswith("_figure")
    }
    assert set(drawn) == functions
    for name, figure in drawn.items():
        said = repr(figure)
        titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
        named = [label for axes in figure.axes for label in (axes.get_xlabel(), axes.get_ylabel())]
        assert all(" ".join(one.split()) in said for one in (*titles, *named)), name
        assert "\n" not in said and len(said) < 700 and said.count("..") == 0, (name, said)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("confusion_figure", "true class by predicted class. neg 1"),
        ("confusion_figure", "; $pos$ "),
        ("confusion_figure", "Colours: share of the true class."),
        ("confidence_figure", "right: n = "),
        ("reliability_figure", "accuracy = confidence from 0% to 100%; after, 95% interval"),
        ("comparison_figure", "accuracy, 95% interval. ULMFiT 79.8%."),
        ("training_curves_figure", "loss (nats) by epoch. training from 1 to 0.5; validation"),
        ("balance_figure", "valid at 50%; test from 20% to 80%; train. a; b."),
        ("label_curve_figure", "TF-IDF from 38 to 30; ULMFiT from 30 to 24."),
        ("starts_figure", "random weights at 40; pretrained at 20."),
        ("plan_figure", "embeddings; LSTM 1; head. head; last LSTM; all. Colours: learning rate."),
        ("labels_figure", "F1 by label. label, texts that have it by F1, precision, recall."),
        ("together_figure", "texts with the label by label that they have too. a "),
        ("given_figure", "Colours: share of the texts with the row’s label."),
        ("pooled_reliability_figure", "share = probability from 0% to 100%; after, 95% interval"),
        ("coverage_figure", "train from 50% to 100%."),
        ("groups_figure", "Groups of “sender”. Accuracy. group, texts by share, 95% interval. "),
        ("time_figure", "accuracy by middle of the period. straight line from "),
    ],
)
def test_a_figures_words_have_its_names_and_numbers(drawn, name, words):
    assert words in repr(drawn[name])


@pytest.mark.parametrize("n_classes", [2, 8, 20, 21])
def test_the_words_of_many_classes_are_cut_short_and_counted(n_classes):
    labels = [f"class number {index}" for index in range(n_classes)]
    said = repr(figures.confusion_figure(np.ones((n_classes, n_classes), int), labels))
    assert said.count("class number") == min(n_classes, 12)
    assert (f"and {n_classes - 12} more" in said) == (n_classes > 12)


def test_a_figure_of_words_dates_or_nothing_can_be_described_too():
    figure, (one, other) = drawing.make_axes(3, 2, columns=2)
    one.plot(["low", "high"], ["good", "bad"], label="words")
    one.plot([], [], label="nothing")
    other.plot([1, 2], pd.date_range("2026-01-01", periods=2), label="dates")
    assert repr(figure).startswith("Figure. words; nothing. dates")
    assert drawing.describe_figure(Figure()) == "Figure."


def test_a_line_that_comes_back_to_where_it_began_is_not_said_to_stand_still():
    table = pd.DataFrame({"up": [1, 5, 1], "flat": [2, 2, 2]}, pd.Index([1, 2, 3], name="epoch"))
    said = repr(study_figures.lines_figure(table, "loss", "Two lines"))
    assert "up from 1 to 1, between 1 and 5; flat at 2." in said


def test_a_figure_with_a_description_says_that():
    figure, axes = drawing.make_axes(3, 2)
    axes.set_title("A title")
    figure.description = "What it is about."
    assert repr(figure) == "Figure. A title. What it is about."


def test_no_legend_stands_on_what_is_drawn(drawn):
    for name in ("reliability_figure", "risk_coverage_figure", "perplexities_figure"):
        figure = drawn[name]
        figure.canvas.draw()
        axes = figure.axes[0]
        legend = axes.get_legend().get_window_extent()
        assert not legend.overlaps(axes.get_window_extent().padded(-1)), name


@pytest.mark.parametrize(("lowest", "highest"), [(0.5, 3), (3, 9), (21, 29), (18, 49), (5, 90)])
def test_the_errors_of_a_label_curve_have_four_ticks_or_more(lowest, highest):
    table = curve().assign(error=[highest, lowest] * 2)
    table = table.assign(low=table["error"] * 0.9, high=table["error"] * 1.1)
    axes = study_figures.label_curve_figure(table).axes[0]
    inside = [tick for tick in axes.get_yticks() if lowest * 0.9 <= tick <= highest * 1.1]
    assert len(inside) >= (4 if highest > 4 else 3)


def test_a_label_curve_names_intervals_only_where_it_draws_some():
    table = curve()
    without = table.assign(low=table["error"], high=table["error"])
    drawn, bare = (
        study_figures.label_curve_figure(one).axes[0].get_ylabel() for one in (table, without)
    )
    assert drawn == "test error (%), with 95% interval" and bare == "test error (%)"
