"""A comparison of two served models in words: a table, and what follows from it."""

from typing import Any

import pandas as pd

from ulmfit_app.data.characters import escape
from ulmfit_app.errors import quoted
from ulmfit_app.evaluation.independent import shares_interval, smallest_noticed
from ulmfit_app.evaluation.metrics import SIGNIFICANT
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.serving.comparing import Comparison

MOST_SHOWN = 20  # labels
NOT_TELLING = 0.2  # where not even such a difference of shares would be noticed, nothing is known


def format_comparison(comparison: Comparison) -> str:
    """The table and what follows from it, as a page to read or to paste."""
    labels = comparison.labels
    n_questions = len(labels) if comparison.several or len(labels) > 2 else 1
    holm = f", by Holm for {n_questions} labels" if n_questions > 1 else ""
    lines = [
        "Shares of texts in %, with their number; differences in points, with 95 % intervals;",
        f"p of no difference{holm}. A text that came again counts once for each model.",
        "",
        _table(comparison),
        "",
    ]
    if len(labels) > MOST_SHOWN:
        lines += [f"{len(labels) - MOST_SHOWN:,} more labels, with larger p, are not shown.", ""]
    found = [*_on_labels(comparison), *_on_confidence(comparison), *_on_feedback(comparison)]
    return "\n".join([*lines, *found, *comparison.notes])


def _table(comparison: Comparison) -> str:
    sides, models = comparison.sides, [_name(model) for model in comparison.models]
    rows = [["texts", *(f"{n:,}" for n in sides["n"]), "", ""]]
    rows.append(["answers", *(f"{n:,}" for n in sides["answers"]), "", ""])
    for line in comparison.labels[:MOST_SHOWN].itertuples():
        counts = zip((line.n, line.other_n), sides["n"], strict=True)
        shares = [_share(count, n) for count, n in counts]
        difference = _points(line.difference, (line.low, line.high))
        rows.append([f"says {_name(line.label)}", *shares, difference, f"{line.p_value:.2g}"])
    if comparison.several:
        rows.append(["labels per text", *(f"{mean:.2f}" for mean in sides["given"]), "", ""])
    else:
        means = [f"{100 * mean:.1f}" for mean in sides["confidence"]]
        difference = sides["confidence"].iloc[1] - sides["confidence"].iloc[0]
        rows.append(["mean confidence", *means, _points(difference, comparison.confidence), ""])
    if sides["wrong"].notna().all():
        shares = [_share(int(line.wrong), line.n) for line in sides.itertuples()]
        rows.append(["said to be wrong", *shares, _points(*_complaints(comparison)), ""])
    if sides["n_times"].any():
        requests = [f"{n:,}" for n in sides["n_times"]]
        rows.append(["requests of one text", *requests, "", ""])
        for name, column in (("their median seconds", "seconds"), ("99 % within", "p99")):
            rows.append([name, *map(_seconds, sides[column]), "", ""])
    return markdown_table(["", *models, "difference", "p"], rows)


def _complaints(comparison: Comparison) -> tuple[float, tuple[float, float]]:
    (wrong, n), (other_wrong, other_n) = comparison.sides[["wrong", "n"]].to_numpy()
    return other_wrong / other_n - wrong / n, shares_interval(other_wrong, other_n, wrong, n)


