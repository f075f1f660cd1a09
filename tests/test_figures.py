"""Figures draw what was measured, for any number of classes, in any script, with no state left."""

import io
import logging

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image

from ulmfit_app.evaluation import data_figures, drawing, figures, fonts, study_figures
from ulmfit_app.evaluation.calibrated import Calibration, before_and_after
from ulmfit_app.evaluation.calibration import risk_coverage, tempered
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.metrics import calibration_bins, score


def predictions(n: int = 400, n_classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(n_classes, size=n)
    raw = generator.random((n, n_classes))
    raw[np.arange(n), truth] += 0.4
    return raw / raw.sum(axis=1, keepdims=True), truth


def thresholds(probabilities: np.ndarray, truth: np.ndarray) -> list[dict]:
    """Those of texts which are their own validation."""
    calibration = Calibration(Decision(), *(probabilities,) * 2, truth)
    return before_and_after(calibration, probabilities, truth)["thresholds"]


def confusion(n_classes: int) -> np.ndarray:
    probabilities, truth = predictions(n_classes=n_classes)
    return np.array(
        score(probabilities, truth, [str(index) for index in range(n_classes)])["confusion_matrix"]
    )


def history(phases: list[str]) -> pd.DataFrame:
    losses = np.linspace(1, 0.5, len(phases))
    return pd.DataFrame(
        {
            "phase": phases,
            "train_loss": losses,
            "valid_loss": losses + 0.1,
            "accuracy": 1 - losses,
            "seconds": 1.0,
        }
    )


def texts_of(figure: Figure) -> list[str]:
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_classes", [2, 6, 20, 21, 200])
def test_every_figure_can_be_drawn_for_two_classes_and_for_two_hundred(n_classes, tmp_path):
    probabilities, truth = predictions(n_classes=n_classes)
    drawn = [
        figures.confusion_figure(
            confusion(n_classes), [f"class number {index}" for index in range(n_classes)]
        ),
        figures.confidence_figure(probabilities, truth),
        figures.reliability_figure(probabilities, truth),
        figures.reliability_figure(probabilities, truth, tempered(probabilities, 0.5)),
        figures.risk_coverage_figure(probabilities, truth, thresholds(probabilities, truth)),
    ]
    for index, figure in enumerate(drawn):
        drawing.save_png(figure, tmp_path / f"{index}.png")
        assert (tmp_path / f"{index}.png").read_bytes().startswith(b"\x89PNG")


def test_no_figure_is_left_in_pyplot():
    probabilities, truth = predictions()
    figures.reliability_figure(probabilities, truth)
    figures.confusion_figure(confusion(3), ["a", "b", "c"])
    assert plt.get_fignums() == []


def test_cells_show_counts_up_to_twenty_classes_and_colour_alone_beyond():
    few = figures.confusion_figure(np.diag(range(100, 120)), [f"c{index}" for index in range(20)])
    assert {"100", "119"} <= set(texts_of(few))
    many = figures.confusion_figure(np.diag(range(100, 121)), [f"c{index}" for index in range(21)])
    assert "100" not in texts_of(many)


def test_the_colour_of_a_cell_is_its_share_of_the_true_class():
    figure = figures.confusion_figure(np.array([[8, 2], [0, 0]]), ["some", "none"])
    shares = figure.axes[0].images[0].get_array()
    assert shares[0].tolist() == [0.8, 0.2]
    assert shares.mask[1].all()  # no text, no share: grey instead of a false 0


def test_tick_labels_are_thinned_where_classes_are_many():
    figure = figures.confusion_figure(confusion(200), [f"class {index}" for index in range(200)])
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == [f"class {index}" for index in range(0, 200, 5)]
    assert "1 in 5 is named" in figure.axes[0].get_xlabel()


@pytest.mark.filterwarnings("error")
def test_long_names_are_shortened_and_dollar_signs_are_no_formulas():
    figure = figures.confusion_figure(
        np.eye(2, dtype=int), ["the beginning, a middle, the end", "$x_1$"]
    )
    figure.canvas.draw()
    first, second = figure.axes[0].get_yticklabels()
    assert first.get_text() == "the beginning, … the end"
    assert second.get_text() == r"\$x_1\$"


@pytest.mark.filterwarnings("error")
def test_a_name_no_font_can_show_becomes_its_number_and_the_figure_says_so(caplog):
    caplog.set_level(logging.INFO, "ulmfit_app")
    figure = figures.confusion_figure(
        np.eye(2, dtype=int), ["да", "\U000f1234"]
    )  # a private character has no glyph
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["да", "class 2"]
    assert "numbered where no font has the name" in figure.axes[0].get_ylabel()
    assert "some class names (1)" in caplog.text


@pytest.mark.filterwarnings("error")
def test_a_character_our_font_lacks_is_drawn_in_another_installed_font():
    small_capital = (
        "\u1d15"  # in DejaVu Serif, which matplotlib brings along, and not in DejaVu Sans
    )
    figure = figures.confusion_figure(np.eye(2, dtype=int), ["plain", small_capital])
    figure.canvas.draw()
    label = figure.axes[0].get_yticklabels()[1]
    assert label.get_text() == small_capital and len(label.get_fontfamily()) == 2


@pytest.fixture
def chinese_font(tmp_path, monkeypatch):
    """A font with 好 and 差 and no others, installed after matplotlib first ran; those of this
    machine are hidden."""
    pen = TTGlyphPen(None)
    for step, point in enumerate([(50, 0), (50, 700), (650, 700), (650, 0)]):
        (pen.lineTo if step else pen.moveTo)(point)
    pen.closePath()
    names = [".notdef", "good", "bad"]
    font = FontBuilder(1000)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord("好"): "good", ord("差"): "bad"})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (700, 50)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Two Characters", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "two.ttf")
    known = list(fontManager.ttflist)
    fontManager.ttflist[:] = [font for font in known if font.name.startswith("DejaVu")]
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [str(tmp_path / "two.ttf")])
    yield
    fontManager.ttflist[:] = known


