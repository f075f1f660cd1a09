"""What mistakes cost: a table of the user's."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, quoted

TRUTH = "label"  # the column that names a row's true label
MOST = 1e12  # a cost; sums of larger ones lose what small ones say
OF_SEVERAL = ("missed", "in_vain")


def read_costs(path: Path | None, labels: Sequence[str], multilabel: bool) -> list[list[float]]:
    """A table of costs, for labels in their order.

    Args:
        path: CSV, TSV, JSON or Parquet; None: there is none. With one label a text, a row for
            each true label and a column for each answer, 0 where they are the same; with several,
            a row for each label and the columns missed and in_vain.
        labels: in order.
        multilabel: whether a text may have several.

    Returns:
        [n_labels][n_labels], or [n_labels][2] of several; [] without a file.

    Raises:
        DataError: the table cannot be read, or a label is missing, unknown or there twice, or a
            cost is no number from 0 to MOST, or mistakes of a kind would all be free.
    """
    if path is None:
        return []
    table = read_table(path)
    columns = list(OF_SEVERAL if multilabel else labels)
    example = _example(path, labels, columns)
    if TRUTH not in table:
        raise DataError(
            f"{path} has the columns {quoted(list(table))}. Expected {TRUTH!r}, which names the "
            f"true label of each row.{example}"
        )
    table[TRUTH] = table[TRUTH].str.strip()
    _require_same(path, "row", table[TRUTH].tolist(), labels, example)
    _require_same(path, "column", [name for name in table if name != TRUTH], columns, example)
    cells = table.set_index(TRUTH).loc[list(labels), columns]
    costs = cells.apply(pd.to_numeric, errors="coerce")
    for label, column in ((row, name) for row in labels for name in columns):
        cost = costs.at[label, column]
        if not 0 <= cost <= MOST:
            raise DataError(
                f"{path}: expected a number from 0 to {MOST:g}, with a decimal point, as the cost "
                f"of {column!r} where {label!r} is true, found {cells.at[label, column]!r}."
            )
        if label == column and cost:
            raise DataError(
                f"{path}: {label!r} where {label!r} is true is no mistake, and costs {cost:g}. "
                "Write 0 there."
            )
    free = costs.index[costs.sum(axis=1) == 0]
    if len(free):
        raise DataError(
            f"{path}: no mistake costs anything where {free[0]!r} is true, so that any answer "
            "would do. Give at least one a cost above 0."
        )
    return costs.astype(float).to_numpy().tolist()


def _require_same(
    path: Path, what: str, found: list[str], expected: Sequence[str], example: str
) -> None:
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    for names, said in ((missing, "lacks a"), (unknown, "has an unknown"), (twice, "repeats the")):
        if names:
            raise DataError(
                f"{path} {said} {what}: {quoted(names[:10])}. Expected one each of "
                f"{quoted(list(expected)[:20])}.{example}"
            )


def _example(path: Path, labels: Sequence[str], columns: Sequence[str]) -> str:
    first = labels[0]
    costs = ["0" if name == first else "1" for name in columns[:3]]
    names, row = _as_line([TRUTH, *columns[:3]]), _as_line([first, *costs])
    return f" Such as {names} in the first line of {path}, and {row} in the second."


def _as_line(cells: list[str]) -> str:
    """Cells as a CSV has them."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
