"""Runs that go on from a run with new texts: what they are, and that nothing is lost."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch

from data_scripts.files import sha256_of
from tests.conftest import reviews, small_settings
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings, UpdateSettings
from ulmfit_app.errors import RunFolderError
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.pipeline import run as pipeline
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.pipeline.updating import begin_update
from ulmfit_app.text.rules import FAKE

SPLITS = ["train"] * 60 + ["valid"] * 20 + ["test"] * 20
STILL = ("--lm-epochs", "0", "--lr", "1e-12")  # nothing is learned


def settings_of(csv, **others):
    settings = small_settings(csv)
    return replace(
        settings,
        data=replace(settings.data, split="split"),
        lm=replace(settings.lm, epochs=1, pretrained="none"),
        classifier=replace(settings.classifier, epochs=6),
        precision="fp32",
        **others,
    )


def new_reviews(n=40, seed=1):
    """Made reviews with words that the old ones lack."""
    table = reviews(n, seed)
    table["review"] = table["review"].str.replace("film", "gadget") + " gadget battery"
    return table


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A CSV, a run on it without a report, and new.csv."""
    root = tmp_path_factory.mktemp("updating")
    table = reviews(len(SPLITS))
    table["split"] = SPLITS
    table.to_csv(root / "reviews.csv", index=False)
    new_reviews().to_csv(root / "new.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        torch.set_num_threads(1)
        begin(root / "run", settings_of(root / "reviews.csv")).carry_out("classifier")
    return root


@pytest.fixture
def copies(root, tmp_path):
    """The same in a folder that may be changed."""
    shutil.copytree(root, tmp_path / "root")
    return tmp_path / "root"


def update(*words):
    return cli.main(["update", *map(str, words)])


def refused(capsys, code, *words):
    """What an update says that ends with an error."""
    assert update(*words) == code
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and said.count("\n") == 1
    return said


def begun(root, out, **how):
    new = DataSettings(source=str(root / "new.csv"))
    return begin_update(root / "run", out, new, UpdateSettings(**how), 1)


def files(folder):
    return {path: sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def metrics_of(run):
    return json.loads((run / "report" / "metrics.json").read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------------- what it is
def test_an_update_is_a_run_like_any_other_and_its_parent_stays_as_it_was(root, tmp_path, capsys):
    out, before = tmp_path / "updated", files(root)
    assert update(root / "run", root / "new.csv", "--out", out) == 0
    assert files(root) == before
    run = Run.open(out)
    assert run.record.parent.run == str(root / "run")
    table = run.corpus.table
    pd.testing.assert_frame_equal(
        table.drop(columns="update").iloc[:100], Run.open(root / "run").corpus.table
    )
    assert table["update"].tolist() == ["0"] * 100 + ["1"] * 40
    found = metrics_of(out)["update"]
    assert found["parent"] == "run" and found["number"] == 1
    n_new = int((table["split"].eq("train") & table["update"].eq("1")).sum())
    assert found["learned"] == {"new": n_new, "old": n_new // 2}
    read = run.rows["read"]
    assert read.sum() == n_new and (run.column("update")[read] == "1").all()
    assert found["old"]["n"] == 20 and found["new"]["n"] == 8
    assert found["new_words"] == 2
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Update</h2>" in page and "training of its parent" in page
    assert cli.main(["predict", str(out), "a great gadget"]) == 0
    assert cli.main(["report", str(out)]) == 0
    capsys.readouterr()
    assert update(root / "run", root / "new.csv", "--out", out) == 0
    assert capsys.readouterr().out.count("finished before, not repeated") == 4


def test_an_update_that_learns_nothing_answers_as_its_parent(root, tmp_path):
    out = tmp_path / "updated"
    assert update(root / "run", root / "new.csv", "--out", out, *STILL) == 0
    texts = Run.open(root / "run").corpus.texts("test")
    old, new = (load_predictor(folder, "fp32") for folder in (root / "run", out))
    before, after = (each.probabilities(each.store(texts)) for each in (old, new))
    assert abs(before - after).max() < 0.02  # temperatures are fitted on other texts
    assert (before.argmax(1) == after.argmax(1)).all()
    found = metrics_of(out)["update"]
    assert found["forgetting"] == {
        "points": 0.0, "points_ci95": found["forgetting"]["points_ci95"], "lost": 0, "gained": 0,
        "p_value": 1.0,
    }  # fmt: skip


def test_words_of_the_parent_keep_their_ids_and_new_ones_stand_behind(root, tmp_path):
    run = begun(root, tmp_path / "updated")
    run.carry_out("classifier")
    before, after = (
        load_bundle(each / "classifier", "classifier").vocab for each in (root / "run", run.folder)
    )
    n = len(before) - before.count(FAKE)
    assert after[:n] == before[:n]
    assert {"gadget", "battery"} == {*after[n:]} - {FAKE}


def test_the_report_tells_how_the_parent_does_on_the_old_test_split(root, tmp_path):
    shutil.copytree(root / "run", tmp_path / "run")
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    out = tmp_path / "updated"
    assert update(tmp_path / "run", root / "new.csv", "--out", out) == 0
    found = metrics_of(out)["update"]
    own = metrics_of(tmp_path / "run")["model"]
    assert found["old"]["parent"]["accuracy"] == own["accuracy"]
    assert found["old"]["parent"]["accuracy_ci95"] == own["accuracy_ci95"]


def test_replay_is_so_many_old_training_texts_for_each_new_one(root, tmp_path):
    for replay, expected in ((0.0, 0), (0.5, 14), (100.0, 60)):
        run = begun(root, tmp_path / f"{replay}", replay=replay)
        newest = run.column("update") == "1"
        trained = run.rows["split"] == "train"
        assert (trained & newest).sum() == 28 and (trained & ~newest).sum() == expected
        labels = run.rows.loc[trained & ~newest, "label"].value_counts()
        assert labels.nunique() <= 1  # stratified: half of each
        others = run.rows.loc[~newest, "split"].value_counts()
        assert others["valid"] == 20 and others["test"] == 20


def test_a_pull_keeps_weights_nearer_to_those_of_the_parent(root, tmp_path):
    distances = []
    for pull in (0.0, 1e6):
        run = begun(root, tmp_path / f"{pull}", pull=pull)
        run.carry_out("classifier")
        assert run.record.settings.classifier.weight_decay == (0.0 if pull else 0.01)
        old, new = (
            load_predictor(each, "fp32")._model.state_dict() for each in (root / "run", run.folder)
        )
        name = "0.module.rnns.0.module.weight_hh_l0"
        name = next(each for each in old if "weight_hh_l0" in each)
        distances.append((old[name] - new[name]).abs().max().item())
    assert distances[1] < 1e-6 < distances[0]


def test_new_texts_with_one_label_alone_are_enough(root, tmp_path):
    table = new_reviews()
    table[table["sentiment"] == "pos"].to_csv(tmp_path / "new.csv", index=False)
    new = DataSettings(source=str(tmp_path / "new.csv"))
    run = begin_update(root / "run", tmp_path / "updated", new, UpdateSettings(), 0)
    assert run.record.data.labels == ["neg", "pos"]


def test_what_a_server_collected_is_a_valid_file_of_new_texts(root, tmp_path):
    rows = [
        {"text": text, "label": label, "predicted": "neg", "confidence": 0.5, "model": "m",
         "time": "2026-11-26T10:00:00.123Z"}
        for text, label in new_reviews().itertuples(index=False)
    ]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "feedback.jsonl").write_text(lines, encoding="utf-8")
    new = DataSettings(source=str(tmp_path / "feedback.jsonl"))
    run = begin_update(root / "run", tmp_path / "updated", new, UpdateSettings(), 0)
    assert run.record.counts["train"] == 42


def test_few_new_texts_are_enough_for_the_language_model(root, tmp_path):
    """Fewer tokens than texts stand side by side in a batch of it."""
    table = new_reviews(12)
    table["review"] = [f"gadget {word}" for word in "abcdefghijkl"]
    table.to_csv(tmp_path / "new.csv", index=False)
    parent = Run.open(root / "run").record.settings
    assert parent.lm.batch_size == 4
    new = DataSettings(source=str(tmp_path / "new.csv"))
    run = begin_update(root / "run", tmp_path / "updated", new, UpdateSettings(), 1)
    large = replace(run.record.settings, lm=replace(parent.lm, batch_size=64))
    run = Run(run.folder, replace(run.record, settings=large), run.folder)
    run.carry_out("lm")
    assert len(pd.read_csv(run.folder / "lm" / "history.csv")) == 1


def test_a_new_label_is_refused_or_learned(root, tmp_path, capsys):
    table = new_reviews()
    table.loc[::3, "sentiment"] = "mixed"
    table.to_csv(tmp_path / "new.csv", index=False)
    words = root / "run", tmp_path / "new.csv", "--out", tmp_path / "updated"
    said = refused(capsys, 2, *words)
    assert "has 1 label that" in said and "'mixed'" in said and "--new-labels" in said
    assert not (tmp_path / "updated").exists()
    assert update(*words, "--new-labels") == 0
    bundle = load_bundle(tmp_path / "updated" / "classifier", "classifier")
    assert bundle.labels == ["mixed", "neg", "pos"]
    found = metrics_of(tmp_path / "updated")
    assert found["update"]["new_labels"] == ["mixed"]
    assert list(found["model"]["per_class"]) == ["mixed", "neg", "pos"]
    history = pd.read_csv(tmp_path / "updated" / "classifier" / "history.csv")
    assert history["phase"].tolist() == ["head", "all groups"]


def test_an_update_of_an_update_goes_on_from_that_one(root, tmp_path):
    first = begun(root, tmp_path / "first")
    first.carry_out("classifier")
    new_reviews(40, seed=2).to_csv(tmp_path / "newer.csv", index=False)
    out = tmp_path / "second"
    assert update(first.folder, tmp_path / "newer.csv", "--out", out) == 0
    run = Run.open(out)
    assert run.corpus.table["update"].value_counts().to_dict() == {"0": 100, "1": 40, "2": 40}
    assert run.record.parent.recipe == first.record.parent.recipe
    found = metrics_of(out)["update"]
    assert found["number"] == 2 and found["parent"] == "first"
    assert found["old"]["n"] == 28 and found["new"]["n"] == 8


def test_beside_it_the_same_can_be_trained_from_the_start(root, tmp_path, capsys):
    out = tmp_path / "updated"
    assert update(root / "run", root / "new.csv", "--out", out, "--retrain") == 0
    retrained = Run.open(out / "retrained")
    assert retrained.record.parent is None
    assert retrained.record.settings.classifier == settings_of("x").classifier
    assert retrained.record.counts == {"train": 88, "valid": 24, "test": 28}
    found, own = metrics_of(out)["update"], metrics_of(out / "retrained")["model"]
    n_right = sum(found[of]["retrained"]["accuracy"] * found[of]["n"] for of in ("old", "new"))
    assert n_right == pytest.approx(own["accuracy"] * own["n"])
    page = (out / "report" / "report.html").read_text(encoding="utf-8")
    assert "trained from the start" in page and "training from the start" in page
    # A report that was there before is made again, with what can be compared now.
    other = tmp_path / "other"
    assert update(root / "run", root / "new.csv", "--out", other) == 0
    assert "retrained" not in metrics_of(other)["update"]["old"]
    assert update(root / "run", root / "new.csv", "--out", other, "--retrain") == 0
    assert "retrained" in metrics_of(other)["update"]["old"]


# ----------------------------------------------------------------------- nothing is lost or mixed
@pytest.mark.parametrize("stage", ["make_tokens", "finetune", "classify", "make_report"])
def test_after_an_interruption_it_goes_on_without_its_parent_and_the_new_file(
    root, copies, tmp_path, monkeypatch, stage
):
    def stop(*_):
        raise KeyboardInterrupt

    words = copies / "run", copies / "new.csv", "--out", tmp_path / "updated"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, stage, stop)
        assert update(*words) == cli.INTERRUPTED
    shutil.rmtree(copies)
    assert update(*words) == 0
    whole = begun(root, tmp_path / "whole")
    whole.carry_out("classifier")
    weights = (
        next((each / "classifier").glob("weights-*")).name
        for each in (tmp_path / "updated", whole.folder)
    )
    assert len({*weights}) == 1


def test_a_parent_may_move_and_nothing_is_made_again(copies, tmp_path, capsys):
    out = tmp_path / "updated"
    assert update(copies / "run", copies / "new.csv", "--out", out) == 0
    (copies / "run").rename(copies / "moved")
    capsys.readouterr()
    assert update(copies / "moved", copies / "new.csv", "--out", out) == 0
    assert capsys.readouterr().out.count("finished before, not repeated") == 4
    assert cli.main(["classify", str(out)]) == 0 and cli.main(["report", str(out)]) == 0


def test_a_whole_updated_run_may_move(root, tmp_path):
    run = begun(root, tmp_path / "updated")
    run.carry_out("lm")
    run.folder.rename(tmp_path / "moved")
    Run.open(tmp_path / "moved").carry_out()
    assert metrics_of(tmp_path / "moved")["update"]["parent"] == "run"


def test_the_kept_parent_does_not_change_when_the_parent_is_trained_again(copies, tmp_path):
    run = begun(copies, tmp_path / "updated")
    kept = files(run.folder / "parent")
    assert {path.parent.name for path in kept} == {"lm", "classifier"}
    settings = settings_of(copies / "reviews.csv", seed=7)
    shutil.rmtree(copies / "run" / "classifier")
    again = Run.open(copies / "run")
    begin(copies / "run", settings).carry_out("classifier")
    assert again and files(run.folder / "parent") == kept


def test_an_update_of_a_parent_that_was_trained_again_is_refused(copies, tmp_path, capsys):
    out = tmp_path / "updated"
    run = begun(copies, out)
    run.carry_out("tokens")
    begin(copies / "run", settings_of(copies / "reviews.csv", seed=7)).carry_out("classifier")
    with pytest.raises(RunFolderError) as error:
        begun(copies, out)
    assert str(error.value) == (
        f"{copies / 'run'} was trained again since {out} went on from it; it is left as it is. "
        f"Update into another folder: --out {out}-2"
    )
    assert Run.open(out).record == run.record


def test_an_altered_model_of_the_parent_is_refused(copies, tmp_path, capsys):
    weights = next((copies / "run" / "classifier").glob("weights-*"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    said = refused(capsys, 4, copies / "run", copies / "new.csv", "--out", tmp_path / "updated")
    assert "was altered or damaged" in said
    assert not (tmp_path / "updated").exists()


def test_other_settings_replace_what_depends_on_them_alone(root, tmp_path, capsys):
    out = tmp_path / "updated"
    begun(root, out).carry_out("classifier")
    capsys.readouterr()
    run = begun(root, out, task_vector=0.5)
    assert [name for name in run.stages if not run.is_finished(name)] == ["classifier", "report"]
    run = begun(root, out, pull=1.0)
    assert [name for name in run.stages if not run.is_finished(name)] == [
        "lm", "classifier", "report",
    ]  # fmt: skip
    run.carry_out("classifier")
    assert Run.open(out).record.settings.update.pull == 1.0


def test_a_changed_file_of_new_texts_is_read_again(copies, tmp_path):
    out = tmp_path / "updated"
    assert begun(copies, out).record.counts["train"] == 42
    new_reviews(60).to_csv(copies / "new.csv", index=False)
    assert begun(copies, out).record.counts["train"] > 42


def test_an_update_takes_no_other_runs_place(root, tmp_path, capsys):
    table = reviews(60, seed=3)
    table.to_csv(tmp_path / "other.csv", index=False)
    begin(tmp_path / "other", settings_of(root / "reviews.csv"))
    said = refused(capsys, 5, root / "run", root / "new.csv", "--out", tmp_path / "other")
    assert "holds a run of its own, and what is asked for is another kind of run" in said
    for out in (root / "run", root / "run" / "inside"):
        said = refused(capsys, 2, root / "run", root / "new.csv", "--out", out)
        assert "an update needs one of its own" in said


def test_a_run_without_a_classifier_is_refused(copies, tmp_path, capsys):
    shutil.rmtree(copies / "run" / "classifier")
    said = refused(capsys, 5, copies / "run", copies / "new.csv", "--out", tmp_path / "updated")
    assert "has no finished classifier to go on from" in said
    said = refused(capsys, 5, copies / "nothing", copies / "new.csv", "--out", tmp_path / "x")
    assert "No run in" in said
