"""A Parquet file to one with predictions: own columns keep their types, ours stand behind."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from data_scripts.files import replacing
from ulmfit_app.config import Quotes
from ulmfit_app.errors import DataError
from ulmfit_app.inference.predicted_file import ROWS_AT_A_TIME, BlockColumns, open_texts
from ulmfit_app.inference.predictor import Predictor

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile


def predict_parquet(
    predictor: Predictor,
    path: Path,
    out: Path,
    text: str | None,
    encoding: str,
    own: str | None = None,
    quotes: Quotes = "csv",
) -> int:
    """`predict_file` from Parquet to Parquet, by arguments of the same meaning.

    Probabilities are float64, what is predicted is a string. Memory does not grow with the file.

    Returns:
        The number of rows.

    Raises:
        DataError: as `open_texts` raises it.
    """
    file = open_texts(
        path, predictor.labels, text, encoding, own, quotes, decision=predictor.decision
    )
    # What cannot be imported was said when the file was opened.
    from pyarrow import Table
    from pyarrow.parquet import ParquetFile, ParquetWriter

    columns, rows, writer = BlockColumns.of(file, predictor), 0, None
    with replacing(out) as draft, ParquetFile(path) as parquet, ExitStack() as closing:
        take = _taker(parquet)
        for frame in file.frames:
            table = take(len(frame))
            predicted = columns.predict(predictor, frame)[file.ours]
            ours = Table.from_pandas(predicted, preserve_index=False)
            for name in file.ours:
                table = table.append_column(name, ours[name])
            if writer is None:
                writer = closing.enter_context(ParquetWriter(draft, table.schema))
            writer.write_table(table)
            rows += len(frame)
        closing.close()
        if (written := ParquetFile(draft).metadata.num_rows) != rows:
            raise DataError(f"{written:,} rows were written, and {rows:,} were predicted.")
    return rows


def _taker(parquet: "ParquetFile") -> Callable[[int], "Table"]:
    """A function that gives the next rows of a file, however its groups of rows are cut."""
    from pyarrow import Table, concat_tables

    batches = parquet.iter_batches(batch_size=ROWS_AT_A_TIME)
    held = parquet.schema_arrow.empty_table()

    def take(n_rows: int) -> Table:
        nonlocal held
        while held.num_rows < n_rows:
            held = concat_tables([held, Table.from_batches([next(batches)])])
        taken, held = held.slice(0, n_rows), held.slice(n_rows)
        return taken

    return take
