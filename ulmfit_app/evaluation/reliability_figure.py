"""Reliability diagrams: what came true by how probable it was said to be."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from ulmfit_app.evaluation.drawing import BLUE, GREY, ORANGE, make_axes
from ulmfit_app.evaluation.messages import say
from ulmfit_app.evaluation.metrics import calibration_error


def draw_reliability(
    binned: list[pd.DataFrame],
    title: str,
    ideal: str,
    ylabel: str,
    xlabel: str,
    counted: str,
    log: bool = False,
) -> Figure:
    """What came true in each bin, with 95 % intervals, and the n of each bin.

    As in Guo et al. 2017, figure 1, with the counts in axes of their own below.

    Args:
        binned: as metrics.bin_outcomes gives it, and perhaps that of before calibration.
        title: of the figure.
        ideal: what the diagonal is.
        ylabel: what came true.
        xlabel: what the bins are of.
        counted: what the bins count.
        log: whether the counts have a logarithmic scale.
    """
    binned = [bins.query("n > 0") for bins in binned]
    figure, (upper, lower) = make_axes(7, 5.6, rows=2, height_ratios=[3, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label=ideal)
    names = [say("measured")] if len(binned) == 1 else [say("after"), say("before")]
    for place, (bins, name) in enumerate(zip(binned, names, strict=True)):
        _draw_points(upper, bins, name, is_before=place == 1)
    upper.set(ylabel=ylabel, ylim=(0, 1.02))
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    # Within the axes it would cover the points of some classifier or other.
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, frameon=False)
    figure.suptitle(title, size=11)
    _draw_counts(lower, *binned)
    most = max(one["n"].max() for one in binned)
    lower.set(
        xlabel=xlabel,
        ylabel=counted,
        xlim=(min(one["lower"].min() for one in binned), 1.005),
        ylim=(0.5, most**1.3) if log else (0, most * 1.3),
    )
    lower.xaxis.set_major_formatter(PercentFormatter(1))
    if log:
        lower.set_yscale("log")
    else:
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure


def _draw_points(axes: Axes, bins: pd.DataFrame, name: str, is_before: bool) -> None:
    """What came true in each bin, with its interval."""
    distances = [bins["accuracy"] - bins["low"], bins["high"] - bins["accuracy"]]
    axes.errorbar(
        bins["confidence"],
        bins["accuracy"],
        # Rounding can leave -1e-17 where accuracy is 0 or 1, which matplotlib refuses.
        yerr=np.clip(distances, 0, None),
        fmt="s" if is_before else "o",
        color=ORANGE if is_before else BLUE,
        markersize=5,
        markerfacecolor="white" if is_before else BLUE,
        elinewidth=1.4,
        capsize=3,
        zorder=1 if is_before else 2,
        label=say(
            "{name}, 95% interval; expected calibration error {error:.1%}",
            name=name,
            error=calibration_error(bins),
        ),
    )


def _draw_counts(axes: Axes, bins: pd.DataFrame, before: pd.DataFrame | None = None) -> None:
    """How many texts each bin holds, as bars; before calibration, as lines."""
    axes.bar(
        bins["lower"],
        bins["n"],
        width=bins["upper"] - bins["lower"],
        align="edge",
        color=BLUE,
        alpha=0.45,
        edgecolor="white",
    )
    for _, row in bins.iterrows():
        place = ((row["lower"] + row["upper"]) / 2, row["n"])
        count = axes.annotate(
            f"{int(row['n']):,}", place, (0, 2), textcoords="offset points", ha="center"
        )
        count.set(size=8, path_effects=[withStroke(linewidth=2.5, foreground="white")])
    if before is not None:
        axes.hlines(
            before["n"], before["lower"], before["upper"], color=ORANGE, linewidth=1.6, zorder=1.5
        )
