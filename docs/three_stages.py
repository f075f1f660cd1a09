"""Draw the three stages of ULMFiT, docs/three-stages.png: python docs/three_stages.py"""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ENCODER, WORDS, LABEL, TEXT = "#cfe2f3", "#d9ead3", "#fce5cd", "#f3f3f3"
LINE = "#444444"
LEFT, WIDTH, GAP = 0.1, 2.4, 1.05  # inches: the margin, a stage, between two stages
LAYERS = ("embeddings", "LSTM layer 1", "LSTM layer 2", "LSTM layer 3")
STAGES = (
    ("1  Pretrain", "general text\n(Wikipedia)", "softmax over words", WORDS, "the next word"),
    ("2  Fine-tune", "your texts,\nlabelled or not", "softmax over words", WORDS, "the next word"),
    ("3  Classify", "your labelled texts", "pooling + classifier", LABEL, "the label"),
)
HANDED_ON = ("the whole\nmodel", "the\nencoder\n(blue)")


def draw_box(axes: Axes, x: float, y: float, height: float, color: str, words: str) -> None:
    shape = "round,pad=0,rounding_size=0.07"
    axes.add_patch(
        FancyBboxPatch((x, y), WIDTH, height, shape, facecolor=color, edgecolor=LINE, lw=1)
    )
    axes.text(x + WIDTH / 2, y + height / 2, words, ha="center", va="center", fontsize=12)


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": LINE, "lw": 1.5})


def draw_stage(axes: Axes, x: float, stage: tuple[str, str, str, str, str]) -> None:
    """One column, from the text below to what the model predicts above."""
    title, text, head, color, predicts = stage
    middle = x + WIDTH / 2
    axes.text(middle, 4.75, title, ha="center", va="center", fontsize=15, weight="bold")
    axes.text(middle, 4.3, f"predicts {predicts}", ha="center", va="center", fontsize=12)
    draw_arrow(axes, (middle, 3.78), (middle, 4.14))
    draw_box(axes, x, 3.3, 0.46, color, head)
    for i, layer in enumerate(LAYERS):
        draw_box(axes, x, 1.22 + 0.5 * i, 0.46, ENCODER, layer)
    draw_arrow(axes, (middle, 0.8), (middle, 1.2))
    draw_box(axes, x, 0.14, 0.64, TEXT, text)


def draw() -> Figure:
    """The three stages side by side, with what each hands to the next."""
    figure = Figure(figsize=(10, 5.1), dpi=160)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 10), ylim=(0, 5.1))
    axes.set_axis_off()
    for i, stage in enumerate(STAGES):
        draw_stage(axes, LEFT + (WIDTH + GAP) * i, stage)
    for i, what in enumerate(HANDED_ON):
        left = LEFT + WIDTH + (WIDTH + GAP) * i
        draw_arrow(axes, (left + 0.08, 2.2), (left + GAP - 0.08, 2.2))
        axes.text(left + GAP / 2, 2.32, what, ha="center", va="bottom", fontsize=12)
    draw_arrow(axes, (9.6, 3.76), (9.6, 1.22))
    axes.text(9.72, 2.49, "unfrozen from the top", rotation=270, va="center", fontsize=12)
    return figure


if __name__ == "__main__":
    out = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("three-stages.png")
    draw().savefig(out)
