"""Bytes to characters, strictly: a wrong encoding is told, and only the advice is guessed."""

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ulmfit_app.data.guessing import Opener, advise_encoding
from ulmfit_app.data.opening import open_bytes
from ulmfit_app.errors import DataError, SettingError, quoted

# Python's codecs of text that are no character sets: names of hosts, and source code.
_NO_CHARACTER_SETS = ("punycode", "idna", "unicode-escape", "raw-unicode-escape", "undefined")
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
        path: a file, which may be compressed.
        encoding: as Python names it.

    Raises:
        DataError: the file cannot be read, is damaged, or is not in this encoding.
        SettingError: there is no such encoding.
    """
    codec = find_codec(encoding)
    try:
        with open_bytes(path) as file:
            _refuse_utf16(file.peek(4096)[:4096], path, encoding)
            yield from io.TextIOWrapper(file, encoding=codec, newline="")
    except UnicodeError:
        raise DataError(_wrong_encoding(path, encoding, lambda: open_bytes(path))) from None


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
    codec = find_codec(encoding)
    _refuse_utf16(content[:4096], path, encoding)
    try:
        return content.decode(codec)
    except UnicodeDecodeError:
        raise DataError(_wrong_encoding(path, encoding, lambda: io.BytesIO(content))) from None


def find_codec(encoding: str) -> str:
    """Python's own name of an encoding; utf-8-sig, which skips a byte order mark, for utf-8.

    Raises:
        SettingError: there is no such encoding.
    """
    try:
        name = codecs.lookup(encoding).name
        if name.replace("_", "-") in _NO_CHARACTER_SETS:
            raise LookupError
        "".encode(encoding)  # refuses codecs that are not of text, such as base64
    except (LookupError, ValueError):  # the latter of a name with a NUL
        raise SettingError(
            f"There is no text encoding {quoted([encoding])}. Expected for instance --encoding "
            "utf-8, cp1252 or utf-16."
        ) from None
    return "utf-8-sig" if name == "utf-8" else name


def _refuse_utf16(head: bytes, path: Path, encoding: str) -> None:
    """Raises DataError when a file starts like UTF-16 although another encoding is expected.

    Without this check UTF-16 letters of the Latin script are read as valid UTF-8, a NUL character
    after each.
    """
    if find_codec(encoding).startswith(("utf-16", "utf-32")):
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


def _wrong_encoding(path: Path, encoding: str, opener: Opener) -> str:
    position = _first_bad_byte(opener, find_codec(encoding))
    return (
        f"{path} is not {encoding}: byte {position} cannot be read so. "
        f"{advise_encoding(opener, encoding, path)}"
    )


def _first_bad_byte(opener: Opener, codec: str) -> int:
    decoder = codecs.getincrementaldecoder(codec)()
    start = 0
    with opener() as file:
        while True:
            block = file.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return start - pending + error.start
            except UnicodeError:  # UTF-16 or UTF-32 without its byte order mark
                return start
            if not block:
                return start
            start += len(block)
