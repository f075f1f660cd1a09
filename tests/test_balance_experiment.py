"""The experiment that compares what helps rare classes."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score

from tests.conftest import reviews, small_settings
from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.evaluation import baselines
from ulmfit_app.evaluation.balance_figure import balance_figure
from ulmfit_app.evaluation.metrics import expected_calibration_error
from ulmfit_app.evaluation.tables import probability_columns, true_classes
from ulmfit_app.experiments import balance, trials
from ulmfit_app.experiments.balance import (
    BALANCES,
    TFIDF,
    THRESHOLDS,
    find_rarest,
    format_balance,
    run_balance,
)
from ulmfit_app.experiments.comparing import slug
from ulmfit_app.files import write_table
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.pipeline import report
from ulmfit_app.pipeline.run import Run, begin

pytestmark = pytest.mark.usefixtures("in_this_process", "undrawn")


@pytest.fixture
def rare(tmp_path):
    """160 made reviews, of which 20 are praise and 8 mixed; no split is given."""
    made = reviews(320)
    praise, blame = made[made["sentiment"] == "pos"], made[made["sentiment"] == "neg"]
    mixed = praise[30:38].assign(sentiment="mixed")
    path = tmp_path / "rare.csv"
    write_table(path, pd.concat([praise[:20], mixed, blame[:132]]).sample(frac=1, random_state=0))
    return path


@pytest.fixture
def settings(rare, monkeypatch):
    monkeypatch.setattr(report, "N_EXPLAINED", 0)
    made = small_settings(rare)
    how = replace(made.classifier, epochs=2, plan="full", batch_size=16)
    return replace(made, lm=replace(made.lm, epochs=0), classifier=how)


@pytest.fixture
def two_ways(monkeypatch):
    monkeypatch.setattr(balance, "BALANCES", ("none", "weights"))


@pytest.fixture
def ran(monkeypatch):
    """The trials that were begun, which are not carried out; behind the last the work ends."""
    begun = []

    def carry_out(found, folder, description, executor):
        begun.extend(found)
        if description != "Language models":
            raise InterruptedError

    monkeypatch.setattr(balance, "carry_out", carry_out)
    return begun


def test_runs_differ_in_their_balance_alone_and_share_a_seeds_language_model(
    settings, tmp_path, ran
):
    asked = replace(settings, lm=replace(settings.lm, epochs=3))
    with pytest.raises(InterruptedError):
        run_balance(tmp_path, asked, seeds=2)
    lms, begun, rivals = ran[:2], ran[2:-2], ran[-2:]
    assert [(each.name, each.last) for each in lms] == [("lm-seed42", "lm"), ("lm-seed43", "lm")]
    assert [trial.settings.classifier.balance for trial in begun] == np.repeat(
        BALANCES, 2
    ).tolist()
    assert len({trial.name for trial in begun}) == 10
    for trial in begun:
        s = trial.settings
        assert s.lm.pretrained == str(tmp_path / f"lm-seed{s.seed}" / "lm") and s.lm.epochs == 0
        same = replace(s.classifier, balance="none")
        assert same == replace(asked.classifier, select_by="macro-f1", thresholds="none")
    assert [trial.what for trial in rivals] == ["tfidf_logistic_regression"] * 2
    assert {trial.instead.keywords["class_weight"] for trial in rivals} == {"balanced"}


def test_another_epoch_can_be_kept_in_all_runs(settings, tmp_path, ran):
    how = replace(settings.classifier, select_by="accuracy")
    with pytest.raises(InterruptedError):
        run_balance(tmp_path, replace(settings, classifier=how), seeds=1)
    kept = {trial.settings.classifier.select_by for trial in ran if not trial.instead}
    assert kept == {"accuracy"}


def test_the_rival_s_classes_weigh_the_same(monkeypatch):
    seen = []

    class Model(LogisticRegression):
        def __init__(self, **how):
            seen.append(how["class_weight"])
            super().__init__(**how)

    monkeypatch.setattr(baselines, "LogisticRegression", Model)
    made = reviews(60)
    truth = (made["sentiment"] == "pos").to_numpy(int)
    few = np.flatnonzero((truth == 0) | (np.arange(60) < 12))
    texts = made["review"].tolist()
    learned = [texts[i] for i in few], truth[few], texts, 2, 0
    plain = baselines.tfidf_logistic_regression(*learned)
    balanced = baselines.tfidf_logistic_regression(*learned, class_weight="balanced")
    assert seen == [None, "balanced"]
    assert (balanced[:, 1] > plain[:, 1]).mean() > 0.9, "of the rare class"


def test_ways_are_compared_on_the_test_split_and_the_same_command_repeats_nothing(
    settings, tmp_path, two_ways, monkeypatch
):
    table, notes = run_balance(tmp_path / "out", settings, seeds=2)
    assert table["balance"].tolist() == ["none", "weights", *THRESHOLDS.values(), TFIDF]
    for row, (way, thresholds) in enumerate(
        [("none", "none"), ("weights", "none"), ("none", "f1"), ("weights", "f1")]
    ):
        found = [of_a_run(tmp_path, settings, way, thresholds, seed) for seed in (42, 43)]
        names = ("macro_f1", "balanced_accuracy", "calibration_error", "calibration_error_before")
        for name, mean in zip(names, np.mean(found, axis=0), strict=True):
            assert table[name][row] == pytest.approx(mean, abs=1e-3)
    assert table["difference"].isna().tolist() == [True, False, False, False, False]
    gains = table["macro_f1"] - table["macro_f1"][0]
    assert table["difference"][1:].to_numpy() == pytest.approx(gains[1:].to_numpy())
    assert (table["macro_f1_low"] <= table["macro_f1"]).all()
    assert table["calibration_error"].isna().tolist() == [False] * 4 + [True]
    assert table["minutes"][0] == table["minutes"][2]

    page = (tmp_path / "out" / "balance.md").read_text()
    assert page == format_balance(table, notes) and "nan" not in page
    assert "The rarest class is 'mixed', with 6 texts in train and valid and 2 tested" in page
    assert "which chose nothing here: the epoch of the best macro F1, the temperature" in page
    saved = pd.read_csv(tmp_path / "out" / "balance.csv")
    pd.testing.assert_frame_equal(saved, table, check_dtype=False)
    assert (tmp_path / "out" / "balance.png").stat().st_size > 5_000

    monkeypatch.setattr(trials, "run_trial", None)
    again, _ = run_balance(tmp_path / "out", settings, seeds=2)
    pd.testing.assert_frame_equal(again, table)


def of_a_run(folder, settings, way, thresholds, seed):
    """Macro F1, balanced accuracy and calibration errors in % of a run that has thresholds itself
    where the experiment's has none."""
    run = folder / f"{way}-{thresholds}-seed{seed}"
    shutil.copytree(folder / "out" / f"{way}-seed{seed}", run)
    found = read_own_table(run / "report" / "predictions.csv", Run.open(run).record.counts["test"])
    how = replace(settings.classifier, balance=way, thresholds=thresholds, select_by="macro-f1")
    again = begin(run, replace(settings, seed=seed, classifier=how))
    again.carry_out("classifier")
    predictor = Predictor(again.place("classifier"), settings.precision)
    texts = found["text"].tolist()
    predicted = predictor.predict(texts)["predicted"]
    (before,) = predictor.each(predictor.store(texts)).values()
    p, truth = found[probability_columns(found)].to_numpy(float), true_classes(found)
    return [
        100 * f1_score(found["label"], predicted, average="macro"),
        100 * balanced_accuracy_score(found["label"], predicted),
        100 * expected_calibration_error(p, truth),
        100 * expected_calibration_error(before, truth),
    ]


