"""The report of several labels a text: true to the predictions, whole, and said in sentences."""

import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics as sk

from tests.test_chinese_report import ALLOWED, Words
from tests.test_report import FACTS, SCRIPT, Page, histories
from ulmfit_app.evaluation import multilabel_figures, multilabel_report
from ulmfit_app.evaluation.calibrated import Calibration, before_and_after_of_labels
from ulmfit_app.evaluation.decisions import Decision, fit_temperatures
from ulmfit_app.evaluation.messages import Message
from ulmfit_app.evaluation.multilabel import score_sets
from ulmfit_app.evaluation.multilabel_report import (
    sets_report,
    worst_sets,
    write_multilabel_report,
)
from ulmfit_app.evaluation.tables import prediction_table, spell_set
from ulmfit_app.evaluation.thresholds import choose_label_thresholds

LABELS = ["joy", "love", "grief"]


def outputs(n: int, seed: int, labels: list[str] = LABELS) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities at temperature 1 that are too sure, and which texts have which labels."""
    generator = np.random.default_rng(seed)
    truth = generator.random((n, len(labels))) < np.linspace(0.4, 0.06, len(labels))
    logits = 3 * truth + 1.2 * generator.normal(size=truth.shape) - 2.5
    return 1 / (1 + np.exp(-2 * logits)), truth.astype(np.float32)


def predictions(n: int = 400, labels: list[str] = LABELS, text: str = "a text"):
    """Predictions as the pipeline hands them over, and how they were calibrated and decided."""
    (before, truth), (known, of_known) = outputs(n, 1, labels), outputs(500, 2, labels)
    temperatures = tuple(fit_temperatures(known, of_known)[0])
    calibrated = Decision(True, temperatures).calibrate(known)
    thresholds = tuple(choose_label_thresholds(calibrated, of_known)[0])
    decision = Decision(True, temperatures, thresholds)
    texts = [f"{text} {i}" for i in range(n)]
    table = prediction_table(texts, decision.calibrate(before), labels, decision)
    names = np.array(labels, object)
    table.insert(1, "label", [spell_set(names[has > 0]) for has in truth])
    return table, Calibration(decision, before, known, of_known), truth


def write(folder, **more) -> tuple[dict, str, pd.DataFrame, Calibration, np.ndarray]:
    table, calibration, truth = predictions()
    shares = {"label shares": np.tile(truth.mean(axis=0), (len(truth), 1))}
    metrics = write_multilabel_report(
        folder, table, shares, histories(), FACTS, None, calibration, **more
    )
    page = (folder / "report.html").read_text("utf-8")
    return metrics, page, table, calibration, truth


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A whole report: its folder, and what `write` returns."""
    folder = tmp_path_factory.mktemp("report")
    return folder, *write(folder)


@pytest.fixture
def without_figures(monkeypatch) -> None:
    """Figures take longer than all else; here they are one white dot."""
    drawn = io.BytesIO()
    Image.new("1", (1, 1)).save(drawn, "png")
    monkeypatch.setattr(
        multilabel_report, "write_figures", lambda _, named: dict.fromkeys(named, drawn.getvalue())
    )


def test_the_report_of_several_labels_is_whole_and_says_what_it_measured(written):
    folder, metrics, html, table, calibration, truth = written
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    drawn = "macro_f1 labels labels_together labels_given reliability training_language_model"
    drawn = {f"figures/{name}.png" for name in [*drawn.split(), "training_classifier"]}
    files = {"metrics.json", "classification_report.txt", "worst_errors.csv", "report.html"}
    assert names == files | drawn
    assert json.loads((folder / "metrics.json").read_text("utf-8")) == metrics
    probabilities = calibration.decision.calibrate(calibration.before)
    said = calibration.decision.answer(probabilities)
    model = metrics["model"]
    assert model["macro_f1"] == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert model["micro_f1"] == pytest.approx(sk.f1_score(truth, said, average="micro"))
    page = Page(html).text
    assert f"a macro F1 of {model['macro_f1']:.3f}" in page
    assert f"n = 400 texts, 3 labels, {truth.sum() / 400:.2f} labels per text" in page
    assert f"{model['subset_accuracy']:.1%}" in page and FACTS["notes"][0] in page
    assert "ULMFiT beats the baseline “label shares” in macro F1 by" in page
    low, high = model["macro_f1_ci95"]
    assert f"ULMFiT{model['macro_f1']:.3f}{low:.3f} to {high:.3f}{model['micro_f1']:.3f}" in page
    for label, scores in model["per_label"].items():
        limit = calibration.decision.thresholds[LABELS.index(label)]
        temperature = metrics["calibration"]["temperatures"][label]
        assert scores["threshold"] == limit
        shown = f"{scores['average_precision']:.3f}{limit:.3f}{temperature:.3g}"
        assert f"{label}{scores['precision']:.3f}{scores['recall']:.3f}" in page and shown in page
    test = metrics["decision"]["test"]
    assert test["macro_f1"] == pytest.approx(model["macro_f1"])
    assert test["accuracy"] == model["subset_accuracy"]
    assert "the gain there is too high" in page


