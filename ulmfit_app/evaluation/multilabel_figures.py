"""Figures of a report of several labels a text.

`probabilities`, `truth` and `predicted` are as in multilabel.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ulmfit_app.evaluation.drawing import (
    BLUE,
    GREY,
    MAX_TICK_LABELS,
    ORANGE,
    drawable_labels,
    make_axes,
)
from ulmfit_app.evaluation.matrix_figure import matrix_figure
from ulmfit_app.evaluation.messages import say
from ulmfit_app.evaluation.multilabel import pool
from ulmfit_app.evaluation.reliability_figure import draw_reliability


def labels_figure(scores: dict) -> Figure:
    """F1, precision and recall by label, and beside it average precision; the commonest on top.

    Of more than MAX_TICK_LABELS labels, the commonest.

    Args:
        scores: what multilabel.score_sets returns.
    """
    per_label = scores["per_label"]
    order = sorted(per_label, key=lambda label: -per_label[label]["support"])[:MAX_TICK_LABELS]
    # Of all labels, so that a number instead of a name is that of the table.
    names, families, note = drawable_labels(list(per_label))
    shown = dict(zip(per_label, names, strict=True))
    rows = [per_label[label] for label in order]
    figure, (left, right) = make_axes(9.5, max(1.5 + 0.24 * len(rows), 2.6), columns=2)
    heights = range(len(rows))
    of = [_numbers(rows, key) for key in ("f1", "precision", "recall", "average_precision")]
    left.barh(heights, of[0], color=BLUE, alpha=0.45, label="F1")
    points = dict(linestyle="none", markersize=4.5)
    left.plot(of[1], heights, "o", color=ORANGE, label=say("precision"), **points)
    left.plot(of[2], heights, "D", color=GREY, label=say("recall"), **points)
    right.barh(heights, of[3], color=BLUE, alpha=0.45, label=say("average precision"))
    shares = [row["support"] / scores["n"] for row in rows]
    chance = say("by chance: the label’s share of the texts")
    right.plot(shares, heights, "|", color=ORANGE, label=chance, markersize=9, linestyle="none")
    ticks = [f"{shown[label]}  {per_label[label]['support']:,}" for label in order]
    left.set_yticks(heights, ticks, fontsize=9, family=families)
    n_left_out = len(per_label) - len(rows)
    commonest = f" ({say('the {n} commonest', n=len(rows))})" if n_left_out else ""
    right.set_yticks(heights, [""] * len(rows))
    left.set(ylabel=say("label, texts that have it") + commonest)
    left.set_title(say("F1 by label"), pad=34)
    right.set_title(say("Average precision by label"), pad=34)
    # Notes on names stand below: few labels make a short axis beside them.
    below = "".join(f"\n({one})" for one in note)
    units = say("F1, precision, recall") + below, say("average precision")
    for axes, unit in zip((left, right), units, strict=True):
        _finish(axes, unit)
        axes.set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(say("Each label, n = {n:,} texts", n=scores["n"]), size=11)
    return figure


def _numbers(rows: list[dict], key: str) -> list[float]:
    """What is undefined is not drawn."""
    return [np.nan if row[key] is None else row[key] for row in rows]


def _finish(axes: Axes, unit: str) -> None:
    axes.set(xlim=(0, 1.01), xlabel=unit)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, fontsize=8.5, frameon=False,
        handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip


def together_figure(truth: np.ndarray, labels: list[str]) -> Figure:
    """How often labels stand together: of the texts with one label, the share that have another.

    Args:
        truth: [n, n_labels].
        labels: their names.
    """
    has = truth.astype(int)
    words = {
        "title": say("Labels together, n = {n:,} texts", n=len(truth)),
        "xlabel": say("label that they have too"),
        "ylabel": say("texts with the label"),
        "of": say("share of the texts with the row’s label"),
    }
    return matrix_figure(has.T @ has, has.sum(axis=0), labels, **words)


def given_figure(truth: np.ndarray, predicted: np.ndarray, labels: list[str]) -> Figure:
    """What texts with a label are given: the diagonal is the label's recall.

    Args:
        truth: [n, n_labels].
        predicted: [n, n_labels].
        labels: their names.
    """
    has, given = truth.astype(int), predicted.astype(int)
    words = {
        "title": say("Labels given, n = {n:,} texts", n=len(truth)),
        "xlabel": say("label that they are given"),
        "ylabel": say("texts with the label"),
        "of": say("share of the texts with the row’s label"),
    }
    return matrix_figure(has.T @ given, has.sum(axis=0), labels, **words)


def pooled_reliability_figure(
    probabilities: np.ndarray, truth: np.ndarray, before: np.ndarray | None = None
) -> Figure:
    """Reliability diagram of the probabilities of all labels for all texts.

    Args:
        probabilities: [n, n_labels].
        truth: [n, n_labels].
        before: probabilities before they were calibrated; left out where nothing changed.
    """
    shown = [probabilities]
    if before is not None and not np.array_equal(before, probabilities):
        shown.append(before)
    n, n_labels = truth.shape
    words = {
        "title": say(
            "Labels by their probability, {n:,} texts × {n_labels} labels", n=n, n_labels=n_labels
        ),
        "ideal": say("share = probability"),
        "ylabel": say("share that has the label"),
        "xlabel": say("probability of the label (mean in the bin; the bars show the bins)"),
        "counted": say("texts × labels"),
    }
    return draw_reliability([pool(one, truth) for one in shown], **words, log=True)
