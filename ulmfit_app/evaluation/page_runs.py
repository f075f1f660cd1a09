"""Several runs beside each other, as one HTML page."""

from collections.abc import Mapping

import pandas as pd

from ulmfit_app.evaluation.markup import document, percent, picture, table, text

NAMES = ("run", "data", "preset", "start", "plan", "state", "warnings", "date")
_SHARED = ("data", "preset", "start", "plan", "labels", "measure")  # one row can say of all
_HEADS = {
    "labels": "labels learned from",
    "test": "test",
    "n": "tested texts",
    "minutes": "minutes trained",
    "date": "last written",
}


def runs_page(
    runs: pd.DataFrame, settings: pd.DataFrame, pngs: Mapping[str, bytes], about: str
) -> str:
    """The page as HTML.

    Args:
        runs: one row per run, as `listing.COLUMNS` names the columns; nothing where something is
            not known.
        settings: those that differ, a column each, one row per run in the same order.
        pngs: curves, by what they show.
        about: what the runs are, in a sentence.
    """
    cells, same = runs_cells(runs)
    heads = [_HEADS.get(name, name) for name in cells]
    names = tuple(i for i, name in enumerate(cells) if name in NAMES or name == "measure")
    sections = ["<h2>The runs</h2>", table(heads, cells.to_numpy().tolist(), names)]
    sections += [f'<p class="how">{text(same)}</p>'] if same else []
    if len(settings.columns):
        with_names = pd.concat([cells["run"], settings], axis=1)
        sections += ["<h2>Settings that differ</h2>"]
        sections += [
            table(
                list(with_names),
                with_names.to_numpy().tolist(),
                tuple(range(len(with_names.columns))),
            ),
            '<p class="how">All other settings are the same. Nothing: at its default.</p>',
        ]
    if pngs:
        how = (
            "Only losses of the same vocabulary and the same validation texts compare. Of a run "
            "that goes on, the epochs that are done."
        )
        sections += ["<h2>Training</h2>", f'<p class="how">{text(how)}</p>']
        sections += [picture(name, png) for name, png in pngs.items()]
    return document("Runs", about, sections)


def runs_cells(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows as people read them, with percentages and intervals.

    Args:
        runs: as `runs_page` takes it.

    Returns:
        The cells, without the columns that have nothing, or the same in all rows; and a sentence
        on the latter, "" where there are none.
    """
    cells = pd.DataFrame(index=runs.index)
    for name in runs:
        if name in ("test_low", "test_high") or runs[name].isna().all():
            continue
        if name == "test":
            bounds = zip(runs["test"], runs["test_low"], runs["test_high"], strict=True)
            cells[name] = [
                "" if pd.isna(value) else f"{percent(value)} ({percent(low)} to {percent(high)})"
                for value, low, high in bounds
            ]
        else:
            cells[name] = [_spelled(name, value) for value in runs[name]]
    # What nothing is known of is no other value.
    shared = {
        name: next(filter(None, cells[name]))
        for name in _SHARED
        if name in cells and len(runs) > 1 and len({*cells[name]} - {""}) == 1
    }
    same = ", ".join(f"{name} {value}" for name, value in shared.items())
    return cells.drop(columns=list(shared)), f"The same in all: {same}." if same else ""


def _spelled(column: str, value: object) -> str:
    if pd.isna(value):
        return ""
    if column == "validation":
        return percent(value)
    if column == "minutes":
        return f"{value:.1f}"
    if column in ("labels", "n"):
        return f"{int(value):,}"
    return str(value).replace("_", " ") if column == "measure" else str(value)
