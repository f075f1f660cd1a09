"""Runs that learn from a run on its own texts: what pruning leaves, and self-training."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import reviews, small_settings
from tests.tiny_transformers import make_checkpoint
from ulmfit_app import __main__ as cli
from ulmfit_app.cli import teaching
from ulmfit_app.config import DistillationSettings, ModelSettings
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models.bundle import load_bundle, save_decision
from ulmfit_app.pipeline import pupils, stages
from ulmfit_app.pipeline import run as pipeline
from ulmfit_app.pipeline.pupils import prune_run, self_train
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.run_folder import TEACHER

pytestmark = pytest.mark.usefixtures("undrawn")

SPLITS = ["train"] * 40 + ["valid"] * 20 + ["test"] * 20 + ["unlabelled"] * 30


def settings_of(csv, start="none", **classifier):
    settings = small_settings(csv)
    how = {"epochs": 1, "plan": "full", **classifier}
    return replace(
        settings,
        data=replace(settings.data, split="split"),
        lm=replace(settings.lm, epochs=0, pretrained=str(start)),
        classifier=replace(settings.classifier, **how),
        precision="fp32",
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A CSV, and a run on it without a report."""
    root = tmp_path_factory.mktemp("pupils")
    table = reviews(len(SPLITS))
    table["split"] = SPLITS
    table.loc[table["split"] == "unlabelled", "sentiment"] = ""
    table.to_csv(root / "reviews.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        torch.set_num_threads(1)
        begin(root / "run", settings_of(root / "reviews.csv")).carry_out("classifier")
    return root


@pytest.fixture(scope="module")
def bert(root, tmp_path_factory):
    """A run on the same texts from a tiny BERT."""
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        torch.set_num_threads(1)
        texts = pd.read_csv(root / "reviews.csv")["review"].tolist()
        checkpoint = make_checkpoint(root / "checkpoint", "bert", texts)
        settings = settings_of(root / "reviews.csv", checkpoint)
        begin(root / "bert", settings).carry_out("classifier")
    return root / "bert"


def marks(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("stage.json"))}


def refused(command, capsys, code):
    """What a command says that ends with an error."""
    assert cli.main(list(map(str, command))) == code
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and said.count("\n") == 1
    return said


