"""Figures of groups and of time: accuracy and recall by group, accuracy by period."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ulmfit_app.evaluation.drawing import (
    BLUE,
    GREY,
    MAX_LABEL_LENGTH,
    ORANGE,
    colours,
    drawable_labels,
    drawable_text,
    make_axes,
)
from ulmfit_app.evaluation.group_words import is_sure
from ulmfit_app.evaluation.messages import say, translated
from ulmfit_app.evaluation.scripts import shorten

GROUPS_FIGURE = "groups_{number}"  # its name in a report, by the number of the column
MAX_ROWS = 25  # groups of a figure
MAX_DRAWN = 3  # labels whose recall can be told apart in a row


def groups_figure(found: dict) -> Figure:
    """Accuracy by group with 95 % intervals, and beside it recall and how often a label is given.

    Of more than MAX_ROWS groups, those of the lowest p-values; of more than MAX_DRAWN labels, the
    accuracy alone.

    Args:
        found: what groups.compare_groups returns.
    """
    groups = choose_groups(found["groups"], MAX_ROWS)
    names, families = _names_of(groups)
    by_label = len(found["labels"]) <= MAX_DRAWN
    figure, axes = make_axes(
        10.5 if by_label else 6.5,
        max(1.7 + 0.34 * len(groups), 2.6),
        columns=3 if by_label else 1,
    )
    first, *others = np.ravel(axes)
    _draw(first, groups, found["groups"], {say("accuracy"): lambda group: group["accuracy"]})
    first.set_title(say("Accuracy"), pad=24 if by_label else 6)
    titles = say("Recall"), say("Share given a label; | is the true share")
    kinds = ("recall", "labels"), ("selection_rate", "selected")
    for one, title, (kind, asked) in zip(others, titles, kinds, strict=False):
        lines = {label: _number_of(kind, label) for label in found[asked]}
        _draw(one, groups, found["groups"], lines, true=kind == "selection_rate")
        one.set_title(title, pad=24)
        _legend(one, found[asked])
    ticks = [f"{name}  {group['n']:,}" for name, group in zip(names, groups, strict=True)]
    first.set_yticks(range(len(groups)), ticks, fontsize=9, family=families)
    first.set(ylabel=say("group, texts"))
    for one in others:
        one.set_yticks(range(len(groups)), [""] * len(groups))
    for one in (first, *others):
        one.set_ylim(len(groups) - 0.5, -0.5)
    first.set_xlabel(say("share, 95% interval"))
    if len(groups) < len(found["groups"]):
        note = say("the {n} least like all others", n=len(groups))
        first.set_xlabel(f"{first.get_xlabel()}\n{note}")
    title, family = drawable_text(say("Groups of “{column}”", column=found["column"]))
    figure.suptitle(title.replace("$", r"\$"), size=11, family=family)
    return figure


def _names_of(groups: list[dict]) -> tuple[list[str], list[str]]:
    """The groups' names as a figure can show them, and the font families to write them in."""
    names = [" ".join(translated(group["group"]).split()) for group in groups]
    lines = "\n".join(shorten(name, MAX_LABEL_LENGTH) for name in names)
    shown, families = drawable_text(lines)
    return shown.replace("$", r"\$").split("\n"), families


def choose_groups(groups: list[dict], most: int) -> list[dict]:
    """The groups of the lowest p-values where there are more than `most`, the largest first.

    Args:
        groups: as groups.compare_groups returns them, the largest first.
        most: how many can be shown.
    """
    if len(groups) <= most:
        return groups

    def rank(index: int) -> tuple[float, int]:
        p_value = groups[index]["accuracy"]["p_value"]
        return (2.0 if p_value is None else p_value, index)

    return [groups[index] for index in sorted(sorted(range(len(groups)), key=rank)[:most])]


def _number_of(kind: str, label: str) -> Callable[[dict], dict]:
    return lambda group: group[kind][label]


