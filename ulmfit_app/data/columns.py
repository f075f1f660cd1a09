"""Which column of a table holds the texts, and which the labels."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from ulmfit_app.data.csv_rows import advise_separator
from ulmfit_app.errors import DataError, quoted

TEXT_NAMES = {"text", "review", "sentence", "comment"}
LABEL_NAMES = {"label", "class", "sentiment", "target", "category"}


def find_text_and_label_columns(
    table: pd.DataFrame, path: Path, text: str | None, label: str | None, split: str | None
) -> tuple[str, str]:
    """The columns of the texts and the labels: those named by the user, or those beyond doubt.

    Args:
        table: strings.
        path: of its file, for messages.
        text: the column named with --text.
        label: the column named with --label.
        split: the column of the splits, which is neither.

    Returns:
        Names of the two columns.

    Raises:
        DataError: a name is not there, or there is doubt.
    """
    for flag, name in (("--text", text), ("--label", label)):
        require_column(table, path, flag, name)
    candidates = [name for name in table.columns if name != split]
    if len(candidates) < 2:
        raise DataError(
            f"{path} has {'one column' if split is None else f'one column besides {split!r}'}, "
            f"{quoted(candidates)}. Expected at least one of texts and one of labels, in a CSV "
            f"separated by comma, semicolon or tab.{advise_separator(candidates)}"
        )
    if len(candidates) == 2 and (text is None) != (label is None):
        other = next(name for name in candidates if name not in (text, label))
        return text or other, label or other
    named = {"--text": text, "--label": label}
    by_content = _told_apart(table[candidates], path) if text is None and label is None else None
    text = text or _only_one_named(TEXT_NAMES, [name for name in candidates if name != label])
    label = label or _only_one_named(LABEL_NAMES, [name for name in candidates if name != text])
    if text and label:
        return text, label
    if by_content and text in (None, by_content[0]) and label in (None, by_content[1]):
        return by_content
    asked = [f"{flag} COLUMN" for flag, name in named.items() if name is None]
    of_two = [name for name in candidates if set(table[name].str.strip()) == {"0", "1"}]
    hint = " Where the columns of 1 and 0 are labels of their own, add: --multilabel"
    raise DataError(
        f"{path} has the columns {quoted(table.columns)}; which one holds the texts and which the "
        f"labels is not clear. Add {' '.join(asked)} to the command."
        f"{hint if len(of_two) > 1 else ''}"
    )


def rename_by_meaning(
    columns: Collection[str], meanings: Mapping[str, str | None]
) -> dict[str, str]:
    """New names for columns: their meaning where they have one, another name where it is taken.

    Args:
        columns: all columns of a table.
        meanings: which column holds what is to be called text, label, ...; None where none does.

    Returns:
        {column: new name}, as `DataFrame.rename` takes it; a column that keeps its name is left
        out. A column that has one of the new names, but not its meaning, becomes `column NAME`.

    >>> rename_by_meaning(["review", "text", "label"], {"text": "review", "label": "label"})
    {'review': 'text', 'text': 'column text'}
    """
    names = {column: meaning for meaning, column in meanings.items() if column is not None}
    for meaning in meanings:
        if meaning in columns and meaning not in names:
            name = f"column {meaning}"
            while name in columns:
                name = f"column {name}"
            names[meaning] = name
    return {column: name for column, name in names.items() if column != name}


def require_column(table: pd.DataFrame, path: Path, flag: str, name: str | None) -> None:
    """Refuse a column that is not there.

    Args:
        table: whose columns there are.
        path: of its file, for the message.
        flag: the option that named the column.
        name: the column; None is never refused.

    Raises:
        DataError: it is none of the columns.
    """
    if name is None or name in table.columns:
        return
    advice = f"Give one of them with {flag}."
    if near := get_close_matches(name, table.columns, n=1, cutoff=0.5):
        advice = f"Did you mean {flag} {shlex.quote(near[0])}?"
    raise DataError(
        f"{path} has no column '{name}'. Its columns are {quoted(table.columns)}. {advice}"
    )


def find_text_column(table: pd.DataFrame, path: Path, text: str | None) -> str:
    """The column of the texts, in a table that needs no labels.

    Args:
        table: strings.
        path: of its file, for messages.
        text: the column named with --text.

    Raises:
        DataError: the name is not there, or there is doubt.
    """
    require_column(table, path, "--text", text)
    by_content = _told_apart(table, path) if text is None and len(table.columns) == 2 else None
    column = text or _only_one_named(TEXT_NAMES, table.columns) or (by_content and by_content[0])
    if column is None:
        raise DataError(
            f"{path} has the columns {quoted(table.columns)}; which one holds the texts is not "
            "clear. Add --text COLUMN to the command."
        )
    return column


def _only_one_named(names: set[str], columns: Sequence[str]) -> str | None:
    found = [column for column in columns if column.casefold() in names]
    return found[0] if len(found) == 1 else None


def _told_apart(table: pd.DataFrame, path: Path) -> tuple[str, str] | None:
    """(text, label) of two columns when one is plainly prose and the other a label, else None."""
    if len(table.columns) != 2:
        return None
    length = {name: table[name].str.len().mean() for name in table.columns}
    label, text = sorted(table.columns, key=length.__getitem__)
    n_labels, n_texts = table[label].nunique(), table[text].nunique()
    if length[text] < 3 * length[label] or n_labels > len(table) / 2 or n_texts < 2 * n_labels:
        return None
    if label in set(table[label]):
        raise DataError(
            f"The first line of {path} should name the columns, but '{label}' in it is also a "
            "label further down. Put a line such as text,label before it."
        )
    return text, label
