"""What the numbers of a training say when it goes wrong, and the setting to change.

Of each symptom the history keeps the name, in the row of the epoch that showed it first.
"""

import math
from typing import Any

WARNINGS = "warnings"  # a history's column of names; left out where there are none
JOINT = "; "  # between them

HIGH_LOSS = "loss far above the start"
RISING = "validation loss rising"
EXPLODING = "gradients exploding"
VANISHING = "gradients vanishing"
ODD_RATE = "rate far from the finder's"

FAR_ABOVE = 2.0  # times the loss of the first step
EPOCHS_OF_RISE, LEAST_RISE = 3, 0.05  # in a row; of the loss before them
LARGE_NORM = 100.0  # before clipping. Healthy models of ours stay below 10
# Of a gradient by the loss it is of: one that has learned its texts has small ones of both.
SMALL_NORM = 1e-4
RATE_RATIO = 10.0  # to the finder's suggestion, which is only that sure


def in_epoch(start: float | None, loss: float, norm: float, rate_setting: str) -> dict[str, str]:
    """Symptoms of an epoch so far, as name -> sentence.

    Args:
        start: loss of the training's first step, before any learning; None: not known.
        loss: mean of the epoch's steps.
        norm: mean norm of their gradients before clipping; NaN where there was none.
        rate_setting: that holds the training's rate, such as lm.lr.

    >>> list(in_epoch(0.7, 3.0, 0.5, "lm.lr")), in_epoch(0.7, 0.6, 0.5, "lm.lr")
    (['loss far above the start'], {})
    """
    found = {}
    if start is not None and loss > FAR_ABOVE * start:
        found[HIGH_LOSS] = (
            f"the training loss is {loss:.3g} and began at {start:.3g}: the rate is too high. "
            f"{_lower(rate_setting)}"
        )
    if norm > LARGE_NORM:
        found[EXPLODING] = (
            f"the norm of the gradients is {norm:.3g} on average. Clip it: "
            f"--{_section(rate_setting)}.grad-clip 0.25. {_lower(rate_setting)}"
        )
    if norm < SMALL_NORM * loss:
        found[VANISHING] = (
            f"the norm of the gradients is {norm:.2g} on average, and the loss still {loss:.3g}: "
            f"nothing is learned any more. {_lower(rate_setting)}"
        )
    return found


def after_epoch(history: list[dict[str, Any]], rate_setting: str) -> dict[str, str]:
    """Symptoms of a history's end, as name -> sentence: whether the validation loss rises.

    Args:
        history: one row per epoch, those of one objective.
        rate_setting: that holds the training's rate, such as lm.lr.

    >>> list(after_epoch([{"valid_loss": loss} for loss in (0.5, 0.55, 0.6, 0.7)], "lm.lr"))
    ['validation loss rising']
    """
    last = [row["valid_loss"] for row in history[-EPOCHS_OF_RISE - 1 :]]
    rises = all(before < after for before, after in zip(last, last[1:], strict=False))
    if len(last) <= EPOCHS_OF_RISE or not rises or last[-1] < (1 + LEAST_RISE) * last[0]:
        return {}
    section = _section(rate_setting)
    sooner = "--classifier.patience 2, or " if section == "classifier" else ""
    return {
        RISING: (
            f"the validation loss rose for {EPOCHS_OF_RISE} epochs, from {last[0]:.3g} to "
            f"{last[-1]:.3g}: the texts are learned by heart. The best epoch is kept; fewer are "
            f"enough: {sooner}--{section}.epochs {max(len(history) - EPOCHS_OF_RISE, 1)}"
        )
    }


def of_rate(rate: float, suggested: float | None, setting: str) -> dict[str, str]:
    """Whether the learning-rate finder would choose another rate, as name -> sentence.

    Args:
        rate: peak rate of a training.
        suggested: by the finder; None: it was not asked.
        setting: that holds it.

    >>> list(of_rate(10, 0.01, "lm.lr")), of_rate(0.004, 0.01, "lm.lr")
    (["rate far from the finder's"], {})
    """
    if not suggested or abs(math.log(rate / suggested)) <= math.log(RATE_RATIO):
        return {}
    return {
        ODD_RATE: (
            f"the rate is {rate:g}, and the learning-rate finder suggests {suggested:.1e}: "
            f"--{setting} {suggested:.1e}"
        )
    }


def names_in(history: list[dict[str, Any]]) -> list[str]:
    """The symptoms that a history's rows name, in order."""
    return [name for row in history for name in row.get(WARNINGS, "").split(JOINT) if name]


def _lower(rate_setting: str) -> str:
    return f"Lower the rate: --{rate_setting}"


def _section(setting: str) -> str:
    return setting.partition(".")[0]