def test_temperatures_of_labels_are_shown_before_and_after_on_tested_texts(written):
    _, metrics, html, _, calibration, truth = written
    found = metrics["calibration"]
    after = calibration.decision.calibrate(calibration.before)
    for when, probabilities in (("before", calibration.before), ("after", after)):
        losses = [sk.log_loss(truth[:, i], probabilities[:, i]) for i in range(3)]
        assert found[when]["log_loss"] == pytest.approx(np.mean(losses), abs=1e-9)
        briers = [sk.brier_score_loss(truth[:, i], probabilities[:, i]) for i in range(3)]
        assert found[when]["brier_score"] == pytest.approx(np.mean(briers), abs=1e-9)
    assert found["after"]["log_loss"] < found["before"]["log_loss"]
    assert found["after"]["log_loss"] == pytest.approx(metrics["model"]["log_loss"])
    both = "".join(f"{found[when]['log_loss']:.4f}" for when in ("before", "after"))
    page = Page(html).text
    assert f"log loss{both}" in page and "validation texts (n = 500)" in page
    few = before_and_after_of_labels(
        Calibration(Decision(True), after, after[:3], truth[:3]), after, truth, LABELS
    )
    assert set(few["temperatures_undefined"]) <= set(LABELS) and few["temperatures_undefined"]
    assert few["temperatures"] == dict.fromkeys(LABELS, 1.0)


def test_the_worst_errors_of_sets_are_those_of_the_least_probable_labels():
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    probabilities = np.array([[0.9, 0.2, 0.1], [0.6, 0.3, 0.7], [0.1, 0.1, 0.001], [0.6, 0, 0]])
    texts = pd.Series(["right", "two wrong", "missed", "in vain"])
    found = worst_sets(texts, probabilities, truth, LABELS, probabilities >= 0.5)
    assert found["row"].tolist() == [2, 1, 3]
    losses = [sk.log_loss(truth[row], probabilities[row], labels=[0, 1]) * 3 for row in (2, 1, 3)]
    assert found["log_loss"].tolist() == pytest.approx(losses)
    two = found.iloc[1]
    assert two["label"] == '["joy", "love"]' and two["predicted"] == '["joy", "grief"]'
    assert two["missed"] == '{"love": 0.3}' and two["in_vain"] == '{"grief": 0.7}'
    assert found.iloc[0]["in_vain"] == "{}" and found.iloc[2]["label"] == "[]"


def test_errors_of_sets_are_found_by_the_labels_missed_and_those_given_in_vain(written):
    _, _, html, table, _, _ = written
    tags = [attrs for tag, attrs in Page(html).tags if tag == "article"]
    wrong = [
        row
        for row, of in table.iterrows()
        if set(json.loads(of["label"])) != set(json.loads(of["predicted"]))
    ]
    assert sorted(int(attrs["data-row"]) for attrs in tags) == wrong
    for attrs in tags:
        of = table.loc[int(attrs["data-row"])]
        true, given = set(json.loads(of["label"])), set(json.loads(of["predicted"]))
        shown = ({LABELS[int(i)] for i in attrs[key].split()} for key in DATA)
        assert list(shown) == [true - given, given - true]
    for name, key in (("label", "data-label"), ("predicted", "data-predicted")):
        options = re.search(f'<select name="{name}">(.*?)</select>', html)[1]
        counts = {
            label: sum(str(i) in attrs[key].split() for attrs in tags)
            for i, label in enumerate(LABELS)
        }
        shown = dict(re.findall(r">(\w+) \((\d+)\)<", options))
        assert shown == {label: str(n) for label, n in counts.items() if n}
    assert "; missed " in html and "; in vain " in html and "labelled none" in html


DATA = ("data-label", "data-predicted")


