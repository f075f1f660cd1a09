"""Runs whose classes are rare, or whose texts have several labels, from a file to an answer."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ulmfit_app.config import AugmentationSettings, ClassifierSettings, DataSettings
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.inference.predictor import BidirectionalPredictor, load_predictor
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.pipeline import stages
from ulmfit_app.pipeline.run import begin
from ulmfit_app.pipeline.selection import growth_of
from ulmfit_app.presets import TINY
from ulmfit_app.training import classifier
from ulmfit_app.training.balance import chooses_thresholds

pytestmark = pytest.mark.usefixtures("undrawn")

WORDS = {"joy": "happy glad smile", "anger": "furious mad shout", "fear": "scared afraid hide"}


def texts_with(sets, seed=0):
    """Texts with words of their labels, among words that say nothing."""
    generator = np.random.default_rng(seed)
    found = []
    for labels in sets:
        said = [word for label in labels for word in generator.choice(WORDS[label].split(), 2)]
        filler = generator.choice("the a of some table chair window day".split(), 6)
        found.append(" ".join(generator.permutation([*said, *filler])))
    return found


def moods(path, n=240, seed=0):
    """Each text has each of three labels or not; anger is rare."""
    generator = np.random.default_rng(seed)
    has = generator.random((n, 3)) < [0.5, 0.1, 0.4]
    sets = [[label for label, one in zip(WORDS, row, strict=True) if one] for row in has]
    table = pd.DataFrame({"text": texts_with(sets, seed), "label": map(json.dumps, sets)})
    table.to_csv(path, index=False)
    return path


def classes(path, n=240, seed=0):
    """Each text has one of three labels; anger is rare."""
    labels = np.random.default_rng(seed).choice(list(WORDS), n, p=[0.6, 0.08, 0.32])
    table = pd.DataFrame({"text": texts_with([[one] for one in labels], seed), "label": labels})
    table.to_csv(path, index=False)
    return path


def settings_for(path, epochs=6, multilabel=False, bidirectional=False, **classifier):
    data = DataSettings(str(path), multilabel=multilabel)
    how = replace(TINY.classifier, epochs=epochs, max_tokens=None, **classifier)
    return replace(TINY, data=data, classifier=how, bidirectional=bidirectional)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A run on several labels, up to its classifiers."""
    folder = tmp_path_factory.mktemp("several")
    path = moods(folder / "moods.csv")
    run = begin(folder / "run", settings_for(path, multilabel=True, bidirectional=True))
    run.carry_out("classifier")
    return run


def test_a_run_on_several_labels_keeps_the_epoch_of_the_best_average_precision(several):
    history = pd.read_csv(several.folder / "classifier" / "history.csv")
    assert "accuracy" not in history
    about = load_bundle(several.folder / "classifier", "classifier").about
    assert about["validation_average_precision"] == history["average_precision"].max() > 0.6


def test_its_classifier_has_a_temperature_and_a_threshold_for_each_label(several):
    for name in ("classifier", "classifier-backward"):
        decision = load_bundle(several.folder / name, "classifier").decision
        assert decision.multilabel
        assert len(decision.temperatures) == len(decision.thresholds) == 3


def test_the_mean_of_two_directions_decides_by_itself(several):
    both = load_predictor(several.folder)
    assert isinstance(both, BidirectionalPredictor)
    assert both.decision.multilabel and len(both.decision.thresholds) == 3
    alone = load_bundle(several.folder / "classifier", "classifier").decision
    assert both.decision != alone


def test_predictions_are_lists_of_the_labels_that_reach_their_thresholds(several):
    predictor = load_predictor(several.folder)
    table = predictor.predict(["happy glad smile the day", "furious mad shout", "the table"])
    assert "confidence" not in table
    limits = dict(zip(predictor.labels, predictor.decision.limits(3), strict=True))
    for _, row in table.iterrows():
        given = [label for label in predictor.labels if row[f"p_{label}"] >= limits[label]]
        ranked = sorted(given, key=lambda label: -row[f"p_{label}"])
        assert json.loads(row["predicted"]) == ranked


