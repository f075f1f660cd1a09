"""Bytes to characters, strictly: a wrong encoding is told, never guessed."""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ulmfit_app.errors import DataError, SettingError

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def replace_lone_surrogates(column: pd.Series) -> pd.Series:
    """U+FFFD for each half of a surrogate pair without the other half: no encoder accepts one.

    >>> replace_lone_surrogates(pd.Series(["a\\ud800b"], dtype=object)).tolist() == ["a\\ufffdb"]
    True
    """
    return column.map(lambda cell: LONE_SURROGATE.sub("\ufffd", cell))


def read_lines(path: Path, encoding: str) -> Iterator[str]:
    """Decoded lines with their ends as they are, without a byte order mark.

    Args:
        path: a file.
        encoding: as Python names it.

    Raises:
        DataError: the file cannot be read, or is not in this encoding.
        SettingError: there is no such encoding.
    """
    codec = _codec(encoding)
    try:
        with open(path, encoding=codec, newline="") as file:
            _refuse_utf16(file.buffer.peek(4096), path, encoding)
            yield from file
    except UnicodeError:
        raise DataError(_wrong_encoding(path, encoding, _first_bad_byte(path, codec))) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def decode(content: bytes, path: Path, encoding: str) -> str:
    """The characters of a whole file.

    Args:
        content: its bytes.
        path: of the file, for the message.
        encoding: as Python names it.

    Raises:
        DataError: they are not in this encoding.
        SettingError: there is no such encoding.
    """
    codec = _codec(encoding)
    _refuse_utf16(content[:4096], path, encoding)
    try:
        return content.decode(codec)
    except UnicodeDecodeError as error:
        raise DataError(_wrong_encoding(path, encoding, error.start)) from None


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "".encode(encoding)  # refuses codecs that are not of text, such as base64
    except LookupError:
        raise SettingError(
            f"There is no text encoding '{encoding}'. Expected for instance --encoding utf-8, "
            "cp1252 or utf-16."
        ) from None
    return "utf-8-sig" if name == "utf-8" else name


def _refuse_utf16(head: bytes, path: Path, encoding: str) -> None:
    """Raises DataError when a file starts like UTF-16 although another encoding is expected.

    Without this check UTF-16 letters of the Latin script are read as valid UTF-8, a NUL character
    after each.
    """
    if _codec(encoding).startswith(("utf-16", "utf-32")):
        return
    even, odd = head[::2].count(0), head[1::2].count(0)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        found, flag = "the byte order mark of UTF-16 at byte 0", "utf-16"
    elif even + odd > len(head) / 4:
        flag = "utf-16-le" if odd > even else "utf-16-be"
        found = f"a NUL byte at byte {head.index(0)} and in every second place, as in UTF-16"
    else:
        return
    raise DataError(f"{path} is not {encoding}: it has {found}. Add: --encoding {flag}")


def _wrong_encoding(path: Path, encoding: str, position: int) -> str:
    other = "cp1252" if _codec(encoding) == "utf-8-sig" else "utf-8"
    return f"{path} is not {encoding}: byte {position} cannot be read so. Add: --encoding {other}"


def _first_bad_byte(path: Path, codec: str) -> int:
    decoder = codecs.getincrementaldecoder(codec)()
    start = 0
    with open(path, "rb") as file:
        while True:
            block = file.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return start - pending + error.start
            if not block:
                return start
            start += len(block)
