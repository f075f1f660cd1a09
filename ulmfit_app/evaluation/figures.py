"""Pictures of what the numbers mean. Each function returns a matplotlib Figure and leaves no global state behind.

Texts on a figure are class names and counts only; `probabilities` and `truth` are as in metrics.
"""

import math

import numpy as np
import pandas as pd
import seaborn as sns
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
    _axes,
    _drawable_labels,
    _mark_phases,
    _write_counts,
)
from ulmfit_app.evaluation.metrics import (
    N_BINS,
    accuracy_interval,
    calibration_bins,
    expected_calibration_error,
)


def confusion_figure(matrix: np.ndarray, labels: list[str]) -> Figure:
    """Confusion matrix: a row a true class, a column a predicted class, coloured by the share of the row.

    matrix: [n_classes, n_classes] counts. Up to 20 classes each cell shows its count. Beyond, colours only, on a
    square-root scale, since the errors of many classes are spread so thin that a linear one shows the diagonal alone.
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
    axes.set_xticks(
        shown, names[::step], fontsize=size, family=families, rotation=0 if horizontal else 90
    )
    axes.set_yticks(shown, names[::step], fontsize=size, family=families)
    axes.tick_params(length=0)
    notes = ([f"1 in {step} is named"] if step > 1 else []) + note
    suffix = f" ({'; '.join(notes)})" if notes else ""
    axes.set(xlabel="predicted class" + suffix, ylabel="true class" + suffix)
    axes.set_title(f"Confusion matrix, n = {matrix.sum():,}")
    bar = figure.colorbar(
        image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1, decimals=0)
    )
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
    probabilities: np.ndarray,
    truth: np.ndarray,
    before: np.ndarray | None = None,
    n_bins: int = N_BINS,
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
    upper.plot(
        [0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="accuracy = confidence"
    )
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
    lower.bar(
        bins["lower"],
        bins["n"],
        width=widths,
        align="edge",
        color=BLUE,
        alpha=0.45,
        edgecolor="white",
    )
    for _, row in bins.iterrows():
        middle = (row["lower"] + row["upper"]) / 2
        count = lower.annotate(
            f"{int(row['n']):,}",
            (middle, row["n"]),
            (0, 2),
            textcoords="offset points",
            ha="center",
        )
        count.set(size=8, path_effects=[withStroke(linewidth=2.5, foreground="white")])
    for other in binned[1:]:
        lower.hlines(
            other["n"], other["lower"], other["upper"], color=ORANGE, linewidth=1.6, zorder=1.5
        )
    lower.set(xlabel="confidence (mean in the bin; the bars show the bins)", ylabel="texts")
    lower.set(
        xlim=(min(one["lower"].min() for one in binned), 1.005),
        ylim=(0, max(one["n"].max() for one in binned) * 1.3),
    )
    lower.xaxis.set_major_formatter(PercentFormatter(1))
    lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    lower.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return figure


def risk_coverage_figure(
    probabilities: np.ndarray, truth: np.ndarray, thresholds: list[dict] = ()
) -> Figure:
    """Error among the answered texts against the share that is answered, the most confident first, with 95 % interval.

    thresholds: as calibration.before_and_after gives them; each is drawn where it lies on these texts, over a line at the
    error that was wanted of it.
    """
    curve = risk_coverage(probabilities, truth)
    # A picture is about a thousand dots wide.
    curve = curve.iloc[np.unique(np.linspace(0, len(curve) - 1, 400).astype(int))]
    low, high = np.transpose(
        [accuracy_interval(int(row.wrong), int(row.n)) for row in curve.itertuples()]
    )

    figure, axes = _axes(7, 3.8)
    axes.fill_between(
        curve["coverage"], low, high, color=BLUE, alpha=0.15, linewidth=0, label="95% interval"
    )
    axes.plot(
        curve["coverage"], curve["error"], color=BLUE, linewidth=1.6, label="error of the answered"
    )
    reached = [one for one in thresholds if one.get("test", {}).get("n")]
    for one, marker, colour in zip(
        reached, "osD^", sns.color_palette("flare", max(len(reached), 1)), strict=False
    ):
        test, wanted = one["test"], one["wanted_error"]
        at = f"confidence {one['threshold']:.5g} or more" if one["threshold"] else "all"
        axes.hlines(wanted, 0, 1, color=colour, linestyle=":", linewidth=1)
        axes.plot(
            test["coverage"], test["error"], marker, color=colour, markersize=7, linestyle="none", clip_on=False,
            label=f"{wanted:.0%} wanted: {at}",
        )  # fmt: skip
    top = max(1.3 * high[-1], *(1.2 * one["test"]["error"] for one in reached), 0.02)
    axes.set(
        xlabel="share of the texts that is answered",
        ylabel="error of the answered",
        xlim=(0, 1.005),
        ylim=(0, top),
    )
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
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set(ylim=(len(scores) - 0.5, -0.75), xlabel="accuracy, 95% interval")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(x=0.08)
    axes.grid(axis="x", color="0.9")
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"Accuracy on the same texts, n = {next(iter(scores.values()))['n']:,}")
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
        axes.plot(
            shares[split],
            places,
            marker,
            color=colour,
            markersize=8 if step == 1 else 3,
            label=split,
        )
    axes.set_yticks(places[::step], names[::step], family=families, fontsize=9)
    axes.tick_params(axis="y", length=0)
    notes = ([f"1 in {step} is named"] if step > 1 else []) + note
    suffix = f" (classes: {'; '.join(notes)})" if notes else ""
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel="share of the split" + suffix)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title(f"Classes, n = {int(counts.to_numpy().sum()):,}")
    axes.legend(
        handles=[bars, *axes.lines], frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
    )
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
    for (split, of_split), colour in zip(
        lengths.items(), sns.color_palette("colorblind", len(lengths)), strict=True
    ):
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
        xlabel="tokens a text",
        ylabel="share of the split",
    )
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_title(f"Lengths, n = {sum(map(len, lengths.values())):,}")
    axes.legend(frameon=False, loc="upper left")
    return figure