def test_baselines_and_directions_may_have_answers_of_their_own(tmp_path, without_figures):
    table, calibration, truth = predictions()
    rival, nothing = calibration.before, np.zeros_like(truth, bool)
    both = {"forward": rival, "backward": rival}
    metrics = write_multilabel_report(
        tmp_path, table, {"words": rival}, {}, {}, both, calibration, answers={"forward": nothing}
    )
    expected = score_sets(rival, truth, LABELS, rival >= 0.5)
    assert metrics["baselines"]["words"]["macro_f1"] == expected["macro_f1"]
    assert metrics["directions"]["forward"]["macro_f1"] == 0
    assert metrics["directions"]["backward"]["macro_f1"] == expected["macro_f1"]


def test_an_explanation_stands_in_place_of_the_text_of_a_set(tmp_path, written, without_figures):
    html = written[2]
    row = int(re.search('data-row="([0-9]+)"', html)[1])
    _, explained, *_ = write(tmp_path / "explained", explanations={row: "<p>because</p>"})
    assert "because" in explained and f">a text {row}<" not in explained
    assert f">a text {row}<" in html and "(occlusion)" not in html and "In 1 of the" in explained


def test_without_a_decision_labels_answer_at_a_half_and_nothing_is_said_of_temperatures(
    tmp_path, without_figures
):
    table, _, truth = predictions()
    columns = [f"p_{label}" for label in LABELS]
    metrics = write_multilabel_report(
        tmp_path, table.drop(columns="predicted"), {}, {}, {"notes": []}
    )
    said = table[columns].to_numpy() >= 0.5
    assert metrics["model"]["macro_f1"] == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert "calibration" not in metrics and "decision" not in metrics
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert "validation texts" not in page and "What they gain" not in page


@pytest.mark.filterwarnings("error")
def test_labels_that_no_text_has_or_is_given_and_evil_ones_do_no_harm(tmp_path):
    labels = ["a", SCRIPT, "never"]
    table, calibration, _ = predictions(labels=labels, text=SCRIPT)
    table["label"] = table["label"].map(lambda cell: spell_set([*json.loads(cell)][:1]))
    table["label"] = table["label"].str.replace("never", "a")
    table["predicted"] = "[]"
    metrics = write_multilabel_report(
        tmp_path, table, {SCRIPT: table[[f"p_{one}" for one in labels]].to_numpy()}, {}, {}, None,
        calibration,
    )  # fmt: skip
    json.dumps(metrics, allow_nan=False)
    html = (tmp_path / "report.html").read_text("utf-8")
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1 and SCRIPT not in html
    assert "No tested text has 1 of the 3 labels (never)" in page.text
    assert "No tested text is given 2 of the 3" in page.text and "– means undefined" in page.text
    assert metrics["model"]["macro_f1"] == 0


def test_all_sets_right_is_said(tmp_path, without_figures):
    table, _, _ = predictions()
    table["predicted"] = table["label"]
    write_multilabel_report(tmp_path, table, {}, {}, {})
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert "all 400 texts were given exactly their labels" in page
    assert len(pd.read_csv(tmp_path / "worst_errors.csv")) == 0


def test_the_text_report_of_sets_has_every_label_and_both_means():
    probabilities, truth = outputs(200, 3)
    scores = score_sets(probabilities, truth, LABELS, probabilities >= 0.5)
    lines = sets_report(scores).splitlines()
    joy = scores["per_label"]["joy"]
    assert lines[2].split() == ["joy", *(f"{joy[key]:.4f}" for key in KEYS), str(joy["support"])]
    means = {line.split()[0]: line.split()[2:] for line in lines if " mean " in line}
    assert means["micro"] == [f"{scores[f'micro_{key}']:.4f}" for key in KEYS[:3]] + ["200"]
    ranked = f"{scores['mean_average_precision']:.4f}"
    expected = [f"{scores[f'macro_{key}']:.4f}" for key in KEYS[:3]] + [ranked, "200"]
    assert means["macro"] == expected
    assert f"subset accuracy {scores['subset_accuracy']:.4f}" in lines[-2]


KEYS = ("precision", "recall", "f1", "average_precision")