@pytest.mark.filterwarnings("error")
def test_a_font_installed_since_draws_chinese_class_names(chinese_font, monkeypatch):
    labels = ["好", "差", "好\U000f1234"]
    assert drawing.undrawable(labels) == [2]
    figure = figures.confusion_figure(np.eye(3, dtype=int), labels)
    figure.canvas.draw()
    shown = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in shown] == ["好", "差", "class 3"]
    assert shown[0].get_fontfamily() == ["DejaVu Sans", "Two Characters"]


def test_the_reliability_figure_draws_the_measured_bins():
    probabilities, truth = predictions(n_classes=3)
    bins = calibration_bins(probabilities, truth).query("n > 0")
    figure = figures.reliability_figure(probabilities, truth)
    upper, lower = figure.axes
    points = upper.containers[0].lines[0]
    assert points.get_xdata() == pytest.approx(bins["confidence"].to_numpy())
    assert points.get_ydata() == pytest.approx(bins["accuracy"].to_numpy())
    assert [bar.get_height() for bar in lower.patches] == bins["n"].tolist()
    ends = np.array([segment[:, 1] for segment in upper.containers[0].lines[2][0].get_segments()])
    assert ends == pytest.approx(bins[["low", "high"]].to_numpy())


def test_the_reliability_figure_shows_before_beside_after_unless_nothing_changed():
    probabilities, truth = predictions(n_classes=3)
    before = tempered(probabilities, 0.4)
    upper, lower = figures.reliability_figure(probabilities, truth, before).axes
    for drawn, of in zip(upper.containers, (probabilities, before), strict=True):
        bins = calibration_bins(of, truth).query("n > 0")
        assert drawn.lines[0].get_ydata() == pytest.approx(bins["accuracy"].to_numpy())
        ends = np.array([segment[:, 1] for segment in drawn.lines[2][0].get_segments()])
        assert ends == pytest.approx(bins[["low", "high"]].to_numpy())
    assert lower.get_xlim()[0] == pytest.approx(1 / 3)
    legend = [text.get_text() for text in upper.get_legend().get_texts()]
    assert [text.split(",")[0] for text in legend[1:]] == ["after", "before"]
    alone = figures.reliability_figure(probabilities, truth, probabilities)
    assert len(alone.axes[0].containers) == 1 and not any(
        "before" in text for text in texts_of(alone)
    )


def test_the_risk_coverage_figure_draws_each_threshold_where_it_lies_on_the_tested_texts():
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.5, 1, 3000)
    probabilities, truth = np.c_[sure, 1 - sure], (generator.random(3000) > sure).astype(int)
    found = thresholds(probabilities, truth)
    axes = figures.risk_coverage_figure(probabilities, truth, found).axes[0]
    curve, *marks = axes.lines
    assert curve.get_xdata()[-1] == 1 and curve.get_ydata()[-1] == pytest.approx(
        (truth == 1).mean()
    )
    assert set(curve.get_ydata()) <= set(risk_coverage(probabilities, truth)["error"])
    places = [(mark.get_xdata()[0], mark.get_ydata()[0]) for mark in marks]
    assert places == [
        (one["test"]["coverage"], one["test"]["error"])
        for one in found
        if one["threshold"] is not None
    ]
    assert len(places) >= 2 and any(
        "5% wanted: confidence 0." in text for text in texts_of(axes.figure)
    )