# ------------------------------------------------------------------------------------------ pruned
def test_a_pruned_run_has_half_the_units_the_same_words_and_a_report(root, tmp_path, capsys):
    out = tmp_path / "small"
    before = marks(root / "run")
    assert cli.main(["prune", str(root / "run"), "--out", str(out)]) == 0
    whole, left = (load_bundle(each / "classifier", "classifier") for each in (root / "run", out))
    assert whole.shape == ModelSettings(12, 16, 3) and left.shape == replace(whole.shape, n_hid=8)
    assert left.vocab == whole.vocab and left.labels == whole.labels
    assert left.about["teachers"] == ["run"]
    assert (out / "report" / "report.html").is_file()
    metrics = json.loads((out / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["facts"]["classifier_layers"] == {"units": 8}
    assert "asking teachers" in (out / "report" / "report.html").read_text(encoding="utf-8")
    assert pd.read_csv(out / "classifier" / "history.csv")["epoch"].tolist() == [1]
    assert marks(root / "run") == before and not (root / "run" / "report").exists()
    assert cli.main(["predict", str(out), "a great film"]) == 0
    assert cli.main(["prune", str(root / "run"), "--out", str(out)]) == 0
    assert "Stage report: finished before, not repeated." in capsys.readouterr().out


def test_a_pruned_classifier_begins_with_what_is_left_of_its_teachers(root, tmp_path, monkeypatch):
    begun, real = {}, stages.classifier.make_learner

    def keep(*arguments):
        learn = real(*arguments)
        begun.update({name: each.clone() for name, each in learn.model.state_dict().items()})
        return learn

    monkeypatch.setattr(stages.classifier, "make_learner", keep)
    prune_run(root / "run", tmp_path / "run", 0.1).carry_out("classifier")
    assert load_bundle(tmp_path / "run" / "classifier", "classifier").shape.n_hid == 14
    whole = load_file(next((root / "run" / "classifier").glob("weights-*")))
    same = {name for name in whole if torch.equal(whole[name], begun[name].cpu())}
    assert "0.module.encoder.weight" in same and sum(name.startswith("1.") for name in same) > 5
    assert all(name in same for name in whole if whole[name].shape == begun[name].shape)


def test_a_transformer_is_pruned_into_a_run_too(bert, tmp_path):
    run = prune_run(bert, tmp_path / "small", 0.5)
    run.carry_out("classifier")
    whole, left = (
        load_bundle(each / "classifier", "classifier").shape for each in (bert, run.folder)
    )
    assert whole.model["intermediate_size"] == 64 and left.model["intermediate_size"] == 32
    assert left.heads == 1
    predictor = load_predictor(run.folder, "fp32")
    probabilities = predictor.probabilities(predictor.store(["a great film"]))
    assert probabilities.sum() == pytest.approx(1)


def test_of_a_teacher_that_was_trained_again_nothing_is_pruned_in_silence(root, tmp_path):
    """`classify RUN` reads the teacher's weights once more."""
    own = tmp_path / "own"
    shutil.copytree(root / "run", own)
    run = prune_run(own, tmp_path / "small", 0.5)
    assert run.record.selection_notes[1] == (
        "It begins as the teacher's own classifier without 50% of the units of each layer."
    )
    run.carry_out("classifier")
    save_decision(own / "classifier", Decision(temperatures=(3.0,)))
    with pytest.raises(RunFolderError, match=f"The teacher {own} was trained again since this"):
        run.repeat("classifier")
    shutil.rmtree(own)
    with pytest.raises(RunFolderError, match=f"No run in {own}"):
        run.repeat("classifier")
    assert run.is_finished("classifier"), "the old result stays"


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 0.999, 0.001])
def test_a_share_that_removes_nothing_or_all_is_told_before_anything_is_made(
    root, tmp_path, capsys, share
):
    out = tmp_path / "small"
    said = refused(["prune", root / "run", "--share", share, "--out", out], capsys, 2)
    assert f"--share {share:g}" in said or "--share must be more than 0 and less than 1" in said
    assert not out.exists()


def test_a_run_without_a_finished_classifier_is_not_pruned(root, tmp_path, capsys):
    begun = tmp_path / "begun"
    shutil.copytree(root / "run", begun)
    (begun / "classifier" / "stage.json").unlink()
    for verb in ("prune", "selftrain"):
        said = refused([verb, begun, "--out", tmp_path / "out"], capsys, 5)
        assert f"The run in {begun} has no finished classifier to learn from. To make it" in said
        said = refused([verb, tmp_path / "none", "--out", tmp_path / "out"], capsys, 5)
        assert f"No run in {tmp_path / 'none'}" in said
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_replaced_by_what_is_left_of_it(root, capsys):
    before = (root / "run" / "run.json").read_bytes()
    said = refused(["prune", root / "run", "--out", root / "run"], capsys, 2)
    assert "is the folder of the teacher, or inside it" in said
    assert (root / "run" / "run.json").read_bytes() == before


def test_what_was_planned_without_pruning_leaves_no_tokens_to_a_pruned_run(root, tmp_path):
    """Which have words that the teacher does not know."""
    folder, run = tmp_path / "run", Run.open(root / "run")
    lm = replace(run.record.settings.lm, pretrained=str(root / "run"))
    taught = DistillationSettings((str(root / "run"),))
    tokens = replace(run.record.settings.tokens, min_freq=1)
    other = replace(run.record.settings, lm=lm, distillation=taught, tokens=tokens)
    planned = begin(tmp_path / "other", other)
    pruned = begin(folder, replace(other, distillation=replace(taught, pruned=0.5)))
    assert planned.record.keys["tokens"] != pruned.record.keys["tokens"]
    pruned.carry_out("classifier")
    bundles = [load_bundle(each / "classifier", "classifier") for each in (root / "run", folder)]
    assert bundles[0].vocab == bundles[1].vocab


