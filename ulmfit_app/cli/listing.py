"""The verb runs: which runs there are, and how they compare."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from tyro.conf import Positional

from ulmfit_app.cli.process import set_up_figures
from ulmfit_app.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd

# Of the columns, those that a narrow terminal does without, the first of them first.
DISPENSABLE = (
    *("measure", "preset", "date", "minutes", "warnings", "n", "start", "plan", "data", "labels"),
    *("state", "validation", "test"),
)
MIN_NAME = 16  # columns that a run's name keeps


@dataclass(frozen=True)
class ListingArguments:
    """List runs, with what they were made of and what became of them, unfinished ones included.
    Reads their small files alone, and changes nothing.
    """

    # folders of runs, of experiments or of searches, or a run's own
    folders: Positional[tuple[Path, ...]] = (Path("runs"),)
    # a column, or a setting such as lm.lr; descending with a - before it, as in --sort -test
    sort: str = "run"
    # write all columns, and the settings that differ, into this file
    csv: Path | None = None
    # write a page into this file: the table, the settings that differ, and the curves of all
    # trainings over each other
    page: Path | None = None


def runs(argv: list[str]) -> None:
    """List, sort and compare runs."""
    arguments = tyro.cli(ListingArguments, args=_joined(argv), prog="python -m ulmfit_app runs")
    for path, ending in ((arguments.csv, ".csv"), (arguments.page, ".html")):
        if path is not None and (path.suffix.lower() != ending or path.is_dir()):
            option = "csv" if ending == ".csv" else "page"
            raise SettingError(f"--{option} needs the name of a file that ends with {ending}.")

    import pandas as pd

    from ulmfit_app.evaluation.page_runs import runs_cells
    from ulmfit_app.files import write_table
    from ulmfit_app.pipeline.listing import COLUMNS, differing_settings, list_runs, sort_runs

    found = sort_runs(list_runs(list(arguments.folders)), arguments.sort)
    table = pd.DataFrame([each.facts for each in found], columns=COLUMNS)
    settings = differing_settings(found)
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else None
    cells, same = runs_cells(table)
    print(*format_runs(cells, width), sep="\n")
    if same:
        print(same)
    if len(settings.columns):
        print(f"Settings that differ: {', '.join(settings)}.")
    if arguments.csv is not None:
        write_table(arguments.csv, pd.concat([table, settings], axis=1))
        print(f"Written: {arguments.csv}")
    if arguments.page is not None:
        set_up_figures()
        from ulmfit_app.pipeline.listing_page import write_page

        write_page(arguments.page, found, table, settings)
        print(f"Page: {arguments.page}")


def _joined(argv: list[str]) -> list[str]:
    """The words with `--sort -test` as one, whose value would be taken for an option."""
    words = list(argv)
    for i, word in enumerate(words[:-1]):
        if word == "--sort" and words[i + 1].startswith("-"):
            words[i : i + 2] = [f"--sort={words[i + 1]}"]
            break
    return words


def format_runs(cells: "pd.DataFrame", width: int | None) -> list[str]:
    """The lines of a table.

    Args:
        cells: texts, one row per run.
        width: columns of the terminal; None: no bound. Columns that have no place are left out,
            which the last line says.
    """
    from ulmfit_app.evaluation.scripts import pad, shorten, width_of

    left_out = []
    sizes = {name: max(map(width_of, [name, *cells[name]])) for name in cells}
    for name in DISPENSABLE:
        if width is None or _total(sizes | {"run": min(sizes["run"], MIN_NAME)}) <= width:
            break
        if sizes.pop(name, None) is not None:
            left_out.append(name)
    if width is not None and (over := _total(sizes) - width) > 0:
        sizes["run"] = max(sizes["run"] - over, MIN_NAME)
    numbers = ("labels", "validation", "n", "minutes")

    def line(values: dict[str, str]) -> str:
        parts = []
        for name, size in sizes.items():
            value = shorten(values[name], size)
            blank = " " * (size - width_of(value))
            parts.append(pad(value, size) if name in numbers else f"{value}{blank}")
        return "  ".join(parts).rstrip()

    lines = [line({name: name for name in sizes}), *map(line, cells.to_dict("records"))]
    if left_out:
        lines.append(f"Without {', '.join(left_out)}, for which {width} columns are too few.")
    return lines


def _total(sizes: dict[str, int]) -> int:
    return sum(sizes.values()) + 2 * (len(sizes) - 1)
