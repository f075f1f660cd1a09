"""Losses and samples for classes that are rare, and for several labels a text."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from fastai.losses import CrossEntropyLossFlat, FocalLossFlat
from torch import Tensor
from torch.nn import functional as F

from ulmfit_app.config import Balance, ClassifierSettings, Settings
from ulmfit_app.errors import SettingError, quoted
from ulmfit_app.hardware import choose_device

GAMMA = 2.0  # of the focal loss; Lin et al. 2017, section 5.1
RESAMPLED = ("oversample", "undersample")
SELECT_BY = {"macro-f1": "macro_f1", "average-precision": "average_precision"}


def check_balance(settings: ClassifierSettings, multilabel: bool, is_taught: bool) -> None:
    """Refuse settings of a classifier that do not go together.

    Args:
        settings: of the classifier.
        multilabel: whether a text may have several labels.
        is_taught: whether it learns from a teacher's answers.

    Raises:
        SettingError: they do not.
    """
    balance, by = settings.balance, settings.select_by
    if is_taught and balance != "none":
        raise SettingError(
            f"--classifier.balance {balance} is for labels, and this run learns from a teacher's "
            "answers: balance the teacher. Leave it out."
        )
    if is_taught and multilabel:
        raise SettingError(
            "A teacher's answers are shares of labels, of which each text has one, and these "
            "texts have several. Train a run on the labels: python -m ulmfit_app.run DATA "
            "--multilabel"
        )
    if multilabel and balance in RESAMPLED:
        raise SettingError(
            f"--classifier.balance {balance} is for one label a text: a text of a rare label may "
            "have common ones, too. With several labels use weights or focal."
        )
    if multilabel and settings.plan == "contrastive":
        raise SettingError(
            "--classifier.plan contrastive learns from pairs of texts with the same label, and "
            "these texts have several. Leave it out."
        )
    if multilabel and by not in ("auto", "average-precision"):
        raise SettingError(
            f"--classifier.select-by {by} is for one label a text. With several, the epoch of the "
            "best average precision is kept, which needs no thresholds. Leave it out."
        )
    if not multilabel and by == "average-precision":
        raise SettingError(
            "--classifier.select-by average-precision is for several labels a text "
            "(--multilabel). Use: --classifier.select-by macro-f1"
        )
    if settings.costs is not None and settings.thresholds == "f1":
        raise SettingError(
            "--classifier.thresholds f1 and --costs are two ways to decide. Leave one of them out."
        )


def check_groups(settings: Settings, labels: Sequence[str], multilabel: bool) -> None:
    """Refuse settings about groups that have none, or do not go with others.

    Args:
        settings: of the run.
        labels: of its texts.
        multilabel: whether a text may have several.

    Raises:
        SettingError: they do not.
    """
    how, label = settings.classifier, settings.classifier.equal_recall
    asked = {
        "--classifier.balance groups": how.balance == "groups",
        "--classifier.equal-recall": label is not None,
    }
    for option in (option for option, is_asked in asked.items() if is_asked):
        if not settings.data.groups:
            raise SettingError(f"{option} is about groups. Name their column: --groups COLUMN")
        if multilabel:
            raise SettingError(
                f"{option} is for one label a text, and these texts have several. Leave it out."
            )
    if how.balance == "groups" and settings.augment.makes_texts:
        raise SettingError(
            "--classifier.balance groups weighs texts by their groups, which texts that "
            f"--augment.method {settings.augment.method} makes have not. Leave one of them out."
        )
    if label is None:
        return
    if label not in labels:
        raise SettingError(
            f"--classifier.equal-recall {label}: no text has this label. Expected one of "
            f"{quoted(labels)}."
        )
    if how.thresholds == "f1" or how.costs is not None:
        other = "--costs" if how.costs is not None else "--classifier.thresholds f1"
        raise SettingError(
            f"--classifier.equal-recall and {other} are two ways to decide. Leave one of them out."
        )
    if settings.bidirectional:
        raise SettingError(
            "--classifier.equal-recall is for a run of one direction. Leave it or --bidirectional "
            "out."
        )


def metric_to_select_by(settings: ClassifierSettings, multilabel: bool) -> str:
    """The metric whose best epoch is kept, as histories name it."""
    if multilabel:
        return "average_precision"
    if settings.select_by == "auto":
        return "accuracy" if settings.balance == "none" else "macro_f1"
    return SELECT_BY.get(settings.select_by, settings.select_by)


def chooses_thresholds(settings: ClassifierSettings, multilabel: bool) -> bool:
    """Whether thresholds are chosen on the validation part."""
    if settings.thresholds == "auto":
        return multilabel and settings.costs is None
    return settings.thresholds == "f1"


# ------------------------------------------------------------------------------------------ losses
def class_weights(truth: np.ndarray, n_classes: int) -> np.ndarray:
    """What a text of each class counts in the loss: n / (n_classes * n of the class).

    King and Zeng 2001, "Logistic Regression in Rare Events Data", section 4; scikit-learn's
    "balanced". All classes then count the same in sum.

    Args:
        truth: class indices, [n]; each class at least once.
        n_classes: classes.

    Returns:
        Weights, [n_classes], of mean 1 over the texts.

    >>> class_weights(np.array([0, 0, 0, 1]), 2).round(2).tolist()
    [0.67, 2.0]
    """
    return len(truth) / (n_classes * np.bincount(truth, minlength=n_classes))


def positive_weights(truth: np.ndarray) -> np.ndarray:
    """What having each of several labels counts against not having it.

    Args:
        truth: 1 and 0, [n, n_labels].

    Returns:
        Weights, [n_labels]: texts without the label for each one that has it; 1 where there is
        none.
    """
    has = truth.sum(axis=0)
    return np.divide(len(truth) - has, has, out=np.ones(len(has)), where=has > 0)


def loss_of_labels(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, gamma: float = 0.0
) -> Tensor:
    """Binary cross-entropy of several labels, in the mean over texts and labels.

    Args:
        logits: [batch, n_labels].
        targets: from 0 to 1, [batch, n_labels].
        weights: of having each label, [n_labels].
        gamma: of the focal loss, which multiplies a label's loss by (1 - p)**gamma, p being the
            probability that it gives to what is true; 0: cross-entropy.
    """
    # Half precision would be too coarse for a rare label's small loss.
    each = F.binary_cross_entropy_with_logits(
        logits.float(), targets, pos_weight=weights, reduction="none"
    )
    return ((1 - (-each).exp()) ** gamma * each if gamma else each).mean()


def weigh_by_groups(truth: np.ndarray, groups: np.ndarray, n_classes: int) -> np.ndarray:
    """Targets with which labels count as often in each group, however often they are there.

    Kamiran and Calders 2012, "Data Preprocessing Techniques for Classification without
    Discrimination", section 4.2 (reweighing): a text counts n of its group times n of its label,
    divided by n of all times n of both.

    Args:
        truth: class indices, [n].
        groups: the group of each text, any value, [n].
        n_classes: classes.

    Returns:
        float32 [n, n_classes]: the weight of a text in the column of its class, else 0; the mean
        weight is 1.

    >>> weigh_by_groups(np.array([0, 0, 0, 1]), np.array(list("aabb")), 2).round(2).tolist()
    [[0.75, 0.0], [0.75, 0.0], [1.5, 0.0], [0.0, 0.5]]
    """
    _, group = np.unique(groups, return_inverse=True)
    cell = np.zeros((group.max() + 1, n_classes))
    np.add.at(cell, (group, truth), 1)
    expected = np.outer(cell.sum(axis=1), cell.sum(axis=0)) / len(truth)
    targets = np.zeros((len(truth), n_classes), np.float32)
    targets[np.arange(len(truth)), truth] = (expected / np.maximum(cell, 1))[group, truth]
    return targets


def loss_of_weighted(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with the targets of `weigh_by_groups`, or with classes, as validation has.

    Args:
        logits: [batch, n_classes].
        targets: [batch, n_classes], or [batch].
    """
    return F.cross_entropy(logits.float(), targets)


