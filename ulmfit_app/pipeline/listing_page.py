"""The page of several runs, with their curves over each other."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from data_scripts.files import replacing
from ulmfit_app.evaluation.page_runs import runs_page
from ulmfit_app.evaluation.report_files import write_figures
from ulmfit_app.evaluation.runs_figure import MAX_COLOURED, runs_figure
from ulmfit_app.pipeline.listing import ListedRun


def write_page(
    path: Path, runs: list[ListedRun], table: pd.DataFrame, settings: pd.DataFrame
) -> None:
    """Write the page of runs.

    Args:
        path: of the file, which holds all that it shows.
        runs: in order.
        table, settings: as `runs_page` takes them.
    """
    names, figures = _short_names(runs), {}
    begun = [name for name, each in zip(names, runs, strict=True) if each.histories]
    coloured = begun[:MAX_COLOURED]
    for stage in dict.fromkeys(name for each in runs for name in each.histories):
        histories = {
            name: each.histories[stage]
            for name, each in zip(names, runs, strict=True)
            if stage in each.histories
        }
        title = stage.replace("lm", "language model").replace("-", ", ").capitalize()
        figures[f"training of the {title.lower()}"] = runs_figure(histories, coloured, title)
    with TemporaryDirectory() as scratch:
        pngs = write_figures(Path(scratch), figures)
    n = len(runs)
    about = f"{n} run{'s' if n != 1 else ''}, read from their folders."
    page = runs_page(table, settings, pngs, about)
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")


def _short_names(runs: list[ListedRun]) -> list[str]:
    """Their folders, without what all have in common."""
    folders = [Path(each.facts["run"]) for each in runs]
    shared = os.path.commonpath([each.parent for each in folders])
    return [os.path.relpath(each, shared) for each in folders]