def test_parts_of_the_texts_are_right_where_all_labels_are(written):
    _, metrics, _, table, _, truth = written
    found = {one["by"]: pd.DataFrame(one["parts"]) for one in metrics["slices"]}
    right = table["label"].map(json.loads).map(set) == table["predicted"].map(json.loads).map(set)
    by = found["number of labels"].set_index("part")
    n_labels = pd.Series(truth.sum(axis=1).astype(int).astype(str))
    expected = right.groupby(n_labels).agg(["size", "mean"])
    assert by["n"].to_dict() == expected["size"].to_dict()
    assert by["accuracy"].to_dict() == pytest.approx(expected["mean"].to_dict())
    lengths = found["length in characters"]
    total = (lengths["n"] * lengths["accuracy"]).sum()
    assert total == pytest.approx(metrics["model"]["subset_accuracy"] * 400)


@pytest.mark.parametrize("n_labels", [3, 28, 60])
@pytest.mark.filterwarnings("error")
def test_the_figures_of_sets_can_be_drawn_for_any_number_of_labels(n_labels):
    labels = [f"a label number {i}" for i in range(n_labels)]
    probabilities, truth = outputs(200, 1, labels)
    said = probabilities >= 0.5
    scores = score_sets(probabilities, truth, labels, said)
    by_label = multilabel_figures.labels_figure(scores)
    for figure in (
        by_label,
        multilabel_figures.together_figure(truth, labels),
        multilabel_figures.given_figure(truth, said, labels),
        multilabel_figures.pooled_reliability_figure(probabilities, truth, probabilities**2),
    ):
        figure.canvas.draw()
        assert any(axes.get_xlabel() for axes in figure.axes)
    left, right = by_label.axes
    order = sorted(labels, key=lambda label: -scores["per_label"][label]["support"])[:40]
    supports = [scores["per_label"][label]["support"] for label in order]
    shown = [one.get_text().split()[-1] for one in left.get_yticklabels()]
    assert shown == [str(n) for n in supports]
    assert ("the 40 commonest" in left.get_ylabel()) == (n_labels == 60)
    widths = [bar.get_width() for bar in right.patches]
    assert widths == [scores["per_label"][label]["average_precision"] for label in order]


def test_the_figures_of_labels_together_show_shares_of_the_rows_label():
    truth = np.array([[1, 1], [1, 0], [0, 1], [0, 1]], np.float32)
    said = np.array([[1, 1], [0, 0], [0, 1], [1, 0]], bool)
    together = multilabel_figures.together_figure(truth, ["a", "b"])
    given = multilabel_figures.given_figure(truth, said, ["a", "b"])
    cells = [figure.axes[0].images[0].get_array() for figure in (together, given)]
    np.testing.assert_allclose(cells[0], [[1, 0.5], [1 / 3, 1]])
    np.testing.assert_allclose(cells[1], [[0.5, 0.5], [2 / 3, 2 / 3]])


def test_a_chinese_report_of_sets_has_no_english_sentence_and_the_same_numbers(
    tmp_path, written, without_figures
):
    table, calibration, truth = predictions()
    names = dict(zip(LABELS, ("快樂", "喜愛", "悲傷"), strict=True))
    table = table.rename(columns={f"p_{label}": f"p_{names[label]}" for label in LABELS})
    for column in ("label", "predicted"):
        sets = table[column].map(json.loads)
        table[column] = [spell_set(names[label] for label in of) for of in sets]
    table["text"] = [f"文本第{i}筆" for i in range(len(table))]
    shares = {Message("label shares"): np.tile(truth.mean(axis=0), (len(truth), 1))}
    which = Message("the same {n:,} labels", n=90)
    counts = Message("TF-IDF + logistic regression for each label, {which}", which=which)
    facts = {"balance": "weights", "kept_epoch_by": "average precision"}
    for language in ("en", "zh-tw"):
        write_multilabel_report(
            tmp_path / language, table, shares | {counts: calibration.before}, {}, facts, None,
            calibration, report_language=language,
        )  # fmt: skip
    found = Words((tmp_path / "zh-tw" / "report.html").read_text("utf-8")).found
    english = {word for one in found for word in re.findall("[A-Za-z][A-Za-z-]+", one)}
    # Files and what to install have names of their own.
    named = "worst errors found bootstrap apt install fonts-noto-cjk Debian Ubuntu Noto Sans"
    assert english <= ALLOWED | {*named.split(), "CJK", "TC"}
    files = "metrics.json", "worst_errors.csv", "classification_report.txt"
    for name in files:
        contents = [(tmp_path / language / name).read_bytes() for language in ("en", "zh-tw")]
        assert contents[0] == contents[1]
