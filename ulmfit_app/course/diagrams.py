"""Diagrams of the course: what happens where, drawn without a measured number.

Each function returns a Figure, whose `description` says in words what the diagram says.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from ulmfit_app.course.boxes import (
    INK,
    SMALL,
    WIDTH,
    Box,
    draw_arrow,
    draw_bar,
    draw_box,
    draw_cells,
    draw_grid,
    make_canvas,
    tint,
    write,
)
from ulmfit_app.evaluation.drawing import BLUE, GREY, ORANGE, make_axes

GREEN = "#029e73"  # the third of seaborn's palette colorblind
MAX_WORDS = 6  # of the unrolled LSTM
MAX_TOKENS = 13  # of the stream: two rows of six, and the last target


# -------------------------------------------------------------------------------- the whole method
def three_stages() -> Figure:
    """What ULMFiT's three stages learn from, and what each hands on (section 3, figure 1)."""
    figure, axes = make_canvas(3.55, "ULMFiT: three stages, one encoder")
    stages = [
        ("1  Pretraining", "general texts\nwithout labels", "head:\nnext word", BLUE),
        ("2  Fine-tuning", "texts of the task\nwithout labels", "head:\nnext word", BLUE),
        ("3  Classifier", "texts of the task\nwith labels", "new head:\nclass", ORANGE),
    ]
    width, step = 1.6, 2.5
    heads, encoders = [], []
    for i, (name, texts, head, colour) in enumerate(stages):
        x = i * step
        write(axes, (x + width / 2, 3.4), name, weight="bold")
        heads.append(draw_box(axes, Box(x, 2.6, width, 0.55), head, colour))
        what = "encoder:\nembeddings,\nLSTM layers"
        encoders.append(draw_box(axes, Box(x, 1.4, width, 0.85), what, GREEN))
        data = draw_box(axes, Box(x, 0.4, width, 0.6), texts)
        draw_arrow(axes, data.top, encoders[-1].bottom)
        draw_arrow(axes, encoders[-1].top, heads[-1].bottom)
    draw_arrow(axes, heads[0].right, heads[1].left, BLUE)
    for one, next_one in zip(encoders, encoders[1:], strict=False):
        draw_arrow(axes, one.right, next_one.left, GREEN)
    write(axes, (width + 0.45, 2.35), "all\nweights", size=SMALL)
    write(axes, (step + width + 0.45, 2.1), "encoder\nonly", size=SMALL)
    below = "Arrows to the right: weights with which the next stage starts."
    write(axes, (WIDTH / 2, 0.12), below, size=SMALL)
    figure.description = (
        "Stage 1, pretraining: a language model, which is an encoder (embeddings and LSTM layers) "
        "and a head that predicts the next word, learns from general texts without labels. It "
        "hands on all its weights. Stage 2, fine-tuning: the same model learns from the texts of "
        "the task, still without labels. It hands on its encoder only. Stage 3, classifier: the "
        "encoder gets a new head that predicts the class, and learns from texts of the task with "
        "labels."
    )
    return figure


