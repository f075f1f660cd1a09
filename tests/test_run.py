"""The whole way, on a small CSV: what is repeated, what goes on, what a user sees."""

import errno
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import keep_run, reviews
from tests.killing import change_until_killed
from tests.small_runs import SMALL, metrics, run, stages_done, two_layers
from ulmfit_app import __main__ as cli
from ulmfit_app.errors import RunFolderError
from ulmfit_app.evaluation import calibration
from ulmfit_app.evaluation.calibration import fit_temperature, tempered
from ulmfit_app.inference.predictor import (
    Predictor,
    read_validation,
)
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.pipeline import budget, plan
from ulmfit_app.pipeline.report import N_EXPLAINED
from ulmfit_app.pipeline.run import begin
from ulmfit_app.run_folder import VALIDATION

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


def test_the_same_seed_gives_the_same_metrics_file_and_another_seed_another(done, tmp_path):
    csv, out = done
    for name, more in {"b": [], "c": ["--seed", "7"]}.items():
        assert run(csv, tmp_path / name, *more) == 0
    assert metrics(out) == metrics(tmp_path / "b")
    assert metrics(out) != metrics(tmp_path / "c")


def test_finished_stages_are_not_repeated_and_changed_settings_repeat_what_depends_on_them(
    done,
):
    csv, out = done
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_run_killed_at_random_moments_ends_with_the_same_metrics(done, tmp_path):
    csv, whole = done
    killed, rehearsal = tmp_path / "killed", tmp_path / "rehearsal"
    n_changes = change_until_killed(lambda: run(csv, rehearsal), -1)
    assert metrics(rehearsal) == metrics(whole)
    rng = random.Random(0)
    for _ in range(3):
        moment, delay = rng.randrange(n_changes // 2), rng.uniform(1e-6, 5e-3)
        change_until_killed(lambda: run(csv, killed), moment, delay)
    command = [sys.executable, "-m", "ulmfit_app", "run", str(csv), "--out", str(killed), *SMALL]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert metrics(killed) == metrics(whole)
    assert not [path for path in killed.rglob("*.safetensors") if "checkpoint" in path.name]


def test_one_stage_can_be_carried_out_again(done):
    _, out = done
    before, first = metrics(out), stages_done(out)
    assert cli.main(["report", str(out)]) == 0
    assert {name for name, when in stages_done(out).items() if when != first[name]} == {"report"}
    assert metrics(out) == before
    assert cli.main(["finetune", str(out)]) == 0


def test_a_stage_without_the_one_before_it_says_so(done, capsys):
    _, out = done
    (out / "lm" / "stage.json").unlink()
    assert cli.main(["classify", str(out)]) == 5
    assert "stage 'lm'" in capsys.readouterr().err


@pytest.fixture
def five_times_slower(monkeypatch):
    """A machine that trains so much slower than this one is planned for: it takes seconds."""
    real = plan.measure_rates

    def slower(*arguments):
        found = real(*arguments)
        return replace(
            found,
            lm_training=5 * found.lm_training,
            classifier_training=5 * found.classifier_training,
        )

    monkeypatch.setattr(plan, "measure_rates", slower)


@pytest.mark.usefixtures("five_times_slower")
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


@pytest.mark.usefixtures("five_times_slower")
def test_minutes_keep_the_number_of_labels_that_was_asked_for(tmp_path):
    csv, out = tmp_path / "many.csv", tmp_path / "run"
    reviews(3000).to_csv(csv, index=False)
    assert run(csv, out, "--minutes", "1.2", "--max-train", "80") == 0
    found = json.loads(metrics(out))["facts"]["rows"]
    assert found["train"] == 80


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "1e400", "1000001"])
def test_minutes_that_are_no_time_are_refused(csv, tmp_path, capsys, minutes):
    assert run(csv, tmp_path / "run", "--minutes", minutes) == 2
    said = "--minutes must be more than 0 and at most 1,000,000, not "
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_minutes_that_reach_for_nothing_are_refused(csv, tmp_path, capsys):
    assert run(csv, tmp_path / "run", "--minutes", "0.1") == 2
    assert "minutes are not enough" in capsys.readouterr().err


def test_a_full_disk_keeps_the_model_that_was_there(done, capsys, monkeypatch):
    csv, out = done
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


def test_predictions_come_for_texts_and_for_files(done, tmp_path, capsys):
    csv, out = done
    assert cli.main(["predict", str(out), "a great film", "", "ABAB" * 16_000 + "a"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 3 and all(line.split("\t")[0] in ("neg", "pos") for line in lines)
    assert "Empty texts: 1. Their predictions say nothing." in said.err
    files = ["--file", str(csv.with_name("review.csv")), "--out", str(csv)]
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
    done,
):
    csv, out = done
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


def test_a_run_from_before_a_setting_was_there_keeps_its_plan_in_minutes(
    csv, tmp_path, monkeypatch
):
    rates = budget.Rates(1e-6, 1e-6, 1e-6, 1e-6, 1e-6)
    monkeypatch.setattr(plan, "measure_rates", lambda *_: rates)
    begin(tmp_path, two_layers(csv), minutes=5)
    record = json.loads((tmp_path / "run.json").read_text())
    for settings in (record["settings"], record["requested"]["settings"]):
        del settings["bidirectional"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    monkeypatch.setattr(plan, "measure_rates", lambda *_: pytest.fail("measured again"))
    again = begin(tmp_path, two_layers(csv), minutes=5).record.settings
    assert again.lm.max_tokens == record["settings"]["lm"]["max_tokens"]


def test_another_data_set_is_not_trained_over_a_run(done, tmp_path, capsys):
    _, out = done
    before = stages_done(out)
    other = tmp_path / "other.csv"
    reviews(160, seed=1).to_csv(other, index=False)
    assert run(other, out) == 5
    assert "holds a run on" in capsys.readouterr().err
    assert stages_done(out) == before


@pytest.mark.parametrize(
    "change", [{"settings": {}}, {"settings": {"lm": {"bogus": 1}}}, {"requested": None}, "cut"]
)
def test_a_config_that_was_changed_by_hand_is_refused(done, capsys, change):
    _, out = done
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


def test_a_file_where_the_run_folder_should_be_is_told_before_any_work(csv, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert run(csv, tmp_path / "taken") == 5
    assert "is a file" in capsys.readouterr().err


def test_predictions_never_replace_the_file_they_are_of(done, tmp_path):
    csv, out = done
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
