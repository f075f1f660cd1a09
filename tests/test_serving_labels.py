"""A server of several labels a text, and of answers by thresholds or costs."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.serving_tools import fake_version, serving
from tests.test_predictor import DIRECTIONS, made_run, saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predictor import BidirectionalPredictor, load_predictor
from ulmfit_app.serving.card import name_model
from ulmfit_app.serving.compared import format_comparison
from ulmfit_app.serving.comparing import compare_served
from ulmfit_app.serving.records import ANSWERS, FEEDBACK, JsonLines
from ulmfit_app.serving.versions import Routing, load_routing

pytest.importorskip("prometheus_client", reason="needs the extra serve")

LABELS = ["bad", "fair", "good"]
SEVERAL = Decision(True, (1.5, 1.0, 2.0), (0.9, 0.37, 0.05))
TEXTS = ["A great film.", "", "dull " * 40, "The plot, the actors; all GREAT!!!", "很好"]


def run_of(folder, decision, seed=0, labels=LABELS):
    run = made_run(folder, "forward", text_column="body")
    saved_classifier(run / "classifier", seed, decision=decision, labels=labels)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("several") / "run", SEVERAL)


@pytest.fixture(scope="module")
def predictor(run):
    return load_predictor(run, "fp32")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    return folder / "feedback.jsonl", folder / "answers.jsonl"


@pytest.fixture(scope="module")
def served(run, files):
    feedback, answers = files
    kept = {
        "feedback": JsonLines(feedback, 1_000_000, FEEDBACK),
        "answers": JsonLines(answers, 1_000_000, ANSWERS),
    }
    with serving(load_routing(run, precision="fp32"), **kept) as server:
        yield server


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------------------------- predictions
def test_a_prediction_has_the_labels_that_reach_their_thresholds_and_says_both(served, predictor):
    answer = served.post("/v1/predict", {"texts": TEXTS})
    expected = predictor.predict(TEXTS)
    assert answer.status == 200 and answer.json["notes"] == [
        "Empty texts: 1. Their predictions say nothing."
    ]
    for found, row in zip(answer.json["predictions"], expected.to_dict("records"), strict=True):
        assert list(found) == ["labels", "probabilities", "thresholds", "model"]
        assert found["labels"] == json.loads(row["predicted"])
        assert found["thresholds"] == dict(zip(LABELS, SEVERAL.thresholds, strict=True))
        p = [row[f"p_{label}"] for label in LABELS]
        assert list(found["probabilities"]) == LABELS
        assert list(found["probabilities"].values()) == pytest.approx(p, abs=1e-6)


def test_what_was_said_of_several_labels_is_logged_and_counted_by_label(served, files, predictor):
    before = len(lines_of(files[1]))
    given = json.loads(predictor.predict([TEXTS[0]])["predicted"][0])
    counted = [count_of(served, label) for label in given]
    served.post("/v1/predict", {"text": TEXTS[0]})
    (line,) = lines_of(files[1])[before:]
    # In the order of the labels, so that one set is written in one way.
    assert given == ["good", "fair"]
    assert json.loads(line["label"]) == [label for label in LABELS if label in given]
    assert line["confidence"] is None
    assert [count_of(served, label) for label in given] == [n + 1 for n in counted]


def count_of(server, label):
    lines = server.get("/metrics").body.decode().splitlines()
    own = [line for line in lines if line.startswith("ulmfit_predicted_total")]
    return sum(float(line.split()[-1]) for line in own if f'label="{label}"' in line)


def test_an_uploaded_file_comes_back_as_predict_writes_it(served, predictor, tmp_path):
    table = pd.DataFrame({"id": range(4), "body": ["great film", "dull", "a plot", "the actor"]})
    csv = table.to_csv(index=False).encode()
    answer = served.ask("POST", "/v1/file", csv, {"content-type": "text/csv"})
    assert answer.status == 200
    (tmp_path / "answer.csv").write_bytes(answer.body)
    found = pd.read_csv(tmp_path / "answer.csv")
    assert list(found) == ["id", "body", "predicted", "p_bad", "p_fair", "p_good"]
    expected = predictor.predict(table["body"].tolist())
    assert found["predicted"].tolist() == expected["predicted"].tolist()


@pytest.mark.parametrize("label", [None, "fair"])
def test_an_explanation_is_of_one_label_and_says_its_threshold(served, predictor, label):
    named = {} if label is None else {"label": label}
    answer = served.post("/v1/explain", {"text": TEXTS[3], **named})
    own = explain(predictor, TEXTS[3], label=label)
    assert answer.json["label"] == own.label
    assert answer.json["threshold"] == SEVERAL.thresholds[LABELS.index(own.label)]
    scores = [word["score"] for word in answer.json["words"]]
    assert np.allclose(scores, own.words["score"], atol=1e-4)


# ---------------------------------------------------------------------------------------- feedback
@pytest.mark.parametrize(
    ("right", "written"), [(["good", "bad", "good"], '["bad", "good"]'), ([], "[]")]
)
def test_a_correction_is_a_list_of_labels(served, files, predictor, right, written):
    before = len(lines_of(files[0]))
    answer = served.post("/v1/feedback", {"text": TEXTS[0], "labels": right})
    assert answer.status == 201
    (line,) = lines_of(files[0])[before:]
    said = json.loads(predictor.predict([TEXTS[0]])["predicted"][0])
    assert line["label"] == written and line["confidence"] is None
    assert line["predicted"] == json.dumps([label for label in LABELS if label in said])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"label": "bad"}, "labels: It is missing."),
        ({"labels": ["fine"]}, "labels: Expected some of the model's labels, found another."),
        ({"labels": "bad"}, "labels: Expected a list, found a string."),
    ],
)
def test_a_correction_of_another_form_is_refused(served, body, sentence):
    answer = served.post("/v1/feedback", {"text": "great", **body})
    assert (answer.status, answer.json["error"]) == (422, sentence)


def test_feedback_can_be_learned_from(tmp_path):
    path = tmp_path / "feedback.jsonl"
    run = run_of(tmp_path / "run", SEVERAL)
    kept = JsonLines(path, 1_000_000, FEEDBACK)
    sets = [["bad"], ["good", "fair"], [], ["fair"]] * 10
    with serving(load_routing(run, precision="fp32"), feedback=kept) as server:
        for i, labels in enumerate(sets):
            server.post("/v1/feedback", {"text": f"film {i}", "labels": labels})
    settings = DataSettings(str(path), multilabel=True)
    corpus = load_corpus(settings, 42)
    found = dict(zip(corpus.table["text"], corpus.table["label"], strict=True))
    assert found["film 1"] == '["fair", "good"]' and found["film 2"] == "[]"
    assert len(found) == len(sets) and corpus.labels == LABELS


# ------------------------------------------------------------------------------ what is said of it
def test_the_card_and_the_descriptions_are_of_several_labels(served):
    card = served.get("/v1/model").json["model"]
    assert card["multilabel"] is True
    assert card["temperature"] == dict(zip(LABELS, SEVERAL.temperatures, strict=True))
    assert card["thresholds"] == dict(zip(LABELS, SEVERAL.thresholds, strict=True))
    schemas = served.get("/openapi.json").json["components"]["schemas"]
    assert set(schemas["LabelsPrediction"]["required"]) == {
        *("labels", "probabilities", "thresholds", "model")
    }
    assert "labels" in schemas["LabelsFeedbackRequest"]["required"]
    assert "Prediction" not in schemas and "FeedbackRequest" not in schemas


def test_every_reference_in_the_description_of_several_labels_is_there(served):
    document = served.get("/openapi.json").json
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"]) and "LabelsPredictAnswer" in names


def test_a_report_of_several_labels_is_on_the_card(tmp_path):
    run = run_of(tmp_path / "run", SEVERAL)
    (run / "report").mkdir()
    scores = dict.fromkeys(("micro_f1", "macro_f1", "subset_accuracy", "hamming_loss"), 0.5)
    scores |= dict.fromkeys(("mean_average_precision", "log_loss"), 0.25)
    scores |= {"n": 60, "subset_accuracy_ci95": [0.4, 0.6], "expected_calibration_error": 0.1}
    beside = {key: scores[key] for key in ("micro_f1", "macro_f1", "subset_accuracy")}
    beside |= {"subset_accuracy_ci95": [0.4, 0.6], "log_loss": 9}
    metrics = {"model": scores, "baselines": {"TF-IDF": beside}, "facts": {"test_name": "test"}}
    (run / "report" / "metrics.json").write_text(json.dumps(metrics))
    with serving(load_routing(run, precision="fp32")) as server:
        card = server.get("/v1/model").json["model"]
    assert card["metrics"] == {"test": "test", **scores}
    del beside["log_loss"]
    assert card["baselines"] == {"TF-IDF": beside}


# --------------------------------------------------------------- one label, thresholds or costs
@pytest.mark.parametrize(
    ("decision", "by"),
    [
        (Decision(thresholds=(0.49, 0.02, 0.49)), "thresholds"),
        (Decision(costs=((0, 1, 9), (9, 0, 9), (9, 1, 0))), "costs"),
    ],
)
def test_an_answer_follows_the_decision_and_says_what_decided(tmp_path, decision, by):
    run = run_of(tmp_path / "run", decision)
    predictor = load_predictor(run, "fp32")
    expected = predictor.predict(TEXTS)
    p = expected[["p_bad", "p_fair", "p_good"]].to_numpy()
    assert (p.argmax(axis=1) != decision.answer(p)).any()
    kept = JsonLines(tmp_path / "log", 1_000_000, ANSWERS)
    with serving(load_routing(run, precision="fp32"), answers=kept) as server:
        found = server.post("/v1/predict", {"texts": TEXTS}).json["predictions"]
        explained = server.post("/v1/explain", {"text": TEXTS[0]}).json
        named = server.post("/v1/explain", {"text": TEXTS[0], "label": "bad"}).json
        card = server.get("/v1/model").json["model"]
        schemas = server.get("/openapi.json").json["components"]["schemas"]
    assert [one["label"] for one in found] == expected["predicted"].tolist()
    for one in found:
        assert one["decided_by"] == by
        assert one["confidence"] == one["probabilities"][one["label"]]
    assert by in card and "multilabel" not in card
    assert (explained["decided_by"], explained["label"]) == (by, found[0]["label"])
    assert "decided_by" not in named
    assert "decided_by" not in schemas["Prediction"]["required"]
    lines = lines_of(tmp_path / "log")
    assert [line["label"] for line in lines] == expected["predicted"].tolist()


def test_thresholds_of_several_labels_that_costs_give_are_said_to_be_theirs(tmp_path, served):
    run = run_of(tmp_path / "run", Decision(True, (1.0,), (), ((1, 1), (9, 1), (1, 3))))
    with serving(load_routing(run, precision="fp32")) as server:
        (found,) = server.post("/v1/predict", {"text": TEXTS[0]}).json["predictions"]
        explained = server.post("/v1/explain", {"text": TEXTS[0], "label": "fair"}).json
        card = server.get("/v1/model").json["model"]
    assert found["decided_by"] == explained["decided_by"] == card["decided_by"] == "costs"
    assert found["thresholds"] == card["thresholds"] == {"bad": 0.5, "fair": 0.1, "good": 0.75}
    assert "decided_by" not in served.get("/v1/model").json["model"]
    (by_thresholds,) = served.post("/v1/predict", {"text": TEXTS[0]}).json["predictions"]
    assert "decided_by" not in by_thresholds


def test_where_the_likeliest_label_answers_nothing_new_is_sent(tmp_path):
    run = run_of(tmp_path / "run", Decision(temperatures=(1.5,)))
    with serving(load_routing(run, precision="fp32")) as server:
        (found,) = server.post("/v1/predict", {"text": TEXTS[0]}).json["predictions"]
        card = server.get("/v1/model").json["model"]
        explained = server.post("/v1/explain", {"text": TEXTS[0]}).json
    assert list(found) == ["label", "confidence", "probabilities", "model"]
    assert {"multilabel", "thresholds", "costs"}.isdisjoint(card) and card["temperature"] == 1.5
    assert "threshold" not in explained


def test_two_directions_that_decide_otherwise_have_another_id(tmp_path):
    """Their decision is in neither bundle."""
    folders = [
        saved_classifier(tmp_path / name, direction=name, decision=SEVERAL) for name in DIRECTIONS
    ]
    costs = ((1.0, 1.0), (9.0, 1.0), (1.0, 3.0))
    decisions = [
        Decision(True),
        Decision(True, (1.5, 1.0, 1.0)),
        Decision(True, (1.0,), (0.2, 0.3, 0.4)),
        Decision(True, (1.0,), (), costs),
    ]
    ids = {
        name_model(tmp_path, BidirectionalPredictor(*folders, "fp32", decision))
        for decision in decisions
    }
    assert len(ids) == len(decisions)


# ------------------------------------------------------------------------------------ two versions
def test_each_of_two_versions_answers_by_its_own_thresholds(tmp_path):
    fair = Decision(True, (1.0,), (1e-6, 1.0, 1.0))
    first = run_of(tmp_path / "first", Decision(True, (1.0,), (1e-6, 1.0, 1.0)))
    second = run_of(tmp_path / "second", fair, 1, labels=["fair", "good", "bad"])
    routing = load_routing(first, second, 0.5, "fp32")
    with serving(routing) as server:
        texts = [f"film {i}" for i in range(20)]
        found = server.post("/v1/predict", {"texts": texts}).json["predictions"]
    said = {one["model"].partition("@")[0]: (one["labels"], one["thresholds"]) for one in found}
    assert said["first"] == (["bad"], {"bad": 1e-6, "fair": 1.0, "good": 1.0})
    assert said["second"] == (["fair"], {"bad": 1.0, "fair": 1e-6, "good": 1.0})


def test_a_canary_that_gives_several_labels_cannot_stand_in_for_one_that_gives_one(tmp_path):
    one, several = run_of(tmp_path / "one", Decision()), run_of(tmp_path / "several", SEVERAL)
    with pytest.raises(SettingError, match="gives a text one label, the other several"):
        load_routing(one, several, 0.5, "fp32")


def test_compare_served_counts_each_of_several_labels(tmp_path, capsys):
    """Against counting by hand what both said."""
    first, second = fake_version("first@1"), fake_version("second@2")
    first.predictor.decision = Decision(True, (1.0,), (0.3, 0.9))
    second.predictor.decision = Decision(True, (1.0,), (0.3, 0.26))  # texts of two words, too
    log = tmp_path / "log"
    kept = JsonLines(log, 1_000_000, ANSWERS)
    texts = [f"word{i} " + "more " * (i % 4) for i in range(400)]
    texts = [text.strip() for text in texts]
    with serving(Routing(first, second, 0.5), answers=kept) as server:
        said = server.post("/v1/predict", {"texts": texts}).json["predictions"]
    found = compare_served(log)
    assert found.several and found.confidence is None
    counts = found.labels.set_index("label")
    for column, model in (("n", "first@1"), ("other_n", "second@2")):
        own = [one["labels"] for one in said if one["model"] == model]
        assert found.sides["n"][model] == len(own)
        assert found.sides["given"][model] == pytest.approx(np.mean([len(of) for of in own]))
        for label in ("bad", "good"):
            assert counts[column].get(label, 0) == sum(label in of for of in own), label
    assert counts["p_value"]["good"] < 1e-6 and found.p_value == counts["p_value"].min()
    page = format_comparison(found)
    assert "labels per text" in page and "mean confidence" not in page
    assert "second@2 says good for" in page and "by Holm for 2 labels" in page
    assert cli.main(["compare-served", str(log)]) == 0
    assert capsys.readouterr().out == page + "\n"


def test_answers_of_one_label_and_of_several_are_not_compared(tmp_path):
    one, several = fake_version("one@1"), fake_version("several@2")
    several.predictor.decision = Decision(True)
    log = tmp_path / "log"
    for version in (one, several):
        kept = JsonLines(log, 1_000_000, ANSWERS)
        with serving(version, answers=kept) as server:
            server.post("/v1/predict", {"texts": ["a b", "c d e", "f"]})
    with pytest.raises(DataError, match="3 answers of several labels a text and 3 of one"):
        compare_served(log)


def test_two_versions_that_give_no_label_at_all_are_compared(tmp_path):
    versions = [fake_version("first@1"), fake_version("second@2")]
    for version in versions:
        version.predictor.decision = Decision(True, (1.0,), (1.0, 1.0))
    log = tmp_path / "log"
    kept = JsonLines(log, 1_000_000, ANSWERS)
    with serving(Routing(*versions, 0.5), answers=kept) as server:
        server.post("/v1/predict", {"texts": [f"a b {i}" for i in range(50)]})
    assert "Neither gives any text a label." in format_comparison(compare_served(log))
