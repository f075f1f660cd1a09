"""The course's diagrams can be read, and say what the package does, in a picture and in words."""

import io
import re
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from matplotlib.path import Path as MatplotlibPath
from matplotlib.text import Text
from PIL import Image

from ulmfit_app.course import diagrams
from ulmfit_app.run_folder import STAGES
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.store import TokenStore

TEXT = "I LOVED this movie: it is very good, $5 well spent on unpretentiousness! 🙂"
TOKENS = "xxbos i xxup loved xxmaj this movie : it is very good , $ 5 well spent 🙂".split()
IDS = [2, 13, 6, 512, 5, 17, 24, 34, 16, 15, 71, 53, 11, 402, 307, 92, 1788, 0]
WORDS = "xxbos the film is unpretentious throughout , $ 5".split()
DIAGRAMS = {
    "three stages": lambda: diagrams.three_stages(),
    "batches": lambda: diagrams.text_to_batches(TEXT, TOKENS, IDS),
    "batches of long words": lambda: diagrams.text_to_batches(
        TEXT * 3, ["unpretentiousness"] * 20, [60_000] * 20
    ),
    "batches of five tokens": lambda: diagrams.text_to_batches("So so.", list("abcde"), [9] * 5),
    "unrolled LSTM": lambda: diagrams.unrolled_lstm(WORDS),
    "one step": lambda: diagrams.unrolled_lstm(["good"]),
    "pooling": lambda: diagrams.concat_pooling(),
    "reliability": lambda: diagrams.kinds_of_reliability(),
    "labels": lambda: diagrams.label_budget(1_950, 50, 10, 680),
    "all labels": lambda: diagrams.label_budget(2_000_000, 2_000_000, 0, 1),
    "LoRA": lambda: diagrams.low_rank_update(),
    "run folder": lambda: diagrams.run_folder(),
}
each_diagram = pytest.mark.parametrize("name", DIAGRAMS)


def texts_of(figure: Figure) -> list[Text]:
    """Texts that are shown, laid out."""
    figure.canvas.draw()
    shown = figure.findobj(lambda one: isinstance(one, Text) and one.get_text().strip())
    # An axis keeps the labels of ticks outside its limits.
    limits = figure.bbox.padded(1)
    return [one for one in shown if one.get_visible() and limits.overlaps(one.get_window_extent())]


def patches_of(figure: Figure, kind: type[Patch]) -> list[Patch]:
    return [patch for axes in figure.axes for patch in axes.patches if isinstance(patch, kind)]


def ends_of(arrow: FancyArrowPatch) -> np.ndarray:
    """Where it begins, and its tip, in pixels: [2, 2]."""
    line, head = arrow.get_path().vertices[0], arrow.get_path().vertices[4]
    return arrow.axes.transData.transform([line, head])


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@each_diagram
def test_no_text_of_a_diagram_covers_another_or_crosses_a_box_or_an_arrow(name):
    figure = DIAGRAMS[name]()
    boxes = {text: text.get_window_extent().padded(-1) for text in texts_of(figure)}
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)
    for patch in patches_of(figure, FancyBboxPatch | Rectangle):
        frame = patch.get_window_extent()
        for text, box in boxes.items():
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0
            inside = inside and box.y1 <= frame.y1
            assert inside or not frame.overlaps(box), (text, patch)
    for arrow in patches_of(figure, FancyArrowPatch):
        path = MatplotlibPath(ends_of(arrow))
        for text, box in boxes.items():
            assert not path.intersects_bbox(box.padded(-1)), (text, arrow)


@each_diagram
def test_a_diagram_is_legible_at_the_width_of_a_page_and_draws_no_axes_that_mean_nothing(name):
    figure = DIAGRAMS[name]()
    sizes = [text.get_fontsize() for text in texts_of(figure)]
    assert min(sizes) >= 9
    file = figure._repr_png_()
    assert file.startswith(b"\x89PNG")
    assert plt.get_fignums() == []
    with Image.open(io.BytesIO(file)) as picture:
        assert picture.width <= 720
    for axes in figure.axes:
        assert axes.get_title()
        assert not axes.axison or axes.get_xlabel() == "confidence"


@each_diagram
def test_arrows_begin_and_end_at_a_box_or_at_a_word(name):
    figure = DIAGRAMS[name]()
    words = [text.get_window_extent().padded(10) for text in texts_of(figure)]
    edges = patches_of(figure, FancyBboxPatch | Rectangle)
    frames = [patch.get_window_extent() for patch in edges]

    def touches(place: np.ndarray) -> bool:
        x, y = place
        on_edge = any(
            frame.padded(3).contains(x, y) and not frame.padded(-3).contains(x, y)
            for frame in frames
        )
        return on_edge or any(word.contains(x, y) for word in words)

    for arrow in patches_of(figure, FancyArrowPatch):
        start, end = ends_of(arrow)
        assert touches(start)
        # The last state goes on beyond the words that are drawn.
        assert touches(end) or ("LSTM" in words_of(figure) and end[0] > max(f.x1 for f in frames))


# -------------------------------------------------------------------------- what they say is right
@each_diagram
def test_where_no_picture_is_shown_a_diagram_is_described_in_sentences(name):
    figure = DIAGRAMS[name]()
    said = repr(figure)
    title = figure.get_suptitle() or figure.axes[0].get_title()
    assert said.startswith(f"Figure. {title}. ") and said.endswith(".")
    assert len(re.findall(r"\w+", said)) > 20 and "\n" not in said and ".." not in said


