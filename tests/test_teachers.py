"""Runs that learn from other runs: whom they ask, what about, and which teachers are refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from tests.conftest import reviews, small_settings
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DistillationSettings
from ulmfit_app.errors import RunFolderError
from ulmfit_app.evaluation import decisions
from ulmfit_app.evaluation.calibration import tempered
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models.bundle import load_bundle, save_decision
from ulmfit_app.pipeline import stages, teachers
from ulmfit_app.pipeline.plan import plan_run
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.pipeline.teachers import hash_text, learned_by, least_confidence, taught
from ulmfit_app.run_folder import TEACHER

pytestmark = pytest.mark.usefixtures("undrawn")

SPLITS = ["train"] * 60 + ["valid"] * 24 + ["test"] * 24 + ["unlabelled"] * 40
COLUMNS = ["--text", "review", "--label", "sentiment", "--split", "split"]


def write_csv(path, splits=SPLITS, seed=0, labels=("neg", "pos")):
    table = reviews(len(splits), seed)
    table["sentiment"] = table["sentiment"].replace(dict(zip(("neg", "pos"), labels, strict=True)))
    table["split"] = splits
    table.loc[table["split"] == "unlabelled", "sentiment"] = ""
    table.to_csv(path, index=False)
    return path


def settings_of(csv, start="none", epochs=2):
    settings = small_settings(csv)
    return replace(
        settings,
        data=replace(settings.data, split="split"),
        lm=replace(settings.lm, epochs=0, pretrained=str(start)),
        classifier=replace(settings.classifier, epochs=epochs, plan="full"),
        precision="fp32",
    )


def pupil_of(csv, *runs, **how):
    """Settings of a pupil of some runs, from the language model of the first."""
    distillation = DistillationSettings(tuple(map(str, runs)), **how)
    return replace(settings_of(csv, runs[0], epochs=1), distillation=distillation)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A CSV, and a run on it that is calibrated by a temperature of 0.1."""
    root = tmp_path_factory.mktemp("teachers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        torch.set_num_threads(1)
        patch.setattr(decisions, "fit_temperature", lambda *_: (0.1, ""))
        csv = write_csv(root / "reviews.csv")
        begin(root / "teacher", settings_of(csv)).carry_out("classifier")
    return csv, root / "teacher"


class Speaker:
    """A predictor whose answers are the lengths of texts, and that counts whom it was asked."""

    def __init__(self, labels, shift=0.0, fails_at=None):
        self.labels, self.shift, self.fails_at = labels, shift, fails_at
        self.asked, self.calls = [], 0

    def store(self, texts):
        return texts

    def probabilities(self, texts, description=None):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        self.asked += texts
        first = np.array([0.2 + self.shift + len(text) / 1_000 for text in texts])
        return np.stack([first, 1 - first], 1)

    def states(self, texts):
        return np.array([[len(text), self.shift] for text in texts], np.float32)


@pytest.fixture
def speakers(monkeypatch):
    """Predictors by the names of their folders, in the place of trained ones."""
    known = {}
    monkeypatch.setattr(teachers, "load_predictor", lambda folder, _: known[folder.name])
    return known


def answers_of(run):
    return pd.read_csv(run.folder / TEACHER / teachers.ANSWERS)


def refused(command, capsys, code):
    """What a command says that ends with an error."""
    assert cli.main(list(map(str, command))) == code
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and said.count("\n") == 1
    return said


def distill(csv, teacher, out, *more):
    of_preset = ["--preset", "tiny", "--pretrained", "none", "--lm.epochs", "0"]
    start = ["distill", csv, *COLUMNS, *of_preset, "--out", out, *more]
    return [*start, "--teacher", *(teacher if isinstance(teacher, list) else [teacher])]


# ------------------------------------------------------------------------------------ the answers
def test_teachers_answer_the_texts_that_a_pupil_learns_from_and_no_others(world, tmp_path):
    csv, teacher = world
    run = begin(tmp_path / "run", pupil_of(csv, teacher))
    run.carry_out(TEACHER)
    found, rows = answers_of(run), run.rows.set_index("row")
    assert list(found) == ["row", "p_neg", "p_pos"] and found["row"].is_unique
    assert set(rows.loc[found["row"], "split"]) == {"train", "unlabelled"}
    assert len(found) == 60 + 40
    predictor = load_predictor(teacher, "fp32")
    assert predictor.decision.temperature == 0.1
    texts = predictor.store(rows.loc[found["row"], "text"].tolist())
    expected = predictor.probabilities(texts)
    assert np.allclose(found[["p_neg", "p_pos"]], expected, atol=1e-6)
    assert np.ptp(expected[:, 0]) > 1e-3, "else the comparison says nothing"


def test_several_teachers_answer_with_the_mean_of_their_probabilities(world, tmp_path, speakers):
    csv, teacher = world
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    speakers |= {"teacher": Speaker(["neg", "pos"]), "other": Speaker(["neg", "pos"], 0.4)}
    run = begin(tmp_path / "run", pupil_of(csv, teacher, other, states_weight=1.0))
    run.carry_out(TEACHER)
    found = answers_of(run)
    lengths = run.rows.set_index("row").loc[found["row"], "text"].str.len().to_numpy()
    assert np.allclose(found["p_neg"], 0.2 + lengths / 1_000 + 0.4 / 2)
    assert np.allclose(found["p_neg"] + found["p_pos"], 1)
    states = load_file(run.folder / TEACHER / teachers.STATES)["states"]
    assert np.allclose(states[:, [0, 2]], lengths[:, None]), "those of both, side by side"
    assert np.allclose(states[:, [1, 3]], [0, 0.4])


def test_a_teachers_labels_are_found_by_name_whatever_their_order(world, tmp_path, speakers):
    csv, teacher = world
    speakers["teacher"] = Speaker(["pos", "neg"])
    run = begin(tmp_path / "run", pupil_of(csv, teacher))
    run.carry_out(TEACHER)
    found = answers_of(run)
    lengths = run.rows.set_index("row").loc[found["row"], "text"].str.len().to_numpy()
    assert np.allclose(found["p_pos"], 0.2 + lengths / 1_000)


@pytest.mark.parametrize("fails_at", [1, 3])
def test_interrupted_it_goes_on_behind_the_last_part(
    world, tmp_path, speakers, monkeypatch, fails_at
):
    csv, teacher = world
    monkeypatch.setattr(teachers, "TEXTS_PER_PART", 30)
    speaker = speakers["teacher"] = Speaker(["neg", "pos"], fails_at=fails_at)
    settings = pupil_of(csv, teacher)
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "run", settings).carry_out(TEACHER)
    assert len(speaker.asked) == 30 * (fails_at - 1)
    for part in (tmp_path / "run" / TEACHER).rglob("*.safetensors"):
        part.write_bytes(b"damaged")  # it is asked again, and no traceback is shown
        del speaker.asked[:30]
    run = begin(tmp_path / "run", settings)
    run.carry_out(TEACHER)
    rows = run.rows[run.rows["learned"]]
    assert speaker.asked == rows["text"].tolist(), "each once"
    assert answers_of(run)["row"].tolist() == rows["row"].tolist()
    assert {path.name for path in (run.folder / TEACHER).iterdir()} == {
        *("probabilities.csv", "learned.json", "stage.json")
    }


