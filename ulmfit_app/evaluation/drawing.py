"""What all figures share: colours, fonts, labels that fit.

seaborn brings pyplot along, which an application that only predicts must not get from us. So it is
imported where a figure is drawn.
"""

import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FixedFormatter, FuncFormatter, PercentFormatter
from PIL import Image

from ulmfit_app.evaluation.fonts import FONT, families_for, how_to_install
from ulmfit_app.evaluation.messages import known, say
from ulmfit_app.evaluation.scripts import shorten, width_of, wrap

log = logging.getLogger(__name__)

BLUE, ORANGE = "#0173b2", "#d55e00"  # the first and the fourth of seaborn's palette colorblind
GREY = "0.45"
MAX_COUNTED_CLASSES = 20  # more cells than 20 x 20 have no room for a legible count
MAX_TICK_LABELS = 40
MAX_LABEL_LENGTH = 24  # columns: a full-width character has two
MAX_SAID = 12  # names, rows and texts of axes, each, in a figure's words


# -------------------------------------------------------------------------------- figures and axes
def save_png(figure: Figure, path: Path) -> None:
    """Write a figure at 150 dots per inch, byte for byte the same for the same figure."""
    about = {"Software": None}
    with _in_fonts_that_have_it(figure):
        figure.savefig(path, format="png", dpi=150, bbox_inches="tight", metadata=about)


@contextmanager
def _in_fonts_that_have_it(figure: Figure) -> Iterator[None]:
    """While a figure is drawn: each text in fonts that have its characters.

    Those that no installed font has are drawn as boxes, which is said once.
    """
    written = [one for one in figure.findobj(Text) if not one.get_text().isascii()]
    families, missing = families_for("".join(one.get_text() for one in written))
    if len(families) > 1:
        for one in written:
            one.set_fontfamily(families)
    if missing:
        log.info(
            "No installed font has some characters of a figure (%d): boxes stand in their places. "
            "%s",
            len(missing),
            how_to_install(missing),
        )
    with warnings.catch_warnings():
        # matplotlib says it for each character and text.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


class _Shown(Figure):
    """A Figure that a notebook shows, without pyplot; where no picture is shown, its words are.

    Attributes:
        description: what it shows, in sentences; where it is empty, `describe_figure` makes some.
    """

    description = ""

    def __repr__(self) -> str:
        return describe_figure(self)

    def _repr_png_(self) -> bytes:
        drawn, file = io.BytesIO(), io.BytesIO()
        with _in_fonts_that_have_it(self):
            self.savefig(drawn, format="png", dpi=100, bbox_inches="tight")
        # A palette is enough for a figure, and makes a notebook's outputs a third of the size.
        Image.open(drawn).convert("RGB").quantize(128).save(file, "png", optimize=True)
        return file.getvalue()


def describe_figure(figure: Figure) -> str:
    """What a figure shows, in words, for readers who do not see the picture.

    Args:
        figure: the figure; where it has a `description`, that is said.

    Returns:
        One line: titles, and the description; without one, of each axes what is drawn over what,
        where the lines that have a name begin and end, the rest of the legend, and the texts.
    """
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    description = getattr(figure, "description", "")
    if description:
        said = [*titles[: 1 if titles[0] else None], description]
    else:
        said = [titles[0], *(_describe_axes(axes) for axes in figure.axes)]
    sentences = (" ".join(one.split()).removesuffix(".") for one in said)
    return ". ".join(["Figure", *filter(None, sentences)]) + "."


def _describe_axes(axes: Axes) -> str:
    """What one of a figure's axes shows, in sentences."""
    if axes.get_label() == "<colorbar>":
        return f"Colours: {axes.get_ylabel() or axes.get_xlabel()}"
    about = " by ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel())))
    rows = _named_rows(axes)
    drawn = {one.get_label(): one for one in axes.lines}
    # An errorbar's line has no name; it is the container's.
    drawn |= {
        one.get_label(): one[0] for one in axes.containers if isinstance(one, ErrorbarContainer)
    }
    said = [
        f"{label} {_say_ends(axes, line, rows)}".rstrip()
        for label, line in drawn.items()
        if label and not label.startswith("_")
    ]
    legend = axes.get_legend()
    named = [text.get_text() for text in legend.get_texts()] if legend else []
    said += [label for label in named if label not in drawn]
    written, free = {name: [] for name in rows.values()}, []
    for text in axes.texts:
        place = text.xy if isinstance(text, Annotation) else text.get_position()
        inside = getattr(text, "xycoords", "data") == "data"
        own = written.get(rows.get(place[1])) if inside else None
        (free if own is None else own).append(" ".join(text.get_text().split()))
    in_rows = [" ".join([name, *texts]) for name, texts in written.items()]
    lists = ("; ".join(_first(filter(None, one))) for one in (said, in_rows, free))
    return ". ".join(filter(None, (axes.get_title(), about, *lists))).replace(r"\$", "$")


