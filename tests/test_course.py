"""The course: presets, the texts that come with it, checks that know the usual mistakes."""

import csv
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from data_scripts import course as data_script
from tests.conftest import says
from ulmfit_app.config import DataSettings
from ulmfit_app.course import (
    MESSY,
    OVERRIDE,
    PRESETS,
    REVIEWS,
    SEED,
    compare_intervals,
    lesson_01,
    lesson_02,
    lesson_04,
    setup,
)
from ulmfit_app.course.lesson_04 import PLANS
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.inspection import inspect
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.pipeline.run import begin
from ulmfit_app.presets import PAPER, TINY
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.text.store import TokenStore
from ulmfit_app.training.recipes import Plan, extend_to

from .conftest import made_store


# --------------------------------------------------------------------------------------- the frame
def test_one_name_scales_a_notebook_from_what_comes_with_the_package_to_the_paper():
    assert setup("laptop").data.source == str(REVIEWS)
    assert setup("paper") == PAPER


def test_the_environment_has_the_last_word_on_the_size(monkeypatch):
    monkeypatch.setenv(OVERRIDE, "tiny")
    assert setup("laptop") == PRESETS["tiny"]


def test_an_unknown_preset_is_told_from_the_known_ones(monkeypatch):
    monkeypatch.setenv(OVERRIDE, "Tiny")
    with pytest.raises(SettingError, match="no preset 'Tiny', which ULMFIT_PRESET names"):
        setup("laptop")
    monkeypatch.delenv(OVERRIDE)
    with pytest.raises(SettingError, match="no preset 'huge'.* tiny, laptop, paper"):
        setup("huge")


def test_the_environment_has_the_last_word_on_the_seed(monkeypatch):
    monkeypatch.setenv(SEED, "7")
    assert setup("tiny") == replace(PRESETS["tiny"], seed=7)
    for seed in ("-1", "1e3", "", str(2**32), "9" * 5_000):
        monkeypatch.setenv(SEED, seed)
        with pytest.raises(SettingError, match=f"ULMFIT_SEED is '{seed[:20]}'. Expected a whole"):
            setup("tiny")


def test_like_cases_are_judged_alike_whichever_is_ahead():
    ends = {"low": [0.50, 0.58, 0.70], "high": [0.60, 0.70, 0.80]}
    table = pd.DataFrame({"plan": ["first", "second", "third"], **ends})
    overlap = "their intervals overlap and do not tell them apart."
    said = [
        f"first and second: {overlap}",
        "third is above first: their intervals do not overlap.",
        f"second and third: {overlap}",  # they touch
    ]
    assert compare_intervals(table, "plan").splitlines() == said
    assert set(compare_intervals(table.iloc[::-1], "plan").splitlines()) == {
        f"second and first: {overlap}",
        said[1],
        f"third and second: {overlap}",
    }


def test_a_table_without_intervals_is_not_compared():
    table = pd.DataFrame({"my way": ["a", "b"], "low": [0.5, 0.1], "high": [np.nan, 0.2]})
    with pytest.raises(ValueError, match="low or high is nan"):
        compare_intervals(table, "my way")
    with pytest.raises(ValueError, match=r"No column \['what'\]"):
        compare_intervals(table)
    assert compare_intervals(table.assign(high=[0.6, 0.2]), "my way").startswith("a is above b")


@pytest.mark.parametrize("answer", [float("nan"), "12", None, [1], pd.Series([True, False])])
def test_what_is_no_number_is_told_from_a_wrong_one(answer, messy):
    said = [
        lesson_01.check_leaked(answer, messy),
        lesson_01.check_enough(answer, 0.9, 0.05),
        lesson_04.check_position(answer, 0.01, 0.005),
        lesson_04.check_decay(answer, 0.01, 0.0001),
    ]
    assert all("expected one number" in says(verdict) for verdict in said)
    assert "whole number" in says(lesson_01.check_enough(900.5, 0.9, 0.05))
    assert "from 1 on" in says(lesson_01.check_enough(0, 0.9, 0.05))
    assert "factor above 0" in says(lesson_04.check_decay(0, 0.01, 0.0001))


