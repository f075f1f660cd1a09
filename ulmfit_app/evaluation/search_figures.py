"""Figures of a search: what it found when, what mattered, and where the good settings lie."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ulmfit_app.evaluation.drawing import BLUE, GREY, ORANGE, colour_map, colours, make_axes


def history_figure(
    errors: Sequence[float],
    is_whole: Sequence[bool],
    expected: Sequence[float] = (),
    beside: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """The errors of a search's trials in their order, and the best so far.

    Args:
        errors: of each trial, shares; NaN where none was trained. The first is the defaults'.
        is_whole: whether each was trained to its end.
        expected: of the best of 1, 2, 3 and so on random trials; none: not drawn.
        beside: name -> errors of another search on the same texts, whose best so far is drawn.
    """
    figure, axes = make_axes(8, 4)
    points, whole = 100 * np.array(errors, float), np.array(is_whole, bool)
    numbers = np.arange(len(points))
    axes.plot(numbers[whole], points[whole], "o", color=GREY, markersize=5, label="trial")
    cut = ~whole & ~np.isnan(points)
    if cut.any():
        axes.plot(numbers[cut], points[cut], "x", color=GREY, markersize=5, label="ended early")
    if not math.isnan(points[0]):
        axes.axhline(points[0], color=GREY, linewidth=1, linestyle="--", label="defaults")
    axes.step(numbers, _best_so_far(np.where(whole, points, np.nan)), where="post", color=BLUE,
              linewidth=2, label="best so far")  # fmt: skip
    others = beside or {}
    for (name, values), colour in zip(others.items(), colours(len(others) + 1)[1:], strict=True):
        best = _best_so_far(100 * np.array(values, float))
        axes.step(range(len(best)), best, where="post", color=colour, linewidth=2, label=name)
    if len(expected):
        axes.plot(np.arange(1, len(expected) + 1), 100 * np.array(expected), ":", color="0.2",
                  linewidth=2, label="expected of the best of n random trials")  # fmt: skip
    axes.set(xlabel="trial", ylabel="validation error (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="0.9")
    axes.set_title("What the search found")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _best_so_far(values: np.ndarray) -> np.ndarray:
    """The lowest value up to each, NaN before the first."""
    return np.fmin.accumulate(values)


def importance_figure(importances: Mapping[str, float]) -> Figure:
    """How much of the differences between trials each setting explains.

    Args:
        importances: of each setting, shares that sum to 1, the largest first.
    """
    figure, axes = make_axes(7, 1.2 + 0.32 * len(importances))
    names, shares = list(importances), list(importances.values())
    axes.barh(range(len(names)), shares, color=BLUE, height=0.6)
    for row, share in enumerate(shares):
        axes.annotate(f"{share:.2f}", (share, row), (4, 0), textcoords="offset points",
                      va="center", color=GREY, size=9)  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel="share of the variance explained (fANOVA)")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.1)
    axes.set_title("Which settings mattered")
    return figure


def parallel_figure(
    columns: Mapping[str, Sequence[Any]], errors: Sequence[float], logarithmic: Sequence[str] = ()
) -> Figure:
    """A line for each trial through its settings, coloured by its error; the best one is drawn
    last.

    Args:
        columns: of each setting, its value in each trial: numbers, or words.
        errors: of each trial, shares.
        logarithmic: settings whose logarithm is drawn.
    """
    figure, axes = make_axes(2 + 1.5 * len(columns), 4.2)
    errors = 100 * np.array(errors, float)
    # A few bad trials would leave one colour for all others.
    norm = Normalize(errors.min(), max(np.quantile(errors, 0.9), errors.min() + 1e-9))
    colour = ScalarMappable(norm, colour_map("viridis"))
    placed = {name: _place(values, name in logarithmic) for name, values in columns.items()}
    heights = np.array([places for places, _ in placed.values()])
    order = np.argsort(-errors)
    for trial in order:
        is_best = trial == order[-1]
        axes.plot(heights[:, trial], color=ORANGE if is_best else colour.to_rgba(errors[trial]),
                  linewidth=3 if is_best else 1.2, alpha=1 if is_best else 0.75)  # fmt: skip
    for place, (_, ticks) in enumerate(placed.values()):
        axes.axvline(place, color="0.6", linewidth=1, zorder=0)
        for height, tick in ticks:
            axes.annotate(tick, (place, height), (4, 2), textcoords="offset points", size=8,
                          bbox={"color": "white", "alpha": 0.75, "pad": 0.5})  # fmt: skip
    axes.set_xticks(range(len(columns)), [name.replace(".", "\n", 1) for name in columns], size=9)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlim(-0.1, len(columns) - 0.3)
    axes.tick_params(axis="x", length=0)
    figure.colorbar(colour, ax=axes, label="validation error (%)", pad=0.02, extend="max")
    axes.set_title("Where the good trials lie; orange: the best")
    return figure


def _place(values: Sequence[Any], log: bool) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights from 0 to 1 of a setting's values, and what to write at which height."""
    is_number = not any(isinstance(each, str | bool) for each in values)
    if is_number and len(set(values)) > 4:
        low, high = min(values), max(values)
        scale = np.log if log else np.asarray
        ends = scale(low), scale(high)
        width = max(float(ends[1] - ends[0]), 1e-12)
        heights = (scale(np.array(values, float)) - ends[0]) / width
        middle = float(np.exp((ends[0] + ends[1]) / 2)) if log else (low + high) / 2
        ticks = [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]
        return heights, ticks
    distinct = sorted(set(values)) if is_number else sorted(set(values), key=str)
    places = {each: i / max(len(distinct) - 1, 1) for i, each in enumerate(distinct)}
    words = [(places[each], f"{each:g}" if is_number else str(each)) for each in distinct]
    return np.array([places[each] for each in values]), words
