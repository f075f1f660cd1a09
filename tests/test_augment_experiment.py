"""The comparison of ways to augment, at several numbers of labels."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.conftest import small_settings
from ulmfit_app import __main__ as cli
from ulmfit_app.config import AugmentationSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.evaluation.metrics import difference_interval, paired_comparison
from ulmfit_app.experiments import augment
from ulmfit_app.experiments.augment import format_augment, run_augment, state_findings
from ulmfit_app.files import write_table

pytestmark = pytest.mark.usefixtures("undrawn")

MIX, TRANSLATE = ["mix"], AugmentationSettings(copies=3, command="cat")


@pytest.fixture
def planned(csv, monkeypatch):
    """The trials that were asked for; each is carried out by writing made predictions.

    Without augmentation every third text is wrong, at 60 labels every fourth; with mix every
    second at 20 labels, and every third at 60; with lm none.
    """
    trials = []

    def carry_out(asked, folder, description, executor):
        trials.append((description, list(asked)))
        for trial in asked:
            (folder / trial.name).mkdir(parents=True, exist_ok=True)
            (folder / trial.name / "trial.json").write_text(json.dumps({"minutes": 1.5}))
            if trial.last != "report":
                continue
            table = load_corpus(trial.settings.data, trial.settings.seed).table
            test = table[table["split"] == "test"].sort_values("text")
            every = {("mix", 20): 2, ("none", 60): 4, ("lm", 20): 99, ("lm", 60): 99}.get(
                (trial.settings.augment.method, trial.n_labels), 3
            )
            wrong = np.arange(len(test)) % every == every - 1
            predicted = np.where(wrong, "?", test["label"])
            told = pd.DataFrame({"text": test["text"], "label": test["label"]})
            told["predicted"] = predicted
            write_table(folder / trial.name / "report" / "predictions.csv", told)

    monkeypatch.setattr(augment, "carry_out", carry_out)
    return trials


def fixed(csv, how=TRANSLATE):
    """Settings whose test split is the same for all seeds."""
    table = pd.read_csv(csv).assign(split=["test"] * 60 + ["train"] * 100)
    table.to_csv(csv, index=False)
    settings = replace(small_settings(csv), augment=how)
    return replace(settings, data=replace(settings.data, split="split"))


def test_all_methods_have_the_same_labels_and_language_model_of_a_seed(planned, csv, tmp_path):
    methods = ["mix", "lm", "translate", "mix"]
    run_augment(tmp_path / "out", fixed(csv), [60, 20], 2, methods)
    (said, lms), (_, points) = planned
    assert said == "Language models" and [each.name for each in lms] == ["lm-seed42", "lm-seed43"]
    assert all(each.last == "lm" and each.settings.data.max_train is None for each in lms)
    assert len(points) == 2 * 2 * 4
    for trial in points:
        settings = trial.settings
        start = tmp_path / "out" / f"lm-seed{settings.seed}" / "lm"
        assert (settings.lm.pretrained, settings.lm.epochs) == (str(start), 0)
        kept = settings.data.max_train, settings.data.max_valid, settings.data.max_unlabelled
        assert kept == {20: (16, 4, 0), 60: (50, 10, 0)}[trial.n_labels]
    how = {trial.settings.augment.method: trial.settings.augment for trial in points}
    assert how == {
        "none": AugmentationSettings(),
        "mix": AugmentationSettings("mix"),
        "lm": AugmentationSettings("lm", copies=3),
        "translate": AugmentationSettings("translate", command="cat"),
    }


def test_without_a_training_of_the_language_model_all_start_from_it_as_it_came(
    planned, csv, tmp_path
):
    settings = fixed(csv, AugmentationSettings())
    settings = replace(settings, lm=replace(settings.lm, epochs=0))
    run_augment(tmp_path, settings, [20], 1, MIX)
    ((said, points),) = planned
    assert said == "Classifiers"
    assert {each.settings.lm.pretrained for each in points} == {"none"}


def test_differences_are_to_none_at_as_many_labels_on_the_same_texts(planned, csv, tmp_path):
    settings = fixed(csv, AugmentationSettings())
    table, notes = run_augment(tmp_path / "out", settings, [20, 60], 1, ["mix", "lm"])
    assert list(zip(table["labels"], table["method"], strict=True)) == [
        (n, method) for n in (20, 60) for method in ("none", "mix", "lm")
    ]
    assert table["error"].round(6).tolist() == [33.333333, 50, 0, 25, 33.333333, 0]
    assert table["n"].eq(60).all() and table["growth"].tolist() == [1, 1, 2, 1, 1, 2]
    assert table["minutes"].eq(1.5).all()
    rows = np.arange(60)
    none, mix = rows % 3 != 2, rows % 2 != 1
    line = table.iloc[1]
    assert line["difference"] == pytest.approx(100 * (none.mean() - mix.mean()))
    interval = 100 * np.array(difference_interval(none.astype(float) - mix))
    assert [line["difference_low"], line["difference_high"]] == pytest.approx(interval)
    assert line["p_value"] == pytest.approx(paired_comparison(none, mix)["p_value"])
    assert table["difference"].isna().tolist() == [True, False, False] * 2
    assert table["difference"].iloc[4] == pytest.approx(100 / 3 - 25)
    for ending in ("csv", "md", "png"):
        assert (tmp_path / "out" / f"augment.{ending}").is_file()
    read = pd.read_csv(tmp_path / "out" / "augment.csv")
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    page = (tmp_path / "out" / "augment.md").read_text()
    assert page == format_augment(table, notes)
    assert (
        "| 20 | lm | 2 times as many | 0.0 (" in page and "| 60 | none | those labelled |" in page
    )


def test_what_helps_and_what_hurts_is_said(planned, csv, tmp_path):
    _, notes = run_augment(
        tmp_path, fixed(csv, AugmentationSettings()), [20, 60], 1, ["mix", "lm"]
    )
    better, apart, count = notes
    assert better.startswith("Better than none: lm at 20 labels (-33.3 (")
    assert "; lm at 60 labels (" in better
    # 20 texts of 60 wrong against 30, on other texts: McNemar's p is 0.1.
    assert apart.startswith("Not told apart from none: mix at 20 labels (+16.7 (")
    assert count.startswith("Of 4 comparisons, one in 20 would look better or worse")


def test_a_method_that_errs_more_is_said_to_hurt():
    names = ["labels", "method", "difference", "difference_low", "difference_high", "p_value"]
    rows = [(100, "none", *[np.nan] * 4), (100, "eda", 4.0, 2.0, 6.0, 0.001)]
    said = state_findings(pd.DataFrame(rows, columns=names))
    assert said[0] == "Worse than none: eda at 100 labels (+4.0 (+2.0 to +6.0), p = 0.001)."
    assert state_findings(pd.DataFrame(rows[:1], columns=names)) == []


@pytest.mark.parametrize(
    ("methods", "how", "said"),
    [
        (["lm"], TRANSLATE, "Add it: --methods lm translate"),
        (["translate"], AugmentationSettings(), "needs a command"),
        (["lm"], AugmentationSettings(share=2.0), "--augment.share must be from 0 to 1"),
    ],
)
def test_a_method_that_cannot_be_carried_out_is_told_before_any_training(
    planned, csv, tmp_path, methods, how, said
):
    with pytest.raises(SettingError, match=said):
        run_augment(tmp_path, fixed(csv, how), [20], 1, methods)
    assert planned == []


def test_texts_with_several_labels_are_refused(planned, csv, tmp_path):
    table = pd.read_csv(csv)
    table["sentiment"] = ['["a", "b"]' if i % 3 else '["b"]' for i in range(len(table))]
    table.to_csv(csv, index=False)
    settings = small_settings(csv)
    settings = replace(settings, data=replace(settings.data, multilabel=True))
    with pytest.raises(SettingError, match="--at counts texts with one label, and those of"):
        run_augment(tmp_path, settings, [20], 1, MIX)


def test_runs_on_other_test_texts_are_refused(planned, csv, tmp_path):
    settings = fixed(csv, AugmentationSettings())
    run_augment(tmp_path, settings, [20], 1, MIX)
    path = tmp_path / "none-20-seed42" / "report" / "predictions.csv"
    changed = pd.read_csv(path)
    changed.loc[0, "text"] = "another"
    real = augment.carry_out
    augment.carry_out = lambda *_: write_table(path, changed)
    try:
        with pytest.raises(RunFolderError, match="have different test texts"):
            run_augment(tmp_path, settings, [20], 1, MIX)
    finally:
        augment.carry_out = real


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--augment.method eda", "--augment.method is what augment compares"),
        ("--max-labels 30", "--max-labels is what augment compares"),
        ("--at 2", "expected numbers of labels, each 3 or more"),
    ],
)
def test_what_the_comparison_sets_itself_is_refused(csv, capsys, tmp_path, options, said):
    command = ["experiment", "augment", str(csv), "--preset", "tiny", "--out", str(tmp_path / "o")]
    start = ["--pretrained", "none", "--text", "review", "--label", "sentiment"]
    assert cli.main([*command, *start, *options.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("in_this_process")
def test_the_command_compares_real_runs_and_continues(csv, capsys, tmp_path):
    command = ["experiment", "augment", str(csv), "--preset", "tiny", "--out", str(tmp_path / "o")]
    small = "--pretrained none --model.emb-sz 8 --model.n-hid 8 --model.n-layers 1 --lm.epochs 0"
    more = "--text review --label sentiment --classifier.epochs 1 --classifier.plan full"
    more += " --at 20 --seeds 1 --methods mix"
    assert cli.main([*command, *small.split(), *more.split()]) == 0
    said = capsys.readouterr().out
    assert "| 20 | mix | those labelled |" in said and "augment.png" in said
    assert cli.main([*command, *small.split(), *more.split()]) == 0
    assert said.splitlines()[-12:] == capsys.readouterr().out.splitlines()[-12:]
