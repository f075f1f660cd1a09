"""Which column of a table holds the texts, and which the labels."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from ulmfit_app.errors import DataError, quoted

TEXT_NAMES = {"text", "review", "sentence", "comment"}
LABEL_NAMES = {"label", "class", "sentiment", "target", "category"}


# Which column is which


def text_and_label_columns(
    table: pd.DataFrame, path: Path, text: str | None, label: str | None, split: str | None
) -> tuple[str, str]:
    """The columns that hold the texts and the labels: those named by the user, or those that leave no doubt.

    Raises DataError for a name that is not there, or where there is doubt.
    """
    for flag, name in (("--text", text), ("--label", label)):
        require_column(table, path, flag, name)
    candidates = [name for name in table.columns if name != split]
    if len(candidates) < 2:
        raise DataError(
            f"{path} has {'one column' if split is None else f'one column besides {split!r}'}, {quoted(candidates)}. "
            f"Expected at least one of texts and one of labels, in a CSV "
            f"separated by comma, semicolon or tab."
        )
    if len(candidates) == 2 and (text is None) != (label is None):
        other = next(name for name in candidates if name not in (text, label))
        return text or other, label or other
    by_content = _told_apart(table[candidates], path) if text is None and label is None else None
    text = text or _only_one_named(TEXT_NAMES, candidates)
    label = label or _only_one_named(LABEL_NAMES, candidates)
    if text and label:
        return text, label
    if by_content and text in (None, by_content[0]) and label in (None, by_content[1]):
        return by_content
    raise DataError(
        f"{path} has the columns {quoted(table.columns)}; which one holds the texts and which the labels is not clear. "
        f"Run: python -m ulmfit_app.run {path} --text COLUMN --label COLUMN"
    )


def require_column(table: pd.DataFrame, path: Path, flag: str, name: str | None) -> None:
    """Raises DataError when `name`, given with `flag`, is none of the columns."""
    if name is None or name in table.columns:
        return
    near = get_close_matches(name, table.columns, n=1, cutoff=0.5)
    advice = f"Did you mean {flag} {near[0]}?" if near else f"Give one of them with {flag}."
    raise DataError(
        f"{path} has no column '{name}'. Its columns are {quoted(table.columns)}. {advice}"
    )


def _text_column(table: pd.DataFrame, path: Path, text: str | None) -> str:
    require_column(table, path, "--text", text)
    by_content = _told_apart(table, path) if text is None and len(table.columns) == 2 else None
    column = text or _only_one_named(TEXT_NAMES, table.columns) or (by_content and by_content[0])
    if column is None:
        raise DataError(
            f"{path} has the columns {quoted(table.columns)}; which one holds the texts is not clear. "
            f"Add --text COLUMN to the command."
        )
    return column


def _only_one_named(names: set[str], columns: Sequence[str]) -> str | None:
    found = [column for column in columns if column.casefold() in names]
    return found[0] if len(found) == 1 else None


def _told_apart(table: pd.DataFrame, path: Path) -> tuple[str, str] | None:
    """(text, label) of two columns when one is plainly prose and the other plainly a label, else None."""
    if len(table.columns) != 2:
        return None
    length = {name: table[name].str.len().mean() for name in table.columns}
    label, text = sorted(table.columns, key=length.__getitem__)
    n_labels, n_texts = table[label].nunique(), table[text].nunique()
    if length[text] < 3 * length[label] or n_labels > len(table) / 2 or n_texts < 2 * n_labels:
        return None
    if label in set(table[label]):
        raise DataError(
            f"The first line of {path} should name the columns, but '{label}' in it is also a label further down. "
            f"Put a line such as text,label before it."
        )
    return text, label
