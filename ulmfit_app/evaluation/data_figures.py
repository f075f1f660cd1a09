"""Figures of a data set: its classes and the lengths of its texts."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from ulmfit_app.evaluation.drawing import (
    BLUE,
    GREY,
    MAX_TICK_LABELS,
    ORANGE,
    colours,
    drawable_labels,
    make_axes,
)


def balance_figure(counts: pd.DataFrame, totals: pd.Series | None = None) -> Figure:
    """The share of each class in each split: a bar for the first split, a mark for each other one.

    Args:
        counts: texts; one row per class, one column per split.
        totals: texts of each split, where they may have several labels, or none; None: one each.
    """
    totals = counts.sum() if totals is None else totals[counts.columns]
    shares = counts / totals
    names, families, note = drawable_labels(list(counts.index))
    step = math.ceil(len(names) / MAX_TICK_LABELS)
    places = np.arange(len(names))

    figure, axes = make_axes(7, 1.3 + 0.3 * min(len(names), MAX_TICK_LABELS))
    first, *others = shares
    bars = axes.barh(places, shares[first], color=BLUE, alpha=0.35, label=first)
    for split, marker, colour in zip(others, "|o", (GREY, ORANGE), strict=False):
        size = 8 if step == 1 else 3
        axes.plot(shares[split], places, marker, color=colour, markersize=size, label=split)
    axes.set_yticks(places[::step], names[::step], family=families, fontsize=9)
    axes.tick_params(axis="y", length=0)
    notes = ([f"1 in {step} is named"] if step > 1 else []) + note
    suffix = f" (classes: {'; '.join(notes)})" if notes else ""
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="share of the split" + suffix)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title(f"Classes, n = {int(totals.sum()):,}")
    axes.legend(
        handles=[bars, *axes.lines], frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
    )
    return figure


def lengths_figure(lengths: dict[str, np.ndarray], limit: int) -> Figure:
    """How many tokens the texts of each split have, in % of the split, on a logarithmic scale.

    Args:
        lengths: split -> the number of tokens of each of its texts, at least 1.
        limit: how many tokens carry gradients, drawn as a line.
    """
    longest = max(int(of_split.max()) for of_split in lengths.values())
    shortest = min(int(of_split.min()) for of_split in lengths.values())
    # Edges between whole numbers, or there would be gaps where no whole number lies in a bin.
    edges = np.unique(np.round(np.geomspace(shortest, max(longest, limit) + 1, 41))) - 0.5

    figure, axes = make_axes(7, 3.4)
    for (split, of_split), colour in zip(lengths.items(), colours(len(lengths)), strict=True):
        heights = np.histogram(of_split, edges)[0] / len(of_split)
        axes.stairs(
            heights, edges, color=colour, linewidth=1.6, label=f"{split}: n = {len(of_split):,}"
        )
    axes.axvline(limit, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        f"{limit:,}",
        (limit, 1),
        (-3, -12),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha="right",
    )
    axes.set(
        xscale="log",
        xlim=(edges[0], edges[-1]),
        ylim=(0, None),
        xlabel="tokens per text",
        ylabel="share of the split",
    )
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title(f"Lengths, n = {sum(map(len, lengths.values())):,}")
    axes.legend(frameon=False, loc="upper left")
    return figure
