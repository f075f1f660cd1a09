"""What a server wrote, read again: the log of its answers, and feedback."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ulmfit_app.errors import DataError
from ulmfit_app.evaluation.tables import read_set
from ulmfit_app.serving.records import (
    ANSWERS,
    FEEDBACK,
    describe_first_line,
    first_line,
    hash_text,
    parse_record,
    shorten,
)

_COLUMNS = ("model", "label", "hash", "confidence", "seconds", "time", "alone")
_EPOCH = datetime(1970, 1, 1)


@dataclass
class Written:
    """What a file of JSON lines holds.

    Attributes:
        table: a row per line.
        notes: a sentence for each kind of line that was left out.
    """

    table: pd.DataFrame
    notes: list[str]


def read_answers(path: Path) -> Written:
    """The log of answers, a line at a time; a million of them take seconds and 130 MB.

    Args:
        path: the file.

    Returns:
        A table with a row per answer: model and label (categories; several labels of a text are
        a JSON list), hash (uint64), confidence (NaN of several labels), seconds, time (datetime64,
        UTC) and alone: whether its request had this one text.

    Raises:
        DataError: the file is missing, empty, or another one; or no line can be used.
    """
    names: dict[str, dict[str, int]] = {"model": {}, "label": {}}
    columns = {name: array(kind) for name, kind in zip(_COLUMNS, "iiQddqb", strict=True)}
    appends = [column.append for column in columns.values()]
    left_out, last = _LeftOut(path), None
    for number, record in _records(path, ANSWERS, left_out):
        try:
            row = _answer(record, names["model"], names["label"])
        except (TypeError, ValueError):
            left_out.of_other_form.append(number)
            continue
        # The lines of a request stand together, since they were written in one piece.
        alone = record["request"] != last
        if not alone:
            columns["alone"][-1] = False
        last = record["request"]
        for append, value in zip(appends, (*row, alone), strict=True):
            append(value)
    if not columns["hash"]:
        raise DataError(f"{path} has no answer that can be used. {' '.join(left_out.notes())}")
    table = pd.DataFrame({name: np.array(column) for name, column in columns.items()})
    for name, known in names.items():
        table[name] = pd.Categorical.from_codes(table[name], list(known))
    table["time"] = table["time"].to_numpy().astype("datetime64[ms]")
    # The same bits as array's unsigned long long, which is no key to pandas' merge().
    table["hash"] = table["hash"].to_numpy().view(np.uint64)
    table["alone"] = table["alone"].astype(bool)
    return Written(table, left_out.notes())


def _answer(
    record: dict[str, Any], models: dict[str, int], labels: dict[str, int]
) -> tuple[Any, ...]:
    """A row but for `alone`. Raises TypeError or ValueError where a value is not of its kind."""
    model, label, hashed, moment = (record[name] for name in ("model", "label", "hash", "time"))
    confidence, seconds = record["confidence"], record["seconds"]
    if not (isinstance(model, str) and isinstance(label, str) and len(hashed) == 16):
        raise ValueError
    number = int(hashed, 16)
    is_set = confidence is None and label.startswith("[")  # several labels, or none
    if is_set and not all(isinstance(one, str) for one in read_set(label)):
        raise ValueError
    # A softmax in single precision may come to a little more than 1.
    is_share = is_set or 0 <= confidence <= 1.001
    if not (number >= 0 and is_share and 0 <= seconds < 1e9 and moment[-1:] == "Z"):
        raise ValueError
    after = datetime.fromisoformat(moment[:-1]) - _EPOCH
    ms = (after.days * 86_400 + after.seconds) * 1000 + after.microseconds // 1000
    model_code = models.setdefault(model, len(models))
    label_code = labels.setdefault(label, len(labels))
    return model_code, label_code, number, nan if is_set else confidence, seconds, ms


def read_feedback(path: Path) -> Written:
    """The file of feedback, as far as it is compared with answers.

    Args:
        path: the file.

    Returns:
        A table with a row per line: model, hash (uint64, of the text) and wrong: whether the label
        is another than what was predicted. It has none of an empty file, as a server makes it.

    Raises:
        DataError: the file is missing, or another one; or no line can be used.
    """
    left_out, rows, columns = _LeftOut(path), [], ["model", "hash", "wrong"]
    if path.is_file() and not first_line(path):
        return Written(pd.DataFrame(columns=columns), [f"{path} is empty: no feedback was given."])
    for number, record in _records(path, FEEDBACK, left_out):
        if all(isinstance(record[name], str) for name in ("text", "label", "predicted", "model")):
            wrong = record["label"] != record["predicted"]
            rows.append((record["model"], int(hash_text(record["text"]), 16), wrong))
        else:
            left_out.of_other_form.append(number)
    if not rows:
        raise DataError(f"{path} has no feedback that can be used. {' '.join(left_out.notes())}")
    table = pd.DataFrame(rows, columns=columns)
    return Written(table.astype({"hash": "uint64"}), left_out.notes())


@dataclass
class _LeftOut:
    """The numbers of lines that were left out."""

    path: Path
    torn: list[int] = field(default_factory=list)
    of_other_form: list[int] = field(default_factory=list)

    def notes(self) -> list[str]:
        kinds = {
            "no whole record, as a loss of power leaves one": self.torn,
            "of another form, as another version may have written it": self.of_other_form,
        }
        return [
            f"Left out of {self.path}: {_lines(numbers)}, {what}."
            for what, numbers in kinds.items()
            if numbers
        ]


def _lines(numbers: list[int]) -> str:
    """
    >>> _lines([7]), _lines([7, 1009])
    ('line 7', '2 lines, the first of them line 7')
    """
    if len(numbers) == 1:
        return f"line {numbers[0]:,}"
    return f"{len(numbers):,} lines, the first of them line {numbers[0]:,}"


def _records(
    path: Path, fields: Sequence[str], left_out: _LeftOut
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and records. Raises DataError where the file is not one of ours."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}. Expected {describe_first_line(fields)}.")
    first = first_line(path)
    if not first or parse_record(first, fields) is None:
        found = shorten(first) if first else "an empty file"
        raise DataError(f"{path}: expected {describe_first_line(fields)}; found {found}.")
    wanted = set(fields)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            record = parse_record(line)
            if record is not None and record.keys() >= wanted:
                yield number, record
            elif record is not None:
                left_out.of_other_form.append(number)
            elif line.strip():
                left_out.torn.append(number)
