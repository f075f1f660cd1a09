"""Notebook 10, Chinese: its settings, what a language model expects; checks of its exercises.

Tables, sentences and verdicts are in Traditional Chinese, as the notebook is.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from types import EllipsisType

import numpy as np
import pandas as pd

from ulmfit_app.config import CHINESE, REVIEWS, DataSettings, Settings, TokenSettings
from ulmfit_app.course import CHINESE_REVIEWS, Verdict, check_answered, check_number, judge
from ulmfit_app.course.lesson_03 import predict_next_word, read_word_by_word
from ulmfit_app.errors import SettingError
from ulmfit_app.inference.generation import generate
from ulmfit_app.inference.language_model import TrainedModel
from ulmfit_app.sampling_settings import SamplingSettings
from ulmfit_app.text.chinese import converter
from ulmfit_app.text.subwords import SubwordTokenizer

START = CHINESE
PACKAGES = ("opencc", "sentencepiece", "tokenizers")  # of the extra chinese
# Epochs of the language model and of the classifier. The texts are so few and so short that an
# epoch takes a second or two.
_EPOCHS = {"tiny": (1, 4), "laptop": (3, 10)}


def prepare(settings: Settings) -> Settings:
    """The settings of a preset for the Chinese texts and language model of the package.

    Args:
        settings: of the course. The preset paper keeps its numbers of epochs.

    Raises:
        SettingError: a package of the extra `chinese` is not installed.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SettingError(
            f"這本筆記需要的套件尚未安裝：{'、'.join(missing)}。"
            "請執行：pip install 'ulmfit-app[chinese]'"
        )
    few = {"max_train": 80, "max_valid": 20, "max_test": 40}
    is_tiny = settings.lm.pretrained == "none"
    data = DataSettings(
        str(CHINESE_REVIEWS), text="text", label="label", split="split", **(few if is_tiny else {})
    )
    epochs = settings.lm.epochs, settings.classifier.epochs
    if is_tiny or settings.lm.pretrained == REVIEWS:
        epochs = _EPOCHS["tiny" if is_tiny else "laptop"]
    return replace(
        settings,
        data=data,
        tokens=TokenSettings(language="zh-tw", max_vocab=4_000, opencc="s2twp"),
        lm=replace(settings.lm, pretrained=START, epochs=epochs[0]),
        classifier=replace(settings.classifier, epochs=epochs[1]),
    )


# ---------------------------------------------------------------------------- the language model
def _readable(token: str) -> str:
    return "（換行）" if token == "\n" else "（空格）" if token == " " else token


def predict_next(model: TrainedModel, begun: Sequence[str], top: int = 6) -> pd.DataFrame:
    """What a language model holds likeliest behind beginnings of texts.

    Returns:
        One column per beginning: the likeliest subwords with their probabilities.
    """
    columns = {}
    for text in begun:
        likeliest = predict_next_word(model, text).head(top)
        columns[f"{text}…"] = [f"{_readable(token)}　{p:.1%}" for token, p in likeliest.items()]
    return pd.DataFrame(columns, index=range(1, top + 1)).rename_axis("名次")


def _perplexity(model: TrainedModel, texts: Sequence[str], n: int) -> float:
    nats = sum(float(read_word_by_word(model, text)["nats"].sum()) for text in texts)
    return math.exp(nats / n)


def compare_scripts(model: TrainedModel, texts: Sequence[str], seed: int) -> pd.DataFrame:
    """The perplexity per character of the same texts in two scripts, and in disorder.

    Args:
        model: one that converts Simplified to Traditional before it reads.
        texts: Traditional ones.
        seed: of the disorder.

    Returns:
        One row per form of the texts: 形式, 例 (the first one) and 每字困惑度.
    """
    generator, simplify = np.random.default_rng(seed), converter("t2s")
    simplified = [simplify(text) for text in texts]
    shuffled = ["".join(generator.permutation(list(text))) for text in texts]
    unconverted = replace(model, bundle=replace(model.bundle, opencc=""))
    forms = {
        "繁體原文": (model, texts),
        "簡體，先轉成繁體再讀": (model, simplified),
        "簡體，不轉換": (unconverted, simplified),
        "繁體，每句的字打亂": (model, shuffled),
    }
    n = sum(map(len, texts))  # the same for all forms
    rows = [(name, of[0], _perplexity(read_by, of, n)) for name, (read_by, of) in forms.items()]
    return pd.DataFrame(rows, columns=["形式", "例", "每字困惑度"]).round(1)


