"""Exported classifiers of several labels, or that decide by thresholds or costs."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from tests.test_onnx import at_once, expected, rows_of, run_alone
from tests.test_predictor import TEXTS, made_run, save_validation, saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.tables import spell_set
from ulmfit_app.inference.decided import choose
from ulmfit_app.inference.export import export_onnx
from ulmfit_app.inference.onnx_runner import Answers, OnnxClassifier
from ulmfit_app.inference.predictor import BidirectionalPredictor, load_predictor

NEAR = 1e-5
LABELS = ["bad", "fair", "good"]
DECISIONS = {
    "several": Decision(True, (1.5, 1.0, 2.0), (0.3, 0.5, 0.05)),
    "one temperature": Decision(True, (0.7,)),
    "several by costs": Decision(True, (1.0, 2.0, 3.0), (), ((1, 1), (9, 1), (1, 3))),
    "thresholds": Decision(temperatures=(1.7,), thresholds=(0.1, 0.2, 0.7)),
    "costs": Decision(temperatures=(1.2,), costs=((0, 1, 9), (5, 0, 2), (9, 1, 0))),
    "likeliest": Decision(),
}


def forward(folder, decision):
    run = made_run(folder / "run", "forward")
    saved_classifier(run / "classifier", decision=decision)
    return run


def validation_of_sets(folder, seed):
    """Probabilities of made texts, and their sets of labels."""
    draw = np.random.default_rng(seed)
    has = np.random.default_rng(9).random((60, 3)) < 0.4
    p = expit(draw.normal(size=(60, 3)) * 3 + 4 * has - 2)
    table = pd.DataFrame(p, columns=[f"p_{label}" for label in LABELS])
    names = [spell_set(np.array(LABELS)[row]) for row in has]
    table.insert(0, "row", range(60))
    table.insert(1, "label", names)
    table.to_csv(folder / "validation.csv", index=False)


def both(folder, decision):
    run = made_run(folder / "run", "forward", "backward")
    for seed, name in enumerate(["classifier", "classifier-backward"]):
        direction = "backward" if seed else "forward"
        saved_classifier(run / name, seed, direction=direction, decision=decision)
        validation_of_sets(run / name, seed) if decision.multilabel else save_validation(
            run / name, seed
        )
    return run


def exported(tmp_path, run):
    out = export_onnx(run, tmp_path / "out")
    return OnnxClassifier.open(out, threads=1), Answers.open(out)


@pytest.mark.parametrize("make", [forward, both])
@pytest.mark.parametrize("decision", DECISIONS.values(), ids=DECISIONS)
def test_any_batch_and_any_length_has_the_predictors_probabilities_and_answers(
    tmp_path, make, decision
):
    run = make(tmp_path, decision)
    predictor = load_predictor(run, "fp32")
    classifier, answers = exported(tmp_path, run)
    assert isinstance(predictor, BidirectionalPredictor) == (make is both)
    for batch, length in product((1, 3, 20), (1, 17, 300)):
        rows = rows_of(batch, length, len(predictor.bundle.vocab))
        wanted, found = expected(predictor, rows), at_once(classifier, rows)
        assert np.abs(found - wanted).max() < NEAR, (batch, length)
        assert answers.choose(found) == choose(predictor.decision, wanted), (batch, length)


def test_the_runner_answers_any_probabilities_as_the_decision_does(tmp_path):
    p = np.random.default_rng(0).dirichlet(np.ones(3), 2_000)
    for name, decision in DECISIONS.items():
        folder = tmp_path / name
        folder.mkdir()
        _, answers = exported(folder, forward(folder, decision))
        assert answers.choose(p) == choose(decision, p), name


def test_a_probability_at_its_threshold_reaches_it():
    answers = Answers(True, [0.5, 0.25], [])
    assert answers.choose(np.array([[0.5, 0.25], [0.49, 0.24]], np.float32)) == [[0, 1], []]


@pytest.mark.parametrize("name", ["several", "costs"])
def test_the_exported_folder_prints_what_predict_prints(tmp_path, capsys, name):
    run, out = forward(tmp_path, DECISIONS[name]), tmp_path / "out"
    texts = [TEXTS[0], TEXTS[3], "dull plot"]
    export_onnx(run, out)
    assert cli.main(["predict", str(run), *texts, "--precision", "fp32"]) == 0
    expected = capsys.readouterr().out
    found = run_alone(out, *texts)
    assert (found.stderr, found.returncode) == ("", 0)
    assert found.stdout == expected and expected.count("\n") == len(texts)


def test_the_settings_say_how_it_decides(tmp_path):
    out = export_onnx(forward(tmp_path, DECISIONS["several by costs"]), tmp_path / "out")
    settings = json.loads((out / "settings.json").read_text())
    assert settings["multilabel"] is True and settings["temperature"] == [1.0, 2.0, 3.0]
    # What costs least in expectation is what reaches in_vain / (missed + in_vain).
    assert settings["thresholds"] == [0.5, 0.1, 0.75] and settings["costs"] == []


def test_a_transformer_of_several_labels_has_its_predictors_probabilities(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    from tests import test_transformer
    from tests.test_onnx_transformer import difference, onnx_of
    from tests.tiny_transformers import make_checkpoint
    from ulmfit_app.inference.predictor import Predictor
    from ulmfit_app.models.transformer_start import read_transformer

    checkpoint = make_checkpoint(tmp_path / "start", "bert")
    start = read_transformer(checkpoint, str(checkpoint))
    folder = test_transformer.saved_classifier(tmp_path / "classifier", start)
    predictor, decision = Predictor(folder, "fp32"), DECISIONS["several"]
    predictor.decision, predictor.bundle = decision, replace(predictor.bundle, decision=decision)
    classifier = onnx_of(predictor)
    for n_texts, length in product((1, 3, 8), (1, 17, 200)):
        texts = [" ".join(["film", "dull", "great"] * length)[: 5 * length]] * n_texts
        assert difference(predictor, classifier, texts) < NEAR, (n_texts, length)
