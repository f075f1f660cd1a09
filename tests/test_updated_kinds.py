"""Updates of every kind of run: several labels, two directions, transformers, pruned ones."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import reviews
from tests.test_updating import new_reviews, settings_of
from tests.tiny_transformers import make_checkpoint
from ulmfit_app.config import DataSettings, UpdateSettings
from ulmfit_app.errors import DataError, RunFolderError, SettingError
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.pipeline.judging import judge_update, read_as
from ulmfit_app.pipeline.parents import seconds_to_train
from ulmfit_app.pipeline.pupils import prune_run
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.pipeline.updating import begin_retraining, begin_update
from ulmfit_app.run_folder import VALIDATION
from ulmfit_app.text.rules import FAKE, SPECIALS, UNK_ID
from ulmfit_app.text.store import TokenStore

SPLITS = ["train"] * 40 + ["valid"] * 12 + ["test"] * 12


@pytest.fixture
def csv(tmp_path):
    table = reviews(len(SPLITS))
    table["split"] = SPLITS
    table.to_csv(tmp_path / "reviews.csv", index=False)
    new_reviews(24).to_csv(tmp_path / "new.csv", index=False)
    return tmp_path / "reviews.csv"


def first_run(csv, **others):
    settings = settings_of(csv, **others)
    settings = replace(
        settings,
        lm=replace(settings.lm, epochs=0),
        classifier=replace(settings.classifier, epochs=1, plan="full"),
    )
    run = begin(csv.parent / "run", settings)
    run.carry_out("classifier")
    return run


def updated(folder, lm_epochs=0, new=None, **how):
    new = new or DataSettings(source=str(folder / "new.csv"))
    how = UpdateSettings(**{"epochs": 1, **how})
    return begin_update(folder / "run", folder / "updated", new, how, lm_epochs)


def metrics_of(run):
    return json.loads((run.folder / "report" / "metrics.json").read_text(encoding="utf-8"))


def test_a_run_of_two_directions_goes_on_in_both(csv):
    first_run(csv, bidirectional=True)
    run = updated(csv.parent, lm_epochs=1, pull=1.0)
    run.carry_out()
    names = {path.name for path in (run.folder / "parent").iterdir()}
    assert names == {"lm", "lm-backward", "classifier", "classifier-backward"}
    for name in ("classifier", "classifier-backward"):
        history = pd.read_csv(run.folder / name / "history.csv")
        assert history["phase"].tolist() == ["all groups"]
    found = metrics_of(run)["update"]
    assert found["old"]["n"] == 12 and 0 <= found["old"]["parent"]["accuracy"] <= 1


def test_two_directions_need_their_parents_validation_and_it_is_said_how_to_get_it(csv):
    run = first_run(csv, bidirectional=True)
    (run.folder / "classifier" / VALIDATION).unlink()
    with pytest.raises(RunFolderError) as error:
        updated(csv.parent)
    assert f"python -m ulmfit_app report {run.folder}" in str(error.value)


def test_a_run_of_several_labels_goes_on_and_learns_new_ones(tmp_path):
    rows = [
        (f"{text} {i}", json.dumps(["a"] * (i % 2) + ["b"] * (i % 3 == 0)), split)
        for i, (text, split) in enumerate(zip(reviews(64)["review"], SPLITS, strict=True))
    ]
    pd.DataFrame(rows, columns=["review", "labels", "split"]).to_csv(
        tmp_path / "reviews.csv", index=False
    )
    more = [
        (text, json.dumps(["a", "c"] if i % 2 else ["b"]))
        for i, text in enumerate(new_reviews(24)["review"])
    ]
    pd.DataFrame(more, columns=["review", "labels"]).to_csv(tmp_path / "new.csv", index=False)
    settings = settings_of(tmp_path / "reviews.csv")
    data = replace(settings.data, label="labels", multilabel=True)
    settings = replace(settings, data=data, lm=replace(settings.lm, epochs=0))
    begin(tmp_path / "run", settings).carry_out("classifier")
    new = DataSettings(source=str(tmp_path / "new.csv"), label="labels", text="review")
    with pytest.raises(SettingError, match="--new-labels"):
        updated(tmp_path, new=new)
    run = updated(tmp_path, new=new, new_labels=True)
    run.carry_out()
    found = metrics_of(run)
    assert list(found["model"]["per_label"]) == ["a", "b", "c"]
    assert found["update"]["new_labels"] == ["c"] and found["update"]["new"]["n"] > 0


def test_a_transformer_goes_on_with_its_own_tokens(csv):
    pytest.importorskip("transformers")
    checkpoint = make_checkpoint(csv.parent / "bert", "bert", reviews(64)["review"].tolist())
    settings = settings_of(csv)
    how = replace(settings.classifier, epochs=1, plan="full")
    lm = replace(settings.lm, pretrained=str(checkpoint), epochs=0)
    begin(csv.parent / "run", replace(settings, lm=lm, classifier=how)).carry_out("classifier")
    run = updated(csv.parent, lm_epochs=1, pull=1.0)
    assert run.record.directions[0].plan.phases[0].lr == pytest.approx(0.05 * UpdateSettings().lr)
    run.carry_out()
    assert metrics_of(run)["update"]["new_words"] == 0
    before, after = (
        load_bundle(folder / "classifier", "classifier")
        for folder in (csv.parent / "run", run.folder)
    )
    assert before.tokenizer == after.tokenizer and before.shape == after.shape


def test_an_adapter_is_refused(csv):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    checkpoint = make_checkpoint(csv.parent / "bert", "bert", reviews(64)["review"].tolist())
    settings = settings_of(csv)
    how = replace(settings.classifier, epochs=1, plan="full", adapter="lora")
    lm = replace(settings.lm, pretrained=str(checkpoint), epochs=0)
    begin(csv.parent / "run", replace(settings, lm=lm, classifier=how)).carry_out("classifier")
    with pytest.raises(SettingError) as error:
        updated(csv.parent)
    assert "is an adapter (lora) on weights that stay as they are" in str(error.value)


def test_what_is_left_of_a_pruned_run_goes_on_with_its_own_units(csv):
    run = first_run(csv)
    prune_run(run.folder, csv.parent / "pruned", 0.5).carry_out("classifier")
    new = DataSettings(source=str(csv.parent / "new.csv"))
    how = UpdateSettings(epochs=1)
    job = begin_update(csv.parent / "pruned", csv.parent / "updated", new, how, 1)
    assert not job.record.teachers and job.record.settings.distillation.pruned == 0
    with pytest.raises(SettingError, match="learned from another run's answers"):
        begin_retraining(job)
    job.carry_out("classifier")
    assert load_bundle(job.folder / "classifier", "classifier").shape.n_hid == 8
    predictor = load_predictor(job.folder, "fp32")
    assert predictor.probabilities(predictor.store(["a gadget"])).sum() == pytest.approx(1)


def test_an_updated_run_is_pruned_and_taught_as_any_other(csv):
    first_run(csv)
    run = updated(csv.parent)
    run.carry_out("classifier")
    small = prune_run(run.folder, csv.parent / "small", 0.5)
    small.carry_out("classifier")
    assert small.record.parent is None and small.record.settings.update == UpdateSettings()
    assert load_bundle(small.folder / "classifier", "classifier").shape.n_hid == 8


def test_costs_of_the_parent_decide_and_know_no_new_label(csv, tmp_path):
    costs = tmp_path / "costs.csv"
    costs.write_text("label,neg,pos\nneg,0,1\npos,5,0\n", encoding="utf-8")
    settings = settings_of(csv)
    how = replace(settings.classifier, epochs=1, plan="full", costs=costs)
    lm = replace(settings.lm, epochs=0)
    begin(csv.parent / "run", replace(settings, lm=lm, classifier=how)).carry_out("classifier")
    costs.unlink()
    run = updated(csv.parent)
    run.carry_out()
    assert run.record.data.costs == [[0, 1], [5, 0]]
    assert load_bundle(run.folder / "classifier", "classifier").decision.costs
    table = new_reviews(24)
    table.loc[::3, "sentiment"] = "mixed"
    table.to_csv(csv.parent / "mixed.csv", index=False)
    with pytest.raises(SettingError, match="answers by costs, which know nothing of new labels"):
        updated(
            csv.parent, new=DataSettings(source=str(csv.parent / "mixed.csv")), new_labels=True
        )


def test_new_texts_in_another_script_are_refused_and_in_other_words_said(csv, tmp_path):
    first_run(csv)
    table = new_reviews(24)
    chinese = table.assign(review=[f"這部電影真的很好看，我非常喜歡{i}" for i in range(24)])
    chinese.to_csv(tmp_path / "chinese.csv", index=False)
    with pytest.raises(SettingError) as error:
        updated(csv.parent, new=DataSettings(source=str(tmp_path / "chinese.csv")))
    assert "in Traditional Chinese, and that run read Latin letters" in str(error.value)
    french = table.assign(review=[f"ce film est vraiment très mauvais {i}" for i in range(24)])
    french.to_csv(tmp_path / "french.csv", index=False)
    run = updated(csv.parent, new=DataSettings(source=str(tmp_path / "french.csv")))
    (said,) = [note for note in run.record.selection_notes if "another language" in note]
    assert said.startswith("Of the words of the new texts, 83% are none that the run knows")


def test_groups_and_times_of_the_parent_are_those_of_the_new_texts(csv):
    table = pd.read_csv(csv).assign(source=["web", "shop"] * 32)
    table.to_csv(csv, index=False)
    settings = settings_of(csv)
    settings = replace(settings, data=replace(settings.data, groups=("source",)))
    settings = replace(settings, lm=replace(settings.lm, epochs=0))
    begin(csv.parent / "run", settings).carry_out("classifier")
    new_reviews(24).assign(source="mail").to_csv(csv.parent / "new.csv", index=False)
    run = updated(csv.parent)
    assert run.record.data.groups == ["source"]
    assert set(run.column("source")) == {"web", "shop", "mail"}


def test_new_texts_without_the_parents_columns_of_groups_and_times_are_taken(csv):
    days = pd.date_range("2026-01-01", periods=64).strftime("%Y-%m-%d")
    table = pd.read_csv(csv).assign(source=["web", "shop"] * 32, day=days)
    table.to_csv(csv, index=False)
    settings = settings_of(csv)
    data = replace(settings.data, groups=("source",), time="day", split=None)
    settings = replace(settings, data=data, lm=replace(settings.lm, epochs=0))
    begin(csv.parent / "run", settings).carry_out("classifier")
    run = updated(csv.parent)
    new = run.corpus.table["update"] == "1"
    assert new.any() and set(run.corpus.table.loc[new, "day"]) == {""}
    said = "No column 'source', 'day': of these texts it is not known. Their splits are drawn at"
    assert any(said in note for note in run.record.data_notes)
    retrained = begin_retraining(run)
    assert len(retrained.corpus.table) == len(run.corpus.table)


def test_a_single_text_to_learn_from_is_refused(csv, tmp_path):
    begin(csv.parent / "run", settings_of(csv)).carry_out("classifier")
    one = {"text": ["the single new one"], "label": ["pos"], "split": ["train"]}
    pd.DataFrame(one).to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(DataError, match="leaves 1 new text to learn from, and --replay 0.5 adds"):
        updated(csv.parent, new=DataSettings(source=str(tmp_path / "one.csv")))


def test_new_texts_in_letters_that_the_parent_never_read_are_refused(csv, tmp_path):
    begin(csv.parent / "run", settings_of(csv)).carry_out("classifier")
    texts = [f"это был очень хороший фильм номер {i}" for i in range(20)]
    table = pd.DataFrame({"text": texts, "label": ["pos", "neg"] * 10})
    table.to_csv(tmp_path / "russian.csv", index=False)
    with pytest.raises(
        SettingError, match="100% are in Cyrillic letters, and that run read Latin"
    ):
        updated(csv.parent, new=DataSettings(source=str(tmp_path / "russian.csv")))


# ---------------------------------------------------------------------------- the parent's reading
def test_texts_are_read_as_before_their_vocabulary_grew():
    known = [*SPECIALS, "good", "film", *[FAKE] * 6]
    grown = [*known[: len(SPECIALS) + 2], "gadget", *[FAKE] * 5]
    ids = np.array([len(SPECIALS), len(SPECIALS) + 2, len(SPECIALS) + 1], np.int32)
    store = TokenStore(ids, np.array([0, 3]), grown)
    found = read_as(store, known)
    assert found.ids.tolist() == [len(SPECIALS), UNK_ID, len(SPECIALS) + 1]
    assert found.words == known and read_as(found, known) is found


def test_the_parents_answers_are_those_that_it_gives_itself(csv):
    run = first_run(csv)
    job = updated(csv.parent)
    job.carry_out("classifier")
    torch.manual_seed(0)
    predictor = load_predictor(run.folder, "fp32")
    rows = job.rows[job.rows["split"] == "test"]
    said = predictor.predict(rows["text"].tolist())["predicted"]
    right = (said.to_numpy() == rows["label"].to_numpy()).astype(float)
    given = rows.assign(predicted=rows["label"])
    found, seconds = judge_update(Run.open(job.folder), given)
    old = (job.column("update")[rows.index] == "0").to_numpy()
    assert found["old"]["parent"]["accuracy"] == pytest.approx(right[old].mean())
    assert found["new"]["parent"]["accuracy"] == pytest.approx(right[~old].mean())
    assert seconds == {"updated": seconds_to_train(job), "parent": seconds_to_train(run)}


def test_a_near_copy_of_an_old_training_text_is_found_although_it_is_not_read_again(csv):
    """The parent has learned from it."""
    first_run(csv)
    old = pd.read_csv(csv)["review"][0]
    table = pd.DataFrame({"text": [f"{old}!!", "another gadget"], "label": ["neg", "pos"]})
    table = pd.concat([table] * 3, ignore_index=True).assign(split=["test"] * 2 + ["train"] * 4)
    table.loc[2:, "text"] = [f"a gadget of kind {name}" for name in "abcd"]
    table.to_csv(csv.parent / "new.csv", index=False)
    run = updated(csv.parent, replay=0.0)
    run.carry_out()
    predictions = pd.read_csv(run.folder / "report" / "predictions.csv", dtype=str)
    assert predictions["copy_in_train"].tolist() == ["no"] * 12 + ["nearly", "no"]
    assert predictions["update"].tolist() == ["0"] * 12 + ["1"] * 2
