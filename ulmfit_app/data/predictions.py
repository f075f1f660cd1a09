"""Anybody's predictions, as a file, to a report: texts, true labels and a probability for each class."""

from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.data.columns import require_column
from ulmfit_app.data.encodings import without_lone_surrogates
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, SettingError, quoted
from ulmfit_app.evaluation.baselines import majority
from ulmfit_app.evaluation.report import write_report

PREFIX = "p_"
ROUNDING = 0.015  # how far from 1 a row may sum, as 0.33 three times does


def report_predictions(
    path: Path, out: Path, text: str = "text", label: str = "label", encoding: str = "utf-8"
) -> Path:
    """Write the report of a file of predictions into `out`; the page's path.

    text, label: its columns of texts and true labels. Raises what `read_predictions` raises, and SettingError for an `out`
    that is a file, holds the predictions, or is the report of a run.
    """
    taken = out / "stage.json"
    if out.is_file() or taken.exists() or path.absolute().parent == out.absolute():
        raise SettingError(
            f"The report needs a folder of its own, and cannot have {out}. Name another: --out {out}-report"
        )
    predictions, notes = read_predictions(path, text, label, encoding)
    names = [column for column in predictions if column.startswith(PREFIX)]
    truth = pd.Index(names).get_indexer(PREFIX + predictions["label"])
    facts = {
        "model": "the model",
        "data_set": path.name,
        "test_name": f"the texts of {path.name}",
        "notes": notes,
    }
    # What it was trained on is not known: the shares of the classes are those of the tested texts themselves.
    baselines = {"the commonest class of these texts": majority(truth, len(truth), len(names))}
    write_report(out, predictions, baselines, {}, facts)
    return out / "report.html"


def read_predictions(
    path: Path, text: str = "text", label: str = "label", encoding: str = "utf-8"
) -> tuple[pd.DataFrame, list[str]]:
    """A file of predictions as report.write_report takes it, and what was done to them, in sentences.

    path: CSV, TSV, JSON lines or Parquet. The columns returned: text, label, a column p_LABEL for each class (float64, each
    row summing to 1), and all others as they are.
    Raises DataError for a file that cannot be read, a column that is not there, and for what are no probabilities.
    """
    table = read_table(path, encoding)
    for flag, column in (("--text", text), ("--label", label)):
        require_column(table, path, flag, column)
    columns = [
        column for column in table if column.startswith(PREFIX) and column not in (text, label)
    ]
    if len(columns) < 2:
        raise DataError(
            f"{path} has the columns {quoted(list(table))}. Expected a column of probabilities for each class, two or more, "
            f"named p_ and the label, such as p_neg and p_pos; found {len(columns)}."
        )
    table = table.rename(columns=_freed(table, text, label)).apply(without_lone_surrogates)
    table["label"] = table["label"].str.strip()
    unknown = ~(PREFIX + table["label"]).isin(columns)
    if unknown.any():
        row = int(unknown.argmax())
        name = table["label"][row]
        raise DataError(
            f"{path}, row {row} (counted from 0): {f'the label {name!r}' if name else 'no label'}, and no column "
            f"{PREFIX + name!r} of its probability. There are {quoted(columns)}. {_counted(unknown)} Add the column, or "
            "drop these rows."
        )
    probabilities, notes = _probabilities(table[columns], path)
    return table.drop(columns=columns).join(probabilities), notes


def _freed(table: pd.DataFrame, text: str, label: str) -> dict[str, str]:
    """New names: text and label for the columns of that meaning, and another one for whichever had these names."""
    names = {}
    for wanted, column in (("text", text), ("label", label)):
        if column != wanted:
            if wanted in table and wanted not in (text, label):
                names[wanted] = f"column {wanted}"
            names[column] = wanted
    return names


def _probabilities(cells: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Cells, one column a class, as probabilities that sum to 1 in each row, and what was done to them, in sentences.

    Raises DataError naming the first row that holds none.
    """
    values = cells.apply(pd.to_numeric, errors="coerce").astype(float)
    numbers = np.isfinite(values) & (values >= 0)
    if not numbers.all(axis=None):
        row, column = np.argwhere(~numbers.to_numpy())[0]
        raise DataError(
            f"{path}, row {row} (counted from 0): expected a number from 0 to 1 in the column {cells.columns[column]!r}, "
            f"found {cells.iloc[row, column]!r}. {_counted(~numbers.all(axis=1))} Correct them, or drop these rows."
        )
    sums = values.sum(axis=1)
    wrong = (sums - 1).abs() > ROUNDING
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{path}, row {row} (counted from 0): expected probabilities that sum to 1 over the columns "
            f"{quoted(list(cells))}, found {sums[row]:.6g}. {_counted(wrong)} All columns that begin with p_ are taken for "
            "classes; give another one another name."
        )
    rounded = int(((sums - 1).abs() > 1e-6).sum())
    notes = [
        f"The probabilities of {rounded:,} rows sum to nearly 1, as rounded ones do; they were divided by their sum."
    ]
    return values.div(sums, axis=0), notes if rounded else []


def _counted(rows: pd.Series) -> str:
    return f"So it is in {rows.sum():,} of {len(rows):,} rows."
