"""Figures of a report. Each function returns a Figure and leaves no global state behind.

Texts on a figure are class names and counts only; `probabilities` and `truth` are as in metrics.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ulmfit_app.evaluation.calibration import risk_coverage
from ulmfit_app.evaluation.drawing import BLUE, GREY, ORANGE, colours, make_axes, mark_phases
from ulmfit_app.evaluation.headline import spelled
from ulmfit_app.evaluation.matrix_figure import matrix_figure
from ulmfit_app.evaluation.messages import known, say, translated
from ulmfit_app.evaluation.metrics import (
    N_BINS,
    accuracy_interval,
    calibration_bins,
)
from ulmfit_app.evaluation.reliability_figure import draw_reliability

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
    support = matrix.sum(axis=1)
    words = {
        "title": say("Confusion matrix, n = {n:,}", n=int(matrix.sum())),
        "xlabel": say("predicted class"),
        "ylabel": say("true class"),
        "of": say("share of the true class"),
    }
    return matrix_figure(matrix, support, labels, **words)


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
    shown = [probabilities]
    if before is not None and not np.array_equal(before, probabilities):
        shown.append(before)
    words = {
        "title": say("Accuracy by confidence, n = {n:,}", n=len(truth)),
        "ideal": say("accuracy = confidence"),
        "ylabel": say("accuracy in the bin"),
        "xlabel": say("confidence (mean in the bin; the bars show the bins)"),
        "counted": say("texts"),
    }
    return draw_reliability([calibration_bins(one, truth, n_bins) for one in shown], **words)


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
    """Losses, scores and, for a language model, perplexity after each epoch of all phases.

    Args:
        history: one row per epoch, in the order they ran; columns phase, train_loss, valid_loss
            (nats), some of accuracy, macro_f1 and average_precision, and perhaps one that begins
            with PERPLEXITY and says of what.
        title: of the figure.
    """
    losses = {"train_loss": say("training"), "valid_loss": say("validation")}
    panels, scores = (
        [(say("loss (nats)"), losses)],
        {
            "accuracy": say("accuracy on validation"),
            "macro_f1": say("macro F1 on validation"),
            "average_precision": say("mean average precision on validation"),
        },
    )
    panels += [(unit, {column: None}) for column, unit in scores.items() if column in history]
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
    if "accuracy" in history:
        all_axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    figure.suptitle(title)
    return figure


def comparison_figure(scores: dict[str, dict], of: str = "accuracy") -> Figure:
    """One of headline.measures with its 95 % interval, one line per model, the first on top.

    Args:
        scores: name -> what metrics.score returns, or multilabel.score_sets.
        of: what of it: accuracy, macro_f1 or mean_cost, which have an interval.
    """
    n = next(iter(scores.values()))["n"]
    title, unit = {
        "accuracy": (
            say("Accuracy on the same texts, n = {n:,}", n=n),
            say("accuracy, 95% interval"),
        ),
        "macro_f1": (
            say("Macro F1 on the same texts, n = {n:,}", n=n),
            say("macro F1, 95% interval"),
        ),
        "mean_cost": (
            say("Mean cost on the same texts, n = {n:,}", n=n),
            say("mean cost per text, 95% interval"),
        ),
    }[of]
    figure, axes = make_axes(7, 1.1 + 0.42 * len(scores))
    for height, numbers in enumerate(scores.values()):
        (low, high), value = numbers[f"{of}_ci95"], numbers[of] or 0.0
        colour = BLUE if height == 0 else GREY
        axes.plot(
            [low, high], [height, height], color=colour, linewidth=2, marker="|", markersize=9
        )
        axes.plot(value, height, "o", color=colour, markersize=6)
        axes.annotate(
            spelled({of: value}, of),
            (value, height),
            (0, 8),
            textcoords="offset points",
            ha="center",
        )
    axes.set_yticks(range(len(scores)), list(map(translated, scores)))
    axes.set(ylim=(len(scores) - 0.5, -0.75), xlabel=unit)
    if of == "accuracy":
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.margins(x=0.08)
    axes.grid(axis="x", color="0.9")
    axes.tick_params(axis="y", length=0)
    axes.set_title(title)
    return figure
