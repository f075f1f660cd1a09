"""What notebook 06 says of its outputs."""

import numpy as np

from ulmfit_app.evaluation.calibration import calibration_error_by_chance
from ulmfit_app.evaluation.metrics import expected_calibration_error


def how_accurate_is_it_and_how_sure_is_that(accuracies):
    widths = accuracies["high"] - accuracies["low"]
    assert widths.is_monotonic_decreasing
    roots = widths * np.sqrt(accuracies["n"])
    assert roots.max() / roots.min() < 1.25


def which_mistakes_does_it_make(scores, test, printed):
    matrix = np.array(scores["confusion_matrix"])
    wrong = test.probabilities.argmax(axis=1) != test.truth
    assert matrix.sum() - matrix.trace() == wrong.sum()
    (low, high), (other_low, other_high) = (
        one["recall_ci95"] for one in scores["per_class"].values()
    )
    apart = low > other_high or other_low > high
    assert ("do not overlap" in printed) == apart


def what_does_a_confidence_mean(test, printed):
    error = expected_calibration_error(test.probabilities, test.truth)
    is_chance = error <= calibration_error_by_chance(test.probabilities)
    confidence = test.probabilities.max(axis=1).mean()
    accuracy = (test.probabilities.argmax(axis=1) == test.truth).mean()
    assert ("no more than chance" in printed) == is_chance
    assert is_chance or ("overconfident" in printed) == (confidence > accuracy)


def can_one_number_mend_it(compared, temperature):
    assert compared.loc["accuracy", "before"] == compared.loc["accuracy", "after"]
    assert temperature > 0
    assert 0 < compared.loc["by chance alone, at most", "after"] < 0.15


def when_may_it_refuse_to_answer(probabilities, test, marks):
    wrong = probabilities.argmax(axis=1) != test.truth
    surest = np.argsort(-probabilities.max(axis=1))[: len(wrong) // 3]
    assert wrong[surest].mean() < wrong.mean()
    for one in marks:
        assert one["test"]["wrong"] <= one["test"]["n"] <= len(wrong)


def where_is_it_wrong(parts, test, printed):
    assert (parts.groupby("by")["n"].sum() == len(test.truth)).all()
    told = [line for line in printed.splitlines() if "their intervals" in line]
    for line, (_, of) in zip(told, parts.groupby("by", sort=False), strict=True):
        first, last = of.iloc[0], of.iloc[-1]
        apart = first["low"] > last["high"] or last["low"] > first["high"]
        assert ("is above" in line) == apart


def which_words_moved_its_most_confident_error(errors, explained):
    assert (errors["label"] != errors["predicted"]).all()
    assert errors["confidence"].is_monotonic_decreasing
    assert explained.label == errors["predicted"][0] and explained.text == errors["text"][0]
    odds = np.log([explained.probability, *explained.words["without"]])
    odds -= np.log1p([-explained.probability, *-explained.words["without"]])
    assert np.allclose(explained.words["score"], odds[0] - odds[1:], atol=1e-3)


def are_those_the_words_that_count(deleted):
    named, random = (
        deleted.set_index("deleted").loc[one] for one in ("named by occlusion", "random")
    )
    assert named["mean fall"] > random["mean fall"] + 0.02
    assert named["other labels"] > random["other labels"]


def break_it_what_if_a_classifier_learns_its_texts_by_heart(by_heart):
    history = by_heart.history
    half = len(history) // 2
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0] / 3
    assert history["calibration_error"].iloc[-1] > history["calibration_error"].iloc[0]
    assert np.ptp(history["accuracy"].iloc[half:]) < 0.05


def does_the_temperature_mend_that(mended, high, temperature):
    assert high > 1 and high > temperature
    assert mended.loc["calibration error", "after"] < mended.loc["calibration error", "before"]
    assert mended.loc["accuracy", "before"] == mended.loc["accuracy", "after"]


def break_it_what_if_a_threshold_is_judged_on_the_texts_that_chose_it(worth):
    lowest, careful = (one for _, one in worth.iterrows())
    assert lowest["promised"] <= 0.2 and lowest["broken"] > 0.25
    assert careful["answered"] < lowest["answered"]
    assert 0 < careful["broken"] < lowest["broken"]