def _on_labels(comparison: Comparison) -> list[str]:
    first, other = map(_name, comparison.models)
    n, other_n = map(int, comparison.sides["n"])
    surely = comparison.labels[comparison.labels["p_value"] < SIGNIFICANT][:MOST_SHOWN]
    if len(comparison.labels) == 2 and not comparison.several:  # one gains what the other loses
        surely = surely[surely["difference"] > 0]
    found = []
    for line in surely.itertuples():
        found.append(
            f"{other} says {_name(line.label)} for {100 * line.other_n / other_n:.1f} % of its "
            f"texts, {first} for {100 * line.n / n:.1f} %: "
            f"{_more_or_less(line.difference, (line.low, line.high))}, n = {other_n:,} and {n:,}."
        )
    if found or comparison.p_value < SIGNIFICANT:
        if not found:
            found.append(
                f"The labels together differ beyond chance (p = {comparison.p_value:.2g}), "
                "although no single one does."
            )
        if comparison.by_hash:
            found.append(
                "A hash of the text alone decided which model answered, so a difference beyond "
                "chance comes from the models. Which of them is right, the log does not know."
            )
    else:
        found.append(_nothing_found(comparison))
    for model, (own, theirs) in ((first, ("n", "other_n")), (other, ("other_n", "n"))):
        alone = comparison.labels.loc[comparison.labels[theirs] == 0, ["label", own]]
        if len(alone):
            found.append(
                f"Said by {model} alone: {quoted(alone['label'].tolist())}. The other may not "
                "know it, or had no such text by chance: its labels are at /v1/model."
            )
    return found


def _nothing_found(comparison: Comparison) -> str:
    """What was not seen, and how large it could be all the same."""
    n, other_n = map(int, comparison.sides["n"])
    if comparison.labels.empty:
        return "Neither gives any text a label."
    shares = (comparison.labels["n"] + comparison.labels["other_n"]) / (n + other_n)
    middle = (shares - 0.5).abs().idxmin()  # there a difference is hardest to notice
    noticed = smallest_noticed(shares[middle], n, other_n)
    if len(shares) == 1 and shares[middle] == 1:
        return f"Both say {_name(comparison.labels['label'][0])} of every text."
    if noticed >= NOT_TELLING:
        return (
            f"Too few texts to conclude anything, n = {other_n:,} and {n:,}: even a difference of "
            f"{100 * noticed:.0f} points would be missed once in five times."
        )
    return (
        f"No difference of labels beyond chance (p = {comparison.p_value:.2g}, n = {other_n:,} "
        f"and {n:,}). One of {100 * noticed:.1f} points in the share of "
        f"{_name(comparison.labels['label'][middle])} would be noticed four times in five; there "
        "may be smaller ones."
    )


def _on_confidence(comparison: Comparison) -> list[str]:
    interval = comparison.confidence
    if interval is None or interval[0] <= 0 <= interval[1]:
        return []
    first, other = comparison.sides["confidence"]
    change = _more_or_less(other - first, interval)
    return [
        f"Mean confidence of {_name(comparison.models[1])} is {100 * other:.1f} %: {change}. "
        "Being surer does not make a model better."
    ]


def _on_feedback(comparison: Comparison) -> list[str]:
    sides = comparison.sides
    if sides["wrong"].isna().any():
        return []
    said = [
        f"{int(line.wrong):,} of {line.n:,} texts of {_name(line.Index)}"
        for line in sides[::-1].itertuples()
    ]
    return [
        f"Said to be wrong: {' and '.join(said)}. Who gives feedback is no random sample of who "
        "reads answers: these are shares of complaints, not of errors."
    ]


def _name(name: str) -> str:
    """A label or a model's id as it stands in a table of Markdown."""
    short = name if len(name) <= 60 else f"{name[:59]}…"
    return escape(short).replace("|", "\\|")


def _share(count: int, n: int) -> str:
    return f"{100 * count / n:.1f} ({count:,})"


def _seconds(value: Any) -> str:
    return "–" if pd.isna(value) else f"{value:.3g}"


def _points(difference: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{100 * difference:+.1f}"
    low, high = (f"{100 * bound:+.1f}" for bound in interval)
    return f"{100 * difference:+.1f} ({low} to {high})"


def _more_or_less(difference: float, interval: tuple[float, float]) -> str:
    """
    >>> _more_or_less(-0.05, (-0.09, 0.01))
    '5.0 points less (9.0 less to 1.0 more)'
    """
    low, high = (f"{100 * abs(bound):.1f}" for bound in sorted(interval, key=abs))
    if interval[0] < 0 < interval[1]:
        low, high = f"{-100 * interval[0]:.1f} less", f"{100 * interval[1]:.1f} more"
    word = "more" if difference > 0 else "less"
    return f"{100 * abs(difference):.1f} points {word} ({low} to {high})"
