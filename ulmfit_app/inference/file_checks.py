"""What is settled about a file before its rows are predicted: where it goes, and its columns."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from ulmfit_app.data.columns import TEXT_NAMES
from ulmfit_app.data.csv_rows import advise_separator, csv_rows
from ulmfit_app.data.opening import kind_inside, name_without_suffix
from ulmfit_app.data.tables import TABLE_KINDS
from ulmfit_app.errors import DataError, SettingError, quoted
from ulmfit_app.run_folder import require_record

# Of columns of texts; any other line may be a text of a file without column names.
_KNOWN_NAMES = TEXT_NAMES | {"body", "content", "message", "question", "title", "tweet"}

log = logging.getLogger(__name__)


def check_out(out: Path, path: Path) -> None:
    """Refuse a place where no predictions can go.

    Args:
        out: where they are to go.
        path: the file that is predicted.

    Raises:
        SettingError: `out` is a folder, the file itself, or not named as a CSV.
    """
    if out.is_dir() or (out.exists() and path.exists() and out.samefile(path)):
        raise SettingError(
            f"The predictions cannot go to {out}, which is a folder or the file itself. "
            "Name another: --out FILE.csv"
        )
    if out.suffix.lower() != ".csv":
        named = out.with_name(f"{name_without_suffix(out)}.csv")
        raise SettingError(
            f"The predictions are written as CSV, and {out} is named otherwise. "
            f"Name it so: --out {shlex.quote(str(named))}"
        )


def find_text_column(run: Path) -> str | None:
    """The column that held the texts of a run.

    Returns:
        None where it was made from no file, or by a version that did not write the column down.

    Raises:
        RunFolderError: there is no run, or it is of another format or damaged.
    """
    return require_record(run).get("data", {}).get("text_column")


def refuse_columns_twice(columns: Sequence[str], ours: Sequence[str], path: Path) -> None:
    """Refuse a file some of whose columns have the names of those that are written behind them.

    Args:
        columns: of the file.
        ours: that are written.
        path: of the file, for the message.

    Raises:
        DataError: naming those that would be there twice.
    """
    twice = [name for name in columns if name in set(ours)]
    if twice:
        raise DataError(
            f"{path} has the columns {quoted(twice)} already, as a file of predictions has, and "
            "they would be there twice. Rename or drop them first. Nothing was predicted."
        )


def choose_text_column(
    columns: Sequence[str], path: Path, asked: str | None, own: str | None
) -> str | None:
    """Which column of a file holds the texts, as far as its names tell.

    Args:
        columns: of the file.
        path: of the file, for the message.
        asked: the column that was asked for; taken as it is.
        own: that of the file which the run was made from; None where it was made from no file.

    Returns:
        What was asked for, else the run's own, else the only one. None where the run has none.

    Raises:
        DataError: there are several, and none is the run's own; or the only one of a CSV or TSV
            may be a text.
    """
    if asked is not None or own is None:
        return asked
    if own in columns:
        return own
    if len(columns) == 1:
        # A key of JSON and a column of Parquet is a name, whatever it is.
        is_line = TABLE_KINDS[kind_inside(path)] is csv_rows
        if is_line and columns[0].casefold() not in _KNOWN_NAMES:
            raise DataError(
                f"{path}: {quoted(columns)} was read as the name of the only column. If it is a "
                f"text, put the line {own} before it.{advise_separator(columns)} If it is the "
                f"name, add: --text {shlex.quote(columns[0])}"
            )
        log.info("The run's column of texts was %s; %s has only one.", quoted([own]), path)
        return columns[0]
    raise DataError(
        f"{path} has no column {quoted([own])}, which held the texts that the run was made from. "
        f"Its columns are {quoted(columns)}. Say which one holds the texts: --text COLUMN"
    )
