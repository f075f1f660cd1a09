"""The figures of what changed texts, and other people in texts, do to a run's answers."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ulmfit_app.evaluation.drawing import BLUE, GREY, ORANGE, drawable_text, make_axes
from ulmfit_app.evaluation.scripts import shorten

COLUMNS = 3  # panels side by side
MOST_OF_NAME = 30  # columns of a file's name
MOST_SWAPS = 40  # that are drawn
LINE = {"color": BLUE, "marker": "o", "markersize": 3.5, "linewidth": 1.5}


def robustness_figure(table: pd.DataFrame) -> Figure:
    """Accuracy and mean confidence against the share that is changed, a panel for each change.

    Args:
        table: what experiments.robustness.run_robustness returns. Whiskers are intervals of the
            difference to unchanged texts. Opposites have the share of changed answers in the place
            of accuracy; domains share the last panel.
    """
    plain, domains = table.iloc[0], table[table["kind"] == "domain"]
    panels = list(table[table["kind"].isin(["changed", "opposite"])].groupby("what", sort=False))
    n = len(panels) + bool(len(domains))
    rows = max(math.ceil(n / COLUMNS), 1)
    figure, all_axes = make_axes(9.5, 0.9 + 2.1 * rows, rows, COLUMNS, squeeze=False)
    flat = all_axes.ravel()
    shown = table[table["kind"] != "opposite"]
    lowest = min(shown["accuracy"].min(), shown["confidence"].min())
    bottom = max(10 * math.floor(lowest / 10) - 10, 0)
    for axes, (what, lines) in zip(flat, panels, strict=False):
        axes.set_title(what)
        if lines["kind"].iloc[0] == "opposite":
            _draw_opposite(axes, lines)
        else:
            _draw_change(axes, lines, plain)
            axes.set_ylim(bottom, 100)
        axes.set(xlim=(0, None), xlabel="changed (%)")
        axes.grid(color="0.9")
    if len(domains):
        _draw_domains(flat[len(panels)], domains, plain)
    for axes in flat[n:]:
        axes.set_axis_off()
    for axes in all_axes[:, 0]:
        if not axes.get_ylabel():
            axes.set_ylabel("accuracy (%)")
    handles, labels = flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"Answers to changed texts, n = {int(plain['n']):,}", size=11)
    return figure


def _draw_change(axes: Axes, lines: pd.DataFrame, plain: pd.Series) -> None:
    strengths, confidences, accuracies = (
        [plain[name], *lines[name]] for name in ("strength", "confidence", "accuracy")
    )
    axes.axhline(plain["accuracy"], color=GREY, linewidth=1, label="accuracy unchanged")
    axes.plot(strengths, confidences, "--", color=ORANGE, linewidth=1.4, label="mean confidence")
    below = [0.0, *(lines["difference"] - lines["difference_low"])]
    above = [0.0, *(lines["difference_high"] - lines["difference"])]
    label = "accuracy, with 95% interval of the difference"
    axes.errorbar(strengths, accuracies, [below, above], label=label, **LINE)


def _draw_opposite(axes: Axes, lines: pd.DataFrame) -> None:
    changed = lines["changed"]
    whiskers = [changed - lines["changed_low"], lines["changed_high"] - changed]
    axes.errorbar(lines["strength"], changed, whiskers, **LINE)
    axes.set(ylim=(0, 100), ylabel="answers changed (%)")


def _draw_domains(axes: Axes, domains: pd.DataFrame, plain: pd.Series) -> None:
    axes.axvspan(plain["low"], plain["high"], color=GREY, alpha=0.15, linewidth=0)
    for place, line in enumerate(domains.itertuples()):
        axes.plot([line.low, line.high], [place] * 2, color=BLUE, linewidth=2, marker="|")
        axes.plot(line.accuracy, place, "o", color=BLUE, markersize=5)
        axes.plot(line.confidence, place, "|", color=ORANGE, markersize=12, markeredgewidth=2)
        # Beside the axes, a file's name would push all panels apart.
        name, fonts = drawable_text(shorten(line.what, MOST_OF_NAME))
        place_of = {"xy": (0.02, place - 0.12), "xycoords": axes.get_yaxis_transform()}
        axes.annotate(name, **place_of, va="bottom", fontsize=8.5, family=fonts)
    axes.set_yticks([])
    axes.set(ylim=(len(domains) - 0.6, -0.6), xlabel="accuracy (%)", title="other sources")
    axes.grid(axis="x", color="0.9")


def counterfactuals_figure(table: pd.DataFrame) -> Figure:
    """Shifts of a label's log-odds and shares of changed answers, a line for each swap.

    Args:
        table: what experiments.counterfactuals.run_counterfactuals returns; where there are many
            swaps, those of the most texts are drawn.
    """
    most = table["n"].sort_values(ascending=False, kind="stable").index[:MOST_SWAPS]
    table = table.loc[sorted(most)]
    height = 1.4 + 0.27 * len(table)
    figure, (left, right) = make_axes(9.5, height, columns=2, sharey=True)
    for place, (_, line) in enumerate(table.iterrows()):
        for axes, value, low, high in (
            (left, line["log_odds"], line["log_odds_low"], line["log_odds_high"]),
            (right, line["changed_share"], line["low"], line["high"]),
        ):
            axes.plot([low, high], [place] * 2, color=BLUE, linewidth=2, marker="|")
            axes.plot(value, place, "o", color=BLUE, markersize=4.5)
    names = [_name_swap(line) for _, line in table.iterrows()]
    shown, fonts = drawable_text("\n".join(names))
    left.set_yticks(range(len(names)), shown.split("\n"), fontsize=8.5, family=fonts)
    left.axvline(0, color=GREY, linewidth=1)
    left.set(ylim=(len(table) - 0.5, -0.5))
    label, fonts = drawable_text(table["label"].iloc[0])
    left.set_xlabel(f"shift of the log-odds of {label}", family=fonts)
    right.set(xlabel="answers changed (%)", xlim=(0, None))
    for axes in (left, right):
        axes.grid(axis="x", color="0.9")
        axes.tick_params(axis="y", length=0)
    figure.suptitle("The same texts about other people, with 95% intervals", size=11)
    return figure


def _name_swap(line: pd.Series) -> str:
    exchanged = line["after"] == "exchanged"
    way = f"{line['before']} exchanged" if exchanged else f"{line['before']} → {line['after']}"
    return f"{way}, n = {line['n']:,}"
