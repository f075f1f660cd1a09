"""Files as bytes, compressed ones unpacked while they are read, and what is inside of each."""

import bz2
import gzip
import io
import lzma
import os
import shlex
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ulmfit_app.config import Quotes
from ulmfit_app.errors import DataError, quoted

COMPRESSIONS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ZIP = ".zip"
# A file that unpacks to more than both is no text: it would fill the memory.
MOST_UNPACKED = 1 << 28  # bytes
MOST_TIMES = 200  # of its size

_DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
_SAVE = "Open it there, and save the table as CSV UTF-8."
_UNPACK = "Unpack it, and name what comes out."
_WEB = (
    "Pages of log-in or error are often saved in the place of a download: open it in a browser, "
    "and download the file itself."
)
# What a file is by its first bytes: the suffix it should have where it is read, then its name for
# people, then what to do.
_MAGIC = {
    b"\x1f\x8b": (".gz", "a gzip archive", _UNPACK),
    b"BZh": (".bz2", "a bzip2 archive", _UNPACK),
    b"\xfd7zXZ\0": (".xz", "an xz archive", _UNPACK),
    b"PAR1": (".parquet", "a Parquet file", _UNPACK),
    b"PK\x03\x04": (ZIP, "a zip archive", _UNPACK),
    b"%PDF-": ("", "a PDF", "Copy its texts into a table first, a row each."),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("", "a file of old Excel or Word", _SAVE),
    b"sqlite format 3\0": ("", "an SQLite database", "Export the table as CSV with headers."),
    b"{\\rtf": ("", "an RTF document", _SAVE),
    b"7z\xbc\xaf\x27\x1c": ("", "a 7z archive", _UNPACK),
    b"rar!": ("", "a RAR archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("", "a Zstandard archive", _UNPACK),
    b"<!doctype html": ("", "a page of HTML", _WEB),
    b"<html": ("", "a page of HTML", _WEB),
    b"<?xml": ("", "an XML document", "Export its table as CSV."),
    b"version https://git-lfs": ("", "a pointer of Git LFS", "Get the file itself: git lfs pull"),
}
_OFFICE = {
    "xl/workbook.xml": "an Excel workbook",
    "xl/workbook.bin": "an Excel workbook",
    "word/document.xml": "a Word document",
    "content.xml": "an OpenDocument file",
}


@dataclass(frozen=True)
class TableFile:
    """A file of rows, and how it is to be read.

    Attributes:
        path: it may be compressed.
        kind: the suffix of what is inside, in lower case.
        encoding: as Python names it.
        quotes: literal where a quote is a character like any other.
        notes: gets a sentence for each thing that is done while it is read.
        lists: whether a cell of JSON or Parquet may be a list of values, such as several labels.
    """

    path: Path
    kind: str
    encoding: str
    quotes: Quotes
    notes: list[str]
    lists: bool = False


def kind_inside(path: Path) -> str:
    """The suffix of what a file holds: of itself, or of what it was before it was compressed.

    Args:
        path: only a .zip, whose member says it, is opened.

    Raises:
        DataError: a .zip is damaged, or holds anything but one file.

    >>> kind_inside(Path("reviews.CSV")), kind_inside(Path("reviews.csv.gz"))
    ('.csv', '.csv')
    """
    suffix = path.suffix.lower()
    if suffix == ZIP and path.is_file():
        with _damage_told(path), zipfile.ZipFile(path) as archive:
            member = PurePosixPath(_only_member(archive, path))
        # Of what pandas writes, the archive's own name may say more.
        return member.suffix.lower() or Path(path.stem).suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSIONS else suffix


def is_compressed(path: Path) -> bool:
    """Whether the name says that the file is a compressed one that `open_bytes` unpacks.

    >>> is_compressed(Path("reviews.csv.gz")), is_compressed(Path("reviews.csv"))
    (True, False)
    """
    return path.suffix.lower() in (*COMPRESSIONS, ZIP)


def name_without_suffix(path: Path) -> str:
    """The name of a file or folder without what says its kind.

    >>> [name_without_suffix(Path(name)) for name in ("reviews.csv.gz", "reviews.csv", "trec6")]
    ['reviews', 'reviews', 'trec6']
    """
    return Path(path.stem).stem if is_compressed(path) else path.stem


def refuse_broken_link(path: Path) -> None:
    """Refuse a link to nothing.

    Args:
        path: anything, there or not.

    Raises:
        DataError: it is a link, and what it links to is not there.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(
            f"{path} is a link to {os.readlink(path)}, which does not exist. Mend the link, or "
            f"remove it: rm {shlex.quote(str(path))}"
        )


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """A file's bytes from the first on, unpacked where its name says that it is compressed.

    Memory does not grow with the file.

    Args:
        path: a file; a .zip holds one.

    Yields:
        A reader that cannot seek.

    Raises:
        DataError: it cannot be read, is damaged, or unpacks to far more than text does.
    """
    suffix = path.suffix.lower()
    with _damage_told(path):
        if suffix == ZIP:
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(_only_member(archive, path)) as file,
                io.BufferedReader(_Unpacked(file, path), 1 << 20) as reader,
            ):
                yield reader
        elif suffix in COMPRESSIONS:
            with (
                COMPRESSIONS[suffix](path) as file,
                io.BufferedReader(_Unpacked(file, path), 1 << 20) as reader,
            ):
                yield reader
        else:
            with open(path, "rb") as reader:
                yield reader


class _Unpacked(io.RawIOBase):
    """What a compressed file unpacks to, as long as it may be text."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.size, self.n_read = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        block = self.file.read(len(buffer))
        self.n_read += len(block)
        if self.n_read > max(MOST_UNPACKED, MOST_TIMES * self.size):
            raise DataError(
                f"{self.path} unpacks to more than {self.n_read >> 20:,} MiB from "
                f"{self.size:,} bytes, as no table of texts does. If it is one, unpack it "
                "yourself, and name what comes out."
            )
        buffer[: len(block)] = block
        return len(block)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "password" not in str(error):
            raise
        raise DataError(f"{path} is encrypted. Unpack it, and name the file inside.") from None
    except NotImplementedError as error:
        raise DataError(f"{path} cannot be unpacked: {error}. Unpack it yourself.") from None
    except _DAMAGE as error:
        # With an errno an OSError comes from the disk; without one from gzip or bz2, of bad data.
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None
        raise DataError(
            f"{path} is damaged, cut off or not what its name says, and cannot be unpacked "
            f"({error}). Get it again."
        ) from None


def _only_member(archive: zipfile.ZipFile, path: Path) -> str:
    members = [name for name in archive.namelist() if not _is_hidden(name)]
    if len(members) != 1:
        found = f"{len(members):,}: {quoted(members)}" if members else "none"
        raise DataError(
            f"Expected one file in {path}, found {found}. Unpack it, and name the one with the "
            f"texts: unzip {shlex.quote(str(path))}"
        )
    return members[0]


def _is_hidden(member: str) -> bool:
    """Whether it is a folder of an archive, or what macOS puts beside the files."""
    parts = PurePosixPath(member).parts
    return member.endswith("/") or "__MACOSX" in parts or parts[-1].startswith(".")


def refuse_other_content(path: Path, kind: str | None) -> None:
    """Refuse a file whose first bytes are those of another kind than its name says.

    Args:
        path: a file.
        kind: what its name says that it holds; None: nothing that is read.

    Raises:
        DataError: it begins as an archive, a workbook, a PDF or the like does.
    """
    with open_bytes(path) as file:
        head = file.peek(64)[:64]
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = [
        its for magic, its in _MAGIC.items() if head.startswith(magic) or text.startswith(magic)
    ]
    if not found:
        return
    suffix, what, advice = found[0]
    if suffix == kind:
        return
    if suffix == ZIP and (office := _office_kind(path)):
        suffix, what, advice = "", office, _SAVE
    if suffix and not is_compressed(path):
        # A name that ends in no kind may still say one before the compression's.
        keep = path if suffix in (*COMPRESSIONS, ZIP) else path.with_suffix("")
        new = shlex.quote(f"{keep}{suffix}")
        advice = f"Give it a name that says so: mv {shlex.quote(str(path))} {new}"
    but = f", not {kind} as its name says" if kind else ""
    raise DataError(f"{path} is {what}{but}. {advice}")


def _office_kind(path: Path) -> str | None:
    if is_compressed(path) or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    return next((what for name, what in _OFFICE.items() if name in names), None)
