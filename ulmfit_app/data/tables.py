"""The kinds of files that are tables, and Parquet's rows. Every cell is a string."""

import re
from collections.abc import Iterator
from pathlib import Path

from ulmfit_app.data.csv_rows import csv_rows
from ulmfit_app.data.json_rows import json_rows, refuse_nested, to_cell
from ulmfit_app.data.opening import COMPRESSIONS, ZIP, TableFile, is_compressed
from ulmfit_app.errors import DataError


def _parquet_rows(file: TableFile) -> tuple[list[str], Iterator[tuple[str, ...]]]:
    path = file.path
    if is_compressed(path):
        raise DataError(
            f"{path} is a Parquet file that is compressed once more. Unpack it, and name what "
            "comes out."
        )
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
        from pyarrow.types import is_list, is_nested
    except ImportError:
        raise DataError(
            f"Reading {path} needs pyarrow, which is not installed. Run: pip install "
            "'ulmfit-app[parquet]'"
        ) from None
    try:
        parquet = ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {error}") from None
    # pandas writes its row index as such a column; it is no data.
    fields = [
        field
        for field in parquet.schema_arrow
        if not re.fullmatch(r"__index_level_\d+__", field.name)
    ]
    nested = {
        field.name: f"cells of type {field.type}"
        for field in fields
        if is_nested(field.type)
        and not (file.lists and is_list(field.type) and not is_nested(field.type.value_type))
    }
    refuse_nested(file, nested, "pyarrow.parquet.read_table(sys.argv[1]).to_pylist()")
    columns = [field.name for field in fields]

    def rows() -> Iterator[tuple[str, ...]]:
        try:
            for batch in parquet.iter_batches(batch_size=10_000, columns=columns):
                yield from zip(
                    *(map(to_cell, column.to_pylist()) for column in batch.columns), strict=True
                )
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} has cells of bytes that are no UTF-8: {error.object[:20]!r}. Leave out "
                "the column, or decode it before: table[COLUMN].str.decode(ENCODING)"
            ) from None
        except (ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged: {error}") from None

    return columns, rows()


TABLE_KINDS = {
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".json": json_rows,
    ".parquet": _parquet_rows,
}
EXPECTED_KINDS = (
    f"{', '.join(TABLE_KINDS)}; or one of them, but Parquet, in {', '.join(COMPRESSIONS)} or {ZIP}"
)


def is_table_name(path: Path) -> bool:
    """Whether a file's name says that it is a table, compressed or not.

    >>> [is_table_name(Path(name)) for name in ("a.csv", "a.jsonl.gz", "a.csv.zip", "a.zip")]
    [True, True, True, False]
    """
    inner = Path(path.stem) if is_compressed(path) else path
    return inner.suffix.lower() in TABLE_KINDS