def write_on(
    model: TrainedModel, begun: Sequence[str], draws: Sequence[SamplingSettings]
) -> pd.DataFrame:
    """What a language model writes behind beginnings of texts: 溫度 and 續寫, in one line each."""
    rows = [
        (draw.temperature, "".join(generate(model, text, draw)[0].split()))
        for text in begun
        for draw in draws
    ]
    return pd.DataFrame(rows, columns=["溫度", "續寫"])


# --------------------------------------------------------------------------------- the exercises
def check_text(
    answer: str | EllipsisType, target: Sequence[str], tokenizer: SubwordTokenizer
) -> Verdict:
    """Exercise 1: a text whose subwords are `target`."""
    if verdict := check_answered(answer, "zh-tw"):
        return verdict
    if not isinstance(answer, str):
        return Verdict(False, "答案應該是一段文字，也就是字串。", "zh-tw")
    tokens, target = tokenizer(answer)[1:], list(target)
    shorter = min(len(tokens), len(target))
    same = next((i for i in range(shorter) if tokens[i] != target[i]), shorter)
    got, wanted = (
        f"「{part[same]}」" if same < len(part) else "到此為止" for part in (tokens, target)
    )
    return judge(
        {
            "特殊詞元由斷詞器自己加上；文字裡打出 xxrep，只會被當成一般文字。": "xx" in answer,
            f"前 {same} 個子詞正確；接下來是{got}，應該是{wanted}。": tokens != target,
        },
        f"「{answer}」正好切成這 {len(target)} 個子詞。",
        "zh-tw",
    )


def check_per_character(answer: float | EllipsisType, steps: pd.DataFrame, text: str) -> Verdict:
    """Exercise 2: the perplexity per character of a text, to a hundredth.

    Args:
        answer: the perplexity.
        steps: of `lesson_03.read_word_by_word`.
        text: that was read.
    """
    if verdict := check_number(answer, language="zh-tw"):
        return verdict
    nats, n_tokens, n = steps["nats"].sum(), len(steps), len(text)
    right = math.exp(nats / n)

    def is_near(wanted: float) -> bool:
        return abs(answer - wanted) <= wanted / 100

    return judge(
        {
            "這是每個子詞的困惑度；子詞切得不同的模型不能這樣比。": is_near(
                math.exp(nats / n_tokens)
            )
            and not is_near(right),
            "這是每個字的平均 nat。困惑度是 e 的這個次方。": is_near(nats / n),
            "這是機率平均的倒數。要先平均對數，再取 e 的次方。": is_near(
                1 / steps["probability"].mean()
            ),
            f"{answer:.4g} 不是 e 的（nat 總和除以 {n} 個字）次方。": not is_near(right),
        },
        f"每字 {right:.1f}。同一段文字若以 {n_tokens} 個子詞計算，則是每個子詞 "
        f"{math.exp(nats / n_tokens):.1f}。",
        "zh-tw",
    )


def check_recall(answer: float | EllipsisType, matrix: np.ndarray, row: int) -> Verdict:
    """Exercise 3: the recall of a label by a confusion matrix, to a thousandth."""
    if verdict := check_number(answer, language="zh-tw"):
        return verdict
    matrix = np.asarray(matrix)
    right, hits = matrix[row, row] / matrix[row].sum(), np.diag(matrix)

    def is_instead(mistake: float) -> bool:
        return bool(abs(answer - mistake) < 1e-3 <= abs(answer - right))

    with np.errstate(invalid="ignore"):
        precision, other = matrix[row, row] / matrix[:, row].sum(), hits / matrix.sum(axis=1)
    return judge(
        {
            "召回率是比例，應該在 0 與 1 之間。": not 0 <= answer <= 1,
            "這是精確率，除以一欄的總和；召回率除以一列的總和。": is_instead(precision),
            "這是準確率，把兩個標籤混在一起算。": is_instead(hits.sum() / matrix.sum()),
            "這是另一個標籤的召回率。": any(map(is_instead, np.delete(other, row))),
            "這是漏掉的比例，也就是 1 減去召回率。": is_instead(1 - right),
            f"{answer:.4g} 不是這個標籤的文字中被找出來的比例。": abs(answer - right) >= 1e-3,
        },
        f"{right:.1%}：{matrix[row].sum()} 則之中找出 {matrix[row, row]} 則。",
        "zh-tw",
    )
