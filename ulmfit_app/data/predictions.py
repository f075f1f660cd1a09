"""Anybody's predictions, as a file, to a report.

Texts, true labels and a probability for each class.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.config import Quotes
from ulmfit_app.data.columns import rename_by_meaning, require_column
from ulmfit_app.data.encodings import replace_lone_surrogates
from ulmfit_app.data.group_checks import require_comparable
from ulmfit_app.data.label_sets import SEPARATORS, order_labels, sets_of_cells, sets_of_columns
from ulmfit_app.data.labels import strip_labels
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, SettingError, quoted
from ulmfit_app.evaluation.baselines import label_shares, majority
from ulmfit_app.evaluation.messages import ENGLISH, Message, ReportLanguage
from ulmfit_app.evaluation.multilabel_report import write_multilabel_report
from ulmfit_app.evaluation.report import write_report
from ulmfit_app.evaluation.tables import (
    PREFIX,
    probability_columns,
    sets_to_truth,
    spell_set,
    true_classes,
)
from ulmfit_app.evaluation.times import read_times

DECISION = "predicted"  # the column of the answers, in a file that has one
OWN = ("text", "label", DECISION, "confidence")  # of a table of predictions
ROUNDING = 0.015  # how far from 1 a row may sum, as 0.33 three times does


def report_predictions(
    path: Path,
    out: Path,
    text: str = "text",
    label: str = "label",
    encoding: str = "utf-8",
    quotes: Quotes = "csv",
    report_language: ReportLanguage = ENGLISH,
    groups: Sequence[str] = (),
    time: str | None = None,
) -> Path:
    """Write the report of a file of predictions.

    Args:
        path: CSV, TSV, JSON or Parquet.
        out: the folder of the report.
        text: the column of the texts.
        label: the column of the true labels.
        encoding: as Python names it.
        quotes: as `reading.read_chunks` takes it.
        report_language: of the page and the figures.
        groups: columns whose values are groups, which are compared.
        time: the column that says when each text is from; None: there is none.

    Returns:
        The path of the page.

    Raises:
        DataError: as `read_predictions` raises it; or a column of groups or times is not there, or
            cannot be compared by.
        SettingError: likewise; or `out` is a file, holds the predictions, or is a run's report.
    """
    taken = out / "stage.json"
    if out.is_file() or taken.exists() or path.absolute().parent == out.absolute():
        raise SettingError(
            f"The report needs a folder of its own, and cannot have {out}. Name another: "
            f"--out {shlex.quote(f'{out}-report')}"
        )
    predictions, notes = read_predictions(path, text, label, encoding, quotes)
    _check_parts(predictions, path, groups, time)
    labels = [column.removeprefix(PREFIX) for column in probability_columns(predictions)]
    facts = {
        "model": Message("the model"),
        "data_set": path.name,
        "test_name": Message("the texts of {file}", file=path.name),
        "notes": notes,
    }
    # What it was trained on is not known: the shares of the classes are the tested texts' own.
    if holds_sets(predictions["label"]):
        truth, write = sets_to_truth(predictions["label"], labels), write_multilabel_report
        baselines = {Message("label shares"): label_shares(truth, len(truth))}
    else:
        truth, write = true_classes(predictions), write_report
        rival = Message("the commonest class of these texts")
        baselines = {rival: majority(truth, len(truth), len(labels))}
    compared = {"groups": groups, "time": time}
    write(out, predictions, baselines, {}, facts, report_language=report_language, **compared)
    return out / "report.html"


def _check_parts(
    predictions: pd.DataFrame, path: Path, groups: Sequence[str], time: str | None
) -> None:
    """Refuse columns of groups or times that are not there, or that nothing can be compared by."""
    named = [*(("--groups", name) for name in groups), *([("--time", time)] if time else [])]
    for flag, name in named:
        require_column(predictions, path, flag, name)
        if name in OWN or name.startswith(PREFIX):
            raise SettingError(
                f"{flag} {name}: this column holds texts, labels, answers or probabilities, or "
                "has the name of one that does. Name another one, or rename it in the file."
            )
    names = [name for _, name in named]
    if len(set(names)) < len(names):
        raise SettingError(
            f"--groups and --time name a column twice: {quoted(names)}. Name each once."
        )
    require_comparable(predictions[list(groups)])
    if time is not None and read_times(predictions[time], time).nunique() < 2:
        raise DataError(
            f"Column {time!r}, which --time names, has the one value "
            f"{quoted(predictions[time].unique()[:3].tolist())}: there is nothing to compare over "
            "time. Name another column, or leave it out."
        )


def read_predictions(
    path: Path,
    text: str = "text",
    label: str = "label",
    encoding: str = "utf-8",
    quotes: Quotes = "csv",
) -> tuple[pd.DataFrame, list[str]]:
    """A file of predictions as report.write_report takes it.

    Args:
        path: CSV, TSV, JSON or Parquet.
        text: the column of the texts.
        label: the column of the true labels.
        encoding: as Python names it.
        quotes: as `reading.read_chunks` takes it.

    Returns:
        A table with the columns text, label, all others as they are, and p_LABEL for each class
        (float64, each row summing to 1 but where texts have several labels); and what was done to
        them, in sentences. A column `predicted` holds the answers, such as those of a threshold.
        Where all labels are JSON lists, texts have several labels, and so are the answers. Where
        the answers alone are, the labels may be in other words: with a separator, or in columns
        of 1 and 0.

    Raises:
        DataError: the file cannot be read, a column is not there, or holds no probabilities, or
            a label or an answer is no class.
        SettingError: there is no such encoding, text and label are one column, or `quotes` would
            be ignored.
    """
    if text == label:
        raise SettingError(f"--text and --label are both {text!r}. Name two different columns.")
    notes: list[str] = []
    table = read_table(path, encoding, quotes, notes)
    require_column(table, path, "--text", text)
    columns = [column for column in probability_columns(table) if column not in (text, label)]
    are_sets = DECISION in table and holds_sets(table[DECISION])
    if are_sets and label not in table:
        table = _join_label_columns(table, columns, path, label, notes)
    require_column(table, path, "--label", label)
    if len(columns) < 2:
        raise DataError(
            f"{path} has the columns {quoted(list(table))}. Expected a column of probabilities "
            "for each class, two or more, named p_ and the label, such as p_neg and p_pos; found "
            f"{len(columns)}."
        )
    names = rename_by_meaning(list(table), {"text": text, "label": label})
    table = table.rename(columns=names).apply(replace_lone_surrogates)
    table["label"] = _read_labels(table["label"], columns, path, are_sets, notes)
    several = holds_sets(table["label"])
    probabilities, divided = _probabilities(table[columns], path, several)
    notes += divided
    if several:
        notes.append(_describe_sets(DECISION in table))
    if DECISION in table:
        table[DECISION] = table[DECISION].str.strip()
        notes += _check_answers(table[DECISION], probabilities, path, several)
    return table.drop(columns=columns).join(probabilities), notes


def _read_labels(
    cells: pd.Series, columns: list[str], path: Path, are_sets: bool, notes: list[str]
) -> pd.Series:
    """True labels, each of which is a class; raises DataError where one is none.

    columns: of probabilities. are_sets: whether the answers are, as the labels then have to be.
    """
    labels, stripped = strip_labels(cells)
    notes += stripped
    if are_sets and not holds_sets(labels):
        labels = _as_sets(labels, columns, path, notes)
    each = labels.map(json.loads).explode() if holds_sets(labels) else labels
    _require_classes(each, columns, path, "label", "Add the column, or drop these rows.")
    return labels


def _join_label_columns(
    table: pd.DataFrame, columns: list[str], path: Path, label: str, notes: list[str]
) -> pd.DataFrame:
    """The table with the column of labels in the place of columns of 1 and 0, named as they are;
    as it is where there are none.

    columns: of probabilities. Raises DataError where a cell says neither.
    """
    names = [column.removeprefix(PREFIX) for column in columns]
    if not names or not set(names) <= set(table):
        return table
    return table.drop(columns=names).assign(**{label: sets_of_columns(table, names, path, notes)})


def _as_sets(cells: pd.Series, columns: list[str], path: Path, notes: list[str]) -> pd.Series:
    """Labels as JSON lists, where several are separated by what leaves only classes.

    columns: of probabilities. Raises DataError where a text has none, or a list is broken.
    """
    if cells.eq("").any():
        raise DataError(
            f"{path}, row {cells.index[cells.eq('').argmax()]} (counted from 0): no label. "
            f"{_counted(cells.eq(''))} Write [] where a text has none of the labels, or drop "
            "these rows."
        )
    is_list = cells.str.startswith("[") & cells.str.endswith("]")
    has = {one: cells.str.contains(one, regex=False) for one in SEPARATORS}
    # A label of one's own may have a comma in it.
    divided = ~is_list & ~(PREFIX + cells).isin(columns) & pd.DataFrame(has).any(axis=1)
    lists = cells.where(is_list | divided, cells.map(lambda cell: spell_set([cell])))
    for separator in [one for one in SEPARATORS if has[one][divided].any()] or [None]:
        said: list[str] = []
        found = sets_of_cells(lists, path, separator, said)
        if {PREFIX + name for name in order_labels(found)} <= set(columns):
            break
    notes += said
    return found


def _check_answers(
    decided: pd.Series, probabilities: pd.DataFrame, path: Path, several: bool
) -> list[str]:
    """Sentences on the answers; raises DataError where one is no class, or no list of them."""
    columns = list(probabilities)
    advice = f"Correct them, or give the column {DECISION!r} another name if it is no answer."
    if not several:
        _require_classes(decided, columns, path, "prediction", advice)
        return _describe_decisions(decided, probabilities)
    if not holds_sets(decided):
        raise DataError(
            f"{path}: the labels are JSON lists, and the column {DECISION!r} has cells that are "
            f"none. {advice}"
        )
    each = decided.map(json.loads).explode()
    _require_classes(each, columns, path, "prediction", advice)
    return []


def holds_sets(cells: pd.Series) -> bool:
    """Whether all cells are JSON lists of labels, as texts with several labels or none have.

    >>> holds_sets(pd.Series(['["a", "b"]', "[]"])), holds_sets(pd.Series(["a", "[]"]))
    (True, False)
    """

    def is_set(cell: str) -> bool:
        try:
            found = json.loads(cell)
        except ValueError:
            return False
        return isinstance(found, list) and all(isinstance(one, str) for one in found)

    return bool(cells.map(is_set).all())


def _describe_sets(decided: bool) -> str:
    answers = (
        f"the column {DECISION!r} has their answers"
        if decided
        else "labels whose probability reaches 0.5 are the answers"
    )
    return f"Labels are sets: a text has several of them, one or none; {answers}."


def _require_classes(
    cells: pd.Series, columns: list[str], path: Path, what: str, advice: str
) -> None:
    """Raises DataError naming the first cell that is no class. columns: of probabilities.

    cells: of several labels, one for each text and label, NaN for a text without labels.
    """
    unknown = ~(PREFIX + cells).isin(columns) & cells.notna()
    if unknown.any():
        first = int(unknown.argmax())
        row, name = cells.index[first], cells.iloc[first]
        raise DataError(
            f"{path}, row {row} (counted from 0): "
            f"{f'the {what} {name!r}' if name else f'no {what}'}, and no column {PREFIX + name!r} "
            f"of its probability. There are {quoted(columns)}. {_counted(unknown)} {advice}"
        )


def _describe_decisions(decided: pd.Series, probabilities: pd.DataFrame) -> list[str]:
    """A sentence on answers that are not the most probable class; equal probabilities are none."""
    chosen = probabilities.columns.get_indexer(PREFIX + decided)
    values = probabilities.to_numpy()
    below = values[np.arange(len(values)), chosen] < values.max(axis=1) - 1e-9
    if not below.any():
        return []
    return [
        f"In {below.sum():,} of {len(below):,} rows the column {DECISION!r} gives another class "
        "than the most probable one, as a threshold does. It is the answer: accuracy, F1, "
        "confusion matrix and errors are of this column; log loss, Brier score, calibration and "
        "average precision are of the probabilities."
    ]


def _probabilities(
    cells: pd.DataFrame, path: Path, several: bool
) -> tuple[pd.DataFrame, list[str]]:
    """Cells as probabilities that sum to 1 in each row, and what was done to them, in sentences.

    cells: a column for each class. Raises DataError naming the first row that holds none.
    several: whether texts may have several labels, whose probabilities need not sum to 1.
    """
    values = cells.apply(pd.to_numeric, errors="coerce").astype(float)
    numbers = np.isfinite(values) & (values >= 0) & (not several or values <= 1)
    if not numbers.all(axis=None):
        row, column = np.argwhere(~numbers.to_numpy())[0]
        raise DataError(
            f"{path}, row {row} (counted from 0): expected a number from 0 to 1 in the column "
            f"{cells.columns[column]!r}, found {cells.iloc[row, column]!r}. "
            f"{_counted(~numbers.all(axis=1))} Correct them, or drop these rows."
        )
    if several:
        return values, []
    sums = values.sum(axis=1)
    wrong = (sums - 1).abs() > ROUNDING
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{path}, row {row} (counted from 0): expected probabilities that sum to 1 over the "
            f"columns {quoted(list(cells))}, found {sums[row]:.6g}. {_counted(wrong)} All columns "
            "that begin with p_ are taken for classes; give another one another name."
        )
    rounded = int(((sums - 1).abs() > 1e-6).sum())
    notes = [
        f"The probabilities of {rounded:,} rows sum to nearly 1, as rounded ones do; they were "
        "divided by their sum."
    ]
    return values.div(sums, axis=0), notes if rounded else []


def _counted(rows: pd.Series) -> str:
    return f"So it is in {rows.sum():,} of {len(rows):,} rows."
