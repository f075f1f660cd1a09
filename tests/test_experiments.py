"""What is compared with what, what is said of it, and runs side by side."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.conftest import small_settings
from ulmfit_app import executors
from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.predictions import report_predictions
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import DataError, RunFolderError, SettingError, WorkerError
from ulmfit_app.evaluation.study_figures import ablation_figure
from ulmfit_app.experiments import ablation, comparing, folds, paper_tables, trials
from ulmfit_app.experiments.comparing import ULMFIT, Row, compare_rows, state_finding
from ulmfit_app.experiments.paper_tables import FULL_ROW, TABLES
from ulmfit_app.files import write_table
from ulmfit_app.pipeline import report
from ulmfit_app.pipeline.budget import Rates
from ulmfit_app.presets import LAPTOP, PAPER, TINY

pytestmark = pytest.mark.usefixtures("in_this_process", "undrawn")


def rows_right(*errors: int, n: int = 200) -> list[np.ndarray]:
    """Of rows, each wrong on the first so many texts."""
    return [np.arange(n) >= wrong for wrong in errors]


DROPOUT = "Table 5, dropout in the language model"


def test_the_papers_last_row_is_the_same_in_each_table():
    assert all(rows[-1] is FULL_ROW for name, rows in TABLES.items() if name != DROPOUT)
    assert FULL_ROW.paper == TABLES[DROPOUT][-1].paper == {"imdb": 5.00, "trec6": 5.69}


@pytest.mark.parametrize("preset", [TINY, LAPTOP, PAPER])
def test_table_5_compares_awds_own_dropouts_with_none(preset, tmp_path):
    base = ablation.with_full_recipe(preset)
    none, awd = (ablation.plan_language_model(row.lm, base, 42) for row in TABLES[DROPOUT])
    assert (none.settings.lm.drop_mult, awd.settings.lm.drop_mult) == (0, 1)
    assert replace(none.settings.lm, drop_mult=1.0) == awd.settings.lm
    classifiers = [
        ablation.plan_classifier(row, base, 42, tmp_path).settings.classifier
        for row in TABLES[DROPOUT]
    ]
    assert classifiers[0] == classifiers[1]


@pytest.mark.parametrize("preset", [TINY, LAPTOP])
def test_rows_from_random_weights_are_trained_by_a_plan_for_them_and_for_longer(preset, tmp_path):
    base = ablation.with_full_recipe(preset)
    full = ablation.plan_classifier(FULL_ROW, base, 42, tmp_path).settings.classifier
    rows = [TABLES["Table 4, pretraining"][0], TABLES["Table 7, fine-tuning the classifier"][0]]
    for row, lm_epochs in zip(rows, (3 * base.lm.epochs, 0), strict=True):
        lm = ablation.plan_language_model(row.lm, base, 42).settings.lm
        assert (lm.pretrained, lm.decay, lm.epochs) == ("none", 1, lm_epochs)
        assert lm.max_tokens == (base.lm.max_tokens and 3 * base.lm.max_tokens)
        classifier = ablation.plan_classifier(row, base, 42, tmp_path).settings.classifier
        assert classifier.plan == "weak-start" and classifier.epochs == 3 * full.epochs
        labelled = [how.max_tokens / how.epochs for how in (classifier, full)]
        assert labelled[0] == labelled[1], "as many labels as the other rows"


def test_each_row_differs_from_ulmfit_in_what_it_names_alone(csv, tmp_path):
    base = ablation.with_full_recipe(small_settings(csv))
    full = ablation.plan_classifier(FULL_ROW, base, 42, tmp_path).settings
    assert (full.classifier.plan, full.classifier.schedule) == (
        "gradual-discr",
        "slanted-triangular",
    )
    for row in TABLES["Table 7, fine-tuning the classifier"][1:-1]:
        trial = ablation.plan_classifier(row, base, 42, tmp_path).settings
        assert trial.lm == full.lm and trial.data == full.data
        assert (
            replace(
                trial.classifier,
                **{name: getattr(full.classifier, name) for name in row.classifier},
            )
            == full.classifier
        )
    for row in TABLES["Table 6, fine-tuning the language model"][:-1]:
        trial = ablation.plan_classifier(row, base, 42, tmp_path).settings
        assert trial.classifier == full.classifier
        start = ablation.plan_language_model(row.lm, base, 42)
        assert trial.lm.pretrained == str(tmp_path / start.name / "lm") and trial.lm.epochs == 0


def test_what_unlabelled_texts_give_is_not_in_the_start_already():
    assert LAPTOP.starts == ["en-reviews-small"], "it has read IMDb's"
    assert comparing.start_from_general_text(LAPTOP).starts == ["en-small"]
    assert comparing.start_from_general_text(TINY) == TINY


def test_rows_of_different_trials_have_folders_of_their_own():
    rows = paper_tables.list_rows(LAPTOP)
    assert len({(row.folder, row.direction) for row in rows}) == len(rows)


def test_a_comparison_has_the_errors_of_all_seeds_and_the_differences_to_ulmfit():
    rows = [Row("worse", {"trec6": 9.0}), FULL_ROW]
    table = compare_rows("A table", rows, rows_right(40, 20), "trec6")
    worse, ours = table.to_dict("records")
    assert (worse["error"], ours["error"], worse["n"], worse["paper"]) == (20.0, 10.0, 200, 9.0)
    assert worse["difference"] == pytest.approx(10.0)
    assert worse["difference_low"] < 10 < worse["difference_high"] and worse[
        "p_value"
    ] == pytest.approx(2 / 2**20)
    assert np.isnan(ours["difference"])


def test_the_finding_says_what_is_told_apart_and_what_is_otherwise_than_in_the_paper():
    rows = [
        Row("worse", {"trec6": 9.0}),
        Row("alike", {"trec6": 8.0}),
        Row("better", {"trec6": 7.0}),
        FULL_ROW,
    ]
    right = rows_right(60, 31, 5, 30)
    said = state_finding(compare_rows("A table", rows, right, "trec6"))
    assert "ULMFiT is better than 'worse' (+15.0 points" in said
    assert "worse than 'better' (-12.5 points" in said and "not told apart from 'alike'" in said
    assert "Unlike in the paper: 'alike', 'better'." in said
    assert "The paper's order holds." in state_finding(
        compare_rows("A table", [rows[0], FULL_ROW], [right[0], right[-1]], "trec6")
    )
    assert "paper" not in state_finding(
        compare_rows("A table", [rows[0], FULL_ROW], [right[0], right[-1]], "reviews.csv")
    )


def test_the_figure_has_a_line_a_row_and_a_cross_for_each_figure_of_the_papers():
    rows = [Row("worse", {"trec6": 9.0}), Row("without a figure", {}), FULL_ROW]
    right = rows_right(60, 31, 30)
    axes = ablation_figure(compare_rows("A table", rows, right, "trec6")).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [row.name for row in rows]
    assert sum(line.get_marker() == "x" for line in axes.lines) == 2


@pytest.fixture
def two_tables(monkeypatch):
    tables = {
        "Table 6, fine-tuning the language model": [
            Row("no fine-tuning", {}, lm="none"),
            FULL_ROW,
        ],
        "Section 5, direction": [
            Row("backward", direction="backward"),
            Row("both", direction="both"),
            FULL_ROW,
        ],
    }
    monkeypatch.setattr(paper_tables, "TABLES", tables)


def test_an_ablation_is_a_table_of_run_folders_and_the_same_command_repeats_nothing(
    csv, tmp_path, two_tables, monkeypatch
):
    table, findings = ablation.run_ablation(tmp_path / "out", small_settings(csv), seeds=2)
    assert table["row"].tolist() == ["no fine-tuning", ULMFIT, "backward", "both", ULMFIT]
    rows = [
        pd.read_csv(tmp_path / "out" / f"none-seed{seed}" / "classifier" / "validation.csv")["row"]
        for seed in (42, 43)
    ]
    different = load_corpus(small_settings(csv).data, 42).table["text"][pd.concat(rows).unique()]
    assert [len(part) for part in rows] == [12, 12] and set(table["n"]) == {len(different)}, (
        "each of the 160 texts once"
    )
    assert len(findings) == 2 and (tmp_path / "out" / "ablation.png").stat().st_size > 10_000
    saved = pd.read_csv(tmp_path / "out" / "ablation.csv")
    pd.testing.assert_frame_equal(saved, table, check_dtype=False)
    run = tmp_path / "out" / "full-discr-stlr-seed43"
    assert (run / "classifier-backward" / "bundle.json").is_file() and not (
        run / "report"
    ).exists()
    assert json.loads((run / "run.json").read_text())["settings"]["seed"] == 43
    monkeypatch.setattr(trials, "run_trial", None)
    again, _ = ablation.run_ablation(tmp_path / "out", small_settings(csv), seeds=2)
    pd.testing.assert_frame_equal(again, table)


TWO_LINES = "two\rlines"


@pytest.fixture
def folded(csv, tmp_path, monkeypatch):
    """The folder and the table of two folds and two seeds: 112 texts to learn from, 48 to test."""
    monkeypatch.setattr(report, "N_EXPLAINED", 0)
    made = pd.read_csv(csv)
    # A label that pandas would read as a number, and a line break that its csv module leaves bare.
    made["sentiment"] = made["sentiment"].map({"neg": "01", "pos": TWO_LINES})
    made["review"] += "\rSent from my phone."
    split = np.where(np.arange(len(made)) < 112, "train", "test")
    write_table(csv, made.assign(split=split))
    settings = small_settings(csv)
    settings = replace(settings, data=replace(settings.data, split="split"))
    return tmp_path / "out", folds.cross_validate(tmp_path / "out", settings, n_folds=2, seeds=2)


def test_each_training_row_is_validated_on_once_a_seed_and_the_models_mean_labels_the_test_split(
    folded, csv, tmp_path
):
    folder, table = folded
    assert "| all 2 folds |" in folds.format_folds(table)
    accuracy, n = table.set_index("what")["accuracy"], table.set_index("what")["n"]
    runs = {
        f"fold {fold}, seed {seed}": folder / f"fold{fold}-seed{seed}"
        for fold in (1, 2)
        for seed in (42, 43)
    }
    p_second = f"p_{TWO_LINES}"

    def read(path, *, n_rows):
        found = read_own_table(path, n_rows)
        return found.assign(p=found[p_second].astype(float), second=found["label"] == TWO_LINES)

    held_out = {
        name: read(run / "classifier" / "validation.csv", n_rows=56) for name, run in runs.items()
    }
    for seed in (42, 43):
        rows = [set(held_out[f"fold {fold}, seed {seed}"]["row"]) for fold in (1, 2)]
        assert not rows[0] & rows[1] and len(rows[0] | rows[1]) == 112
    assert n["all 2 folds"] == 112, "a text is one text, however many seeds label it"
    every = pd.concat(held_out.values())
    right = (every["p"] > 0.5) == every["second"]
    assert accuracy["all 2 folds"] == pytest.approx(100 * right.mean())

    predictions = [read(run / "report" / "predictions.csv", n_rows=48) for run in runs.values()]
    mean = sum(table["p"] for table in predictions) / 4
    right = (mean > 0.5) == predictions[0]["second"]
    assert (
        accuracy["test, mean of 4 models"] == pytest.approx(100 * right.mean())
        and n["test, mean of 4 models"] == 48
    )

    saved = read(folder / "folds-predictions.csv", n_rows=112).set_index("text").sort_index()
    assert set(saved["label"]) == {"01", TWO_LINES}
    texts = read_own_table(csv, 160)["review"]
    of_rows = texts[every["row"].astype(int)].to_numpy()
    by_text = every.assign(text=of_rows).groupby("text")["p"].mean()
    np.testing.assert_allclose(saved["p"], by_text)
    assert report_predictions(folder / "folds-predictions.csv", tmp_path / "report").is_file()
    pd.testing.assert_frame_equal(pd.read_csv(folder / "folds.csv"), table, check_dtype=False)

    run = folder / "fold1-seed42"
    scored = comparing.score_validation(run, "forward", comparing.read_texts(run))
    assert list(scored) == ["text", "label", "right", "p_01", p_second]
    validation = run / "classifier" / "validation.csv"
    write_table(validation, read_own_table(validation, 56).head(55))
    with pytest.raises(RunFolderError, match="has 55 rows, and 56 were written"):
        comparing.score_validation(run, "forward", comparing.read_texts(run))
    validation.unlink()
    with pytest.raises(RunFolderError, match=r"lost a validation\.csv of classifier\. .* rm -r "):
        comparing.score_validation(run, "forward", comparing.read_texts(run))


def test_seeds_with_test_splits_of_their_own_have_no_mean(csv, tmp_path):
    with pytest.raises(SettingError, match="--seeds 2: the data has no test split of its own"):
        folds.cross_validate(tmp_path, small_settings(csv), n_folds=2, seeds=2)


def test_minutes_bound_the_tokens_of_each_training_and_the_same_command_keeps_them(
    csv, tmp_path, monkeypatch
):
    asked = replace(small_settings(csv), classifier=replace(TINY.classifier, epochs=None))
    fitted = ablation.fit_to_minutes(5, asked, seeds=1)
    assert 0 < fitted.lm.max_tokens < ablation.fit_to_minutes(10, asked, seeds=1).lm.max_tokens
    assert 6 <= fitted.classifier.epochs <= 12
    requested = {"minutes": 5}
    assert ablation.plan_once(tmp_path, requested, asked, lambda: fitted) == fitted
    assert ablation.plan_once(tmp_path, requested, asked, None) == asked
    with pytest.raises(SettingError, match="1 minutes are not enough for .* trainings here"):
        ablation.fit_to_minutes(1, asked, seeds=5)


def test_the_trainings_of_all_rows_together_take_the_minutes(csv, tmp_path, monkeypatch):
    rates = Rates(0, lm_training=1e-4, classifier_training=2e-4, encoding=0, baseline=0)
    monkeypatch.setattr(ablation, "measure_rates", lambda *_: rates)
    monkeypatch.setattr(ablation, "at_once", lambda: 1)
    fitted = ablation.with_full_recipe(ablation.fit_to_minutes(60, small_settings(csv), seeds=2))
    names = paper_tables.LANGUAGE_MODELS
    lms = [ablation.plan_language_model(name, fitted, 1) for name in names]
    lms = [trial for trial in lms if trial.settings.lm.epochs]
    classifiers = {
        row.folder: ablation.plan_classifier(row, fitted, 1, tmp_path)
        for row in paper_tables.list_rows(fitted)
    }
    trainings = [
        (trial.settings, seconds)
        for trials_of_kind, seconds in (
            (lms, lambda settings: 1e-4 * settings.lm.max_tokens),
            (classifiers.values(), lambda settings: 2e-4 * settings.classifier.max_tokens),
        )
        for trial in trials_of_kind
        for _ in range(1 + trial.settings.bidirectional)
    ]
    seconds = [ablation.SECONDS_PER_TRIAL + of(settings) for settings, of in trainings]
    assert 2 * sum(seconds) == pytest.approx(3600, rel=1e-3)


def test_the_error_of_a_trial_is_raised_and_the_others_are_kept(csv, tmp_path):
    good = trials.Trial("good", small_settings(csv), last="tokens")
    bad = trials.Trial(
        "bad", replace(good.settings, data=DataSettings(source=str(tmp_path / "none.csv")))
    )
    with pytest.raises(DataError, match=r"none\.csv"):
        trials.carry_out([good, bad], tmp_path, "Trials")
    assert (
        trials.read_facts(good, tmp_path)["minutes"] >= 0
        and not (tmp_path / "bad" / "trial.json").exists()
    )


def test_an_upgrade_leaves_finished_trials_finished(csv, tmp_path, monkeypatch):
    trial = trials.Trial("one", small_settings(csv), last="tokens")
    trials.carry_out([trial], tmp_path, "Trials")
    facts = trials.read_facts(trial, tmp_path)
    monkeypatch.setattr(trials, "versions", lambda: {**facts["versions"], "torch": "99"})
    monkeypatch.setattr(trials, "run_trial", None)
    trials.carry_out([trial], tmp_path, "Trials")
    assert trials.read_facts(trial, tmp_path) == facts


def _dies(*_) -> None:
    os._exit(9)


def test_a_run_whose_process_is_killed_is_named(csv, tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "ProcessPoolExecutor", ProcessPoolExecutor)
    with pytest.raises(
        WorkerError, match=r"the run one, whose log is .*one/log\.txt, was ended from outside"
    ):
        trials.carry_out(
            [trials.Trial("one", small_settings(csv), instead=_dies)], tmp_path, "Trials"
        )


def test_trials_run_in_processes_of_their_own_and_write_what_they_say_to_a_file(
    csv, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(executors, "ProcessPoolExecutor", ProcessPoolExecutor)
    trials.carry_out([trials.Trial("one", small_settings(csv), last="tokens")], tmp_path, "Trials")
    assert "a vocabulary of" in (tmp_path / "one" / "log.txt").read_text()
    assert "a vocabulary of" not in "".join(capfd.readouterr())
