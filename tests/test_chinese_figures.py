"""Figures with Chinese words: the font that has them, what is said without one, long labels."""

import inspect
import logging
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont
from matplotlib.font_manager import findfont, fontManager
from matplotlib.text import Text

from tests.test_chinese_report import ALLOWED, LABELS, report
from ulmfit_app.evaluation import drawing, figures, fonts
from ulmfit_app.evaluation.messages import characters_of


def save_font(path: Path, family: str, characters: str) -> Path:
    """A font that has these characters and no others, all of them the same box."""
    pen = TTGlyphPen(None)
    for step, point in enumerate([(50, 0), (50, 700), (650, 700), (650, 0)]):
        (pen.lineTo if step else pen.moveTo)(point)
    pen.closePath()
    names = {ord(one): f"g{ord(one)}" for one in sorted(set(characters))}
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", *names.values()])
    font.setupCharacterMap(names)
    font.setupGlyf(dict.fromkeys([".notdef", *names.values()], pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (700, 50)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


@pytest.fixture
def installed(monkeypatch):
    """A function that says which fonts this machine has, beside matplotlib's own."""
    known, own = list(fontManager.ttflist), findfont("DejaVu Sans")
    fontManager.ttflist[:] = [entry for entry in known if entry.name.startswith("DejaVu")]

    def install(*paths: Path) -> None:
        monkeypatch.setattr(fonts, "findSystemFonts", lambda: list(map(str, paths)))

    install()
    yield install
    fontManager.addfont(own)  # which forgets what was found for each name
    fontManager.ttflist[:] = known


@pytest.fixture
def whole_font(tmp_path):
    """A font that has all that a Chinese report may write."""
    characters = characters_of("zh-tw") + "".join(LABELS)
    return save_font(tmp_path / "whole.ttf", "Whole Chinese", characters)


@pytest.mark.filterwarnings("error")
def test_figures_of_a_chinese_report_are_in_chinese_where_a_font_has_it(
    tmp_path, installed, whole_font, monkeypatch
):
    installed(whole_font)
    drawn, save = [], drawing.save_png
    monkeypatch.setattr(
        drawing, "save_png", lambda figure, path: (drawn.append(figure), save(figure, path))
    )
    words = report(tmp_path, "zh-tw")
    assert not any("字型" in one for one in words.found), "nothing is missing"
    written = {text.get_text() for figure in drawn for text in figure.findobj(Text)}
    assert {"好評", "負評", "真實類別", "混淆矩陣，n = 300", "多數類別", "輸出層"} <= written
    assert len(drawn) == 7
    for figure in drawn:
        for text in figure.findobj(Text):
            if not text.get_text().isascii():
                assert "Whole Chinese" in text.get_fontfamily()
    words = {word for one in written for word in re.findall("[A-Za-z][A-Za-z-]+", one)}
    assert words <= ALLOWED


@pytest.mark.filterwarnings("error")
def test_without_a_font_the_figures_are_english_and_it_is_said_what_to_install(
    tmp_path, installed, caplog
):
    caplog.set_level(logging.INFO, "ulmfit_app")
    words = report(tmp_path / "zh", "zh-tw")
    notes = [one for one in words.found if "fonts-noto-cjk" in one]
    assert len(notes) == 1 and "3 個類別中 3 個的名稱" in notes[0]
    assert "這台電腦沒有可顯示中文的字型，因此圖中的文字為英文。" in words.found
    said = [record.getMessage() for record in caplog.records]
    assert sum("the words of the figures: they are in English" in one for one in said) == 1
    assert sum("some class names (3)" in one for one in said) == 1
    assert all("apt install fonts-noto-cjk" in one for one in said if "No " in one[:3])
    assert (tmp_path / "zh" / "figures" / "confusion_matrix.png").is_file()


@pytest.mark.filterwarnings("error")
def test_characters_that_no_font_has_are_boxes_that_are_told_once(tmp_path, installed, caplog):
    caplog.set_level(logging.INFO, "ulmfit_app")
    figure, axes = drawing.make_axes(3, 2)
    axes.set_title("標題")
    axes.set_xlabel("標籤")
    drawing.save_png(figure, tmp_path / "figure.png")
    (said,) = [record.getMessage() for record in caplog.records]
    assert "some characters of a figure (3)" in said and "apt install fonts-noto-cjk" in said


def test_no_font_is_searched_for_texts_that_matplotlibs_own_has(tmp_path, monkeypatch):
    def fail(*_):
        raise AssertionError("searched")

    monkeypatch.setattr(fonts, "_installed_fonts", fail)
    before = dict(matplotlib.rcParams)
    figure = figures.confusion_figure(np.eye(2, dtype=int), ["naïve – “да”", "neg"])
    drawing.save_png(figure, tmp_path / "figure.png")
    assert {name: value for name, value in matplotlib.rcParams.items()} == before


@pytest.mark.parametrize(
    ("text", "face"),
    [("機器學習", "TC"), ("机器学习", "SC"), ("機械学習のかな", "JP"), ("기계 학습", "KR")],
)
def test_a_collections_face_for_the_script_is_taken(tmp_path, installed, text, face):
    if "index" not in inspect.signature(matplotlib.font_manager.FontEntry).parameters:
        pytest.skip("this matplotlib knows the first face of a collection and no other")
    every = "機器學習机器学习機械学習のかな기계학습"
    faces = [
        TTFont(save_font(tmp_path / f"{name}.ttf", f"Noto Sans CJK {name}", every))
        for name in ("JP", "KR", "SC", "TC")
    ]
    collection = TTCollection()
    collection.fonts = faces
    collection.save(tmp_path / "all.ttc")
    installed(tmp_path / "all.ttc")
    families, missing = fonts.families_for(text)
    assert families == ["DejaVu Sans", f"Noto Sans CJK {face}"] and not missing


@pytest.mark.parametrize("name", ["Microsoft JhengHei", "PingFang TC", "WenQuanYi Micro Hei"])
def test_a_chinese_font_goes_before_others_that_have_the_characters(tmp_path, installed, name):
    other = save_font(tmp_path / "a.ttf", "A Handwriting", "機器學習")
    installed(other, save_font(tmp_path / "b.ttf", name, "機器學習"))
    assert fonts.families_for("機器學習")[0] == ["DejaVu Sans", name]


@pytest.mark.filterwarnings("error")
def test_a_long_chinese_label_stands_on_two_even_lines(tmp_path, installed):
    label = "國內網站網頁搜尋引擎與入口網站的分類"
    installed(save_font(tmp_path / "font.ttf", "Chinese", label))
    figure = figures.confusion_figure(
        np.eye(2, dtype=int), [label, "a long English label, cut short"]
    )
    first, second = (one.get_text() for one in figure.axes[0].get_yticklabels())
    assert first == "國內網站網頁搜尋引\n擎與入口網站的分類"
    assert second == "a long English …ut short"
    many = [f"{label}{n}" for n in range(21)]
    figure = figures.confusion_figure(np.eye(21, dtype=int), many)
    assert not any("\n" in one.get_text() for one in figure.axes[0].get_yticklabels())
