"""What the notebooks share: settings by one name, reviews that need no network, and the verdict of a checked exercise.

Beside this file stands a module for each notebook, lesson_04 for notebooks/04-recipes.ipynb: its experiments, and the checks
of its exercises, which compare an answer with what the package computes.
"""

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ulmfit_app.config import LAPTOP, PAPER, DataSettings, ModelSettings, Settings
from ulmfit_app.errors import SettingError

# Both come of what fastai and spaCy import, and the reader can do nothing about them.
warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
warnings.filterwarnings("ignore", "IProgress not found")

DATA = Path(__file__).parent / "data"  # its README.md says where they are from
REVIEWS, MESSY = DATA / "reviews.csv", DATA / "messy.csv"
OVERRIDE = (
    "ULMFIT_PRESET"  # an environment variable, by which all notebooks can be run at another size
)

# So few to train on that one waits for seconds, and so many to validate on that large differences show.
_LESS = DataSettings(str(REVIEWS), valid_share=0.2, max_train=1_200)
_REVIEWS = replace(LAPTOP, data=_LESS, lm=replace(LAPTOP.lm, pretrained="en-small", epochs=1))
_FEW = replace(_LESS, max_train=600, max_valid=48, max_test=48)
_TINY = replace(
    _REVIEWS, data=_FEW, model=ModelSettings(48, 96, 3), lm=replace(_REVIEWS.lm, pretrained="none")
)
# "paper" is the package's own: IMDb, weights of WikiText-103, and hours of a GPU.
PRESETS = {"tiny": _TINY, "laptop": _REVIEWS, "paper": PAPER}


def setup(preset: str) -> Settings:
    """The settings of a notebook, from the one name in its first cell; tables then show whole sentences.

    preset: a key of PRESETS; the environment variable ULMFIT_PRESET, where it is set, has the last word.
    Raises SettingError for another name.
    """
    preset = os.environ.get(OVERRIDE, preset)
    if preset not in PRESETS:
        raise SettingError(
            f"There is no preset {preset!r}. Expected one of: {', '.join(PRESETS)}."
        )
    pd.set_option("display.max_colwidth", 140, "display.precision", 4)
    return PRESETS[preset]


@dataclass(frozen=True)
class Verdict:
    """What a check says of an answer. says: in one or two sentences what is right, or what is wrong and where to look."""

    right: bool
    says: str

    def __repr__(self) -> str:
        return f"{'Right' if self.right else 'Not yet'}: {self.says}"


def judged(wrong: dict[str, bool], right: str) -> Verdict:
    """The verdict of a check that looks for known mistakes.

    wrong: what is wrong, in sentences -> whether it is; the first that is counts. right: what is said where none is.

    >>> judged({"that is odd; count again.": False}, "an even number.")
    Right: an even number.
    """
    return next(
        (Verdict(False, says) for says, holds in wrong.items() if holds), Verdict(True, right)
    )


def unanswered(answer: Any) -> Verdict | None:
    """The verdict while an exercise's three dots still stand in the place of an answer, else None."""
    return (
        Verdict(False, "put your answer in the place of the three dots, and run the cell again.")
        if answer is ...
        else None
    )
