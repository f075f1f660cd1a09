"""The report's section on groups: each one's numbers, and which differ from all others."""

from ulmfit_app.evaluation.group_words import is_sure
from ulmfit_app.evaluation.groups_figure import GROUPS_FIGURE
from ulmfit_app.evaluation.markup import interval, listed, table, text
from ulmfit_app.evaluation.messages import say
from ulmfit_app.evaluation.metrics import spell_p

MAX_LINES = 100  # of the table of groups and labels; metrics.json has all


def groups_section(metrics: dict, pictures: dict[str, str]) -> str:
    """How good the answers are for each group of each column.

    Args:
        metrics: what metrics.json holds; where it has no groups, there is no section.
        pictures: HTML of the figures groups_1, groups_2 and so on, in the order of the columns.

    Returns:
        HTML.
    """
    if not metrics.get("groups"):
        return ""
    how = say(
        "Groups are the texts that have the same value in a column. Each number of a group is "
        "compared with that of all other texts together; p is the chance of such a difference if "
        "there were none, adjusted by Holm for all questions that are asked of the column. A "
        "difference is no cause: groups may differ in how hard their texts are, and in how often "
        "they have each label, which recall does not depend on."
    )
    html = f'<h2>{say("Groups")}</h2><p class="how">{how}</p>'
    for number, found in enumerate(metrics["groups"], start=1):
        html += f"<h3>{text(say('By {what}', what=found['column']))}</h3>{listed(found['said'])}"
        if len(found["groups"]) > 1:
            picture = pictures[GROUPS_FIGURE.format(number=number)]
            html += picture + _groups(found) + _labels(found) + _gaps(found)
    return html


def caption_groups(metrics: dict) -> dict[str, str]:
    """What stands below the figures of groups, by the figures' names. metrics: as above."""
    caption = say(
        "Lines are 95% intervals, dashed lines the shares of all texts. Filled dots differ from "
        "all other texts beyond chance. Groups that are too small to be judged are grey."
    )
    numbers = range(1, len(metrics.get("groups", [])) + 1)
    return {GROUPS_FIGURE.format(number=number): caption for number in numbers}


def _groups(found: dict) -> str:
    """The table of the groups: accuracy and calibration."""
    has_thresholds = any("threshold" in group for group in found["groups"])
    rows = []
    for group in found["groups"]:
        surplus, error = group["confidence_less_accuracy"], group["expected_calibration_error"]
        by_chance = group["expected_calibration_error_by_chance"]
        row = [group["group"], f"{group['n']:,}", *_compared(group["accuracy"])]
        row += [_points(surplus["value"], surplus["ci95"]), f"{error:.1%} ({by_chance:.1%})"]
        if has_thresholds:
            row.append(f"{group['threshold']:.4f}" if "threshold" in group else "–")
        rows.append(row)
    heads = [say("group"), say("texts"), say("accuracy (95% interval)")]
    heads += [say("less all others, points"), say("against all others")]
    heads += [say("confidence less accuracy, points"), say("calibration error (by chance)")]
    heads += [say("threshold")] if has_thresholds else []
    how = say(
        "Confidence less accuracy is above 0 where the classifier is too sure of itself. "
        "Calibration error is that of 15 bins; behind it stands how large it is in 95 of 100 "
        "samples of this size if every confidence is exactly right: a smaller one is no sign of a "
        "fault. Both are of the probabilities, before thresholds or costs, and not tested."
    )
    return table(heads, rows, names=(0, 4)) + f'<p class="how">{how}</p>'


def _labels(found: dict) -> str:
    """The tables of groups and labels: recall, and how often a label is given."""
    shares = say("share given it (95% interval)"), "selection_rate", say("share that has it")
    recall = say("recall (95% interval)"), "recall", say("texts that have it")
    html = f"<h4>{say('Recall of each label')}</h4>" + _lines(found, found["labels"], *recall)
    given = say("How often a label is given")
    return html + f"<h4>{given}</h4>" + _lines(found, found["selected"], *shares)


def _lines(found: dict, labels: list[str], head: str, kind: str, has: str) -> str:
    """A table of one kind of number, by label and group. head, has: of its columns."""
    lines = [(label, group) for label in labels for group in found["groups"]]

    def rank(index: int) -> tuple[float, int]:
        label, group = lines[index]
        p_value = group[kind][label]["p_value"]
        return (2.0 if p_value is None else p_value, index)

    rows = []
    for index in sorted(sorted(range(len(lines)), key=rank)[:MAX_LINES]):
        label, group = lines[index]
        n = group["recall"][label]["n"]
        share = f"{n:,}" if kind == "recall" else f"{n / group['n']:.1%}"
        rows.append([label, group["group"], share, *_compared(group[kind][label])])
    heads = [say("label"), say("group"), has, head]
    heads += [say("less all others, points"), say("against all others")]
    html = table(heads, rows, names=(0, 1, 5))
    if len(rows) < len(lines):
        more = say(
            "{n:,} of {n_all:,} lines, those of the lowest p-values; metrics.json has all.",
            n=len(rows),
            n_all=len(lines),
        )
        html += f'<p class="how">{more}</p>'
    return html


def _compared(number: dict) -> list[str]:
    """Three cells: a share with its interval, what it has less than all others, and a verdict."""
    if number["value"] is None:
        return ["–", "–", say("no texts")]
    share = f"{number['value']:.1%} ({interval({'of_ci95': number['ci95']}, 'of')})"
    less = "–"
    if number["difference"] is not None:
        less = _points(number["difference"], number["difference_ci95"])
    if number["p_adjusted"] is None:
        return [share, less, say("too few texts")]
    verdict = spell_p(number["p_adjusted"])
    if is_sure(number):
        side = say("lower") if number["difference"] < 0 else say("higher")
        verdict = say("{side}, {p_value}", side=side, p_value=verdict)
    return [share, less, verdict]


def _points(value: float, ci95: list[float] | None) -> str:
    """A difference in points with its interval."""
    if ci95 is None:
        return f"{100 * value:+.1f}"
    low, high = (100 * bound for bound in ci95)
    return say("{value:+.1f} ({low:+.1f} to {high:+.1f})", value=100 * value, low=low, high=high)


def _gaps(found: dict) -> str:
    """The largest differences between two groups."""
    measures = {
        "accuracy_difference": say("accuracy"),
        "demographic_parity_difference": say("share given it (demographic parity difference)"),
        "equalized_odds_difference": say("recall or false positives (equalized odds difference)"),
    }
    kinds = [(say("all groups"), found["gaps"])]
    if "gaps_of_judged" in found:
        kinds.append((say("judged groups"), found["gaps_of_judged"]))
    rows = []
    for which, gaps in kinds:
        for gap in gaps:
            row = [measures[gap["measure"]], gap["label"] or "", which]
            if gap["difference"] is None:
                rows.append([*row, "–", "–", "–", "–"])
                continue
            numbers = [f"{100 * gap[key]:.1f}" for key in ("difference", "by_chance")]
            rows.append([*row, *numbers, gap["lowest"], gap["highest"]])
    heads = ["", say("label"), say("among"), say("points"), say("by chance"), say("lowest")]
    how = say(
        "The largest difference between two groups grows with their number, and as they get "
        "smaller, even if they do not differ at all: by chance it is up to the value beside it "
        "in 95 of 100 draws of groups of the same sizes."
    )
    title = f"<h4>{say('Largest differences between two groups')}</h4>"
    shown = table([*heads, say("highest")], rows, names=(0, 1, 2, 5, 6))
    return f'{title}{shown}<p class="how">{how}</p>'
