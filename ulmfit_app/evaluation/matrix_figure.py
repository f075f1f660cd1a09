"""A matrix of labels against labels, such as a confusion matrix."""

import math

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ulmfit_app.evaluation.drawing import (
    MAX_COUNTED_CLASSES,
    MAX_TICK_LABELS,
    colour_map,
    drawable_labels,
    make_axes,
    write_counts,
)
from ulmfit_app.evaluation.messages import say
from ulmfit_app.evaluation.scripts import width_of


def matrix_figure(
    matrix: np.ndarray,
    support: np.ndarray,
    labels: list[str],
    title: str,
    xlabel: str,
    ylabel: str,
    of: str,
) -> Figure:
    """Counts, coloured by their share of the row's support.

    Up to 20 labels each cell shows its count. Beyond, colours only, on a square-root scale.

    Args:
        matrix: counts, [n_labels, n_labels].
        support: what the counts of each row are shares of, [n_labels].
        labels: names of the rows and columns.
        title: of the figure.
        xlabel, ylabel: what columns and rows are.
        of: what the shares are.
    """
    n_labels, support = len(labels), support[:, None]
    # A label without texts has no shares; its row stays grey.
    shares = np.ma.masked_invalid(
        np.divide(matrix, support, out=np.full(matrix.shape, np.nan), where=support > 0)
    )
    counted = n_labels <= MAX_COUNTED_CLASSES
    side = float(np.interp(n_labels, [2, MAX_COUNTED_CLASSES, MAX_TICK_LABELS], [3.4, 8, 7.5]))

    names, families, note = drawable_labels(labels, lines=2 if counted else 1)
    size = 9 if counted else 8
    columns = max(width_of(line) for name in names for line in name.split("\n"))
    longest = columns * size / 120  # inches, roughly
    horizontal = counted and longest * n_labels < side
    figure, axes = make_axes(side + longest + 1.5, side + (0.9 if horizontal else longest + 0.8))
    norm = PowerNorm(gamma=1 if counted else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap=colour_map("Blues").with_extremes(bad="0.85"), norm=norm)
    if counted:
        write_counts(axes, matrix, shares)
    step = math.ceil(n_labels / MAX_TICK_LABELS)
    shown, written = range(0, n_labels, step), dict(fontsize=size, family=families)
    axes.set_xticks(shown, names[::step], rotation=0 if horizontal else 90, **written)
    axes.set_yticks(shown, names[::step], **written)
    axes.tick_params(length=0)
    notes = ([say("1 in {step} is named", step=step)] if step > 1 else []) + note
    suffix = f" ({'; '.join(notes)})" if notes else ""
    axes.set(xlabel=xlabel + suffix, ylabel=ylabel + suffix, title=title)
    bar = figure.colorbar(
        image, ax=axes, fraction=0.046, pad=0.03, format=PercentFormatter(1, decimals=0)
    )
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1] if counted else [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.set_label(of)
    bar.outline.set_visible(False)
    return figure
