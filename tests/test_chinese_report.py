"""A report in Chinese: fonts that have the characters, lines that break between them, one table
of messages that is whole."""

import ast
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter

import numpy as np
import pytest

import ulmfit_app
from tests.conftest import small_settings
from tests.test_predictor import saved_classifier
from tests.test_report import histories, table
from ulmfit_app.__main__ import main
from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.evaluation import report as report_module
from ulmfit_app.evaluation.calibrated import Calibration
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.markup import cut
from ulmfit_app.evaluation.messages import Message, known, say, speaking, translated
from ulmfit_app.evaluation.report import classification_report, write_report
from ulmfit_app.evaluation.scripts import (
    first_characters,
    pad,
    script_of,
    shorten,
    width_of,
    wrap,
)
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.pipeline import run as run_module
from ulmfit_app.pipeline.run import Run, begin

APP = Path(ulmfit_app.__file__).parent
TABLE = json.loads((APP / "evaluation" / "messages_zh_tw.json").read_text(encoding="utf-8"))
LABELS = ("好評", "負評", "從未測試的類別")


# -------------------------------------------------------------------------------------- the table
def calls() -> list[ast.Call]:
    """Every call of `say` and Message in the package, but those of the table's own file."""
    found = []
    for path in sorted(APP.rglob("*.py")):
        if path.name != "messages.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("say", "Message")
            ]
    return found


def fields_of(template: str) -> list[tuple[str, str]]:
    """The placeholders of a template, with how their values are written, in one order."""
    parts = Formatter().parse(template)
    return sorted((name, form) for _, name, form, _ in parts if name is not None)


def test_every_message_has_a_translation_and_no_translation_is_left_over():
    used = [call.args[0] for call in calls()]
    assert len(used) > 150
    assert all(isinstance(one, ast.Constant) for one in used), "a message is a literal"
    assert {one.value for one in used} == set(TABLE["messages"])


@pytest.mark.parametrize("part", ["messages", "patterns"])
def test_a_translation_has_the_placeholders_of_its_message(part):
    assert {english: fields_of(english) for english in TABLE[part]} == {
        english: fields_of(chinese) for english, chinese in TABLE[part].items()
    }


