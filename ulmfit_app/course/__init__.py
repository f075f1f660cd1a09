"""What all notebooks share: settings by one name, reviews without a network, verdicts on answers.

Each notebook has a module beside this file, lesson_04 for notebooks/04-recipes.ipynb. It holds the
notebook's experiments, and the checks of its exercises, which compare an answer with what the
package computes. Importing this package changes nothing in the process; `setup` does.
"""

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ulmfit_app.config import LAPTOP, PAPER, DataSettings, ModelSettings, Settings
from ulmfit_app.errors import SettingError

DATA = Path(__file__).parent / "data"  # its README.md says where they are from
REVIEWS, MESSY = DATA / "reviews.csv", DATA / "messy.csv"
OVERRIDE = "ULMFIT_PRESET"  # an environment variable that runs all notebooks at another size

# Few enough to train on that one waits for seconds, and enough to validate on that large
# differences show.
_LESS = DataSettings(str(REVIEWS), valid_share=0.2, max_train=1_200)
_REVIEWS = replace(LAPTOP, data=_LESS, lm=replace(LAPTOP.lm, pretrained="en-small", epochs=1))
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

    Returns:
        The settings.

    Raises:
        SettingError: there is no such preset.
    """
    preset = os.environ.get(OVERRIDE, preset)
    if preset not in PRESETS:
        raise SettingError(
            f"There is no preset {preset!r}. Expected one of: {', '.join(PRESETS)}."
        )
    # What fastai and spaCy import causes both. So they are silenced before torch is imported.
    warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
    warnings.filterwarnings("ignore", "IProgress not found")
    from ulmfit_app.hardware import set_up_cpu

    set_up_cpu()
    pd.set_option("display.max_colwidth", 140, "display.precision", 4)
    return PRESETS[preset]


@dataclass(frozen=True)
class Verdict:
    """What a check says about an answer.

    Attributes:
        right: whether the answer is right.
        says: in one or two sentences, what is right, or what is wrong and where to look.
    """

    right: bool
    says: str

    def __repr__(self) -> str:
        return f"{'Right' if self.right else 'Not yet'}: {self.says}"


def judge(wrong: dict[str, bool], right: str) -> Verdict:
    """The verdict of a check that looks for known mistakes.

    Args:
        wrong: each mistake in sentences -> whether it was made. The first one made counts.
        right: what to say when none was made.

    Returns:
        The verdict.

    >>> judge({"that is odd; count again.": False}, "an even number.")
    Right: an even number.
    """
    return next(
        (Verdict(False, says) for says, made in wrong.items() if made), Verdict(True, right)
    )


def check_answered(answer: Any) -> Verdict | None:
    """The verdict while three dots still stand in place of the answer, else None."""
    if answer is not ...:
        return None
    return Verdict(False, "put your answer in place of the three dots, and run the cell again.")
