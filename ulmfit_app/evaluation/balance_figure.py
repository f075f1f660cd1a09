"""The figure of what helps rare classes."""

import pandas as pd
from matplotlib.figure import Figure

from ulmfit_app.evaluation.drawing import BLUE, GREY, ORANGE, make_axes


def balance_figure(table: pd.DataFrame) -> Figure:
    """Macro F1 with 95 % intervals, one line per way, beside the errors of calibration.

    Args:
        table: what experiments.balance.run_balance returns; the others are compared with the first
            way.
    """
    figure, (left, right) = make_axes(9.5, 1.4 + 0.42 * len(table), columns=2, sharey=True)
    for height, row in enumerate(table.itertuples()):
        colour = GREY if height else BLUE
        ends = [row.macro_f1_low, row.macro_f1_high]
        left.plot(ends, [height] * 2, color=colour, linewidth=2, marker="|")
        left.plot(row.macro_f1, height, "o", color=colour, markersize=5)
        right.plot(
            [row.calibration_error_before, row.calibration_error],
            [height] * 2,
            color="0.8",
            linewidth=1.5,
            zorder=1,
        )
    heights = range(len(table))
    before, after = table["calibration_error_before"], table["calibration_error"]
    right.plot(before, heights, "o", color=ORANGE, markersize=5, fillstyle="none", label="before")
    right.plot(after, heights, "o", color=ORANGE, markersize=5, label="after temperature")
    left.set_yticks(heights, table["balance"], fontsize=9)
    left.set(ylim=(len(table) - 0.5, -0.5), xlabel="macro F1 (%), with 95% interval")
    right.set(xlabel="expected calibration error (%)")
    right.set_xlim(left=0)
    right.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in (left, right):
        axes.grid(axis="x", color="0.9")
        axes.tick_params(axis="y", length=0)
    figure.suptitle(f"What helps rare classes, n = {int(table['n'].max()):,}", size=11)
    return figure
