"""What an inspection found, as one HTML page."""

from dataclasses import dataclass

import pandas as pd

from ulmfit_app.evaluation.markup import class_name, document, listed, picture, table, text

N_SHOWN_SUSPECTS = 10


@dataclass(frozen=True)
class Finding:
    """What one check of a data set found, ready for people.

    name: of the check. found: what was counted, in sentences. meaning: for a run, in one sentence. trouble: whether it can
    change what a run is worth. advice: what to do then, with the command.
    table: numbers behind it, all cells strings, the first column names. suspects: the texts it is about, columns group (the
    same for texts that belong together), split, label, excerpt and text.
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
    """A page of findings. verdict, notes: sentences. pngs: figures by the name of their finding."""
    overview = [[one.name, "trouble" if one.trouble else "in order"] for one in findings]
    sections = [
        f"<p>{text(verdict)}</p>",
        table(["check", "found"], overview, names=(0, 1)),
        listed(notes, "Notes"),
    ]
    for one in findings:
        html = f"<h2>{text(one.name)}</h2>" + "".join(
            f"<p>{text(part)}</p>" for part in (one.found, one.meaning)
        )
        if one.trouble:
            html += f"<p><strong>To do:</strong> {text(one.advice)}</p>"
        if one.name in pngs:
            html += picture(one.name, pngs[one.name])
        if one.table is not None and len(one.table):
            html += table(list(one.table), one.table.to_numpy().tolist())
        if one.suspects is not None and len(one.suspects):
            shown = one.suspects.head(N_SHOWN_SUSPECTS)
            html += f'<p class="how">{len(shown):,} of {len(one.suspects):,} such texts; all are in suspects.csv.</p>'
            for suspect in shown.itertuples():
                what = f"{class_name(str(suspect.group))}: {suspect.split}"
                what += f", labelled {class_name(str(suspect.label))}" if suspect.label else ""
                html += f'<article><p class="what">{what}</p><p dir="auto">{text(suspect.excerpt)}</p></article>'
        sections.append(html)
    return document(title, about, sections)