def _draw(
    axes: Axes,
    shown: list[dict],
    groups: list[dict],
    lines: dict[str, Callable[[dict], dict]],
    true: bool = False,
) -> None:
    """Shares of the groups with their intervals, one line each below the other; and of all.

    lines: label -> its number in a group. true: whether the labels' true shares are marked.
    """
    palette = [BLUE] if len(lines) == 1 else colours(len(lines))
    for place, ((label, number_of), colour) in enumerate(zip(lines.items(), palette, strict=True)):
        numbers = [number_of(group) for group in groups]
        n = sum(number["n"] for number in numbers)
        everywhere = sum(number["n"] * (number["value"] or 0) for number in numbers) / max(n, 1)
        if n:
            axes.axvline(everywhere, color=colour, linestyle="--", linewidth=0.9, alpha=0.6)
        for row, group in enumerate(shown):
            number, height = number_of(group), row + 0.22 * (place - (len(lines) - 1) / 2)
            if number["value"] is None:
                continue
            ink = colour if group["judged"] else "0.7"
            fill = ink if is_sure(number) else "white"
            axes.plot(number["ci95"], [height] * 2, color=ink, linewidth=1.6, zorder=1.5)
            axes.plot(number["value"], height, "o", color=ink, markerfacecolor=fill, markersize=5)
            if true:
                share = group["recall"][label]["n"] / group["n"]
                axes.plot(share, height, "|", color=ink, markersize=9, markeredgewidth=1.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)


def _legend(axes: Axes, labels: list[str]) -> None:
    """The labels' names in their colours above the axes."""
    names, families, _ = drawable_labels(labels)
    palette = [BLUE] if len(labels) == 1 else colours(len(labels))
    handles = [
        axes.plot([], [], "o", color=colour, markersize=5, label=name)[0]
        for name, colour in zip(names, palette, strict=True)
    ]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, frameon=False,
        prop={"family": families, "size": 8.5}, handletextpad=0.1, columnspacing=0.9,
    )  # fmt: skip


def time_figure(found: dict) -> Figure:
    """Accuracy by period with 95 % intervals, the straight line, and the mean confidence.

    Args:
        found: what over_time.accuracy_over_time returns, of two periods or more.
    """
    periods = found["periods"]
    ends = [(pd.Timestamp(one["first"]), pd.Timestamp(one["last"])) for one in periods]
    middles = [first + (last - first) / 2 for first, last in ends]
    figure, axes = make_axes(8, 3.8)
    values = np.array([one["accuracy"] for one in periods])
    bounds = np.array([one["accuracy_ci95"] for one in periods])
    axes.errorbar(
        middles,
        values,
        yerr=np.clip([values - bounds[:, 0], bounds[:, 1] - values], 0, None),
        fmt="o",
        color=BLUE,
        markersize=5,
        elinewidth=1.4,
        capsize=3,
        label=say("accuracy, 95% interval"),
    )
    if found["trend"]["change"] is not None:
        _draw_trend(axes, found, ends)
    if "confidence" in periods[0]:
        confidence = [one["confidence"] for one in periods]
        axes.plot(middles, confidence, "_", color=ORANGE, markersize=12, markeredgewidth=1.6,
                  label=say("mean confidence"))  # fmt: skip
    locator = AutoDateLocator(minticks=3, maxticks=8)
    has_hours = ends[-1][1] - ends[0][0] < pd.Timedelta(days=3)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(DateFormatter("%m-%d %H:%M" if has_hours else "%Y-%m-%d"))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(ylabel=say("accuracy"), xlabel=say("middle of the period"))
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    figure.suptitle(say("Accuracy over time, n = {n:,} texts", n=found["n"]), size=11)
    return figure


def _draw_trend(axes: Axes, found: dict, ends: list[tuple[pd.Timestamp, pd.Timestamp]]) -> None:
    """The straight line through all answers, which passes through their mean."""
    first, last = ends[0][0], ends[-1][1]
    place, accuracy = found["trend"]["mean_place"], found["trend"]["mean_accuracy"]
    change = found["trend"]["change"]
    heights = [accuracy - change * place, accuracy + change * (1 - place)]
    axes.plot([first, last], heights, color=GREY, linewidth=1.2, label=say("straight line"))
