"""Pictures of what the numbers mean. Each function returns a matplotlib Figure and leaves no global state behind.

Texts on a figure are class names and counts only; `probabilities` and `truth` are as in metrics.
"""

import io
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, findfont, findSystemFonts, fontManager, get_font
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from ulmfit_app.evaluation.calibration import risk_coverage
from ulmfit_app.evaluation.metrics import N_BINS, accuracy_interval, calibration_bins, expected_calibration_error

log = logging.getLogger(__name__)

BLUE, ORANGE = sns.color_palette("colorblind")[0], sns.color_palette("colorblind")[3]
GREY = "0.45"
FONT = "DejaVu Sans"  # matplotlib brings it along, so that a figure looks the same on every machine
MAX_COUNTED_CLASSES = 20  # more cells than 20 x 20 have no room for a legible count
MAX_TICK_LABELS = 40
MAX_LABEL_LENGTH = 24  # characters


def confusion_figure(matrix: np.ndarray, labels: list[str]) -> Figure:
    """Confusion matrix: a row a true class, a column a predicted class, coloured by the share of the row.

    matrix: [n_classes, n_classes] counts. Up to 20 classes each cell shows its count. Beyond, colours only, on a
    square-root scale, since the errors of many classes are spread so thin that a linear one shows the diagonal alone.
    """
    matrix = np.asarray(matrix)
    n_classes = len(labels)
    support = matrix.sum(axis=1, keepdims=True)
    # A class without texts has no shares; its row stays grey.
    shares = np.ma.masked_invalid(np.divide(matrix, support, out=np.full(matrix.shape, np.nan), where=support > 0))
    counted = n_classes <= MAX_COUNTED_CLASSES
    side = float(np.interp(n_classes, [2, MAX_COUNTED_CLASSES, MAX_TICK_LABELS], [3.4, 8, 7.5]))

    names, families, note = _drawable_labels(labels)
    size = 9 if counted else 8
    longest = max(len(name) for name in names) * size / 120  # inches, roughly
    horizontal = counted and longest * n_classes < side
    figure, axes = _axes(side + longest + 1.5, side + (0.9 if horizontal else longest + 0.8))
    norm = PowerNorm(gamma=1 if counted else 0.5, vmin=0, vmax=1)
    cmap = sns.color_palette("Blues", as_cmap=True).with_extremes(bad="0.85")
    image = axes.imshow(shares, cmap=cmap, norm=norm)
    if counted:
        _write_counts(axes, matrix, shares)
    step = math.ceil(n_classes / MAX_TICK_LABELS)
    shown = range(0, n_classes, step)
    axes.set_xticks(shown, names[::step], fontsize=size, family=families, rotation=0 if horizontal else 90)
    axes.set_yticks(shown, names[::step], fontsize=size, family=families)
    axes.tick_params(length=0)
    notes = ([f"1 in {step} is named"] if step > 1 else []) + note
    suffix = f" ({'; '.join(notes)})" if notes else ""
    axes.set(xlabel="predicted class" + suffix, ylabel="true class" + suffix)
    axes.set_title(f"Confusion matrix, n = {matrix.sum():,}")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1, decimals=0))
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1] if counted else [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def confidence_figure(probabilities: np.ndarray, truth: np.ndarray) -> Figure:
    """How confident the right and the wrong predictions are: a histogram each, in per cent of its own group."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == truth
    # The most probable of k classes has at least 1/k.
    edges = np.linspace(1 / probabilities.shape[1], 1, 21)

    figure, axes = _axes(7, 3.6)
    for name, members, colour in (("right", right, BLUE), ("wrong", ~right, ORANGE)):
        n = int(members.sum())
        if not n:
            axes.plot([], [], color=colour, label=f"{name}: none")
            continue
        heights = np.histogram(np.clip(confidence[members], edges[0], edges[-1]), edges)[0] / n
        label = f"{name}: n = {n:,}, median confidence {np.median(confidence[members]):.1%}"
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(heights, edges, color=colour, linewidth=1.6, label=label)
    axes.set(xlabel="confidence (probability of the predicted class)", ylabel="share of the group")
    axes.set_xlim(edges[0], 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title(f"Confidence of right and wrong predictions, n = {len(truth):,}")
    # The least confident bin of the wrong ones is often the highest, and the legend stands above it.
    axes.set_ylim(0, 1.3 * axes.dataLim.y1)
    axes.legend(loc="upper left", frameon=False)
    return figure


def reliability_figure(
    probabilities: np.ndarray, truth: np.ndarray, before: np.ndarray | None = None, n_bins: int = N_BINS
) -> Figure:
    """Reliability diagram (Guo et al. 2017, figure 1): accuracy a confidence bin with 95 % interval, and n below it.

    before: probabilities of the same texts before they were calibrated, drawn beside; left out where nothing changed.
    """
    if before is not None and np.array_equal(before, probabilities):
        before = None
    drawn = [(probabilities, BLUE, "o", "measured" if before is None else "after")]
    if before is not None:
        drawn.append((before, ORANGE, "s", "before"))
    binned = [calibration_bins(of, truth, n_bins).query("n > 0") for of, *_ in drawn]

    figure, (upper, lower) = _axes(7, 5.6, rows=2, height_ratios=[3, 1], sharex=True)
    upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="accuracy = confidence")
    for bins, (of, colour, marker, name) in zip(binned, drawn, strict=True):
        distances = [bins["accuracy"] - bins["low"], bins["high"] - bins["accuracy"]]
        upper.errorbar(
            bins["confidence"],
            bins["accuracy"],
            # Rounding can leave -1e-17 where accuracy is 0 or 1, which matplotlib refuses.
            yerr=np.clip(distances, 0, None),
            fmt=marker,
            color=colour,
            markersize=5,
            markerfacecolor=colour if name != "before" else "white",
            elinewidth=1.4,
            capsize=3,
            zorder=1 if name == "before" else 2,
            label=f"{name}, 95% interval; expected calibration error {expected_calibration_error(of, truth, n_bins):.1%}",
        )
    upper.set(ylabel="accuracy in the bin", ylim=(0, 1.02))
    upper.yaxis.set_major_formatter(PercentFormatter(1))
    upper.legend(loc="lower right", fontsize=9, framealpha=0.8, edgecolor="none")
    upper.set_title(f"Accuracy by confidence, n = {len(truth):,}")

    bins = binned[0]
    widths = bins["upper"] - bins["lower"]
    lower.bar(bins["lower"], bins["n"], width=widths, align="edge", color=BLUE, alpha=0.45, edgecolor="white")
    for _, row in bins.iterrows():
        middle = (row["lower"] + row["upper"]) / 2
        count = lower.annotate(f"{int(row['n']):,}", (middle, row["n"]), (0, 2), textcoords="offset points", ha="center")
        count.set(size=8, path_effects=[withStroke(linewidth=2.5, foreground="white")])
    for other in binned[1:]:
        lower.hlines(other["n"], other["lower"], other["upper"], color=ORANGE, linewidth=1.6, zorder=1.5)
    lower.set(xlabel="confidence (mean in the bin; the bars show the bins)", ylabel="texts")
    lower.set(xlim=(min(one["lower"].min() for one in binned), 1.005), ylim=(0, max(one["n"].max() for one in binned) * 1.3))
    lower.xaxis.set_major_formatter(PercentFormatter(1))
    lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure


def risk_coverage_figure(probabilities: np.ndarray, truth: np.ndarray, thresholds: list[dict] = ()) -> Figure:
    """Error among the answered texts against the share that is answered, the most confident first, with 95 % interval.

    thresholds: as calibration.before_and_after gives them; each is drawn where it lies on these texts, over a line at the
    error that was wanted of it.
    """
    curve = risk_coverage(probabilities, truth)
    # A picture is about a thousand dots wide.
    curve = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 400).astype(int))]
    low, high = np.transpose([accuracy_interval(int(row.wrong), int(row.n)) for row in curve.itertuples()])

    figure, axes = _axes(7, 3.8)
    axes.fill_between(curve["coverage"], low, high, color=BLUE, alpha=0.15, linewidth=0, label="95% interval")
    axes.plot(curve["coverage"], curve["error"], color=BLUE, linewidth=1.6, label="error of the answered")
    reached = [one for one in thresholds if one.get("test", {}).get("n")]
    for one, marker, colour in zip(reached, "osD^", sns.color_palette("flare", max(len(reached), 1)), strict=False):
        test, wanted = one["test"], one["wanted_error"]
        at = f"confidence {one['threshold']:.5g} or more" if one["threshold"] else "all"
        axes.hlines(wanted, 0, 1, color=colour, linestyle=":", linewidth=1)
        axes.plot(
            test["coverage"], test["error"], marker, color=colour, markersize=7, linestyle="none", clip_on=False,
            label=f"{wanted:.0%} wanted: {at}",
        )  # fmt: skip
    top = max(1.3 * high[-1], *(1.2 * one["test"]["error"] for one in reached), 0.02)
    axes.set(xlabel="share of the texts that is answered", ylabel="error of the answered", xlim=(0, 1.005), ylim=(0, top))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title(f"Error by how many texts are answered, n = {len(truth):,}")
    axes.legend(loc="upper center", fontsize=9, framealpha=0.8, edgecolor="none")
    return figure


def training_curves_figure(history: pd.DataFrame, title: str) -> Figure:
    """Losses, accuracy and, for a language model, perplexity after each epoch, over all phases of the training.

    history: one row an epoch in the order they ran; columns phase, train_loss, valid_loss (nats), accuracy and perhaps
    perplexity.
    """
    panels = [("loss (nats)", {"train_loss": "training", "valid_loss": "validation"})]
    panels.append(("accuracy on validation", {"accuracy": None}))
    if "perplexity" in history:
        panels.append(("perplexity on validation", {"perplexity": None}))
    epochs = np.arange(1, len(history) + 1)

    figure, all_axes = _axes(3.5 * len(panels), 3.6, columns=len(panels))
    for axes, (unit, lines) in zip(all_axes, panels, strict=True):
        for (column, label), colour in zip(lines.items(), (GREY, BLUE) if len(lines) > 1 else (BLUE,), strict=True):
            axes.plot(epochs, history[column], "o-", color=colour, markersize=4, linewidth=1.4, label=label)
        _mark_phases(axes, history["phase"].astype(str).tolist())
        axes.set(xlabel="epoch", ylabel=unit, xlim=(0.5, len(history) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if len(lines) > 1:
            axes.legend(frameon=False)
    all_axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    figure.suptitle(title)
    return figure


def comparison_figure(scores: dict[str, dict]) -> Figure:
    """Accuracy of each model with its 95 % interval, one line a model, the first on top.

    scores: name -> what metrics.score returns.
    """
    figure, axes = _axes(7, 1.1 + 0.42 * len(scores))
    for height, numbers in enumerate(scores.values()):
        low, high = numbers["accuracy_ci95"]
        colour = BLUE if height == 0 else GREY
        axes.plot([low, high], [height, height], color=colour, linewidth=2, marker="|", markersize=9)
        axes.plot(numbers["accuracy"], height, "o", color=colour, markersize=6)
        axes.annotate(
            f"{numbers['accuracy']:.1%}", (numbers["accuracy"], height), (0, 8), textcoords="offset points", ha="center"
        )
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set(ylim=(len(scores) - 0.5, -0.75), xlabel="accuracy, 95% interval")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(x=0.08)
    axes.grid(axis="x", color="0.9")
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"Accuracy on the same texts, n = {next(iter(scores.values()))['n']:,}")
    return figure


def ablation_figure(table: pd.DataFrame) -> Figure:
    """Errors with 95 % intervals, a line a row, in groups; crosses are the paper's.

    table: what experiments.compared returns, of one table or several.
    """
    groups = list(table.groupby("table", sort=False))
    figure, axes = _axes(7.5, 1.2 + 0.27 * (len(table) + 1.6 * len(groups)))
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
            axes.plot([row.low, row.high], [height, height], color=colour, linewidth=2, marker="|", markersize=7)
            axes.plot(row.error, height, "o", color=colour, markersize=5)
            if not math.isnan(row.paper):
                axes.plot(row.paper, height, "x", color=ORANGE, markersize=6)
            ticks[height] = row.row
        height += 1.6
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.set(ylim=(height - 0.8, -0.8), xlabel="error (%), with 95% interval; orange: the paper's")
    axes.grid(axis="x", color="0.9")
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"What each part of ULMFiT is worth, n = {int(table['n'].max()):,}")
    return figure


def label_curve_figure(table: pd.DataFrame) -> Figure:
    """Error against the number of labels, a line a way, with 95 % intervals; both axes logarithmic unless an error is 0.

    table: what curves.label_curve returns.
    """
    figure, axes = _axes(9.5, 4.5)
    ways = list(table.groupby("way", sort=False))
    colours = sns.color_palette("colorblind", len(ways))
    for i, (way, rows) in enumerate(ways):
        # A little to the side of each other, so that intervals can be told apart.
        labels = rows["labels"] * 1.03 ** (i - len(ways) / 2)
        whiskers = [rows["error"] - rows["low"], rows["high"] - rows["error"]]
        axes.errorbar(labels, rows["error"], whiskers, color=colours[i], label=way, marker="o", markersize=4, linewidth=1.5)
    ticks = sorted(table["labels"].unique())
    # A logarithm has no place for a classifier without errors.
    yscale = "log" if table["low"].min() > 0 else "linear"
    axes.set(xscale="log", yscale=yscale, xlabel="labelled training texts", ylabel="test error (%), with 95% interval")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    for candidates in ((1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50), range(1, 100)):
        errors = [tick for tick in candidates if table["low"].min() <= tick <= table["high"].max()]
        if len(errors) > 2:
            break
    axes.set_yticks(errors, [str(tick) for tick in errors])
    axes.grid(color="0.9")
    # Within the axes it would cover the points of some way or other.
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set_title(f"Errors with few labels and many, n = {int(table['n'].max()):,}")
    return figure


def starts_figure(table: pd.DataFrame) -> Figure:
    """Error against the tokens that a start was pretrained on, beside that of random weights, with 95 % intervals.

    table: what curves.starts_curve returns, the row of random weights first.
    """
    figure, axes = _axes(7, 4.5)
    random, pretrained = table.iloc[0], table.iloc[1:]
    axes.axhline(random["error"], color=GREY, linewidth=1.5, label="random weights")
    axes.axhspan(random["low"], random["high"], color=GREY, alpha=0.2, linewidth=0)
    whiskers = [pretrained["error"] - pretrained["low"], pretrained["high"] - pretrained["error"]]
    tokens = pretrained["million_tokens"]
    axes.errorbar(
        tokens, pretrained["error"], whiskers, color=BLUE, label="pretrained", marker="o", markersize=5, linewidth=1.5
    )
    axes.set(xscale="log", xlabel="tokens of pretraining (million)", ylabel="validation error (%), with 95% interval")
    axes.set_xticks(tokens, [f"{n:.3g}" for n in tokens])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(color="0.9")
    axes.legend(fontsize=9)
    axes.set_title(f"What pretraining is worth, n = {int(table['n'].max()):,}")
    return figure


def balance_figure(counts: pd.DataFrame) -> Figure:
    """The share of each class in each split: a bar for the first split, a mark for each other one.

    counts: texts, a row a class, a column a split.
    """
    shares = counts / counts.sum()
    names, families, note = _drawable_labels(list(counts.index))
    step = math.ceil(len(names) / MAX_TICK_LABELS)
    places = np.arange(len(names))

    figure, axes = _axes(7, 1.3 + 0.3 * min(len(names), MAX_TICK_LABELS))
    first, *others = shares
    bars = axes.barh(places, shares[first], color=BLUE, alpha=0.35, label=first)
    for split, marker, colour in zip(others, "|o", (GREY, ORANGE), strict=False):
        axes.plot(shares[split], places, marker, color=colour, markersize=8 if step == 1 else 3, label=split)
    axes.set_yticks(places[::step], names[::step], family=families, fontsize=9)
    axes.tick_params(axis="y", length=0)
    notes = ([f"1 in {step} is named"] if step > 1 else []) + note
    suffix = f" (classes: {'; '.join(notes)})" if notes else ""
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="share of the split" + suffix)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title(f"Classes, n = {int(counts.to_numpy().sum()):,}")
    axes.legend(handles=[bars, *axes.lines], frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def lengths_figure(lengths: dict[str, np.ndarray], limit: int) -> Figure:
    """How many tokens the texts of each split have, in per cent of the split, on a logarithmic scale.

    lengths: split -> tokens a text, at least 1. limit: how many tokens carry gradients, drawn as a line.
    """
    longest = max(int(of_split.max()) for of_split in lengths.values())
    shortest = min(int(of_split.min()) for of_split in lengths.values())
    # Edges between whole numbers, or short texts would leave gaps where there is no whole number to count.
    edges = np.unique(np.round(np.geomspace(shortest, max(longest, limit) + 1, 41))) - 0.5

    figure, axes = _axes(7, 3.4)
    for (split, of_split), colour in zip(lengths.items(), sns.color_palette("colorblind", len(lengths)), strict=True):
        heights = np.histogram(of_split, edges)[0] / len(of_split)
        axes.stairs(heights, edges, color=colour, linewidth=1.6, label=f"{split}: n = {len(of_split):,}")
    axes.axvline(limit, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        f"{limit:,}", (limit, 1), (-3, -12), xycoords=axes.get_xaxis_transform(), textcoords="offset points", ha="right"
    )
    axes.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(0, None), xlabel="tokens a text", ylabel="share of the split")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title(f"Lengths, n = {sum(map(len, lengths.values())):,}")
    axes.legend(frameon=False, loc="upper left")
    return figure


def schedules_figure(rates: dict[str, Sequence[float]]) -> Figure:
    """How learning rates move from the start of a training to its end. rates: name -> rates at equal distances."""
    figure, axes = _axes(7, 3.4)
    for (name, course), colour in zip(rates.items(), sns.color_palette("colorblind", len(rates)), strict=True):
        axes.plot(np.linspace(0, 1, len(course)), course, color=colour, linewidth=1.6, label=name)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="share of the training that is done", ylabel="learning rate")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_title("Schedules")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plan_figure(rates: np.ndarray, phases: dict[str, int], title: str) -> Figure:
    """Which layer group of a classifier learns when, and at what rate: a row a group, the head on top; white where frozen.

    rates: [n_groups, n], 0 where frozen, at equal distances over all epochs. phases: name -> epochs, in order.
    """
    n_groups, epochs = len(rates), sum(phases.values())
    learns = rates[rates > 0]
    figure, axes = _axes(7, 1.9 + 0.28 * n_groups)
    image = axes.imshow(
        np.ma.masked_equal(rates, 0),
        cmap=sns.color_palette("flare", as_cmap=True),
        # A schedule begins and ends near nothing: what is far below the peaks is all one colour.
        norm=LogNorm(max(learns.min(), learns.max() / 1000), learns.max()),
        aspect="auto",
        origin="lower",
        extent=(0, epochs, -0.5, n_groups - 0.5),
        interpolation="none",
    )
    axes.set_yticks(range(n_groups), ["embeddings", *(f"LSTM {i}" for i in range(1, n_groups - 1)), "head"])
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epochs")
    _mark_phases(axes, [name for name, n in phases.items() for _ in range(n)], first=0)
    figure.suptitle(title, size=11)
    figure.colorbar(image, ax=axes, pad=0.02, label="learning rate")
    return figure


def coverage_figure(covered: dict[str, np.ndarray]) -> Figure:
    """What share of the tokens is known to a vocabulary of the n commonest words, n on a logarithmic scale.

    covered: name -> the shares for n = 1, 2, 3 and so on.
    """
    figure, axes = _axes(7, 3.4)
    for (name, shares), colour in zip(covered.items(), sns.color_palette("colorblind", len(covered)), strict=True):
        axes.plot(np.arange(1, len(shares) + 1), shares, color=colour, linewidth=1.6, label=name)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="words in the vocabulary", ylabel="share of the tokens it knows")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(color="0.9")
    axes.set_title("Tokens known to a vocabulary")
    axes.legend(frameon=False, loc="lower right")
    return figure


def perplexities_figure(courses: dict[str, Sequence[float]], title: str) -> Figure:
    """The perplexity of language models on the same texts after each epoch, on a logarithmic scale.

    courses: name -> perplexities, the first one before any training.
    """
    figure, axes = _axes(7, 3.4)
    for (name, course), colour in zip(courses.items(), sns.color_palette("colorblind", len(courses)), strict=True):
        axes.plot(range(len(course)), course, "o-", color=colour, markersize=4, linewidth=1.6, label=name)
    lowest, highest = (of(map(of, courses.values())) for of in (min, max))
    axes.set(yscale="log", ylim=(lowest / 1.2, highest * 1.2), xlabel="epochs", ylabel="perplexity on validation")
    ticks = [digit * 10**power for power in range(7) for digit in (1, 2, 3, 5, 7)]
    axes.set_yticks([tick for tick in ticks if lowest / 1.2 <= tick <= highest * 1.2])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color="0.9")
    axes.set_title(title)
    axes.legend(frameon=False, loc="upper right")
    return figure


def lines_figure(lines: pd.DataFrame, ylabel: str, title: str) -> Figure:
    """A line a column over the table's index, whose name says what it counts."""
    figure, axes = _axes(7, 3.4)
    for (name, line), colour in zip(lines.items(), sns.color_palette("colorblind", lines.shape[1]), strict=True):
        axes.plot(lines.index, line, "o-", color=colour, markersize=3, linewidth=1.6, label=name)
    axes.set(xlabel=lines.index.name, ylabel=ylabel)
    axes.margins(x=0.02)
    axes.grid(color="0.9")
    axes.set_title(title)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure at 150 dots an inch, byte for byte the same for the same figure."""
    figure.savefig(path, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})


class _Shown(Figure):
    """A Figure that a notebook shows, without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
        return file.getvalue()


def _axes(width: float, height: float, rows: int = 1, columns: int = 1, **subplots) -> tuple[Figure, Axes]:
    """A figure of our style (sizes in inches) and its axes, without pyplot, which would keep every figure alive."""
    with rc_context({**sns.axes_style("ticks"), "font.family": [FONT], "font.size": 10, "axes.titlesize": 11}):
        figure = _Shown(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, **subplots)
    for one in np.ravel(axes):
        sns.despine(ax=one)
    return figure, axes


def _write_counts(axes: Axes, matrix: np.ndarray, shares: np.ma.MaskedArray) -> None:
    """The count in each cell, with the share of the row below it where there is room."""
    with_share = len(matrix) <= 8
    size = float(np.interp(len(matrix), [2, 8, MAX_COUNTED_CLASSES], [11, 9, 7.5]))
    for (row, column), count in np.ndenumerate(matrix):
        share = shares.filled(0)[row, column]
        text = f"{count:,}\n{share:.1%}" if with_share and count else f"{count:,}"
        colour = "white" if share > 0.55 else "0.15" if count else "0.6"
        axes.text(column, row, text, ha="center", va="center", size=size, color=colour)


def _mark_phases(axes: Axes, phases: list[str], first: float = 0.5) -> None:
    """A dotted line where a phase of the training begins, and its name above the axes. first: where the first one does."""
    for index, phase in enumerate(phases):
        if index and phase == phases[index - 1]:
            continue
        start = index + first
        if index:
            axes.axvline(start, color="0.75", linestyle=":", linewidth=1)
        axes.annotate(
            _plain(_shortened(phase)),
            (start, 1),
            (2, 3),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            rotation=50,  # steep enough for phases of one epoch among many
            size=7.5,
            color=GREY,
        )


def _drawable_labels(labels: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Class names as a figure can show them, the font families to show them in, and a note if some cannot be shown.

    A name with a character that no installed font holds becomes the number of the class, counted from 1.
    """
    families, hidden = _fonts_for(labels)
    names = [_plain(_shortened(label)) for label in labels]
    for index in hidden:
        names[index] = f"class {index + 1}"
    if not hidden:
        return names, families, []
    log.info("No installed font can show some class names (%d); the figure has their numbers instead.", len(hidden))
    return names, families, ["numbered where no font has the name"]


def undrawable(labels: list[str]) -> list[int]:
    """The indices of the class names that figures show as numbers, since no installed font has all their characters."""
    return _fonts_for(labels)[1]


def _fonts_for(labels: list[str]) -> tuple[list[str], list[int]]:
    """Font families that hold the class names, and the indices of the names that some character is lacking for."""
    families, missing = _font_families({character for label in labels for character in label if not character.isspace()})
    return families, [index for index, label in enumerate(labels) if missing & set(label)]


def _font_families(characters: set[str]) -> tuple[list[str], set[str]]:
    """Installed fonts that together hold the characters, our own first, and the characters that none of them holds."""
    families = [FONT]
    missing = characters - _characters_of(findfont(FONT))
    for entry in _installed_fonts():
        if not missing:
            break
        # Last Resort holds a box for every character there is.
        if entry.name in families or entry.name.startswith("Last Resort"):
            continue
        held = missing & _characters_of(entry.fname)
        if held:
            families.append(entry.name)
            missing -= held
    return families, missing


def _installed_fonts() -> Iterator[FontEntry]:
    """The fonts that matplotlib found when it first ran on this machine, then those that have come since."""
    known = list(fontManager.ttflist)
    yield from known
    for file in sorted(set(findSystemFonts()) - {entry.fname for entry in known}):
        with suppress(RuntimeError, OSError):  # one that matplotlib cannot read
            fontManager.addfont(file)
    yield from fontManager.ttflist[len(known) :]


def _characters_of(font_file: str) -> set[str]:
    try:
        return {chr(code) for code in get_font(font_file).get_charmap()}
    except (RuntimeError, OSError):  # a font that matplotlib lists and cannot read, such as one of coloured bitmaps
        return set()


def _shortened(name: str) -> str:
    """One line of at most MAX_LABEL_LENGTH characters, keeping both ends, where class names differ."""
    name = " ".join(name.split())
    if len(name) <= MAX_LABEL_LENGTH:
        return name
    tail = MAX_LABEL_LENGTH // 3
    return f"{name[: MAX_LABEL_LENGTH - tail - 1]}…{name[-tail:]}"


def _plain(name: str) -> str:
    """The name with its dollar signs escaped, which matplotlib would take for formulas."""
    return name.replace("$", r"\$")