@pytest.mark.parametrize("verb", ["prune", "selftrain"])
def test_the_new_runs_lie_beside_the_run_also_where_it_is_called_by_a_dot(
    root, tmp_path, monkeypatch, verb
):
    asked = []

    def self_train(run, out, rounds):
        asked.append(out)
        return [pupils.Round(run, np.ones(1, bool))]

    monkeypatch.chdir(root / "run")
    monkeypatch.setattr(pupils, "prune_run", lambda run, out, share: asked.append(out))
    monkeypatch.setattr(pupils, "self_train", self_train)
    monkeypatch.setattr(teaching, "carry_out", lambda job: None)
    assert cli.main([verb, "."]) == 0
    ending = {"prune": "pruned-50", "selftrain": "selftrained"}[verb]
    assert asked == [root.resolve() / f"run-{ending}"]
    assert cli.main([verb, "../run"]) == 0
    assert str(asked[1]) == f"../run-{ending}"


# ----------------------------------------------------------------------------------- architectures
def test_a_transformer_teaches_an_awd_lstm_that_reads_in_two_directions(root, bert, tmp_path):
    settings = settings_of(root / "reviews.csv")
    taught = DistillationSettings((str(bert),), states_weight=1.0)
    run = begin(tmp_path / "run", replace(settings, bidirectional=True, distillation=taught))
    run.carry_out("classifier")
    found = pd.read_csv(run.folder / TEACHER / "probabilities.csv")
    predictor = load_predictor(bert, "fp32")
    texts = run.rows.loc[run.rows["learned"], "text"].tolist()
    expected = predictor.probabilities(predictor.store(texts))
    assert np.allclose(found[["p_neg", "p_pos"]], expected, atol=1e-5)
    for name in ("classifier", "classifier-backward"):
        assert load_bundle(run.folder / name, "classifier").about["teachers"] == ["bert"]
    both = load_predictor(run.folder, "fp32")
    store = both.store(texts[:9])
    states = both.states(store)
    assert states.shape == (9, 2 * 36)
    alone = np.concatenate([both.states(both.store([text])) for text in texts[:9]])
    assert np.allclose(states, alone, atol=1e-5) and len(set(store.lengths())) > 5
    backward = load_predictor(run.folder, "fp32").backward
    assert np.allclose(states[:, 36:], backward.states(store.backward()), atol=1e-6)


# ----------------------------------------------------------------------------------- self-training
@pytest.fixture
def scripted(monkeypatch):
    """Validation texts that runs label rightly, by the names of their folders, of 20."""
    numbers = {}

    def read(folders, n_texts):
        assert n_texts == 20
        truth = np.zeros(20, int)
        right = np.arange(20) < numbers[folders[0].parent.name]
        return np.stack([right, ~right], 1).astype(float), truth

    monkeypatch.setattr(pupils, "read_validation", read)
    monkeypatch.setattr(pupils, "CONFIDENCE", 0.5)  # so small a run is surer of nothing
    return numbers


def test_it_ends_where_validation_gets_worse_and_the_best_round_alone_has_a_report(
    root, tmp_path, capsys, monkeypatch, scripted
):
    scripted |= {"run": 10, "round-1": 14, "round-2": 12}
    reported = []
    monkeypatch.setattr(teaching, "carry_out", lambda job: reported.append(job.folder))
    out = tmp_path / "rounds"
    assert cli.main(["selftrain", str(root / "run"), "--out", str(out), "--rounds", "4"]) == 0
    assert reported == [out / "round-1"]
    assert sorted(path.name for path in out.iterdir()) == ["round-1", "round-2"]
    assert not list(out.rglob("report")) and not (root / "run" / "report").exists()
    said = capsys.readouterr().out
    assert f"{root / 'run'}: 50.0% (" in said and "on n = 20 validation texts." in said
    assert f"{out / 'round-1'}: 70.0% (" in said
    assert "against the best before it p = 0.12" in said
    assert f"The best by its validation split is {out / 'round-1'}; its test split is" in said

    first, second = (Run.open(out / f"round-{n}") for n in (1, 2))
    assert [each.record.teachers[0].run for each in (first, second)] == [
        *(str(root / "run"), str(out / "round-1"))
    ]
    how = first.record.settings.distillation
    assert (how.temperature, how.hard_weight, how.confidence) == (1.0, 1.0, pupils.CONFIDENCE)
    assert "those alone of which the teacher is surest" in first.record.selection_notes[1]
    assert first.record.settings.lm.pretrained == str(root / "run")
    assert first.record.settings.lm == second.record.settings.lm, "from the run's language model"


