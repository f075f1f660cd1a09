"""How much of the data a run uses, and as what."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data.splits import strata_of, stratified_order
from ulmfit_app.languages import has_subwords
from ulmfit_app.pipeline.augmenting import growth_by
from ulmfit_app.training.balance import RESAMPLED, count_resampled
from ulmfit_app.training.choosing import passes_per_epoch
from ulmfit_app.training.recipes import Plan, count_epochs

# Of English reviews with fastai's tokens, and of the Chinese Wikipedia in subwords; only ever used
# to plan.
CHARACTERS_PER_TOKEN, OF_UNSPACED = 4.5, 1.45


@dataclass(frozen=True)
class Selection:
    """Which rows of a corpus a run uses, and as what.

    Args:
        split: one word per row of the corpus ("" for a row not used); a training row whose label
            is not used is "unlabelled".
        read: for each row, whether the language model learns from its text.
        learned: for each row, whether the classifier learns from it: from its label, and from a
            teacher's answer where there is a teacher.
        lm_epochs: of the language model over these.
        notes: what was left out, in sentences.
    """

    split: pd.Series
    read: pd.Series
    learned: pd.Series
    lm_epochs: int
    notes: list[str]


def count_tokens_roughly(texts: pd.Series, language: str = "en") -> pd.Series:
    """About how many tokens each text has, without tokenizing it."""
    characters = OF_UNSPACED if has_subwords(language) else CHARACTERS_PER_TOKEN
    return texts.str.len() / characters + 1


def texts_to_learn(table: pd.DataFrame, settings: Settings) -> pd.Series:
    """The texts that a classifier may learn from: the labelled ones, with a teacher all."""
    splits = ["train", *(["unlabelled"] if settings.distillation.teachers else [])]
    return table.loc[table["split"].isin(splits), "text"]


def count_tokens_to_learn(table: pd.DataFrame, settings: Settings) -> float:
    """About how many tokens those texts have."""
    texts = texts_to_learn(table, settings)
    return float(count_tokens_roughly(texts, settings.tokens.language).sum())


def growth_of(table: pd.DataFrame, settings: Settings) -> float:
    """How many times as many texts an epoch has as are learned: others are made of them, and rare
    ones come again."""
    labels, balance = table.loc[table["split"] == "train", "label"], settings.classifier.balance
    if balance not in RESAMPLED:
        return float(growth_by(settings.augment))
    resampled = count_resampled(pd.factorize(labels)[0], balance) / len(labels)
    return growth_by(settings.augment) * resampled


def select(
    table: pd.DataFrame,
    settings: Settings,
    plan: Plan,
    new_words: bool = False,
    architecture: str = "awd-lstm",
    multilabel: bool = False,
) -> Selection:
    """Keep as many texts as `lm.max_tokens` and `classifier.max_tokens` allow.

    The choice is seeded and stratified. Validation and test rows are always kept.

    Args:
        table: a Corpus's.
        settings: the bounds.
        plan: the classifier's, for its epochs.
        new_words: whether the language model starts from weights that do not know all words, and
            so begins with an epoch for its embeddings alone, where `lm.frozen_lr` has it and there
            is room for more than one.
        architecture: of the start.
        multilabel: whether a text may have several labels.
    """
    generator = np.random.default_rng([settings.seed, 1])
    tokens = count_tokens_roughly(table["text"], settings.tokens.language)
    split, notes = table["split"].copy(), []
    strata = strata_of(table.loc[table["split"] == "train", "label"], multilabel)
    how = plan, settings, generator, notes, architecture
    rows = _select_learned(strata, tokens * growth_of(table, settings), split, *how)
    order = _reading_order(split, rows, settings, generator, notes)
    epochs = settings.lm.epochs
    if epochs and new_words and settings.lm.frozen_lr is not None:
        epochs += 1
    if settings.lm.max_tokens is not None:
        n = max(int((tokens[order].cumsum() <= settings.lm.max_tokens).sum()), 1)
        if n < len(order):
            notes.append(
                f"The language model learns from {n:,} of {len(order):,} texts, to keep within "
                "its time."
            )
            order = order[:n]
        epochs = int(min(epochs, max(1, settings.lm.max_tokens // tokens[order].sum())))
    read, learned = (pd.Series(split.index.isin(each), split.index) for each in (order, rows))
    split[(split == "unlabelled") & ~read & ~learned] = ""
    return Selection(split, read, learned, epochs, notes)


def _select_learned(
    strata: pd.Series,
    tokens: pd.Series,
    split: pd.Series,
    plan: Plan,
    settings: Settings,
    generator: np.random.Generator,
    notes: list[str],
    architecture: str,
) -> pd.Index:
    """The rows that the classifier learns from, the labelled ones first; labels that are not used
    become "unlabelled" in `split`.

    strata: of the rows of train.
    """
    train = strata.index[stratified_order(strata, generator)]
    if settings.distillation.teachers:
        taught = split.index[split == "unlabelled"]
        order = np.random.default_rng([settings.seed, 2]).permutation(len(taught))
        train = train.append(taught[order])
    if settings.classifier.max_tokens is None:
        return train
    per_epoch = settings.classifier.max_tokens / count_epochs(plan)
    largest = settings.classifier.batch_size
    passes = [passes_per_epoch(n, largest, architecture) for n in range(1, len(train) + 1)]
    # Fewer texts are read more often, so that these sums need not rise.
    fitting = np.flatnonzero(tokens[train].cumsum().to_numpy() * passes <= per_epoch)
    within = int(fitting[-1]) + 1 if len(fitting) else 0
    # At least the first row of each class, and two rows, since batch normalisation needs two.
    n = max(within, strata.nunique(), 2)
    if n < len(train):
        split[train[n:]] = "unlabelled"
        kind = "labelled and unlabelled" if settings.distillation.teachers else "training"
        notes.append(
            f"The classifier learns from {n:,} of {len(train):,} {kind} texts, to keep within its "
            "time."
        )
    return train[:n]


def _reading_order(
    split: pd.Series,
    learned: pd.Index,
    settings: Settings,
    generator: np.random.Generator,
    notes: list[str],
) -> pd.Index:
    """The rows that the language model may read, what the classifier learns from first."""
    order = learned
    for name in settings.lm.splits[1:]:
        rows = split.index[split == name].difference(learned, sort=False)
        order = order.append(rows[generator.permutation(len(rows))])
    if settings.lm.test_texts:
        n_test = int((split == "test").sum())
        notes.append(
            f"The language model learns from the {n_test:,} texts of the test split too, not from "
            "their labels."
        )
    return order