def sources() -> list[str]:
    """Every string of the package, f-strings as regular expressions."""
    found = set()
    for path in sorted(APP.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(one, "value", "") for one in node.values]
                parts = [one if isinstance(one, str) else "" for one in parts]
                if sum(map(len, parts)) > 3:
                    found.add("".join(re.escape(one) or ".+" for one in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.escape(node.value.replace("_", " ")))
    return sorted(found)


def test_every_name_and_pattern_is_one_that_the_package_writes():
    found = sources()
    together = "\n".join(found)
    # A stage's name has its direction behind it, a figure's and a fact's what it is about before.
    parts = [
        re.split(",? (?=backward)| (?=of )|(?<=training) |(?<=validation) ", one)
        for one in TABLE["names"]
    ]
    assert [one for some in parts for one in some if re.escape(one) not in together] == []
    made = [re.compile(f".*{one}.*", re.DOTALL) for one in found if ".+" in one]
    written = [one for one in TABLE["patterns"] if re.escape(one) not in together]
    assert [one for one in written if not any(each.fullmatch(one) for each in made)] == []


def test_a_message_is_english_and_is_translated_with_what_is_in_it():
    inner = Message("column {name}", name="來源")
    message = Message(
        "The accuracy is not given by the column “{name}”: {reason}.", name="x", reason=inner
    )
    assert message == "The accuracy is not given by the column “x”: column 來源."
    assert translated(message) == message and json.dumps(message) == json.dumps(str(message))
    with speaking("zh-tw"):
        assert translated(message) == "未列出依欄位「x」的準確率：欄位 來源。"
        assert translated("accuracy") == "accuracy", "a user's own word"
        assert say("accuracy") == "準確率"
    assert say("accuracy") == "accuracy"


def test_the_notes_of_a_files_run_are_translated(tmp_path):
    path = tmp_path / "評論.csv"
    rows = [f"很好看的電影{i},好" if i % 2 else f"很難看的電影{i},差" for i in range(60)]
    path.write_text("\n".join(["text,label", *rows, "空白,"]), encoding="utf-8")
    corpus = load_corpus(DataSettings(str(path), max_train=20), seed=3)
    notes = [*corpus.notes, corpus.test_name]
    assert len(notes) == 6
    with speaking("zh-tw"):
        chinese = [known(note) for note in notes]
    assert "以 評論.csv 的「text」欄為文本，「label」欄為標記。" in chinese
    assert chinese[-1] == "評論.csv 的保留部分"
    assert not [one for one in chinese if re.search("[A-Za-z]{2,} [A-Za-z]{2,}", one)]


# --------------------------------------------------------------------------------------- the page
@pytest.fixture
def without_figures(monkeypatch):
    """Figures are not drawn: a page of words alone takes no second."""
    blank = b"\x89PNG" + bytes(20)
    monkeypatch.setattr(
        report_module, "write_figures", lambda folder, drawn: dict.fromkeys(drawn, blank)
    )


class Words(HTMLParser):
    """What a reader of a page sees or hears: its texts, names of pictures and titles."""

    def __init__(self, html: str):
        super().__init__()
        self.found, self.tags, self.silent = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.silent = tag in ("style", "script")
        self.found += [attrs[name] for name in ("alt", "title", "data-shown") if name in attrs]

    def handle_endtag(self, tag):
        self.silent = False

    def handle_data(self, data):
        if not self.silent and data.strip():
            self.found.append(data)


def report(folder, spoken: str, **more) -> Words:
    """A report that has every part, on Chinese texts."""
    predictions = table(labels=LABELS[:2], text="這家店很好吃，「推薦」給大家！")
    predictions["p_" + LABELS[2]] = 0.0
    predictions = predictions.assign(
        來源=np.array(["論壇", "", *"甲乙丙丁戊己庚"])[np.arange(300) % 9],
        id=[f"第{i}" for i in range(300)],
        copy_in_train=np.array(["no", "nearly", "word for word"])[np.arange(300) % 3],
        **{f"更多{i}": np.array(["一", "二"])[np.arange(300) % 2] for i in range(4)},
    )
    probabilities = predictions[[f"p_{label}" for label in LABELS]].to_numpy()
    truth = predictions["label"].map(LABELS.index).to_numpy()
    which = Message("the same {n:,} labels", n=600)
    rivals = {
        Message("majority class"): np.full_like(probabilities, 1 / 3),
        Message("TF-IDF + logistic regression, {which}", which=which): probabilities,
    }
    facts = {
        "data_set": "評論.csv",
        "test_name": "held-out part of 評論.csv",
        "notes": ["Took column 'text' of 評論.csv for the texts and 'label' for the labels."],
        "seed": 7,
        "language_model": {"start": "random weights", "validation_perplexity": 80.0},
        "durations": {"classifier": Message("{minutes:.1f} min", minutes=2)},
    }
    curves = histories()
    for one in curves.values():
        one["phase"] = ["head", "all groups"]
    calibration = Calibration(Decision(), probabilities, probabilities[:5], truth[:5])
    both = {"forward": probabilities, "backward": probabilities[:, ::-1]}
    args = (predictions, rivals, curves, facts, both, calibration)
    write_report(folder, *args, report_language=spoken, **more)
    return Words((folder / "report.html").read_text("utf-8"))


ALLOWED = {"TF-IDF", "ULMFiT", "McNemar", "Wilson", "Brier", "dropout", "logit", "nat", "csv"}


def test_a_chinese_report_has_no_english_sentence_and_an_english_one_no_chinese_words(
    tmp_path, without_figures
):
    found = report(tmp_path / "zh", "zh-tw").found
    english = [re.findall("[A-Za-z][A-Za-z-]+", one) for one in found]
    # Files, columns, places that page.js fills, and what to install have names of their own.
    named = (
        "id worst errors text label found apt install fonts-noto-cjk Debian Ubuntu Noto Sans "
        "CJK TC"
    )
    assert {word for words in english for word in words} <= ALLOWED | set(named.split())
    assert {"混淆矩陣", "信心值最高的錯誤", "訓練過程：分類器"} <= set(found)
    shown = " ".join(report(tmp_path / "en", "en").found)
    assert "Confusion matrix" not in shown and "confusion matrix" in shown
    assert not re.search("準確|信賴|校準|類別數", shown)


def test_what_programs_read_is_the_same_in_every_language(tmp_path, without_figures):
    for language in ("en", "zh-tw"):
        report(tmp_path / language, language)
    for name in ("metrics.json", "worst_errors.csv", "classification_report.txt"):
        assert (tmp_path / "en" / name).read_bytes() == (tmp_path / "zh-tw" / name).read_bytes()


@pytest.mark.parametrize(
    ("language", "code", "html", "body"),
    [
        ("en", "zh-tw", "zh-Hant", "en"),
        ("zh-tw", "zh", "zh-Hant", "zh-Hant-TW"),
        ("zh-tw", "", "zh-Hant", "zh-Hant-TW"),
        ("en", "de", "de", "en"),
        ("zh-tw", "en", "en", "zh-Hant-TW"),
    ],
)
def test_the_page_names_the_languages_of_its_texts_and_of_its_own_words(
    tmp_path, without_figures, language, code, html, body
):
    tags = report(tmp_path, language, language=code).tags
    found = {tag: attrs.get("lang") for tag, attrs in tags if tag in ("html", "body")}
    assert found == {"html": html, "body": body}
    article = next(i for i, (tag, _) in enumerate(tags) if tag == "article")
    texts = next(attrs for tag, attrs in tags[article:] if tag == "div")
    assert texts.get("lang") == html


def test_a_class_name_of_another_script_is_marked_and_one_of_the_words_own_is_not(
    tmp_path, without_figures
):
    names = [attrs for tag, attrs in report(tmp_path / "en", "en").tags if tag == "bdi"]
    assert {one.get("lang") for one in names} <= {"zh-Hant", "zh"} and names
    names = [attrs for tag, attrs in report(tmp_path / "zh", "zh-tw").tags if tag == "bdi"]
    assert names and not any(names)


def test_a_note_without_a_translation_is_marked_as_english(tmp_path, without_figures):
    predictions = table(labels=LABELS[:2])
    facts = {"notes": ["Something rare was done.", "TREC test split"]}
    write_report(tmp_path, predictions, {}, {}, facts, report_language="zh-tw")
    html = (tmp_path / "report.html").read_text("utf-8")
    assert '<li lang="en">Something rare was done.</li>' in html
    assert "<li>TREC 測試集</li>" in html


def test_a_text_is_cut_between_characters():
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one emoji of three
    assert first_characters("好" + family, 3) == "好"
    assert cut("e\u0301" * 40, 3).startswith("e\u0301 …")
    assert cut("台北" * 40, 3) == "台北台 … (80 characters in all)"
    with speaking("zh-tw"):
        assert cut("台北" * 40, 3) == "台北台 …（全文共 80 個字元）"


# -------------------------------------------------------------------------- widths and line breaks
def test_a_line_never_begins_with_a_closing_mark_nor_ends_with_an_opening_one():
    text = "他說：「今天天氣很好，（真的！）我們去台北的 Taipei 101、淡水吧。」老闆笑了…好"
    for width in range(4, 40):
        lines = wrap(text, width)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert not [one for one in lines if one[0] in "。，、」）！…：" or one[-1] in "「（"]
        assert "Taipei" in " ".join(lines), "a word stays whole"
        # A character with the marks around it may be wider than a narrow line.
        assert all(width_of(one) <= max(width, 8) for one in lines)


def test_full_width_characters_take_two_columns():
    assert [width_of(one) for one in ("中文", "ab", "ｱ", "Ａ", "한", "e\u0301")] == [
        4,
        2,
        1,
        2,
        2,
        1,
    ]
    assert pad("中文", 6) == "  中文" and shorten("一二三四五六七八", 12) == "一二三…七八"
    assert width_of(shorten("一二三四五六七八九十" * 5, 24)) <= 24


def test_columns_of_the_classification_report_stand_below_each_other():
    keys = "precision", "recall", "f1", "average_precision"
    scores = dict.fromkeys(keys, 0.5) | {"support": 3}
    means = "accuracy", "macro_f1", "balanced_accuracy", "mean_average_precision"
    of_all = dict.fromkeys(means, 0.5) | {"n": 6, "accuracy_ci95": [0.1, 0.9]}
    lines = classification_report({"per_class": {"好": scores, "很長的名稱": scores}} | of_all)
    widths = {width_of(one) for one in lines.split("\n") if "0.5000" in one and "95 %" not in one}
    assert len(widths) == 1


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("網頁設計工作室", "zh-Hant"),
        ("网页设计工作室", "zh-Hans"),
        ("中文", "zh"),
        ("日本語のテキスト", "ja"),
        ("한국어 텍스트", "ko"),
        ("ข้อความภาษาไทย", "th"),
        ("an English text on 茶", ""),
        ("HTML 語法", "zh-Hant"),
        ("2024", ""),
    ],
)
def test_a_script_is_told_by_its_characters(text, script):
    assert script_of(text) == script


