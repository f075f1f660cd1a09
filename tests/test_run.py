"""The whole way, on a small CSV: what is repeated, what goes on, what a user sees."""

import errno
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data_scripts import wt103
from tests.conftest import reviews
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings, ModelSettings
from ulmfit_app.errors import RunFolderError
from ulmfit_app.evaluation import calibration
from ulmfit_app.evaluation.calibration import fit_temperature, tempered
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import (
    BidirectionalPredictor,
    Predictor,
    load_predictor,
    read_validation,
)
from ulmfit_app.models.awd_lstm import build_language_model, load_language_model
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.models.pretrained import find_start
from ulmfit_app.pipeline import budget, plan
from ulmfit_app.pipeline.plan import plan_run
from ulmfit_app.pipeline.report import N_EXPLAINED
from ulmfit_app.pipeline.run import begin
from ulmfit_app.presets import TINY
from ulmfit_app.run_folder import STAGES, VALIDATION
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.training.recipes import count_epochs

SHAPE = ["--model.emb-sz", "12", "--model.n-hid", "16"]
SMALL = [
    *SHAPE, "--preset", "tiny", "--text", "review", "--label", "sentiment",
    "--lm.bptt", "20", "--lm.batch-size", "4", "--classifier.batch-size", "8",
]  # fmt: skip


def run(csv, out, *more):
    # A pretrained start brings its own shape.
    small = [word for word in SMALL if word not in SHAPE] if "--pretrained" in more else SMALL
    return cli.main(["run", str(csv), "--out", str(out), *small, *more])


def metrics(out):
    return (out / "report" / "metrics.json").read_bytes()


def stages_done(out):
    return {name: (out / name / "stage.json").stat().st_mtime_ns for name in STAGES}


