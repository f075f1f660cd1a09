"""What all figures share: colours, fonts, labels that fit.

seaborn brings pyplot along, which an application that only predicts must not get from us. So it is
imported where a figure is drawn.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, findfont, findSystemFonts, fontManager, get_font

log = logging.getLogger(__name__)

BLUE, ORANGE = "#0173b2", "#d55e00"  # the first and the fourth of seaborn's palette colorblind
GREY = "0.45"
# matplotlib brings it along, so that a figure looks the same on every machine.
FONT = "DejaVu Sans"
MAX_COUNTED_CLASSES = 20  # more cells than 20 x 20 have no room for a legible count
MAX_TICK_LABELS = 40
MAX_LABEL_LENGTH = 24  # characters


# -------------------------------------------------------------------------------- figures and axes
def save_png(figure: Figure, path: Path) -> None:
    """Write a figure at 150 dots per inch, byte for byte the same for the same figure."""
    figure.savefig(path, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})


class _Shown(Figure):
    """A Figure that a notebook shows, without pyplot; where no picture is shown, its words are."""

    def __repr__(self) -> str:
        return describe_figure(self)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
        return file.getvalue()


def describe_figure(figure: Figure) -> str:
    """What a figure shows, in words: title, axes, and the ends of each line that has a name.

    Args:
        figure: the figure.

    Returns:
        One line, for readers who do not see the picture.
    """
    said = [figure.get_suptitle()]
    for axes in figure.axes:
        about = [
            axes.get_title(),
            " by ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel()))),
        ]
        for line in axes.lines:
            y = np.asarray(line.get_ydata(), float)
            if not line.get_label().startswith("_") and len(y):
                about.append(f"{line.get_label()} from {y[0]:.3g} to {y[-1]:.3g}")
        about += [text.get_text() for text in axes.texts]
        said.append("; ".join(" ".join(one.split()) for one in about if one))
    return "Figure. " + ". ".join(filter(None, said)) + "."


def make_axes(
    width: float, height: float, rows: int = 1, columns: int = 1, **subplots
) -> tuple[Figure, Axes]:
    """A figure in our style and its axes, not known to pyplot, which would keep it alive.

    Args:
        width: inches.
        height: inches.
        rows: of axes.
        columns: of axes.
        subplots: what Figure.subplots takes.

    Returns:
        The figure, and its axes: one, or an array of them.
    """
    import seaborn as sns

    with rc_context(
        {**sns.axes_style("ticks"), "font.family": [FONT], "font.size": 10, "axes.titlesize": 11}
    ):
        figure = _Shown(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, **subplots)
    for one in np.ravel(axes):
        sns.despine(ax=one)
    return figure, axes


def colours(n: int, palette: str = "colorblind") -> list:
    """n colours of one of seaborn's palettes, which readers can tell apart."""
    import seaborn as sns

    return sns.color_palette(palette, n)


def colour_map(palette: str) -> Colormap:
    """One of seaborn's palettes without steps."""
    import seaborn as sns

    return sns.color_palette(palette, as_cmap=True)


def write_counts(axes: Axes, matrix: np.ndarray, shares: np.ma.MaskedArray) -> None:
    """Write the count into each cell, with the share of the row below it where there is room.

    Args:
        axes: that show the matrix, one cell per unit.
        matrix: counts, [n_classes, n_classes].
        shares: of the row, the same shape.
    """
    with_share = len(matrix) <= 8
    size = float(np.interp(len(matrix), [2, 8, MAX_COUNTED_CLASSES], [11, 9, 7.5]))
    for (row, column), count in np.ndenumerate(matrix):
        share = shares.filled(0)[row, column]
        text = f"{count:,}\n{share:.1%}" if with_share and count else f"{count:,}"
        colour = "white" if share > 0.55 else "0.15" if count else "0.6"
        axes.text(column, row, text, ha="center", va="center", size=size, color=colour)


def mark_phases(axes: Axes, phases: list[str], first: float = 0.5) -> None:
    """Draw a dotted line where a phase of the training begins, and write its name above the axes.

    Args:
        axes: with epochs from left to right.
        phases: the phase of each epoch.
        first: where the first epoch begins.
    """
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


# ------------------------------------------------------------------------------------- class names
def drawable_labels(labels: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Class names as a figure can show them.

    A name with a character that no installed font holds becomes the number of the class, counted
    from 1.

    Args:
        labels: the class names, in order.

    Returns:
        What to write for each; the font families to write it in; a note if some became numbers.
    """
    families, hidden = _fonts_for(labels)
    names = [_plain(_shortened(label)) for label in labels]
    for index in hidden:
        names[index] = f"class {index + 1}"
    if not hidden:
        return names, families, []
    log.info(
        "No installed font can show some class names (%d); the figure has their numbers instead.",
        len(hidden),
    )
    return names, families, ["numbered where no font has the name"]


def undrawable(labels: list[str]) -> list[int]:
    """The indices of the class names that figures show as numbers: no installed font has them."""
    return _fonts_for(labels)[1]


def _fonts_for(labels: list[str]) -> tuple[list[str], list[int]]:
    """Font families that hold the class names, and the indices of the names that none can draw."""
    families, missing = _font_families(
        {character for label in labels for character in label if not character.isspace()}
    )
    return families, [index for index, label in enumerate(labels) if missing & set(label)]


def _font_families(characters: set[str]) -> tuple[list[str], set[str]]:
    """Installed fonts that together hold the characters, our own first; the characters in none."""
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
    """Fonts that matplotlib found when it first ran on this machine, then those added since."""
    known = list(fontManager.ttflist)
    yield from known
    for file in sorted(set(findSystemFonts()) - {entry.fname for entry in known}):
        with suppress(RuntimeError, OSError):  # one that matplotlib cannot read
            fontManager.addfont(file)
    yield from fontManager.ttflist[len(known) :]


def _characters_of(font_file: str) -> set[str]:
    try:
        return {chr(code) for code in get_font(font_file).get_charmap()}
    except (RuntimeError, OSError):
        # matplotlib lists fonts that it cannot read, such as those of coloured bitmaps.
        return set()


def _shortened(name: str) -> str:
    """One line of at most MAX_LABEL_LENGTH characters with both ends, where class names differ."""
    name = " ".join(name.split())
    if len(name) <= MAX_LABEL_LENGTH:
        return name
    tail = MAX_LABEL_LENGTH // 3
    return f"{name[: MAX_LABEL_LENGTH - tail - 1]}…{name[-tail:]}"


def _plain(name: str) -> str:
    """The name with its dollar signs escaped, which matplotlib would take for formulas."""
    return name.replace("$", r"\$")