@pytest.mark.filterwarnings("error")
def test_one_text_has_figures_too():
    probabilities, truth = np.array([[0.2, 0.7, 0.1]]), np.array([0])
    for figure in (
        figures.reliability_figure(probabilities, truth, tempered(probabilities, 2)),
        figures.risk_coverage_figure(probabilities, truth, thresholds(probabilities, truth)),
    ):
        figure.canvas.draw()


def test_the_confidence_figure_counts_right_and_wrong_and_copes_without_errors():
    probabilities, truth = predictions()
    wrong = int((probabilities.argmax(axis=1) != truth).sum())
    assert any(
        text.startswith(f"wrong: n = {wrong},")
        for text in texts_of(figures.confidence_figure(probabilities, truth))
    )
    assert "wrong: none" in texts_of(figures.confidence_figure(np.eye(2), np.array([0, 1])))


def test_training_curves_name_each_phase_once_and_show_perplexity_when_there_is_one():
    figure = figures.training_curves_figure(history(["head", "all", "all"]), "Classifier")
    assert len(figure.axes) == 2
    assert texts_of(figure).count("all") == 2  # once on each of the two panels
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([0, 0.25, 0.5])
    with_perplexity = history(["head"]).assign(perplexity=[80.0])
    assert len(figures.training_curves_figure(with_perplexity, "Language model").axes) == 3


def test_training_curves_show_what_was_measured_on_validation():
    one = history(["a", "b"]).assign(macro_f1=[0.2, 0.4], average_precision=[0.3, 0.5])
    figure = figures.training_curves_figure(one.drop(columns="accuracy"), "Curves")
    units = [axes.get_ylabel() for axes in figure.axes]
    means = "macro F1 on validation", "mean average precision on validation"
    assert units == ["loss (nats)", *means]
    drawn = [axes.lines[0].get_ydata().tolist() for axes in figure.axes[1:]]
    assert drawn == [[0.2, 0.4], [0.3, 0.5]]


def test_macro_f1_is_compared_without_percent_and_undefined_as_nothing():
    scores = {"one": {"n": 9, "macro_f1": 0.25, "macro_f1_ci95": [0.2, 0.3]}}
    scores["none"] = {"n": 9, "macro_f1": None, "macro_f1_ci95": [0.0, 0.0]}
    texts = texts_of(figures.comparison_figure(scores, "macro_f1"))
    assert {"0.250", "0.000", "macro F1, 95% interval"} <= set(texts)
    assert "Macro F1 on the same texts, n = 9" in texts


def test_the_comparison_puts_the_first_model_on_top_with_its_interval():
    probabilities, truth = predictions()
    scores = {
        "ULMFiT": score(probabilities, truth, ["a", "b"]),
        "guess": score(np.full((400, 2), 0.5), truth, ["a", "b"]),
    }
    axes = figures.comparison_figure(scores).axes[0]
    assert axes.yaxis_inverted() and [label.get_text() for label in axes.get_yticklabels()] == [
        "ULMFiT",
        "guess",
    ]
    assert axes.lines[0].get_xdata() == pytest.approx(scores["ULMFiT"]["accuracy_ci95"])


def test_the_balance_figure_draws_the_share_of_each_class_in_each_split():
    counts = pd.DataFrame({"train": [30, 10], "valid": [3, 3], "test": [1, 4]}, index=["$a$", "b"])
    axes = data_figures.balance_figure(counts).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25]
    assert {line.get_label(): line.get_xdata().tolist() for line in axes.lines} == {
        "valid": [0.5, 0.5],
        "test": [0.2, 0.8],
    }
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "train",
        "valid",
        "test",
    ]


@pytest.mark.filterwarnings("error")
def test_the_balance_figure_names_some_of_two_hundred_classes(tmp_path):
    counts = pd.DataFrame(
        {split: range(1, 201) for split in ("train", "valid", "test")},
        index=[f"class {i}" for i in range(200)],
    )
    figure = data_figures.balance_figure(counts)
    drawing.save_png(figure, tmp_path / "balance.png")
    assert (
        len(figure.axes[0].get_yticklabels()) == 40
        and "1 in 5 is named" in figure.axes[0].get_xlabel()
    )


