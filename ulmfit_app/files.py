"""What is written and hashed in one way in the whole application."""

import hashlib
from collections.abc import Iterable
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


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all, without its index.

    UTF-8, commas, line feeds. Every string and every column name stands in quotes, so that
    `data.reading.read_table` reads back any text: carriage returns, NUL and separators too. The
    csv module of Python 3.10 leaves a lone carriage return outside quotes, and refuses NUL.

    Args:
        path: what was there before is replaced; parent folders are made.
        table: strings and numbers. Missing values become empty strings.

    Raises:
        UnicodeEncodeError: a string has a lone surrogate, which UTF-8 does not.
    """
    cells = table.astype(object).where(table.notna(), "")
    with replacing(path) as draft, open(draft, "w", encoding="utf-8", newline="") as file:
        for row in (map(str, table.columns), *cells.itertuples(index=False, name=None)):
            file.write(",".join(map(_csv_field, row)) + "\n")


def _csv_field(value: Any) -> str:
    if isinstance(value, Number):
        return str(value)
    doubled = str(value).replace('"', '""')
    return f'"{doubled}"'
