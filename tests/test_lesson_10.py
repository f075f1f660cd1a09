"""Notebook 10, Chinese: units and conversions, perplexity by the character, trials, checks."""

import csv
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import says

pytest.importorskip("opencc", reason="the extra chinese is not installed")
pytest.importorskip("sentencepiece", reason="the extra chinese is not installed")
pytest.importorskip("tokenizers", reason="the extra chinese is not installed")

from ulmfit_app.config import ModelSettings
from ulmfit_app.course import (
    CHINESE_REVIEWS,
    PRESETS,
    chinese_trials,
    label_trials,
    lesson_02,
    lesson_06,
    lesson_10,
    segmentation,
)
from ulmfit_app.course.chinese_trials import NAMES, Answers, ChineseTrials
from ulmfit_app.data.inspection import inspect
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation import figures
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.experiments.label_curve import SCRATCH, SEMI_SUPERVISED, TFIDF
from ulmfit_app.inference.language_model import load
from ulmfit_app.models.bundle import Bundle, save_bundle
from ulmfit_app.sampling_settings import SamplingSettings
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.unigram import BEGIN, learn_subwords


def reviews() -> list[dict[str, str]]:
    with open(CHINESE_REVIEWS, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def definition() -> str:
    texts = [one["text"] for one in reviews()] + ["研究生命起源", "研究生", "生命"] * 20
    return learn_subwords(texts, 2_400, "zh-tw")


@pytest.fixture(scope="module")
def tokenizer(definition) -> SubwordTokenizer:
    return SubwordTokenizer(definition, BEGIN)


@pytest.fixture(scope="module")
def start(definition, tokenizer, tmp_path_factory):
    """The folder of a language model of random weights that reads Traditional Chinese."""
    folder, shape = tmp_path_factory.mktemp("start"), ModelSettings(8, 12, 1)
    about = Bundle("language model", shape, "zh-tw", tokenizer.vocab)
    about = replace(about, tokenizer=definition, opencc="s2twp")
    torch.manual_seed(1)
    save_bundle(folder, lesson_02.build_fastai_model(about), about)
    return folder


@pytest.fixture(scope="module")
def model(start):
    return load(start, "fp32")


# ------------------------------------------------------------------------------------- the texts
def test_the_reviews_are_balanced_and_different_and_in_order():
    found = reviews()
    assert len({one["text"] for one in found}) == len(found) == 362
    counted = Counter((one["split"], one["label"]) for one in found)
    assert counted == Counter(
        {(split, label): n for split, n in (("train", 80), ("valid", 20), ("test", 81))
         for label in ("好評", "負評")}
    )  # fmt: skip
    settings = lesson_10.prepare(PRESETS["laptop"])
    told = inspect(settings.data, settings.tokens, 42)
    assert not [one.name for one in told.findings if one.trouble]


def test_a_preset_keeps_its_size_and_takes_the_chinese_texts_and_start(monkeypatch):
    laptop, tiny, paper = (
        lesson_10.prepare(PRESETS[name]) for name in ("laptop", "tiny", "paper")
    )
    for one in (laptop, tiny, paper):
        assert one.data.source == str(CHINESE_REVIEWS)
        assert (one.lm.pretrained, one.tokens.language) == (lesson_10.START, "zh-tw")
    assert tiny.data.max_train < 160 and laptop.data.max_train is None
    assert tiny.classifier.epochs < laptop.classifier.epochs
    assert paper.lm.epochs == PRESETS["paper"].lm.epochs
    monkeypatch.setattr(lesson_10, "PACKAGES", ("json", "no_such_package"))
    with pytest.raises(
        SettingError, match=r"尚未安裝：no_such_package。.*pip install 'ulmfit-app\["
    ):
        lesson_10.prepare(PRESETS["tiny"])


# ------------------------------------------------------------------------------- units of a text
def test_one_sentence_is_counted_in_three_units(tokenizer):
    words = ["服務", "很", "好", "！"]
    table = segmentation.tabulate_units(words, tokenizer).set_index("單位")
    assert table["個數"].tolist() == [5, 4, len(tokenizer("服務很好！")) - 1]
    assert table["切分"]["字"] == "服 / 務 / 很 / 好 / ！"


def test_all_divisions_are_listed_and_the_greedy_one_is_marked():
    words = {"研究", "研究生", "生", "生命", "命", "起源"}
    table = segmentation.list_splits("研究生命起源", words).set_index("切法")["最長詞優先"]
    assert set(table.index) == {
        "研究 / 生 / 命 / 起源",
        "研究 / 生命 / 起源",
        "研究生 / 命 / 起源",
    }
    assert table[table == "✓"].index.tolist() == ["研究生 / 命 / 起源"]
    # The greedy rule ends in nothing here.
    stuck = segmentation.list_splits("研究生命", {"研究", "研究生", "生命"})
    assert stuck.values.tolist() == [["研究 / 生命", ""]]
    with pytest.raises(ValueError, match="13 個字，最多只能列出 12 個字"):
        segmentation.list_splits("字" * 13, words)


def test_the_likeliest_division_is_the_one_that_sentencepiece_takes(tokenizer):
    for text in ("研究生命起源", "服務很好", "早餐種類豐富"):
        ranked = segmentation.rank_splits(tokenizer, text, top=1_000)
        assert ranked["切法"][0] == " / ".join(tokenizer(text)[1:])
        shares = [float(share.rstrip("%")) for share in ranked["占比"]]
        assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
        parts = [float(part) for part in ranked["每段的分數"][0].split()]
        assert sum(parts) == pytest.approx(ranked["總分"][0], abs=0.05 * len(parts) + 0.05)


def test_texts_come_back_and_conversions_are_told(tokenizer, model):
    texts = ["好好好好好", "龘 🍜\n"]
    table = segmentation.tabulate_subwords(tokenizer, texts)
    assert table["還原後"].tolist() == texts and table["子詞"][0] == "xxrep 5 好"
    told = segmentation.tabulate_conversions(["软件", "酒店"], "s2twp")
    assert told["轉換後"].tolist() == ["軟體", "酒店"]
    assert told["是否改變"].tolist() == ["是", "否"]
    traced = segmentation.trace(model.tokenizer, "软件很好")
    assert "".join(traced["模型讀到的子詞"]) == "軟體很好"
    assert traced["原文的字"].str.cat() == "软件很好"


# ---------------------------------------------------------------------------- the language model
def test_the_likeliest_subwords_come_first_with_their_probabilities(model):
    table = lesson_10.predict_next(model, ["服務", "房間"], top=3)
    assert table.columns.tolist() == ["服務…", "房間…"] and table.index.tolist() == [1, 2, 3]
    shares = [float(cell.split("　")[1].rstrip("%")) for cell in table["服務…"]]
    assert shares == sorted(shares, reverse=True)


def test_a_perplexity_is_that_of_all_nats_over_the_characters_typed(model):
    texts = ["服務很好！", "房間乾淨"]
    table = lesson_10.compare_scripts(model, texts, seed=1).set_index("形式")["每字困惑度"]
    nats = 0.0
    for text in texts:
        ids = torch.from_numpy(model.tokenizer.ids([text])[0].astype(np.int64))[None]
        model.model.reset()
        with torch.no_grad():
            logits = model.model(ids[:, :-1])[0]
            nats += float(logits.cross_entropy(ids[:, 1:])) * (ids.shape[1] - 1)
    assert table["繁體原文"] == pytest.approx(math.exp(nats / 9), abs=0.06)
    assert table["簡體，先轉成繁體再讀"] == table["繁體原文"]
    # The untrained model holds all subwords equally likely: bytes, three a character, cost most.
    assert table["簡體，不轉換"] > 2 * table["繁體原文"]
    forms = lesson_10.compare_scripts(model, texts, seed=1)["例"]
    assert (
        forms[1] == "服务很好！" and sorted(forms[3]) == sorted(texts[0]) and forms[3] != texts[0]
    )


def test_what_is_written_follows_from_the_seed(model):
    draws = [SamplingSettings(words=5, temperature=t, seed=1) for t in (0.5, 1.0)]
    table = lesson_10.write_on(model, ["服務"], draws)
    assert table["溫度"].tolist() == [0.5, 1.0] and table["續寫"].str.startswith("服務").all()
    assert table.equals(lesson_10.write_on(model, ["服務"], draws))


# ------------------------------------------------------------------------------- the classifiers
def made_answers(right: int, wrong: int) -> Answers:
    """A classifier of two labels that is right so often, equally sure of all."""
    truth = np.array([0, 1] * ((right + wrong) // 2))
    probabilities = np.full((len(truth), 2), 0.3)
    predicted = np.where(np.arange(len(truth)) < right, truth, 1 - truth)
    probabilities[np.arange(len(truth)), predicted] = 0.7
    texts = pd.Series([f"第{i}則" for i in range(len(truth))])
    return Answers(None, lesson_06.ScoredSplit(texts, truth, ["好評", "負評"], probabilities))


def test_a_classifier_is_kept_with_its_answers_and_explained_by_the_texts_own_characters(
    start, monkeypatch
):
    monkeypatch.setattr(lesson_10, "START", str(start))
    settings = lesson_10.prepare(PRESETS["tiny"])
    classifier = replace(settings.classifier, plan="full", epochs=1)
    trials = ChineseTrials(replace(settings, classifier=classifier))
    answers = trials.find_answers(SEMI_SUPERVISED, 30)
    assert (answers.right == trials.find_right(SEMI_SUPERVISED, 30)).all()
    assert answers.test.texts.tolist() == trials.table.query("split == 'test'")["text"].tolist()
    assert answers.confusion.sum() == trials.sizes.test == 40
    text = "服务很好，下次再來！"
    explained = chinese_trials.explain_text(answers, text, top=3)
    assert len(explained) == 3
    for row in explained.itertuples():
        assert text[row.位置 - 1 :].startswith(row.字詞)
    shown = chinese_trials.sample_texts(trials, 4, seed=1)
    assert set(shown["標籤"]) <= {"好評", "負評"} and set(shown["分組"]) <= {
        "訓練",
        "驗證",
        "測試",
    }


def test_counting_in_trials_counts_characters_in_a_language_without_spaces(monkeypatch):
    seen = {}

    def count(*arguments):
        seen["language"] = arguments[-1]
        return np.zeros((len(arguments[2]), 2))

    monkeypatch.setattr(label_trials, "tfidf_logistic_regression", count)
    ChineseTrials(lesson_10.prepare(PRESETS["tiny"])).find_right(TFIDF, 30)
    assert seen["language"] == "zh-tw"


@pytest.fixture
def curve() -> pd.DataFrame:
    rows = [
        (NAMES[way], n, 162, error, error - 7, error + 7)
        for way, error in ((SEMI_SUPERVISED, 30.0), (SCRATCH, 40.0))
        for n in (40, 200)
    ]
    return pd.DataFrame(rows, columns=["way", "labels", "n", "error", "low", "high"])


def test_a_curve_is_told_in_accuracies(curve):
    table = chinese_trials.format_curve(curve)
    assert table.index.tolist() == [40, 200]
    assert table.loc[40, NAMES[SEMI_SUPERVISED]] == "70.0%（63.0–77.0）"


@pytest.mark.parametrize("has_font", [True, False])
def test_a_figure_is_chinese_where_a_font_has_its_characters_and_else_english(
    curve, has_font, monkeypatch
):
    missing = set() if has_font else {"圖"}
    monkeypatch.setattr(chinese_trials, "families_for", lambda text: (["DejaVu Sans"], missing))
    drawn = chinese_trials.draw_curve(curve)
    matrix = chinese_trials.draw_confusion(made_answers(60, 20))
    ways = drawn.axes[0].get_legend_handles_labels()[1]
    if has_font:
        assert drawn.axes[0].get_title() == "標籤多少與錯誤率，n = 162"
        assert "由 30.0% 到 30.0%" in repr(drawn) and NAMES[SCRATCH] in ways
        assert "混淆矩陣" in matrix.axes[0].get_title() and "負評被判為好評 10 則" in repr(matrix)
    else:
        assert drawn.axes[0].get_title() == "Errors with few labels and many, n = 162"
        assert SCRATCH in ways and "Confusion matrix" in matrix.axes[0].get_title()
    assert (
        "Confusion"
        in figures.confusion_figure(np.eye(2, dtype=int), ["a", "b"]).axes[0].get_title()
    )


def test_an_accuracy_is_told_with_its_interval_and_a_confidence_with_what_chance_makes():
    answers = made_answers(60, 20)
    low, high = accuracy_interval(60, 80)
    said = f"n = 80，答對 60 則，準確率 75.0%，95% 信賴區間 {low:.1%} 至 {high:.1%}。"
    assert chinese_trials.describe_accuracy(answers) == said
    assert "不超過偶然" in chinese_trials.describe_confidence(answers)
    assert "整體而言過度自信" in chinese_trials.describe_confidence(made_answers(20, 60))
    assert "整體而言信心不足" in chinese_trials.describe_confidence(made_answers(80, 0))


def test_errors_are_those_of_the_table_the_most_confident_first():
    answers = made_answers(76, 4)
    answers.test.probabilities[78:] = [[0.1, 0.9], [0.9, 0.1]]
    errors = chinese_trials.list_errors(answers)
    assert len(errors) == (~answers.right).sum() and errors["信心值"].is_monotonic_decreasing
    assert (errors["標籤"] != errors["預測"]).all()


def test_ways_are_compared_in_chinese_by_the_same_p_values(monkeypatch):
    trials = object.__new__(ChineseTrials)
    first, other = np.arange(100) < 80, np.arange(100) < 60
    trials._right = {(SEMI_SUPERVISED, 40, 0): first, (TFIDF, 40, 0): other}
    pairs = [(SEMI_SUPERVISED, TFIDF), (TFIDF, SEMI_SUPERVISED), (TFIDF, TFIDF)]
    table = chinese_trials.compare_ways(trials, pairs, [40])
    assert table["結論"].tolist() == ["甲較好", "乙較好", "分不出高下"]
    assert table["只有甲對"].tolist() == [20, 0, 0] and table["p 值"][0] == "< 0.0001"


# --------------------------------------------------------------------------------- the exercises
def test_a_text_is_judged_by_its_subwords(tokenizer):
    target = tokenizer("哈哈哈哈，服務很好！")[1:]
    assert lesson_10.check_text("哈哈哈哈，服務很好！", target, tokenizer).right
    assert "前 1 個子詞正確；接下來是「5」，應該是「4」" in says(
        lesson_10.check_text("哈哈哈哈哈，服務很好！", target, tokenizer)
    )
    assert "應該是「！」" in says(lesson_10.check_text("哈哈哈哈，服務很好", target, tokenizer))
    assert "只會被當成一般文字" in says(lesson_10.check_text("xxrep 4 哈", target, tokenizer))
    assert "字串" in says(lesson_10.check_text(4, target, tokenizer))
    assert str(lesson_10.check_text(..., target, tokenizer)).startswith("還不對：請把三個點換成")


def test_a_perplexity_per_character_is_told_from_that_per_subword():
    steps = pd.DataFrame({"probability": [0.1, 0.02, 0.5]})
    steps["nats"] = -np.log(steps["probability"])
    total = steps["nats"].sum()
    verdict = lesson_10.check_per_character(math.exp(total / 5), steps, "五個字的句")
    assert verdict.right and str(verdict).startswith("正確：每字 ")
    for answer, said in (
        (math.exp(total / 3), "每個子詞的困惑度"),
        (total / 5, "每個字的平均 nat"),
        (3 / 0.62, "機率平均的倒數"),
        (99.0, "不是 e 的"),
        ("many", "答案應該是一個數，收到的是 'many'"),
    ):
        assert said in says(lesson_10.check_per_character(answer, steps, "五個字的句"))


def test_a_recall_is_told_from_a_precision():
    matrix = np.array([[50, 31], [20, 61]])
    assert lesson_10.check_recall(61 / 81, matrix, 1).right
    for answer, said in (
        (61 / 92, "精確率"),
        (111 / 162, "準確率"),
        (50 / 81, "另一個標籤"),
        (20 / 81, "漏掉的比例"),
        (75.3, "0 與 1 之間"),
        (0.5, "不是這個標籤的文字中"),
    ):
        assert said in says(lesson_10.check_recall(answer, matrix, 1))
    assert "整數" not in says(lesson_10.check_recall(None, matrix, 1))
