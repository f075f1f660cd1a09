"""Rows of CSV and TSV files, read strictly: RFC 4180, or with quotes as characters like others."""

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ulmfit_app.data.encodings import read_lines
from ulmfit_app.data.opening import TableFile
from ulmfit_app.errors import DataError, quoted

# Python 3.10's csv module refuses NUL: half a surrogate pair, which no file holds, stands for it.
NUL = "\0" if sys.version_info >= (3, 11) else "\udfff"
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_LITERAL = "Where quotes are characters like any other, add: --quotes literal"
_OTHER_SEPARATOR = re.compile(r"\w\"?([|^~])\"?\w")
_SEP = re.compile(r'"?sep=(\\t|[^"\r\n])"?\r?\n?')  # Excel's own first line


@dataclass(frozen=True)
class _Dialect:
    """How a file is cut into fields.

    Args:
        delimiter: one character.
        literal: whether quotes are characters like any other.
        skipped: lines before the column names that are no rows, which is Excel's sep=.
    """

    delimiter: str
    literal: bool
    skipped: int

    @property
    def name(self) -> str:
        """The delimiter, for people."""
        return DELIMITERS.get(self.delimiter, f"'{self.delimiter}'")

    def reader(self, lines: Iterator[str], strict: bool = True):
        """A csv.reader of lines."""
        quoting = csv.QUOTE_NONE if self.literal else csv.QUOTE_MINIMAL
        return csv.reader(lines, delimiter=self.delimiter, quoting=quoting, strict=strict)


def csv_rows(file: TableFile) -> tuple[list[str], Iterator[list[str]]]:
    """Column names, and rows of as many fields each.

    In a file of one column an empty line is a row, unless no row follows; in others it is none.
    Lines that are left out are counted in the file's notes, the last of them when the rows end.

    Raises:
        DataError: it breaks the rules of CSV, or one row lies in the quotes of another.
    """
    # The csv module's own limit of 131,072 characters per field is shorter than some reviews; a C
    # long holds no more.
    csv.field_size_limit(2**31 - 1)
    records = _records(file, _find_dialect(file))
    return next(records, []), records


def advise_separator(names: Sequence[str]) -> str:
    """What to do where one name is several that another character separates, else nothing.

    Args:
        names: of columns.

    >>> advise_separator(["text", "label"]), advise_separator(["text|label"])
    ('', ' If | separates the columns, put the line sep=| before all others.')
    """
    found = _OTHER_SEPARATOR.search(names[0]) if len(names) == 1 else None
    if found is None:
        return ""
    return f" If {found[1]} separates the columns, put the line sep={found[1]} before all others."


def _find_dialect(file: TableFile) -> _Dialect:
    """Excel's sep= says the delimiter; or else it is the one that cuts the header most."""
    literal = file.quotes == "literal"
    if sep := _SEP.fullmatch(next(_lines(file, 0), "")):
        file.notes.append(
            f"The first line of {file.path.name}, {sep[0].strip()!r}, names the separator and is "
            "no row."
        )
        return _Dialect("\t" if sep[1] == "\\t" else sep[1], literal, 1)
    # A name in quotes may hold any of the three: cut there, it breaks the rules of quoting.
    dialects = [_Dialect(delimiter, literal, 0) for delimiter in DELIMITERS]
    n_fields = [_fields_of_header(file, dialect, strict=True) for dialect in dialects]
    if not any(n_fields):
        n_fields = [_fields_of_header(file, dialect, strict=False) for dialect in dialects]
    if file.kind == ".tsv" and n_fields[-1] > 1:
        return dialects[-1]
    most = max(n_fields)
    best = [each for each, count in zip(dialects, n_fields, strict=True) if count == most]
    if most <= 1 or len(best) == 1:
        return best[0]
    raise DataError(
        f"The first line of {file.path} has as many fields when it is cut at "
        f"{' as at '.join(each.name for each in best)}. Put the column names in quotes, so that "
        "only the separator is left outside."
    )