def test_what_a_notebook_needs_in_its_process_is_set_by_setup_and_not_by_an_import():
    code = """
import warnings
import pandas  # which adds filters of its own
before = list(warnings.filters)
from ulmfit_app.course import setup
added = [one for one in warnings.filters if one not in before]
assert not added, added
setup("tiny")
import torch
assert torch.tensor([1e-39]) / 2 == 0
assert any(one[1] and "IProgress" in one[1].pattern for one in warnings.filters)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_three_dots_are_no_answer():
    verdict = lesson_01.check_enough(..., 0.9, 0.04)
    assert (
        str(verdict)
        == "Not yet: put your answer in place of the three dots, and run the cell again."
    )


# --------------------------------------------------------------------------------------- the texts
@pytest.fixture
def messy() -> Corpus:
    return load_corpus(DataSettings(str(MESSY)), 42)


def test_the_reviews_are_in_order_but_for_words_that_few_texts_have():
    found = inspect(DataSettings(str(REVIEWS)), PRESETS["laptop"].tokens, 42)
    assert [one.name for one in found.findings if one.trouble] == ["Unknown words"]


def test_the_messy_file_has_every_trouble_that_is_planted_in_it():
    found = inspect(DataSettings(str(MESSY)), PRESETS["laptop"].tokens, 42)
    trouble = {one.name for one in found.findings if one.trouble}
    planted = {
        "Spelling of labels",
        "Contradictory labels",
        "Duplicates",
        "Leaks between splits",
        "Encoding and markup",
    }
    assert planted <= trouble
    exact, nearly = data_script.COPIED, data_script.NEARLY_COPIED
    copies = f"{exact} texts are in train word for word, and {nearly} nearly"
    assert copies in next(
        one.found for one in found.findings if one.name == "Leaks between splits"
    )


def test_the_files_are_made_of_the_packages_snippets_alone(tmp_path):
    table = tmp_path / "table.csv"
    rows = [
        (f"a film, the {i}th .", i % 2, "rotten_tomatoes" if i % 3 else "imdb")
        for i in range(6_000)
    ]
    pd.DataFrame(rows, columns=["text", "label", "source"]).to_csv(table, index=False)
    data_script.make(table, tmp_path)
    snippets = {
        (text, ("neg", "pos")[label])
        for text, label, source in rows
        if source == "rotten_tomatoes"
    }
    with open(tmp_path / "reviews.csv", encoding="utf-8", newline="") as file:
        header, *reviews = csv.reader(file)
    assert header == ["text", "label"]
    assert set(map(tuple, reviews)) <= snippets and len(reviews) == data_script.N_REVIEWS
    with open(tmp_path / "messy.csv", encoding="utf-8", newline="") as file:
        assert not {row["text"] for row in csv.DictReader(file)} & {text for text, _ in reviews}


# --------------------------------------------------------------------------------------- lesson 01
def test_texts_with_a_copy_in_train_are_scored_apart_from_the_others(messy):
    scores = lesson_01.score_by_copy(messy).set_index("what")
    parts = scores.loc[["no copy in train", "a copy in train"]]
    assert parts["n"].sum() == scores.loc["the whole test split", "n"] == len(messy.texts("test"))
    assert (parts["n"] * parts["accuracy"]).sum() == pytest.approx(
        scores.iloc[0]["n"] * scores.iloc[0]["accuracy"]
    )
    assert scores.loc["a copy in train", "n"] == data_script.COPIED + data_script.NEARLY_COPIED


def test_findings_are_numbered_from_the_first_trouble_on():
    found = lesson_01.tabulate_findings(
        inspect(DataSettings(str(MESSY)), PRESETS["laptop"].tokens, 42)
    )
    assert list(found.index) == list(range(len(found)))
    assert found["verdict"].tolist() == sorted(found["verdict"], reverse=True)


def test_a_first_look_keeps_the_texts_and_the_start_and_trains_for_a_minute():
    settings = PRESETS["laptop"]
    short = lesson_01.shorten(settings)
    assert short.data.source == settings.data.source
    assert short.lm == replace(settings.lm, epochs=0)
    assert replace(short.classifier, plan="auto", epochs=None) == settings.classifier
    assert short.data.test_share > settings.data.test_share


def test_counting_words_learns_from_all_labels_that_the_classifier_has_seen(
    csv, tmp_path, monkeypatch
):
    seen = {}

    def count(texts, truth, test_texts, *_):
        seen.update(known=set(zip(texts, truth, strict=True)), test=test_texts)
        return np.eye(2)[np.zeros(len(test_texts), int)]

    monkeypatch.setattr(lesson_01, "tfidf_logistic_regression", count)
    data = DataSettings(str(csv), max_train=40)
    lm = replace(TINY.lm, epochs=0)
    classifier = replace(TINY.classifier, epochs=1, plan="full")
    settings = replace(TINY, data=data, lm=lm, classifier=classifier)
    run = begin(tmp_path / "run", settings)
    run.carry_out("classifier")
    compared = lesson_01.compare_with_counting(run)
    table = run.corpus.table
    known = table[table["split"].isin(("train", "valid"))]
    assert seen["known"] == set(zip(known["text"], run.corpus.truth(known["label"]), strict=True))
    assert seen["test"] == run.corpus.texts("test")
    test = table[table["split"] == "test"]
    predicted = load_predictor(run.folder).predict(test["text"].tolist())["predicted"]
    ours, counted = compared.scores["accuracy"]
    assert ours == pytest.approx((predicted.to_numpy() == test["label"].to_numpy()).mean())
    assert counted == pytest.approx((test["label"] == run.corpus.labels[0]).mean())
    assert compared.paired["accuracy_difference"] == pytest.approx(ours - counted)


def test_a_comparison_says_its_difference_with_a_sign_and_a_p_that_can_be_read():
    scores = pd.DataFrame({"what": ["new", "old"], "accuracy": [0.75, 0.68]})
    paired = {
        "accuracy_difference": 0.0687,
        "accuracy_difference_ci95": [-0.004, 0.12],
        "only_first_right": 30,
        "only_other_right": 12,
        "p_value": 0.00789,
    }
    said = repr(lesson_01.Comparison(scores, paired))
    assert "+6.9 points, 95 % interval from -0.4 to +12.0" in said and "p = 0.0079" in said
    sure = lesson_01.Comparison(scores, paired | {"p_value": 2.4e-13})
    assert "p < 0.0001" in repr(sure) and "p &lt; 0.0001" in sure._repr_html_()
    assert "<td>new</td>" in sure._repr_html_()


def test_candidates_differ_by_the_texts_that_they_learned_from():
    corpus = load_corpus(replace(PRESETS["laptop"].data, max_train=300, max_test=200), 42)
    right = lesson_01.train_candidates(corpus, n=3, n_train=50, seed=1)
    assert right.shape == (3, 200) and len(np.unique(right, axis=0)) == 3
    assert (right == lesson_01.train_candidates(corpus, n=3, n_train=50, seed=1)).all()


def test_a_score_on_the_texts_that_chose_is_too_high_and_less_so_on_more_of_them():
    luck = np.random.default_rng(0).random((50, 400)) < 0.6
    few, half = lesson_01.choose_often(luck, [40, 200], draws=50).to_dict("records")
    assert few["points too many"] > half["points too many"] > 0
    assert few["its score on the others"] == pytest.approx(0.6, abs=0.02)
    opposite = np.array([[True, False], [False, True]])
    (row,) = lesson_01.choose_often(opposite, [1], draws=5).to_dict("records")
    assert (row["its score there"], row["its score on the others"]) == (1, 0)
    assert row["points too many"] == 100
    (alone,) = lesson_01.choose_often(luck[:1], [40], draws=500)["points too many"]
    assert abs(alone) < 2


def test_a_leak_is_counted_in_rows_of_test(messy):
    test, train = (
        messy.table[messy.table["split"] == split]["text"] for split in ("test", "train")
    )
    assert lesson_01.check_leaked(test.isin(train).sum(), messy).right
    assert "more than once" in says(
        lesson_01.check_leaked(messy.table["text"].duplicated().sum(), messy)
    )
    assert "isin" in says(lesson_01.check_leaked(3, messy))


def test_a_cleaned_table_keeps_test_and_all_that_is_in_order(messy):
    lower = messy.table.assign(label=messy.table["label"].str.lower())
    train = lower["split"] == "train"
    no_leak = lower[~(train & lower["text"].isin(lower["text"][~train]))]
    right = no_leak[
        (no_leak.groupby("text")["label"].transform("nunique") == 1)
        | (no_leak["split"] != "train")
    ]
    assert lesson_01.check_cleaned(right, messy).right
    assert "columns" in says(lesson_01.check_cleaned(right["text"], messy))
    assert "case alone" in says(lesson_01.check_cleaned(messy.table, messy))
    assert "two parts" in says(lesson_01.check_cleaned(lower, messy))
    assert "two labels" in says(lesson_01.check_cleaned(no_leak, messy))
    assert "test are gone" in says(
        lesson_01.check_cleaned(right[right["split"] == "train"], messy)
    )
    assert "more is gone" in says(
        lesson_01.check_cleaned(right.drop(right.index[right["split"] == "train"][:9]), messy)
    )


def test_enough_texts_are_those_whose_interval_is_narrow_and_not_many_more():
    width = {n: np.ptp(accuracy_interval(round(0.9 * n), n)) for n in range(100, 2_000)}
    enough = min(n for n, found in width.items() if found <= 0.05)
    assert lesson_01.check_enough(enough, 0.9, 0.05).right
    assert "more than 5%" in says(lesson_01.check_enough(enough // 2, 0.9, 0.05))
    assert "how few" in says(lesson_01.check_enough(enough * 2, 0.9, 0.05))


# --------------------------------------------------------------------------------------- lesson 02
def test_coverage_counts_words_in_some_texts_and_tokens_in_others():
    store = TokenStore(
        np.array([0, 0, 1, 0, 2, 2], np.int32), np.array([0, 3, 6]), ["a", "b", "c"]
    )
    assert lesson_02.measure_coverage(
        store, np.array([0]), np.array([1])
    ).tolist() == pytest.approx([1 / 3, 1 / 3])
    assert lesson_02.measure_coverage(
        store, np.array([0]), np.array([0])
    ).tolist() == pytest.approx([2 / 3, 1])


def test_a_shuffled_vocabulary_has_the_same_words_and_the_specials_in_their_places():
    vocab = [*SPECIALS, *"abcdefgh", "xxfake"]
    other = lesson_02.shuffle_words(vocab)
    assert sorted(other) == sorted(vocab) and other != vocab
    assert other[: len(SPECIALS)] == SPECIALS and other[-1] == "xxfake"


def test_a_text_is_judged_by_its_tokens():
    target = "xxbos xxup no , s xxrep 3 o bad".split()
    assert lesson_02.check_text("NO, sooo bad", target).right
    assert "first 3 tokens" in says(lesson_02.check_text("NO - sooo bad", target))
    assert "nothing more" in says(lesson_02.check_text("NO, sooo", target))
    assert "broken up" in says(lesson_02.check_text("xxup no, sooo bad", target))


def test_the_size_of_a_vocabulary_is_the_least_that_knows_enough_of_other_texts():
    store = made_store([400, 400], n_words=200)
    train, valid = np.array([0]), np.array([1])
    known = lesson_02.measure_coverage(store, train, valid)
    least = int(np.flatnonzero(known >= 0.5)[0]) + 1
    own = int(np.flatnonzero(lesson_02.measure_coverage(store, train, train) >= 0.5)[0]) + 1
    assert own < least
    assert lesson_02.check_size(least, store, train, valid, 0.5).right
    assert "counted in" in says(lesson_02.check_size(own, store, train, valid, 0.5))
    assert "less than 50%" in says(lesson_02.check_size(1, store, train, valid, 0.5))
    assert "How few" in says(lesson_02.check_size(least + 1, store, train, valid, 0.5))
    assert "between 1 and" in says(lesson_02.check_size(0, store, train, valid, 0.5))


def test_an_order_of_rows_is_told_from_its_inverse():
    vocab = [*SPECIALS, *"abcdefgh"]
    other = lesson_02.shuffle_words(vocab)
    right = [vocab.index(word) for word in other]
    assert lesson_02.check_order(right, vocab, other).right
    assert "way back" in says(lesson_02.check_order(np.argsort(right), vocab, other))
    assert "place 9 belongs" in says(lesson_02.check_order(range(len(vocab)), vocab, other))
    assert "each row" in says(lesson_02.check_order(right[1:], vocab, other))


# --------------------------------------------------------------------------------------- lesson 04
def test_a_position_is_looked_for_on_the_way_down():
    right = 0.1 + 0.9 * 0.5 * 32 / 31  # equation 3, solved
    assert lesson_04.check_position(right, 0.01, 0.005).right
    assert "way up" in says(lesson_04.check_position(0.05, 0.01, 0.005))
    assert "more than 0.005" in says(lesson_04.check_position(0.3, 0.01, 0.005))
    assert "between 0 and 1" in says(lesson_04.check_position(56, 0.01, 0.005))


def test_a_factor_is_judged_by_the_lowest_rate():
    assert lesson_04.check_decay(100 ** (1 / 4), 0.01, 0.0001).right
    assert "4 steps" in says(lesson_04.check_decay(100 ** (1 / 5), 0.01, 0.0001))
    assert "upside down" in says(lesson_04.check_decay(100 ** (-1 / 4), 0.01, 0.0001))
    assert "instead of 0.0001" in says(lesson_04.check_decay(2.6, 0.01, 0.0001))


def test_a_plan_is_judged_by_who_learns_when_and_how_fast():
    right = PLANS["gradual-discr"]
    assert lesson_04.check_plan(replace(right, name="mine"), "gradual-discr").right
    assert "9 epochs in all" in says(lesson_04.check_plan(extend_to(right, 9), "gradual-discr"))
    assert "in epoch 1 5 groups learn, and 1 should" in says(
        lesson_04.check_plan(PLANS["full-discr"], "gradual-discr")
    )
    same_rates = Plan("same", tuple(replace(phase, decay=1.0) for phase in right.phases), 0.5)
    assert "in epoch 2 group 4 of 5 learns at 0.01, not at 0.0038" in says(
        lesson_04.check_plan(same_rates, "gradual-discr")
    )
    assert "a Plan" in says(lesson_04.check_plan(right.phases, "gradual-discr"))


def test_trials_train_by_any_plan_on_one_language_model():
    trials = lesson_04.PlanTrials(PRESETS["tiny"])
    plan = Plan("once", PLANS["published"].phases[:1], 0.3)
    assert trials.train(plan)["phase"].tolist() == ["head"]
    (row,) = trials.compare(plan).to_dict("records")
    assert (row["plan"], row["epochs"]) == ("once", 1)
    assert row["low"] <= row["accuracy"] <= row["high"]
