"""Which column of a table says train, valid or test, and what it says of each row."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from ulmfit_app.data.columns import require_column
from ulmfit_app.errors import DataError, quoted

SPLIT_WORDS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev", "development"),
    "test": ("test", "testing"),
    "unlabelled": ("unlabelled", "unlabeled", "unsup", "unsupervised"),
}
SPLIT_OF_WORD = {word: split for split, words in SPLIT_WORDS.items() for word in words}
# fastai's own column (`ColSplitter`), as Python, pandas and JSON write what is true.
IS_VALID = "is_valid"
_SPLIT_OF_FLAG = {
    **dict.fromkeys(("true", "1", "1.0"), "valid"),
    **dict.fromkeys(("false", "0", "0.0"), "train"),
}


def find_split_column(
    table: pd.DataFrame, path: Path, named: str | None, taken: Collection[str], notes: list[str]
) -> str | None:
    """The column of the splits: the one named by the user, else `split`, else fastai's `is_valid`.

    Args:
        table: strings.
        path: of its file, for messages.
        named: the column named with --split.
        taken: columns that the user named as something else.
        notes: gets a sentence on a column that was taken unasked, or left unused.

    Returns:
        Its name; None where there is none. A column called split that holds other words is none.

    Raises:
        DataError: the name is not there, or there is doubt.
    """
    require_column(table, path, "--split", named)
    if named is not None:
        return named
    for name in ("split", IS_VALID):
        called = [
            column for column in table.columns if column.casefold() == name and column not in taken
        ]
        # Of two columns, one is the text and one the label.
        if name == IS_VALID and len(table.columns) < 3:
            called = []
        meant = [column for column in called if _is_mostly_known(table[column], column)]
        if len(meant) > 1:
            raise DataError(
                f"{path} has the columns {quoted(meant)}; which one holds the splits is not "
                "clear. Add --split COLUMN to the command."
            )
        notes += [_not_used(table[column], column) for column in called if column not in meant]
        if meant:
            notes.append(f"Took the splits from column '{meant[0]}'.")
            return meant[0]
    return None


def read_splits(column: pd.Series, name: str, path: Path) -> pd.Series:
    """The split of each row.

    Args:
        column: cells.
        name: of the column; in `is_valid` True is valid and False is train.
        path: of the file, for messages.

    Raises:
        DataError: a cell is empty, or no split.
    """
    words = _words_of(name)
    splits = column.map(lambda cell: words.get(_word(cell)))
    unknown = splits.isna()
    if unknown.any():
        odd, row = column[unknown], int(unknown.to_numpy().argmax())
        expected = (
            "true or false" if words is _SPLIT_OF_FLAG else "train, valid, test or unlabelled"
        )
        raise DataError(
            f"Column '{name}' of {path} has {quoted(odd.unique().tolist())} in {len(odd):,} of "
            f"{len(column):,} rows, first in row {row} (counted from 0), which is no split. "
            f"Expected {expected} in every row. Correct these cells, name another column with "
            "--split COLUMN, or give this one another name to have splits made."
        )
    return splits


def _words_of(name: str) -> dict[str, str]:
    return _SPLIT_OF_FLAG if name.casefold() == IS_VALID else SPLIT_OF_WORD


def _word(cell: str) -> str:
    return cell.strip().casefold()


def _is_mostly_known(column: pd.Series, name: str) -> bool:
    """Whether most cells that are not empty say a split."""
    words = column.map(_word)
    filled = words[words != ""]
    return bool(len(filled)) and filled.isin(list(_words_of(name))).mean() > 0.5


def _not_used(column: pd.Series, name: str) -> str:
    examples = [cell for cell in column.unique().tolist() if cell.strip()][:3]
    found = f"holds {quoted(examples)}" if examples else "is empty"
    expected = "true and false" if name.casefold() == IS_VALID else "train, valid and test"
    return f"Column '{name}' {found} instead of {expected}, so it was not used for the splits."