def test_a_pupil_learns_from_the_answers_and_says_whose(world, tmp_path):
    csv, teacher = world
    run = begin(tmp_path / "run", pupil_of(csv, teacher))
    run.carry_out("classifier")
    bundle = load_bundle(run.folder / "classifier", "classifier")
    assert bundle.about["teachers"] == ["teacher"]
    which, targets = taught(run)
    assert which.tolist() == np.flatnonzero(run.rows["learned"]).tolist()
    answers = answers_of(run)[["p_neg", "p_pos"]].to_numpy()
    assert np.allclose(targets[:, :2], tempered(answers, 2.0), atol=1e-6)
    rows = run.rows.loc[which]
    split, truth = rows["split"].to_numpy(), run.corpus.truth(rows["label"])
    assert not targets[split == "unlabelled", 2:].any()
    labels = targets[split == "train", 2:]
    assert (labels.argmax(1) == truth[split == "train"]).all() and (labels.sum(1) == 1).all()


def test_the_map_to_a_teachers_states_learns_and_is_no_part_of_the_classifier(
    world, tmp_path, monkeypatch
):
    csv, teacher = world
    weights, learn_from, forget = [], stages.learn_from_teacher, stages.forget_teacher

    def keep(learn):
        weights.append(learn.model[1].to_teacher.weight.detach().clone())

    def learn_and_keep(learn, *rest):
        learn_from(learn, *rest)
        keep(learn)

    def keep_and_forget(learn):
        keep(learn)
        forget(learn)

    monkeypatch.setattr(stages, "learn_from_teacher", learn_and_keep)
    monkeypatch.setattr(stages, "forget_teacher", keep_and_forget)
    run = begin(tmp_path / "run", pupil_of(csv, teacher, states_weight=1.0))
    run.carry_out("classifier")
    states = load_file(run.folder / TEACHER / teachers.STATES)["states"]
    predictor = load_predictor(teacher, "fp32")
    texts = predictor.store(run.rows.loc[run.rows["learned"], "text"].tolist())
    assert np.allclose(states, predictor.states(texts), atol=1e-6)
    assert states.shape == (100, 3 * 12), "last, maximum and mean of 12 units"
    before, after = weights
    assert before.shape == (36, 36) and (before - after).abs().max() > 1e-4
    folders = [each / "classifier" for each in (run.folder, teacher)]
    ours, theirs = (next(folder.glob("weights-*")) for folder in folders)
    assert set(load_file(ours)) == set(load_file(theirs))


