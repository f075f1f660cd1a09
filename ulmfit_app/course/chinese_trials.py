"""The classifiers of notebook 10, and what they are worth: the trials of 07 on Chinese texts.

Tables, figures and sentences are in Traditional Chinese, as the notebook is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ulmfit_app.config import Settings
from ulmfit_app.course import lesson_06, lesson_07
from ulmfit_app.course.label_trials import SCRATCH, SEMI_SUPERVISED, TFIDF, LabelTrials
from ulmfit_app.evaluation.calibration import calibration_error_by_chance
from ulmfit_app.evaluation.figures import confusion_figure
from ulmfit_app.evaluation.fonts import families_for
from ulmfit_app.evaluation.messages import ReportLanguage, characters_of, speaking
from ulmfit_app.evaluation.metrics import accuracy_interval, expected_calibration_error, score
from ulmfit_app.evaluation.study_figures import label_curve_figure
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.pipeline.run import Run

NAMES = {
    SEMI_SUPERVISED: "ULMFiT（預訓練＋微調）",
    SCRATCH: "同樣的網路，隨機權重",
    TFIDF: "TF-IDF＋邏輯迴歸",
}


@dataclass(frozen=True)
class Answers:
    """A classifier, and what it says of the test texts."""

    predictor: Predictor
    test: lesson_06.ScoredSplit

    @property
    def right(self) -> np.ndarray:
        """Which test texts it gets right, boolean [n_test]."""
        return self.test.probabilities.argmax(axis=1) == self.test.truth

    @property
    def confusion(self) -> np.ndarray:
        """Counts [n_labels, n_labels]; rows true, columns predicted."""
        found = score(self.test.probabilities, self.test.truth, self.test.labels)
        return np.asarray(found["confusion_matrix"])


class ChineseTrials(LabelTrials):
    """The trials of notebook 07, which keep their classifiers.

    Args:
        settings: the texts, and how to train.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._answers: dict[tuple[str, int, int], Answers] = {}

    def find_answers(self, way: str, n_labels: int, draw: int = 0) -> Answers:
        """A classifier and what it says of the test texts.

        Args:
            way: one whose classifier is a network.
            n_labels: that it learns from and validates on.
            draw: which labels, and the seed of the training.
        """
        self.find_right(way, n_labels, draw)
        return self._answers[way, n_labels, draw]

    def _learn_ulmfit(self, way: str, n_labels: int, draw: int) -> np.ndarray:
        right = super()._learn_ulmfit(way, n_labels, draw)
        self._answers[way, n_labels, draw] = self._last
        return right

    def _score(self, run: Run, predictor: Predictor) -> np.ndarray:
        test, truth = run.labelled("test")
        probabilities = predictor.probabilities(run.open_tokens(), test)
        texts = run.rows["text"][test].reset_index(drop=True)
        scored = lesson_06.ScoredSplit(texts, truth, predictor.labels, probabilities)
        self._last = Answers(predictor, scored)
        return self._last.right


def sample_texts(trials: LabelTrials, n: int, seed: int) -> pd.DataFrame:
    """Some of the labelled texts: 文字, 標籤 and 分組."""
    parts = {"train": "訓練", "valid": "驗證", "test": "測試"}
    table = trials.table.sample(n, random_state=seed)[["text", "label", "split"]]
    table = table.assign(split=table["split"].map(parts)).reset_index(drop=True)
    return table.set_axis(["文字", "標籤", "分組"], axis=1)


def tabulate_curve(trials: LabelTrials, at: Sequence[int], draws: int = 1) -> pd.DataFrame:
    """Test errors of NAMES by number of labels, as `lesson_07.tabulate_curve` gives them."""
    curve = lesson_07.tabulate_curve(trials, at, draws, list(NAMES))
    return curve.assign(way=curve["way"].map(NAMES))


def format_curve(curve: pd.DataFrame) -> pd.DataFrame:
    """The table of `tabulate_curve` as accuracies with their 95 % intervals, a row per number."""
    cells = [
        f"{100 - row.error:.1f}%（{100 - row.high:.1f}–{100 - row.low:.1f}）"
        for row in curve.itertuples()
    ]
    table = curve.assign(cell=cells).pivot(index="labels", columns="way", values="cell")
    return table[curve["way"].unique()].rename_axis(index="標籤數", columns=None)