# ------------------------------------------------------------------------------ what a model reads
def text_to_batches(text: str, tokens: list[str], ids: list[int]) -> Figure:
    """From a text to what a language model sees in one step (section 3.1).

    The stream of ids is cut into two rows, as text.batches.LanguageModelBatches does it; x is a
    window of them, and y the same window one token later.

    Args:
        text: as it was written.
        tokens: of the text, in order; the first ones that find room are drawn.
        ids: of the tokens, in the same order.

    Raises:
        ValueError: there are fewer than five tokens, or not as many ids as tokens.
    """
    if len(tokens) < 5 or len(tokens) != len(ids):
        raise ValueError(
            f"Expected at least 5 tokens, and an id for each. Found {len(tokens)} tokens and "
            f"{len(ids)} ids."
        )
    left = 0.75
    words, widths = _fit_tokens(tokens, ids, WIDTH - 0.25 - left)
    # The last token has no successor, so it is only ever a target.
    row = (len(words) - 1) // 2
    n, window = 2 * row + 1, (row + 1) // 2
    words, widths, numbers = words[:n], widths[:n], [str(int(one)) for one in ids[:n]]
    figure, axes = make_canvas(4.5, "From a text to a batch of the language model")
    for y, name in ((4.25, "text"), (3.55, "tokens"), (3.25, "ids")):
        write(axes, (0, y), name, ha="left", weight="bold")
    quoted = _shorten(text, 62)
    write(axes, (left, 4.25), quoted, ha="left")
    colours = [BLUE] * row + [ORANGE] * row + [GREY]
    cells = draw_cells(axes, (left, 3.4), words, widths, colours)
    draw_cells(axes, (left, 3.1), numbers, widths, colours)
    if len(tokens) > n:
        write(axes, (cells[-1].right[0] + 0.15, 3.4), "…")
    arrow_at, width = left + 0.15, max(widths)
    draw_arrow(axes, (arrow_at, 4.1), (arrow_at, 3.7))
    draw_arrow(axes, (arrow_at, 3.1), (arrow_at, 2.72))
    cut = f"a stream, here of {n} tokens, in two rows; the last token is only a target"
    write(axes, (left + 0.3, 2.91), cut, ha="left", size=SMALL)
    rows = [numbers[:row], numbers[row:-1]]
    draw_grid(axes, (left, 2.12), rows, width, "rows")
    frame = dict(fill=False, edgecolor=INK, linewidth=2.4)
    axes.add_patch(Rectangle((left, 2.12), window * width, 0.6, **frame))
    draw_arrow(axes, (arrow_at, 2.12), (arrow_at, 1.72))
    write(axes, (left + 0.3, 1.92), "the first window of each row", ha="left", size=SMALL)
    x, y = ([numbers[at : at + window] for at in (first, first + row)] for first in (0, 1))
    draw_grid(axes, (left, 1.12), x, width, "x")
    draw_grid(axes, (left, 0.3), y, width, "y")
    beside = left + window * width + 0.2
    write(axes, (beside, 1.42), "what the model reads", ha="left", size=SMALL)
    to_predict = "what it is to predict:\nthe same, one token later"
    write(axes, (beside, 0.6), to_predict, ha="left", size=SMALL)
    rows, x, y = (" and ".join(map(" ".join, one)) for one in (rows, x, y))
    figure.description = (
        f"The text: {quoted} Its first tokens: {' '.join(tokens[:n])}. Their ids are a stream, "
        f"cut into two rows: {rows}. The first window of each row is x, which the model reads: "
        f"{x}. It is to predict y, the same one token later: {y}."
    )
    return figure


def _fit_tokens(tokens: list[str], ids: list[int], room: float) -> tuple[list[str], list[float]]:
    """The first tokens, shortened, and the inches that each of them or its id needs."""
    words, widths = [], []
    for token, one in zip(tokens[:MAX_TOKENS], ids, strict=False):
        words.append(_shorten(token, 10))
        widths.append(max(0.3, 0.12 + 0.075 * max(len(words[-1]), len(str(one)))))
    n = max(5, sum(np.cumsum(widths) <= room))
    return words[:n], widths[:n]


def _shorten(word: str, limit: int) -> str:
    return word if len(word) <= limit else f"{word[: limit - 1]}…"


