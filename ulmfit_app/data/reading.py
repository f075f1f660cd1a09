"""Files to raw tables: CSV, TSV, JSON, Parquet and folders of text files, read strictly.

Every cell is a string here, and a cell without a value is the empty string: no type is guessed, no
word such as "NA" is taken for a missing value. What a table means, its labels and splits, is
decided in `corpus`.
"""

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pandas as pd

from ulmfit_app.config import Quotes
from ulmfit_app.data.columns import find_text_column
from ulmfit_app.data.csv_rows import csv_rows
from ulmfit_app.data.encodings import LONE_SURROGATE, decode, replace_lone_surrogates
from ulmfit_app.data.guessing import describe_misread
from ulmfit_app.data.opening import (
    TableFile,
    is_compressed,
    kind_inside,
    refuse_broken_link,
    refuse_other_content,
)
from ulmfit_app.data.tables import EXPECTED_KINDS, TABLE_KINDS, is_table_name
from ulmfit_app.errors import DataError, SettingError, quoted

_TARS = {".tar", ".tgz", ".tbz2", ".txz"}
_STREAMS = {Path("/dev"), Path("/dev/fd")}


def read_table(
    path: Path,
    encoding: str = "utf-8",
    quotes: Quotes = "csv",
    notes: list[str] | None = None,
    lists: bool = False,
) -> pd.DataFrame:
    """The whole file as one table of strings; arguments and errors are those of `read_chunks`."""
    chunks = read_chunks(path, encoding, 50_000, quotes, notes, lists)
    return pd.concat(chunks, ignore_index=True)


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


def read_labelled_lines(path: Path, split: str, encoding: str = "utf-8") -> pd.DataFrame:
    """Lines `label<TAB>text` without column names; blank ones are none.

    Args:
        path: of the file.
        split: of all its lines.
        encoding: as Python names it.

    Returns:
        Columns text, label and split.

    Raises:
        DataError: a line has no tab, or the file is of another encoding.
    """
    rows = []
    for number, line in enumerate(read_lines(path, encoding), start=1):
        label, tab, text = line.partition("\t")
        if tab:
            rows.append((text, label, split))
        elif line.strip():
            raise DataError(
                f"{path}, line {number}: expected 'label<TAB>text', found '{line[:60]}'."
            )
    return pd.DataFrame(rows, columns=["text", "label", "split"], dtype=object)


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """The lines of a file, which end at a line feed, with or without a carriage return."""
    # Texts can hold what str.splitlines takes for the end of a line.
    return decode(path.read_bytes(), path, encoding).replace("\r\n", "\n").split("\n")


def read_texts(
    path: Path,
    text: str | None = None,
    encoding: str = "utf-8",
    chunk_rows: int = 10_000,
    quotes: Quotes = "csv",
    notes: list[str] | None = None,
) -> tuple[str, Iterator[pd.DataFrame]]:
    """The column of the texts, and the file in order, a few rows at a time.

    Memory stays that of one chunk. A file of texts alone needs no second column here. Lone
    surrogates become U+FFFD.

    Args:
        path: CSV, TSV, JSON or Parquet.
        text: the column of the texts; None where its name or content leaves no doubt.
        encoding: as Python names it.
        chunk_rows: at most so many rows at a time.
        quotes, notes: as `read_chunks` takes them.

    Returns:
        The column's name, and chunks with all columns.

    Raises:
        DataError: at once for a file or column that is not there, or a text column that cannot be
            told from its first chunk; while iterating, for what is broken further down.
        SettingError: there is no such encoding.
    """
    chunks = read_chunks(path, encoding, chunk_rows, quotes, notes)
    first = next(chunks)
    column = find_text_column(first, path, text)
    if (said := describe_misread(first[column], encoding)) and notes is not None:
        notes.append(said)
    return column, (chunk.apply(replace_lone_surrogates) for chunk in chain([first], chunks))


