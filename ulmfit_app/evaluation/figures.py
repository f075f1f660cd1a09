"""Figures of a report. Each function returns a Figure and leaves no global state behind.

Texts on a figure are class names and counts only; `probabilities` and `truth` are as in metrics.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from ulmfit_app.evaluation.calibration import risk_coverage
from ulmfit_app.evaluation.drawing import (
    BLUE,
    GREY,
    MAX_COUNTED_CLASSES,
    MAX_TICK_LABELS,
    ORANGE,
    colour_map,
    colours,
    drawable_labels,
    make_axes,
    mark_phases,
    write_counts,
)
from ulmfit_app.evaluation.messages import known, say, translated
from ulmfit_app.evaluation.metrics import (
    N_BINS,
    accuracy_interval,
    calibration_bins,
    expected_calibration_error,
)
from ulmfit_app.evaluation.scripts import width_of

PERPLEXITY = "perplexity"  # with it begins the name of a history's column that holds it


def confusion_figure(matrix: np.ndarray, labels: list[str]) -> Figure:
    """Confusion matrix, coloured by the share of the row: one row per true class.

    Up to 20 classes each cell shows its count. Beyond, colours only, on a square-root scale, since
    the errors of many classes are spread so thin that a linear one shows the diagonal alone.

    Args:
        matrix: counts [n_classes, n_classes]; rows true, columns predicted.
        labels: the class names, in order.
    """
    matrix = np.asarray(matrix)
    n_classes = len(labels)
    support = matrix.sum(axis=1, keepdims=True)
    # A class without texts has no shares; its row stays grey.
    shares = np.ma.masked_invalid(
        np.divide(matrix, support, out=np.full(matrix.shape, np.nan), where=support > 0)
    )
    counted = n_classes <= MAX_COUNTED_CLASSES
    side = float(np.interp(n_classes, [2, MAX_COUNTED_CLASSES, MAX_TICK_LABELS], [3.4, 8, 7.5]))

    names, families, note = drawable_labels(labels, lines=2 if counted else 1)
    size = 9 if counted else 8
    columns = max(width_of(line) for name in names for line in name.split("\n"))
    longest = columns * size / 120  # inches, roughly
    horizontal = counted and longest * n_classes < side
    figure, axes = make_axes(side + longest + 1.5, side + (0.9 if horizontal else longest + 0.8))
    norm = PowerNorm(gamma=1 if counted else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap=colour_map("Blues").with_extremes(bad="0.85"), norm=norm)
    if counted:
        write_counts(axes, matrix, shares)
    step = math.ceil(n_classes / MAX_TICK_LABELS)
    shown, written = range(0, n_classes, step), dict(fontsize=size, family=families)
    axes.set_xticks(shown, names[::step], rotation=0 if horizontal else 90, **written)
    axes.set_yticks(shown, names[::step], **written)
    axes.tick_params(length=0)
    notes = ([say("1 in {step} is named", step=step)] if step > 1 else []) + note
    suffix = f" ({'; '.join(notes)})" if notes else ""
    axes.set(xlabel=say("predicted class") + suffix, ylabel=say("true class") + suffix)
    axes.set_title(say("Confusion matrix, n = {n:,}", n=int(matrix.sum())))
    bar = figure.colorbar(
        image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1, decimals=0)
    )
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1] if counted else [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.set_label(say("share of the true class"))
    bar.outline.set_visible(False)
    return figure


def confidence_figure(
    probabilities: np.ndarray, truth: np.ndarray, predicted: np.ndarray | None = None
) -> Figure:
    """How confident right and wrong predictions are: two histograms, in % of their group.

    Args:
        probabilities: [n, n_classes].
        truth: [n] class indices.
        predicted: as metrics.score takes it.
    """
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(truth)), predicted]
    right = predicted == truth
    # The most probable of k classes has at least 1/k; another one that was decided on, less.
    edges = np.linspace(min(1 / probabilities.shape[1], confidence.min()), 1, 21)

    figure, axes = make_axes(7, 3.6)
    groups = (say("right"), right, BLUE), (say("wrong"), ~right, ORANGE)
    for name, members, colour in groups:
        n = int(members.sum())
        if not n:
            axes.plot([], [], color=colour, label=say("{name}: none", name=name))
            continue
        heights = np.histogram(np.clip(confidence[members], edges[0], edges[-1]), edges)[0] / n
        median = np.median(confidence[members])
        label = say(
            "{name}: n = {n:,}, median confidence {median:.1%}", name=name, n=n, median=median
        )
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(heights, edges, color=colour, linewidth=1.6, label=label)
    axes.set(
        xlabel=say("confidence (probability of the predicted class)"),
        ylabel=say("share of the group"),
    )
    axes.set_xlim(edges[0], 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(say("Confidence of right and wrong predictions, n = {n:,}", n=len(truth)))
    # The least confident bin of the wrong ones is often the highest; the legend stands above it.
    axes.set_ylim(0, 1.3 * axes.dataLim.y1)
    axes.legend(loc="upper left", frameon=False)
    return figure


def reliability_figure(
    probabilities: np.ndarray,
    truth: np.ndarray,
    before: np.ndarray | None = None,
    n_bins: int = N_BINS,
) -> Figure:
    """Reliability diagram: accuracy by confidence, with 95 % intervals, and the n of each bin.

    As in Guo et al. 2017, figure 1, with the texts counted in axes of their own below.

    Args:
        probabilities: [n, n_classes].
        truth: [n] class indices.
        before: probabilities of the same texts before they were calibrated, drawn beside the
            others; left out where nothing changed.
        n_bins: of confidence, of equal width.
    """
    if before is not None and np.array_equal(before, probabilities):
        before = None
    figure, (upper, lower) = make_axes(7, 5.6, rows=2, height_ratios=[3, 1], sharex=True)
    ideal = say("accuracy = confidence")
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label=ideal)
    name = say("measured") if before is None else say("after")
    binned = [_draw_reliability(upper, probabilities, truth, n_bins, name)]
    if before is not None:
        binned.append(_draw_reliability(upper, before, truth, n_bins, say("before"), True))
    upper.set(ylabel=say("accuracy in the bin"), ylim=(0, 1.02))
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    # Within the axes it would cover the points of some classifier or other.
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, frameon=False)
    figure.suptitle(say("Accuracy by confidence, n = {n:,}", n=len(truth)), size=11)
    _draw_bins(lower, *binned)
    lower.set(
        xlabel=say("confidence (mean in the bin; the bars show the bins)"),
        ylabel=say("texts"),
        xlim=(min(one["lower"].min() for one in binned), 1.005),
        ylim=(0, max(one["n"].max() for one in binned) * 1.3),
    )
    lower.xaxis.set_major_formatter(PercentFormatter(1))
    lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure


def _draw_reliability(
    axes: Axes,
    probabilities: np.ndarray,
    truth: np.ndarray,
    n_bins: int,
    name: str,
    is_before: bool = False,
) -> pd.DataFrame:
    """The accuracy of each bin with its interval; returns the bins that hold texts."""
    bins = calibration_bins(probabilities, truth, n_bins).query("n > 0")
    error = expected_calibration_error(probabilities, truth, n_bins)
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
            "{name}, 95% interval; expected calibration error {error:.1%}", name=name, error=error
        ),
    )
    return bins


def _draw_bins(axes: Axes, bins: pd.DataFrame, before: pd.DataFrame | None = None) -> None:
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


def risk_coverage_figure(
    probabilities: np.ndarray,
    truth: np.ndarray,
    thresholds: list[dict] = (),
    predicted: np.ndarray | None = None,
) -> Figure:
    """Error of the answers against the share of the texts that is answered, with 95 % interval.

    The most confident are answered first.

    Args:
        probabilities: [n, n_classes].
        truth: [n] class indices.
        thresholds: as calibrated.before_and_after gives them; each is drawn where it lies on
            these texts, over a line at the error that was wanted of it.
        predicted: as metrics.score takes it.
    """
    curve = risk_coverage(probabilities, truth, predicted)
    # A picture is about a thousand dots wide.
    curve = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 400).astype(int))]
    low, high = np.transpose(
        [accuracy_interval(int(row.wrong), int(row.n)) for row in curve.itertuples()]
    )

    figure, axes = make_axes(7, 4.4)
    label = say("95% interval")
    axes.fill_between(
        curve["coverage"], low, high, color=BLUE, alpha=0.15, linewidth=0, label=label
    )
    label = say("error of the answered")
    axes.plot(curve["coverage"], curve["error"], color=BLUE, linewidth=1.6, label=label)
    reached = [one for one in thresholds if one.get("test", {}).get("n")]
    shades = colours(max(len(reached), 1), "flare")
    for one, marker, colour in zip(reached, "osD^", shades, strict=False):
        test, wanted = one["test"], one["wanted_error"]
        least = one["threshold"]
        at = say("confidence {least:.3g} or more", least=least) if least else say("all")
        axes.hlines(wanted, 0, 1, color=colour, linestyle=":", linewidth=1)
        drawn = dict(color=colour, markersize=7, linestyle="none", clip_on=False)
        label = say("{wanted:.0%} wanted: {at}", wanted=wanted, at=at)
        axes.plot(test["coverage"], test["error"], marker, label=label, **drawn)
    top = max(1.3 * high[-1], *(1.2 * one["test"]["error"] for one in reached), 0.02)
    axes.set(
        xlabel=say("share of the texts that is answered"),
        ylabel=say("error of the answered"),
        xlim=(0, 1.005),
        ylim=(0, top),
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    figure.suptitle(say("Error by how many texts are answered, n = {n:,}", n=len(truth)), size=11)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.12, 1), ncols=2, fontsize=9, frameon=False)
    return figure


def training_curves_figure(history: pd.DataFrame, title: str) -> Figure:
    """Losses, accuracy and, for a language model, perplexity after each epoch of all phases.

    Args:
        history: one row per epoch, in the order they ran; columns phase, train_loss, valid_loss
            (nats), accuracy and perhaps one that begins with PERPLEXITY and says of what.
        title: of the figure.
    """
    losses = {"train_loss": say("training"), "valid_loss": say("validation")}
    panels = [(say("loss (nats)"), losses), (say("accuracy on validation"), {"accuracy": None})]
    for column in history.columns[history.columns.str.startswith(PERPLEXITY)]:
        panels.append((say("{what} on validation", what=known(column)), {column: None}))
    epochs = np.arange(1, len(history) + 1)

    figure, all_axes = make_axes(3.5 * len(panels), 3.6, columns=len(panels))
    for axes, (unit, lines) in zip(all_axes, panels, strict=True):
        for (column, label), colour in zip(
            lines.items(), (GREY, BLUE) if len(lines) > 1 else (BLUE,), strict=True
        ):
            axes.plot(
                epochs,
                history[column],
                "o-",
                color=colour,
                markersize=4,
                linewidth=1.4,
                label=label,
            )
        mark_phases(axes, history["phase"].astype(str).tolist())
        axes.set(xlabel=say("epoch"), ylabel=unit, xlim=(0.5, len(history) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(lines) > 1:
            axes.legend(frameon=False)
    all_axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    figure.suptitle(title)
    return figure


def comparison_figure(scores: dict[str, dict]) -> Figure:
    """Accuracy with its 95 % interval, one line per model, the first on top.

    Args:
        scores: name -> what metrics.score returns.
    """
    figure, axes = make_axes(7, 1.1 + 0.42 * len(scores))
    for height, numbers in enumerate(scores.values()):
        low, high = numbers["accuracy_ci95"]
        colour = BLUE if height == 0 else GREY
        axes.plot(
            [low, high], [height, height], color=colour, linewidth=2, marker="|", markersize=9
        )
        axes.plot(numbers["accuracy"], height, "o", color=colour, markersize=6)
        axes.annotate(
            f"{numbers['accuracy']:.1%}",
            (numbers["accuracy"], height),
            (0, 8),
            textcoords="offset points",
            ha="center",
        )
    axes.set_yticks(range(len(scores)), list(map(translated, scores)))
    axes.set(ylim=(len(scores) - 0.5, -0.75), xlabel=say("accuracy, 95% interval"))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(x=0.08)
    axes.grid(axis="x", color="0.9")
    axes.tick_params(axis="y", length=0)
    n = next(iter(scores.values()))["n"]
    axes.set_title(say("Accuracy on the same texts, n = {n:,}", n=n))
    return figure