# -------------------------------------------------------------------------------- what it computes
def unrolled_lstm(words: list[str]) -> Figure:
    """A language model over the words of a sentence, one step per word (section 3.1).

    Args:
        words: at least one; the first six are drawn.

    Raises:
        ValueError: there are no words.
    """
    if not words:
        raise ValueError("Expected at least one word. Found none.")
    more, shown = len(words) > MAX_WORDS, words[:MAX_WORDS]
    expected = [*words[1 : len(shown) + 1], "?"][: len(shown)]
    figure, axes = make_canvas(4.2, "A language model, unrolled: one step per word")
    left, gap = 1.1, 0.24
    width = min(1.3, (WIDTH - left - 0.35) / len(shown) - gap)
    for y, name in (
        (0.2, "word"),
        (1.0, "embedding"),
        (2.0, "the same\nLSTM, which\nhands on\nits state →"),
        (3.0, "probabilities\nof the next\nword"),
        (3.9, "next word\nin the text"),
    ):
        write(axes, (0, y), name, ha="left", size=SMALL, weight="bold")
    cells, room = [], max(4, int((width + gap) / 0.1))
    for i, (word, next_word) in enumerate(zip(shown, expected, strict=True)):
        x = left + i * (width + gap)
        middle = x + width / 2
        embedding = draw_box(axes, Box(x, 0.8, width, 0.4), "", GREEN)
        cell = draw_box(axes, Box(x, 1.7, width, 0.6), "LSTM", BLUE)
        out = draw_box(axes, Box(x, 2.7, width, 0.6), "")
        # Four numbers, and four bars that add up to one.
        for j, dot in enumerate(np.linspace(-0.27, 0.27, 4)):
            axes.plot(middle + dot * width, 1.0, "o", color=GREEN, markersize=4)
            bar = (0.1, 0.34, 0.16, 0.22)[(j + i) % 4]
            place = middle + dot * width - 0.04, 2.78
            axes.add_patch(Rectangle(place, 0.08, bar, facecolor=GREY))
        write(axes, (middle, 0.2), _shorten(word, room))
        write(axes, (middle, 3.9), _shorten(next_word, room), style="italic")
        draw_arrow(axes, (middle, 0.33), embedding.bottom)
        draw_arrow(axes, embedding.top, cell.bottom)
        draw_arrow(axes, cell.top, out.bottom)
        axes.plot([middle] * 2, [3.3, 3.68], ":", color=GREY, linewidth=1.2)
        cells.append(cell)
    for one, next_one in zip(cells, cells[1:], strict=False):
        draw_arrow(axes, one.right, next_one.left, BLUE)
    end = cells[-1].right
    draw_arrow(axes, end, (end[0] + gap, end[1]), BLUE)
    if more:
        write(axes, (end[0] + gap + 0.1, end[1]), "…")
    figure.description = (
        "For each word the same step: its embedding, a row of numbers, goes into the LSTM, which "
        "gives probabilities of the next word, and hands its state to the right, to the step of "
        f"the next word. The words: {' '.join(shown)}{' …' * more}. The next words in the text: "
        f"{' '.join(expected)}. All steps share the same weights."
    )
    return figure


def concat_pooling() -> Figure:
    """A text's states to the classes' probabilities (section 3.3, "concat pooling")."""
    figure, axes = make_canvas(4.3, "Concatenated pooling, and the head of the classifier")
    words, width, step = ("xxbos", "a", "fine", "film"), 0.95, 1.25
    left = 1.1
    for y, name in ((0.17, "tokens"), (0.95, "states of\nthe encoder"), (2.1, "pooled")):
        write(axes, (0, y), name, ha="left", size=SMALL, weight="bold")
    states = []
    for i, word in enumerate(words):
        x = left + i * step
        state = draw_box(axes, Box(x, 0.7, width, 0.5), f"state {i + 1}", GREEN)
        write(axes, (x + width / 2, 0.17), word)
        draw_arrow(axes, (x + width / 2, 0.3), state.bottom)
        states.append(state)
    pooled = [
        draw_box(axes, Box(left + 0.1 + i * 1.65, 1.9, 1.3, 0.4), name, colour)
        for i, (name, colour) in enumerate((("last", ORANGE), ("maximum", BLUE), ("mean", BLUE)))
    ]
    for state in states:
        for box, shift in zip(pooled[1:], (-0.1, 0.1), strict=True):
            draw_arrow(axes, (state.top[0] + shift, state.top[1]), box.bottom, BLUE)
    draw_arrow(axes, (states[-1].top[0] - 0.35, states[-1].top[1]), pooled[0].bottom, ORANGE)
    end = states[-1].right[0]
    joined = "one vector, three times as long as a state"
    long = draw_box(axes, Box(left, 2.6, end - left, 0.4), joined, BLUE)
    for box in pooled:
        draw_arrow(axes, box.top, (box.top[0], long.y), INK)
    layers = "head: two linear layers,\neach after batch normalisation\nand dropout; ReLU between"
    head = draw_box(axes, Box(left, 3.3, 2.65, 0.85), layers, ORANGE, size=SMALL)
    out = draw_box(axes, Box(end - 1.25, 3.45, 1.25, 0.55), "probability\nof each class")
    draw_arrow(axes, (head.bottom[0], long.top[1]), head.bottom)
    draw_arrow(axes, head.right, out.left)
    write(axes, (0.5 * (head.right[0] + out.x), head.right[1] + 0.18), "softmax", size=SMALL)
    figure.description = (
        "The encoder gives a state for each token of a text. Three vectors are made of the "
        "states: the last one, their maximum in each place, and their mean. Put side by side, "
        "they are one vector three times as long as a state, whatever the length of the text. "
        "The head reads it: two linear layers, each after batch normalisation and dropout, with "
        "ReLU between them. A softmax makes probabilities of the classes."
    )
    return figure


