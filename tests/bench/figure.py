"""The figure of a comparison with plain fastai, and with the processor's limit."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.jobs import JOBS


def draw(results: list[dict], path: Path) -> None:
    """A bar per job: how many times as fast as plain fastai, and which share of the limit."""
    has_limit = any(result.get("limit") for result in results)
    size = (11 if has_limit else 8, 0.55 * len(results) + 1.4)
    figure = Figure(figsize=size, layout="constrained")
    widths = [2.2, 1] if has_limit else [1]
    left, *right = figure.subplots(
        1, len(widths), sharey=True, squeeze=False, width_ratios=widths
    )[0]
    _draw_ratios(left, results)
    if right:
        _draw_shares(right[0], results)
    for axes in (left, *right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right")
    m = results[-1]["machine"]
    figure.suptitle(
        f"{m['processor']}, {m['threads']} threads, {m['precision']}, torch {m['torch']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


def _draw_ratios(axes: Axes, results: list[dict]) -> None:
    names = [JOBS[r["job"]].label for r in results]
    axes.barh(names, [r["ratio"] for r in results], color="#4c72b0", height=0.6)
    for i, r in enumerate(results):
        goal = JOBS[r["job"]].times_plain
        _mark(axes, i, goal)
        axes.plot([min(r["ratios"]), max(r["ratios"])], [i, i], color="#222222", linewidth=1.2)
        digits = 1 if r["ours_per_s"] < 100 else 0
        unit = f"{r['plain_per_s']:,.{digits}f} → {r['ours_per_s']:,.{digits}f} {r['counted']}/s"
        axes.text(
            max(*r["ratios"], goal or 0) + 0.15,
            i,
            f"{r['ratio']:.1f}×  ({unit})",
            va="center",
            fontsize=9,
        )
    reached = max(max(*r["ratios"], JOBS[r["job"]].times_plain or 0) for r in results)
    axes.set_xlim(0, reached * 1.6)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as plain fastai (bar: median of pairs, line: all of them)")


def _draw_shares(axes: Axes, results: list[dict]) -> None:
    for i, r in enumerate(results):
        _mark(axes, i, JOBS[r["job"]].of_limit)
        limit = r.get("limit")
        if not limit:
            axes.text(0.02, i, "none", va="center", fontsize=9, color="#777777")
            continue
        shares = limit["shares"]
        axes.barh(i, limit["share"], color="#55a868", height=0.6)
        axes.plot([min(shares), max(shares)], [i, i], color="#222222", linewidth=1.2)
        axes.text(0.02, i, f"{limit['share']:.0%}", va="center", fontsize=9, color="white")
    axes.set_xlim(0, 1.05)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlabel("of the limit of its own products")


def _mark(axes: Axes, row: int, goal: float | None) -> None:
    if goal is not None:
        named = any(line.get_label() == "goal" for line in axes.lines)
        label = None if named else "goal"
        axes.plot([goal, goal], [row - 0.38, row + 0.38], color="black", label=label)
