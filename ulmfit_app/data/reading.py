"""Files to raw tables: CSV, TSV, JSON lines, Parquet and folders of text files, read strictly.

Every cell is a string here, and a cell without a value is the empty string: no type is guessed, no
word such as "NA" is taken for a missing value. What a table means, its labels and splits, is
decided in `corpus`.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pandas as pd

from ulmfit_app.data.columns import find_text_column
from ulmfit_app.data.encodings import LONE_SURROGATE, decode, replace_lone_surrogates
from ulmfit_app.data.tables import TABLE_KINDS
from ulmfit_app.errors import DataError, quoted


def read_table(path: Path, encoding: str = "utf-8") -> pd.DataFrame:
    """The whole file as one table of strings; it raises what `read_chunks` raises."""
    return pd.concat(read_chunks(path, encoding, chunk_rows=50_000), ignore_index=True)


def read_own_table(path: Path, n_rows: int) -> pd.DataFrame:
    """A table that this application wrote, whole: every cell a string.

    Args:
        path: what `files.write_table` wrote.
        n_rows: as many as were written.

    Raises:
        DataError: it is missing or broken, or has another number of rows.
    """
    table = read_table(path)
    if len(table) != n_rows:
        raise DataError(f"{path} has {len(table):,} rows, and {n_rows:,} were written to it.")
    return table


def read_texts(
    path: Path, text: str | None = None, encoding: str = "utf-8", chunk_rows: int = 10_000
) -> tuple[str, Iterator[pd.DataFrame]]:
    """The column of the texts, and the file in order, a few rows at a time.

    Memory stays that of one chunk. A file of texts alone needs no second column here. Lone
    surrogates become U+FFFD.

    Args:
        path: CSV, TSV, JSON lines or Parquet.
        text: the column of the texts; None where its name or content leaves no doubt.
        encoding: as Python names it.
        chunk_rows: at most so many rows at a time.

    Returns:
        The column's name, and chunks with all columns.

    Raises:
        DataError: at once for a file or column that is not there, or a text column that cannot be
            told from its first chunk; while iterating, for what is broken further down.
        SettingError: there is no such encoding.
    """
    chunks = read_chunks(path, encoding, chunk_rows)
    first = next(chunks)
    column = find_text_column(first, path, text)
    return column, (chunk.apply(replace_lone_surrogates) for chunk in chain([first], chunks))


def read_chunks(path: Path, encoding: str, chunk_rows: int) -> Iterator[pd.DataFrame]:
    """Tables of at most `chunk_rows` rows with the same columns; at least one, and none empty.

    Args:
        path: CSV, TSV, JSON lines or Parquet.
        encoding: as Python names it.
        chunk_rows: of each table but the last.

    Raises:
        DataError: the file is missing, empty, without rows, of an unknown kind, wrongly encoded or
            broken, or two of its columns have one name.
        SettingError: there is no such encoding.
    """
    open_rows = TABLE_KINDS.get(path.suffix.lower())
    if not path.is_file():
        raise DataError(f"There is no file {path}. {_neighbours(path)}")
    if open_rows is None:
        raise DataError(
            f"{path} is of no kind that can be read. Expected: {', '.join(TABLE_KINDS)}."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Expected a table of texts with a line of column names.")
    columns, rows = open_rows(path, encoding)
    columns = [LONE_SURROGATE.sub("\ufffd", name).strip() for name in columns]
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise DataError(
            f"{path} has more than one column named {quoted(repeated)}. Rename all but one."
        )
    chunk = None
    while batch := list(islice(rows, chunk_rows)):
        # object: Arrow's strings, the default where pyarrow is installed, cannot hold the lone
        # surrogates of JSON.
        chunk = pd.DataFrame(batch, columns=columns, dtype=object)
        yield chunk
    if chunk is None:
        found = (
            f"only the column names {quoted(columns)}" if columns else "nothing but white space"
        )
        raise DataError(f"{path} has no rows: it holds {found}.")


def read_folder(
    folder: Path, encoding: str = "utf-8", order: Callable[[str], Any] | None = None
) -> tuple[list[str], list[str]]:
    """Names and contents of the .txt files that lie in a folder itself.

    Args:
        folder: files in folders of it are left out.
        encoding: as Python names it.
        order: what names are sorted by; None for the names themselves.

    Returns:
        Names and contents, in the same order.

    Raises:
        DataError: a file is not in this encoding.
        SettingError: there is no such encoding.
    """
    with os.scandir(folder) as entries:
        names = sorted((entry.name for entry in entries if entry.name.endswith(".txt")), key=order)
    texts = []
    for name in names:
        with open(os.path.join(folder, name), "rb", buffering=0) as file:
            texts.append(decode(file.read(), folder / name, encoding))
    return names, texts


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either."
    near = get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"Did you mean {path.with_name(near[0])}?" if near else "Check the path."
