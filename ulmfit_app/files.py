"""What is written and hashed in one way in the whole application."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from numbers import Number
from pathlib import Path
from typing import Any

import pandas as pd

from data_scripts.files import replacing, sha256_of


def sha256_of_strings(strings: Iterable[str]) -> str:
    """Hexadecimal SHA-256 of a sequence of strings that no other sequence shares."""
    digest = hashlib.sha256()
    for string in strings:
        data = string.encode("utf-8", "surrogatepass")
        # With its length before each, ["ab", "c"] and ["a", "bc"] differ.
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def sha256_of_path(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, or of a folder's files and their names relative to it.

    Args:
        path: a file or a folder; one that does not exist has the hash of an empty folder.

    Returns:
        64 digits. Of a file it is the one that sha256sum prints.
    """
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    return sha256_of_strings(
        part for file in files for part in (str(file.relative_to(path)), sha256_of(file))
    )


def link_file(source: Path, target: Path) -> None:
    """The same file under another name, without a second copy where the file system can.

    Args:
        source: a file.
        target: what was there before is replaced.
    """
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        with replacing(target) as draft:
            shutil.copyfile(source, draft)


@contextmanager
def writing_table(path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Write a CSV a few rows at a time; it appears whole when the block ends well, or not at all.

    UTF-8, commas, line feeds. Every string and every column name stands in quotes, so that
    `data.reading.read_table` reads back any text: carriage returns, NUL and separators too. The
    csv module of Python 3.10 to 3.12 leaves a lone carriage return outside quotes.

    Args:
        path: what was there before is replaced; parent folders are made.

    Yields:
        A function that appends a table without its index, all with the first one's columns.
        Strings and numbers; missing values become empty strings.

    Raises:
        UnicodeEncodeError: a string has a lone surrogate, which UTF-8 does not have.
        ValueError: a table with other columns than the first, or two columns of one name.
    """
    columns: list[str] | None = None
    with replacing(path) as draft, open(draft, "w", encoding="utf-8", newline="") as file:

        def append(table: pd.DataFrame) -> None:
            nonlocal columns
            if columns is None:
                columns = list(map(str, table.columns))
                if len(set(columns)) < len(columns):
                    raise ValueError(f"expected columns of different names, found {columns}")
                file.write(_csv_line(columns))
            elif list(map(str, table.columns)) != columns:
                raise ValueError(f"expected the columns {columns}, found {list(table.columns)}")
            file.write(csv_rows_of(table))

        yield append


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a whole table as CSV, as `writing_table` does."""
    with writing_table(path) as append:
        append(table)


def csv_rows_of(table: pd.DataFrame, header: bool = False) -> str:
    """A table's rows as `writing_table` writes them.

    Args:
        table: strings and numbers.
        header: with the line of column names before them.
    """
    cells = table.astype(object).where(table.notna(), "")
    lines = [_csv_line(list(map(str, table.columns)))] if header else []
    return "".join([*lines, *map(_csv_line, cells.itertuples(index=False, name=None))])


def _csv_line(cells: Iterable[Any]) -> str:
    return ",".join(map(_csv_field, cells)) + "\n"


def _csv_field(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    doubled = str(value).replace('"', '""')
    return f'"{doubled}"'