def compare_ways(
    trials: LabelTrials, pairs: Sequence[tuple[str, str]], at: Sequence[int]
) -> pd.DataFrame:
    """Pairs of ways on the same test texts, judged by McNemar's test as in notebook 07.

    Returns:
        One row per pair and number of labels: 標籤數, 甲, 乙, 只有甲對, 只有乙對, 差距 (points),
        p 值 and 結論.
    """
    rows = []
    for row in lesson_07.compare_ways(trials, pairs, at).itertuples():
        better = "甲較好" if row.difference > 0 else "乙較好"
        verdict = better if row.p_value < lesson_07.SIGNIFICANT else "分不出高下"
        difference = f"{row.difference:+.1f}（{row.low:+.1f} 至 {row.high:+.1f}）"
        names, alone = (NAMES[row.first], NAMES[row.other]), (row.only_first, row.only_other)
        p_value = lesson_07.format_p(row.p_value)
        rows.append((row.labels, *names, *alone, difference, p_value, verdict))
    columns = ["標籤數", "甲", "乙", "只有甲對", "只有乙對", "差距（百分點）", "p 值", "結論"]
    return pd.DataFrame(rows, columns=columns)


# -------------------------------------------------------------------------- what they are worth
def _language_for(text: str) -> ReportLanguage:
    """Chinese where an installed font has a figure's characters; without one, English."""
    return "en" if families_for(text)[1] else "zh-tw"


def draw_curve(curve: pd.DataFrame) -> Figure:
    """The figure of a table of `tabulate_curve`."""
    ylabel, xlabel = "測試錯誤率（%），附 95% 信賴區間", "有標籤的文字數"
    title = f"標籤多少與錯誤率，n = {int(curve['n'].max()):,}"
    if _language_for("".join((ylabel, xlabel, title, *curve["way"]))) == "en":
        english = {name: way for way, name in NAMES.items()}
        return label_curve_figure(curve.assign(way=curve["way"].map(english)))
    figure = label_curve_figure(curve)
    figure.axes[0].set(ylabel=ylabel, xlabel=xlabel, title=title)
    ends = [
        f"{way}由 {of['error'].iloc[0]:.1f}% 到 {of['error'].iloc[-1]:.1f}%"
        for way, of in curve.groupby("way", sort=False)
    ]
    at = f"標籤數由 {curve['labels'].min():,} 增加到 {curve['labels'].max():,} "
    figure.description = f"{at}時的測試錯誤率：{'；'.join(ends)}"
    return figure


def draw_confusion(answers: Answers) -> Figure:
    """The confusion matrix of a classifier on the test texts."""
    labels, matrix = answers.test.labels, answers.confusion
    language = _language_for("".join(labels) + characters_of("zh-tw"))
    with speaking(language):
        figure = confusion_figure(matrix, labels)
    if language == "zh-tw":
        cells = [
            f"{labels[i]}被判為{labels[j]} {count} 則" for (i, j), count in np.ndenumerate(matrix)
        ]
        figure.description = "；".join(cells)
    return figure


def describe_accuracy(answers: Answers) -> str:
    """The accuracy on the test texts with its 95 % interval, in a sentence."""
    right, n = int(answers.right.sum()), len(answers.right)
    low, high = accuracy_interval(right, n)
    return (
        f"n = {n}，答對 {right} 則，準確率 {right / n:.1%}，95% 信賴區間 {low:.1%} 至 {high:.1%}。"
    )


def describe_confidence(answers: Answers) -> str:
    """Whether a classifier is more or less confident than it is right, in two lines."""
    probabilities, truth = answers.test.probabilities, answers.test.truth
    confidence, accuracy = probabilities.max(axis=1).mean(), answers.right.mean()
    error = expected_calibration_error(probabilities, truth)
    chance = calibration_error_by_chance(probabilities)
    verdict = "不超過偶然所能造成的"
    if error > chance:
        side = "過度自信" if confidence > accuracy else "信心不足"
        verdict = f"超過偶然所能造成的，整體而言{side}"
    return (
        f"平均信心值 {confidence:.1%}，準確率 {accuracy:.1%}。\n"
        f"期望校準誤差 {error:.1%}，單憑偶然最多 {chance:.1%}：{verdict}。"
    )


def list_errors(answers: Answers) -> pd.DataFrame:
    """The test texts that a classifier gets wrong, the most confident first.

    Returns:
        Columns 文字, 標籤, 預測 and 信心值.
    """
    table = answers.test.tabulate()[["text", "label", "predicted", "confidence"]]
    wrong = table[~answers.right].sort_values("confidence", ascending=False, kind="stable")
    return wrong.reset_index(drop=True).set_axis(["文字", "標籤", "預測", "信心值"], axis=1)


def explain_text(answers: Answers, text: str, top: int = 6) -> pd.DataFrame:
    """What the probability of the predicted label loses when parts of a text are taken out.

    Returns:
        The parts that matter most, first: 位置 (of the first character, from 1), 字詞, 影響 (by
        how much it raises the log-odds of the label) and 拿掉後的機率.
    """
    found = explain(answers.predictor, text)
    rows = [
        (row.start + 1, row.word, f"{row.score:+.2f}", f"{row.without:.1%}")
        for row in found.strongest(top).itertuples()
    ]
    with_all = f"拿掉後「{found.label}」的機率（原為 {found.probability:.1%}）"
    return pd.DataFrame(rows, columns=["位置", "字詞", "影響", with_all])