def test_probabilities_of_several_labels_need_not_sum_to_one(several):
    predictor = load_predictor(several.folder)
    found = predictor.probabilities(predictor.store(["happy glad furious mad scared afraid"]))
    assert found.shape == (1, 3) and found.sum() > 1.1


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """A run on one label a text, up to its classifier."""
    folder = tmp_path_factory.mktemp("rare")
    path = classes(folder / "classes.csv")
    run = begin(folder / "run", settings_for(path))
    run.carry_out("classifier")
    return run, path


def weights_of(folder):
    return {path.name for path in (folder / "classifier").glob("weights-*")}


def test_other_thresholds_or_costs_train_nothing_again(rare, tmp_path, monkeypatch):
    run, path = rare
    monkeypatch.setattr(stages, "train_classifier", None)
    before, costs = weights_of(run.folder), tmp_path / "costs.csv"
    costs.write_text("label,anger,fear,joy\nanger,0,20,20\nfear,1,0,1\njoy,1,1,0\n")
    for how in (dict(thresholds="f1"), dict(costs=costs)):
        again = begin(run.folder, settings_for(path, **how))
        again.carry_out("classifier")
        folder = again.place("classifier")
        decision = load_bundle(folder, "classifier").decision
        assert bool(decision.thresholds) == ("thresholds" in how)
        assert bool(decision.costs) == ("costs" in how)
        assert weights_of(folder.parent) == before
        history = pd.read_csv(folder / "history.csv")
        assert history.equals(pd.read_csv(run.folder / "classifier" / "history.csv"))


def test_a_classifier_that_is_asked_for_again_is_trained_again(rare, monkeypatch):
    run, path = rare
    trained = []

    def train_classifier(*how):
        trained.append(how)
        return train(*how)

    train = stages.train_classifier
    monkeypatch.setattr(stages, "train_classifier", train_classifier)
    again = begin(run.folder, settings_for(path))
    again.carry_out("classifier")
    assert not trained
    again.repeat("classifier")
    assert len(trained) == 1


def test_a_changed_table_of_costs_decides_anew(rare, tmp_path):
    run, path = rare
    costs, found = tmp_path / "costs.csv", []
    for price in (3, 50):
        costs.write_text(f"label,anger,fear,joy\nanger,0,{price},1\nfear,1,0,1\njoy,1,1,0\n")
        again = begin(run.folder, settings_for(path, costs=costs))
        again.carry_out("classifier")
        found.append(load_bundle(again.place("classifier"), "classifier").decision.costs[0][1])
    assert found == [3, 50]


def test_a_run_has_its_own_copy_of_the_costs(rare, tmp_path):
    run, path = rare
    costs = tmp_path / "costs.csv"
    costs.write_text("label,anger,fear,joy\nanger,0,7,1\nfear,1,0,1\njoy,1,1,0\n")
    begin(run.folder, settings_for(path, costs=costs)).carry_out("classifier")
    costs.unlink()
    for changes in ({}, dict(epochs=5)):
        again = begin(run.folder, settings_for(path, costs=costs, **changes))
        assert again.record.data.costs[0] == [0, 7, 1]
    with pytest.raises(DataError, match="costs.csv"):
        begin(tmp_path / "other", settings_for(path, costs=costs))


def test_other_weights_of_classes_train_again(rare):
    run, path = rare
    again = begin(run.folder, settings_for(path, balance="weights"))
    assert not again.is_finished("classifier")
    assert again.is_finished("lm") and again.is_finished("tokens")


@pytest.mark.parametrize("balance", ["weights", "focal", "oversample", "undersample"])
def test_every_balance_trains_and_keeps_the_epoch_of_the_best_macro_f1(rare, balance, tmp_path):
    run, path = rare
    own = begin(tmp_path / "run", settings_for(path, epochs=2, balance=balance))
    own.carry_out("classifier")
    history = pd.read_csv(own.folder / "classifier" / "history.csv")
    about = load_bundle(own.folder / "classifier", "classifier").about
    assert about["validation_macro_f1"] == history["macro_f1"].max()