@pytest.mark.filterwarnings("error")
def test_the_lengths_figure_counts_every_text_once(tmp_path):
    lengths = {"train": np.array([1, 2, 2, 3, 50, 4000]), "test": np.array([7])}
    figure = data_figures.lengths_figure(lengths, 1440)
    drawing.save_png(figure, tmp_path / "lengths.png")
    heights = [patch.get_data().values for patch in figure.axes[0].patches]
    assert [values.sum() for values in heights] == pytest.approx([1, 1])
    assert figure.axes[0].lines[0].get_xdata() == [1440, 1440]


def test_the_same_figure_is_the_same_file(tmp_path):
    probabilities, truth = predictions()
    for name in ("first.png", "second.png"):
        drawing.save_png(figures.confidence_figure(probabilities, truth), tmp_path / name)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_a_notebook_shows_a_figure_as_a_png_without_pyplot():
    figure = study_figures.schedules_figure({"rising": [0, 1], "constant": [1, 1]})
    picture = Image.open(io.BytesIO(figure._repr_png_()))
    assert picture.format == "PNG" and picture.mode == "P", "a palette keeps notebooks small"
    width, height = 100 * figure.get_size_inches()
    assert abs(picture.width - width) < 60 and abs(picture.height - height) < 60
    assert plt.get_fignums() == []


def test_schedules_are_drawn_from_the_start_of_a_training_to_its_end():
    (axes,) = study_figures.schedules_figure(
        {"rising": [0.0, 0.5, 1.0], "constant": [1.0, 1.0]}
    ).axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[0, 0], [0.5, 0.5], [1, 1]],
        [[0, 1], [1, 1]],
    ]
    assert {"rising", "constant", "learning rate"} <= set(texts_of(axes.figure))


def test_a_plan_is_drawn_with_what_is_frozen_left_white():
    rates = np.array([[0, 0, 1e-4], [0, 1e-3, 1e-3], [1e-2, 1e-2, 1e-2]])
    figure = study_figures.plan_figure(rates, {"head": 1, "rest": 2}, "A plan")
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.mask.tolist() == [
        [True, True, False],
        [True, False, False],
        [False, False, False],
    ]
    assert {"head", "rest", "embeddings", "LSTM 1", "A plan"} <= set(texts_of(figure))


def test_the_words_that_a_vocabulary_knows_are_counted_from_one():
    (axes,) = study_figures.coverage_figure({"train": np.array([0.5, 0.75, 1.0])}).axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 0.5], [2, 0.75], [3, 1.0]]


def test_perplexities_are_drawn_from_before_the_first_epoch_on():
    (axes,) = study_figures.perplexities_figure(
        {"from A": [900.0, 300.0, 120.0], "from B": [180.0, 90.0]}, "Two starts"
    ).axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[0, 900], [1, 300], [2, 120]],
        [[0, 180], [1, 90]],
    ]
    assert axes.get_yscale() == "log"
    assert {"from A", "from B", "Two starts"} <= set(texts_of(axes.figure))
    assert [tick for tick in axes.get_yticks() if 100 <= tick <= 1_000] == [
        100,
        200,
        300,
        500,
        700,
        1_000,
    ]


def test_lines_are_drawn_over_the_index_of_their_table():
    table = pd.DataFrame(
        {"one": [0.5, 0.25], "two": [0.1, 0.3]}, pd.Index([10, 30], name="tokens")
    )
    (axes,) = study_figures.lines_figure(table, "probability", "Two lines").axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[10, 0.5], [30, 0.25]],
        [[10, 0.1], [30, 0.3]],
    ]
    assert {"one", "two", "tokens", "probability", "Two lines"} <= set(texts_of(axes.figure))


def test_quantities_without_a_common_unit_have_axes_of_their_own():
    table = pd.DataFrame(
        {"accuracy": [0.5, 0.7], "loss (nats)": [0.9, 0.1]}, pd.Index([1, 2], name="epoch")
    )
    figure = study_figures.panels_figure(table, "By heart")
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy", "loss (nats)"]
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[1, 0.9], [2, 0.1]]
    assert [tick % 1 for tick in figure.axes[1].get_xticks()] == [0] * len(
        figure.axes[1].get_xticks()
    )
