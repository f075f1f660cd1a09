"""Are new texts like those that a run was tested on? Several questions, and one verdict.

A change rings where it is both sure (p below 0.05 for all questions together, by Holm) and large
enough to matter. With thousands of texts the smallest change is sure; with few, chance looks
large.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.accuracy_estimate import Estimate
from ulmfit_app.evaluation.drift_tests import (
    FEWEST_TO_LEARN,
    Difference,
    compare_means,
    compare_sets,
    compare_shares,
    compare_values,
    count_learned,
    count_unfamiliar,
    tell_apart,
)
from ulmfit_app.evaluation.independent import POWER, adjust_holm
from ulmfit_app.evaluation.metrics import SIGNIFICANT

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LARGE = 0.05  # share of the texts, from which on a change matters
LARGE_DISTANCE = 0.1  # of means of states, in standard deviations
FEWEST = 50  # new texts: below, chance alone looks like a large change
MOST_NAMED = 3  # changes in a verdict
SHARE, DEVIATIONS = "share of texts", "standard deviations"  # units of an effect


@dataclass(frozen=True)
class Sample:
    """What is known of some texts, in random order; None where it is not known.

    Attributes:
        answers: the index of each text's label, int [n]; of several labels, whether it has each,
            bool [n, n_labels].
        confidence: probability of each answer, [n]; of several labels, the mean of theirs.
        lengths: tokens, int [n].
        unknown: share of each text's tokens that the vocabulary lacks, [n].
        writings: the name of each text's writing system, [n].
        words: how often each word of the vocabulary stands in each text, [n, n_words].
        states: what the head reads of the first texts, float32 [at most n, d].
    """

    answers: np.ndarray
    confidence: np.ndarray | None = None
    lengths: np.ndarray | None = None
    unknown: np.ndarray | None = None
    writings: np.ndarray | None = None
    words: "csr_matrix | None" = None
    states: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.answers)

    def take(self, rows: np.ndarray, n_states: int) -> "Sample":
        """Some of its texts, by number, in that order; with the states of the first of them.

        Args:
            rows: numbers of texts.
            n_states: of how many of them states are taken; they have to be known.
        """
        kept = {
            name: value[rows] for name, value in vars(self).items() if _is_by_text(name, value)
        }
        if self.states is not None:
            kept["states"] = self.states[rows[:n_states]]
        return Sample(**kept)


def _is_by_text(name: str, value: object) -> bool:
    return name != "states" and value is not None


@dataclass(frozen=True)
class Change:
    """What one question found.

    Attributes:
        question: its name.
        said: what is different now, as a clause.
        difference: how far, with interval and p-value.
        p_adjusted: by Holm, for all questions that were asked.
        n_old, n_new: texts that it was asked of.
        unit: of the effect.
        large: the effect from which on it matters.
        plain: whether people see it in the texts, or only a model does.
    """

    question: str
    said: str
    difference: Difference
    n_old: int
    n_new: int
    unit: str = SHARE
    large: float = LARGE
    plain: bool = True
    p_adjusted: float = 1.0

    @property
    def is_sure(self) -> bool:
        """Whether chance is ruled out."""
        return self.p_adjusted < SIGNIFICANT

    @property
    def matters(self) -> bool:
        """Whether it is sure, and large enough."""
        return self.is_sure and self.difference.effect >= self.large


@dataclass(frozen=True)
class Drift:
    """What all questions found.

    Attributes:
        changes: in the order of the questions.
        n_old, n_new: texts.
        weights: of each word, for "new"; None where no classifier learned.
        distances: of the first new texts, how unfamiliar they are: above 1 beyond the bound.
        notes: what could not be asked, and why.
    """

    changes: list[Change]
    n_old: int
    n_new: int
    weights: np.ndarray | None = None
    distances: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def rings(self) -> bool:
        """Whether any change matters."""
        return any(change.matters for change in self.changes)

    def verdict(self) -> str:
        """What changed and by how much, in one line."""
        matter = sorted(filter(_matters, self.changes), key=_rank, reverse=True)
        if matter:
            # What only a model sees says nothing to people who are told the rest.
            named = [one.said for one in matter if one.plain] or [one.said for one in matter]
            more = len(named) - MOST_NAMED
            said = "; ".join(named[:MOST_NAMED])
            return f"Drift: {said}{f'; and {more} more' if more > 0 else ''}."
        small = sorted((one for one in self.changes if one.is_sure), key=_rank, reverse=True)
        if small:
            return (
                f"No drift that matters. A change is sure, but small: {small[0].said} "
                f"({describe_effect(small[0])}; from {_amount(small[0], small[0].large)} on it "
                "would count)."
            )
        few = f", of too few texts to see much ({self.n_new:,})" if self.n_new < FEWEST else ""
        return f"No drift found{few}: in {len(self.changes)} questions, no change beyond chance."


@dataclass(frozen=True)
class NewTexts:
    """What a file of new texts holds: texts, or the answers to them alone, as a server's log has.

    Attributes:
        source: the name of the file.
        texts: none where there are answers.
        answers: columns label and confidence, a row per text; None where there are texts.
        notes: a sentence for each thing that was decided or left out in reading.
    """

    source: str
    texts: Sequence[str]
    answers: pd.DataFrame | None
    notes: list[str]


@dataclass(frozen=True)
class Monitored:
    """New texts compared with a run's own.

    Attributes:
        drift: what was found.
        old, new: what it was found in.
        labels: by the index of an answer.
        run, source: the names of the run and of the new texts.
        old_name: what the run's own texts are.
        estimate: of the accuracy; None without confidences.
        words: what tells new texts from old ones: word, more (NEW, OLD or UNKNOWN), old and new,
            shares of the texts that have it; of unknown words the old one is not counted.
        texts: new texts, the most unfamiliar ones first: distance (above 1: unfamiliar),
            predicted, confidence and text.
        notes: a sentence for each thing that was left out or has to be known.
    """

    drift: Drift
    old: Sample
    new: Sample
    labels: Sequence[str]
    run: str
    source: str
    old_name: str
    estimate: Estimate | None
    words: pd.DataFrame
    texts: pd.DataFrame
    notes: list[str]


NEW, OLD, UNKNOWN = "new", "old", "unknown"


def _matters(change: Change) -> bool:
    return change.matters


def _rank(change: Change) -> tuple[bool, float]:
    return change.plain, change.difference.effect / change.large


def compare(old: Sample, new: Sample, labels: Sequence[str], seed: int = 0) -> Drift:
    """Ask all questions that can be asked of two samples.

    Args:
        old: texts that the run was tested on.
        new: the others; at least one.
        labels: their names, by the index of an answer.
        seed: of the halves, permutations and bootstraps.
    """
    asked = [
        ask(old, new, seed) for known, ask in _QUESTIONS.items() if _both_know(known, old, new)
    ]
    asked.append(_ask_labels(old, new, labels, seed))
    distances = weights = None
    if _both_know("states", old, new) and len(old.states) >= 4 and len(new.states) >= 2:
        unfamiliar, distances = _ask_unfamiliar(old, new, seed)
        asked += [unfamiliar, _ask_means(old, new, seed)]
    if _both_know("words", old, new) and min(len(old), len(new)) >= FEWEST_TO_LEARN:
        told, weights = _ask_words(old, new, seed)
        asked.append(told)
    adjusted = adjust_holm([one.difference.p_value for one in asked])
    changes = [replace(one, p_adjusted=p) for one, p in zip(asked, adjusted, strict=True)]
    notes = _describe_power(len(old), len(new), len(changes))
    return Drift(changes, len(old), len(new), weights, distances, notes)


def _both_know(what: str, old: Sample, new: Sample) -> bool:
    return getattr(old, what) is not None and getattr(new, what) is not None


# --------------------------------------------------------------------------------------- questions
def _ask_lengths(old: Sample, new: Sample, seed: int) -> Change:
    found = compare_values(old.lengths, new.lengths, seed)
    before, now = float(np.median(old.lengths)), float(np.median(new.lengths))
    how = "spread otherwise" if now == before else "shorter" if now < before else "longer"
    said = f"texts are {how}: a median of {now:,.0f} tokens, before {before:,.0f}"
    return Change("lengths", said, found, len(old), len(new))


def _ask_unknown(old: Sample, new: Sample, seed: int) -> Change:
    found = compare_values(old.unknown, new.unknown, seed)
    said = (
        f"{new.unknown.mean():.1%} of a text's words are unknown to the run, before "
        f"{old.unknown.mean():.1%}"
    )
    return Change("unknown words", said, found, len(old), len(new))


def _ask_writings(old: Sample, new: Sample, seed: int) -> Change:
    names, codes = np.unique(np.concatenate([old.writings, new.writings]), return_inverse=True)
    both = codes[: len(old)], codes[len(old) :]
    counts = np.array([np.bincount(one, minlength=len(names)) for one in both])
    before, now = counts / counts.sum(axis=1, keepdims=True)
    most = int((now - before).argmax())
    said = f"{now[most]:.1%} of the texts are in {names[most]}, before {before[most]:.1%}"
    return Change("language", said, compare_shares(counts, seed), len(old), len(new))


def _ask_confidence(old: Sample, new: Sample, seed: int) -> Change:
    before, now = float(old.confidence.mean()), float(new.confidence.mean())
    how = "lower" if now < before else "higher"
    said = f"the model's confidence is {how}: {now:.1%} on average, before {before:.1%}"
    found = compare_values(old.confidence, new.confidence, seed)
    return Change("confidence", said, found, len(old), len(new))


_QUESTIONS: dict[str, Callable[[Sample, Sample, int], Change]] = {
    "lengths": _ask_lengths,
    "unknown": _ask_unknown,
    "writings": _ask_writings,
    "confidence": _ask_confidence,
}


def _ask_labels(old: Sample, new: Sample, labels: Sequence[str], seed: int) -> Change:
    if old.answers.ndim == 2:
        found, most = compare_sets(old.answers, new.answers)
        before, now = old.answers[:, most].mean(), new.answers[:, most].mean()
    else:
        both = (old.answers, new.answers)
        counts = np.array([np.bincount(one, minlength=len(labels)) for one in both])
        shares = counts / counts.sum(axis=1, keepdims=True)
        most = int((shares[1] - shares[0]).argmax())
        found, (before, now) = compare_shares(counts, seed), shares[:, most]
    said = f"{now:.1%} of the texts get the label “{labels[most]}”, before {before:.1%}"
    return Change("labels", said, found, len(old), len(new))


def _ask_unfamiliar(old: Sample, new: Sample, seed: int) -> tuple[Change, np.ndarray]:
    found, distances, before = count_unfamiliar(old.states, new.states, seed)
    now = float((distances > 1).mean())
    said = f"{now:.1%} of the texts are unlike the run's own, before {before:.1%}"
    n_old = len(old.states) - len(old.states) // 2
    return Change("unfamiliar texts", said, found, n_old, len(new.states)), distances


def _ask_means(old: Sample, new: Sample, seed: int) -> Change:
    found = compare_means(old.states, new.states, seed)
    said = f"the mean of the model's states moved by {found.effect:.2f} standard deviations"
    sizes = len(old.states), len(new.states)
    return Change("states", said, found, *sizes, DEVIATIONS, LARGE_DISTANCE, plain=False)


def _ask_words(old: Sample, new: Sample, seed: int) -> tuple[Change, np.ndarray]:
    found, weights = tell_apart(old.words, new.words, seed)
    auc = (1 + found.effect) / 2
    said = f"a classifier tells new texts from old ones by their words, AUC {auc:.2f}"
    n_old, n_new = (one - count_learned(one) for one in (len(old), len(new)))
    return Change("words", said, found, n_old, n_new, plain=False), weights


# --------------------------------------------------------------------------------------- its words
def _amount(change: Change, effect: float) -> str:
    if change.unit == DEVIATIONS:
        return f"{effect:.2f} standard deviations"
    return f"{100 * effect:.3g} % of the texts"


def describe_effect(change: Change) -> str:
    """The effect in its unit."""
    return _amount(change, change.difference.effect)


def smallest_seen(n_old: int, n_new: int, n_questions: int) -> float:
    """The change of a share from one half that is sure in four cases of five.

    As `independent.smallest_noticed`, at the strictest level of Holm.

    >>> round(smallest_seen(5000, 1000, 8), 3)
    0.062
    """
    normal = NormalDist()
    wanted = normal.inv_cdf(1 - SIGNIFICANT / (2 * n_questions)) + normal.inv_cdf(POWER)
    return min(wanted * (0.25 / n_old + 0.25 / n_new) ** 0.5, 1.0)


def _describe_power(n_old: int, n_new: int, n_questions: int) -> list[str]:
    least = 100 * smallest_seen(n_old, n_new, n_questions)
    seen = (
        f"{n_new:,} new texts against {n_old:,}: a share of the texts that moves from 50 % by "
        f"{least:.2g} points is seen in four cases of five, and a smaller move more rarely."
    )
    if n_new < FEWEST:
        seen += (
            f" Fewer than {FEWEST} texts show large changes alone: that nothing is found in them "
            "says little. Collect more, and ask again."
        )
    if n_new < FEWEST_TO_LEARN:
        seen += f" No classifier learns from fewer than {FEWEST_TO_LEARN} texts: it was not asked."
    return [seen]