def test_it_says_when_it_hurts(root, tmp_path, capsys, monkeypatch, scripted):
    scripted |= {"run": 10, "round-1": 9}
    monkeypatch.setattr(teaching, "carry_out", lambda job: pytest.fail("nothing is better"))
    out = tmp_path / "rounds"
    assert cli.main(["selftrain", str(root / "run"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"Self-training ends: {out / 'round-1'} is worse than {root / 'run'}." in said
    assert "Self-training hurt: no run is better on the validation split than" in said
    assert f"{root / 'run'} itself" in said
    assert [path.name for path in out.iterdir()] == ["round-1"]


def test_of_rounds_that_are_as_good_the_first_one_is_kept(
    root, tmp_path, capsys, monkeypatch, scripted
):
    scripted |= {"run": 10, "round-1": 12, "round-2": 12, "round-3": 11}
    reported = []
    monkeypatch.setattr(teaching, "carry_out", lambda job: reported.append(job.folder.name))
    out = tmp_path / "rounds"
    assert cli.main(["selftrain", str(root / "run"), "--out", str(out), "--rounds", "3"]) == 0
    assert reported == ["round-1"]
    assert f"{out / 'round-3'} is worse than {out / 'round-1'}." in capsys.readouterr().out


def test_it_ends_where_no_unlabelled_text_is_sure_enough(
    root, tmp_path, capsys, monkeypatch, scripted
):
    scripted["run"] = 10
    monkeypatch.setattr(pupils, "CONFIDENCE", 1.0)
    out = tmp_path / "rounds"
    assert cli.main(["selftrain", str(root / "run"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"Self-training ends: {root / 'run'} is sure of no unlabelled text, that is" in said
    assert "Self-training did not help: no run is better" in said
    assert not (out / "round-1" / "classifier").exists()


def test_the_numbers_are_those_of_validation(root):
    run = Run.open(root / "run")
    first = next(self_train(root / "run", root / "unused", 1))
    table = pd.read_csv(root / "run" / "classifier" / "validation.csv")
    predicted = np.where(table["p_pos"] > table["p_neg"], "pos", "neg")
    assert first.right.tolist() == (predicted == table["label"]).tolist()
    assert run.record.counts["valid"] == len(first.right) and first.p_value is None


def test_interrupted_it_goes_on_with_the_round_that_was_begun(
    root, tmp_path, monkeypatch, scripted
):
    scripted |= {"run": 10, "round-1": 14, "round-2": 15}
    whole = list(self_train(root / "run", tmp_path / "whole", 2))
    out, real = tmp_path / "rounds", stages.train

    def stop(*arguments):
        if arguments[2].parts[-2:] == ("round-2", "classifier"):
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            list(self_train(root / "run", out, 2))
    before = marks(out)
    assert {path.parent.name for path in before if "round-2" in str(path)} == {
        *("tokens", "lm", TEACHER)
    }
    found = list(self_train(root / "run", out, 2))
    after = marks(out)
    assert all(after[path] == before[path] for path in before), "nothing is repeated"
    assert [each.run.name for each in found] == ["run", "round-1", "round-2"]
    ours, theirs = (load_predictor(each[-1].run, "fp32") for each in (found, whole))
    texts = ours.store(["a great film", "dull"])
    assert np.array_equal(ours.probabilities(texts), theirs.probabilities(texts))


def test_without_unlabelled_texts_there_is_nothing_to_learn(root, tmp_path, capsys):
    table = pd.read_csv(root / "reviews.csv", keep_default_na=False)
    table[table["split"] != "unlabelled"].to_csv(tmp_path / "all.csv", index=False)
    begin(tmp_path / "run", settings_of(tmp_path / "all.csv")).carry_out("classifier")
    said = refused(["selftrain", tmp_path / "run"], capsys, 2)
    assert f"The run in {tmp_path / 'run'} has no unlabelled texts" in said
    assert f"python -m ulmfit_app.run {tmp_path / 'all.csv'}" in said
    assert not (tmp_path / "run-selftrained").exists()


def test_no_rounds_are_refused(root, tmp_path):
    with pytest.raises(SettingError, match="--rounds must be 1 or more, not 0"):
        next(self_train(root / "run", tmp_path, 0))


def test_a_lost_validation_file_is_told_with_the_command_that_writes_it(root, tmp_path):
    lost = tmp_path / "lost"
    shutil.copytree(root / "run", lost)
    (lost / "classifier" / "validation.csv").unlink()
    with pytest.raises(RunFolderError, match=f"has lost a validation.csv.*report {lost}"):
        next(self_train(lost, tmp_path / "out", 1))


def test_a_pupil_uses_the_runs_own_texts_when_their_source_is_gone(root, tmp_path):
    run, csv = tmp_path / "run", tmp_path / "reviews.csv"
    shutil.copy(root / "reviews.csv", csv)
    begin(run, settings_of(csv)).carry_out("classifier")
    csv.unlink()
    pupil = prune_run(run, tmp_path / "small", 0.5)
    assert pupil.corpus.table.equals(Run.open(run).corpus.table)
    assert begin(tmp_path / "small", pupil.record.settings).record == pupil.record
    assert pipeline.Run.open(tmp_path / "small").record.data == Run.open(run).record.data


# ----------------------------------------------------------------------------- nothing is replaced
def test_no_run_is_replaced_by_one_of_another_kind(root, tmp_path, capsys):
    pruned = tmp_path / "pruned"
    prune_run(root / "run", pruned, 0.5)
    before = (pruned / "run.json").read_bytes()
    assert cli.main(["prune", str(root / "run"), "--share", "0.25", "--out", str(pruned)]) == 5
    said = capsys.readouterr().err
    assert "holds a run pruned by 50%, and what is asked for is one pruned by 25%" in said
    settings = Run.open(root / "run").record.settings
    with pytest.raises(RunFolderError, match="pruned by 50%, and what is asked for is one of its"):
        begin(pruned, settings, like=Run.open(root / "run"))
    assert (pruned / "run.json").read_bytes() == before and not (pruned / "next").exists()


def test_pruned_runs_of_two_shares_lie_in_two_folders(root, monkeypatch):
    places = []
    monkeypatch.setattr(teaching, "carry_out", lambda job: places.append(job.folder.name))
    for share in ("0.5", "0.25"):
        assert cli.main(["prune", str(root / "run"), "--share", share]) == 0
    assert places == ["run-pruned-50", "run-pruned-25"]


def test_rounds_lie_outside_of_the_run_and_in_a_folder(root, tmp_path, capsys):
    assert cli.main(["selftrain", str(root / "run"), "--out", str(root / "run")]) == 2
    assert "is the folder of the teacher, or inside it" in capsys.readouterr().err
    file = tmp_path / "file.csv"
    file.write_text("a")
    assert cli.main(["selftrain", str(root / "run"), "--out", str(file)]) == 5
    assert "is a file; a run needs a folder of its own" in capsys.readouterr().err


def test_a_balanced_run_can_be_pruned_and_its_balance_is_not_used_twice(root, tmp_path, caplog):
    run = begin(tmp_path / "run", settings_of(root / "reviews.csv", balance="weights"))
    run.carry_out("classifier")
    with caplog.at_level("INFO", "ulmfit_app"):
        pruned = prune_run(tmp_path / "run", tmp_path / "pruned", 0.5)
    how = pruned.record.settings.classifier
    assert (how.balance, how.select_by) == ("none", "macro-f1")
    assert f"The balance weights of {tmp_path / 'run'} is in its answers" in caplog.text
