"""What is settled about a file before its rows are predicted: where it goes, and its columns."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from ulmfit_app.errors import DataError, SettingError, quoted
from ulmfit_app.run_folder import require_record

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
        raise SettingError(
            f"The predictions are written as CSV, and {out} is named otherwise. "
            f"Name it so: --out {shlex.quote(str(out.with_suffix('.csv')))}"
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
        DataError: there are several, and none is the run's own.
    """
    if asked is not None or own is None:
        return asked
    if own in columns:
        return own
    if len(columns) == 1:
        log.info("The run's column of texts was %s; %s has only one.", quoted([own]), path)
        return columns[0]
    raise DataError(
        f"{path} has no column {quoted([own])}, which held the texts that the run was made from. "
        f"Its columns are {quoted(columns)}. Say which one holds the texts: --text COLUMN"
    )
