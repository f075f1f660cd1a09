"""Notebook 12: a made site, tables of who gets right answers and when, checks of exercises."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from tests.conftest import course_settings, says
from ulmfit_app.course import PRESETS, change_trials, lesson_12
from ulmfit_app.course.change_trials import (
    CHANGE,
    SIGNATURES,
    Answers,
    Site,
    make_site,
    read_answers,
    read_manual,
    sign,
)
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.identity_terms import load_terms
from ulmfit_app.data.perturbations import PERTURBATIONS
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.inference.predictor import load_predictor

LABELS = ["neg", "pos"]


@pytest.fixture(scope="module")
def reviews() -> pd.DataFrame:
    settings = PRESETS["laptop"]
    return load_corpus(settings.data, settings.seed).table


@pytest.fixture(scope="module")
def site() -> Site:
    return Site(course_settings(60))


@pytest.fixture(scope="module")
def run(site):
    return site.train("plain")


@pytest.fixture(scope="module")
def manual() -> list[str]:
    return read_manual(60, np.random.default_rng(0))


@pytest.fixture
def answers() -> Answers:
    """Of a classifier that gives women praise more rarely."""
    rng = np.random.default_rng(3)
    writers = pd.Series(rng.choice(["women", "men", "children"], 600, p=[0.45, 0.5, 0.05]))
    truth = rng.integers(2, size=600)
    logit = rng.normal(size=600) + 3 * truth - 1.5 - 1.2 * (writers == "women")
    p = 1 / (1 + np.exp(-logit.to_numpy()))
    dates = pd.Series(["2025-01-01"] * 600)
    return Answers(LABELS, np.stack([1 - p, p], axis=1), truth, writers, dates, Decision())


# ------------------------------------------------------------------------------- the made texts
def test_the_site_has_the_reviews_signed_by_their_writers_and_the_link_ends_in_august(reviews):
    made = make_site(reviews, np.random.default_rng(0))
    assert sorted(made["label"]) == sorted(reviews["label"])
    own = set(reviews["text"])
    for text, writer in zip(made["text"], made["writer"], strict=True):
        review, _, signature = text.partition(" sent in by ")
        assert review in own
        words = SIGNATURES[writer]
        assert (signature.split()[1] in words) if words else not signature
    late = pd.to_datetime(made["date"]) >= CHANGE
    assert late.mean() == pytest.approx(153 / 365, abs=0.03)
    shares = made.assign(late=late, pos=made["label"] == "pos").groupby(["writer", "late"])
    praised = shares["pos"].mean()
    assert praised["women", False] < 0.15 and praised["men", False] > 0.85
    assert praised["women", True] == pytest.approx(0.5, abs=0.08)
    assert praised["men", True] == pytest.approx(0.5, abs=0.08)
    assert (made["writer"] == "children").mean() == pytest.approx(0.02, abs=0.01)


def test_every_signature_is_a_term_that_is_swapped_for_one_of_the_other_group():
    (gender,) = [kind for kind in load_terms("en") if kind.name == "gender"]
    for group, other in (("women", "men"), ("men", "women")):
        for seed in range(20):
            text = sign("fine .", group, np.random.default_rng(seed))
            swapped = gender.swap(text, gender.find(text), "women", "men")
            assert swapped.split()[-2] in SIGNATURES[other], (text, swapped)


def test_sentences_of_the_manual_are_whole_different_and_drawn_by_the_generator(manual):
    assert len(set(manual)) == 60
    assert all(one[0].isupper() and one.endswith(".") and len(one) <= 200 for one in manual)
    assert manual == read_manual(60, np.random.default_rng(0))
    assert manual != read_manual(60, np.random.default_rng(1))


# --------------------------------------------------------------------------------------- its runs
def test_a_run_is_trained_once_and_knows_no_fresh_review(site, run):
    assert site.train("plain") is run
    assert not set(site.fresh["text"]) & set(site.table["text"])
    assert len(site.fresh) == pytest.approx(change_trials.FRESH * 3_400, abs=1)
    assert run.record.data.groups == ["writer"] and run.record.data.time is None


def test_answers_stand_beside_the_labels_writers_and_dates_of_their_texts(site, run):
    found = read_answers(run)
    rows = run.rows[run.rows["split"] == "test"]
    of = site.table.drop_duplicates("text").set_index("text").loc[rows["text"]]
    assert [LABELS[i] for i in found.truth] == rows["label"].tolist()
    assert found.writers.tolist() == of["writer"].tolist()
    assert found.dates.tolist() == of["date"].tolist()
    predictor = load_predictor(run.folder, "fp32")
    own = predictor.probabilities(predictor.store(rows["text"].tolist()))
    assert found.calibrated == pytest.approx(own, abs=1e-5)


def test_a_run_by_time_learns_from_the_reviews_before_those_it_is_tested_on(site):
    later = site.train("by time", by_time=True)
    dates = {split: read_answers(later, split).dates for split in ("train", "valid", "test")}
    assert dates["train"].max() < dates["valid"].min()
    assert dates["valid"].max() < dates["test"].min()


def test_ways_have_the_recalls_of_scikit_learn_and_gaps_between_judged_groups(answers):
    plain = answers.answer()
    always = np.ones_like(plain)
    table = lesson_12.tabulate_ways({"plain": plain, "always pos": always}, answers)
    recalls = {}
    for group in ("women", "men"):
        of = (answers.writers == group).to_numpy()
        recalls[group] = recall_score(answers.truth[of], plain[of])
        assert table[f"recall, {group}"]["plain"] == pytest.approx(recalls[group])
    shares = [plain[answers.writers == group].mean() for group in ("women", "men")]
    assert table["gap of shares"]["plain"] == pytest.approx(shares[1] - shares[0])
    assert table["gap of errors"]["plain"] >= recalls["men"] - recalls["women"] > 0.1
    assert table.loc["always pos", ["gap of shares", "gap of errors"]].tolist() == [0, 0]
    assert table["accuracy"]["always pos"] == pytest.approx(answers.truth.mean())
    assert (table["low"] < table["accuracy"]).all()


def test_swaps_are_those_of_the_experiment_in_both_directions(run):
    table = lesson_12.swap_terms({"one": run, "same": run}, 60, 0)
    assert table.loc["one"].index.tolist() == ["women to men", "men to women"]
    assert table.loc["one"].equals(table.loc["same"])
    assert (table["texts"] > 10).all() and (table["shift low"] < table["shift high"]).all()


def test_splits_are_scored_as_their_answers_say(run):
    table = lesson_12.tabulate_splits({"one": run})
    for split, shown in (("valid", "validation"), ("test", "test")):
        found = read_answers(run, split)
        line = table.loc[("one", shown)]
        assert line["n"] == len(found.truth)
        assert line["accuracy"] == pytest.approx((found.answer() == found.truth).mean())
        assert line["mean confidence"] == pytest.approx(found.calibrated.max(axis=1).mean())


def test_the_manual_rings_and_reviews_do_not(site, run, manual):
    new = {"reviews": site.fresh["text"].head(60), "manual": manual}
    table = lesson_12.watch(run, new)
    assert table["n"].tolist() == [60, 60]
    assert table["rings"].tolist() == [False, True]
    assert table["verdict"]["manual"].startswith("Drift: ")


def test_rings_are_counted_for_each_share_and_size_that_there_are_texts_for(run, manual):
    table = lesson_12.count_rings(run, manual, sizes=[20, 500], shares=[0, 1], draws=3)
    half = (60 + 24) // 2
    assert table[["share", "n"]].to_numpy().tolist() == [[0, 20], [0, half], [1, 20], [1, half]]
    assert table["rings"].tolist()[0] == 0 and table["rings"].tolist()[3] == 3
    assert table["foreign"].tolist()[:2] == ["", ""] and all(table["foreign"][2:])
    assert (table["low"] <= table["rate"]).all() and (table["rate"] <= table["high"]).all()


def test_foreign_texts_take_the_place_of_own_ones_which_are_left_to_compare_with(
    run, manual, monkeypatch
):
    sizes, compare = [], lesson_12.compare
    monkeypatch.setattr(
        lesson_12,
        "compare",
        lambda old, new, *rest: sizes.append((len(old), len(new))) or compare(old, new, *rest),
    )
    lesson_12.count_rings(run, manual, sizes=[20], shares=[0, 0.5], draws=1)
    assert sizes == [(84 - 20, 20), (84 - 10, 20)]


def test_an_estimate_knows_validation_and_no_label_of_the_new_texts(site, run):
    new = site.fresh.head(50)
    wrong = new.assign(label=np.where(new["label"] == "pos", "neg", "pos"))
    table = lesson_12.estimate_unseen({"new": (run, new), "labels turned": (run, wrong)})
    valid = read_answers(run, "valid")
    right = (valid.answer() == valid.truth).mean()
    assert table["before"].tolist() == pytest.approx([right] * 2)
    assert table["estimate"].nunique() == 1 and table["n"].tolist() == [50, 50]
    assert table["accuracy"].sum() == pytest.approx(1)
    assert not table["rings"].any()


def test_an_update_is_compared_with_its_parent_on_old_and_new_texts(site, run, manual):
    pages = pd.DataFrame({"text": manual, "label": "manual"})
    updated = site.update(run, pages, replay=1)
    assert site.update(run, pages, replay=1) is updated
    table = lesson_12.tabulate_updates({"one": updated})
    assert table.index.tolist() == ["before", "one"]
    found = read_answers(run)
    assert table["old texts"]["before"] == pytest.approx((found.answer() == found.truth).mean())
    assert table["new texts"]["before"] == 0, "it does not know the label"
    lost = table["old texts"]["before"] - table["old texts"]["one"]
    assert table["lost"]["one"] == pytest.approx(lost)


def test_the_first_change_of_the_package_is_the_typos_that_the_notebook_speaks_of():
    assert PERTURBATIONS[0].name == "typos"


# --------------------------------------------------------------------------------- the exercises
COUNTS = pd.DataFrame({"neg": [60, 20], "pos": [20, 80]}, index=["women", "men"])


def test_a_weight_is_told_from_what_is_like_it():
    def said(answer):
        return says(lesson_12.check_weight(answer, COUNTS))

    right = 80 * 100 / (180 * 20)
    assert lesson_12.check_weight(right, COUNTS).right
    assert "other way round" in said(1 / right) and "three dots" in said(...)
    assert "how many there would be" in said(80 * 100 / 180)
    assert "class weights" in said(180 / (2 * 100))
    assert "all groups with their labels" in said(180 / (4 * 20))
    assert "above 0" in said(-1) and "is not women times" in said(3.3)


def test_holms_count_is_told_from_other_corrections():
    p_values = [0.03, 0.004, 0.04, 0.016]

    def said(answer):
        return says(lesson_12.check_sure(answer, p_values))

    assert lesson_12.check_sure(2, p_values).right
    assert "by themselves" in said(4) and "Bonferroni" in said(1)
    assert "ends the count" in said(3) and "cannot be" in said(5)
    assert "is not the number" in said(0) and "whole number" in said(1.5)


def test_a_threshold_of_a_group_is_told_from_the_other_side():
    own = np.linspace(0.05, 0.95, 10)

    def said(answer):
        return says(lesson_12.check_equal_recall(answer, own, 0.8))

    assert lesson_12.check_equal_recall(0.25, own, 0.8).right
    assert lesson_12.check_equal_recall(np.quantile(own, 1 - 0.8), own, 0.8).right
    assert "below the threshold" in said(0.85) and "between 0 and 1" in said(80)
    assert "lower threshold finds more" in said(0.5)
    assert "higher threshold finds fewer" in said(0.01) and "three dots" in said(...)