def make_loss(balance: Balance, truth: np.ndarray, n_labels: int):
    """The loss of a classifier.

    Args:
        balance: what is done for rare classes.
        truth: of the texts that it learns from: class indices [n], or, of several labels a text,
            1 and 0 [n, n_labels].
        n_labels: classes.

    Returns:
        A function of logits [batch, n_labels] and targets.
    """
    if balance == "groups":
        return loss_of_weighted
    if truth.ndim == 2:
        weights = None
        if balance == "weights":
            weights = torch.tensor(positive_weights(truth), dtype=torch.float32)
            weights = weights.to(choose_device())
        gamma = GAMMA if balance == "focal" else 0.0
        return partial(loss_of_labels, weights=weights, gamma=gamma)
    if balance == "focal":
        return FocalLossFlat(gamma=GAMMA)
    if balance == "weights":
        weights = torch.tensor(class_weights(truth, n_labels), dtype=torch.float32)
        return CrossEntropyLossFlat(weight=weights.to(choose_device()))
    return CrossEntropyLossFlat()


# ----------------------------------------------------------------------------------------- samples
def count_resampled(truth: np.ndarray, balance: Balance) -> int:
    """How many texts an epoch has after `resample`."""
    counts = np.bincount(truth)
    counts = counts[counts > 0]
    if balance == "oversample":
        return int(counts.max() * len(counts))
    return int(counts.min() * len(counts)) if balance == "undersample" else len(truth)


def resample(truth: np.ndarray, balance: Balance, seed: int) -> np.ndarray:
    """Which texts an epoch has, so that it has the same number of each class.

    Oversampling has each text of a rarer class as often as the others, or once more, instead of
    drawing with replacement, which leaves texts out by chance. Undersampling draws as many texts
    of each class as the rarest has.

    Args:
        truth: class indices, [n].
        balance: another one than oversample and undersample leaves all as they are.
        seed: which ones are drawn depends on it.

    Returns:
        Positions in `truth`, sorted.

    >>> resample(np.array([0, 0, 0, 1]), "oversample", seed=0).tolist()
    [0, 1, 2, 3, 3, 3]
    """
    if balance not in RESAMPLED:
        return np.arange(len(truth))
    generator = np.random.default_rng([seed, 3])
    counts = np.bincount(truth)
    size = counts.max() if balance == "oversample" else counts[counts > 0].min()
    found = []
    for label in np.flatnonzero(counts):
        rows = generator.permutation(np.flatnonzero(truth == label))
        found.append(np.resize(rows, size))
    return np.sort(np.concatenate(found))
