"""What an inspection found, as one HTML page."""

from dataclasses import dataclass

import pandas as pd

from ulmfit_app.evaluation.markup import (
    class_name,
    document,
    lang_of,
    listed,
    picture,
    table,
    text,
)

N_SHOWN_SUSPECTS = 10


@dataclass(frozen=True)
class Finding:
    """What one check of a data set found, ready for people.

    Attributes:
        name: of the check.
        found: what was counted, in sentences.
        meaning: for a run, in one sentence.
        advice: what to do if there is trouble, with the command.
        trouble: whether it can change what a run is worth.
        table: numbers behind it, all cells strings; the first column holds names.
        suspects: the texts it is about, columns group (the same for texts that belong together),
            split, label, excerpt and text.
    """

    name: str
    found: str
    meaning: str
    advice: str
    trouble: bool
    table: pd.DataFrame | None = None
    suspects: pd.DataFrame | None = None


def findings_page(
    title: str,
    about: str,
    verdict: str,
    notes: list[str],
    findings: list[Finding],
    pngs: dict[str, bytes],
) -> str:
    """The page of an inspection.

    Args:
        title: heading.
        about: what was inspected, below the heading.
        verdict: the result, in sentences.
        notes: what else to know, one sentence each.
        findings: what each check found, in the order of the page.
        pngs: figures by the name of their finding.

    Returns:
        HTML.
    """
    overview = [[one.name, "trouble" if one.trouble else "in order"] for one in findings]
    sections = [
        f"<p>{text(verdict)}</p>",
        table(["check", "found"], overview, names=(0, 1)),
        listed(notes, "Notes"),
    ]
    sections += [_section(one, pngs.get(one.name)) for one in findings]
    return document(title, about, sections)


def _section(one: Finding, png: bytes | None) -> str:
    """All of one finding: what was found, what it means, what to do, and what it is about."""
    html = f"<h2>{text(one.name)}</h2><p>{text(one.found)}</p><p>{text(one.meaning)}</p>"
    if one.trouble:
        html += f"<p><strong>To do:</strong> {text(one.advice)}</p>"
    if png is not None:
        html += picture(one.name, png)
    if one.table is not None and len(one.table):
        html += table(list(one.table), one.table.to_numpy().tolist())
    if one.suspects is not None and len(one.suspects):
        html += _suspects(one.suspects)
    return html


def _suspects(suspects: pd.DataFrame) -> str:
    """The first of the texts that a finding is about."""
    shown = suspects.head(N_SHOWN_SUSPECTS)
    how = f"{len(shown):,} of {len(suspects):,} such texts; all are in suspects.csv."
    articles = []
    for suspect in shown.itertuples():
        what = f"{class_name(str(suspect.group))}: {suspect.split}"
        what += f", labelled {class_name(str(suspect.label))}" if suspect.label else ""
        language = lang_of(suspect.excerpt)
        excerpt = f'<p dir="auto"{language}>{text(suspect.excerpt)}</p>'
        articles.append(f'<article><p class="what">{what}</p>{excerpt}</article>')
    return f'<p class="how">{how}</p>{"".join(articles)}'
