"""The report's section on errors, which page.js sorts and filters."""

from typing import Any

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.markup import class_name, cut, percent, text

MAX_TEXT = 300  # characters of an error's text
# The first is the order in which they stand.
ORDERS = {
    "surest": "most confident first",
    "unsure": "least confident first",
    "shortest": "shortest text first",
    "longest": "longest text first",
    "row": "row of the predictions",
}


def errors_section(
    errors: pd.DataFrame, scores: dict, model: str, explanations: dict[int, str]
) -> str:
    """The errors, to be sorted and filtered.

    Args:
        errors: what report.worst_errors returns.
        scores: the model's, as metrics.score returns them.
        model: what it is called.
        explanations: row of a wrong prediction -> HTML that shows its text.

    Returns:
        HTML.
    """
    if errors.empty:
        return f"<p>None: all {scores['n']:,} texts were classified correctly.</p>"
    n_wrong = count_wrong(scores)
    count = f"{len(errors):,} of {n_wrong:,}" if len(errors) < n_wrong else f"All {len(errors):,}"
    how = (
        f"{count} wrong predictions of {model}, the most confident first. Some may be errors in "
        "the labels. Rows are those of the predictions, counted from 0; worst_errors.csv has the "
        "whole texts."
    )
    n_explained = int(errors["row"].isin(list(explanations)).sum())
    if n_explained:
        how += (
            f" In {n_explained} of the most confident, the words that moved the prediction most "
            "are marked: without the bold ones it would have been less sure, without the "
            "underlined ones more sure (occlusion)."
        )
    numbers = {label: number for number, label in enumerate(scores["per_class"])}
    articles = [
        _article(error, numbers, explanations.get(error.row)) for error in errors.itertuples()
    ]
    return (
        f'<p class="how">{text(how)}</p>{_controls(errors, numbers)}'
        f'<div class="errors">{"".join(articles)}</div>'
        '<button class="more" type="button" hidden>Show more</button>'
    )


def count_wrong(scores: dict) -> int:
    """How many texts were given a wrong class. scores: what metrics.score returns."""
    return scores["n"] - int(np.trace(np.array(scores["confusion_matrix"])))


def _article(error: Any, numbers: dict[str, int], explanation: str | None) -> str:
    """One error, with what page.js sorts and filters it by. error: a row of the errors."""
    what = (
        f"predicted {class_name(error.predicted)} at {percent(error.confidence)}, "
        f"labelled {class_name(error.label)} at {percent(error.probability_of_label)}, "
        f"row {error.row}"
    )
    shown = explanation or f'<p dir="auto">{text(cut(error.text, MAX_TEXT))}</p>'
    return (
        f'<article data-label="{numbers[error.label]}" '
        f'data-predicted="{numbers[error.predicted]}" data-row="{error.row}" '
        f'data-length="{len(error.text)}"><p class="what">{what}</p><div>{shown}</div></article>'
    )


def _controls(errors: pd.DataFrame, numbers: dict[str, int]) -> str:
    """What sorts and filters the errors, hidden where no script runs. numbers: of the labels."""

    def select(field: str, heading: str, options: dict) -> str:
        shown = "".join(
            f'<option value="{value}">{text(cut(shown, 40))}</option>'
            for value, shown in options.items()
        )
        return f'<label>{heading} <select name="{field}">{shown}</select></label>'

    html = ""
    for field, heading in (("label", "labelled"), ("predicted", "predicted")):
        counts = errors[field].value_counts()
        there = {
            number: f"{label} ({counts[label]:,})"
            for label, number in numbers.items()
            if label in counts
        }
        html += select(field, heading, {"": "any", **there})
    html += (
        select("order", "sorted by", ORDERS)
        + '<label>with the words <input name="words" type="search"></label>'
    )
    return f'<div class="controls" hidden>{html}<output></output></div>'
