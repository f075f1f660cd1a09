"""Figures of new texts against old ones, and of how often a change is noticed."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter

from ulmfit_app.evaluation.drawing import (
    BLUE,
    GREY,
    ORANGE,
    colours,
    drawable_labels,
    make_axes,
)
from ulmfit_app.evaluation.drift import SHARE, Change, Drift, Monitored, Sample

N_BINS = 40
MOST_SHARES = 15  # labels in a figure


def drift_figures(found: Monitored) -> dict[str, Figure]:
    """Figures by the question they belong to; "changes" shows the effects of all."""
    old, new = found.old, found.new
    drawn = {"changes": changes_figure(found.drift)}
    for one in found.drift.changes:
        values = {
            "lengths": (old.lengths, new.lengths, "tokens per text"),
            "unknown words": (old.unknown, new.unknown, "share of a text's words"),
            "confidence": (old.confidence, new.confidence, "confidence"),
        }.get(one.question)
        if values:
            drawn[one.question.replace(" ", "_")] = values_figure(*values, one.question)
    drawn["labels"] = _labels_figure(old, new, list(found.labels))
    return drawn


def changes_figure(drift: Drift) -> Figure:
    """Each question's effect with its 95 % interval, and from where on it would count.

    Red: it matters; blue: sure, but small; grey: no change beyond chance. Effects that are not
    shares of texts are drawn in multiples of what would count, as if that were theirs.
    """
    figure, axes = make_axes(7, 1.1 + 0.36 * len(drift.changes))
    scale = max(one.large for one in drift.changes if one.unit == SHARE)
    highest = scale
    for height, one in enumerate(drift.changes):
        found, factor = one.difference, scale / one.large
        colour = ORANGE if one.matters else BLUE if one.is_sure else GREY
        low, effect, high = (max(factor * of, 0) for of in (found.low, found.effect, found.high))
        axes.plot([low, high], [height, height], color=colour, linewidth=2, marker="|")
        axes.plot(effect, height, "o", color=colour, markersize=6)
        highest = max(highest, high)
    axes.axvline(scale, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        "would count",
        (scale, 1),
        (4, 2),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        fontsize=9,
    )
    axes.set_yticks(range(len(drift.changes)), list(map(_named, drift.changes)))
    axes.set(
        ylim=(len(drift.changes) - 0.5, -0.6),
        xlim=(-0.015 * highest, 1.05 * highest),
        xlabel="share of the texts that changed, 95% interval",
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.grid(axis="x", color="0.9")
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"{drift.n_new:,} new texts against {drift.n_old:,}", pad=16)
    return figure


def _named(change: Change) -> str:
    if change.unit == SHARE:
        return change.question
    return f"{change.question} ({change.difference.effect:.2f} s.d.)"


def values_figure(old: np.ndarray, new: np.ndarray, unit: str, name: str) -> Figure:
    """Two distributions of a number, each in % of its own texts.

    Args:
        old, new: values, [n] and [m]; whole numbers of at least 1 are drawn on a logarithmic
            scale.
        unit: what they are.
        name: of the figure.
    """
    pooled, counted = np.concatenate([old, new]), np.issubdtype(old.dtype, np.integer)
    if counted:
        low, high = max(pooled.min(), 1), pooled.max() + 1
        # Edges between whole numbers, or there would be gaps where none lies in a bin.
        edges = np.unique(np.round(np.geomspace(low, high, N_BINS + 1))) - 0.5
    else:
        low, high = float(pooled.min()), float(pooled.max())
        edges = np.linspace(low, high if high > low else low + 1, N_BINS + 1)
    figure, axes = make_axes(7, 3)
    for label, values, colour in (("before", old, GREY), ("new", new, BLUE)):
        heights = np.histogram(values, edges)[0] / len(values)
        text = (
            f"{label}: n = {len(values):,}, median {_spelled(float(np.median(values)), counted)}"
        )
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.2)
        axes.stairs(heights, edges, color=colour, linewidth=1.6, label=text)
    axes.set(xlabel=unit, ylabel="share of the texts", xlim=(edges[0], edges[-1]))
    if counted:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    else:
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_ylim(0, 1.35 * axes.dataLim.y1)  # the legend stands above them
    axes.set_title(name[:1].upper() + name[1:])
    axes.legend(frameon=False, loc="upper left")
    return figure


def _spelled(value: float, counted: bool) -> str:
    return f"{value:,.0f}" if counted else f"{value:.1%}"


def _labels_figure(old: Sample, new: Sample, labels: list[str]) -> Figure:
    """The share of texts that get each label, those that moved most first where there are many."""
    before, now = (_shares(one.answers, len(labels)) for one in (old, new))
    shown = np.arange(len(labels))
    if len(labels) > MOST_SHARES:
        shown = np.argsort(-np.abs(now - before), kind="stable")[:MOST_SHARES]
    names, families, note = drawable_labels([labels[one] for one in shown])
    places = np.arange(len(shown))
    figure, axes = make_axes(7, 1.4 + 0.36 * len(shown))
    axes.barh(places - 0.2, before[shown], 0.38, color=GREY, label=f"before: n = {len(old):,}")
    axes.barh(places + 0.2, now[shown], 0.38, color=BLUE, label=f"new: n = {len(new):,}")
    axes.set_yticks(places, names, family=families)
    axes.tick_params(axis="y", length=0)
    left_out = len(labels) - len(shown)
    notes = ([f"{left_out} labels that moved less are left out"] if left_out else []) + note
    suffix = f" ({'; '.join(notes)})" if notes else ""
    axes.set(
        ylim=(len(shown) - 0.5, -0.6), xlabel="share of the texts that get the label" + suffix
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title("Predicted labels")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _shares(answers: np.ndarray, n_labels: int) -> np.ndarray:
    if answers.ndim == 2:
        return answers.mean(axis=0)
    return np.bincount(answers, minlength=n_labels) / len(answers)


def power_figure(table: pd.DataFrame) -> Figure:
    """How often drift is rung for, by the number of new texts: a panel for each kind of them.

    Args:
        table: columns foreign (their name), share (of the new texts), n, rate, low and high (95 %
            interval); of foreign "" and share 0 new texts are the run's own, drawn in all panels.
    """
    kinds = [kind for kind in table["foreign"].unique() if kind] or [""]
    figure, all_axes = make_axes(
        3.4 * len(kinds) + 1, 3.6, columns=len(kinds), sharey=True, squeeze=False
    )
    shares = sorted(table["share"].unique())
    shades = [GREY, *colours(max(len(shares) - 1, 1), "flare")]
    sizes = sorted(table["n"].unique())
    for axes, kind in zip(all_axes[0], kinds, strict=True):
        for place, (share, colour) in enumerate(zip(shares, shades, strict=False)):
            kind_of_row = table["foreign"] == (kind if share else "")
            rows = table[kind_of_row & (table["share"] == share)].sort_values("n")
            if not len(rows):
                continue
            at = [sizes.index(n) + 0.06 * (place - len(shares) / 2) for n in rows["n"]]
            bars = np.abs(rows[["low", "high"]].to_numpy().T - rows["rate"].to_numpy())
            label = f"{share:.0%} foreign" if share else "the run's own texts"
            drawn = dict(color=colour, label=label, linewidth=1.4, markersize=5, capsize=2)
            axes.errorbar(at, rows["rate"], bars, fmt="o-", **drawn)
        axes.set_xticks(range(len(sizes)), [f"{n:,}" for n in sizes])
        axes.set(xlabel="new texts", xlim=(-0.4, len(sizes) - 0.6), ylim=(-0.03, 1.03), title=kind)
        axes.grid(axis="y", color="0.9")
    all_axes[0][0].set_ylabel("draws that ring, 95% interval")
    all_axes[0][0].yaxis.set_major_formatter(PercentFormatter(1))
    all_axes[0][-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