def _fields_of_header(file: TableFile, dialect: _Dialect, strict: bool) -> int:
    """Fields of the first line that has any; 0 where there is none, or it breaks a strict rule."""
    try:
        return len(next(filter(None, dialect.reader(_lines(file, 0), strict)), []))
    except csv.Error:
        return 0


def _lines(file: TableFile, skipped: int) -> Iterator[str]:
    lines = islice(read_lines(file.path, file.encoding), skipped, None)
    return lines if NUL == "\0" else (line.replace("\0", NUL) for line in lines)


def _records(file: TableFile, dialect: _Dialect) -> Iterator[list[str]]:
    """Header and rows, all of one width."""
    physical: list[str] = []  # lines of the record
    reader = dialect.reader(_remember(_lines(file, dialect.skipped), physical))
    spans = _Spans(file, dialect)
    header: list[str] = []
    width, n_blank, n_left_out = None, 0, 0
    while True:
        first_line = reader.line_num + dialect.skipped + 1
        physical.clear()
        try:
            record = next(reader)
        except StopIteration:
            break
        except csv.Error:
            raise DataError(_open_quote(file, dialect, first_line)) from None
        if not record or (width != 1 and len(record) == 1 and not physical[0].strip()):
            n_blank += 1
            continue
        if width is None:
            header, width = record, len(record)
            spans.start(width, physical)
        elif width == 1:
            yield from ([""] for _ in range(n_blank))
            n_blank = 0
        if len(record) != width:
            raise DataError(_wrong_width(file, dialect, first_line, header, record, physical))
        if len(physical) > 1:
            spans.check(physical, first_line)
        n_left_out, n_blank = n_left_out + n_blank, 0
        yield record if NUL == "\0" else [field.replace(NUL, "\0") for field in record]
    spans.note()
    if n := n_left_out + n_blank:
        where = "at the end of" if width == 1 and not n_left_out else "of"
        file.notes.append(f"Left out {n:,} blank line{'s'[: n > 1]} {where} {file.path.name}.")


def _wrong_width(
    file: TableFile,
    dialect: _Dialect,
    line: int,
    header: list[str],
    record: list[str],
    physical: list[str],
) -> str:
    if len(record) == len(header) + 1 and not record[-1]:
        advice = f"This line ends in a {dialect.name}, and the line of column names does not: "
        advice += "take it off, or name one more column."
    elif other := advise_separator(header):
        advice = f"The line of column names is the one field {quoted(header)}.{other}"
    elif len(header) == 1 and not re.fullmatch(r"[\w-]+", header[0].strip()):
        advice = f"If {quoted(header)} is a comment and no line of column names, remove it; if it "
        advice += "is a text, put the column names before it."
    elif dialect.literal:
        advice = f"With --quotes literal no text can hold a {dialect.name} or a line break."
    else:
        advice = f"A text that holds a {dialect.name} or a line break must stand in quotes."
        advice += f" {_LITERAL}" if len(physical) > 1 else ""
    return (
        f"{file.path}, line {line}: expected {len(header)} field{'s'[: len(header) > 1]} as in "
        f"the line of column names, found {len(record)}. {advice}"
    )


