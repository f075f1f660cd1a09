"""Answers of several labels a text, and by thresholds or costs: predict, files and explain."""

import csv
import json

import numpy as np
import pytest
import torch

from tests.test_predictor import TEXTS, made_run, saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.errors import DataError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.inference.decided import choose, describe
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predicted_file import predict_file
from ulmfit_app.inference.predictor import BidirectionalPredictor, Predictor

LABELS = ["bad", "fair", "good"]
SEVERAL = Decision(True, (1.5, 1.0, 2.0), (0.3, 0.5, 0.05))
NEVER = Decision(True, (1.0,), (1.0, 1.0, 1.0))
ALWAYS_FAIR = Decision(costs=((0, 1, 9), (9, 0, 9), (9, 1, 0)))
TEXT = "A great film, and the plot is dull; the actor, not."


def run_with(tmp_path, decision):
    run = made_run(tmp_path / "run", "forward", text_column="body")
    saved_classifier(run / "classifier", decision=decision)
    return run


@pytest.fixture
def several(tmp_path):
    return run_with(tmp_path, SEVERAL)


def predictor_of(tmp_path, which):
    """A classifier of several labels in a direction, or the mean of both."""
    forward = saved_classifier(tmp_path / "forward", decision=SEVERAL)
    backward = saved_classifier(tmp_path / "back", 1, direction="backward", decision=SEVERAL)
    if which == "both":
        return BidirectionalPredictor(forward, backward, "fp32", SEVERAL)
    return Predictor(forward if which == "forward" else backward, "fp32")


# ----------------------------------------------------------------------------------------- predict
def test_of_several_labels_those_that_reach_their_thresholds_are_said_likeliest_first(
    several, capsys
):
    predictor = Predictor(several / "classifier")
    texts = ["A great film.", "The plot, the actors; all GREAT!!!", "dull " * 20]
    assert cli.main(["predict", str(several), *texts]) == 0
    out, err = capsys.readouterr()
    probabilities = predictor.probabilities(predictor.store(texts), description=None)
    for line, p in zip(out.splitlines(), probabilities, strict=True):
        said, shares, _ = line.split("\t")
        reached = [i for i in np.argsort(-p) if p[i] >= SEVERAL.thresholds[i]]
        assert json.loads(said) == [LABELS[i] for i in reached]
        assert shares == ", ".join(f"{label} {one:.3f}" for label, one in zip(LABELS, p))  # noqa: B905
    assert "temperatures 1 to 2, a text has the labels whose probabilities reach bad 0.3" in err
    assert "fair 0.5, good 0.05." in err


def test_a_text_that_reaches_no_threshold_has_an_empty_list(tmp_path, capsys):
    assert cli.main(["predict", str(run_with(tmp_path, NEVER)), "A great film."]) == 0
    assert capsys.readouterr().out.startswith("[]\tbad 0.")


def test_the_answer_by_costs_has_its_own_probability_as_its_confidence(tmp_path, capsys):
    run = run_with(tmp_path, ALWAYS_FAIR)
    predictor = Predictor(run / "classifier")
    table = predictor.predict(TEXTS)
    likeliest = table[["p_bad", "p_fair", "p_good"]].to_numpy().argmax(axis=1)
    assert (likeliest != 1).any()
    assert set(table["predicted"]) == {"fair"}
    assert table["confidence"].equals(table["p_fair"].rename("confidence"))
    assert cli.main(["predict", str(run), "A great film."]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("fair\t") and "answers what costs least in expectation" in err


def test_what_decides_is_a_sentence_for_any_decision():
    names = [f"label {i}" for i in range(12)]
    many = describe(Decision(True, (1.0,), tuple(i / 20 + 0.1 for i in range(12))), names)
    assert "label 9 0.55 and 2 more" in many and "label 10" not in many
    costs = Decision(True, (1.0,), (), ((1, 1), (9, 1), (1, 3)))
    said = "reach the thresholds that the costs give: bad 0.5, fair 0.1, good 0.75"
    assert describe(costs, LABELS).endswith(said)


def test_a_decision_chooses_as_it_answers():
    p = np.random.default_rng(0).random((50, 3))
    has = np.zeros((50, 3), bool)
    for row, given in enumerate(choose(SEVERAL, p)):
        assert (np.diff(p[row, given]) <= 0).all()
        has[row, given] = True
    assert (has == SEVERAL.answer(p)).all()
    thresholds = Decision(thresholds=(0.1, 0.2, 0.7))
    assert [one for (one,) in choose(thresholds, p)] == thresholds.answer(p).tolist()


def test_a_file_of_several_labels_gets_lists_and_no_confidence(several, tmp_path, capsys):
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("id,body\n1,A great film.\n2,dull plot\n", encoding="utf-8")
    command = ["predict", str(several), "--file", str(source), "--out", str(out)]
    assert cli.main(command) == 0
    assert "Temperatures 1 to 2, a text has the labels" in capsys.readouterr().out
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "body", "predicted", "p_bad", "p_fair", "p_good"]
    for row in rows:
        p = [float(row[f"p_{label}"]) for label in LABELS]
        reached = [i for i in np.argsort(-np.array(p)) if p[i] >= SEVERAL.thresholds[i]]
        assert json.loads(row["predicted"]) == [LABELS[i] for i in reached]


