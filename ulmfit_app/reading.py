"""Files to raw tables: CSV, TSV, JSON lines, Parquet and folders of text files, read strictly.

Every cell is a string here, and a cell without a value is the empty string: no type is guessed, no word such as "NA" is
taken for a missing value. What a table means, its labels and splits, is decided in `corpus`.
"""

import codecs
import csv
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pandas as pd

from ulmfit_app.errors import DataError, SettingError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
TEXT_NAMES = {"text", "review", "sentence", "comment"}
LABEL_NAMES = {"label", "class", "sentiment", "target", "category"}

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def read_table(path: Path, encoding: str = "utf-8") -> pd.DataFrame:
    """The whole file as one table of strings. Raises what `table_chunks` raises."""
    return pd.concat(table_chunks(path, encoding, chunk_rows=50_000), ignore_index=True)


def read_texts(
    path: Path, text_column: str | None = None, encoding: str = "utf-8", chunk_rows: int = 10_000
) -> tuple[str, Iterator[pd.DataFrame]]:
    """The column of the texts, and the file in order, `chunk_rows` rows at a time with all its columns.

    Memory stays that of one chunk. A file of texts alone needs no second column here. Lone surrogates become U+FFFD.
    Raises DataError at once for a file or column that is not there or a text column that cannot be told from its first
    chunk; while iterating, for what is broken further down.
    """
    chunks = table_chunks(path, encoding, chunk_rows)
    first = next(chunks)
    column = _text_column(first, path, text_column)
    return column, (chunk.apply(without_lone_surrogates) for chunk in chain([first], chunks))


def table_chunks(path: Path, encoding: str, chunk_rows: int) -> Iterator[pd.DataFrame]:
    """Tables of at most `chunk_rows` rows, all with the same columns; at least one, and none empty.

    Raises DataError for a file that is missing, empty, without rows, of an unknown kind, wrongly encoded or broken, and
    for two columns of one name; SettingError for an encoding that does not exist.
    """
    open_rows = TABLE_KINDS.get(path.suffix.lower())
    if not path.is_file():
        raise DataError(f"There is no file {path}. {_neighbours(path)}")
    if open_rows is None:
        raise DataError(f"{path} is of no kind that can be read. Expected: {', '.join(TABLE_KINDS)}.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Expected a table of texts with a line of column names.")
    columns, rows = open_rows(path, encoding)
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise DataError(f"{path} has more than one column named {quoted(repeated)}. Rename all but one.")
    chunk = None
    while batch := list(islice(rows, chunk_rows)):
        # object: Arrow's strings, the default where pyarrow is installed, cannot hold the lone surrogates of JSON.
        chunk = pd.DataFrame(batch, columns=columns, dtype=object)
        yield chunk
    if chunk is None:
        found = f"only the column names {quoted(columns)}" if columns else "nothing but white space"
        raise DataError(f"{path} has no rows: it holds {found}.")


def read_folder(
    folder: Path, encoding: str = "utf-8", order: Callable[[str], Any] | None = None
) -> tuple[list[str], list[str]]:
    """Names and contents of the .txt files that lie in `folder` itself, sorted by `order(name)`.

    Raises DataError for a file that is not in `encoding`.
    """
    with os.scandir(folder) as entries:
        names = sorted((entry.name for entry in entries if entry.name.endswith(".txt")), key=order)
    texts = []
    for name in names:
        with open(os.path.join(folder, name), "rb", buffering=0) as file:
            texts.append(_decoded(file.read(), folder / name, encoding))
    return names, texts


def without_lone_surrogates(column: pd.Series) -> pd.Series:
    """U+FFFD for each half of a surrogate pair without the other half: no encoder accepts one.

    >>> without_lone_surrogates(pd.Series(["a\\ud800b"], dtype=object)).tolist() == ["a\\ufffdb"]
    True
    """
    return column.map(lambda cell: LONE_SURROGATE.sub("\ufffd", cell))


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
    raise DataError(f"{path} has no column '{name}'. Its columns are {quoted(table.columns)}. {advice}")


def quoted(names: Sequence[str]) -> str:
    """Names as they stand in a sentence, the first ten of many.

    >>> quoted(["text", "label"])
    "'text', 'label'"
    """
    shown = ", ".join(f"'{name[:60]}'" for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10:,} more"


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


# CSV and TSV


def _csv_rows(path: Path, encoding: str) -> tuple[list[str], Iterator[list[str]]]:
    # The csv module's own limit of 131,072 characters a field is shorter than some reviews; a C long holds no more.
    csv.field_size_limit(2**31 - 1)
    records = _csv_records(path, encoding, _delimiter(path, encoding))
    header = next(records, [])
    return [name.strip() for name in header], records


