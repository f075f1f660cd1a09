"""The report's section on an update: what it gained on new texts, and lost on old ones."""

from ulmfit_app.evaluation.markup import interval, table, text
from ulmfit_app.evaluation.messages import known, say
from ulmfit_app.evaluation.metrics import SIGNIFICANT
from ulmfit_app.evaluation.updates import DURATIONS, NEW, OLD, PARENT, RETRAINED, UPDATED


def update_section(metrics: dict, facts: dict) -> str:
    """An updated run beside its parent, and beside the same trained from the start.

    Args:
        metrics: what metrics.json holds.
        facts: as in report.write_report; their durations are those of `updates.DURATIONS`, too.

    Returns:
        HTML; "" of a run that is no update.
    """
    found = metrics.get("update")
    if not found:
        return ""
    sentences = [_describe(found), *_on_old(found), *_on_new(found), *_against_retraining(found)]
    how = say(
        "Old texts are those that the parent was tested on, new ones came with the update; the "
        "parent learned from none of either. Nothing was chosen by them: the epoch that is kept "
        "is chosen on the validation texts, old and new. Minutes are those of the training, the "
        "report left out."
    )
    return (
        f"<h2>{say('Update')}</h2>{_table(found, facts.get('durations', {}))}"
        + "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)
        + f'<p class="how">{text(how)}</p>'
    )


def _table(found: dict, durations: dict) -> str:
    tests = [which for which in (OLD, NEW) if which in found]
    heads = {OLD: say("accuracy on old texts"), NEW: say("accuracy on new texts")}
    names = {
        PARENT: say("before, {parent}", parent=found["parent"]),
        UPDATED: say("after the update"),
        RETRAINED: say("trained from the start"),
    }
    rows = []
    for name, shown in names.items():
        if name not in found[tests[0]]:
            continue
        row = [shown]
        for which in tests:
            scores = found[which][name]
            row += [f"{scores['accuracy']:.1%}", interval(scores)]
        rows.append([*row, known(durations.get(DURATIONS[name], "–"))])
    columns = [
        one
        for which in tests
        for one in (f"{heads[which]}, n = {found[which]['n']:,}", say("95% interval"))
    ]
    return table(["", *columns, say("minutes")], rows)


def _describe(found: dict) -> str:
    """What it learned."""
    learned = found["learned"]
    sentence = say(
        "Update {number} goes on from {parent}. It learned from {new:,} new texts, and again from "
        "{old:,} of {all_old:,} old ones; its vocabulary has {words:,} new words.",
        number=found["number"],
        parent=found["parent"],
        new=learned["new"],
        old=learned["old"],
        all_old=found["old_training_texts"],
        words=found["new_words"],
    )
    if found["new_labels"]:
        labels = ", ".join(found["new_labels"])
        sentence += say(" Labels that its parent did not know: {labels}.", labels=labels)
    return sentence


def _on_old(found: dict) -> list[str]:
    if "forgetting" not in found:
        return []
    of = found["forgetting"]
    low, high = of["points_ci95"]
    values = {"points": abs(of["points"]), "low": low, "high": high, "p": of["p_value"]}
    if of["p_value"] >= SIGNIFICANT:
        sentence = say(
            "On old texts no forgetting can be told from chance: {points:+.1f} points ({low:+.1f} "
            "to {high:+.1f}; exact McNemar test, p = {p:.2g}).",
            points=0 - of["points"],
            low=0 - high,
            high=0 - low,
            p=of["p_value"],
        )
    elif of["points"] > 0:
        sentence = say(
            "It has forgotten: on old texts it is {points:.1f} points below its parent ({low:.1f} "
            "to {high:.1f}; exact McNemar test, p = {p:.2g}). More --replay, or a --pull, forgets "
            "less.",
            **values,
        )
    else:
        sentence = say(
            "On old texts it is better than its parent, by {points:.1f} points ({low:.1f} to "
            "{high:.1f}; exact McNemar test, p = {p:.2g}).",
            **values | {"low": 0 - high, "high": 0 - low},
        )
    counts = say(
        " {lost:,} texts that were right are wrong now, and {gained:,} the other way round.",
        lost=of["lost"],
        gained=of["gained"],
    )
    return [sentence + counts]


def _on_new(found: dict) -> list[str]:
    if NEW not in found:
        return [say("No new text is tested on: what it gained is not known.")]
    against = found[NEW][PARENT]["updated_against_it"]
    low, high = against["accuracy_difference_ci95"]
    values = {"low": 100 * low, "high": 100 * high, "p": against["p_value"]}
    points = 100 * against["accuracy_difference"]
    if against["p_value"] >= SIGNIFICANT:
        return [
            say(
                "On new texts no gain can be told from chance: {points:+.1f} points ({low:+.1f} "
                "to {high:+.1f}; exact McNemar test, p = {p:.2g}).",
                points=points,
                **values,
            )
        ]
    return [
        say(
            "On new texts it changes the accuracy by {points:+.1f} points ({low:+.1f} to "
            "{high:+.1f}; exact McNemar test, p = {p:.2g}).",
            points=points,
            **values,
        )
    ]


def _against_retraining(found: dict) -> list[str]:
    shown = {OLD: say("old texts"), NEW: say("new texts")}
    sentences = []
    for which in (OLD, NEW):
        if RETRAINED not in found.get(which, {}):
            continue
        against = found[which][RETRAINED]["updated_against_it"]
        low, high = against["accuracy_difference_ci95"]
        sentences.append(
            say(
                "Against the run that was trained from the start, on {texts}: {points:+.1f} "
                "points ({low:+.1f} to {high:+.1f}; p = {p:.2g}).",
                texts=shown[which],
                points=100 * against["accuracy_difference"],
                low=100 * low,
                high=100 * high,
                p=against["p_value"],
            )
        )
    if "share_of_gain" in found:
        sentences.append(
            say(
                "Of what training from the start gains on new texts, the update gains "
                "{share:.0%}.",
                share=found["share_of_gain"],
            )
        )
    return sentences