# ------------------------------------------------------------------------------- its surest texts
def test_of_unlabelled_texts_those_are_learned_of_which_the_teacher_is_sure(
    world, tmp_path, speakers, caplog
):
    csv, teacher = world
    speakers["teacher"] = Speaker(["neg", "pos"])
    run = begin(tmp_path / "run", pupil_of(csv, teacher, confidence=0.7))
    run.carry_out(TEACHER)
    with caplog.at_level("INFO"):
        which, targets = taught(run)
    rows = run.rows[run.rows["learned"]]
    sureness = answers_of(run)[["p_neg", "p_pos"]].max(axis=1).set_axis(rows.index)
    of_unlabelled = sureness[rows["split"] == "unlabelled"].sort_values(ascending=False)
    n = (of_unlabelled.expanding().mean() >= 0.7).sum()
    assert 0 < n < 40
    assert f"{60 + n} of 100 texts learned, {n} of them without a label." in caplog.text
    expected = {*of_unlabelled.index[:n], *rows.index[rows["split"] == "train"]}
    assert set(which) == expected and len(targets) == len(expected)


def test_the_surest_answers_have_the_mean_that_is_wanted():
    first = np.random.default_rng(0).random(500)
    answers = np.stack([first, 1 - first], 1)
    highest = answers.max(1)
    for wanted in (0.76, 0.9, 0.99):
        least = least_confidence(answers, wanted)
        assert highest[highest >= least].mean() >= wanted
        assert highest[highest >= highest[highest < least].max()].mean() < wanted
    assert least_confidence(answers, 0.0) == highest.min()
    assert least_confidence(answers * 0.5, 0.9) > 1


# ------------------------------------------------------------------------------ who is no teacher
def test_a_teacher_of_other_labels_is_refused(world, tmp_path, capsys):
    _, teacher = world
    csv = write_csv(tmp_path / "other.csv", labels=("bad", "pos"))
    said = refused(distill(csv, teacher, tmp_path / "run"), capsys, 2)
    assert "cannot answer for these labels: it lacks 'bad'; it has besides 'neg'" in said
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_learned_from_the_test_texts_is_refused(world, tmp_path, capsys):
    csv, teacher = world
    table = pd.read_csv(csv, keep_default_na=False)
    # Six of its training texts in other letters, and six that it validated on, are tested now.
    tested = np.concatenate([table.index[table["split"] == s][:6] for s in ("train", "valid")])
    table.loc[table["split"] == "test", "split"] = "train"
    table.loc[tested, "split"] = "test"
    table.loc[tested, "review"] = table.loc[tested, "review"].str.upper().str.replace(" ", "  ")
    table.to_csv(tmp_path / "other.csv", index=False)
    said = refused(distill(tmp_path / "other.csv", teacher, tmp_path / "run"), capsys, 2)
    assert "learned from 12 of the 12 different texts that this run is tested on" in said


def test_copies_that_the_runs_own_labelled_texts_have_in_its_test_split_are_not_the_teachers(
    world, tmp_path
):
    csv, teacher = world
    table = pd.read_csv(csv, keep_default_na=False)
    table.loc[table.index[table["split"] == "test"][:5], "review"] = table["review"][:5].tolist()
    table.to_csv(tmp_path / "copies.csv", index=False)
    planned = plan_run(pupil_of(tmp_path / "copies.csv", teacher))
    assert planned.record.data_notes == [
        "Split test shares 5 of its 24 texts, word for word, with train."
    ]


