"""What all notebooks share: settings by one name, reviews without a network, verdicts on answers.

Each notebook has a module beside this file, lesson_04 for notebooks/04-recipes.ipynb. It holds the
notebook's experiments, and the checks of its exercises, which compare an answer with what the
package computes. Importing this package changes nothing in the process; `setup` does.
"""

import math
import os
import warnings
from dataclasses import dataclass, replace
from itertools import combinations
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ulmfit_app.config import DataSettings, ModelSettings, Settings
from ulmfit_app.errors import SettingError
from ulmfit_app.presets import LAPTOP, PAPER

DATA = Path(__file__).parent / "data"  # its README.md says where they are from
REVIEWS, MESSY = DATA / "reviews.csv", DATA / "messy.csv"
CHINESE_REVIEWS = DATA / "reviews-zh-tw.csv"
# Environment variables that run all notebooks at another size, and by another seed.
OVERRIDE, SEED = "ULMFIT_PRESET", "ULMFIT_SEED"

# Few enough to train on that one waits for seconds, and enough to validate on that large
# differences show.
_LESS = DataSettings(str(REVIEWS), valid_share=0.2, max_train=1_200)
_LM = replace(LAPTOP.lm, pretrained="en-reviews-small", epochs=1)
_REVIEWS = replace(LAPTOP, data=_LESS, lm=_LM)
_FEW = replace(_LESS, max_train=600, max_valid=48, max_test=48)
_TINY = replace(
    _REVIEWS, data=_FEW, model=ModelSettings(48, 96, 3), lm=replace(_REVIEWS.lm, pretrained="none")
)
# "paper" is the package's own: IMDb, weights of WikiText-103, and hours of a GPU.
PRESETS = {"tiny": _TINY, "laptop": _REVIEWS, "paper": PAPER}


def setup(preset: str) -> Settings:
    """Prepare the process for a notebook, and return the settings of a preset.

    Prepares three things: two warnings that the reader can do nothing about are silenced, the
    processor is set up for training, and tables show whole sentences.

    Args:
        preset: a key of PRESETS. The environment variable ULMFIT_PRESET, where set, overrides it.
            ULMFIT_SEED, where set, is the seed.

    Returns:
        The settings.

    Raises:
        SettingError: there is no such preset, or the seed is not a whole number from 0 on.
    """
    preset = os.environ.get(OVERRIDE, preset)
    if preset not in PRESETS:
        told = f", which {OVERRIDE} names" if OVERRIDE in os.environ else ""
        raise SettingError(
            f"There is no preset {preset!r}{told}. Expected one of: {', '.join(PRESETS)}."
        )
    # What fastai and spaCy import causes both. So they are silenced before torch is imported.
    warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
    warnings.filterwarnings("ignore", "IProgress not found")
    from ulmfit_app.hardware import set_up_cpu

    set_up_cpu()
    pd.set_option("display.max_colwidth", None, "display.precision", 4)
    settings = PRESETS[preset]
    seed = os.environ.get(SEED, str(settings.seed))
    if not seed.isdecimal() or len(seed) > 10 or int(seed) >= 2**32:  # scikit-learn's limit
        raise SettingError(
            f"{SEED} is {seed[:20]!r}. Expected a whole number from 0 to {2**32 - 1}, such as 1."
        )
    return replace(settings, seed=int(seed))


def compare_intervals(table: pd.DataFrame, name: str = "what") -> str:
    """Say of each two rows of a table of scores whether their 95 % intervals overlap.

    All pairs are judged by the same rule, so that like cases get like words. It is a careful rule:
    intervals that overlap a little may still hide a difference, which the interval of the
    difference itself would show, or McNemar's test where both were scored on the same texts
    (notebooks 01 and 07).

    Args:
        table: columns low and high, the ends of the intervals, and the one that names the rows.
        name: of that column.

    Returns:
        One line per pair.

    Raises:
        ValueError: a column is missing, or a row has no interval.

    >>> scores = pd.DataFrame({"what": ["new", "old"], "low": [0.7, 0.5], "high": [0.8, 0.6]})
    >>> compare_intervals(scores)
    'new is above old: their intervals do not overlap.'
    >>> compare_intervals(scores.assign(high=[0.8, 0.75]))
    'new and old: their intervals overlap and do not tell them apart.'
    """
    if missing := {name, "low", "high"} - set(table.columns):
        raise ValueError(f"No column {sorted(missing)}. The table has {list(table.columns)}.")
    if table[["low", "high"]].isna().any(axis=None):
        raise ValueError("A row has no interval: low or high is nan.")
    lines = []
    for one, other in combinations(table[[name, "low", "high"]].to_dict("records"), 2):
        above, below = (one, other) if one["low"] > other["low"] else (other, one)
        if above["low"] > below["high"]:
            lines.append(f"{above[name]} is above {below[name]}: their intervals do not overlap.")
        else:
            same = "their intervals overlap and do not tell them apart"
            lines.append(f"{one[name]} and {other[name]}: {same}.")
    return "\n".join(lines)


Language = Literal["en", "zh-tw"]  # of a notebook
_VERDICTS = {"en": ("Not yet: ", "Right: "), "zh-tw": ("還不對：", "正確：")}
_THREE_DOTS = {
    "en": "put your answer in place of the three dots, and run the cell again.",
    "zh-tw": "請把三個點換成你的答案，再執行一次這個儲存格。",
}
_NO_NUMBER = {
    "en": "expected one number, found {found!r}. Of a column of True and False, sum() counts the "
    "True.",
    "zh-tw": "答案應該是一個數，收到的是 {found!r}。sum() 可以數出一欄裡有幾個 True。",
}
_NOT_WHOLE = {
    "en": "expected a whole number, found {found}.",
    "zh-tw": "答案應該是整數，收到的是 {found}。",
}


@dataclass(frozen=True)
class Verdict:
    """What a check says about an answer.

    Attributes:
        right: whether the answer is right.
        says: in one or two sentences, what is right, or what is wrong and where to look.
        language: of these sentences.
    """

    right: bool
    says: str
    language: Language = "en"

    def __repr__(self) -> str:
        return f"{_VERDICTS[self.language][self.right]}{self.says}"


def judge(wrong: dict[str, bool], right: str, language: Language = "en") -> Verdict:
    """The verdict of a check that looks for known mistakes.

    Args:
        wrong: each mistake in sentences -> whether it was made. The first one made counts.
        right: what to say when none was made.
        language: of all sentences.

    Returns:
        The verdict.

    >>> judge({"that is odd; count again.": False}, "an even number.")
    Right: an even number.
    """
    return next(
        (Verdict(False, says, language) for says, made in wrong.items() if made),
        Verdict(True, right, language),
    )


def check_answered(answer: Any, language: Language = "en") -> Verdict | None:
    """The verdict while three dots still stand in place of the answer, else None."""
    return None if answer is not ... else Verdict(False, _THREE_DOTS[language], language)


def check_number(answer: Any, whole: bool = False, language: Language = "en") -> Verdict | None:
    """The verdict on an answer that is still missing or no number, else None.

    Args:
        answer: the answer.
        whole: whether only a whole number will do.
        language: of the verdict.

    Returns:
        What was expected and found; None for a finite number.
    """
    if verdict := check_answered(answer, language):
        return verdict
    if not isinstance(answer, Real) or not math.isfinite(answer):
        found = answer if isinstance(answer, str | Real | None) else type(answer).__name__
        return Verdict(False, _NO_NUMBER[language].format(found=found), language)
    if whole and answer != int(answer):
        return Verdict(False, _NOT_WHOLE[language].format(found=answer), language)
    return None
