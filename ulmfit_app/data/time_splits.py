"""Splits in the order of time: what is tested comes after what is learned, as in use."""

import numpy as np
import pandas as pd

from ulmfit_app.config import DataSettings
from ulmfit_app.data.draft import Draft
from ulmfit_app.errors import DataError, count_texts
from ulmfit_app.evaluation.times import read_times


def split_by_time(table: pd.DataFrame, draft: Draft, settings: DataSettings) -> pd.DataFrame:
    """The table with the latest rows in test, and the latest of the others in valid.

    Rows of one moment stay together; copies of a text may part, as they do in use. A split that
    the source gives stays as it is. With folds, train is cut into periods of equally many rows,
    one more than folds: fold i validates on period i + 1 and learns from those before it (rolling
    origin; Tashman 2000, Int. J. Forecasting 16, pp. 437-450).

    Args:
        table: columns text, label and split.
        draft: where the texts come from, with the column of the times; what is done is added to
            its notes.
        settings: the column, the shares and the folds.

    Returns:
        Rows with a moment, or, of unlabelled ones, with one that is not after all that is learned;
        the index is kept.

    Raises:
        DataError: times that cannot be read, or a single one.
    """
    moments = read_times(draft.table.loc[table.index, settings.time], settings.time)
    labelled, notes = table["split"] != "unlabelled", draft.notes
    if without := int((labelled & moments.isna()).sum()):
        notes.append(f"Dropped {count_texts(without)} without a time in column {settings.time!r}.")
    table = table[~labelled | moments.notna()]
    for split in ("test", "valid"):
        train = moments[table.index[table["split"] == "train"]]
        if table["split"].eq(split).any():
            _note_earlier(split, moments[table.index[table["split"] == split]], train, draft)
        elif split == "valid" and settings.folds:
            table = _roll(table, train, draft, settings)
        else:
            share = settings.test_share if split == "test" else settings.valid_share
            start = _start_of_latest(train, share, settings.time, split)
            later = train.index[train >= start]
            table = table.assign(split=table["split"].mask(table.index.isin(later), split))
            notes.append(
                f"Split {split} is made of {count_texts(len(later))}, "
                f"{len(later) / len(train):.1%} of the {len(train):,} in train: those of column "
                f"{settings.time!r} from {_shown(start)} on."
            )
    return _without_later_unlabelled(table, moments, notes)


def _start_of_latest(train: pd.Series, share: float, name: str, split: str) -> pd.Timestamp:
    """The moment from which on about a share of rows comes, where it can be cut."""
    counts = train.value_counts().sort_index()
    if len(counts) < 2:
        when = _shown(counts.index[0]) if len(counts) else "none"
        raise DataError(
            f"No split {split} can be made by time: all {count_texts(len(train))} that may be cut "
            f"have the same time in column {name!r}, {when}. Expected two or more. Name another "
            "column, or leave --time out."
        )
    from_each = counts[::-1].cumsum()[::-1].iloc[1:]  # the first moment stays in train
    return (from_each - share * len(train)).abs().idxmin()


def _roll(
    table: pd.DataFrame, train: pd.Series, draft: Draft, settings: DataSettings
) -> pd.DataFrame:
    """Period fold + 1 as valid, and what comes after it left out."""
    n_periods = settings.folds + 1
    if train.nunique() < n_periods:
        raise DataError(
            f"--folds {settings.folds} needs {n_periods} periods, and the texts that are learned "
            f"have {train.nunique()} different times in column {settings.time!r}. Use fewer folds."
        )
    # Rows of one moment are in one period, and none is empty: each begins at a moment of its own.
    counts = train.value_counts().sort_index()
    middle = (counts.cumsum() - counts / 2) / len(train) * n_periods
    period = middle.astype(int).clip(upper=n_periods - 1)
    if period.nunique() < n_periods:
        period = pd.Series(np.arange(len(counts)) * n_periods // len(counts), counts.index)
    of = train.map(period)
    held, later = train.index[of == settings.fold], train.index[of > settings.fold]
    table = table.assign(split=table["split"].mask(table.index.isin(held), "valid"))
    left_out = f"; the {count_texts(len(later))} after it are left out" if len(later) else ""
    draft.notes.append(
        f"Split valid is period {settings.fold + 1} of {n_periods} of train by column "
        f"{settings.time!r}, {count_texts(len(held))} from {_shown(train[held].min())} to "
        f"{_shown(train[held].max())}{left_out}."
    )
    return table.drop(index=later)


def _shown(moment: pd.Timestamp) -> str:
    """A moment without its time, where that is midnight."""
    return str(moment.date() if moment == moment.normalize() else moment)


def _note_earlier(split: str, held: pd.Series, train: pd.Series, draft: Draft) -> None:
    """Say how many texts of train come after the first of a split that the source gives."""
    if after := int((train >= held.min()).sum()):
        draft.notes.append(
            f"Split {split} is the source's own and begins at {_shown(held.min())}: "
            f"{count_texts(after)} of train {'is' if after == 1 else 'are'} not before it."
        )


def _without_later_unlabelled(
    table: pd.DataFrame, moments: pd.Series, notes: list[str]
) -> pd.DataFrame:
    unlabelled = table["split"] == "unlabelled"
    last = moments[table.index[table["split"] == "train"]].max()
    later = unlabelled & ~(moments[table.index] <= last)
    if later.any():
        notes.append(
            f"Dropped {count_texts(int(later.sum()), 'unlabelled text')} from after "
            f"{_shown(last)}, when train ends, or without a time."
        )
    return table[~later]
