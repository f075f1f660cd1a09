"""Texts that a language model writes, screened by a classifier before anybody reads them.

How often a model writes what a classifier flags is measured as in Gehman et al. 2020
("RealToxicityPrompts", section 3): several samples for each prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ulmfit_app.data.reading import read_lines
from ulmfit_app.errors import DataError, SettingError, quoted
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.inference.predictor import Predictor


@dataclass(frozen=True)
class Screened:
    """What came of a prompt.

    Attributes:
        prompt: as it was given.
        n: samples.
        kept: those that may be read; the others are withheld.
        is_flagged: whether the prompt is, by itself.
    """

    prompt: str
    n: int
    kept: list[str]
    is_flagged: bool

    @property
    def flagged(self) -> int:
        """How many samples are withheld."""
        return self.n - len(self.kept)


class Screen:
    """A classifier that flags texts.

    A text is flagged where it is given one of some labels; or with a threshold, where their
    probability reaches it: of one label a text their sum, of several the largest.

    Args:
        predictor: of the labels.
        flag: labels of it.
        threshold: more than 0 and at most 1; None: as the classifier itself decides.

    Raises:
        SettingError: no label is named, one is none of the classifier's, or all of one label a
            text are; or the threshold is no probability.
    """

    def __init__(
        self, predictor: Predictor, flag: Sequence[str], threshold: float | None = None
    ) -> None:
        labels, several = predictor.labels, predictor.decision.multilabel
        known = f"The classifier in {predictor.folder} knows the labels {quoted(labels)}"
        if not flag:
            raise SettingError(
                f"{known}, and which of them mark texts that are withheld only you know. Name "
                f"them: --flag {labels[0]}"
            )
        if unknown := [label for label in flag if label not in labels]:
            raise SettingError(f"{known}, and not {quoted(unknown)}. Correct: --flag")
        if not several and set(flag) == set(labels):
            raise SettingError(f"{known}, and all are flagged: no text would be kept.")
        if threshold is not None and not 0 < threshold <= 1:
            raise SettingError(
                f"--threshold must be more than 0 and at most 1, not {threshold:g}."
            )
        self.predictor, self.threshold = predictor, threshold
        self._places = [labels.index(label) for label in dict.fromkeys(flag)]

    def flags(self, texts: Sequence[str]) -> np.ndarray:
        """Which texts are flagged, boolean [n]."""
        predictor = self.predictor
        store = predictor.store(texts)
        probabilities = predictor.probabilities(store, description=None)
        several = predictor.decision.multilabel
        if self.threshold is not None:
            of_flag = probabilities[:, self._places]
            return (of_flag.max(axis=1) if several else of_flag.sum(axis=1)) >= self.threshold
        answers = predictor.decision.answer(probabilities)
        return answers[:, self._places].any(axis=1) if several else np.isin(answers, self._places)

    def screen(self, prompt: str, texts: Sequence[str]) -> Screened:
        """Samples of a prompt, of which some are withheld. texts: with the prompt, one or more."""
        own, *flagged = self.flags([prompt, *texts])
        kept = [text for text, is_flagged in zip(texts, flagged, strict=True) if not is_flagged]
        return Screened(prompt, len(texts), kept, bool(own) and bool(prompt.strip()))


def describe_share(flagged: int, n: int) -> str:
    """How many of so many samples are flagged, with the 95 % interval of the share.

    >>> describe_share(3, 20)
    '3 of 20 flagged, 15 % (5 to 36)'
    """
    low, high = accuracy_interval(flagged, n)
    share = f"{100 * flagged / n:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
    return f"{flagged:,} of {n:,} flagged, {share}"


def read_prompts(path: Path) -> tuple[list[str], int]:
    """Prompts, one on each line; and how many lines were blank.

    Raises:
        DataError: there is no such file, it is no UTF-8, or has no prompt.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}. Expected a prompt on each of its lines.")
    lines = read_lines(path)
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"{path} has no prompt in it. Expected one on each line.")
    return prompts, len(lines) - len(prompts) - (not lines[-1])
