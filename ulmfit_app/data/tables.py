"""Rows of CSV, TSV, JSON-lines and Parquet files, every cell a string."""

import csv
import json
import math
import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from ulmfit_app.data.encodings import read_lines
from ulmfit_app.errors import DataError

# Python 3.10's csv module refuses NUL: half a surrogate pair, which no file holds, stands for it.
NUL = "\0" if sys.version_info >= (3, 11) else "\udfff"
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}


# CSV and TSV


def _csv_rows(path: Path, encoding: str) -> tuple[list[str], Iterator[list[str]]]:
    # The csv module's own limit of 131,072 characters per field is shorter than some reviews; a C
    # long holds no more.
    csv.field_size_limit(2**31 - 1)
    records = _csv_records(path, encoding, _delimiter(path, encoding))
    return next(records, []), records


def _delimiter(path: Path, encoding: str) -> str:
    """The one of comma, semicolon and tab that cuts the header line into most fields."""
    # A name in quotes may hold any of the three: cut there, it breaks the rules of quoting.
    n_fields = {d: _fields_of_header(path, encoding, d, strict=True) for d in DELIMITERS}
    if not any(n_fields.values()):
        n_fields = {d: _fields_of_header(path, encoding, d, strict=False) for d in DELIMITERS}
    most = max(n_fields.values())
    best = [delimiter for delimiter, count in n_fields.items() if count == most]
    if most <= 1 or len(best) == 1:
        return best[0]
    if path.suffix.lower() == ".tsv" and "\t" in best:
        return "\t"
    raise DataError(
        f"The first line of {path} has as many fields when it is cut at "
        f"{' as at '.join(DELIMITERS[d] for d in best)}. Put the column names in quotes, so that "
        "only the separator is left outside."
    )


def _fields_of_header(path: Path, encoding: str, delimiter: str, strict: bool) -> int:
    """Fields of the first line that has any; 0 where there is none, or it breaks a strict rule."""
    reader = csv.reader(_csv_lines(path, encoding), delimiter=delimiter, strict=strict)
    try:
        return len(next(filter(None, reader), []))
    except csv.Error:
        return 0


def _csv_records(path: Path, encoding: str, delimiter: str) -> Iterator[list[str]]:
    """Header and rows, blank lines left out, all of one width."""
    reader = csv.reader(_csv_lines(path, encoding), delimiter=delimiter, strict=True)
    width = None
    while True:
        first_line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error:
            line = _line_of_open_quote(path, encoding, delimiter, first_line)
            raise DataError(
                f"{path}, line {line}: a quote opens here and is not closed before a "
                f"{DELIMITERS[delimiter]} or the "
                f'end of a line. Close it, and double each quote inside a quoted text: "".'
            ) from None
        if not record:
            continue
        width = width or len(record)
        if len(record) != width:
            raise DataError(
                f"{path}, line {first_line}: expected {width} fields as in the line of column "
                f"names, found {len(record)}. A text that holds a {DELIMITERS[delimiter]} or a "
                "line break must stand in quotes."
            )
        yield record if NUL == "\0" else [field.replace(NUL, "\0") for field in record]


def _csv_lines(path: Path, encoding: str) -> Iterator[str]:
    lines = read_lines(path, encoding)
    return lines if NUL == "\0" else (line.replace("\0", NUL) for line in lines)


def _line_of_open_quote(path: Path, encoding: str, delimiter: str, first_line: int) -> int:
    """Line of the quote that makes the record from `first_line` on break RFC 4180, section 2."""
    opened = first_line
    before_field, plain, in_quotes, after_quote = range(4)
    state = before_field
    for number, line in enumerate(read_lines(path, encoding), start=1):
        if number < first_line:
            continue
        for character in line:
            if state == in_quotes:
                state = after_quote if character == '"' else in_quotes
            elif character in (delimiter, "\n", "\r"):
                state = before_field
            elif state == before_field and character == '"':
                state, opened = in_quotes, number
            elif state == after_quote:
                if character != '"':
                    return opened
                state = in_quotes
            else:
                state = plain
    return opened


# JSON lines and Parquet


def _json_rows(path: Path, encoding: str) -> tuple[list[str], Iterator[list[str]]]:
    # Read twice: a key may first appear in the last line, and the columns must be known before the
    # first row.
    columns = list(dict.fromkeys(chain.from_iterable(_json_records(path, encoding))))
    rows = (
        [_cell(record.get(column)) for column in columns]
        for record in _json_records(path, encoding)
    )
    return columns, rows if columns else iter(())


def _json_records(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_lines(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            record = error
        if not isinstance(record, dict):
            found = (
                f"JSON that is not whole ({record})"
                if isinstance(record, Exception)
                else f"{line.strip()[:60]}"
            )
            raise DataError(
                f'{path}, line {number}: expected one JSON object per line, such as {{"text": '
                '"...", "label": "..."}; '
                f"found {found}."
            )
        yield record


def _parquet_rows(path: Path, encoding: str) -> tuple[list[str], Iterator[tuple[str, ...]]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            f"Reading {path} needs pyarrow, which is not installed. Run: pip install "
            "'ulmfit-app[parquet]'"
        ) from None
    try:
        file = ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {error}") from None
    # pandas writes its row index as such a column; it is no data.
    columns = [
        name for name in file.schema_arrow.names if not re.fullmatch(r"__index_level_\d+__", name)
    ]

    def rows() -> Iterator[tuple[str, ...]]:
        try:
            for batch in file.iter_batches(batch_size=10_000, columns=columns):
                yield from zip(
                    *(map(_cell, column.to_pylist()) for column in batch.columns), strict=True
                )
        except (ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged: {error}") from None

    return columns, rows()


def _cell(value: Any) -> str:
    """A JSON or Parquet value as the string a CSV would hold; nothing for null and NaN.

    >>> [_cell(value) for value in ("NA", None, True, 1, 1.0, 0.5, math.nan, ["a"])]
    ['NA', '', 'true', '1', '1', '0.5', '', '["a"]']
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return (
        json.dumps(value, ensure_ascii=False, default=str)
        if isinstance(value, (list, dict))
        else str(value)
    )


TABLE_KINDS = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".json": _json_rows,
    ".parquet": _parquet_rows,
}