@pytest.mark.parametrize("n", [5, 6, 9, 12, 18])
def test_x_and_y_are_those_of_the_batches_of_the_package(n):
    figure = diagrams.text_to_batches(TEXT, TOKENS[:n], IDS[:n])
    said = repr(figure)
    drawn = len(re.search(r"first tokens: (.+?)\. Their", said)[1].split())
    row = (drawn - 1) // 2
    assert drawn == n - 1 + n % 2 if n < 11 else drawn >= 11
    store = TokenStore(
        np.array(IDS[:drawn], np.int32), np.array([0, drawn]), [str(i) for i in range(2_000)]
    )
    x, y = next(iter(LanguageModelBatches(store, [0], 2, (row + 1) // 2)))
    for name, wanted in ((r"reads: (.+?)\.", x), (r"later: (.+?)\.", y)):
        found = [one.split() for one in re.search(name, said)[1].split(" and ")]
        assert found == [list(map(str, one)) for one in wanted.tolist()]
    cells = words_of(figure)
    grid = [one for one in cells[cells.index("rows") :] if one.isdigit()]
    assert grid == [str(one) for one in (*x.flatten().tolist(), *y.flatten().tolist())]


def test_text_to_batches_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="at least 5 tokens, and an id for each. Found 2 tokens"):
        diagrams.text_to_batches("So so.", ["so", "so"], [9, 9])
    with pytest.raises(ValueError, match="Found 6 tokens and 5 ids"):
        diagrams.text_to_batches("So so.", list("abcdef"), [9] * 5)


def test_a_character_that_no_font_holds_is_drawn_as_a_box():
    figure = diagrams.unrolled_lstm(["good", "\U000f1234"])
    assert {"good", "□"} <= set(words_of(figure))


def test_each_word_is_followed_by_the_next_one_and_the_last_by_one_that_nobody_knows():
    assert "The next words in the text: good film ?" in repr(
        diagrams.unrolled_lstm(["a", "good", "film"])
    )
    of_eight = repr(diagrams.unrolled_lstm(WORDS))
    assert f"The words: {' '.join(WORDS[:6])} …" in of_eight
    assert f"in the text: {' '.join(WORDS[1:7])}." in of_eight
    with pytest.raises(ValueError, match="at least one word"):
        diagrams.unrolled_lstm([])


def test_the_pooled_vectors_stand_in_the_order_of_the_package():
    texts = {
        one.get_text(): one.get_position()[0] for one in diagrams.concat_pooling().axes[0].texts
    }
    assert texts["last"] < texts["maximum"] < texts["mean"]


def test_a_curve_of_reliability_passes_through_what_its_sentence_says():
    figure = diagrams.kinds_of_reliability()
    for axes in figure.axes:
        says, is_right = (
            int(one) / 100 for one in re.findall(r"(\d+)%", axes.texts[0].get_text())
        )
        _, curve, point = axes.lines
        assert np.interp(says, *curve.get_data()) == pytest.approx(is_right, abs=0.005)
        assert point.get_xydata()[0] == pytest.approx([says, is_right], abs=0.005)
    overconfident, underconfident = (axes.lines[1].get_data() for axes in figure.axes[1:])
    assert (overconfident[1] <= overconfident[0]).all()
    assert (underconfident[1] >= underconfident[0]).all()


def test_the_bars_of_the_labels_are_as_long_as_there_are_texts():
    figure = diagrams.label_budget(2_000, 400, 100, 600)
    bars = patches_of(figure, Rectangle)
    widths = np.array([bar.get_width() for bar in bars[:4]])
    assert widths / widths.sum() == pytest.approx(np.array([300, 100, 1_600, 600]) / 2_600)
    assert bars[4].get_width() / bars[5].get_width() == pytest.approx(3)
    # The dotted lines lead from the labels to the same labels, drawn larger.
    ends = [line.get_xdata() for line in figure.axes[0].lines]
    assert ends[1][0] == pytest.approx(bars[1].get_x() + bars[1].get_width())
    assert ends[1][1] == pytest.approx(bars[5].get_x() + bars[5].get_width())
    assert "Of their labels, 300 labels to learn from; 100" in repr(
        diagrams.label_budget(2_000, 400, 100, 600)
    )
    with pytest.raises(ValueError, match="Found n_valid 20, n_labels 10, n_train 50, n_test 5."):
        diagrams.label_budget(50, 10, 20, 5)


def test_the_run_folders_stages_and_files_are_those_that_exist():
    figure = diagrams.run_folder()
    words = words_of(figure)
    assert [one for one in words if one in STAGES] == list(STAGES)
    page = (Path(__file__).parent.parent / "docs" / "run-folder.md").read_text("utf-8")
    files = re.findall(r"[\w*-]+\.\w+|figures/", " ".join(words))
    assert len(files) >= 12
    assert [one for one in files if one.replace("*", "…") not in page] == []


def test_two_ways_lead_from_what_goes_into_a_layer_to_what_comes_out():
    figure = diagrams.low_rank_update()
    frames = [patch.get_window_extent() for patch in patches_of(figure, FancyBboxPatch)]
    assert not any(one.overlaps(other) for one, other in combinations(frames, 2))
    x, w, a, b, total, h = range(6)  # in the order in which they are drawn
    leads = set()
    for arrow in patches_of(figure, FancyArrowPatch):
        places = ends_of(arrow)
        leads.add(tuple(min(range(6), key=lambda i: _gap(frames[i], xy)) for xy in places))
    assert leads == {(x, w), (w, total), (x, a), (a, b), (b, total), (total, h)}


def _gap(frame, xy: np.ndarray) -> float:
    """Pixels from a point to a box."""
    low, high = frame.min, frame.max
    return float(np.linalg.norm(np.maximum(0, np.maximum(low - xy, xy - high))))
