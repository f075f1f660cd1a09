"""Reports of runs whose classes are rare, or whose texts have several labels."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.test_balance_run import classes, moods, settings_for
from ulmfit_app.evaluation.baselines import tfidf_one_vs_rest
from ulmfit_app.evaluation.decisions import fit_decision
from ulmfit_app.evaluation.tables import find_right, sets_to_truth
from ulmfit_app.evaluation.thresholds import choose_label_thresholds
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.pipeline.baselines import score_baselines
from ulmfit_app.pipeline.run import begin

pytestmark = pytest.mark.usefixtures("undrawn")

FOR_EACH = "TF-IDF + logistic regression for each label, the same {} labels"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    path = moods(folder / "moods.csv")
    run = begin(folder / "run", settings_for(path, multilabel=True, bidirectional=True))
    run.carry_out()
    return run


def read_metrics(run) -> dict:
    return json.loads((run.place("report") / "metrics.json").read_text("utf-8"))


def test_a_run_of_several_labels_has_its_report(several):
    metrics, folder = read_metrics(several), several.place("report")
    table = pd.read_csv(folder / "predictions.csv", dtype=str)
    labels = several.record.data.labels
    truth, said = (sets_to_truth(table[of], labels) for of in ("label", "predicted"))
    model = metrics["model"]
    assert model["subset_accuracy"] == find_right(table, multilabel=True).mean()
    assert model["hamming_loss"] == pytest.approx((truth != said).mean())
    assert set(metrics["directions"]) == {"forward", "backward"}
    assert metrics["facts"]["kept_epoch_by"] == "average precision"
    decision = load_predictor(several.folder).decision
    assert list(metrics["decision"]["thresholds"].values()) == list(decision.thresholds)
    page = (folder / "report.html").read_text("utf-8")
    assert "Labels together" in page or "labels together" in page
    n_wrong = int((~find_right(table, multilabel=True)).sum())
    assert page.count("<article") == n_wrong and "(occlusion)" in page
    assert "have a copy in train" in page or "has a copy" in page


def test_each_direction_alone_answers_by_its_own_thresholds(several):
    metrics, predictor = read_metrics(several), load_predictor(several.folder)
    rows = several.rows
    test = np.flatnonzero(rows["split"] == "test")
    each = predictor.each(several.open_tokens(), test)
    truth = several.corpus.truth(rows["label"][test])
    for bundle in (predictor.bundle, predictor.backward.bundle):
        own = bundle.decision
        said = own.answer(own.calibrate(each[bundle.direction]))
        found = metrics["directions"][bundle.direction]
        assert found["subset_accuracy"] == (said == truth).all(axis=1).mean()


def test_word_counts_for_each_label_have_thresholds_from_the_same_validation_part(several):
    metrics, rows, corpus = read_metrics(several), several.rows, several.corpus
    train, valid, test = (rows[rows["split"] == split] for split in ("train", "valid", "test"))
    texts = [*valid["text"], *test["text"]]
    truth = corpus.truth(train["label"])
    found = tfidf_one_vs_rest(train["text"].tolist(), truth, texts, several.record.settings.seed)
    known, tested = found[: len(valid)], found[len(valid) :]
    decision, _ = fit_decision(known, corpus.truth(valid["label"]), True)
    assert (
        list(decision.thresholds)
        == choose_label_thresholds(decision.calibrate(known), corpus.truth(valid["label"]))[0]
    )
    said = decision.answer(decision.calibrate(tested))
    scored = metrics["baselines"][FOR_EACH.format(len(train))]
    exact = (said == corpus.truth(test["label"])).all(axis=1).mean()
    assert scored["subset_accuracy"] == exact
    assert "label shares" in metrics["baselines"]


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rare")
    path = classes(folder / "classes.csv")
    run = begin(folder / "run", settings_for(path, balance="weights", thresholds="f1"))
    run.carry_out()
    return run


def test_a_run_of_rare_classes_says_its_balance_its_thresholds_and_what_they_gain(rare):
    metrics, folder = read_metrics(rare), rare.place("report")
    assert metrics["facts"]["balance"] == "weights"
    assert metrics["facts"]["kept_epoch_by"] == "macro f1"
    table = pd.read_csv(folder / "predictions.csv", dtype=str)
    assert metrics["model"]["accuracy"] == find_right(table, multilabel=False).mean()
    assert metrics["decision"]["test"]["accuracy"] == metrics["model"]["accuracy"]
    assert "Thresholds" in (folder / "report.html").read_text("utf-8")
    weighted = [name for name in metrics["baselines"] if "with class weights" in name]
    assert len(weighted) == 1 and len(metrics["baselines"]) == 3


def test_baselines_decide_by_thresholds_where_the_classifier_does_and_else_not(rare):
    decision = load_predictor(rare.folder).decision
    tested = rare.rows.loc[rare.rows["split"] == "test", "text"].tolist()
    found = score_baselines(rare, tested, decision)
    assert set(found.answers) == set(found.probabilities)
    scored = read_metrics(rare)["baselines"]
    truth = rare.corpus.truth(rare.rows.loc[rare.rows["split"] == "test", "label"])
    for name, answers in found.answers.items():
        assert scored[name]["accuracy"] == (answers == truth).mean()
    plain = score_baselines(rare, tested, type(decision)())
    assert plain.answers == {} and set(plain.probabilities) == set(found.probabilities)
