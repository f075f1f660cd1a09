"""The figure of what makes a run smaller and faster."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ulmfit_app.evaluation.drawing import BLUE, GREY, make_axes

# column -> what stands below its bars, and how a number is written
BARS = {
    "megabytes": ("MB on disk", "{:.2f}"),
    "ms": ("ms, one text", "{:.1f}"),
    "texts_per_s": ("texts/s", "{:,.0f}"),
}


def compression_figure(table: pd.DataFrame) -> Figure:
    """Accuracies with 95 % intervals, sizes and speeds, one line per way to have texts labelled.

    Args:
        table: what experiments.compress.run_compress returns; the run itself is blue.
    """
    shared = {"sharey": True, "width_ratios": [3, *(2 for _ in BARS)]}
    height = 1.3 + 0.36 * len(table)
    figure, (first, *others) = make_axes(10.5, height, columns=1 + len(BARS), **shared)
    for place, row in enumerate(table.itertuples()):
        colour = _colour(row.what)
        first.plot([row.low, row.high], [place] * 2, color=colour, linewidth=2, marker="|")
        first.plot(row.accuracy, place, "o", color=colour, markersize=5)
    first.set_yticks(range(len(table)), table["what"], fontsize=9)
    first.set(ylim=(len(table) - 0.5, -0.5), xlabel="accuracy (%), 95% interval")
    first.grid(axis="x", color="0.9")
    for axes, (column, (label, number)) in zip(others, BARS.items(), strict=True):
        _draw_bars(axes, table["what"], table[column], number)
        axes.set(xlabel=label)
    for axes in (first, *others):
        axes.tick_params(axis="y", length=0)
    n = int(table["n"].max())
    figure.suptitle(f"Smaller and faster, and at what cost, n = {n:,}", size=11)
    return figure


def _draw_bars(axes: Axes, names: pd.Series, values: pd.Series, number: str) -> None:
    bars = axes.barh(range(len(values)), values, height=0.6, color=[_colour(n) for n in names])
    axes.bar_label(bars, [number.format(value) for value in values], padding=3, fontsize=8)
    axes.margins(x=0.3)  # room for the numbers
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def _colour(what: str) -> str:
    return BLUE if what.startswith("run, ") else GREY