def low_rank_update() -> Figure:
    """LoRA: two thin matrices learn beside a frozen layer (Hu et al. 2021, figure 1)."""
    figure, axes = make_canvas(2.4, "LoRA: what learns beside a frozen layer")
    x = draw_box(axes, Box(0.02, 0.95, 0.75, 0.6), "x\n[n_in]")
    frozen = draw_box(axes, Box(1.2, 1.6, 3.5, 0.65), "W  [n_out, n_in]\nfrozen", GREY)
    a = draw_box(axes, Box(1.2, 0.25, 1.6, 0.65), "A  [r, n_in]\nrandom at first", ORANGE)
    b = draw_box(axes, Box(3.1, 0.25, 1.6, 0.65), "B  [n_out, r]\nzeros at first", ORANGE)
    total = draw_box(axes, Box(5.1, 0.95, 0.4, 0.6), "+")
    h = draw_box(axes, Box(5.8, 0.95, 0.78, 0.6), "h\n[n_out]")
    for one, other in ((x, frozen), (x, a), (a, b), (frozen, total), (b, total), (total, h)):
        draw_arrow(axes, one.right, other.left)
    figure.description = (
        "What goes into a layer, x, goes through two branches. Through W [n_out, n_in], which is "
        "frozen; and through A [r, n_in], random at first, and then B [n_out, r], zeros at first. "
        "The rank r is small. A and B alone learn. The sum of both branches is what comes out, h."
    )
    return figure


# --------------------------------------------------------------------------- what can be concluded
def kinds_of_reliability() -> Figure:
    """Schematic reliability diagrams of a calibrated model and two that are not (Guo et al. 2017).

    The curves are what a temperature of 1, 2 and 1/2 makes of a calibrated model of two classes.
    """
    figure, all_axes = make_axes(6.2, 2.6, columns=3, sharey=True)
    confidence = np.linspace(0.5, 1, 101)[:-1]
    log_odds = np.log(confidence / (1 - confidence))
    kinds = (
        ("Well calibrated", 1, 0.8, BLUE),
        ("Overconfident", 2, 0.9, ORANGE),
        ("Underconfident", 0.5, 0.75, GREEN),
    )
    said = []
    for axes, (name, temperature, at, colour) in zip(all_axes, kinds, strict=True):
        accuracy = 1 / (1 + np.exp(-log_odds / temperature))
        right = 1 / (1 + (1 / at - 1) ** (1 / temperature))
        axes.plot([0.5, 1], [0.5, 1], "--", color=GREY, linewidth=1.2)
        axes.fill_between(confidence, confidence, accuracy, color=tint(colour, 0.3), linewidth=0)
        axes.plot(confidence, accuracy, color=colour, linewidth=2)
        axes.plot(at, right, "o", color=colour, markersize=7)
        sentence = f"says {at:.0%},\nis right {right:.0%}"
        axes.text(0.99, 0.51, sentence, ha="right", va="bottom", size=SMALL)
        axes.set(
            title=name, xlabel="confidence", xlim=(0.5, 1.0), ylim=(0.5, 1.0), aspect="equal",
            xticks=(0.6, 0.8, 1), yticks=(0.6, 0.8, 1),
        )  # fmt: skip
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        said.append(f"{name}: it {' '.join(sentence.split())} of the time")
    all_axes[0].set_ylabel("accuracy")
    figure.suptitle("Confidence and accuracy of three kinds of models")
    figure.description = (
        "Three curves of accuracy by confidence; on the dashed diagonal both are equal. "
        f"{'. '.join(said)}. The first curve lies on the diagonal, the second one below it, the "
        "third one above it."
    )
    return figure


