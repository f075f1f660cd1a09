"""Dates and times as tables have them."""

import re
import warnings

import pandas as pd

from ulmfit_app.errors import DataError, quoted

_ADVICE = "Write all of them as 2026-01-31 or 2026-01-31T09:30:00, and give the command again."
_YEAR = re.compile(r"[12]\d{3}")
_SINCE_1970 = {"s": re.compile(r"\d{9,10}(\.\d+)?"), "ms": re.compile(r"\d{12,13}")}
_TWO_NUMBERS = re.compile(r"\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}\b")


def read_times(cells: pd.Series, name: str) -> pd.Series:
    """The moments that a column's cells name, all in one way.

    Dates and times of ISO 8601, years, seconds or milliseconds since 1970, and what pandas reads
    by one format. Days and months that are numbers in an order that nobody can tell are refused,
    instead of guessed.

    Args:
        cells: strings, [n]; "" stays without a moment.
        name: of the column, for messages.

    Returns:
        datetime64 in UTC without its name, [n], NaT for "".

    Raises:
        DataError: no cell says a moment; some cannot be read; or they are written in several ways.

    >>> read_times(pd.Series(["2026-01-31", "2025-12-01"]), "date").dt.year.tolist()
    [2026, 2025]
    """
    cells = cells.fillna("").astype(str).str.strip()
    filled = cells[cells != ""]
    if filled.empty:
        raise DataError(
            f"Column {name!r} has no date in any row. Name the column of the dates: --time COLUMN"
        )
    moments = _read(filled, name)
    return moments.reindex(cells.index)


def _read(cells: pd.Series, name: str) -> pd.Series:
    if cells.map(_YEAR.fullmatch).astype(bool).all():
        return pd.to_datetime(cells, format="%Y")
    for unit, written in _SINCE_1970.items():
        if cells.map(written.fullmatch).astype(bool).all():
            return pd.to_datetime(cells.astype(float), unit=unit)
    if cells.map(_TWO_NUMBERS.match).astype(bool).all():
        return _read_two_numbers(cells, name)
    for form in ("ISO8601", None):
        moments = _parse(cells, form)
        if moments.notna().all():
            return moments
    wrong = cells[_parse(cells, "ISO8601").isna() & _parse(cells, None).isna()]
    if len(wrong) == len(cells):
        raise DataError(
            f"Column {name!r} holds no dates: {quoted(cells.unique()[:3].tolist())}. Name the "
            "column of the dates: --time COLUMN"
        )
    if len(wrong):
        raise DataError(
            f"Column {name!r} has {len(wrong):,} of {len(cells):,} cells that are no date, first "
            f"{quoted(wrong.unique()[:3].tolist())}. {_ADVICE}"
        )
    ways = [cells[_parse(cells, form).notna()].iloc[0] for form in ("ISO8601", None)]
    raise DataError(
        f"Column {name!r} has dates in more than one way of writing: {quoted(ways)}. {_ADVICE}"
    )


def _read_two_numbers(cells: pd.Series, name: str) -> pd.Series:
    """Days and months as numbers, whose order one of them tells."""
    numbers = cells.str.extract(r"^(\d{1,2})\D(\d{1,2})").astype(int)
    first, second = (numbers[i].max() > 12 for i in (0, 1))
    if first == second:
        both = "some have the day first and others the month" if first else "both orders fit"
        raise DataError(
            f"Column {name!r} has dates such as {quoted(cells.unique()[:2].tolist())}, of which "
            f"nobody can tell day from month: {both}. {_ADVICE}"
        )
    moments = _parse(cells, None, dayfirst=bool(first))
    if moments.isna().any():
        wrong = cells[moments.isna()].unique()[:3].tolist()
        raise DataError(
            f"Column {name!r} has {moments.isna().sum():,} of {len(cells):,} cells that are no "
            f"date, or written in another way than {cells.iloc[0]!r}: {quoted(wrong)}. {_ADVICE}"
        )
    return moments


def _parse(cells: pd.Series, form: str | None, dayfirst: bool = False) -> pd.Series:
    """Moments in UTC; NaT for what is none, or, without a form, is written as the first is not."""
    how = {"format": form} if form else {"dayfirst": dayfirst}
    try:
        with warnings.catch_warnings():
            # What has no format that pandas knows, it would guess cell by cell, "3" as a day.
            warnings.simplefilter("error", UserWarning)
            moments = pd.to_datetime(cells, errors="coerce", utc=True, **how)
    except (TypeError, UserWarning, ValueError):
        return pd.Series(pd.NaT, cells.index, dtype="datetime64[ns]")
    return moments.dt.tz_localize(None)