def test_a_file_with_a_column_confidence_is_taken_where_none_is_written(several, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("body,confidence\nA great film.,3\n", encoding="utf-8")
    predictor = Predictor(several / "classifier")
    assert predict_file(predictor, source, tmp_path / "out.csv", "body", "utf-8") == 1
    alone = Predictor(saved_classifier(tmp_path / "alone"))
    with pytest.raises(DataError, match="confidence"):
        predict_file(alone, source, tmp_path / "out.csv", "body", "utf-8")


# ----------------------------------------------------------------------------------------- explain
def log_odds(predictor, texts, label):
    p = predictor.predict(texts)[f"p_{label}"].to_numpy()
    return np.log(p) - np.log1p(-p)


@pytest.mark.parametrize("which", ["forward", "backward", "both"])
def test_occlusion_of_one_of_several_labels_is_the_fall_of_its_own_log_odds(tmp_path, which):
    predictor = predictor_of(tmp_path, which)
    found = explain(predictor, TEXT, label="good")
    texts = [TEXT[: row.start] + TEXT[row.stop :] for row in found.words.itertuples()]
    expected = log_odds(predictor, [TEXT], "good") - log_odds(predictor, texts, "good")
    assert np.allclose(found.words["score"], expected, atol=1e-4)
    assert found.threshold == 0.05 and "(threshold 0.05)" in found.terminal()


@pytest.mark.parametrize("which", ["forward", "backward", "both"])
def test_gradients_of_one_of_several_labels_are_those_of_its_calibrated_logit(tmp_path, which):
    """Against finite differences: the embedding of a word made longer and shorter."""
    predictor = predictor_of(tmp_path, which)
    found = explain(predictor, TEXT, "gradient", "bad").words.set_index("word")["score"]
    members = [predictor, predictor.backward] if which == "both" else [predictor]
    for word in ("great", "film", "plot", "dull"):
        at = predictor.bundle.vocab.index(word)
        rows = [member._model[0].module.encoder.weight.data[at] for member in members]
        odds = []
        for factor in (1.01, 0.99):
            whole = [row.clone() for row in rows]
            for row in rows:
                row *= factor
            odds.append(log_odds(predictor, [TEXT], "bad")[0])
            for row, old in zip(rows, whole, strict=True):
                row.copy_(old)
        assert found[word] == pytest.approx((odds[0] - odds[1]) / 0.02, rel=0.02, abs=2e-3), word
    assert torch.is_grad_enabled()


def test_each_predicted_label_is_explained_unless_one_is_named(several, capsys):
    predictor = Predictor(several / "classifier")
    given = json.loads(predictor.predict([TEXT])["predicted"][0])
    assert len(given) > 1
    assert cli.main(["explain", str(several), TEXT]) == 0
    each = [explain(predictor, TEXT, "occlusion", label).terminal() for label in given]
    assert capsys.readouterr().out == "\n\n".join(each) + "\n"
    assert cli.main(["explain", str(several), TEXT, "--label", "fair"]) == 0
    assert capsys.readouterr().out == explain(predictor, TEXT, label="fair").terminal() + "\n"


def test_where_no_label_is_predicted_the_likeliest_is_explained_and_that_is_said(tmp_path, capsys):
    run = run_with(tmp_path, NEVER)
    assert cli.main(["explain", str(run), TEXT]) == 0
    out, err = capsys.readouterr()
    row = Predictor(run / "classifier").predict([TEXT]).iloc[0]
    likeliest = max(LABELS, key=lambda label: row[f"p_{label}"])
    assert out.startswith(f"{likeliest} ") and "No label is predicted" in err


def test_without_a_label_the_likeliest_of_those_that_are_given_is_explained(tmp_path):
    """Not the likeliest of all, which may miss a higher threshold."""
    predictor = Predictor(saved_classifier(tmp_path))
    p = predictor.probabilities(predictor.store([TEXT]), description=None)[0]
    best, second, _ = np.argsort(-p)
    thresholds = np.full(3, 1.0)
    thresholds[second] = 1e-6
    predictor.decision = Decision(True, (1.0,), tuple(thresholds))
    assert explain(predictor, TEXT).label == LABELS[second] != LABELS[best]


def test_by_costs_the_answer_that_is_given_is_explained(tmp_path):
    predictor = Predictor(saved_classifier(tmp_path, decision=ALWAYS_FAIR))
    found = explain(predictor, TEXT)
    assert found.label == "fair" and found.threshold is None and "threshold" not in repr(found)
    said = "Chosen by costs: it need not be the likeliest label."
    assert repr(found).count(said) == found.html().count(said) == 1
    # A label that is named was not chosen.
    assert "costs" not in repr(explain(predictor, TEXT, label="fair"))
    predictor.decision = Decision(thresholds=(0.49, 0.02, 0.49))
    assert said.replace("costs", "thresholds") in repr(explain(predictor, TEXT))
    predictor.decision = Decision()
    assert "Chosen" not in repr(explain(predictor, TEXT))


def test_a_threshold_that_costs_give_is_said_to_be_theirs(tmp_path):
    decision = Decision(True, (1.0,), (), ((1, 1), (9, 1), (1, 3)))
    predictor = Predictor(saved_classifier(tmp_path, decision=decision))
    found = explain(predictor, TEXT, label="fair")
    assert found.decided_by == "costs" and "(threshold 0.1, by costs): what moved" in repr(found)
