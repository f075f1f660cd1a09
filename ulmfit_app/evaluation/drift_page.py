"""What monitoring found, as one HTML page."""

import math

import pandas as pd

from ulmfit_app.evaluation.accuracy_estimate import Estimate
from ulmfit_app.evaluation.drift import (
    LARGE,
    LARGE_DISTANCE,
    NEW,
    OLD,
    SHARE,
    UNKNOWN,
    Change,
    Monitored,
)
from ulmfit_app.evaluation.drift_tests import N_PERMUTATIONS
from ulmfit_app.evaluation.markup import (
    class_name,
    cut,
    document,
    lang_of,
    listed,
    percent,
    picture,
    table,
    text,
)

SHOWN_TEXTS = 10
SHOWN_CHARACTERS = 400  # of a text


def drift_page(found: Monitored, pngs: dict[str, bytes]) -> str:
    """The page as HTML.

    Args:
        found: what was compared.
        pngs: figures by name, as `drift_figures` names them.
    """
    drift = found.drift
    about = (
        f"{drift.n_new:,} texts of {found.source} against {drift.n_old:,} of {found.old_name}, "
        f"which the run {found.run} never learned from."
    )
    others = [picture(name, png) for name, png in pngs.items() if name != "changes"]
    sections = [
        f"<p><strong>{text(drift.verdict())}</strong></p>",
        "" if found.estimate is None else f"<p>{text(describe_estimate(found))}</p>",
        "<h2>What was asked</h2>",
        picture("changes", pngs["changes"], _CAPTION),
        _questions(drift.changes),
        f'<p class="how">{text(_how_decided(len(drift.changes)))}</p>',
        "<h2>What changed</h2>",
        *others,
        _words(found.words),
        _unfamiliar(found.texts),
        f"<h2>Notes</h2>{listed(found.notes)}",
    ]
    return document(f"Drift: {found.source}", about, sections)


_CAPTION = (
    "Orange: sure and large enough to count. Blue: sure, but small. Grey: no change beyond "
    "chance. States are drawn in multiples of what would count."
)


def describe_estimate(found: Monitored) -> str:
    """The accuracy as it is estimated, how sure that is, and how to know it."""
    one: Estimate = found.estimate
    several = found.new.answers.ndim == 2
    what = "yes and no answers for each label" if several else "answers"
    said = (
        f"Without labels, {one.accuracy:.1%} of the {what} are estimated to be right "
        f"({one.low:.1%} to {one.high:.1%}): {one.before:.1%} were on {one.n_before:,} texts "
        f"before, and the mean confidence went from {one.confidence_before:.1%} to "
        f"{one.confidence:.1%}. "
    )
    if found.drift.rings:
        return said + (
            "The interval holds only if confidence means what it did, and the texts have changed: "
            "the true accuracy may be far lower. Label 200 of the new texts to know it within 7 "
            "points."
        )
    return said + "The interval holds if confidence means what it did."


def _questions(changes: list[Change]) -> str:
    heads = ["question", "found", "effect", "95% interval", "p, adjusted", "texts before", "new"]
    heads.append("change")
    rows = [
        [
            one.question,
            one.said,
            _effect(one, one.difference.effect),
            f"{_effect(one, one.difference.low)} to {_effect(one, one.difference.high)}",
            "< 0.0001" if one.p_adjusted < 0.0001 else f"{one.p_adjusted:.2g}",
            f"{one.n_old:,}",
            f"{one.n_new:,}",
            "counts" if one.matters else "small" if one.is_sure else "none seen",
        ]
        for one in changes
    ]
    return table(heads, rows, names=(0, 1, 7))


def _effect(change: Change, value: float) -> str:
    return f"{value:.1%}" if change.unit == SHARE else f"{value:.2f} s.d."


def _how_decided(n_questions: int) -> str:
    return (
        f"A change counts where p is below 0.05 for all {n_questions} questions together (Holm) "
        f"and the effect is at least {LARGE:.0%} of the texts, or {LARGE_DISTANCE} standard "
        "deviations between the means of states. The effect is the share of texts, at the least, "
        "that would have to be others for the two samples to agree. lengths, unknown words and "
        "confidence: the largest distance of the distributions (Kolmogorov and Smirnov). language "
        "and labels: total variation distance (chi-square or exact test). unfamiliar texts: those "
        "further from the run's own than 95% of these are from each other, less as many of the "
        f"other half. states: MMD, by {N_PERMUTATIONS} permutations: its smallest p is "
        f"{1 / (1 + N_PERMUTATIONS):.3g}, at most {n_questions / (1 + N_PERMUTATIONS):.2g} "
        "adjusted. words: 2 AUC - 1 of a classifier that learned from the halves, on the others."
    )


def _words(words: pd.DataFrame) -> str:
    if not len(words):
        return ""
    titles = {
        NEW: "Words that speak for a new text",
        OLD: "Words that speak for an earlier one",
        UNKNOWN: "Common words of the new texts that the run does not know",
    }
    html = "<h2>Words</h2>"
    for more, title in titles.items():
        some = words[words["more"] == more]
        if len(some):
            rows = [
                [one.word, "" if math.isnan(one.old) else percent(one.old), percent(one.new)]
                for one in some.itertuples()
            ]
            heads = ["word", "" if more == UNKNOWN else "texts before", "new texts"]
            if more == UNKNOWN:
                heads, rows = [heads[0], heads[2]], [[row[0], row[2]] for row in rows]
            html += f"<h3>{text(title)}</h3>{table(heads, rows)}"
    return html


def _unfamiliar(texts: pd.DataFrame) -> str:
    far = texts[texts["distance"] > 1]
    if not len(far):
        return ""
    shown = far.head(SHOWN_TEXTS)
    how = (
        f"{len(shown):,} of {len(far):,}, the least familiar first; more are in unfamiliar.csv. "
        "Distances are in multiples of the bound."
    )
    articles = []
    for one in shown.itertuples():
        what = f"{one.distance:.2f}: {class_name(str(one.predicted))}, {percent(one.confidence)}"
        begun = cut(one.text, SHOWN_CHARACTERS)
        articles.append(
            f'<article><p class="what">{what}</p>'
            f'<p dir="auto"{lang_of(begun)}>{text(begun)}</p></article>'
        )
    return f'<h2>Unfamiliar texts</h2><p class="how">{how}</p>{"".join(articles)}'
