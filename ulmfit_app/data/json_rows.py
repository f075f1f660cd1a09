"""Rows of JSON: one object per line, or one document in a layout that names its columns."""

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ulmfit_app.data.encodings import read_lines
from ulmfit_app.data.opening import TableFile, is_compressed
from ulmfit_app.errors import DataError, quoted

_EXAMPLE = '{"text": "...", "label": "..."}'
_OPEN = "open(sys.argv[1], encoding=sys.argv[3])"
_LOAD = f"json.load({_OPEN})"
_WRITE_AGAIN = 'table.to_json("FILE.jsonl", orient="records", lines=True)'
_LINES = f"[json.loads(line) for line in {_OPEN} if line.strip()]"


class _Number(str):
    """A number as its file spells it: 1, 1.0 and 1e20 are three spellings."""


class _RepeatedKey(Exception):
    """An object has a key more than once, of which json keeps the last."""


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        ((key, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise _RepeatedKey(
            f"more than one key {quoted([key])} in the object that begins "
            f"{json.dumps(record, ensure_ascii=False)[:60]}"
        )
    return record


_DECODER = json.JSONDecoder(
    object_pairs_hook=_with_each_key_once,
    parse_int=_Number,
    parse_float=_Number,
    parse_constant=lambda name: None if name == "NaN" else _Number(name),
)
_KINDS = {_Number: "numbers", str: "strings", bool: "booleans"}


@dataclass(frozen=True)
class _Document:
    """What a whole JSON document holds.

    Args:
        records: an object per row.
        columns: their names; None: those of the records' keys.
        code: Python that gives the records, for advice.
        note: which layout it is, as a sentence; "" for a plain array of objects.
    """

    records: list[dict[str, Any]]
    columns: list[str] | None
    code: str
    note: str = ""


def json_rows(file: TableFile) -> tuple[list[str], Iterator[list[str]]]:
    """Column names, and rows of as many cells.

    Memory is that of a row where each line is an object, and of the file where it is one document.

    Raises:
        DataError: it is no JSON, has no names of columns, or cells that are objects or lists.
    """
    document = _read_document(file) if file.kind == ".json" else None
    if document is None:
        # Read twice: a key may first appear in the last line, and the columns must be known before
        # the first row.
        columns = _columns(file, _line_records(file), _LINES)
        rows = (_cells(record, columns) for _, record in _line_records(file))
        return columns, rows if columns else iter(())
    placed = ((f"row {row} (counted from 0)", each) for row, each in enumerate(document.records))
    columns = _columns(file, placed, document.code)
    if document.columns is not None:
        columns = document.columns
    if document.note:
        file.notes.append(document.note)
    return columns, (_cells(record, columns) for record in document.records)


def _columns(
    file: TableFile, records: Iterable[tuple[str, Mapping[str, Any]]], code: str
) -> list[str]:
    """All keys, in the order of their appearance.

    A note says where values of several types are one once they are strings. Raises DataError where
    values are nested.
    """
    columns: dict[str, Counter[type]] = {}
    nested: dict[str, str] = {}
    for place, record in records:
        for column, value in record.items():
            columns.setdefault(column, Counter())[type(value)] += 1
            if isinstance(value, (dict, list)) and not (file.lists and _is_list(value)):
                nested.setdefault(column, f"{_shape(value)} ({place})")
    refuse_nested(file, nested, code)
    for column, types in columns.items():
        found = [f"{name} ({types[each]:,})" for each, name in _KINDS.items() if types[each]]
        if len(found) > 1:
            file.notes.append(
                f"Column '{column[:60]}' of {file.path.name} holds {', '.join(found)}: each is "
                'taken as it is spelled, so that 1 and "1" are the same, and so are true and '
                '"true".'
            )
    return list(columns)


def _is_list(value: Any) -> bool:
    """Whether a value is a list of single values."""
    return isinstance(value, list) and not any(isinstance(one, (dict, list)) for one in value)


def _cells(record: Mapping[str, Any], columns: list[str]) -> list[str]:
    return [to_cell(record.get(column)) for column in columns]


def to_cell(value: Any) -> str:
    """A JSON or Parquet value as the string a CSV would hold; nothing for null and NaN.

    A list becomes a JSON list of strings. Numbers of JSON come as they are spelled. Parquet has
    none spelled; pandas writes whole numbers as floats there where one is missing.

    Raises:
        UnicodeDecodeError: bytes that are no UTF-8.

    >>> [to_cell(value) for value in ("NA", None, True, 1, 1.0, 0.5, 1e20, math.nan)]
    ['NA', '', 'true', '1', '1', '0.5', '1e+20', '']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        return json.dumps([to_cell(one) for one in value], ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, bytes):
        return value.decode()
    return str(value)


def refuse_nested(file: TableFile, nested: Mapping[str, str], code: str) -> None:
    """Refuse columns whose cells are objects or lists, with the command that flattens the file.

    Args:
        file: the file.
        nested: what each of these columns holds.
        code: Python that gives a list of the rows as dictionaries; sys.argv[1] is the file and
            sys.argv[3] its encoding.

    Raises:
        DataError: there are any.
    """
    if not nested:
        return
    found = "; ".join(
        f"column '{column[:60]}' holds {what}" for column, what in list(nested.items())[:5]
    )
    more = f"; and so do {len(nested) - 5:,} more columns" if len(nested) > 5 else ""
    path = file.path
    source = path.with_suffix("") if is_compressed(path) else path
    flat = source.with_name(f"{source.stem}-flat.jsonl")
    modules = "pyarrow.parquet" if "pyarrow" in code else "json"
    command = (
        f'python -c "import {modules}, sys, pandas as pd; rows = {code}; '
        "pd.json_normalize(rows).map(lambda cell: ' '.join(map(str, cell)) if isinstance(cell, "
        "list) else cell).to_json(sys.argv[2], orient='records', lines=True)\" "
        f"{shlex.quote(str(source))} {shlex.quote(str(flat))} {file.encoding}"
    )
    raise DataError(
        f"{path} has cells that are not one value each: {found}{more}. A text or a label is "
        "one string, or with --multilabel a list of several labels. "
        f"{'Unpack the file; then put' if source != path else 'Put'} the fields of "
        f"objects into columns of their own and the words of lists into one text: {command}"
    )


def _shape(value: dict | list) -> str:
    if isinstance(value, dict):
        return f"an object with {quoted(list(value))}" if value else "an empty object"
    if not value:
        return "an empty list"
    first = _shape(value[0]) if isinstance(value[0], (dict, list)) else _spelled(value[0])
    return f"a list of {len(value):,}, the first {first}"


def _spelled(value: Any) -> str:
    return (value if isinstance(value, _Number) else json.dumps(value))[:60]


def _line_records(file: TableFile) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_lines(file.path, file.encoding), start=1):
        if not line.strip():
            continue
        record = _parse(line, f"{file.path}, line {number}")
        if not isinstance(record, dict):
            hint = ""
            if number == 1 and line.lstrip().startswith("[") and file.kind != ".json":
                hint = " A file that is one array of objects is read when its name ends in .json."
            raise DataError(
                f"{file.path}, line {number}: expected one JSON object per line, such as "
                f"{_EXAMPLE}; found {_found(record, line)}.{hint}"
            )
        yield f"line {number}", record


def _parse(text: str, place: str) -> Any:
    """The value, or the exception that says why it is none. Raises DataError for a key twice."""
    try:
        return _DECODER.decode(text)
    except _RepeatedKey as error:
        raise DataError(f"{place}: {error}. Keep one of them.") from None
    except (ValueError, RecursionError) as error:
        return error


def _found(value: Any, text: str) -> str:
    if isinstance(value, Exception):
        return f"JSON that is not whole ({value})"
    return text.strip()[:60]


def _read_document(file: TableFile) -> _Document | None:
    """A file that is one JSON document; None where each line is an object of its own."""
    numbered = enumerate(read_lines(file.path, file.encoding), start=1)
    lines = ((number, line) for number, line in numbered if line.strip())
    (number, first), second = next(lines, (0, "")), next(lines, None)
    value = _parse(first, f"{file.path}, line {number}")
    if not first or (isinstance(value, dict) and second is not None):
        return None
    if second is not None:
        value = _parse("".join(read_lines(file.path, file.encoding)), str(file.path))
    if isinstance(value, Exception):
        raise DataError(
            f"{file.path}: expected one JSON object per line, such as {_EXAMPLE}, or one array "
            f"of such objects; found {_found(value, first)}."
        )
    if isinstance(value, list):
        return _Document(_objects(file.path, value, "the document"), None, _LOAD)
    if isinstance(value, dict):
        return _document_of(file.path, value)
    raise DataError(
        f"{file.path}: expected JSON objects, such as {_EXAMPLE}; found {first.strip()[:60]}."
    )


def _objects(path: Path, values: list[Any], where: str) -> list[dict[str, Any]]:
    odd = next((value for value in values if not isinstance(value, dict)), None)
    if not values or odd is not None:
        what = "an empty list" if not values else f"a list that holds {_spelled(odd)}"
        raise DataError(
            f"{path}: {where} is {what}, without names of columns. Expected a list of objects, "
            f"such as [{_EXAMPLE}]. With pandas: "
            f"{_WRITE_AGAIN}"
        )
    return values


def _document_of(path: Path, value: dict[str, Any]) -> _Document:
    """One object: a layout of pandas, a list of rows below one key, or a single row."""
    if set(value) in ({"columns", "data"}, {"columns", "index", "data"}):
        return _split_layout(path, value)
    if set(value) == {"schema", "data"} and isinstance(value["schema"], dict):
        return _table_layout(path, value)
    inner = list(value.values())
    if inner and all(isinstance(each, dict) for each in inner):
        return _layout_of_objects(path, value)
    tables = [
        name for name, each in value.items() if isinstance(each, list) and _are_objects(each)
    ]
    # Of an object with one list of objects the command of an error takes these for the rows.
    code = f"{_LOAD}[{tables[0]!r}]".replace('"', "'") if len(tables) == 1 else f"[{_LOAD}]"
    if tables and len(inner) == 1:
        note = f"Read the objects below {tables[0]!r} of {path.name}, a row each."
        return _Document(inner[0], None, code, note)
    if inner and all(isinstance(each, list) for each in inner):
        return _layout_of_lists(path, value)
    return _Document([value], None, code)


def _are_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _split_layout(path: Path, value: dict[str, Any]) -> _Document:
    columns, data = value["columns"], value["data"]
    whole = isinstance(columns, list) and isinstance(data, list)
    if not whole or any(not isinstance(r, list) or len(r) != len(columns) for r in data):
        raise DataError(
            f"{path}: expected as many values in each list of 'data' as 'columns' has names, as "
            'pandas writes them with orient="split". Write it again: '
            f"{_WRITE_AGAIN}"
        )
    names = list(map(to_cell, columns))
    code = f"[dict(zip(d['columns'], row)) for d in [{_LOAD}] for row in d['data']]"
    records = [dict(zip(names, row, strict=True)) for row in data]
    return _Document(records, names, code, _layout_note(path, "split"))


def _table_layout(path: Path, value: dict[str, Any]) -> _Document:
    records = _objects(path, value["data"] if isinstance(value["data"], list) else [], "'data'")
    # pandas writes a row index that has no name as such a column; it is no data.
    unnamed = [name for name in records[0] if re.fullmatch(r"index|level_\d+", name)]
    keys = value["schema"].get("primaryKey") or []
    columns = list(dict.fromkeys(chain.from_iterable(records)))
    kept = [name for name in columns if not (name in unnamed and name in keys)]
    return _Document(records, kept, f"{_LOAD}['data']", _layout_note(path, "table"))


def _layout_of_objects(path: Path, value: dict[str, dict[str, Any]]) -> _Document:
    """{column: {row: cell}}, or {row: {column: cell}}: the rows are those that are numbered."""
    inner = list(dict.fromkeys(chain.from_iterable(value.values())))
    by_column = _are_numbers(inner) and not _are_numbers(value)
    if by_column:
        uneven = [name for name, cells in value.items() if len(cells) != len(inner)]
        if uneven:
            raise DataError(
                f"{path}: column {uneven[0]!r} has {len(value[uneven[0]]):,} of {len(inner):,} "
                "rows. Expected every row in each column, as pandas writes them with "
                'orient="columns".'
            )
        records = [{name: cells[row] for name, cells in value.items()} for row in inner]
        code = f"pd.DataFrame({_LOAD}).to_dict('records')"
        return _Document(records, list(value), code, _layout_note(path, "columns"))
    if _are_numbers(value):
        code = f"list({_LOAD}.values())"
        return _Document(list(value.values()), None, code, _layout_note(path, "index"))
    if len(value) > 1 and all(set(cells) == set(inner) for cells in value.values()):
        raise DataError(
            f"{path}: expected columns by name and rows by number, as pandas writes them; found "
            f"an object with {quoted(list(value))}, each of which is an object with "
            f"{quoted(inner)}, and which are the rows is not clear. Write it again: "
            f"{_WRITE_AGAIN}"
        )
    return _Document([value], None, f"[{_LOAD}]")


def _are_numbers(names: Iterable[str]) -> bool:
    return all(re.fullmatch(r"\d+", name) for name in names)


def _layout_of_lists(path: Path, value: dict[str, list[Any]]) -> _Document:
    lengths = {name: len(cells) for name, cells in value.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{n:,} in '{name[:60]}'" for name, n in list(lengths.items())[:10])
        raise DataError(
            f"{path}: expected lists of equal length, a value for each row; found {found}."
        )
    records = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    code = f"pd.DataFrame({_LOAD}).to_dict('records')"
    note = f"Read {path.name} as one object with a list of cells for each column."
    return _Document(records, list(value), code, note)


def _layout_note(path: Path, orient: str) -> str:
    return (
        f"Read {path.name} as pandas writes it with orient={orient!r}; the names of its rows were "
        "left out."
    )
