"""What the course's diagrams are made of: boxes, cells, arrows and texts, measured in inches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from ulmfit_app.evaluation.drawing import BLUE, GREY, ORANGE, drawable_text, make_axes

INK = "0.15"
SMALL, NORMAL = 10, 11  # points; smaller letters cannot be read on a phone
WIDTH = 6.6  # inches of a canvas


@dataclass(frozen=True)
class Box:
    """A rectangle; its sides' middles are where arrows end."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height

    @property
    def bottom(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y


def make_canvas(height: float, title: str, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure with a title and empty axes, one unit of which is an inch."""
    figure, axes = make_axes(width, height + 0.35)
    figure.get_layout_engine().set(w_pad=0, h_pad=0)
    axes.set(xlim=(-0.02, width + 0.02), ylim=(0, height), aspect="equal")
    axes.set_axis_off()
    axes.set_title(title)
    return figure, axes


def tint(colour: str, share: float = 0.16) -> tuple[float, ...]:
    """The colour, made so light that text on it can be read."""
    return tuple(1 - share * (1 - np.array(to_rgb(colour))))


def draw_box(axes: Axes, box: Box, text: str, colour: str = GREY, **style) -> Box:
    """A box with rounded corners and its text in the middle."""
    axes.add_patch(
        FancyBboxPatch(
            (box.x, box.y),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=0.07",
            facecolor=tint(colour),
            edgecolor=colour,
            linewidth=1.3,
            linestyle=style.pop("linestyle", "-"),
        )
    )
    write(axes, (box.x + box.width / 2, box.y + box.height / 2), text, **style)
    return box


def draw_cells(
    axes: Axes, start: tuple[float, float], texts: Iterable[str], widths: Iterable[float], colours
) -> list[Box]:
    """Boxes side by side, as the cells of a table's row."""
    (x, y), boxes = start, []
    for text, width, colour in zip(texts, widths, colours, strict=True):
        box = Box(x, y, width, 0.3)
        face = tint(colour)
        axes.add_patch(Rectangle((x, y), width, 0.3, facecolor=face, edgecolor=colour))
        write(axes, (x + width / 2, y + 0.15), text, size=SMALL)
        boxes.append(box)
        x += width
    return boxes


def write(axes: Axes, place: tuple[float, float], text: str, **style) -> None:
    """A text, whose dollar signs are no formulas."""
    text, families = drawable_text(text)
    look = dict(ha="center", va="center", size=NORMAL, color=INK, family=families)
    axes.text(*place, text, parse_math=False, **{**look, **style})


def draw_arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK
) -> None:
    """An arrow from one side of a box to that of another."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            shrinkA=0,
            shrinkB=0,
            color=colour,
            linewidth=1.2,
        )
    )


def draw_grid(
    axes: Axes, start: tuple[float, float], rows: Sequence[Sequence[str]], width: float, name: str
) -> None:
    """Two rows of cells, the first on top, and their name at the left edge."""
    x, y = start
    for index, (row, colour) in enumerate(zip(rows, (BLUE, ORANGE), strict=True)):
        place = x, y + 0.3 * (1 - index)
        draw_cells(axes, place, row, [width] * len(row), [colour] * len(row))
    write(axes, (0, y + 0.3), name, ha="left", weight="bold")


def draw_bar(
    axes: Axes,
    start: tuple[float, float],
    scale: float,
    parts: Iterable[tuple[int, str, str, str]],
    height: float = 0.4,
) -> None:
    """Parts (number, what, colour, hatch) side by side, each `scale` inches per text wide."""
    x, y = start
    for n, _, colour, hatch in parts:
        look = dict(facecolor=tint(colour, 0.35), edgecolor=colour, hatch=hatch)
        if n:
            axes.add_patch(Rectangle((x, y), scale * n, height, **look))
        x += scale * n
