"""The report's section on errors, which page.js sorts and filters."""

from typing import Any

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.markup import class_name, cut, lang, percent, text
from ulmfit_app.evaluation.messages import say

MAX_TEXT = 300  # characters of an error's text


def errors_section(
    errors: pd.DataFrame,
    scores: dict,
    model: str,
    explanations: dict[int, str],
    language: str = "",
) -> str:
    """The errors, to be sorted and filtered.

    Args:
        errors: what report.worst_errors returns.
        scores: the model's, as metrics.score returns them.
        model: what it is called.
        explanations: row of a wrong prediction -> HTML that shows its text.
        language: of the texts, as `lang` has it, where it is another one than the report's.

    Returns:
        HTML.
    """
    if errors.empty:
        none = say("None: all {n:,} texts were classified correctly.", n=scores["n"])
        return f"<p>{none}</p>"
    n, n_wrong = len(errors), count_wrong(scores)
    count = (
        say("{n:,} of {n_wrong:,}", n=n, n_wrong=n_wrong) if n < n_wrong else say("All {n:,}", n=n)
    )
    how = say(
        "{count} wrong predictions of {model}, the most confident first. Some may be errors in "
        "the labels. Rows are those of the predictions, counted from 0; worst_errors.csv has the "
        "whole texts.",
        count=count,
        model=model,
    )
    n_explained = int(errors["row"].isin(list(explanations)).sum())
    if n_explained:
        how += say(
            " In {n_explained} of the most confident, the words that moved the prediction most "
            "are marked: without the bold ones it would have been less sure, without the "
            "underlined ones more sure (occlusion).",
            n_explained=n_explained,
        )
    numbers = {label: number for number, label in enumerate(scores["per_class"])}
    articles = [
        _article(error, numbers, explanations.get(error.row), language)
        for error in errors.itertuples()
    ]
    more = say("Show more")
    return (
        f'<p class="how">{text(how)}</p>{_controls(errors, numbers)}'
        f'<div class="errors">{"".join(articles)}</div>'
        f'<button class="more" type="button" hidden>{more}</button>'
    )


def count_wrong(scores: dict) -> int:
    """How many texts were given a wrong class. scores: what metrics.score returns."""
    return scores["n"] - int(np.trace(np.array(scores["confusion_matrix"])))


def _article(error: Any, numbers: dict[str, int], explanation: str | None, language: str) -> str:
    """One error, with what page.js sorts and filters it by. error: a row of the errors."""
    what = say(
        "predicted {predicted} at {confidence}, labelled {label} at {probability}, row {row}",
        predicted=class_name(error.predicted),
        confidence=percent(error.confidence),
        label=class_name(error.label),
        probability=percent(error.probability_of_label),
        row=error.row,
    )
    shown = explanation or f'<p dir="auto">{text(cut(error.text, MAX_TEXT))}</p>'
    return (
        f'<article data-label="{numbers[error.label]}" '
        f'data-predicted="{numbers[error.predicted]}" data-row="{error.row}" '
        f'data-length="{len(error.text)}"><p class="what">{what}</p>'
        f"<div{lang(language)}>{shown}</div></article>"
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
    for field, heading in (("label", say("labelled")), ("predicted", say("predicted"))):
        counts = errors[field].value_counts()
        there = {
            number: f"{label} ({counts[label]:,})"
            for label, number in numbers.items()
            if label in counts
        }
        html += select(field, heading, {"": say("any"), **there})
    # The first is the order in which they stand.
    orders = {
        "surest": say("most confident first"),
        "unsure": say("least confident first"),
        "shortest": say("shortest text first"),
        "longest": say("longest text first"),
        "row": say("row of the predictions"),
    }
    html += select("order", say("sorted by"), orders)
    html += f'<label>{say("with the words")} <input name="words" type="search"></label>'
    # page.js puts the numbers in.
    shown = say("{n} of {n_found} shown", n="{n}", n_found="{n_found}")
    return f'<div class="controls" hidden>{html}<output data-shown="{text(shown)}"></output></div>'
