"""Few labels: how many of them validate, and which texts keep theirs."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ulmfit_app.data.splits import (
    find_held_out,
    strata_of,
    stratified_order,
    subset_generator,
)
from ulmfit_app.errors import SettingError, count_texts

VALIDATED_ON = 5  # one in so many labels


@dataclass(frozen=True)
class Sizes:
    """What a seed's data offer.

    Attributes:
        n_classes: of labels.
        train, valid, test: texts with labels, by split.
    """

    n_classes: int
    train: int
    valid: int
    test: int


def divide_labels(n_labels: int, sizes: Sizes, option: str = "--at") -> tuple[int, int]:
    """Divide a number of labels into those to learn from and those to validate on.

    One in VALIDATED_ON validates, or fewer where the validation part is smaller, or where each
    class would not keep a text to learn from. Neither number falls as n_labels grows.

    Args:
        n_labels: of both together.
        sizes: of the data.
        option: that gives the number, for messages.

    Returns:
        Texts of train and of valid.

    Raises:
        SettingError: the data have fewer, or a class or validation would get no text.

    >>> [divide_labels(n, Sizes(6, 4_900, 540, 500)) for n in (7, 50, 5_000)]
    [(6, 1), (40, 10), (4460, 540)]
    """
    if n_labels <= sizes.n_classes:
        raise SettingError(
            f"{option} {n_labels}: expected {sizes.n_classes + 1} or more, a text of each of "
            f"{sizes.n_classes:,} classes to learn from, and one for validation."
        )
    n_valid = max(min(n_labels // VALIDATED_ON, sizes.valid, n_labels - sizes.n_classes), 1)
    n_train = n_labels - n_valid
    if n_train > sizes.train:
        raise SettingError(
            f"{option} {n_labels}: expected {n_train:,} labelled texts in train and {n_valid:,} "
            f"in the validation part, found {sizes.train:,} and {sizes.valid:,}."
        )
    return n_train, n_valid


def hide_labels(
    table: pd.DataFrame, n_labels: int, seed: int, notes: list[str], multilabel: bool = False
) -> pd.DataFrame:
    """Keep so many labels of train and valid; the other texts of both become unlabelled.

    Those that are kept are the rows that --max-train and --max-valid of the same numbers keep.

    Args:
        table: columns label and split.
        n_labels: of train and valid together, divided by `divide_labels`.
        seed: which ones are kept depends on it.
        notes: gets a sentence.
        multilabel: whether labels are cells of sets; a text is then kept or hidden with all of
            its labels, and numbers are of texts.

    Raises:
        SettingError: as `divide_labels` does.
    """
    counts = table["split"].value_counts()
    train = table["split"] == "train"
    sizes = Sizes(
        strata_of(table.loc[train, "label"], multilabel).nunique(),
        *(int(counts.get(name, 0)) for name in ("train", "valid", "test")),
    )
    n_train, n_valid = divide_labels(n_labels, sizes, "--max-labels")
    kept = ~table["split"].isin(("train", "valid")).to_numpy()
    for split, limit in (("train", n_train), ("valid", n_valid)):
        rows = np.flatnonzero(table["split"] == split)
        labels = strata_of(table["label"].iloc[rows], multilabel)
        order = stratified_order(labels, subset_generator(seed, split))
        kept[rows[order[:limit]]] = True
    copies = find_held_out(table, pd.Series(~kept, table.index))
    notes.append(
        f"Kept the labels of {n_train:,} texts to learn from and {n_valid:,} to validate on; the "
        f"other {(~kept & ~copies).sum():,} of train and valid are unlabelled, with seed {seed}."
    )
    if copies.any():
        said = count_texts(copies.sum(), "unlabelled text")
        notes.append(f"Dropped {said} found in valid or test too.")
    hidden = {"label": table["label"].where(kept, "")}
    hidden["split"] = table["split"].where(kept, "unlabelled")
    return table.assign(**hidden)[~copies]
