"""A file of texts to its rows with predictions, a few at a time: memory does not grow with it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts.files import replacing
from ulmfit_app.config import Quotes
from ulmfit_app.data.reading import read_chunks, read_texts
from ulmfit_app.errors import DataError, quoted
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.tables import prediction_table
from ulmfit_app.files import csv_rows_of
from ulmfit_app.inference.file_checks import check_out, choose_text_column, refuse_columns_twice
from ulmfit_app.inference.predictor import Predictor

log = logging.getLogger(__name__)

EMPTY = "Empty texts: %d. Their predictions say nothing."
ROWS_AT_A_TIME = 4_096  # of a file: enough to sort by length, few enough to keep memory flat


@dataclass(frozen=True)
class TextFile:
    """A file whose rows are to be predicted.

    Args:
        column: of its texts.
        columns: all of its own.
        ours: columns that are written behind its own.
        frames: its rows, in order.
        notes: what was decided and left out in reading; some only when the last row is read.
    """

    column: str
    columns: list[str]
    ours: list[str]
    frames: Iterator[pd.DataFrame]
    notes: list[str] = field(default_factory=list)

    def join(self, frame: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
        """Some of its rows, with what was predicted of them behind."""
        return frame.reset_index(drop=True).join(predicted[self.ours])


def open_texts(
    path: Path,
    labels: Sequence[str],
    text: str | None,
    encoding: str,
    own: str | None = None,
    quotes: Quotes = "csv",
    chunk_rows: int | None = None,
    decision: Decision = Decision(),  # noqa: B008 - frozen
) -> TextFile:
    """Settle which column of a file holds the texts, before anything is predicted.

    Args:
        path: a table that `data.reading` reads.
        labels: of the predictions.
        text: the column of the texts; None: the run's own, or the file's only one.
        encoding: of the file.
        own: the run's own column of texts; without it, one is taken where there is no doubt.
        quotes: as `data.reading.read_chunks` takes it.
        chunk_rows: at most so many rows at a time; None: ROWS_AT_A_TIME.
        decision: of the classifier, which the columns of predictions depend on.

    Raises:
        DataError: a file that cannot be read, as `data.reading.read_texts` says; whose columns
            have the names of ours; or that has several, none of them the run's own.
        SettingError: as `data.reading.read_chunks` raises it.
    """
    columns = list(next(read_chunks(path, encoding, 1, quotes)))
    empty_table = prediction_table([], np.zeros((0, len(labels))), labels, decision)
    ours = list(empty_table.drop(columns="text"))
    refuse_columns_twice(columns, ours, path)
    text = choose_text_column(columns, path, text, own)
    notes: list[str] = []
    column, frames = read_texts(path, text, encoding, chunk_rows or ROWS_AT_A_TIME, quotes, notes)
    return TextFile(column, columns, ours, frames, notes)


@dataclass(frozen=True)
class Block:
    """Some rows of a file with their predictions, as they are written.

    Attributes:
        lines: of the CSV, in UTF-8.
        rows: how many.
        empty: of them, those whose text is nothing but white space.
    """

    lines: bytes
    rows: int
    empty: int


@dataclass(frozen=True)
class BlockColumns:
    """Which columns a block is made of.

    Attributes:
        text: holds the texts.
        group: holds the groups that thresholds differ by; None: there are none.
        ours: are written behind the file's own.
    """

    text: str
    group: str | None
    ours: tuple[str, ...]

    @classmethod
    def of(cls, file: TextFile, predictor: Predictor) -> "BlockColumns":
        """Those of a file, and by which of them the classifier decides."""
        by = predictor.decision.by_group
        group = by.column if by is not None and by.column in file.columns else None
        return cls(file.column, group, tuple(file.ours))

    def predict(self, predictor: Predictor, frame: pd.DataFrame) -> pd.DataFrame:
        """Some of a file's rows, with what is predicted of them behind."""
        groups = None if self.group is None else frame[self.group].str.strip().tolist()
        predicted = predictor.predict(frame[self.text].tolist(), groups)
        return frame.reset_index(drop=True).join(predicted[list(self.ours)])


def predict_block(predictor: Predictor, columns: BlockColumns, frame: pd.DataFrame) -> Block:
    """Predict some rows of a file.

    Args:
        predictor: of the labels.
        columns: of the file.
        frame: the rows.

    Raises:
        DataError: what would be written has another number of rows.
    """
    lines = csv_rows_of(columns.predict(predictor, frame))
    # A line ends outside quotes: before each one, as many were opened as closed.
    rows = sum(outside.count("\n") for outside in lines.split('"')[::2])
    if rows != len(frame):
        raise DataError(f"{rows:,} rows would be written, and {len(frame):,} were predicted.")
    return Block(lines.encode("utf-8"), rows, count_empty(frame[columns.text]))


Spread = Callable[[BlockColumns, Iterator[pd.DataFrame]], Iterator[Block]]


def predict_file(
    predictor: Predictor,
    path: Path,
    out: Path,
    text: str | None,
    encoding: str,
    own: str | None = None,
    quotes: Quotes = "csv",
    spread: Spread | None = None,
) -> int:
    """Predict each row of a file into a CSV with the file's own columns and ours behind.

    Memory does not grow with the file. The log says which column held the texts, and what was
    left out in reading.

    Args:
        predictor: of the labels.
        path, text, encoding, own, quotes: as `open_texts` takes them.
        out: a CSV; it appears when the last row is written.
        spread: predicts the rows of one table after the other in other processes, in order; None:
            this one does.

    Returns:
        The number of rows.

    Raises:
        SettingError: `out` is a folder, the file itself, or no CSV.
        DataError: as `open_texts` raises it.
    """
    check_out(out, path)
    decision = predictor.decision
    file = open_texts(path, predictor.labels, text, encoding, own, quotes, decision=decision)
    log.info("Texts: column %s of %s.", quoted([file.column]), path)
    columns = BlockColumns.of(file, predictor)
    if decision.by_group is not None:
        named = f"column {quoted([decision.by_group.column])} of {path}"
        where = named if columns.group else "not in the file"
        of = predictor.labels[decision.by_group.label]
        log.info("Groups, whose thresholds of %s differ: %s.", of, where)
    blocks = (
        spread(columns, file.frames)
        if spread
        else (predict_block(predictor, columns, frame) for frame in file.frames)
    )
    rows = empty = 0
    names = pd.DataFrame(columns=[*file.columns, *file.ours])
    with replacing(out) as draft, open(draft, "wb") as written:
        written.write(csv_rows_of(names, header=True).encode("utf-8"))
        for block in blocks:
            written.write(block.lines)
            rows += block.rows
            empty += block.empty
    for note in file.notes:
        log.info(note)
    if empty:
        log.info(EMPTY, empty)
    return rows


def count_empty(texts: Sequence[str] | pd.Series) -> int:
    """How many of some texts are nothing but white space."""
    return sum(not text.strip() for text in texts)
