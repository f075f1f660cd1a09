"""The curves of several runs' trainings, over each other."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ulmfit_app.evaluation.drawing import colours, drawable_labels, make_axes

MAX_COLOURED = 9  # that readers can tell apart; the rest is grey
_GREY_AT = 7  # in seaborn's palette
# What is drawn beside the loss, where the histories have it, and what it is called.
_METRICS = {
    "perplexity": "perplexity on validation",
    "accuracy": "accuracy on validation",
    "macro_f1": "macro F1 on validation",
    "average_precision": "mean average precision on validation",
}
_SHARES = ("accuracy", "macro_f1", "average_precision")


def runs_figure(histories: Mapping[str, pd.DataFrame], named: Sequence[str], title: str) -> Figure:
    """Validation losses and metrics by epoch, one line per run.

    Args:
        histories: name of the run -> one row per epoch of all phases; columns valid_loss (nats)
            and some metrics.
        named: the runs that have a colour and a name, at most MAX_COLOURED; the others are grey.
            A run has the same colour in all figures that are given the same ones.
        title: of the figure.
    """
    metrics = [name for name in _METRICS if any(name in each for each in histories.values())]
    if "perplexity" in metrics:  # the accuracy of a language model says the same
        metrics = ["perplexity"]
    panels = {"valid_loss": "validation loss (nats)"} | {name: _METRICS[name] for name in metrics}
    figure, all_axes = make_axes(4.2 * len(panels), 4.2, columns=len(panels))
    coloured = [one for i, one in enumerate(colours(MAX_COLOURED + 1)) if i != _GREY_AT]
    palette = dict(zip(named, coloured, strict=False))
    shown, families, notes = drawable_labels(list(named))
    labels = dict(zip(named, shown, strict=True))
    for axes, (column, unit) in zip(np.ravel(all_axes), panels.items(), strict=True):
        for name in sorted(histories, key=lambda name: name in palette):  # grey ones below
            _draw(axes, histories[name], column, palette.get(name), labels.get(name))
        axes.set(xlabel="epoch, all phases", ylabel=unit)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if column in _SHARES:
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    drawn = [lines[labels[name]] for name in named if labels[name] in lines]
    more = len(set(histories) - set(named))
    legend = figure.legend(
        handles=drawn,
        loc="outside lower center",
        ncols=min(4, len(drawn)) or 1,
        fontsize=8.5,
        frameon=False,
        title=f"grey: {more} more" if more else None,
        title_fontsize=8.5,
    )
    for one in legend.get_texts():
        one.set_fontfamily(families)
    figure.suptitle(". ".join([title, *notes]))
    return figure


def _draw(
    axes: Axes, history: pd.DataFrame, column: str, colour: tuple | None, label: str | None
) -> None:
    if column not in history:
        return
    epochs = np.arange(1, len(history) + 1)
    how = {"color": colour, "label": label} if colour else {"color": "0.8", "label": "_other"}
    axes.plot(epochs, history[column], "o-", markersize=3.5, linewidth=1.3, **how)