@pytest.mark.parametrize(("balance", "n"), [("oversample", "max"), ("undersample", "min")])
def test_an_epoch_has_the_same_number_of_texts_of_each_class(
    rare, balance, n, tmp_path, monkeypatch
):
    run, path = rare
    labels = run.labelled("train")[1]
    seen = []

    class Recorded(classifier.ClassifierBatches):
        def __init__(self, store, texts, labels, *rest, **more):
            seen.append(np.bincount(labels))
            super().__init__(store, texts, labels, *rest, **more)

    monkeypatch.setattr(classifier, "ClassifierBatches", Recorded)
    own = begin(tmp_path / "run", settings_for(path, epochs=1, balance=balance))
    own.carry_out("classifier")
    assert seen[0].tolist() == [getattr(np.bincount(labels), n)()] * 3
    assert seen[1].tolist() == np.bincount(run.labelled("valid")[1]).tolist()


@pytest.mark.parametrize(
    ("how", "multilabel", "said"),
    [
        (dict(balance="oversample"), True, "is for one label a text"),
        (dict(select_by="accuracy"), True, "needs no thresholds"),
        (dict(plan="contrastive"), True, "pairs of texts with the same label"),
        (dict(select_by="average-precision"), False, "is for several labels a text"),
        (dict(thresholds="f1", costs="costs.csv"), False, "two ways to decide"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, how, multilabel, said):
    make = moods if multilabel else classes
    settings = settings_for(make(tmp_path / "texts.csv"), None, multilabel, **how)
    with pytest.raises(SettingError) as error:
        begin(tmp_path / "run", settings)
    assert said in str(error.value)


def test_a_table_of_costs_that_lacks_a_class_is_refused_before_anything_is_trained(tmp_path):
    path, costs = classes(tmp_path / "texts.csv"), tmp_path / "costs.csv"
    costs.write_text("label,anger,joy\nanger,0,1\njoy,1,0\n")
    with pytest.raises(DataError, match="lacks a row: 'fear'"):
        begin(tmp_path / "run", settings_for(path, costs=costs))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_as_it_was_before_has_the_same_settings_in_its_record(tmp_path):
    run = begin(tmp_path / "run", settings_for(classes(tmp_path / "texts.csv")))
    found = json.loads((run.folder / "run.json").read_text())["settings"]
    later = {"balance", "select_by", "thresholds", "costs"}
    assert not later & set(found["classifier"]) and "augment" not in found
    assert not {"multilabel", "separator", "label_columns"} & set(found["data"])
    assert ClassifierSettings().balance == "none"


@pytest.mark.parametrize(
    ("balance", "growth"), [("none", 1), ("weights", 1), ("oversample", 1.8), ("undersample", 0.2)]
)
def test_an_epochs_length_is_known_before_it_is_trained(balance, growth):
    table = pd.DataFrame({"label": ["a"] * 90 + ["b"] * 10 + ["b"] * 50})
    table["split"] = ["train"] * 100 + ["test"] * 50
    settings = replace(TINY, classifier=ClassifierSettings(balance=balance))
    assert growth_of(table, settings) == growth
    twice = replace(settings, augment=AugmentationSettings("eda", copies=2))
    assert growth_of(table, twice) == pytest.approx(3 * growth)


@pytest.mark.parametrize(
    ("how", "multilabel", "chosen"),
    [
        (dict(), False, False),
        (dict(), True, True),
        (dict(costs=Path("costs.csv")), True, False),
        (dict(thresholds="none"), True, False),
        (dict(thresholds="f1"), False, True),
    ],
)
def test_thresholds_are_chosen_where_nothing_else_decides(how, multilabel, chosen):
    assert chooses_thresholds(ClassifierSettings(**how), multilabel) is chosen
