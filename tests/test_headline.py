"""What a run's last lines and its report say first: costs or macro F1, where these are the aim."""

import json
import logging
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from tests.test_decided_report import COSTS, LABELS, decided, report
from tests.test_multilabel_report import written as several  # noqa: F401
from tests.test_report import Page
from ulmfit_app.cli.runs import _print_scores as print_scores
from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.label_sets import apply_without_label, sets_of_cells, sets_of_columns
from ulmfit_app.evaluation import multilabel_figures
from ulmfit_app.evaluation.calibrated import mean_cost
from ulmfit_app.evaluation.decisions import Decision, describe_decision
from ulmfit_app.evaluation.headline import measures
from ulmfit_app.evaluation.messages import known, speaking
from ulmfit_app.pipeline.baselines import score_baselines
from ulmfit_app.presets import TINY

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module", params=["costs", "thresholds"])
def written(request, tmp_path_factory):
    """By what it is decided, its folder, its metrics and the words of its page."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, *report(folder, request.param)


def test_a_decided_report_begins_with_what_was_decided_for(written):
    by, folder, metrics, page = written
    first = {"costs": "mean_cost", "thresholds": "macro_f1"}[by]
    assert measures(metrics) == [first, "accuracy"]
    model, rival = metrics["model"], metrics["baselines"]["words"]
    form = ",.4g" if by == "costs" else ".3f"
    for name, scores in (("ULMFiT", model), ("words", rival)):
        low, high = (f"{bound:{form}}" for bound in scores[f"{first}_ci95"])
        row = f"{name}{scores[first]:{form}}{low} to {high}{scores['accuracy']:.1%}"
        assert low < f"{scores[first]:{form}}" < high and row in page
    assert "The first interval is a bootstrap’s" in page
    headline = {"costs": "ULMFiT costs ", "thresholds": "ULMFiT has a macro F1 of "}[by]
    assert 0 < page.index(f"{headline}{model[first]:{form}}") < page.index("ULMFiT is right on")
    difference = rival["model_against_it"][f"{first}_difference"]
    what = {"costs": "mean cost per text", "thresholds": "macro F1"}[by]
    assert f"against the baseline “words”: {what} {difference:+{form}} (95% interval" in page
    assert ("McNemar" in page) == (by == "thresholds")
    assert {path.stem for path in (folder / "figures").iterdir()} >= {first, "accuracy"}


def test_the_last_lines_of_a_decided_run_begin_with_it_too(written, capsys):
    by, folder, metrics, _ = written
    print_scores(folder / "report.html", "TEST")
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if line.endswith("with its 95 % interval:")]
    first = {"costs": "Mean cost per text", "thresholds": "Macro F1"}[by]
    assert [line.split(" on ")[0] for line in told] == [first, "Accuracy"]
    if by == "costs":
        model = metrics["model"]
        low, high = (f"{bound:,.4g}" for bound in model["mean_cost_ci95"])
        assert f"  {model['mean_cost']:7,.4g}  ({low} to {high})  ULMFiT" in lines


def test_the_costs_and_macro_f1_of_all_are_those_of_their_answers(written):
    by, _, metrics, _ = written
    calibration, probabilities, truth = decided(by)
    said = {"model": calibration.decision.answer(probabilities), "words": np.zeros_like(truth)}
    scores = {"model": metrics["model"], "words": metrics["baselines"]["words"]}
    for name, answers in said.items():
        assert scores[name]["macro_f1"] == pytest.approx(f1_score(truth, answers, average="macro"))
        low, high = scores[name]["macro_f1_ci95"]
        assert low < scores[name]["macro_f1"] < high
        assert ("mean_cost" in scores[name]) == (by == "costs")
        if by == "costs":
            assert scores[name]["mean_cost"] == pytest.approx(
                np.array(COSTS)[truth, answers].mean()
            )


def test_the_interval_of_a_mean_cost_is_about_the_normal_one():
    costs = np.random.default_rng(0).integers(0, 5, 500)
    found, error = mean_cost(costs), costs.std() / np.sqrt(500)
    expected = [costs.mean() - 1.96 * error, costs.mean() + 1.96 * error]
    assert found["mean_cost"] == costs.mean()
    assert found["mean_cost_ci95"] == pytest.approx(expected, abs=0.15 * error)


def test_macro_f1_comes_first_where_classes_were_balanced_and_else_the_accuracy():
    assert measures({"model": {}, "facts": {"balance": "weights"}}) == ["macro_f1", "accuracy"]
    assert measures({"model": {}, "facts": {"seed": 1}}) == ["accuracy"]
    assert measures({"model": {}, "multilabel": True}) == ["macro_f1"]


# --------------------------------------------------------------------------------------- baselines
@pytest.mark.parametrize(
    ("costs", "name"),
    [
        (((0.0, 1.0), (30.0, 0.0)), "class shares, decided by costs"),
        (((0.0, 1.0), (1.0, 0.0)), "majority class"),
    ],
)
def test_the_majority_class_is_called_that_where_it_is_the_answer(tmp_path, costs, name):
    rows = [f"good film {i},often" if i % 4 else f"dull film {i},rare" for i in range(120)]
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    corpus = load_corpus(DataSettings(str(tmp_path / "films.csv")), seed=3)
    run = SimpleNamespace(corpus=corpus, rows=corpus.table, record=SimpleNamespace(settings=TINY))
    found = score_baselines(run, ["good", "dull"], Decision(costs=costs))
    assert list(found.probabilities)[0] == list(found.answers)[0] == name
    answer = "often" if name == "majority class" else "rare"
    assert [corpus.labels[one] for one in found.answers[name]] == [answer] * 2


# ------------------------------------------------------------------------------ words and pictures
def test_the_results_of_several_labels_are_two_tables_of_few_columns(several):  # noqa: F811
    results = several[2].split('<div class="results">')[1].split("<figure")[0]
    heads = [re.findall("<th[ >]", part.split("</thead>")[0]) for part in results.split("<thead>")]
    assert [len(one) for one in heads[1:]] == [6, 6]
    assert Page(results).text.count("label shares") == 2


def test_names_that_no_font_has_are_told_once_and_the_figure_is_as_high_as_its_label(caplog):
    caplog.set_level(logging.INFO, "ulmfit_app")
    labels, truth = ["b", "\U000f4321"], np.eye(2)
    one = {"support": 1, "f1": 0.5, "precision": 1.0, "recall": 0.5, "average_precision": 1.0}
    scores = {"n": 2, "per_label": {labels[0]: one, labels[1]: one | {"support": 2}}}
    figure = multilabel_figures.labels_figure(scores)
    multilabel_figures.together_figure(truth, labels)
    multilabel_figures.given_figure(truth, truth, labels)
    assert caplog.text.count("some class names (1)") == 1
    figure.canvas.draw()
    (axes, _), note = figure.axes, "(numbered where no font has the name)"
    assert axes.get_xlabel().split("\n")[1] == note and note not in axes.get_ylabel()
    # The commoner one stands first, with the number that it has in the table.
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["class 2  2", "b  1"]
    assert axes.yaxis.label.get_window_extent().height < figure.bbox.height


def test_where_no_temperature_was_fitted_it_is_said_so():
    p = np.full((24, 2), 0.4)
    said = describe_decision(Decision(True, (1.0, 1.0)), ["few", "few"], LABELS[:2], p)[0]
    assert said == "no temperature was fitted on the 24 validation texts: all 2 stay 1."
    said = describe_decision(Decision(True, (1.0, 2.0)), ["few", ""], LABELS[:2], p)[0]
    assert said.endswith("for 1 of 2 labels; the others stay at 1.")
    said = describe_decision(Decision(True, (3.0, 2.0)), ["", ""], LABELS[:2], p)[0]
    assert said.endswith("for 2 of 2 labels.")


def test_a_difference_of_accuracies_is_in_points(written):
    _, _, metrics, page = written
    test = metrics["decision"]["test"]
    gain = 100 * (test["accuracy"] - test["plain_accuracy"])
    assert f"{test['accuracy']:.1%}{gain:+.1f} points" in page


def test_the_notes_on_several_labels_are_translated(tmp_path):
    path, notes = tmp_path / "moods.csv", []
    sets_of_cells(pd.Series(['["a", "b"]', '["a", "a"]']), path, None, notes)
    sets_of_cells(pd.Series(["a;b", "b"]), path, ";", notes)
    sets_of_columns(pd.DataFrame({"a": ["1", "0"], "b": ["0", "1"]}), ["a", "b"], path, notes)
    apply_without_label(pd.Series(["[]", '["a"]']), "auto", pd.Series([True, True]), notes)
    assert len(notes) == 5, json.dumps(notes)
    with speaking("zh-tw"):
        chinese = [known(note) for note in notes]
    assert not set(notes) & set(chinese), chinese
    assert "moods.csv 的標記：每筆文本可有多個標籤，以 ';' 分隔。" in chinese
