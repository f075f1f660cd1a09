"""What a run starts from, and in which directions it reads."""

import json
import pickle
import shutil
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch

from data_scripts import wt103
from tests.conftest import keep_run, reviews
from tests.small_runs import metrics, run, stages_done, two_layers
from ulmfit_app import __main__ as cli
from ulmfit_app.config import ModelSettings
from ulmfit_app.evaluation import calibration
from ulmfit_app.evaluation.calibration import fit_temperature, tempered
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import (
    BidirectionalPredictor,
    Predictor,
    load_predictor,
)
from ulmfit_app.models.awd_lstm import build_language_model, load_language_model
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.models.pretrained import find_start
from ulmfit_app.pipeline import budget
from ulmfit_app.pipeline.plan import plan_run
from ulmfit_app.run_folder import VALIDATION
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.training.recipes import count_epochs

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def kept(tmp_path_factory, undrawn):
    """A finished run."""

    def make(csv, out):
        assert run(csv, out) == 0

    return keep_run(tmp_path_factory.mktemp("kept"), make)


@pytest.fixture
def done(kept):
    """Its CSV and its folder, as they were when it ended."""
    kept.put_back()
    return kept.csv, kept.run


@pytest.fixture
def any_temperature(monkeypatch):
    """Validation texts as few as here are not enough for a temperature, which would stay 1."""
    monkeypatch.setattr(calibration, "SIGNIFICANT", 1.0)


def test_starts_in_wt103s_format_come_over_http_and_are_trained_as_strong_ones(
    csv, tmp_path, monkeypatch, capsys
):
    vocab = [*SPECIALS, *"the film a plot great dull of and".split()]
    (tmp_path / "itos_wt103.pkl").write_bytes(pickle.dumps(vocab))
    for mark in ("fwd", "bwd"):
        model = build_language_model(len(vocab), ModelSettings(12, 16, 3))
        torch.save(model.state_dict(), tmp_path / f"lstm_{mark}.pth")
        with tarfile.open(tmp_path / f"wt103-{mark}.tgz", "w:gz") as archive:
            for name in (f"lstm_{mark}.pth", "itos_wt103.pkl"):
                archive.add(tmp_path / name, f"wt103-{mark}/{name}")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(wt103, "URL", f"http://127.0.0.1:{server.server_port}")
        assert run(csv, tmp_path / "run", "--pretrained", "wt103", "--bidirectional") == 0
        server.shutdown()
    said = capsys.readouterr().out
    assert "AWD-LSTM 12/16/3" in said and "wt103-fwd.tgz" in said and "wt103-bwd.tgz" in said
    for ending, beginning in (("", "Classifier: "), ("-backward", "Classifier, backward: ")):
        assert f"{beginning}All groups learn from the first step on" in said
        assert list(pd.read_csv(tmp_path / "run" / f"lm{ending}" / "history.csv")["phase"]) == [
            "embeddings",
            "all groups",
        ]
        assert set(
            pd.read_csv(tmp_path / "run" / f"classifier{ending}" / "history.csv")["phase"]
        ) == {"all groups"}


def test_another_runs_language_model_is_a_start(done, tmp_path, capsys):
    csv, first = done
    assert run(csv, tmp_path / "second", "--pretrained", str(first / "lm")) == 0
    said = capsys.readouterr().out
    assert f"from the bundle {first / 'lm'}, which started from random weights" in said
    assert "The plan for a weak start" in said.rpartition("which started")[2], (
        "one small epoch is no strong start"
    )


def test_without_epochs_the_language_model_is_the_start_as_it_is(done, tmp_path):
    csv, out = done
    start = ["--pretrained", str(out / "lm"), "--lm.epochs", "0"]
    assert run(csv, tmp_path / "second", *start) == 0
    folders = (out / "lm", tmp_path / "second" / "lm")
    first, second = (load_bundle(folder, "language model") for folder in folders)
    known = np.isin(second.vocab, first.vocab)
    layers = [load_language_model(bundle)[0].rnns[0].state_dict() for bundle in (first, second)]
    assert known.all() and layers[0].keys() == layers[1].keys()
    assert all(torch.equal(tensor, layers[1][name]) for name, tensor in layers[0].items())
    facts = json.loads(metrics(tmp_path / "second"))["facts"]["language_model"]
    assert facts["epochs"] == 0 and facts["validation_perplexity"] == pytest.approx(
        first.about["perplexity"], rel=1e-3
    )


def test_the_second_direction_changes_the_key_of_the_report_alone(csv):
    one, two = (
        plan_run(two_layers(csv, bidirectional=both)).record.keys for both in (False, True)
    )
    assert set(two) - set(one) == {"lm-backward", "classifier-backward"}
    assert {name for name in one if one[name] != two[name]} == {"report"}
    assert len(set(two.values())) == 6


