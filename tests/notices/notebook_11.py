"""What the Notices of notebook 11 say, as checks."""

import json

import numpy as np


def how_rare_is_rare(counts):
    share = counts["pos"] / counts.sum(axis=1)
    assert share.max() - share.min() < 0.03 and share.max() < 0.15
    assert 5 < counts["pos"]["valid"] < 50


def what_does_accuracy_hide(found, plain):
    always = found.loc["always neg"]
    assert np.isclose(always["accuracy"], (plain.test_truth == 0).mean())
    assert always["recall of pos"] == 0 and always["balanced accuracy"] == 0.5


def do_class_weights_find_more_of_them(found, gained, printed):
    trained, weighted = found.loc["as trained"], found.loc["with weights"]
    assert weighted["answers pos"] > trained["answers pos"]
    assert weighted["recall of neg"] < trained["recall of neg"]
    assert np.isclose(gained, weighted["recall of pos"] - trained["recall of pos"])
    assert f"{100 * gained:+.1f} points" in printed


def what_do_the_weights_cost(calibration):
    at_one = calibration.groupby("way").first()
    trained, weighted = at_one.loc["as trained"], at_one.loc["with weights"]
    assert at_one["temperature"].tolist() == [1, 1]
    assert weighted["mean probability"] > trained["mean probability"]
    assert weighted["mean probability"] > weighted["share"]


def can_a_threshold_do_the_same_without_weights(lines, printed):
    assert (lines.iloc[-1] < lines.max()).all() and (lines.iloc[0] < lines.max()).all()
    assert all(f"{threshold:.2f}" in printed for threshold in lines.idxmax())


def break_it_what_does_a_threshold_gain_on_the_texts_that_chose_it(gains):
    for _, rows in gains.groupby("way"):
        of = rows.droplevel("way")["validation"]
        assert of["best on validation"] >= of.max() - 1e-9
    assert gains.columns[-1] == "test"


def and_where_a_mistake_has_a_price(priced, decisions, printed):
    likeliest, by_costs = priced.loc["most probable"], priced.loc["lowest expected cost"]
    assert by_costs["missed"] <= likeliest["missed"]
    assert by_costs["in vain"] >= likeliest["in vain"]
    assert priced["cost per text"].idxmin() in printed and len(decisions) == len(priced)


def what_if_a_text_has_several_labels(sets):
    cells = {cell: json.loads(cell) for cell in sets.index}
    assert [] in cells.values() and max(map(len, cells.values())) > 1
    assert len({label for cell in cells.values() for label in cell}) < len(cells)


def what_is_different_in_such_a_classifier(shown_sets, several):
    assert (shown_sets["sum"] - 1).abs().max() > 0.05
    assert shown_sets["sum"].nunique() > 1 and len(several.labels) == 3


def how_right_is_a_list_of_labels(scores, several):
    nothing, truth = scores.loc["no label at all"], several.test_truth
    assert np.isclose(nothing["subset accuracy"], (truth.sum(axis=1) == 0).mean())
    assert np.isclose(nothing["Hamming loss"], truth.mean())
    assert nothing["micro F1"] == nothing["macro F1"] == 0


def is_one_half_the_right_threshold_for_each_label(chosen):
    assert (chosen["threshold"] != 0.5).any()
    assert chosen.columns[-2:].tolist() == ["F1 at one half", "F1 at its own"]
