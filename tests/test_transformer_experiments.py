"""Experiments whose runs start from a transformer."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import small_settings
from tests.tiny_transformers import make_checkpoint
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.study_figures import methods_figure
from ulmfit_app.experiments import ablation, folds, label_curve, methods, paper_tables, trials
from ulmfit_app.experiments.comparing import slug
from ulmfit_app.experiments.methods import FULL, METHODS, format_methods, run_methods
from ulmfit_app.experiments.on_transformers import epochs_for, short_name
from ulmfit_app.experiments.paper_tables import (
    FULL_ROW,
    TABLE_6,
    TABLE_7,
    TABLES,
    TRANSFORMER_TABLES,
)
from ulmfit_app.experiments.starts import run_starts
from ulmfit_app.experiments.used import check_used
from ulmfit_app.pipeline import report
from ulmfit_app.pipeline.budget import Rates
from ulmfit_app.pipeline.run import Run
from ulmfit_app.presets import LAPTOP
from ulmfit_app.training import choosing
from ulmfit_app.training.choosing import choose_plan
from ulmfit_app.training.recipes import count_epochs

pytest.importorskip("transformers", reason="needs the extra transformers")
pytestmark = pytest.mark.usefixtures("in_this_process", "undrawn")

ON_TINY = "ULMFiT's recipe on tiny"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a BERT of four blocks and random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny", "bert")


@pytest.fixture
def settings(csv, tiny, monkeypatch):
    """Of a run on the made reviews that starts from the tiny BERT, without stage two."""
    monkeypatch.setattr(report, "N_EXPLAINED", 0)
    monkeypatch.setattr(choosing, "STEPS_PER_EPOCH", 1)  # few texts are read once per epoch
    made = small_settings(csv)
    lm = replace(made.lm, pretrained=str(tiny), epochs=0)
    return replace(made, lm=lm, classifier=replace(made.classifier, epochs=None, batch_size=64))


def with_stage_two(settings, epochs=1):
    return replace(settings, lm=replace(settings.lm, epochs=epochs))


@pytest.fixture
def ran(monkeypatch):
    """The trials that were begun, which are not carried out; behind the last the work ends."""
    begun = []

    def carry_out(found, folder, description, executor):
        begun.extend(found)
        if description != "Language models":
            raise InterruptedError

    for module in (ablation, label_curve, methods):
        monkeypatch.setattr(module, "carry_out", carry_out)
    return begun


# ------------------------------------------------------------------------------------ label curve
def test_a_label_curve_of_a_transformer_has_stage_two_or_none_tfidf_and_the_same_labels(
    settings, tmp_path
):
    asked = with_stage_two(replace(settings, classifier=replace(settings.classifier, epochs=1)))
    asked = replace(asked, classifier=replace(asked.classifier, plan="full"))
    table = label_curve.run_label_curve(tmp_path / "out", asked, [20], seeds=1)
    ways = [f"{ON_TINY}, semi-supervised", f"{ON_TINY}, supervised", label_curve.TFIDF]
    assert table["way"].tolist() == ways and table["labels"].tolist() == [20] * 3
    assert table["difference"].isna().tolist() == [True, False, False], "against the first way"

    shared, semi, supervised = (
        Run.open(tmp_path / "out" / name)
        for name in (
            f"lm-{slug(ways[0])}-seed42",
            *(f"{slug(way)}-20-seed42" for way in ways[:2]),
        )
    )
    assert shared.record.lm_epochs >= 1 and shared.rows["read"].sum() == 116
    for run, origin in ((semi, "the bundle"), (supervised, "the folder")):
        assert run.record.lm_epochs == 0
        assert run.record.directions[0].start.origin.startswith(origin)
        assert run.rows["split"].value_counts().to_dict() == {"test": 32, "train": 16, "valid": 4}
    texts = [set(run.rows["text"][run.rows["split"] != "test"]) for run in (semi, supervised)]
    assert texts[0] == texts[1]
    page = label_curve.format_curve(table, label_curve.describe_left_out(asked))
    assert f"against the first, {ways[0]!r}" in page
    assert f"| 20 | {ways[0]} | {table['error'][0]:.1f} (" in page
    assert page.endswith(
        "the ways from random weights are left out. Supervised, its classifier starts from it as "
        "it came.\n"
    )
    assert (tmp_path / "out" / "labels.png").stat().st_size > 10_000


def test_without_stage_two_the_semi_supervised_way_is_left_out_and_rivals_stay(settings, ran):
    assert list(label_curve.choose_ways(settings, minilm=True)) == [
        f"{ON_TINY}, supervised", label_curve.TFIDF, *label_curve.MINILM
    ]  # fmt: skip
    (note,) = label_curve.describe_left_out(settings)
    assert note.endswith("--lm.epochs 0 leaves out stage two, and so the semi-supervised way.")
    assert "--lm.epochs" not in label_curve.describe_left_out(with_stage_two(settings))[0]
    assert label_curve.describe_left_out(LAPTOP) == []


def test_stage_two_does_not_change_what_the_supervised_way_is(settings, tmp_path, ran):
    made = []
    for asked in (settings, with_stage_two(settings, 3)):
        with pytest.raises(InterruptedError):
            label_curve.run_label_curve(tmp_path, asked, [20], seeds=1)
        made.append([trial for trial in ran if trial.name.endswith("-supervised-20-seed42")])
        ran.clear()
    (alone,), (semi, beside) = made
    assert alone == beside, "so that a finished run is used again"
    assert alone.n_labels == semi.n_labels == 20


# --------------------------------------------------------------------------------------- ablation
def test_tables_6_and_7_of_a_transformer_leave_out_what_is_awd_lstms_and_add_pairs(settings):
    asked = with_stage_two(settings)
    assert list(paper_tables.tables_for(asked)) == [TABLE_6, TABLE_7]
    assert list(paper_tables.tables_for(settings)) == [TABLE_7], "without stage two"
    assert list(paper_tables.tables_for(LAPTOP)) == list(TABLES)
    seven = [row.name for row in TRANSFORMER_TABLES[TABLE_7]]
    assert seven == [
        "full", "full + discr", "last", "chain-thaw", "freez", "freez + discr", "freez + stlr",
        "freez + cos", "contrastive", FULL_ROW.name,
    ]  # fmt: skip
    assert all(row.direction == "forward" for row in paper_tables.list_rows(asked))
    papers = {row.name: row.paper for row in TRANSFORMER_TABLES[TABLE_7]}
    assert papers["last"]["trec6"] == 16.09 and papers["contrastive"] == {}
    names = paper_tables.list_language_models(asked)
    assert set(names) == {"none", "full", "full + discr", "full + discr + stlr"}
    assert paper_tables.list_language_models(settings) == ["full + discr + stlr"]


def test_rows_of_a_transformer_have_epochs_enough_for_each_and_the_same(settings, tmp_path):
    planned = ablation.with_full_recipe(settings)
    assert planned.classifier.epochs == 13, "pairs, head, all: the longest plan"
    for row in paper_tables.list_rows(settings):
        trial = ablation.plan_classifier(row, planned, 42, tmp_path).settings
        plan, _ = choose_plan(trial.classifier, 6, True, architecture="transformer")
        assert count_epochs(plan) == 13 and not trial.bidirectional
        assert trial.lm.epochs == 0
    asked = replace(settings, classifier=replace(settings.classifier, epochs=20))
    assert ablation.with_full_recipe(asked).classifier.epochs == 20
    few = replace(settings, classifier=replace(settings.classifier, epochs=7))
    expected = "--classifier.epochs 7: The plan 'contrastive' has 3 phases: it needs 12 epochs"
    with pytest.raises(SettingError, match=expected):
        ablation.with_full_recipe(few)


def test_an_ablation_of_a_transformer_says_what_it_left_out(settings, tmp_path, monkeypatch):
    seven = TRANSFORMER_TABLES[TABLE_7]
    kept = {TABLE_7: [row for row in seven if row.name in ("contrastive", FULL_ROW.name)]}
    monkeypatch.setattr(paper_tables, "TRANSFORMER_TABLES", kept)
    few = replace(settings.data, max_train=20)
    table, findings = ablation.run_ablation(tmp_path, replace(settings, data=few), seeds=1)
    assert table["row"].tolist() == ["contrastive", FULL_ROW.name]
    assert table["n"].tolist() == [12] * 2 and table["paper"].isna().all(), "no data of theirs"
    assert len(findings) == 2 and "Nor is there table 6: --lm.epochs 0" in findings[1]
    assert "the row from scratch, and the directions" in findings[1]
    assert "Each row has 13 epochs." in findings[1]
    page = (tmp_path / "ablation.md").read_text()
    assert "the paper's AWD-LSTM" in page and findings[1] in page
    run = Run.open(tmp_path / "full-discr-stlr-contrastive-seed42")
    assert run.record.directions[0].plan.name == "contrastive"
    assert run.record.settings.classifier.schedule == "slanted-triangular"
    assert not (tmp_path / "full-discr-stlr-contrastive-seed42" / "report").exists()


def test_minutes_of_an_ablation_of_a_transformer_are_those_of_its_rows(
    settings, tmp_path, monkeypatch
):
    rates = Rates(0, lm_training=1e-4, classifier_training=2e-4, encoding=0, baseline=0)
    monkeypatch.setattr(ablation, "measure_rates", lambda *_: rates)
    monkeypatch.setattr(ablation, "at_once", lambda: 1)
    for asked, n_lms in ((with_stage_two(settings), 3), (settings, 0)):
        fitted = ablation.fit_to_minutes(60, asked, seeds=2)
        rows = {row.folder for row in paper_tables.list_rows(asked)}
        assert len(rows) == (13 if n_lms else 10)
        seconds = len(rows) * (2e-4 * fitted.classifier.max_tokens + ablation.SECONDS_PER_TRIAL)
        if n_lms:
            seconds += n_lms * (1e-4 * fitted.lm.max_tokens + ablation.SECONDS_PER_TRIAL)
        assert 2 * seconds == pytest.approx(3600, rel=1e-3)
        assert fitted.classifier.epochs == 13


# ---------------------------------------------------------------------------------------- methods
@pytest.fixture
def two_methods(monkeypatch):
    kept = {name: METHODS[name] for name in (FULL, "head alone")}
    monkeypatch.setattr(methods, "METHODS", kept)


def test_methods_are_compared_on_validation_texts_and_the_same_command_repeats_nothing(
    settings, tmp_path, two_methods, monkeypatch
):
    asked = replace(settings, classifier=replace(settings.classifier, epochs=1))
    table, notes = run_methods(tmp_path, asked, seeds=2)
    assert table["method"].tolist() == [FULL, "head alone"]
    rows = [
        pd.read_csv(tmp_path / f"full-seed{seed}" / "classifier" / "validation.csv")["row"]
        for seed in (42, 43)
    ]
    assert set(table["n"]) == {len(pd.concat(rows).unique())}, "each held-out text once"
    assert table["difference"].isna().tolist() == [True, False]
    full, head = table["trained_parameters"]
    assert full == table["parameters"][0] and 0 < head < full / 10
    assert (table["minutes"] >= 0).all() and (table["peak_memory_gb"] > 0).all()
    assert not (tmp_path / "full-seed42" / "report").exists(), "the test split stays unread"
    assert "on tiny, as it came, for 1 epochs" in notes[0]
    page = (tmp_path / "methods.md").read_text()
    assert page == format_methods(table, notes) and notes[0] in page
    assert f"| {head:,.0f} of {full:,.0f} |" in page
    saved = pd.read_csv(tmp_path / "methods.csv")
    pd.testing.assert_frame_equal(saved, table, check_dtype=False)
    assert (tmp_path / "methods.png").stat().st_size > 5_000

    monkeypatch.setattr(trials, "run_trial", None)
    again, _ = run_methods(tmp_path, asked, seeds=2)
    pd.testing.assert_frame_equal(again, table)


def test_errors_of_methods_are_those_of_their_validation_files(
    settings, tmp_path, two_methods, csv
):
    made = pd.read_csv(csv)
    few = made[(made["sentiment"] == "neg") | (made.index < 40)]  # one label for both is not half
    few.to_csv(csv, index=False)
    asked = replace(settings, classifier=replace(settings.classifier, epochs=1))
    table, _ = run_methods(tmp_path, asked, seeds=1)
    for name, error in zip(table["method"], table["error"], strict=True):
        file = tmp_path / f"{slug(name)}-seed42" / "classifier" / "validation.csv"
        found = read_own_table(file, int(table["n"][0]))
        guesses = found[["p_neg", "p_pos"]].astype(float).to_numpy().argmax(1)
        assert error == pytest.approx(100 * np.mean(guesses != (found["label"] == "pos")))


def test_methods_differ_in_what_they_name_alone_and_share_a_seeds_language_model(
    settings, tmp_path, ran
):
    asked = with_stage_two(settings)
    with pytest.raises(InterruptedError):
        run_methods(tmp_path, asked, seeds=2)
    lms, begun = ran[:2], ran[2:]
    assert [(trial.name, trial.last) for trial in lms] == [
        ("lm-seed42", "lm"),
        ("lm-seed43", "lm"),
    ]
    assert len(begun) == 2 * len(METHODS) and len({trial.name for trial in begun}) == len(begun)
    for trial in begun:
        s = trial.settings
        assert s.lm.pretrained == str(tmp_path / f"lm-seed{s.seed}" / "lm") and s.lm.epochs == 0
        same = replace(s.classifier, plan="auto", adapter=None)
        assert same == replace(settings.classifier, epochs=9, plan="auto"), "gradual's are nine"
    adapters = [trial.settings.classifier.adapter for trial in begun if trial.settings.seed == 42]
    assert adapters == [None, None, None, None, "lora", "ia3", "prompt"]


def test_without_stage_two_methods_start_from_the_transformer_itself(settings, tmp_path, ran):
    with pytest.raises(InterruptedError):
        run_methods(tmp_path, settings, seeds=1)
    assert {trial.settings.lm.pretrained for trial in ran} == {settings.lm.pretrained}
    assert len(ran) == len(METHODS)


@pytest.mark.parametrize("adapter", ["LoRA", "IA3", "prompt tuning"])
def test_an_adapters_run_says_how_few_parameters_learn(settings, tmp_path, monkeypatch, adapter):
    pytest.importorskip("peft", reason="needs the extra transformers")
    monkeypatch.setattr(methods, "METHODS", {FULL: METHODS[FULL], adapter: METHODS[adapter]})
    asked = replace(settings, classifier=replace(settings.classifier, epochs=1))
    table, _ = run_methods(tmp_path, asked, seeds=1)
    trained = table["trained_parameters"]
    assert 0 < trained[1] < trained[0] / 2 and table["parameters"][1] > table["parameters"][0]


def test_a_bundle_that_does_not_count_its_parameters_leaves_a_gap(
    settings, tmp_path, two_methods, monkeypatch
):
    asked = replace(settings, classifier=replace(settings.classifier, epochs=1))
    load = methods.load_bundle
    monkeypatch.setattr(methods, "load_bundle", lambda *of: replace(load(*of), about={}))
    table, notes = run_methods(tmp_path, asked, seeds=1)
    assert table["trained_parameters"].isna().all()
    assert "nan" not in format_methods(table, notes)


def test_the_figure_of_methods_names_how_many_parameters_learn():
    table = pd.DataFrame(
        {
            "method": [FULL, "LoRA"],
            "n": 100,
            "error": [4.0, 5.0],
            "low": [2.0, 3.0],
            "high": [8.0, 9.0],
            "trained_parameters": [22_000_000, float("nan")],
        }
    )
    axes = methods_figure(table).axes[0]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["full\n22,000,000 learn", "LoRA"]
    intervals = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert [list(ends) for ends in intervals] == [[2, 8], [3, 9]]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first method stands on top"


def test_methods_from_an_awd_lstm_are_refused_with_the_command_to_give(csv, tmp_path):
    expected = "methods compares ways to train a transformer, .* --pretrained none, is none. Name"
    with pytest.raises(SettingError, match=expected):
        run_methods(tmp_path, small_settings(csv), seeds=1)
    with pytest.raises(
        SettingError, match=r"ulmfit_app experiment methods imdb --pretrained minilm"
    ):
        check_used(LAPTOP, LAPTOP, "methods")


# ----------------------------------------------------------------------------------------- common
def test_a_transformer_whose_weights_have_changed_is_another_start(settings, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "tiny")
    lm = replace(settings.lm, pretrained=str(tmp_path / "tiny"))
    trial = trials.Trial("one", replace(settings, lm=lm))
    before = trials._made_with(trial)
    assert before == trials._made_with(trial)
    file = tmp_path / "tiny" / "model.safetensors"
    weights = load_file(file)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, file)
    assert trials._made_with(trial) != before


def test_a_start_is_called_by_its_name_or_that_of_its_folder():
    names = {"minilm": "minilm", "/models/bert": "bert", "org/gpt": "gpt", "runs/a/lm": "a"}
    assert {name: short_name(name) for name in names} == names


def test_plans_get_the_epochs_of_the_longest_of_them_by_the_groups_of_the_start(settings):
    assert epochs_for(["full", "gradual-discr"], settings) == 5 + 4
    two = replace(settings, classifier=replace(settings.classifier, groups=2))
    assert epochs_for(["full", "gradual-discr"], two) == 8
    one = replace(settings, classifier=replace(settings.classifier, epochs=5))
    assert epochs_for(["full", "last"], one) == 5
    with pytest.raises(SettingError, match=r"--classifier.epochs 5: The plan 'gradual-discr' has"):
        epochs_for(["full", "gradual-discr"], one)


def test_folds_of_a_transformer_validate_on_each_training_row_once(settings, tmp_path, csv):
    made = pd.read_csv(csv)
    split = np.where(np.arange(len(made)) < 100, "train", "test")
    made.assign(split=split).to_csv(csv, index=False)
    data = replace(settings.data, split="split")
    asked = replace(settings, data=data, classifier=replace(settings.classifier, epochs=1))
    asked = replace(asked, classifier=replace(asked.classifier, plan="full"))
    table = folds.cross_validate(tmp_path, asked, n_folds=2, seeds=1)
    n = table.set_index("what")["n"]
    assert n["all 2 folds"] == 100 and n["test, mean of 2 models"] == 60
    start = Run.open(tmp_path / "fold1-seed42").record.directions[0].start
    assert start.facts()["architecture"] == "transformer"


@pytest.mark.parametrize("name", ["minilm", "folder"])
def test_starts_compares_no_transformers(settings, tmp_path, tiny, name):
    named = str(tiny) if name == "folder" else name
    with pytest.raises(
        SettingError, match=f"--from {named} is a transformer, and starts compares"
    ):
        run_starts(tmp_path, settings, [named], seeds=1)


def with_start(**changes):
    return replace(LAPTOP, lm=replace(LAPTOP.lm, pretrained="minilm", **changes))


@pytest.mark.parametrize(
    ("verb", "asked", "words"),
    [
        ("starts", {}, "--pretrained names a transformer, minilm, and starts compares AWD-LSTMs"),
        (
            "ablation",
            {"lm": {"lr": 0.1}},
            "--lm.lr is an AWD-LSTM's; a transformer's rate is --lm",
        ),
        ("ablation", {"lm": {"decay": 2.0}}, "--lm.decay is what ablation compares"),
        ("ablation", {"classifier": {"adapter": "lora"}}, "--classifier.adapter is what ablation"),
        ("methods", {"classifier": {"adapter": "lora"}}, "--classifier.adapter is what methods"),
        (
            "methods",
            {"classifier": {"plan": "last"}},
            "--classifier.plan is what methods compares",
        ),
        ("methods", {"lm": {"lr": 0.1}}, "--lm.lr is an AWD-LSTM's"),
        ("labels", {"lm": {"random_lr": 0.1}}, "--lm.random-lr is an AWD-LSTM's"),
        ("folds", {"data": {"fold": 2}}, "--fold is what folds compares"),
    ],
)
def test_what_an_experiment_on_a_transformer_does_not_use_is_refused(verb, asked, words):
    settings = with_start()
    for section, changes in asked.items():
        settings = replace(settings, **{section: replace(getattr(settings, section), **changes)})
    with pytest.raises(SettingError, match=words):
        check_used(settings, LAPTOP, verb)


def test_what_an_experiment_on_a_transformer_uses_can_be_set():
    rates = with_start(transformer_lr=1e-4, epochs=2)
    shaped = replace(rates, classifier=replace(rates.classifier, groups=6, pooling="concat"))
    for verb in ("labels", "ablation", "methods", "folds"):
        check_used(shaped, LAPTOP, verb)
    check_used(with_start(decay=2.6, schedule="cosine"), LAPTOP, "labels")
    adapted = replace(rates, classifier=replace(rates.classifier, adapter="lora", plan="full"))
    check_used(adapted, LAPTOP, "labels")
