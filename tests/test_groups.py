"""Groups: fairlearn's numbers, tests that ring by chance no more often than they say, and groups
that are too small to be judged named as that."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency, fisher_exact

from ulmfit_app.evaluation import groups
from ulmfit_app.evaluation.group_words import is_sure, numbers_of
from ulmfit_app.evaluation.groups import FEWEST, MAX_GROUPS, MAX_LABELS, compare_groups
from ulmfit_app.evaluation.independent import adjust_holm, shares_interval
from ulmfit_app.evaluation.metrics import accuracy_interval, expected_calibration_error

fairlearn = pytest.importorskip("fairlearn.metrics", reason="pip install 'ulmfit-app[test]'")


def outputs(n: int, n_labels: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The index of each text's label, and probabilities of a classifier that is right often."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(n_labels, size=n)
    raw = generator.random((n, n_labels))
    raw[np.arange(n), truth] += generator.random(n)
    return truth, raw / raw.sum(axis=1, keepdims=True)


def dealt(n: int, *names: str, seed: int = 1, shares: tuple[float, ...] | None = None):
    generator = np.random.default_rng(seed)
    return pd.Series(generator.choice(names, n, p=shares), name="from")


def compare(values: pd.Series, truth, probabilities, predicted=None, **more) -> dict:
    n_labels = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1) if predicted is None else predicted
    labels = [f"label {index}" for index in range(n_labels)]
    found = compare_groups(values, truth, predicted, probabilities, labels, **more)
    json.dumps(found, allow_nan=False)
    return found


@pytest.fixture
def without_simulation(monkeypatch) -> None:
    """What calibration errors are by chance takes longer than all else together."""
    monkeypatch.setattr(groups, "calibration_error_by_chance", lambda probabilities: 0.0)


def by_name(found: dict) -> dict[str, dict]:
    return {group["group"]: group for group in found["groups"]}


# ---------------------------------------------------------------------------- fairlearn's numbers
@pytest.mark.parametrize("n_labels", [2, 4])
def test_every_number_and_gap_is_that_of_fairlearns_metric_frame(n_labels):
    truth, probabilities = outputs(3_000, n_labels)
    values = dealt(3_000, "web", "mail", "telephone", "letter", shares=(0.5, 0.3, 0.19, 0.01))
    predicted = probabilities.argmax(axis=1)
    found = compare(values, truth, probabilities)
    named, gaps = by_name(found), {(one["measure"], one["label"]): one for one in found["gaps"]}
    frame = fairlearn.MetricFrame(
        metrics=lambda true, said: (true == said).mean(),
        y_true=truth,
        y_pred=predicted,
        sensitive_features=values,
    )
    for name, expected in frame.by_group.items():
        assert named[name]["accuracy"]["value"] == pytest.approx(expected, abs=1e-9)
    gap = gaps["accuracy_difference", None]
    assert gap["difference"] == pytest.approx(frame.difference(), abs=1e-9)
    for index, label in enumerate(found["labels"]):
        binary = {"y_true": truth == index, "y_pred": predicted == index}
        metrics = {
            "recall": fairlearn.true_positive_rate,
            "selection_rate": fairlearn.selection_rate,
            "n": fairlearn.count,
        }
        frame = fairlearn.MetricFrame(metrics=metrics, sensitive_features=values, **binary)
        for name, expected in frame.by_group.iterrows():
            assert named[name]["n"] == expected["n"]
            got = named[name]["recall"][label]["value"]
            assert got == pytest.approx(expected["recall"], abs=1e-9)
            if label in found["selected"]:
                got = named[name]["selection_rate"][label]["value"]
                assert got == pytest.approx(expected["selection_rate"], abs=1e-9)
        if label in found["selected"]:
            for measure in ("demographic_parity_difference", "equalized_odds_difference"):
                expected = getattr(fairlearn, measure)(sensitive_features=values, **binary)
                assert gaps[measure, label]["difference"] == pytest.approx(expected, abs=1e-9)
    assert found["selected"] == found["labels"] if n_labels > 2 else len(found["selected"]) == 1


def test_of_several_labels_each_is_compared_as_fairlearn_compares_it():
    generator = np.random.default_rng(2)
    probabilities = generator.random((1_500, 3))
    truth = (generator.random((1_500, 3)) < probabilities).astype(np.float32)
    predicted, values = probabilities >= 0.5, dealt(1_500, "web", "mail", "letter")
    found = compare(values, truth, probabilities, predicted)
    named = by_name(found)
    for name in ("web", "mail", "letter"):
        members = (values == name).to_numpy()
        exact = ((truth[members] > 0) == predicted[members]).all(axis=1).mean()
        assert named[name]["accuracy"]["value"] == pytest.approx(exact, abs=1e-9)
    for index, label in enumerate(found["labels"]):
        binary = {"y_true": truth[:, index], "y_pred": predicted[:, index].astype(float)}
        frame = fairlearn.MetricFrame(
            metrics={"recall": fairlearn.true_positive_rate, "share": fairlearn.selection_rate},
            sensitive_features=values,
            **binary,
        )
        for name, expected in frame.by_group.iterrows():
            recall, share = (named[name][of][label] for of in ("recall", "selection_rate"))
            assert recall["value"] == pytest.approx(expected["recall"], abs=1e-9)
            assert share["value"] == pytest.approx(expected["share"], abs=1e-9)
        gap = next(
            one
            for one in found["gaps"]
            if one["measure"] == "equalized_odds_difference" and one["label"] == label
        )
        expected = fairlearn.equalized_odds_difference(sensitive_features=values, **binary)
        assert gap["difference"] == pytest.approx(expected, abs=1e-9)


def test_a_rate_of_no_texts_is_undefined_and_left_out_of_the_gaps():
    truth, probabilities = outputs(600)
    values = pd.Series(np.where(truth == 0, "a", "b"), name="from")
    values[:100] = "c"
    found = compare(values, truth, probabilities)
    number = by_name(found)["a"]["recall"]["label 1"]
    assert number["n"] == 0 and number["value"] is None and number["p_adjusted"] is None
    odds = found["gaps"][-1]
    assert odds["measure"] == "equalized_odds_difference"
    # Of label 0 only a and c have texts, of all others only b and c.
    compared = {"a", "c"} if found["selected"] == ["label 0"] else {"b", "c"}
    compared = compared if odds["rate"] == "recall" else {"a", "b", "c"} - compared | {"c"}
    assert {odds["lowest"], odds["highest"]} == compared


# ------------------------------------------------------------------------------- tests of chance
def test_a_group_is_compared_with_all_other_texts_by_interval_and_test():
    truth, probabilities = outputs(900)
    values = dealt(900, "web", "mail", "letter", shares=(0.6, 0.35, 0.05))
    right = probabilities.argmax(axis=1) == truth
    found, p_values = compare(values, truth, probabilities), []
    for name, group in by_name(found).items():
        members = (values == name).to_numpy()
        hits, n = int(right[members].sum()), int(members.sum())
        others, other_n = int(right[~members].sum()), int((~members).sum())
        number = group["accuracy"]
        assert number["n"] == n and number["ci95"] == list(accuracy_interval(hits, n))
        assert number["difference"] == pytest.approx(hits / n - others / other_n)
        interval = shares_interval(hits, n, others, other_n)
        assert number["difference_ci95"] == list(interval)
        table = [[hits, n - hits], [others, other_n - others]]
        expected = chi2_contingency(table, correction=False).pvalue
        if np.outer(np.sum(table, 0), np.sum(table, 1)).min() < 5 * 900:
            expected = fisher_exact(table).pvalue
        assert number["p_value"] == pytest.approx(expected)
    numbers = [number for group in found["groups"] for _, _, number in numbers_of(group)]
    p_values = [number["p_value"] for number in numbers if number["p_value"] is not None]
    adjusted = [number["p_adjusted"] for number in numbers if number["p_value"] is not None]
    assert adjusted == adjust_holm(p_values) and found["n_questions"] == len(p_values)


def test_groups_that_chance_dealt_ring_and_exceed_the_gap_by_chance_in_one_of_twenty_sets(
    without_simulation,
):
    rang, exceeded = 0, 0
    for seed in range(40):
        truth, probabilities = outputs(300, seed=seed)
        found = compare(dealt(300, *"abc", seed=1_000 + seed), truth, probabilities)
        numbers = [number for group in found["groups"] for _, _, number in numbers_of(group)]
        rang += any(map(is_sure, numbers))
        exceeded += found["gaps"][0]["difference"] > found["gaps"][0]["by_chance"]
    # Of 40 sets 2 are expected; 7 or more come once in 290 times.
    assert rang < 7 and exceeded < 7


def test_a_group_whose_answers_are_worse_is_found_and_named():
    truth, probabilities = outputs(2_000)
    values = dealt(2_000, "web", "mail", "letter")
    worse = (values == "letter").to_numpy() & (np.arange(2_000) % 3 == 0)
    probabilities[worse] = probabilities[worse][:, ::-1]
    found = compare(values, truth, probabilities)
    group = by_name(found)["letter"]
    assert is_sure(group["accuracy"]) and group["accuracy"]["difference"] < -0.1
    assert f"letter {100 * group['accuracy']['difference']:+.1f}" in found["said"][0]
    assert found["gaps"][0]["lowest"] == "letter"
    assert found["gaps"][0]["difference"] > found["gaps"][0]["by_chance"]


def test_of_two_groups_each_question_is_asked_once_and_of_two_labels_one_share():
    truth, probabilities = outputs(400)
    found = compare(dealt(400, "web", "mail"), truth, probabilities)
    assert found["n_questions"] == 4  # accuracy, two recalls, one share
    one, other = (
        [number["p_adjusted"] for _, _, number in numbers_of(group)] for group in found["groups"]
    )
    assert one == other and None not in one
    assert "of 2 differences in recall, and 0 of 1" in " ".join(found["said"])


def test_the_label_whose_share_is_asked_about_is_the_rarer_one_where_it_was_learned():
    truth, probabilities = outputs(400)
    values = dealt(400, "web", "mail")
    truth[:150] = 0
    assert compare(values, truth, probabilities)["selected"] == ["label 1"]
    learned = np.array([0, 1, 1])
    assert compare(values, truth, probabilities, rare_by=learned)["selected"] == ["label 0"]


# ----------------------------------------------------------------------------- small, many or none
def test_a_group_under_the_fewest_texts_is_not_judged_but_shown_and_named():
    truth, probabilities = outputs(400)
    values = dealt(400, "web", "mail")
    values[: FEWEST - 1], values[50 : 50 + FEWEST] = "small", "enough"
    found = compare(values, truth, probabilities)
    named = by_name(found)
    assert not named["small"]["judged"] and named["enough"]["judged"]
    small = named["small"]["accuracy"]
    assert small["p_value"] is None and small["difference_ci95"] and small["value"] is not None
    assert any("Too small to be judged are 1 of 4 groups" in one for one in found["said"])
    assert any("30 texts, or with fewer beside them: small." in one for one in found["said"])
    without = {gap["measure"]: gap for gap in found["gaps_of_judged"]}
    assert "small" not in str(without)
    assert set(named) == {"web", "mail", "small", "enough"}


def test_a_group_beside_which_too_few_texts_are_is_not_judged_either():
    truth, probabilities = outputs(200)
    values = pd.Series(["all"] * (200 - FEWEST + 1) + ["few"] * (FEWEST - 1), name="from")
    found = compare(values, truth, probabilities)
    assert not any(group["judged"] for group in found["groups"]) and not found["n_questions"]
    assert "Too small to be judged are 2 of 2 groups" in found["said"][0]


def test_the_smallest_of_too_many_groups_are_one_that_is_not_judged(without_simulation):
    truth, probabilities = outputs(1_500)
    names = [f"user {index}" for index in range(MAX_GROUPS + 20)]
    values = dealt(1_500, *names)
    found = compare(values, truth, probabilities)
    assert len(found["groups"]) == MAX_GROUPS
    last = found["groups"][-1]
    assert last["group"] == "21 others" and not last["judged"]
    assert sum(group["n"] for group in found["groups"]) == 1_500
    sizes = [group["n"] for group in found["groups"][:-1]]
    assert sizes == sorted(sizes, reverse=True)
    assert any("Too small to be judged are 120 of 120 groups" in one for one in found["said"])


def test_of_many_labels_the_commonest_are_asked_about_and_it_is_said():
    truth, probabilities = outputs(900, 12)
    truth[:300] = 11
    found = compare(dealt(900, "web", "mail", "letter"), truth, probabilities)
    assert len(found["labels"]) == MAX_LABELS and "label 11" in found["labels"]
    assert any("8 commonest of 12 labels" in one for one in found["said"])


def test_empty_cells_are_a_group_and_one_group_alone_is_said():
    truth, probabilities = outputs(200)
    values = pd.Series(["", " web "] * 100, name="from")
    assert set(by_name(compare(values, truth, probabilities))) == {"(none)", "web"}
    found = compare(pd.Series(["web"] * 200, name="from"), truth, probabilities)
    assert found["said"] == [
        "All tested texts are of the group “web”: there is nothing to compare."
    ]
    assert found["gaps"][0]["difference"] is None and found["n_questions"] == 0


def test_where_no_difference_is_found_it_is_said_how_small_a_one_can_be_missed():
    truth, probabilities = outputs(300, seed=3)
    found = compare(dealt(300, "web", "mail", shares=(0.7, 0.3)), truth, probabilities)
    assert found["said"][0].startswith("None of 2 judged groups differs in accuracy")
    n = found["groups"][1]["n"]
    assert f"“mail” with {n} texts, a difference under 1" in found["said"][1]


# ------------------------------------------------------------------------------------- calibration
def test_confidence_and_calibration_are_those_of_the_groups_own_texts():
    truth, probabilities = outputs(1_000)
    values = dealt(1_000, "web", "mail")
    # Answers at a threshold are not the most probable labels, which calibration is about.
    found = by_name(compare(values, truth, probabilities, np.zeros(1_000, int)))
    for name, group in found.items():
        members = (values == name).to_numpy()
        own, true = probabilities[members], truth[members]
        accuracy = (own.argmax(axis=1) == true).mean()
        surplus = group["confidence_less_accuracy"]
        assert surplus["value"] == pytest.approx(own.max(axis=1).mean() - accuracy)
        assert surplus["ci95"][0] < surplus["value"] < surplus["ci95"][1]
        error = expected_calibration_error(own, true)
        assert group["expected_calibration_error"] == pytest.approx(error)
        assert 0 < group["expected_calibration_error_by_chance"] < 0.2
        assert group["accuracy"]["value"] == pytest.approx((true == 0).mean())


def test_a_group_has_the_threshold_that_its_answers_were_given_by():
    truth, probabilities = outputs(200)
    found = by_name(
        compare(dealt(200, "web", "mail"), truth, probabilities, thresholds={"web": 0.3})
    )
    assert found["web"]["threshold"] == 0.3 and "threshold" not in found["mail"]