def test_both_directions_are_measured_at_twice_the_time_of_one(csv, monkeypatch):
    monkeypatch.setattr(budget, "_time", lambda step, repeats=2: 1.0)
    texts, start = reviews(40)["review"], find_start("none", two_layers(csv).model)
    one, two = (
        budget.measure_rates(texts, start, two_layers(csv, bidirectional=both))
        for both in (False, True)
    )
    for name in ("lm_training", "classifier_training", "encoding"):
        assert getattr(two, name) == 2 * getattr(one, name)


def test_a_second_direction_is_added_to_a_finished_run_and_averaged(
    csv, tmp_path, capsys, any_temperature
):
    out = tmp_path / "run"
    run(csv, out)
    first = stages_done(out)
    assert run(csv, out, "--bidirectional") == 0
    said = capsys.readouterr().out
    assert (
        "Language model, backward, all groups, epoch 1" in said
        and "ULMFiT, backward alone" in said
    )
    second = stages_done(out)
    assert {name for name in first if first[name] != second[name]} == {"report"}
    found = json.loads(metrics(out))
    assert list(found["directions"]) == ["forward", "backward"]
    assert "language_model_backward" in found["facts"]

    columns = ["p_neg", "p_pos"]
    predictions = pd.read_csv(out / "report" / "predictions.csv")
    folders = [out / "classifier", out / "classifier-backward"]
    predictors = [Predictor(folder) for folder in folders]
    assert [predictor.bundle.direction for predictor in predictors] == ["forward", "backward"]
    alone = [
        predictor.predict(predictions["text"])[columns].to_numpy() for predictor in predictors
    ]
    assert not np.allclose(*alone, atol=1e-6)
    both = BidirectionalPredictor(*folders)
    mean = np.mean(list(both.each(both.store(predictions["text"])).values()), axis=0)
    validated = [pd.read_csv(folder / VALIDATION) for folder in folders]
    truth = (validated[0]["label"] == "pos").to_numpy(int)
    temperature, _ = fit_temperature(
        np.mean([table[columns].to_numpy() for table in validated], 0), truth
    )
    assert found["calibration"]["temperature"] == pytest.approx(temperature)
    assert temperature not in [predictor.decision.temperature for predictor in predictors]
    assert np.allclose(predictions[columns], tempered(mean, temperature), atol=1e-6)
    assert found["model"]["accuracy"] == (predictions["label"] == predictions["predicted"]).mean()
    for direction, probabilities in zip(found["directions"].values(), alone, strict=True):
        named = np.array(["neg", "pos"])[probabilities.argmax(1)]
        assert direction["accuracy"] == (predictions["label"] == named).mean()

    assert (
        cli.main(
            [
                "predict",
                str(out),
                "--file",
                str(csv),
                "--text",
                "review",
                "--out",
                str(tmp_path / "p.csv"),
            ]
        )
        == 0
    )
    again = load_predictor(out).predict(pd.read_csv(csv)["review"])
    assert np.allclose(pd.read_csv(tmp_path / "p.csv")[columns], again[columns], atol=1e-6)

    marks = [out / "lm" / "stage.json", out / "lm-backward" / "stage.json"]
    before = [mark.stat().st_mtime_ns for mark in marks]
    assert cli.main(["finetune", str(out)]) == 0
    assert all(mark.stat().st_mtime_ns > when for mark, when in zip(marks, before, strict=True))
    capsys.readouterr()
    other = validated[1].assign(row=validated[1]["row"].to_numpy()[::-1])
    write_table(folders[1] / VALIDATION, other)
    assert cli.main(["predict", str(out), "a text"]) == 5
    assert "they are of other texts" in capsys.readouterr().err
    (folders[1] / VALIDATION).unlink()
    assert cli.main(["report", str(out)]) == 0 and json.loads(metrics(out)) == found
    (out / "lm-backward" / "stage.json").unlink()
    capsys.readouterr()
    assert cli.main(["classify", str(out)]) == 5
    assert "stage 'lm-backward'" in capsys.readouterr().err
    (out / "classifier-backward" / "bundle.json").unlink()
    assert cli.main(["predict", str(out), "a text"]) == 5
    assert "No trained classifier-backward" in capsys.readouterr().err


def test_a_start_that_was_named_by_a_relative_path_is_found_from_elsewhere(
    done, tmp_path, monkeypatch
):
    csv, out = done
    shutil.copytree(out, tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    assert run(csv, "second", "--pretrained", "first/lm") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["finetune", str(tmp_path / "second")]) == 0


def test_where_time_bounds_the_labels_a_strong_start_reads_each_once(csv):
    settings = two_layers(csv)
    lm = replace(settings.lm, pretrained="en-small")
    plans = []
    for tokens in (2_000, 40_000, None):
        classifier = replace(settings.classifier, epochs=None, max_tokens=tokens)
        planned = plan_run(replace(settings, lm=lm, classifier=classifier))
        (direction,) = planned.record.directions
        plans.append((direction.plan.name, count_epochs(direction.plan)))
        assert direction.plan.name in direction.plan_reason
    assert plans[0] == ("brief", 1)
    assert plans[1][0] == "full-discr" and plans[1][1] >= 8
    assert plans[2] == ("published", 13), "few labels"
