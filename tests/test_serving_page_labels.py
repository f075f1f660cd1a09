"""The server's page where a text may have several labels, or another answer than the likeliest."""

import json

import pytest

from tests.served_page import answer, bars, predict
from tests.test_browser import CHROMIUM

pytest.importorskip("playwright", reason="needs playwright")
pytest_plugins = ["tests.served_page"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")

SHARES = {"joy": 0.8, "<b>love</b>": 0.3, "anger": 0.6}
THRESHOLDS = {"joy": 0.5, "<b>love</b>": 0.25, "anger": 0.9}


def say(page, labels, shares=SHARES, thresholds=THRESHOLDS):
    said = {"labels": labels, "probabilities": shares, "thresholds": thresholds, "model": "m"}
    answer(page, "v1/predict", predictions=[said], notes=[])
    predict(page)


def sent_to(page, path, **answered):
    """The bodies of what the page sends to a path from now on, which is answered."""
    bodies = []

    def take(route):
        bodies.append(json.loads(route.request.post_data))
        route.fulfill(json=answered or {"stored": True}, status=201)

    page.route(f"**/{path}", take)
    return bodies


def test_the_labels_that_are_given_stand_above_bars_with_their_thresholds_marked(page):
    say(page, ["joy", "<b>love</b>"])
    assert page.inner_text("#verdict").split() == ["joy", "80.0%", "<b>love</b>", "30.0%"]
    names = page.locator("#bars .name").all_inner_texts()
    assert names == ["joy", "anger", "<b>love</b>"]
    assert page.locator("#bars .given .name").all_inner_texts() == ["joy", "<b>love</b>"]
    places = page.locator("#bars .limit").evaluate_all(
        "lines => lines.map(line => line.offsetLeft / line.parentElement.offsetWidth)"
    )
    assert places == pytest.approx([0.5, 0.9, 0.25], abs=0.01)
    heard = page.locator("#bars .share").all_text_contents()
    assert heard == ["80.0% (needs 50.0%)", "60.0% (needs 90.0%)", "30.0% (needs 25.0%)"]
    assert page.is_visible("#bars-key") and not page.is_visible("#right")


def test_a_threshold_of_one_is_seen_at_the_end_of_its_bar(page):
    say(page, [], {"a": 0.5, "b": 0.1}, {"a": 1.0, "b": 0.2})
    inside = page.locator("#bars .limit").first.evaluate(
        "line => line.offsetLeft + line.offsetWidth <= line.parentElement.offsetWidth"
    )
    assert inside


def test_a_text_without_any_label_says_so(page):
    say(page, [])
    assert page.inner_text("#verdict") == "None of the labels"
    assert page.locator("#bars .given").count() == 0


def test_of_many_labels_all_that_are_given_are_shown_at_first(page):
    shares = {f"label {i}": (30 - i) / 31 for i in range(28)}
    thresholds = dict.fromkeys(shares, 1.0) | {"label 14": 0.1}
    say(page, ["label 14"], shares, thresholds)
    shown = [f"label {i}" for i in range(15)]
    assert page.locator("#bars .name").all_inner_texts() == shown
    page.click("text=Show all 28 labels")
    assert page.locator("#bars li").count() == 28


def test_any_of_the_labels_can_be_explained(page):
    say(page, ["joy", "<b>love</b>"])
    options = page.locator("#which option").all_inner_texts()
    assert options == ["joy", "<b>love</b>", "anger"]
    empty = {"label": "anger", "probability": 0.6, "n_words": 0, "words": []}
    bodies = sent_to(page, "v1/explain", **empty)
    page.select_option("#which", "anger")
    page.click("text=Which words moved it?")
    page.locator("#how").wait_for()
    assert bodies[0]["label"] == "anger" and "anger (60.0%)" in page.inner_text("#how")


def test_a_correction_begins_with_what_was_said_and_sends_all_that_is_ticked(page):
    say(page, ["joy", "<b>love</b>"])
    ticked = page.locator("#right-labels :checked")
    assert ticked.evaluate_all("boxes => boxes.map(box => box.value)") == ["joy", "<b>love</b>"]
    bodies = sent_to(page, "v1/feedback")
    page.click("#right-labels >> text=anger")
    page.click("#right-labels >> text=joy")
    page.click("text=Send")
    page.locator("text=The text and your labels are stored").wait_for()
    assert bodies[0]["labels"] == ["<b>love</b>", "anger"] and "label" not in bodies[0]


def test_what_decided_is_said_where_the_answer_need_not_be_the_likeliest(page):
    shares = {"neg": 0.3, "pos": 0.7}
    said = {"label": "neg", "confidence": 0.3, "probabilities": shares, "model": "m"}
    answer(page, "v1/predict", predictions=[said | {"decided_by": "costs"}], notes=[])
    predict(page)
    assert page.inner_text("#verdict") == "neg 30.0%"
    assert bars(page) == [("pos", "70.0%"), ("neg", "30.0%")]
    assert page.locator("#bars .given .name").all_inner_texts() == ["neg"]
    assert page.is_visible("text=Chosen by costs: it need not be the likeliest label.")
    page.unroute("**/v1/predict")
    predict(page)
    page.locator("#decided-by").wait_for(state="hidden")
    assert not page.is_visible("#bars-key")
    assert page.locator("#bars .limit").count() == 0


def test_thresholds_that_costs_give_are_said_to_be_theirs(page):
    said = {"labels": ["a"], "probabilities": {"a": 0.3, "b": 0.1}, "model": "m"}
    said |= {"thresholds": {"a": 0.2, "b": 0.5}, "decided_by": "costs"}
    answer(page, "v1/predict", predictions=[said], notes=[])
    predict(page)
    assert page.is_visible("text=The thresholds are those that the costs give.")


def test_the_card_of_several_labels_has_their_scores(page):
    about = page.evaluate("fetch('v1/model').then(answer => answer.json())")
    scores = {"n": 60, "test": "test", "micro_f1": 0.5, "macro_f1": None, "hamming_loss": 0.125}
    scores |= {"subset_accuracy": 0.4, "subset_accuracy_ci95": [0.3, 0.5]}
    scores |= {"mean_average_precision": 0.6, "log_loss": 0.2, "expected_calibration_error": 0.1}
    model = about["model"] | {"multilabel": True, "metrics": scores}
    model |= {"labels": list(SHARES), "thresholds": THRESHOLDS}
    model |= {"temperature": {"joy": 1.5, "<b>love</b>": 1.0, "anger": 2.0}}
    model |= {"baselines": {"TF-IDF": {**scores, "micro_f1": 0.25}}}
    answer(page, "v1/model", **about | {"model": model})
    page.reload()
    page.locator("#of-model summary").click()
    assert page.inner_text("#lead").startswith("Which labels fit a text, if any: joy, <b>love</b>")
    assert "all labels right for 40.0% of 60 texts" in page.inner_text("#of-model summary")
    facts = page.inner_text("#of-model dl")
    assert "1.00 to 2.00" in facts and "0.25 to 0.90" in facts and "0.125" in facts
    row = page.locator("#of-model tbody tr").nth(1).locator("th, td").all_inner_texts()
    assert row == ["TF-IDF", "25.0%", "–", "40.0%", "30.0% to 50.0%"]
