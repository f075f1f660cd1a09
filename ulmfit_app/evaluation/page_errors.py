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
    how += explained(errors, explanations)
    numbers = {label: number for number, label in enumerate(scores["per_class"])}
    articles = [
        _article(error, numbers, explanations.get(error.row), language)
        for error in errors.itertuples()
    ]
    fields = [
        ("label", say("labelled"), errors["label"].value_counts().to_dict()),
        ("predicted", say("predicted"), errors["predicted"].value_counts().to_dict()),
    ]
    first = say("most confident first"), say("least confident first")
    return show_errors(how, articles, controls(fields, numbers, first))


def explained(errors: pd.DataFrame, explanations: dict[int, str]) -> str:
    """A sentence on the explanations beside errors; "" without any."""
    n_explained = int(errors["row"].isin(list(explanations)).sum())
    if not n_explained:
        return ""
    return say(
        " In {n_explained} of the most confident, the words that moved the prediction most are "
        "marked: without the bold ones it would have been less sure, without the underlined ones "
        "more sure (occlusion).",
        n_explained=n_explained,
    )


def show_errors(how: str, articles: list[str], of_them: str) -> str:
    """A list of errors as HTML. how: about it, a text; articles, of_them: HTML, as `controls`."""
    more = say("Show more")
    return (
        f'<p class="how">{text(how)}</p>{of_them}'
        f'<div class="errors">{"".join(articles)}</div>'
        f'<button class="more" type="button" hidden>{more}</button>'
    )


def count_wrong(scores: dict) -> int:
    """How many texts were given a wrong class. scores: what metrics.score returns."""
    return scores["n"] - int(np.trace(np.array(scores["confusion_matrix"])))


def _article(error: Any, numbers: dict[str, int], *of_text: str | None) -> str:
    """One error, with what page.js sorts and filters it by. of_text: as in show_error."""
    what = say(
        "predicted {predicted} at {confidence}, labelled {label} at {probability}, row {row}",
        predicted=class_name(error.predicted),
        confidence=percent(error.confidence),
        label=class_name(error.label),
        probability=percent(error.probability_of_label),
        row=error.row,
    )
    return show_error(error, what, numbers[error.label], numbers[error.predicted], *of_text)


def show_error(
    error: Any,
    what: str,
    of_label: int | str,
    of_predicted: int | str,
    explanation: str | None,
    language: str,
) -> str:
    """One error as HTML.

    Args:
        error: a row of the errors, with row and text.
        what: was answered, and what is true, HTML.
        of_label, of_predicted: the numbers that the two selections find it by.
        explanation: HTML that shows its text, if there is one.
        language: of the text, as `lang` has it, where it is another one than the report's.
    """
    shown = explanation or f'<p dir="auto">{text(cut(error.text, MAX_TEXT))}</p>'
    return (
        f'<article data-label="{of_label}" data-predicted="{of_predicted}" '
        f'data-row="{error.row}" data-length="{len(error.text)}"><p class="what">{what}</p>'
        f"<div{lang(language)}>{shown}</div></article>"
    )


def controls(
    fields: list[tuple[str, str, dict[str, int]]], numbers: dict[str, int], first: tuple[str, str]
) -> str:
    """What sorts and filters errors, hidden where no script runs.

    Args:
        fields: of the two selections, label and predicted: name, heading, and the number of errors
            by label.
        numbers: of the labels.
        first: what the order is called in which errors stand, and its reverse.

    Returns:
        HTML.
    """

    def select(field: str, heading: str, options: dict) -> str:
        shown = "".join(
            f'<option value="{value}">{text(cut(shown, 40))}</option>'
            for value, shown in options.items()
        )
        return f'<label>{heading} <select name="{field}">{shown}</select></label>'

    html = ""
    for field, heading, counts in fields:
        there = {
            number: f"{label} ({counts[label]:,})"
            for label, number in numbers.items()
            if label in counts
        }
        html += select(field, heading, {"": say("any"), **there})
    orders = {
        "surest": first[0],
        "unsure": first[1],
        "shortest": say("shortest text first"),
        "longest": say("longest text first"),
        "row": say("row of the predictions"),
    }
    html += select("order", say("sorted by"), orders)
    html += f'<label>{say("with the words")} <input name="words" type="search"></label>'
    # page.js puts the numbers in.
    shown = say("{n} of {n_found} shown", n="{n}", n_found="{n_found}")
    return f'<div class="controls" hidden>{html}<output data-shown="{text(shown)}"></output></div>'
