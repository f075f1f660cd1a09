"""What thresholds and costs gain, measured on the tested texts, and how a report says it."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from tests.test_report import FACTS, Page, histories
from tests.test_thresholds import predictions
from ulmfit_app.evaluation.calibrated import (
    Calibration,
    compare_costs,
    costs_of,
    judge_decision,
    without_answers,
)
from ulmfit_app.evaluation.calibration import risk_coverage
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.messages import speaking
from ulmfit_app.evaluation.page_decision import decision_section
from ulmfit_app.evaluation.report import write_report
from ulmfit_app.evaluation.several_seeds import compare_macro_f1
from ulmfit_app.evaluation.tables import prediction_table
from ulmfit_app.evaluation.thresholds import choose_label_thresholds, choose_thresholds

pytestmark = pytest.mark.usefixtures("undrawn")

LABELS = ["often", "rare", "rarest"]
COSTS = ((0.0, 1.0, 2.0), (5.0, 0.0, 1.0), (20.0, 3.0, 0.0))


def decided(by: str) -> tuple[Calibration, np.ndarray, np.ndarray]:
    """What a decision was made of; probabilities and truth of tested texts."""
    validation, known = predictions(600, 3, 1)
    probabilities, truth = predictions(800, 3, 2)
    chosen = dict(costs=COSTS)
    if by == "thresholds":
        chosen = dict(thresholds=tuple(choose_thresholds(validation, known)))
    return Calibration(Decision(**chosen), probabilities, validation, known), probabilities, truth


def test_the_gain_of_thresholds_is_that_of_the_tested_texts():
    calibration, probabilities, truth = decided("thresholds")
    found = judge_decision(calibration, probabilities, truth, LABELS)
    json.dumps(found, allow_nan=False)
    assert tuple(found["thresholds"].values()) == calibration.decision.thresholds
    for split, p, of in (
        ("validation", calibration.validation, calibration.validation_truth),
        ("test", probabilities, truth),
    ):
        answers, plain = calibration.decision.answer(p), p.argmax(axis=1)
        for name, said in (("", answers), ("plain_", plain)):
            expected = f1_score(of, said, average="macro")
            assert found[split][f"{name}macro_f1"] == pytest.approx(expected, abs=1e-9)
            assert found[split][f"{name}accuracy"] == accuracy_score(of, said)
        compared = compare_macro_f1(of, answers, plain, 3)
        assert {key: found[split][key] for key in compared} == compared
    assert found["test"]["n"] == 800 and found["test"]["macro_f1_difference"] > 0.02
    assert "mean_cost" not in found["test"]


def test_costs_are_counted_by_their_table_and_lower_than_without_it():
    calibration, probabilities, truth = decided("costs")
    found = judge_decision(calibration, probabilities, truth, LABELS)
    assert found["costs"]["rarest"] == {"often": 20, "rare": 3, "rarest": 0}
    said = calibration.decision.answer(probabilities)
    expected = np.mean([COSTS[t][a] for t, a in zip(truth, said, strict=True)])
    assert found["test"]["mean_cost"] == pytest.approx(expected)
    assert found["test"]["mean_cost"] < found["test"]["plain_mean_cost"]
    low, high = found["test"]["mean_cost_difference_ci95"]
    assert low < found["test"]["mean_cost_difference"] < high


def test_the_costs_of_several_labels_are_those_missed_and_those_given_in_vain():
    decision = Decision(True, costs=((5.0, 1.0), (2.0, 3.0)))
    truth = np.array([[1, 0], [0, 0], [1, 1]])
    said = np.array([[0, 0], [1, 1], [1, 0]], bool)
    assert costs_of(said, truth, decision).tolist() == [5, 1 + 3, 2]


def test_the_interval_of_a_difference_of_costs_is_about_the_normal_one():
    generator = np.random.default_rng(0)
    costs, other = generator.integers(0, 5, 500), generator.integers(0, 6, 500)
    found = compare_costs(costs, other)
    mean, error = (costs - other).mean(), (costs - other).std() / np.sqrt(500)
    assert found["mean_cost_difference"] == pytest.approx(mean)
    expected = [mean - 1.96 * error, mean + 1.96 * error]
    assert found["mean_cost_difference_ci95"] == pytest.approx(expected, abs=0.15 * error)


def test_several_labels_gain_by_their_thresholds_and_a_plain_decision_is_not_judged():
    generator = np.random.default_rng(0)
    truth = generator.random((600, 3)) < 0.1
    probabilities = 1 / (1 + np.exp(2 - 2 * truth - generator.normal(size=truth.shape)))
    half = np.arange(600) < 300
    thresholds, _ = choose_label_thresholds(probabilities[half], truth[half])
    parts = probabilities[~half], probabilities[half], truth[half].astype(np.float32)
    plain = Calibration(Decision(True), *parts)
    tested = probabilities[~half], truth[~half].astype(np.float32), LABELS
    assert judge_decision(plain, *tested) is None
    decision = Decision(True, thresholds=tuple(thresholds))
    found = judge_decision(Calibration(decision, *parts), *tested)["test"]
    for name, said in (("", decision.answer(tested[0])), ("plain_", tested[0] >= 0.5)):
        expected = f1_score(truth[~half], said, average="macro", zero_division=np.nan)
        assert found[f"{name}macro_f1"] == pytest.approx(expected, abs=1e-9)
        assert found[f"{name}accuracy"] == accuracy_score(truth[~half], said)
    gain = found["macro_f1"] - found["plain_macro_f1"]
    assert found["macro_f1_difference"] == pytest.approx(gain) and gain > 0


def test_labels_that_texts_have_and_none_is_given_are_named():
    assert without_answers(np.array([0, 0]), np.array([0, 1]), LABELS) == ["rare"]
    truth = np.array([[1, 0, 1], [0, 0, 1]])
    assert without_answers(truth * [1, 1, 0], truth, LABELS) == ["rarest"]


def report(folder, by: str, never: bool = False) -> tuple[dict, str]:
    """A report of answers by thresholds or by costs: its metrics, and the words of its page."""
    calibration, probabilities, truth = decided(by)
    decision = calibration.decision
    if never:
        decision = Decision(thresholds=(0.01, 0.01, 0.98))
        calibration = replace(calibration, decision=decision)
    texts = [f"text {i}" for i in range(len(truth))]
    table = prediction_table(texts, probabilities, LABELS, decision)
    table.insert(1, "label", np.array(LABELS)[truth])
    rivals = {"words": probabilities[:, [0, 2, 1]]}
    answers = {"words": np.zeros(len(truth), int)}
    metrics = write_report(
        folder, table, rivals, histories(), FACTS, None, calibration, answers=answers
    )
    return metrics, Page((folder / "report.html").read_text("utf-8")).text


@pytest.mark.parametrize("by", ["thresholds", "costs"])
def test_the_page_says_what_a_decision_is_and_what_it_gains_on_tested_texts(tmp_path, by):
    metrics, page = report(tmp_path, by)
    found = metrics["decision"]
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8")) == metrics
    assert metrics["model"]["macro_f1"] == pytest.approx(found["test"]["macro_f1"])
    assert metrics["model"]["accuracy"] == found["test"]["accuracy"]
    test = found["test"]
    low, high = (f"{bound:+.3f}" for bound in test["macro_f1_difference_ci95"])
    assert f"{test['macro_f1_difference']:+.3f} ({low} to {high})" in page
    assert "the gain there is too high" in page if by == "thresholds" else "cost least" in page
    for label, values in found[by].items():
        shown = (
            f"{values:.4f}" if by == "thresholds" else "".join(f"{v:g}" for v in values.values())
        )
        assert f"{label}{shown}" in page
    if by == "costs":
        low, high = (f"{bound:+,.4g}" for bound in test["mean_cost_difference_ci95"])
        assert f"{test['mean_cost_difference']:+,.4g} ({low} to {high})" in page
    assert "accuracy of the most probable class" in page
    words = metrics["baselines"]["words"]
    assert words["balanced_accuracy"] == pytest.approx(1 / 3), "its own answers"


def test_confidence_is_that_of_the_answers_and_calibration_that_of_the_most_probable(tmp_path):
    metrics, _ = report(tmp_path, "thresholds")
    calibration, probabilities, truth = decided("thresholds")
    said = calibration.decision.answer(probabilities)
    assert (said != probabilities.argmax(axis=1)).any()
    assert metrics["calibration"]["after"]["accuracy"] == accuracy_score(
        truth, probabilities.argmax(axis=1)
    )
    everything = risk_coverage(probabilities, truth, said).iloc[-1]
    assert everything["error"] == pytest.approx(1 - metrics["model"]["accuracy"])
    one = metrics["calibration"]["thresholds"][-1]
    for split, p, of in (
        ("test", probabilities, truth),
        ("validation", calibration.validation, calibration.validation_truth),
    ):
        answers = calibration.decision.answer(p)
        members = p[np.arange(len(of)), answers] >= one["threshold"]
        assert one[split]["n"] == members.sum()
        assert one[split]["wrong"] == (answers != of)[members].sum()


def test_a_class_that_thresholds_leave_without_answers_is_named(tmp_path):
    assert "No tested text is given" not in report(tmp_path / "some", "thresholds")[1]
    _, page = report(tmp_path / "none", "thresholds", never=True)
    assert "No tested text is given 1 of the 3 classes, though some have them: rarest." in page


def test_the_table_of_classes_has_average_precision_and_what_each_is_taken_for(tmp_path):
    metrics, page = report(tmp_path, "costs")
    model = metrics["model"]
    matrix = pd.DataFrame(model["confusion_matrix"], LABELS, LABELS)
    for label, scores in model["per_class"].items():
        wrong = matrix.loc[label].drop(label)
        taken = f"{wrong.idxmax()} ({wrong.max() / matrix.loc[label].sum():.1%})"
        end = f"{scores['f1']:.3f}{scores['average_precision']:.3f}{taken}{scores['support']}"
        assert end in page
    assert f"{model['balanced_accuracy']:.1%}{model['mean_average_precision']:.3f}" in page
    text = (tmp_path / "classification_report.txt").read_text("utf-8")
    means = (f"{model[key]:.4f}" for key in ("balanced_accuracy", "macro_f1"))
    ranked = f"{model['mean_average_precision']:.4f}"
    assert re.search(rf"mean +{' +'.join(means)} +{ranked} +800\n", text)


@pytest.mark.parametrize("by", ["thresholds", "costs"])
def test_a_chinese_report_says_all_of_a_decision_in_chinese(by):
    calibration, probabilities, truth = decided(by)
    found = judge_decision(calibration, probabilities, truth, LABELS)
    with speaking("zh-tw"):
        html = decision_section({"decision": found})
        if by == "costs":
            found["costs"] = {label: {"missed": 2.0, "in_vain": 1.0} for label in LABELS}
        html += decision_section({"decision": found}, several=True)
    words = set(re.findall("[A-Za-z][A-Za-z-]+", re.sub("<[^>]*>", " ", html)))
    assert words <= {*LABELS, "bootstrap"}