def read_chunks(
    path: Path,
    encoding: str,
    chunk_rows: int,
    quotes: Quotes = "csv",
    notes: list[str] | None = None,
    lists: bool = False,
) -> Iterator[pd.DataFrame]:
    """Tables of at most `chunk_rows` rows with the same columns; at least one, and none empty.

    Args:
        path: CSV, TSV, JSON or Parquet, the first three perhaps compressed.
        encoding: as Python names it.
        chunk_rows: of each table but the last.
        quotes: of CSV and TSV; literal where a quote is a character like any other.
        notes: gets a sentence for each thing that was left out or decided, such as blank lines,
            some of them only when the last row is read.
        lists: whether a cell of JSON or Parquet may be a list of values; it becomes a JSON list.

    Raises:
        DataError: the file is missing, empty, without rows, of an unknown kind, wrongly encoded,
            damaged or broken, or two of its columns have one name.
        SettingError: there is no such encoding, or `quotes` would be ignored.
    """
    open_rows, file = _open(path, encoding, quotes, [] if notes is None else notes, lists)
    columns, rows = open_rows(file)
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


def read_folder(folder: Path, order: Callable[[str], Any]) -> tuple[list[str], list[str]]:
    """Names and contents of the .txt files that lie in a folder itself, in UTF-8.

    Args:
        folder: files in folders of it are left out.
        order: what names are sorted by.

    Returns:
        Names and contents, in the same order.

    Raises:
        DataError: a file is not UTF-8.
    """
    with os.scandir(folder) as entries:
        names = sorted((entry.name for entry in entries if entry.name.endswith(".txt")), key=order)
    texts = []
    for name in names:
        with open(os.path.join(folder, name), "rb", buffering=0) as file:
            texts.append(decode(file.read(), folder / name, "utf-8"))
    return names, texts


def _open(
    path: Path, encoding: str, quotes: Quotes, notes: list[str], lists: bool
) -> tuple[Callable[[TableFile], tuple[list[str], Iterator]], TableFile]:
    _require_file(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Expected a table of texts with a line of column names.")
    if archive := _TARS & {suffix.lower() for suffix in path.suffixes[-2:]}:
        raise DataError(
            f"{path} is an archive of files, {min(archive)}. Unpack it, and name the file with "
            f"the texts: tar -xf {shlex.quote(str(path))}"
        )
    kind = kind_inside(path)
    open_rows = TABLE_KINDS.get(kind)
    refuse_other_content(path, kind if open_rows else None)
    if open_rows is None:
        unpacked = path.with_suffix("") if is_compressed(path) else path
        new = f"{unpacked.with_suffix('.csv')}{path.suffix if is_compressed(path) else ''}"
        raise DataError(
            f"{path} is of no kind that can be read. Expected: {EXPECTED_KINDS}. If it is a table "
            "of one of these kinds, let its name say so: "
            f"mv {shlex.quote(str(path))} {shlex.quote(new)}"
        )
    if quotes != "csv" and open_rows is not csv_rows:
        raise SettingError(
            f"--quotes {quotes} is about CSV and TSV, and {path} is neither. Leave it out."
        )
    return open_rows, TableFile(path, kind, encoding, quotes, notes, lists)


def _require_file(path: Path) -> None:
    refuse_broken_link(path)
    if path.is_dir():
        tables = sorted(name for name in os.listdir(path) if is_table_name(Path(name)))
        found = f"Name a table in it: {quoted(tables)}." if tables else "It has no table in it."
        raise DataError(f"{path} is a folder, and a file is expected here. {found}")
    if not path.exists():
        raise DataError(f"There is no file {path}. {_neighbours(path)}")
    if not path.is_file() or path.parent in _STREAMS:
        raise DataError(
            f"{path} is no regular file, and a table is read more than once. Save what it gives "
            "to a file first, as in COMMAND > texts.csv, and name that."
        )


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either."
    near = get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"Did you mean {path.with_name(near[0])}?" if near else "Check the path."
