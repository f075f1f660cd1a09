"""How much of the data a run uses."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.evaluation.baselines import WITHOUT_SPACES
from ulmfit_app.training.recipes import Plan, epochs_of

# Of English reviews and of the Chinese Wikipedia, with fastai's tokens; only ever used to plan.
CHARACTERS_PER_TOKEN, OF_UNSPACED = 4.5, 1.1


# ------------------------------------------------------------------------------------------------- how much of the data
@dataclass(frozen=True)
class Selection:
    """Which rows of a corpus a run uses, and as what.

    split: one word a row of the corpus ("" for a row not used); a training row whose label is not used is "unlabelled".
    read: for each row, whether the language model learns from its text. lm_epochs: of the language model over these.
    """

    split: pd.Series
    read: pd.Series
    lm_epochs: int
    notes: list[str]


def planned_tokens(texts: pd.Series, language: str = "en") -> pd.Series:
    """About how many tokens each text has, without tokenizing it."""
    return (
        texts.str.len() / (OF_UNSPACED if language in WITHOUT_SPACES else CHARACTERS_PER_TOKEN) + 1
    )


def labelled_tokens(table: pd.DataFrame, settings: Settings) -> float:
    """About how many tokens the labelled training texts have."""
    return float(
        planned_tokens(
            table.loc[table["split"] == "train", "text"], settings.tokens.language
        ).sum()
    )


def _mixed_order(labels: pd.Series, generator: np.random.Generator) -> pd.Index:
    """Rows in random order such that any beginning has the classes in their shares, the first ones all classes."""
    shuffled = labels.iloc[generator.permutation(len(labels))]
    rank = shuffled.groupby(shuffled).cumcount()
    size = shuffled.map(shuffled.value_counts())
    # The second row of a class of 100 stands where 2 % of the rows have come; every class's first row stands in front.
    return (rank / size).where(rank > 0, -1.0).sort_values(kind="stable").index


def select(
    table: pd.DataFrame, settings: Settings, plan: Plan, pretrained: bool = False
) -> Selection:
    """Keep as many texts as `lm.max_tokens` and `classifier.max_tokens` allow, seeded and stratified.

    table: a Corpus's. Validation and test rows are always kept. pretrained: whether the language model starts from weights,
    and so begins with an epoch for its embeddings alone, where `lm.frozen_lr` has it and there is room for more than one.
    """
    generator = np.random.default_rng([settings.seed, 1])
    tokens, split, notes = (
        planned_tokens(table["text"], settings.tokens.language),
        table["split"].copy(),
        [],
    )
    train = _mixed_order(table.loc[split == "train", "label"], generator)
    if settings.classifier.max_tokens is not None:
        a_epoch = settings.classifier.max_tokens / epochs_of(plan)
        # At least the first row of each class, and two rows, since batch normalisation needs two.
        n = max(
            int((tokens[train].cumsum() <= a_epoch).sum()), table.loc[train, "label"].nunique(), 2
        )
        if n < len(train):
            split[train[n:]] = "unlabelled"
            notes.append(
                f"The classifier learns from {n:,} of {len(train):,} training texts, to keep within its time."
            )
            train = train[:n]
    epochs = settings.lm.epochs and settings.lm.epochs + (
        pretrained and settings.lm.frozen_lr is not None
    )
    # What the classifier learns from comes first.
    order = train
    for name in settings.lm.splits[1:]:
        rows = split.index[split == name]
        order = order.append(rows[generator.permutation(len(rows))])
    if settings.lm.test_texts:
        n_test = int((split == "test").sum())
        notes.append(
            f"The language model learns from the {n_test:,} texts of the test split too, not from their labels."
        )
    if settings.lm.max_tokens is not None:
        n = max(int((tokens[order].cumsum() <= settings.lm.max_tokens).sum()), 1)
        if n < len(order):
            notes.append(
                f"The language model learns from {n:,} of {len(order):,} texts, to keep within its time."
            )
            order = order[:n]
        epochs = int(min(epochs, max(1, settings.lm.max_tokens // tokens[order].sum())))
    read = pd.Series(split.index.isin(order), split.index)
    split[(split == "unlabelled") & ~read] = ""
    return Selection(split, read, epochs, notes)