def test_a_run_ends_with_a_report_and_says_its_accuracy_with_interval_and_n(csv, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(csv, out) == 0
    found = json.loads(metrics(out))
    low, high = found["model"]["accuracy_ci95"]
    assert low <= found["model"]["accuracy"] <= high
    assert found["model"]["n"] == 32
    assert (
        any("TF-IDF" in name for name in found["baselines"])
        and "majority class" in found["baselines"]
    )
    said = capsys.readouterr().out
    assert (
        "Estimate:" in said
        and "32 texts, with its 95 % interval" in said
        and "from random weights" in said
    )
    for file in (
        "report.html",
        "worst_errors.csv",
        "classification_report.txt",
        "predictions.csv",
    ):
        assert (out / "report" / file).stat().st_size
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["seed"] == 42 and record["versions"]["torch"]
    assert list(record["keys"]) == ["tokens", "lm", "classifier", "report"]


def test_the_report_counts_tested_texts_that_are_in_train_and_explains_the_surest_errors(
    csv, tmp_path
):
    table = pd.read_csv(csv).assign(split=["train", "train", "train", "valid", "test"] * 32)
    texts = table["review"].copy()
    # Of the tested texts 4 and 9 one is a training text word for word, the other but for capitals.
    table.loc[4, "review"], table.loc[9, "review"] = texts[0], texts[1].upper()
    table.to_csv(csv, index=False)
    assert run(csv, tmp_path / "run", "--split", "split") == 0
    predictions = pd.read_csv(tmp_path / "run" / "report" / "predictions.csv")
    assert predictions["copy_in_train"].tolist() == ["word for word", "nearly"] + ["no"] * 30
    alone = predictions[2:]
    right = int((alone["label"] == alone["predicted"]).sum())
    html = (tmp_path / "run" / "report" / "report.html").read_text("utf-8")
    assert "2 of 32 tested texts have a copy in train, 1 of them word for word" in html
    assert f"without them the accuracy is {right / 30:.1%} (" in html
    n_wrong = int((predictions["label"] != predictions["predicted"]).sum())
    assert html.count("to the log-odds of") >= min(n_wrong, N_EXPLAINED)
    found = json.loads(metrics(tmp_path / "run"))
    assert [part["n"] for part in found["slices"][-1]["parts"]] == [30, 1, 1]


def test_the_same_seed_gives_the_same_metrics_file_and_another_seed_another(csv, tmp_path):
    for name, more in {"a": [], "b": [], "c": ["--seed", "7"]}.items():
        assert run(csv, tmp_path / name, *more) == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")


def test_finished_stages_are_not_repeated_and_changed_settings_repeat_what_depends_on_them(
    csv, tmp_path
):
    out = tmp_path / "run"
    run(csv, out)
    first = stages_done(out)
    run(csv, out)
    assert stages_done(out) == first
    run(csv, out, "--classifier.weight-decay", "0.02")
    second = stages_done(out)
    assert {name for name in first if first[name] != second[name]} == {"classifier", "report"}
    run(csv, out, "--lm.lr-find", "--classifier.weight-decay", "0.02")
    third = stages_done(out)
    assert {name for name in first if second[name] != third[name]} == {
        "lm",
        "classifier",
        "report",
    }
    assert (out / "lm" / "lr_find.png").stat().st_size > 5_000
    assert not Path("models").exists(), "fastai's scratch folder"
    table = pd.read_csv(csv)
    table.loc[0, "review"] += " changed"
    table.to_csv(csv, index=False)
    run(csv, out, "--lm.lr-find", "--classifier.weight-decay", "0.02")
    assert all(stages_done(out)[name] != third[name] for name in third)


def test_a_run_killed_at_random_moments_ends_with_the_same_metrics(csv, tmp_path, monkeypatch):
    run(csv, tmp_path / "whole")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [
        sys.executable,
        "-m",
        "ulmfit_app",
        "run",
        str(csv),
        "--out",
        str(tmp_path / "killed"),
        *SMALL,
    ]
    rng = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        # Kill after the process has got past its imports and has begun to leave files.
        seen = set((tmp_path / "killed").rglob("*"))
        while (
            time.monotonic() < deadline
            and process.poll() is None
            and set((tmp_path / "killed").rglob("*")) == seen
        ):
            time.sleep(0.01)
        time.sleep(rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert not [
        path for path in (tmp_path / "killed").rglob("*.safetensors") if "checkpoint" in path.name
    ]


def test_one_stage_can_be_carried_out_again(csv, tmp_path):
    out = tmp_path / "run"
    run(csv, out)
    before, first = metrics(out), stages_done(out)
    assert cli.main(["report", str(out)]) == 0
    assert {name for name, when in stages_done(out).items() if when != first[name]} == {"report"}
    assert metrics(out) == before
    assert cli.main(["finetune", str(out)]) == 0


def test_a_stage_without_the_one_before_it_says_so(csv, tmp_path, capsys):
    out = tmp_path / "run"
    run(csv, out)
    (out / "lm" / "stage.json").unlink()
    assert cli.main(["classify", str(out)]) == 5
    assert "stage 'lm'" in capsys.readouterr().err


def test_minutes_fit_the_work_and_the_same_command_keeps_the_plan(tmp_path, capsys):
    csv, out = tmp_path / "many.csv", tmp_path / "run"
    reviews(3000).to_csv(csv, index=False)
    assert run(csv, out, "--minutes", "1.2") == 0
    first = json.loads((out / "run.json").read_text())["settings"]
    assert first["lm"]["max_tokens"] > 0 and first["classifier"]["max_tokens"] > 0
    done = stages_done(out)
    assert run(csv, out, "--minutes", "1.2") == 0
    assert json.loads((out / "run.json").read_text())["settings"] == first
    assert stages_done(out) == done


def test_minutes_keep_the_number_of_labels_that_was_asked_for(tmp_path):
    csv, out = tmp_path / "many.csv", tmp_path / "run"
    reviews(3000).to_csv(csv, index=False)
    assert run(csv, out, "--minutes", "1.2", "--max-train", "80") == 0
    found = json.loads(metrics(out))["facts"]["rows"]
    assert found["train"] == 80


def test_minutes_that_reach_for_nothing_are_refused(csv, tmp_path, capsys):
    assert run(csv, tmp_path / "run", "--minutes", "0.1") == 2
    assert "minutes are not enough" in capsys.readouterr().err


def test_a_full_disk_keeps_the_model_that_was_there(csv, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    run(csv, out)
    before = (
        cli.main(["predict", str(out), "a great film"]),
        capsys.readouterr().out.splitlines()[-1],
    )
    from ulmfit_app.models import bundle

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(bundle.Path, "write_bytes", full)
        assert cli.main(["classify", str(out)]) == 7
    assert "No space left" in capsys.readouterr().err
    assert run(csv, out) == 0
    assert (
        cli.main(["predict", str(out), "a great film"]),
        capsys.readouterr().out.splitlines()[-1],
    ) == before


def test_a_diverging_run_stops_with_its_own_exit_code_and_leaves_no_model(csv, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(csv, out, "--lm.random-lr", "1e38") == 6
    assert "--lm.grad-clip" in capsys.readouterr().err
    assert not (out / "lm" / "bundle.json").exists()
    assert run(csv, out) == 0


def test_predictions_come_for_texts_and_for_files(csv, tmp_path, capsys):
    out = tmp_path / "run"
    run(csv, out)
    capsys.readouterr()
    assert cli.main(["predict", str(out), "a great film", "", "ABAB" * 16_000 + "a"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 3 and all(line.split("\t")[0] in ("neg", "pos") for line in lines)
    assert "Empty texts: 1. Their predictions say nothing." in said.err
    files = ["--file", str(tmp_path / "review.csv"), "--out", str(csv)]
    assert (
        cli.main(["predict", str(out), *files]) == 3
        and f"Did you mean {csv}?" in capsys.readouterr().err
    )
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
    table = pd.read_csv(tmp_path / "p.csv")
    assert len(table) == 160 and np.allclose(table["p_neg"] + table["p_pos"], 1)


@pytest.fixture
def any_temperature(monkeypatch):
    """Validation texts as few as here are not enough for a temperature, which would stay 1."""
    monkeypatch.setattr(calibration, "SIGNIFICANT", 1.0)


def test_the_temperature_is_fitted_on_validation_alone_and_used_by_predict_and_by_the_report(
    csv, tmp_path, capsys, any_temperature
):
    out = tmp_path / "run"
    # Enough to learn something: a classifier that knows nothing has no temperature.
    run(csv, out, "--model.emb-sz", "24", "--model.n-hid", "32", "--classifier.epochs", "8")
    columns, folder = ["p_neg", "p_pos"], out / "classifier"
    rows = pd.read_csv(out / "data" / "selection.csv")
    validated = pd.read_csv(folder / VALIDATION)
    assert validated["row"].tolist() == rows["row"][rows["use"] == "valid"].tolist()
    temperature, _ = fit_temperature(
        validated[columns].to_numpy(), (validated["label"] == "pos").to_numpy(int)
    )
    assert temperature != 1 and load_bundle(
        folder, "classifier"
    ).decision.temperature == pytest.approx(temperature)
    found = json.loads(metrics(out))["calibration"]
    assert found["temperature"] == pytest.approx(temperature) and found["n_validation"] == len(
        validated
    )
    assert found["before"]["accuracy"] == found["after"]["accuracy"]
    predictions = pd.read_csv(out / "report" / "predictions.csv")
    predictor = Predictor(folder)
    before = predictor.each(predictor.store(predictions["text"]))["forward"]
    assert np.allclose(predictions[columns], tempered(before, temperature), atol=1e-6)
    predicted = predictor.predict(predictions["text"])
    assert np.allclose(predictions[columns], predicted[columns], atol=1e-6)
    assert (before.argmax(1) == predicted[columns].to_numpy().argmax(1)).all()


def test_probabilities_of_the_validation_split_that_were_deleted_come_back_with_the_report(
    csv, tmp_path
):
    out = tmp_path / "run"
    run(csv, out)
    now, done = metrics(out), stages_done(out)
    (out / "classifier" / VALIDATION).unlink()
    assert run(csv, out) == 0 and stages_done(out) == done
    assert cli.main(["predict", str(out), "a great film"]) == 0
    assert cli.main(["report", str(out)]) == 0
    assert metrics(out) == now and (out / "classifier" / VALIDATION).is_file()
    assert stages_done(out)["classifier"] == done["classifier"]


def test_damaged_probabilities_of_the_validation_split_are_told_with_the_command_that_writes_them(
    tmp_path,
):
    path = tmp_path / "run" / "classifier" / VALIDATION
    path.parent.mkdir(parents=True)
    for content in (
        "",
        "row,label\n1,neg\n",
        "row,label,p_neg,p_pos\n1,neg,0.9,0.9\n",
        "row,label,p_neg\n1,pos,1\n",
        "\0",
    ):
        path.write_text(content)
        with pytest.raises(
            RunFolderError,
            match="validation.csv: damaged.*Delete .*: python -m ulmfit_app report .*run$",
        ):
            read_validation([path.parent], 1)


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


def test_another_runs_language_model_is_a_start(csv, tmp_path, capsys):
    run(csv, tmp_path / "first")
    assert run(csv, tmp_path / "second", "--pretrained", str(tmp_path / "first" / "lm")) == 0
    said = capsys.readouterr().out
    assert (
        f"from the bundle {tmp_path / 'first' / 'lm'}, which started from random weights" in said
    )
    assert "The plan for a weak start" in said.rpartition("which started")[2], (
        "one small epoch is no strong start"
    )


def test_without_epochs_the_language_model_is_the_start_as_it_is(csv, tmp_path, capsys):
    run(csv, tmp_path / "first")
    start = ["--pretrained", str(tmp_path / "first" / "lm"), "--lm.epochs", "0"]
    assert run(csv, tmp_path / "second", *start) == 0
    first, second = (
        load_bundle(tmp_path / name / "lm", "language model") for name in ("first", "second")
    )
    known = np.isin(second.vocab, first.vocab)
    layers = [load_language_model(bundle)[0].rnns[0].state_dict() for bundle in (first, second)]
    assert known.all() and layers[0].keys() == layers[1].keys()
    assert all(torch.equal(tensor, layers[1][name]) for name, tensor in layers[0].items())
    facts = json.loads(metrics(tmp_path / "second"))["facts"]["language_model"]
    assert facts["epochs"] == 0 and facts["validation_perplexity"] == pytest.approx(
        first.about["perplexity"], rel=1e-3
    )


def small_settings(csv, **changes):
    data = DataSettings(source=str(csv), text="review", label="sentiment")
    return replace(
        TINY, data=data, model=ModelSettings(emb_sz=12, n_hid=16, n_layers=2), **changes
    )


def test_the_second_direction_changes_the_key_of_the_report_alone(csv):
    one, two = (
        plan_run(small_settings(csv, bidirectional=both)).record.keys for both in (False, True)
    )
    assert set(two) - set(one) == {"lm-backward", "classifier-backward"}
    assert {name for name in one if one[name] != two[name]} == {"report"}
    assert len(set(two.values())) == 6


def test_a_run_from_before_a_setting_was_there_keeps_its_plan_in_minutes(
    csv, tmp_path, monkeypatch
):
    rates = budget.Rates(1e-6, 1e-6, 1e-6, 1e-6, 1e-6)
    monkeypatch.setattr(plan, "measure_rates", lambda *_: rates)
    begin(tmp_path, small_settings(csv), minutes=5)
    record = json.loads((tmp_path / "run.json").read_text())
    for settings in (record["settings"], record["requested"]["settings"]):
        del settings["bidirectional"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr(plan, "measure_rates", lambda *_: pytest.fail("measured again"))
    again = begin(tmp_path, small_settings(csv), minutes=5).record.settings
    assert again.lm.max_tokens == record["settings"]["lm"]["max_tokens"]


def test_both_directions_are_measured_at_twice_the_time_of_one(csv, monkeypatch):
    monkeypatch.setattr(budget, "_time", lambda step, repeats=2: 1.0)
    texts, start = reviews(40)["review"], find_start("none", small_settings(csv).model)
    one, two = (
        budget.measure_rates(texts, start, small_settings(csv, bidirectional=both))
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


def test_another_data_set_is_not_trained_over_a_run(csv, tmp_path, capsys):
    run(csv, tmp_path / "run")
    before = stages_done(tmp_path / "run")
    other = tmp_path / "other.csv"
    reviews(160, seed=1).to_csv(other, index=False)
    assert run(other, tmp_path / "run") == 5
    assert "holds a run on" in capsys.readouterr().err
    assert stages_done(tmp_path / "run") == before


@pytest.mark.parametrize(
    "change", [{"settings": {}}, {"settings": {"lm": {"bogus": 1}}}, {"requested": None}, "cut"]
)
def test_a_config_that_was_changed_by_hand_is_refused(csv, tmp_path, capsys, change):
    out = tmp_path / "run"
    run(csv, out)
    config = json.loads((out / "run.json").read_text())
    if change == "cut":
        (out / "run.json").write_text(json.dumps(config)[:300])
    else:
        changed = {**config, **change}
        if changed["requested"] is None:
            del changed["requested"]
        (out / "run.json").write_text(json.dumps(changed))
    for verb in ("report", "predict"):
        assert cli.main([verb, str(out), *(["a text"] if verb == "predict" else [])]) == 5
        assert "damaged or was changed by hand" in capsys.readouterr().err


def test_a_run_is_taken_up_again_from_another_working_directory(csv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("reviews.csv", "run") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["report", str(tmp_path / "run")]) == 0


def test_a_start_that_was_named_by_a_relative_path_is_found_from_elsewhere(
    csv, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run(csv, "first") == 0
    assert run(csv, "second", "--pretrained", "first/lm") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["finetune", str(tmp_path / "second")]) == 0


def test_a_file_where_the_run_folder_should_be_is_told_before_any_work(csv, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert run(csv, tmp_path / "taken") == 5
    assert "is a file" in capsys.readouterr().err


def test_predictions_never_replace_the_file_they_are_of(csv, tmp_path, capsys):
    out = tmp_path / "run"
    run(csv, out)
    before = csv.read_bytes()
    for target in (csv, tmp_path):
        assert (
            cli.main(
                ["predict", str(out), "--file", str(csv), "--text", "review", "--out", str(target)]
            )
            == 2
        )
    assert csv.read_bytes() == before


def test_two_hundred_classes_and_labels_as_numbers(tmp_path):
    rng = random.Random(1)
    rows = [
        (f"word{c} and {rng.choice('abcdef')} again word{c} {i}", c)
        for c in range(200)
        for i in range(5)
    ]
    pd.DataFrame(rows, columns=["review", "sentiment"]).to_csv(tmp_path / "many.csv", index=False)
    assert (
        run(tmp_path / "many.csv", tmp_path / "run", "--max-train", "600", "--max-valid", "200")
        == 0
    )
    found = json.loads(metrics(tmp_path / "run"))
    assert list(found["model"]["per_class"])[:3] == ["0", "1", "2"]
    assert len(found["model"]["per_class"]) == 200


def test_where_time_bounds_the_labels_a_strong_start_reads_each_once(csv):
    settings = small_settings(csv)
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