def _delimiter(path: Path, encoding: str) -> str:
    """The one of comma, semicolon and tab that cuts the header line into most fields."""
    n_fields = {
        delimiter: len(next(filter(None, csv.reader(_csv_lines(path, encoding), delimiter=delimiter)), []))
        for delimiter in DELIMITERS
    }
    most = max(n_fields.values())
    best = [delimiter for delimiter, count in n_fields.items() if count == most]
    if most <= 1 or len(best) == 1:
        return best[0]
    if path.suffix.lower() == ".tsv" and "\t" in best:
        return "\t"
    raise DataError(
        f"The first line of {path} has as many fields when it is cut at {' as at '.join(DELIMITERS[d] for d in best)}. "
        f"Put the column names in quotes, so that only the separator is left outside."
    )


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
                f"{path}, line {line}: a quote opens here and is not closed before a {DELIMITERS[delimiter]} or the "
                f'end of a line. Close it, and double each quote inside a quoted text: "".'
            ) from None
        if not record:
            continue
        width = width or len(record)
        if len(record) != width:
            raise DataError(
                f"{path}, line {first_line}: expected {width} fields as in the line of column names, found "
                f"{len(record)}. A text that holds a {DELIMITERS[delimiter]} or a line break must stand in quotes."
            )
        yield record


def _csv_lines(path: Path, encoding: str) -> Iterator[str]:
    lines = _lines(path, encoding)
    # Python 3.10's csv module refuses a line with a NUL character.
    return lines if sys.version_info >= (3, 11) else (line.replace("\0", "\ufffd") for line in lines)


def _line_of_open_quote(path: Path, encoding: str, delimiter: str, first_line: int) -> int:
    """Line of the quote that makes the record from `first_line` on break the rules of CSV (RFC 4180, section 2)."""
    opened = first_line
    before_field, plain, in_quotes, after_quote = range(4)
    state = before_field
    for number, line in enumerate(_lines(path, encoding), start=1):
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
    # Read twice: a key may first appear in the last line, and the columns must be known before the first row.
    columns = list(dict.fromkeys(chain.from_iterable(_json_records(path, encoding))))
    rows = ([_cell(record.get(column)) for column in columns] for record in _json_records(path, encoding))
    return columns, rows if columns else iter(())


def _json_records(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            record = error
        if not isinstance(record, dict):
            found = f"JSON that is not whole ({record})" if isinstance(record, Exception) else f"{line.strip()[:60]}"
            raise DataError(
                f'{path}, line {number}: expected one JSON object a line, such as {{"text": "...", "label": "..."}}; '
                f"found {found}."
            )
        yield record


def _parquet_rows(path: Path, encoding: str) -> tuple[list[str], Iterator[tuple[str, ...]]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            f"Reading {path} needs pyarrow, which is not installed. Run: pip install 'ulmfit-app[parquet]'"
        ) from None
    try:
        file = ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {error}") from None
    # pandas writes its row index as such a column; it is no data.
    columns = [name for name in file.schema_arrow.names if not re.fullmatch(r"__index_level_\d+__", name)]

    def rows() -> Iterator[tuple[str, ...]]:
        try:
            for batch in file.iter_batches(batch_size=10_000, columns=columns):
                yield from zip(*(map(_cell, column.to_pylist()) for column in batch.columns), strict=True)
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
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else str(value)


# Encodings


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Decoded lines with their ends as they are, without a byte order mark."""
    codec = _codec(encoding)
    try:
        with open(path, encoding=codec, newline="") as file:
            _refuse_utf16(file.buffer.peek(4096), path, encoding)
            yield from file
    except UnicodeError:
        raise DataError(_wrong_encoding(path, encoding, _first_bad_byte(path, codec))) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def _decoded(content: bytes, path: Path, encoding: str) -> str:
    codec = _codec(encoding)
    _refuse_utf16(content[:4096], path, encoding)
    try:
        return content.decode(codec)
    except UnicodeDecodeError as error:
        raise DataError(_wrong_encoding(path, encoding, error.start)) from None


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "".encode(encoding)  # refuses codecs that are not of text, such as base64
    except LookupError:
        raise SettingError(
            f"There is no text encoding '{encoding}'. Expected for instance --encoding utf-8, cp1252 or utf-16."
        ) from None
    return "utf-8-sig" if name == "utf-8" else name


def _refuse_utf16(head: bytes, path: Path, encoding: str) -> None:
    """Raises DataError when a file starts like UTF-16 although another encoding is expected.

    Without this check UTF-16 letters of the Latin script are read as valid UTF-8, a NUL character after each.
    """
    if _codec(encoding).startswith(("utf-16", "utf-32")):
        return
    even, odd = head[::2].count(0), head[1::2].count(0)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        found, flag = "the byte order mark of UTF-16 at byte 0", "utf-16"
    elif even + odd > len(head) / 4:
        flag = "utf-16-le" if odd > even else "utf-16-be"
        found = f"a NUL byte at byte {head.index(0)} and in every second place, as in UTF-16"
    else:
        return
    raise DataError(f"{path} is not {encoding}: it has {found}. Add: --encoding {flag}")


def _wrong_encoding(path: Path, encoding: str, position: int) -> str:
    other = "cp1252" if _codec(encoding) == "utf-8-sig" else "utf-8"
    return f"{path} is not {encoding}: byte {position} cannot be read so. Add: --encoding {other}"


def _first_bad_byte(path: Path, codec: str) -> int:
    decoder = codecs.getincrementaldecoder(codec)()
    start = 0
    with open(path, "rb") as file:
        while True:
            block = file.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return start - pending + error.start
            if not block:
                return start
            start += len(block)


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"There is no folder {path.parent} either."
    near = get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"Did you mean {path.with_name(near[0])}?" if near else "Check the path."


TABLE_KINDS = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".json": _json_rows,
    ".parquet": _parquet_rows,
}