def test_a_pupil_is_refused_for_what_its_teacher_learned_that_is_gone(world, tmp_path, capsys):
    csv, teacher = world
    table = pd.read_csv(csv, keep_default_na=False)
    own = write_csv(tmp_path / "own.csv", seed=5)
    gone = tmp_path / "gone"
    shutil.copytree(teacher, gone)
    pupil = begin(tmp_path / "pupil", pupil_of(own, gone))
    pupil.carry_out("classifier")
    shutil.rmtree(gone)
    learned = table.loc[table["split"] == "train", "review"]
    assert set(map(hash_text, learned)) <= learned_by(pupil)
    assert not set(map(hash_text, table.loc[table["split"] == "test", "review"])) & learned_by(
        pupil
    )
    mixed = pd.read_csv(own, keep_default_na=False)
    mixed.loc[mixed["split"] == "test", "review"] = learned.tolist()[:24]
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    said = refused(distill(tmp_path / "mixed.csv", pupil.folder, tmp_path / "run"), capsys, 2)
    assert "learned from 24 of the 24 different texts" in said

    for damage in ("{}", "[]", None):
        path = pupil.folder / TEACHER / teachers.LEARNED
        path.write_text(damage) if damage else path.unlink()
        said = refused(distill(own, pupil.folder, tmp_path / "run"), capsys, 5)
        assert "learned.json, the list of what its teachers learned from, is missing" in said


def test_a_teacher_without_a_finished_classifier_is_refused(world, tmp_path, capsys):
    csv, teacher = world
    said = refused(distill(csv, tmp_path / "none", tmp_path / "run"), capsys, 5)
    assert f"No run in {tmp_path / 'none'}: it has no run.json" in said
    begun = tmp_path / "begun"
    shutil.copytree(teacher, begun)
    (begun / "classifier" / "stage.json").unlink()
    said = refused(distill(csv, begun, tmp_path / "run"), capsys, 5)
    assert f"The teacher {begun} has no trained classifier yet. Finish it:" in said


def test_a_run_is_no_teacher_of_itself(world, tmp_path, capsys):
    csv, teacher = world
    own = tmp_path / "own"
    shutil.copytree(teacher, own)
    before = (own / "run.json").read_bytes()
    said = refused(distill(csv, own, own), capsys, 2)
    assert f"{own} is the folder of the teacher, or inside it" in said and "--out" in said
    assert (own / "run.json").read_bytes() == before and not (own / "next").exists()


def test_no_teacher_at_all_is_told_how_one_is_given(world, tmp_path, capsys):
    csv, _ = world
    command = ["distill", csv, *COLUMNS, "--preset", "tiny", "--out", tmp_path / "run"]
    said = refused(command, capsys, 2)
    assert "Expected a teacher, the folder of a trained run" in said and "--teacher RUN" in said


def test_what_pruning_sets_is_no_option(world, tmp_path, capsys):
    csv, teacher = world
    with pytest.raises(SystemExit) as caught:
        cli.main(
            list(map(str, distill(csv, teacher, tmp_path / "x", "--distillation.pruned", "0.5")))
        )
    assert caught.value.code == 2
    with pytest.raises(SystemExit):
        cli.main(["distill", "--help"])
    said = capsys.readouterr().out
    assert "--distillation.confidence" in said and "pruned" not in said


# ----------------------------------------------------------------------- what changes the answers
def test_a_teacher_that_was_trained_again_is_asked_again(world, tmp_path, speakers):
    csv, teacher = world
    own = tmp_path / "own"
    shutil.copytree(teacher, own)
    speaker = speakers["own"] = Speaker(["neg", "pos"])
    settings = pupil_of(csv, own)
    settings = replace(settings, lm=replace(settings.lm, pretrained="none"))
    planned = begin(tmp_path / "run", settings)
    save_decision(own / "classifier", Decision(temperatures=(0.6,)))
    with pytest.raises(RunFolderError, match=f"The teacher {own} was trained again since"):
        planned.carry_out(TEACHER)
    for temperature in (0.6, 0.7):
        save_decision(own / "classifier", Decision(temperatures=(temperature,)))
        speaker.asked = []
        begin(tmp_path / "run", settings).carry_out(TEACHER)
        assert len(speaker.asked) == 100
        begin(tmp_path / "run", settings).carry_out(TEACHER)
        assert len(speaker.asked) == 100, "not again"
    shutil.rmtree(own)
    begin(tmp_path / "run", settings).carry_out(TEACHER)
    assert len(speaker.asked) == 100, "a teacher that is gone has not changed"


def test_every_setting_of_learning_makes_the_classifier_anew_and_states_the_answers_too(world):
    csv, teacher = world
    keys = plan_run(pupil_of(csv, teacher)).record.keys
    assert set(keys) == {"tokens", "lm", TEACHER, "classifier", "report"}

    def changed(**how):
        other = plan_run(pupil_of(csv, teacher, **how)).record.keys
        return {name for name in keys if keys[name] != other[name]}

    for one in (dict(temperature=3.0), dict(hard_weight=0.5), dict(confidence=0.8)):
        assert changed(**one) == {"classifier", "report"}, one
    assert changed(states_weight=1.0) == {TEACHER, "classifier", "report"}
    assert changed(pruned=0.5) == {"tokens", "lm", "classifier", "report"}, "its own words alone"


