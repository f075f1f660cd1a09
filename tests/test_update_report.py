"""What a report says of an update: on old texts and new ones, beside its parent."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from ulmfit_app.evaluation.messages import speaking
from ulmfit_app.evaluation.metrics import accuracy_interval, difference_interval
from ulmfit_app.evaluation.page_update import update_section
from ulmfit_app.evaluation.updates import DURATIONS, PARENT, RETRAINED, UPDATED, compare_update

ABOUT = {
    "parent": "reviews-laptop",
    "number": 1,
    "learned": {"new": 1_800, "old": 1_800},
    "old_training_texts": 24_000,
    "new_labels": [],
    "new_words": 312,
}


def answers(right, truth="pos"):
    """Answers to texts of one label, right where it is said."""
    return pd.DataFrame(
        {"label": truth, "predicted": [truth if each else "neg" for each in right]}
    )


def made(old, new, retrained=None):
    """An update and its parent: pairs of their right answers to old texts and to new ones."""
    both = np.array([*old, *new], bool)
    given = {UPDATED: answers(both[:, 0]), PARENT: answers(both[:, 1])}
    if retrained is not None:
        given[RETRAINED] = answers(retrained)
    return compare_update(given, np.arange(len(both)) >= len(old))


OLD = [(1, 1)] * 60 + [(0, 1)] * 12 + [(1, 0)] * 2 + [(0, 0)] * 6
NEW = [(1, 1)] * 20 + [(1, 0)] * 15 + [(0, 0)] * 5


def test_old_and_new_texts_are_scored_apart_each_beside_the_parent():
    found = made(OLD, NEW)
    assert found["old"]["n"] == 80 and found["new"]["n"] == 40
    assert found["old"][UPDATED]["accuracy"] == 62 / 80
    assert found["old"][PARENT]["accuracy"] == 72 / 80
    assert found["new"][UPDATED]["accuracy"] == 35 / 40
    assert found["new"][PARENT]["accuracy_ci95"] == list(accuracy_interval(20, 40))


def test_forgetting_is_what_the_parent_has_more_on_old_texts():
    found = made(OLD, NEW)["forgetting"]
    assert found["points"] == pytest.approx(100 * (72 - 62) / 80)
    assert (found["lost"], found["gained"]) == (12, 2)
    assert found["p_value"] == pytest.approx(binomtest(2, 14).pvalue)
    own, parent = np.array(OLD).T
    low, high = difference_interval(parent - own)
    assert found["points_ci95"] == pytest.approx([100 * low, 100 * high])
    assert low < found["points"] / 100 < high


def test_the_share_of_gain_is_that_of_training_from_the_start():
    retrained = [True] * 80 + [True] * 40
    assert made(OLD, NEW, retrained)["share_of_gain"] == pytest.approx((35 - 20) / (40 - 20))
    no_better = [True] * 80 + [True] * 20 + [False] * 20
    assert "share_of_gain" not in made(OLD, NEW, no_better)
    assert "share_of_gain" not in made(OLD, NEW)


def test_without_new_texts_to_test_on_that_is_said():
    found = made(OLD, [])
    assert "new" not in found
    html = update_section({"update": ABOUT | found}, {})
    assert "No new text is tested on: what it gained is not known." in html


def test_several_labels_count_as_right_where_all_of_them_are():
    table = pd.DataFrame({"label": ['["a", "b"]', '["a"]'], "predicted": ['["b", "a"]', "[]"]})
    found = compare_update({UPDATED: table, PARENT: table}, np.array([False, False]), True)
    assert found["old"][UPDATED]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("old", "said"),
    [
        (OLD, "It has forgotten: on old texts it is 12.5 points below its parent ("),
        ([(1, 1)] * 80, "On old texts no forgetting can be told from chance: +0.0 points ("),
        ([(1, 0)] * 20 + [(1, 1)] * 60, "On old texts it is better than its parent, by 25.0"),
    ],
)
def test_the_section_says_what_was_forgotten(old, said):
    assert said in update_section({"update": ABOUT | made(old, NEW)}, {})


def test_the_section_has_all_that_were_compared_and_their_minutes():
    metrics = {"update": ABOUT | made(OLD, NEW, [True] * 120)}
    durations = {
        DURATIONS[UPDATED]: "3.1 min",
        DURATIONS[PARENT]: "20.2 min",
        DURATIONS[RETRAINED]: "22 min",
    }
    html = update_section(metrics, {"durations": durations})
    for shown in ("before, reviews-laptop", "after the update", "trained from the start"):
        assert shown in html
    for minutes in durations.values():
        assert minutes in html
    assert "accuracy on old texts, n = 80" in html and "accuracy on new texts, n = 40" in html
    assert "It learned from 1,800 new texts, and again from 1,800 of 24,000 old ones" in html
    assert "Of what training from the start gains on new texts, the update gains 75%." in html
    assert "Labels that" not in html
    grown = update_section({"update": metrics["update"] | {"new_labels": ["mixed"]}}, {})
    assert "Labels that its parent did not know: mixed." in grown


def test_a_run_that_is_no_update_has_no_section():
    assert update_section({}, {}) == ""


def test_the_section_is_said_in_chinese_too():
    with speaking("zh-tw"):
        html = update_section({"update": ABOUT | made(OLD, NEW, [True] * 120)}, {})
    assert "<h2>更新</h2>" in html and "出現遺忘" in html and "parent" not in html