# --------------------------------------------------------------------------------- as it is called
def test_words_that_moved_a_prediction_are_titled_in_chinese(tmp_path):
    predictor = Predictor(saved_classifier(tmp_path), "fp32")
    with speaking("zh-tw"):
        html = explain(predictor, "a dull film").html(how=False)
    titles = re.findall('title="([^"]*)"', html)
    assert titles and all(
        re.fullmatch(r"對 .+ 的對數勝算：[+-]\d.*；去掉後機率為 .+", one) for one in titles
    )


def test_the_verb_report_writes_predictions_in_chinese(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table(labels=LABELS[:2]).to_csv("答案.csv", index=False)
    assert main(["report", "答案.csv", "--out", "out", "--report-language", "zh-tw"]) == 0
    html = Path("out/report.html").read_text("utf-8")
    assert "<title>模型：答案.csv</title>" in html and "這些文本最常見的類別" in html
    with pytest.raises(SystemExit):
        main(["report", "答案.csv", "--out", "out", "--report-language", "fr"])
    assert "zh-tw" in capsys.readouterr().err


@pytest.fixture
def run(csv, tmp_path, monkeypatch):
    """A run whose stages are marked as finished but for the report, and its reports' languages."""
    made = []

    def make_report(run, folder, language):
        made.append(language)
        (folder / "report.html").write_text(language, encoding="utf-8")
        return {"report_language": language}

    monkeypatch.setattr(run_module, "make_report", make_report)
    run = begin(tmp_path / "run", small_settings(csv))
    for stage in run.stages.values():
        if stage.name != "report":
            replace(stage, work=lambda folder: None).carry_out(run.folder / stage.name, "fp32")
    return run.folder, made


def test_a_report_is_made_again_for_another_language_and_for_that_alone(run):
    folder, made = run
    marks = {one: one.read_bytes() for one in folder.glob("[!r]*/stage.json")}
    Run.open(folder).carry_out(report_language="zh-tw")
    assert made == ["zh-tw"]
    Run.open(folder).carry_out()
    Run.open(folder).carry_out(report_language="zh-tw")
    assert made == ["zh-tw"], "as it was, and as it is"
    Run.open(folder).repeat("report")
    assert made == ["zh-tw"] * 2, "again, in the language that it had"
    Run.open(folder).carry_out(report_language="en")
    assert made[2:] == ["en"] and (folder / "report" / "report.html").read_text() == "en"
    assert {one: one.read_bytes() for one in marks} == marks and len(marks) == 3


def test_the_verb_report_takes_the_language_of_a_runs_report_and_no_other_option(run, capsys):
    folder, made = run
    Run.open(folder).carry_out()
    assert main(["report", str(folder), "--report-language", "zh-tw"]) == 0
    assert main(["report", str(folder)]) == 0
    assert made == ["en", "zh-tw", "zh-tw"]
    options = ["--report-language", "en", "--text", "review"]
    assert main(["report", str(folder), *options]) == 2
    assert "is a run folder, whose report has its place and its data" in capsys.readouterr().err