def _named_rows(axes: Axes) -> dict[float, str]:
    """The names at the vertical axis by their heights, where they are words and not numbers."""
    if not isinstance(axes.yaxis.get_major_formatter(), FixedFormatter | FuncFormatter):
        return {}
    labels = [label.get_text() for label in axes.get_yticklabels()]
    names = dict(zip(axes.get_yticks(), labels, strict=True))
    return names if any(re.search(r"[^\W\d_]", name) for name in names.values()) else {}


def _say_ends(axes: Axes, line: Line2D, rows: dict[float, str]) -> str:
    """Where a line begins and ends, and how far it goes, in its axes' unit."""
    along, values = (axes.xaxis, line.get_xdata()) if rows else (axes.yaxis, line.get_ydata())
    try:
        values = np.asarray(values, float)
    except (TypeError, ValueError):  # words or dates
        return ""
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    percent = isinstance(along.get_major_formatter(), PercentFormatter)
    numbers = values[0], values[-1], values.min(), values.max()
    first, last, low, high = (f"{100 * one:.3g}%" if percent else f"{one:.3g}" for one in numbers)
    if low == high:
        return f"at {first}"
    ends = f"from {first} to {last}"
    return ends if {low, high} == {first, last} else f"{ends}, between {low} and {high}"


def _first(texts: Iterable[str]) -> list[str]:
    """The first texts, and how many there are beyond them."""
    texts = list(texts)
    more = len(texts) - MAX_SAID
    return [*texts[:MAX_SAID], f"and {more} more"] if more > 0 else texts


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
            _plain(_shortened(known(phase))),
            (start, 1),
            (2, 3),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            rotation=50,  # steep enough for phases of one epoch among many
            size=8.5,
            color=GREY,
        )


# ------------------------------------------------------------------------------------- class names
def drawable_labels(labels: list[str], lines: int = 1) -> tuple[list[str], list[str], list[str]]:
    """Class names as a figure can show them.

    A name with a character that no installed font holds becomes the number of the class, counted
    from 1.

    Args:
        labels: the class names, in order.
        lines: that a name may have, where it is written in full-width characters.

    Returns:
        What to write for each; the font families to write it in; a note if some became numbers.
    """
    families, hidden = _fonts_for(labels)
    names = [_plain(_shortened(label, lines)) for label in labels]
    for index in hidden:
        names[index] = say("class {number}", number=index + 1)
    if not hidden:
        return names, families, []
    _tell_hidden(frozenset(labels[index] for index in hidden))
    return names, families, [say("numbered where no font has the name")]


@lru_cache(maxsize=1)  # once, however many figures of a report have these names
def _tell_hidden(names: frozenset[str]) -> None:
    log.info(
        "No installed font can show some class names (%d); figures have their numbers instead. %s",
        len(names),
        how_to_install(set("".join(names))),
    )


def drawable_text(text: str) -> tuple[str, list[str]]:
    """A text as a figure can show it: characters that no installed font holds become boxes.

    Args:
        text: to be written.

    Returns:
        The text, and the font families to write it in.
    """
    families, missing = families_for(text)
    return "".join("□" if one in missing else one for one in text), families


def undrawable(labels: list[str]) -> list[int]:
    """The indices of the class names that figures show as numbers: no installed font has them."""
    return _fonts_for(labels)[1]


def _fonts_for(labels: list[str]) -> tuple[list[str], list[int]]:
    """Font families that hold the class names, and the indices of the names that none can draw."""
    families, missing = families_for("".join(labels))
    return families, [index for index, label in enumerate(labels) if missing & set(label)]


def _shortened(name: str, lines: int = 1) -> str:
    """A name of at most MAX_LABEL_LENGTH columns with both ends, where class names differ.

    One that has full-width characters may take several lines of so many.
    """
    name = " ".join(name.split())
    if lines == 1 or width_of(name) <= max(MAX_LABEL_LENGTH, len(name)):
        return shorten(name, MAX_LABEL_LENGTH)
    # A line is not filled where the next character must not begin one.
    most = lines * MAX_LABEL_LENGTH
    while len(wrap(shorten(name, most), MAX_LABEL_LENGTH)) > lines:
        most -= 1
    name = shorten(name, most)
    # As even as they can be: no character is left alone on the last line.
    ways = (wrap(name, width) for width in range(1, MAX_LABEL_LENGTH))
    fewest = wrap(name, MAX_LABEL_LENGTH)
    return "\n".join(next((way for way in ways if len(way) == len(fewest)), fewest))


def _plain(name: str) -> str:
    """The name with its dollar signs escaped, which matplotlib would take for formulas."""
    return name.replace("$", r"\$")