def test_another_temperature_makes_the_classifier_anew_from_the_same_answers(
    world, tmp_path, speakers
):
    csv, teacher = world
    speaker = speakers["teacher"] = Speaker(["neg", "pos"])
    folder, before = tmp_path / "run", {}
    for temperature in (2.0, 3.0):
        run = begin(folder, pupil_of(csv, teacher, temperature=temperature))
        run.carry_out("classifier")
        marks = {
            name: (folder / name / "stage.json").stat().st_mtime_ns
            for name in ("lm", TEACHER, "classifier")
        }
        changed = {name for name in marks if before and marks[name] != before[name]}
        before = marks
    assert changed == {"classifier"} and len(speaker.asked) == 100


def test_answers_of_other_texts_are_told_and_not_learned(world, tmp_path, speakers):
    csv, teacher = world
    speakers["teacher"] = Speaker(["neg", "pos"])
    run = begin(tmp_path / "run", pupil_of(csv, teacher))
    run.carry_out(TEACHER)
    path = run.folder / TEACHER / teachers.ANSWERS
    text = path.read_text("utf-8")
    first, second = text.splitlines(keepends=True)[1:3]
    path.write_text(text.replace(first + second, second + first), "utf-8")
    with pytest.raises(RunFolderError, match="The teachers' answers in .* are missing"):
        run.carry_out("classifier")
    path.write_text(text.replace(first, ""), "utf-8")
    with pytest.raises(RunFolderError, match="has 99 rows, and 100 were written"):
        taught(run)


# ------------------------------------------------------------------------------ what a run says
def test_who_teaches_what_is_said(world):
    csv, teacher = world
    (said,) = plan_run(pupil_of(csv, teacher)).record.selection_notes
    assert said == (
        "The classifier learns from the answers of 'teacher' to 60 labelled and 40 unlabelled "
        "texts, at temperature 2; of labelled ones, the label counts 10%."
    )


def test_a_bound_of_tokens_leaves_out_unlabelled_texts_before_labelled_ones(world):
    csv, teacher = world
    settings = pupil_of(csv, teacher)
    bounded = replace(settings.classifier, max_tokens=2_200)
    planned = plan_run(replace(settings, classifier=bounded))
    learned = planned.selection.learned
    split = planned.corpus.table["split"]
    assert 60 < learned.sum() < 100 and learned[split == "train"].all()
    assert not learned[split.isin(["valid", "test"])].any()
    assert planned.record.selection_notes[0] == (
        f"The classifier learns from {learned.sum()} of 100 labelled and unlabelled texts, to "
        "keep within its time."
    )
    few_read = plan_run(replace(settings, lm=replace(settings.lm, max_tokens=500)))
    assert few_read.selection.read.sum() < 60 and few_read.record.counts["unlabelled"] == 40


def test_without_unlabelled_texts_what_that_costs_is_said(world, tmp_path, capsys):
    _, teacher = world
    csv = write_csv(tmp_path / "labelled.csv", SPLITS[:108])
    notes = plan_run(pupil_of(csv, teacher)).record.selection_notes
    assert "to 60 labelled and 0 unlabelled texts" in notes[0]
    assert notes[1].startswith("There are no unlabelled texts: a teacher is surer of the texts")


def test_an_ordinary_run_has_no_word_of_teachers(world):
    csv, teacher = world
    values = json.loads((teacher / "run.json").read_text("utf-8"))
    assert "teachers" not in values and "distillation" not in values["settings"]
    assert "distillation" not in values["requested"]["settings"]
    assert "learned" not in (teacher / "data" / "selection.csv").read_text("utf-8")
    record = Run.open(teacher).record
    assert record.teachers == [] and record.settings.distillation == DistillationSettings()
    assert set(record.keys) == {"tokens", "lm", "classifier", "report"}
    settings = settings_of(csv)
    ignored = replace(settings, distillation=DistillationSettings(temperature=5.0))
    assert plan_run(ignored).record.keys == plan_run(settings).record.keys == record.keys


def test_a_pupils_record_reads_back(world, tmp_path):
    csv, teacher = world
    settings = pupil_of(csv, teacher, temperature=3.0, confidence=0.5)
    run = begin(tmp_path / "run", settings)
    found = Run.open(tmp_path / "run").record
    assert found.settings == settings and found.teachers == run.record.teachers
    assert found.teachers[0].run == str(teacher)
    assert begin(tmp_path / "run", settings).record == found, "not planned again"
