"""Columns of groups and of times: whether they are there, and can be compared by."""

import pandas as pd

from ulmfit_app.config import DataSettings
from ulmfit_app.data.draft import Draft
from ulmfit_app.errors import DataError, SettingError, quoted
from ulmfit_app.evaluation.tables import PREFIX

OWN = ("text", "label", "split")  # of a draft
# What a table of predictions has beside texts and labels.
TAKEN = ("predicted", "confidence", "copy_in_train", "row", "update")
_IS_ELSE = "this column holds the texts, the labels or the splits. Name another one."


def _named(settings: DataSettings) -> dict[str, str]:
    """Columns of groups and times, and the option that names each."""
    time = {} if settings.time is None else {settings.time: "--time"}
    return dict.fromkeys(settings.groups, "--groups") | time


def check_meanings(settings: DataSettings) -> None:
    """Refuse a column of groups or times that has another meaning, too.

    Raises:
        SettingError: a column is named twice.
    """
    if len(_named(settings)) < len(settings.groups) + (settings.time is not None):
        raise SettingError(
            f"--groups and --time name a column twice: {quoted([*settings.groups])}"
            f"{f' and {settings.time!r}' if settings.time else ''}. Name each once."
        )
    for name, option in _named(settings).items():
        if name in (settings.text, settings.label, settings.split, *settings.label_columns):
            raise SettingError(f"{option} {name}: {_IS_ELSE}")


def check_columns(draft: Draft, settings: DataSettings) -> None:
    """Refuse a column of groups or times that is not there, or that tables cannot hold.

    Raises:
        DataError: there is no such column.
        SettingError: it is that of the texts, or is called like one of predictions.
    """
    others = [name for name in draft.table if name not in OWN]
    for name, option in _named(settings).items():
        if name in (draft.text_column, *OWN):
            raise SettingError(f"{option} {name}: {_IS_ELSE}")
        if name in TAKEN or name.startswith(PREFIX):
            raise SettingError(
                f"{option} {name}: predictions have columns of such names themselves "
                f"({', '.join(TAKEN)} and {PREFIX}LABEL). Give the column another name in the "
                "file."
            )
        if name not in others:
            found = quoted(others) if others else "none beside texts, labels and splits"
            raise DataError(
                f"{draft.origin} has no column {name!r}, which {option} names. Its other columns: "
                f"{found}."
            )


def require_comparable(columns: pd.DataFrame) -> None:
    """Refuse columns of groups that put all texts into one group, or each into its own.

    Args:
        columns: of groups alone, of the rows that are used.

    Raises:
        DataError: a column does.
    """
    for name in columns:
        values = columns[name].str.strip()
        n_groups = values.nunique()
        if n_groups < 2:
            raise DataError(
                f"Column {name!r}, which --groups names, has the one value "
                f"{quoted(values.unique().tolist())} in all {len(values):,} rows that are used: "
                "there is nothing to compare. Name another column, or leave it out."
            )
        if 2 * n_groups > len(values):
            raise DataError(
                f"Column {name!r}, which --groups names, has {n_groups:,} values in the "
                f"{len(values):,} rows that are used: nearly every text would be a group of its "
                "own. Name a column of groups, or leave it out."
            )
