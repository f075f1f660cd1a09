"""Files of JSON lines that a server writes: feedback, and the log of its answers.

A line is written whole or not at all, whoever else writes to the file and however full the disk
is. Only a loss of power can leave a part of one: the next line then begins on a line of its own.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

from ulmfit_app.errors import SettingError, quoted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FEEDBACK = ("text", "label", "predicted", "confidence", "model", "time")
ANSWERS = ("time", "request", "model", "hash", "label", "confidence", "seconds")
MOST_LINE = 1 << 22  # bytes; a text of 200,000 characters takes at most 1.2 million
# JSON allows them as they are, and readers such as str.splitlines end a line there.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


class Full(Exception):
    """The file has no room left for the lines, of which none was written."""


class JsonLines:
    """A file that lines are appended to, by any number of threads and processes.

    It is opened anew for each append: a file that was moved away or deleted meanwhile, as by
    logrotate, begins again. A new file is readable for its owner alone, since texts are private.
    """

    def __init__(self, path: Path, most_bytes: int, fields: Sequence[str]) -> None:
        """Make the file, or see that it is one of ours.

        Args:
            path: in a folder that exists; what the file holds is kept.
            most_bytes: the file never grows beyond them.
            fields: FEEDBACK or ANSWERS, which the first line of a file with content must have.

        Raises:
            SettingError: it is no file, cannot be written, or holds something else.
        """
        self.path, self.most_bytes = path, most_bytes
        self._lock = Lock()
        try:
            _refuse_no_file(path)
            with self._open():
                pass
            found = first_line(path)
        except OSError as error:
            raise SettingError(
                f"{path} cannot be written: {error.strerror}. Name another file."
            ) from None
        if found and parse_record(found, fields) is None:
            raise SettingError(
                f"{path} holds something else, and nothing is added to it. Expected "
                f"{describe_first_line(fields)}; found {shorten(found)}. Name another file, or "
                f"move this one away: mv {shlex.quote(str(path))} {shlex.quote(f'{path}.old')}"
            )

    def append(self, records: Sequence[dict[str, Any]], durable: bool = False) -> None:
        """Add a line for each record: all of them, or none.

        Args:
            records: values that JSON has.
            durable: return only when the lines would outlive a loss of power.

        Raises:
            Full: the file would have more than `most_bytes`.
            OSError: the disk is full, or the file can no longer be opened.
            ValueError: a number is NaN or infinite.
        """
        lines = b"".join(map(_line, records))
        if not lines:
            return
        with self._lock, self._open() as file:
            locked = _lock_file(file)
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                lines = lines if file.read(1) == b"\n" else b"\n" + lines
            if size + len(lines) > self.most_bytes:
                raise Full(
                    f"{self.path} has {size:,} bytes and takes at most {self.most_bytes:,}."
                )
            try:
                # A disk that becomes full takes a part, and only says so of the next.
                while lines:
                    lines = lines[file.write(lines) :]
            except OSError:
                if locked:  # else another's lines could stand behind the part
                    file.truncate(size)
                raise
            if durable:
                os.fsync(file.fileno())

    def _open(self) -> FileIO:
        # Unbuffered: each write is one of the system's, at the end of the file, wherever that is.
        return open(
            self.path, "ab+", buffering=0, opener=lambda path, flags: os.open(path, flags, 0o600)
        )


def _refuse_no_file(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise SettingError(
            f"{path}: there is no folder {folder}. Make it: mkdir -p {shlex.quote(str(folder))}"
        )
    if path.is_dir():
        raise SettingError(
            f"{path} is a folder. Expected a file, such as {shlex.quote(f'{path}/lines.jsonl')}"
        )
    if path.exists() and not path.is_file():
        raise SettingError(f"{path} is a device or a pipe. Expected a file, which can be read.")


def _lock_file(file: FileIO) -> bool:
    """Keep other processes from appending until the file is closed, where there is such a lock."""
    if fcntl is None:
        return False
    with suppress(OSError):  # some network file systems have none
        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    return False


def _line(record: dict[str, Any]) -> bytes:
    line = json.dumps(record, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS)
    # Half of a surrogate pair, which UTF-8 does not have, becomes its escape in JSON.
    return line.encode("utf-8", "backslashreplace") + b"\n"


# ----------------------------------------------------------------------------------------- records
def hash_text(text: str) -> str:
    """The first 16 hexadecimal digits of a text's SHA-256.

    >>> hash_text("a")
    'ca978112ca1bbdca'
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def feedback_record(
    text: str, label: str, predicted: str, confidence: float | None, model: str
) -> dict[str, Any]:
    """What somebody says a text's label is: a row for training, with FEEDBACK as its columns.

    Args:
        text: the text.
        label: what it should be; of several labels, a JSON list.
        predicted: what the model said, likewise.
        confidence: the probability that the model gave to what it said; None of several labels.
        model: id of the model.
    """
    return {
        "text": text,
        "label": label,
        "predicted": predicted,
        "confidence": _rounded(confidence),
        "model": model,
        "time": _now(),
    }


def answer_records(
    request: str,
    seconds: float,
    texts: Sequence[str],
    labels: Sequence[str],
    confidences: Sequence[float | None],
    models: Sequence[str],
    with_texts: bool,
) -> list[dict[str, Any]]:
    """What a request was answered, a record per text, with ANSWERS as its fields.

    Args:
        request: id of the request.
        seconds: from its arrival to its answer.
        texts: of the request, [n].
        labels: what was said of each, [n]; of several labels, a JSON list.
        confidences: the probability of each label, [n]; None of several.
        models: id of the model that said it, [n].
        with_texts: add the field text; else no text can be read from the file.
    """
    about = {"time": _now(), "request": request}
    records = []
    for text, label, confidence, model in zip(texts, labels, confidences, models, strict=True):
        record = about | {
            "model": model,
            "hash": hash_text(text),
            "label": label,
            "confidence": _rounded(confidence),
            "seconds": round(float(seconds), 6),
        }
        records.append(record | ({"text": text} if with_texts else {}))
    return records


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(float(probability), 6)


def _now() -> str:
    """UTC in milliseconds, such as 2026-11-26T10:00:00.123Z."""
    moment = datetime.now(timezone.utc).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='milliseconds')}Z"


# ------------------------------------------------------------------------------------------- lines
def first_line(path: Path) -> bytes:
    """The first line that is not blank, as far as it may go."""
    with path.open("rb") as file:
        return file.read(MOST_LINE).lstrip().partition(b"\n")[0]


def parse_record(line: bytes, fields: Sequence[str] = ()) -> dict[str, Any] | None:
    """The object of a line, with at least these fields; None where there is none."""
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    has_all = isinstance(record, dict) and all(name in record for name in fields)
    return record if has_all else None


def describe_first_line(fields: Sequence[str]) -> str:
    """How a file of ours begins, behind "expected"."""
    return f"a first line that is a JSON object with {quoted(fields)}"


def shorten(line: bytes) -> str:
    """The beginning of a line, for a message."""
    return quoted([line[:240].decode("utf-8", "replace")])
