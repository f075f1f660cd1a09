"""The report's section on confidence: calibration, and answering only when sure."""

from ulmfit_app.evaluation.markup import interval, listed, table, text
from ulmfit_app.evaluation.messages import say


def confidence_section(metrics: dict, pictures: dict[str, str]) -> str:
    """How far confidence can be believed, and what comes of answering only where it is high.

    Args:
        metrics: what metrics.json holds.
        pictures: HTML of the figures reliability and risk_coverage.

    Returns:
        HTML.
    """
    found, notes = metrics.get("calibration"), listed(metrics["undefined"])
    if found is None:
        return notes + pictures["reliability"] + pictures["risk_coverage"]
    return (
        f"<h3>{say('Before and after calibration')}</h3>"
        + _before_and_after(found, "decision" in metrics)
        + notes
        + pictures["reliability"]
        + f"<h3>{say('Answering only when sure')}</h3>"
        + _thresholds(found)
        + pictures["risk_coverage"]
    )


def _before_and_after(found: dict, decided: bool) -> str:
    """What the temperature changed, as a table and a paragraph.

    decided: whether answers are not always the most probable class.
    """
    before, after = found["before"], found["after"]

    def largest(scores: dict, ending: str) -> str:
        error, n = (scores[f"maximum_calibration_error{part}"] for part in (ending, f"{ending}_n"))
        return f"{error:.1%} (n = {n:,})"

    accuracy = say("accuracy of the most probable class") if decided else say("accuracy")
    # How a number is called, its key, and how it is written.
    error = "expected_calibration_error"
    named = (
        (accuracy, "accuracy", ".1%"),
        (say("log loss"), "log_loss", ".4f"),
        (say("Brier score"), "brier_score", ".4f"),
        (say("expected calibration error, equal width"), error, ".2%"),
        (say("expected calibration error, equal mass"), f"{error}_equal_mass", ".2%"),
    )
    rows = [[name, f"{before[key]:{form}}", f"{after[key]:{form}}"] for name, key, form in named]
    for name, ending in (
        (say("maximum calibration error, equal width"), ""),
        (say("maximum calibration error, equal mass"), "_equal_mass"),
    ):
        rows.append([name, *(largest(scores, ending) for scores in (before, after))])
    how = _what_changed(found) + say(
        "The Brier score is the mean squared distance between probabilities and truth. "
        "Calibration error is how far confidence and accuracy lie apart in 15 bins, of equal "
        "width or with equally many texts (mass), on average or at most; n is that of the worst "
        "bin, since few texts are often far off by chance. If every confidence were exactly "
        "right, the expected error (equal width) would still be up to {by_chance:.2%} in 95 of "
        "100 samples of this size (simulated): a smaller error is no sign of a fault.",
        by_chance=found["expected_calibration_error_by_chance"],
    )
    return table(["", say("before"), say("after")], rows) + f'<p class="how">{text(how)}</p>'


def _what_changed(found: dict) -> str:
    """What the temperature did, or why there is none."""
    n = found["n_validation"]
    if "temperature_undefined" in found:
        return say(
            "No temperature could be fitted on the validation texts (n = {n:,}): {reason}. "
            "Nothing was changed. ",
            n=n,
            reason=found["temperature_undefined"],
        )
    return say(
        "All logits were divided by one number, the temperature, {temperature:.3g}; above 1 it "
        "makes the classifier less sure, below 1 more sure. It is the one with the lowest log "
        "loss on the validation texts (n = {n:,}); the table shows the tested texts, which it was "
        "not fitted on. The most probable class does not change, and so the accuracy does not "
        "either. ",
        temperature=found["temperature"],
        n=n,
    )


def _thresholds(found: dict) -> str:
    """For each wanted error: the confidence that gave it on validation, and what it gives here."""
    rows, missing = [], []
    for one in found["thresholds"]:
        wanted = f"{one['wanted_error']:.0%}"
        if one["threshold"] is None:
            rows.append([wanted, *"–––––"])
            why = say("{wanted}: {reason}.", wanted=wanted, reason=one["undefined"])
            missing.append(why)
            continue
        validation, test = one["validation"], one["test"]
        at = f"{one['threshold']:.5g}" if one["threshold"] else say("any")
        shares = [f"{part['coverage']:.1%} (n = {part['n']:,})" for part in (validation, test)]
        error = (
            "–" if test["error"] is None else f"{test['error']:.1%} ({interval(test, 'error')})"
        )
        rows.append([wanted, at, shares[0], f"{validation['error']:.1%}", shares[1], error])
        if test["error"] is None:
            why = say("{wanted}, tested: {reason}.", wanted=wanted, reason=test["undefined"])
            missing.append(why)
    heads = [
        say("wanted error"),
        say("confidence from"),
        say("validation: answered"),
        say("wrong"),
        say("tested: answered"),
        say("wrong (95% interval)"),
    ]
    how = say(
        "If people take over the texts that a classifier is unsure of, it has to answer only from "
        "some confidence on. Each threshold is the lowest that kept the error of the answered "
        "validation texts within the wanted one. One wrong answer more is counted than there "
        "were, so that few texts cannot promise a small error. What it gives on the tested texts "
        "differs, since both splits are samples."
    )
    return table(heads, rows, names=()) + f'<p class="how">{text(" ".join([how, *missing]))}</p>'