def _remember(lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    """The lines, each of which is added to a list first."""
    for line in lines:
        taken.append(line)
        yield line


class _Spans:
    """Rows that span lines, and those among them that are several rows in a pair of quotes.

    A file whose quotes are characters like any other is read as CSV without an error where a text
    begins with a quote and a later one ends with one. It is told from texts of several lines by
    its lines, each of which alone has the fields of a row.
    """

    def __init__(self, file: TableFile, dialect: _Dialect) -> None:
        self.file, self.dialect = file, dialect
        self.width = 0  # of rows; 0 where quotes are known to be CSV's
        self.fits: bool | None = None  # whether the file can be read without quotes
        self.first_line = self.n_rows = self.n_lines = 0  # of doubtful ones

    def start(self, width: int, header: list[str]) -> None:
        """Take the number of fields from the header, whose own quotes leave no doubt."""
        if width > 1 and not self.dialect.literal and '"' not in "".join(header):
            self.width = width

    def check(self, physical: list[str], first_line: int) -> None:
        """Count a row of several lines, or refuse it where it is beyond doubt several rows."""
        if not self.width:
            return
        tabs = self.dialect.delimiter == "\t"
        if not tabs and not self._is_full(physical[0]):
            return
        full = list(map(self._is_full, physical))
        if all(full):
            if self.fits is None:
                self.fits = self._read_literally(physical, first_line)
            doubtful = tabs or self.fits
        else:
            # A text's own first and last line lie beside other fields.
            doubtful = tabs and any(full[1:-1])
        if doubtful:
            self.first_line = self.first_line or first_line
            self.n_rows += 1
            self.n_lines += len(physical)

    def note(self) -> None:
        """Say what is doubtful."""
        if self.n_rows:
            self.file.notes.append(
                f"In {self.file.path.name} quotes join {self.n_lines:,} lines into "
                f"{self.n_rows:,} row{'s'[: self.n_rows > 1]}, first in line {self.first_line}, "
                f"though these lines alone have the fields of rows. {_LITERAL}"
            )

    def _is_full(self, line: str) -> bool:
        return line.count(self.dialect.delimiter) == self.width - 1

    def _cut(self, line: str) -> list[str]:
        return line.rstrip("\r\n").split(self.dialect.delimiter)

    def _read_literally(self, physical: list[str], first_line: int) -> bool:
        """Whether all lines of the file have the fields of a row.

        Raises DataError where besides that nothing speaks for one text: tabs, which prose does not
        have; many lines; or a column whose values in these lines are those of other rows, as
        labels are.
        """
        columns = zip(*map(self._cut, physical), strict=True)
        unseen = [set(column) if all(column) else {None} for column in columns]
        last_line = first_line + len(physical) - 1
        lines = _lines(self.file, self.dialect.skipped)
        for number, line in enumerate(lines, start=self.dialect.skipped + 1):
            if first_line <= number <= last_line or not line.strip():
                continue
            fields = self._cut(line)
            if len(fields) != self.width:
                return False
            for values, field in zip(unseen, fields, strict=True):
                values.discard(field)
        if self.dialect.delimiter == "\t" or len(physical) > 5 or not all(unseen):
            n = len(physical)
            raise DataError(
                f"{self.file.path}, lines {first_line} to {last_line}: a quote opens in the first "
                f"and closes in the last, and each of these {n:,} lines alone has the "
                f"{self.width} fields of a row: {n - 1:,} rows would be lost inside of a text. "
                f"Where it is one text, put quotes around the column names. {_LITERAL}"
            )
        return True


def _open_quote(file: TableFile, dialect: _Dialect, first_line: int) -> str:
    """Which quote makes the record from `first_line` on break RFC 4180, section 2."""
    opened = first_line
    before_field, plain, in_quotes, after_quote = range(4)
    state = before_field
    for number, line in enumerate(read_lines(file.path, file.encoding), start=1):
        if number < first_line:
            continue
        for character in line:
            if state == in_quotes:
                state = after_quote if character == '"' else in_quotes
            elif character in (dialect.delimiter, "\n", "\r"):
                state = before_field
            elif state == before_field and character == '"':
                state, opened = in_quotes, number
            elif state == after_quote:
                if character != '"':
                    return _unclosed(file, dialect, opened)
                state = in_quotes
            else:
                state = plain
    return _unclosed(file, dialect, opened)


def _unclosed(file: TableFile, dialect: _Dialect, line: int) -> str:
    return (
        f"{file.path}, line {line}: a quote opens here and is not closed before a {dialect.name} "
        f'or the end of a line. Close it, and double each quote inside a quoted text: "". '
        f"{_LITERAL}"
    )
