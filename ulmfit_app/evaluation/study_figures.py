"""Figures of experiments and of the course."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from ulmfit_app.evaluation.drawing import (
    BLUE,
    GREY,
    ORANGE,
    colour_map,
    colours,
    make_axes,
    mark_phases,
)


def ablation_figure(table: pd.DataFrame) -> Figure:
    """Errors with 95 % intervals, one line per row, in groups; crosses are the paper's.

    Args:
        table: what experiments.comparing.compare_rows returns, of one table or several.
    """
    groups = list(table.groupby("table", sort=False))
    figure, axes = make_axes(7.5, 1.2 + 0.27 * (len(table) + 1.6 * len(groups)))
    height, ticks = 0.0, {}
    for name, rows in groups:
        axes.annotate(
            name,
            (0, height),
            (-222, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            weight="bold",
            va="center",
            fontsize=9,
        )
        for row in rows.itertuples():
            height += 1
            last = row.row == rows["row"].iloc[-1]
            colour = BLUE if last else GREY
            axes.plot(
                [row.low, row.high],
                [height, height],
                color=colour,
                linewidth=2,
                marker="|",
                markersize=7,
            )
            axes.plot(row.error, height, "o", color=colour, markersize=5)
            if not math.isnan(row.paper):
                axes.plot(row.paper, height, "x", color=ORANGE, markersize=6)
            ticks[height] = row.row
        height += 1.6
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.set(
        ylim=(height - 0.8, -0.8),
        xlabel="error (%), with 95% interval; orange: the paper's AWD-LSTM",
    )
    axes.grid(axis="x", color="0.9")
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"What each part of ULMFiT is worth, n = {int(table['n'].max()):,}")
    return figure


def label_curve_figure(table: pd.DataFrame) -> Figure:
    """Error against the number of labels, one line per way, with 95 % intervals.

    Both axes are logarithmic, unless an error is 0.

    Args:
        table: what experiments.label_curve.run_label_curve returns; low and high are the error
            itself where no interval is to be drawn.
    """
    figure, axes = make_axes(9.5, 4.5)
    ways = list(table.groupby("way", sort=False))
    palette = colours(len(ways))
    for i, (way, rows) in enumerate(ways):
        # A little to the side of each other, so that intervals can be told apart.
        labels = rows["labels"] * 1.03 ** (i - len(ways) / 2)
        whiskers = [rows["error"] - rows["low"], rows["high"] - rows["error"]]
        axes.errorbar(
            labels,
            rows["error"],
            whiskers,
            color=palette[i],
            label=way,
            marker="o",
            markersize=4,
            linewidth=1.5,
        )
    ticks = sorted(table["labels"].unique())
    # A logarithm has no place for a classifier without errors.
    yscale = "log" if table["low"].min() > 0 else "linear"
    with_intervals = bool((table["low"] < table["high"]).any())
    axes.set(
        xscale="log",
        yscale=yscale,
        xlabel="labelled training texts",
        ylabel="test error (%)" + (", with 95% interval" if with_intervals else ""),
    )
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    few = (1, 2, 5, 10, 20, 50, 100), (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100)
    for candidates in (*few, range(5, 101, 5), range(2, 101, 2), range(1, 101)):
        errors = [tick for tick in candidates if table["low"].min() <= tick <= table["high"].max()]
        if len(errors) > 3:
            break
    axes.set_yticks(errors, [str(tick) for tick in errors])
    axes.grid(color="0.9")
    # Within the axes it would cover the points of some way or other.
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set_title(f"Errors with few labels and many, n = {int(table['n'].max()):,}")
    return figure


def starts_figure(table: pd.DataFrame) -> Figure:
    """Error against the tokens that a start was pretrained on, with 95 % intervals.

    Args:
        table: what experiments.starts.run_starts returns, the row of random weights first.
    """
    figure, axes = make_axes(7, 4.5)
    random, pretrained = table.iloc[0], table.iloc[1:]
    axes.axhline(random["error"], color=GREY, linewidth=1.5, label="random weights")
    axes.axhspan(random["low"], random["high"], color=GREY, alpha=0.2, linewidth=0)
    whiskers = [pretrained["error"] - pretrained["low"], pretrained["high"] - pretrained["error"]]
    tokens = pretrained["million_tokens"]
    axes.errorbar(
        tokens,
        pretrained["error"],
        whiskers,
        color=BLUE,
        label="pretrained",
        marker="o",
        markersize=5,
        linewidth=1.5,
    )
    axes.set(
        xscale="log",
        xlabel="tokens of pretraining (million)",
        ylabel="validation error (%), with 95% interval",
    )
    axes.set_xticks(tokens, [f"{n:.3g}" for n in tokens])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(color="0.9")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(f"What pretraining is worth, n = {int(table['n'].max()):,}")
    return figure


def methods_figure(table: pd.DataFrame) -> Figure:
    """Errors with 95 % intervals, one line per method, with how many parameters learn.

    Args:
        table: what experiments.methods.run_methods returns; the others are compared with the first
            method.
    """
    figure, axes = make_axes(7.5, 1.3 + 0.5 * len(table))
    names = []
    for height, row in enumerate(table.itertuples()):
        colour = GREY if height else BLUE
        axes.plot([row.low, row.high], [height] * 2, color=colour, linewidth=2, marker="|")
        axes.plot(row.error, height, "o", color=colour, markersize=5)
        learn = row.trained_parameters
        names.append(row.method + ("" if math.isnan(learn) else f"\n{learn:,.0f} learn"))
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set(ylim=(len(table) - 0.5, -0.5), xlabel="validation error (%), with 95% interval")
    axes.grid(axis="x", color="0.9")
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"How much of a transformer learns, n = {int(table['n'].max()):,}")
    return figure


def schedules_figure(rates: dict[str, Sequence[float]]) -> Figure:
    """How learning rates move from the start of a training to its end.

    Args:
        rates: name -> rates at equal distances.
    """
    figure, axes = make_axes(7, 3.4)
    for (name, course), colour in zip(rates.items(), colours(len(rates)), strict=True):
        axes.plot(np.linspace(0, 1, len(course)), course, color=colour, linewidth=1.6, label=name)
    axes.set(
        xlim=(0, 1),
        ylim=(0, None),
        xlabel="share of the training that is done",
        ylabel="learning rate",
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title("Schedules")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plan_figure(rates: np.ndarray, phases: dict[str, int], title: str) -> Figure:
    """Which layer group of a classifier learns when, and at what rate; white where it is frozen.

    Args:
        rates: [n_groups, n], lowest group first, at equal distances over all epochs; 0 where
            frozen.
        phases: name -> epochs, in order.
        title: of the figure.
    """
    n_groups, epochs = len(rates), sum(phases.values())
    learns = rates[rates > 0]
    figure, axes = make_axes(7, 1.9 + 0.28 * n_groups)
    image = axes.imshow(
        np.ma.masked_equal(rates, 0),
        cmap=colour_map("flare"),
        # A schedule begins and ends near 0: all rates far below the peaks share one colour.
        norm=LogNorm(max(learns.min(), learns.max() / 1000), learns.max()),
        aspect="auto",
        origin="lower",
        extent=(0, epochs, -0.5, n_groups - 0.5),
        interpolation="none",
    )
    axes.set_yticks(
        range(n_groups), ["embeddings", *(f"LSTM {i}" for i in range(1, n_groups - 1)), "head"]
    )
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epochs")
    mark_phases(axes, [name for name, n in phases.items() for _ in range(n)], first=0)
    figure.suptitle(title, size=11)
    figure.colorbar(image, ax=axes, pad=0.02, label="learning rate")
    return figure


def coverage_figure(covered: dict[str, np.ndarray]) -> Figure:
    """The share of the tokens that a vocabulary of the n commonest words knows, n logarithmic.

    Args:
        covered: name -> the shares for n = 1, 2, 3 and so on.
    """
    figure, axes = make_axes(7, 3.4)
    for (name, shares), colour in zip(covered.items(), colours(len(covered)), strict=True):
        axes.plot(np.arange(1, len(shares) + 1), shares, color=colour, linewidth=1.6, label=name)
    axes.set(
        xscale="log",
        ylim=(0, 1.02),
        xlabel="words in the vocabulary",
        ylabel="share of the tokens it knows",
    )
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(color="0.9")
    axes.set_title("Tokens known to a vocabulary")
    axes.legend(frameon=False, loc="lower right")
    return figure


def perplexities_figure(courses: dict[str, Sequence[float]], title: str) -> Figure:
    """The perplexity of language models on the same texts after each epoch, logarithmic.

    Args:
        courses: name -> perplexities, the first one before any training.
        title: of the figure.
    """
    figure, axes = make_axes(7, 3.4)
    for (name, course), colour in zip(courses.items(), colours(len(courses)), strict=True):
        axes.plot(
            range(len(course)), course, "o-", color=colour, markersize=4, linewidth=1.6, label=name
        )
    lowest, highest = (of(map(of, courses.values())) for of in (min, max))
    axes.set(
        yscale="log",
        ylim=(lowest / 1.2, highest * 1.2),
        xlabel="epochs",
        ylabel="perplexity on validation",
    )
    ticks = [digit * 10**power for power in range(7) for digit in (1, 2, 3, 5, 7)]
    axes.set_yticks([tick for tick in ticks if lowest / 1.2 <= tick <= highest * 1.2])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="0.9")
    axes.set_title(title)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def lines_figure(lines: pd.DataFrame, ylabel: str, title: str) -> Figure:
    """One line per column over the table's index, whose name says what it counts.

    Args:
        lines: numbers.
        ylabel: what they are.
        title: of the figure.
    """
    figure, axes = make_axes(7, 3.4)
    for (name, line), colour in zip(lines.items(), colours(lines.shape[1]), strict=True):
        axes.plot(lines.index, line, "o-", color=colour, markersize=3, linewidth=1.6, label=name)
    axes.set(xlabel=lines.index.name, ylabel=ylabel)
    if pd.api.types.is_integer_dtype(lines.index):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(x=0.02)
    axes.grid(color="0.9")
    axes.set_title(title)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def panels_figure(lines: pd.DataFrame, title: str) -> Figure:
    """Quantities that have no unit in common, each over the table's index in axes of its own.

    Args:
        lines: numbers, one column per quantity. A column's name is what stands at its axes, with
            the unit; it may have several lines. The index's name says what it counts.
        title: of the figure.
    """
    n = lines.shape[1]
    figure, all_axes = make_axes(6.4, 0.7 + 1.25 * n, rows=n, sharex=True, squeeze=False)
    for axes, (name, line) in zip(all_axes[:, 0], lines.items(), strict=True):
        axes.plot(lines.index, line, "o-", color=BLUE, markersize=4, linewidth=1.6)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.grid(color="0.9")
        axes.margins(y=0.15)
    axes.set_xlabel(lines.index.name)
    if pd.api.types.is_integer_dtype(lines.index):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(title, size=11)
    return figure