def test_several_labels_a_text_are_refused(settings, tmp_path, monkeypatch):
    load = balance.load_corpus
    monkeypatch.setattr(balance, "load_corpus", lambda *of: replace(load(*of), multilabel=True))
    with pytest.raises(SettingError, match="balance compares ways for one label a text, and thos"):
        run_balance(tmp_path, settings, seeds=1)


def test_runs_on_other_test_texts_are_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(balance, "BALANCES", ("none",))
    monkeypatch.setattr(balance, "THRESHOLDS", {})
    run_balance(tmp_path, settings, seeds=1)
    path = tmp_path / f"{slug(TFIDF)}-seed42" / "report" / "predictions.csv"
    path.write_text(path.read_text().replace("film", "play"))
    with pytest.raises(RunFolderError, match="have different test texts.* with another --out"):
        run_balance(tmp_path, settings, seeds=1)


def test_the_rarest_class_is_one_that_is_tested(rare):
    corpus = load_corpus(DataSettings(str(rare), text="review", label="sentiment"), 42)
    assert find_rarest(corpus) == ("mixed", 6, 2)
    there = (corpus.table["split"] != "test") | (corpus.table["label"] != "mixed")
    assert find_rarest(replace(corpus, table=corpus.table[there]))[0] == "pos"


def test_the_figure_shows_intervals_and_both_calibration_errors():
    table = pd.DataFrame(
        {
            "balance": ["none", "weights", TFIDF],
            "n": 100,
            "macro_f1": [60.0, 65.0, 55.0],
            "macro_f1_low": [50.0, 55.0, 45.0],
            "macro_f1_high": [70.0, 75.0, 65.0],
            "calibration_error_before": [3.0, 9.0, 6.0],
            "calibration_error": [2.0, 4.0, np.nan],
        }
    )
    left, right = balance_figure(table).axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["none", "weights", TFIDF]
    intervals = [line.get_xdata() for line in left.lines if len(line.get_xdata()) == 2]
    assert [list(ends) for ends in intervals] == [[50, 70], [55, 75], [45, 65]]
    drawn = {line.get_label(): line.get_xdata() for line in right.lines}
    assert list(drawn["before"]) == [3, 9, 6]
    assert list(drawn["after temperature"])[:2] == [2, 4]
    assert left.get_ylim()[0] > left.get_ylim()[1], "the first way stands on top"