def label_budget(n_train: int, n_labels: int, n_valid: int, n_test: int) -> Figure:
    """Which labels an experiment with few labels looks at, and for what.

    Args:
        n_train: texts to learn from, with and without labels.
        n_labels: those of them whose labels are looked at.
        n_valid: those of the labels that choose the model, and that it does not learn from.
        n_test: texts that score it.

    Raises:
        ValueError: not 0 <= n_valid <= n_labels <= n_train, or n_labels or n_test is below 1.
    """
    if not 0 <= n_valid <= n_labels <= n_train or min(n_labels, n_test) < 1:
        raise ValueError(
            f"Expected 0 <= n_valid <= n_labels <= n_train, and n_labels and n_test from 1 on. "
            f"Found n_valid {n_valid}, n_labels {n_labels}, n_train {n_train}, n_test {n_test}."
        )
    parts = [
        (n_labels - n_valid, "labels to learn from", BLUE, ""),
        (n_valid, "labels to validate on: they choose the model", ORANGE, ""),
        (n_train - n_labels, "labels stay hidden: only the texts are read", GREY, "////"),
        (n_test, "labels of test: looked at once, for the score", GREEN, "...."),
    ]
    figure, axes = make_canvas(3.7, "Whose labels are looked at")
    left, gap, zoomed = 0.75, 0.12, 3.6
    scale = (WIDTH - left - gap) / (n_train + n_test)
    end_of_labels, end = left + scale * n_labels, left + scale * n_train
    write(axes, (0, 2.85), "texts", ha="left", weight="bold")
    write(axes, (left, 3.3), f"train: {n_train:,}", ha="left")
    write(axes, (WIDTH, 3.3), f"test: {n_test:,}", ha="right")
    draw_bar(axes, (left, 2.65), scale, parts[:3])
    draw_bar(axes, (end + gap, 2.65), scale, parts[3:])
    for above, below in ((left, left), (end_of_labels, left + zoomed)):
        axes.plot([above, below], [2.65, 2.1], ":", color=INK, linewidth=1.2)
    write(axes, (0, 1.9), "labels", ha="left", weight="bold")
    draw_bar(axes, (left, 1.7), zoomed / n_labels, parts[:2])
    write(axes, (left + zoomed + 0.12, 1.9), f"{n_labels:,} are looked at", ha="left")
    drawn = [part for part in parts if part[0]]
    for i, (n, what, *look) in enumerate(drawn):
        y = 1.15 - 0.34 * i
        draw_bar(axes, (left, y), 0.3, [(1, what, *look)], height=0.22)
        write(axes, (left + 0.42, y + 0.11), f"{n:,} {what}", ha="left")
    figure.description = (
        f"{n_train:,} texts of train and {n_test:,} of test. Of their labels, "
        f"{'; '.join(f'{n:,} {what}' for n, what, *_ in drawn)}."
    )
    return figure


def run_folder() -> Figure:
    """The stages of a run, the files that each leaves, and what its identity is a hash of."""
    stages = (
        ("tokens", "ids.bin, offsets.npy,\nvocab.json",
         "texts, labels and parts; rules of the\ntokenizer; pretrained model's words", GREY),
        ("lm", "bundle.json, vocab-*.json,\nweights-*.safetensors,\nhistory.csv",
         "hash of tokens; settings of lm;\npretrained model's weights; seed", BLUE),
        ("classifier", "as lm, and validation.csv",
         "hash of lm; settings of classifier;\nplan of unfreezing", ORANGE),
        ("report", "report.html, metrics.json,\npredictions.csv, figures/",
         "hash of classifier; texts of train,\nfrom which the baselines learn", GREEN),
    )  # fmt: skip
    figure, axes = make_canvas(4.75, "The folder of a run: four stages, connected by files")
    for x, name in ((0.56, "stage"), (2.45, "its files"), (5.17, "its hash depends on")):
        write(axes, (x, 4.62), name, weight="bold")
    above = draw_box(axes, Box(0.02, 3.9, 1.08, 0.5), "data")
    checked = "table.csv, selection.csv; beside them run.json,\nwhat the run was made with"
    write(axes, (1.43, 4.15), checked, ha="left", size=SMALL)
    said = []
    for i, (name, files, depends, colour) in enumerate(stages):
        y = 2.95 - 0.98 * i
        stage = draw_box(axes, Box(0.02, y, 1.08, 0.7), name, colour, weight="bold")
        draw_box(axes, Box(1.35, y, 2.2, 0.7), files, colour, size=SMALL)
        draw_box(axes, Box(3.75, y, 2.83, 0.7), depends, size=SMALL, linestyle="--")
        draw_arrow(axes, above.bottom, stage.top)
        above = stage
        files, depends = (" ".join(one.split()) for one in (files, depends))
        said.append(f"{name}: {files}; its hash depends on {depends}")
    figure.description = (
        "From the checked table in data, each stage makes its files from those of the stage "
        f"above. {'. '.join(said)}. A stage is done again only when its hash changes."
    )
    return figure
