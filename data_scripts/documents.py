"""The documents of a text corpus, one after the other: what a language model is pretrained on.

python -m data_scripts.documents PATH
"""

import csv
import html
import json
import logging
import lzma
import os
import re
import shlex
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import IO, Annotated

from tyro.conf import arg

from data_scripts import wikitext
from data_scripts.fetch import FetchError, Source, run_script
from data_scripts.files import progress

log = logging.getLogger(__name__)

RULES_VERSION = 1  # raise it when the same files give other documents: caches of them depend on it
SHARD = re.compile(r"wiki_\d+")
KINDS_IN_FOLDERS = (SHARD, re.compile(r"(train|test)\.csv"), re.compile(r"[^.].*\.txt"))
OPENING = re.compile(r'<doc id=".*?title="(.*)">')
EXPECTED = (
    "Expected WikiExtractor's shards wiki_00, wiki_01, ... in a folder or tar archive, .txt files "
    "with one document per line, or fastai's WikiText, train.csv and test.csv"
)


class DocumentError(FetchError):
    """There is no corpus, or it is empty, damaged or in another encoding than UTF-8."""

    exit_code = 3


def read_documents(path: Path, again: bool = False) -> Iterator[str]:
    """The distinct documents of a corpus, always in the same order: of the paths, or the archive.

    Memory holds the current document, and about 90 bytes for each one seen: a digest of 16 in a
    set.

    Args:
        path: WikiExtractor's shards (`wiki_NN` at any depth of a folder or of a tar archive, which
            is read as a stream; <doc> or --json format), a .txt file with one document per line or
            a folder of them, or fastai's WikiText (a folder with train.csv and test.csv, or one of
            them). UTF-8, with or without a byte order mark; links are not followed.
        again: it was read before, so that how much was dropped has been said.

    Yields:
        Documents without white space around them. An article of Wikipedia begins with its title.
        One that is nothing but a title is left out: most are redirects, and they would teach a
        model that an article may end behind its title.

    Raises:
        DocumentError: where the reading comes to what is wrong, so after the documents before it.
    """
    seen: set[bytes] = set()
    characters = repeats = empty = 0
    try:
        for text in map(str.strip, _texts(path)):
            digest = blake2b(text.encode(), digest_size=16).digest()
            if not text:
                empty += 1
            elif digest in seen:
                repeats += 1
            else:
                seen.add(digest)
                characters += len(text)
                yield text
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        reason = (
            (getattr(error, "strerror", None) or str(error) or type(error).__name__)
            .splitlines()[0]
            .rstrip(":")
        )
        # With an errno it comes from the disk; without one from gzip or bz2, of bad data.
        if getattr(error, "errno", None) is None:
            reason = f"it is no tar archive, or it is truncated or altered ({reason}). {EXPECTED}"
        where = getattr(error, "filename", None) or path
        raise DocumentError(f"{where} cannot be read: {reason}. {_next_command(path)}") from error
    if not seen:
        raise DocumentError(
            f"{path} holds no text, only {empty:,} documents that are empty. "
            f"{_next_command('PATH')}"
        )
    how = log.debug if again else log.info
    how(
        f"{path}: {len(seen):,} documents of {characters:,} characters; dropped {repeats:,} "
        f"repeats and {empty:,} that are empty or nothing but a title."
    )


def _next_command(path: Path | str) -> str:
    command = f"python -m data_scripts.documents {shlex.quote(str(path))}"
    return f"Get a whole corpus, then run: {command}"


def _texts(path: Path) -> Iterator[str]:
    if not path.exists():
        raise DocumentError(f"{path} does not exist. {EXPECTED}. {_next_command('PATH')}")
    parts = _files_of_corpus(path) if path.is_dir() else [path]
    total, before = sum(part.stat().st_size for part in parts), 0
    with progress(total=total, description=f"Reading {path.resolve().name}", unit="B") as bar:
        for part in parts:
            with open(part, "rb") as file:
                reader = _reader(part.name)
                for name, content in (
                    [(str(part), file)] if reader else _shards_of_archive(file, part)
                ):
                    for text in (reader or _articles)(content, name):
                        yield text
                        bar.update(before + file.tell() - bar.n)
                before += file.tell()


def _files_of_corpus(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise error  # os.walk leaves out what it cannot read, without a word

    paths = (
        Path(root, name) for root, _, names in os.walk(folder, onerror=fail) for name in names
    )
    files = sorted(path for path in paths if path.is_file() and not path.is_symlink())
    for kind in KINDS_IN_FOLDERS:
        if found := [file for file in files if kind.fullmatch(file.name)]:
            return found
    held = ", ".join(sorted(os.listdir(folder))[:8]) or "nothing"
    raise DocumentError(
        f"{folder} holds no corpus. {EXPECTED}; found {held}. {_next_command('PATH')}"
    )


def _shards_of_archive(compressed: IO[bytes], path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    names, n_shards = [], 0
    with tarfile.open(fileobj=compressed, mode="r:*") as tar:
        while member := tar.next():
            tar.members.clear()  # tarfile remembers each, a kilobyte in memory
            names = [*names, member.name][:8]
            if member.isfile() and SHARD.fullmatch(PurePath(member.name).name):
                n_shards += 1
                yield f"{member.name} in {path}", tar.extractfile(member)
        # tarfile takes a header that it cannot read for the end, and leaves the checksum behind
        # the end unread.
        if tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("no end mark after the last entry")
        while rest := tar.fileobj.read(1 << 16):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("no end mark after the last entry that could be read")
    if not n_shards:
        raise DocumentError(
            f"{path} holds no files wiki_00, wiki_01, ... Expected an archive of a folder that "
            f"WikiExtractor made; found {', '.join(names) or 'nothing'}. Extract it, then run: "
            "python -m data_scripts.documents FOLDER"
        )


def _reader(name: str) -> Callable[[IO[bytes], str], Iterator[str]] | None:
    """What yields the documents of a file, by its name; None for a file that may be an archive."""
    return (
        _articles
        if SHARD.fullmatch(name)
        else {".csv": _rows, ".txt": _lines}.get(PurePath(name).suffix.lower())
    )


def _lines(file: IO[bytes], name: str) -> Iterator[str]:
    offset = 0
    # Lines of bytes end at line feeds alone; those of a str also at characters of a document.
    for line in file:
        try:
            text = line.decode()
            # UTF-16 without a byte order mark is valid UTF-8 wherever its letters are Latin.
            wrong = line.index(b"\0") if "\0" in text else None
        except UnicodeDecodeError as error:
            wrong = error.start
        if wrong is not None:
            likely = "UTF-16" if b"\0" in line else "ISO-8859-1"
            raise DocumentError(
                f"{name} is not UTF-8: byte {offset + wrong} cannot be read so. Convert it from "
                f"the encoding that it has, perhaps {likely}: iconv -f {likely} -t UTF-8 OLD > NEW"
            )
        yield text if offset else text.removeprefix("\ufeff")
        offset += len(line)


def _articles(file: IO[bytes], name: str) -> Iterator[str]:
    """Articles of one of WikiExtractor's shards; "" for one without text."""
    title, body = "", None
    for number, line in enumerate(_lines(file, name), start=1):
        if body is None:
            if opening := OPENING.match(line):
                title, body = opening[1], []
            elif line.strip():
                yield _article(*_title_and_text(line, f"{name}, line {number}"))
        elif line.rstrip() == "</doc>":
            yield _article(title, "".join(body))
            body = None
        elif OPENING.match(line):
            break
        else:
            body.append(line)
    if body is not None:
        raise DocumentError(
            f"{name}: no </doc> ends the article {title!r}, so a part is missing. "
            f"{_next_command('PATH')}"
        )


def _title_and_text(line: str, name: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
        title, text = record.get("title") or "", record["text"]
        # JSON can spell half a surrogate pair, which UTF-8 cannot.
        return title.encode("utf-8", "replace").decode(), text.encode("utf-8", "replace").decode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DocumentError(
            f'{name}: expected <doc id=... title=...> or a JSON object with "text", as '
            f"WikiExtractor writes them; found {line.strip()[:60]!r}. {_next_command('PATH')}"
        ) from error


def _article(title: str, text: str) -> str:
    # WikiExtractor escapes <, > and &. Its <doc> format repeats the title in the text, its --json
    # format does not.
    title, text = html.unescape(title).strip(), html.unescape(text).strip()
    first, _, rest = text.partition("\n")
    rest = (rest if first.strip() == title else text).strip()
    return rest and f"{title}\n\n{rest}"


def _rows(file: IO[bytes], name: str) -> Iterator[str]:
    try:
        yield from wikitext.read_articles(_lines(file, name))
    except csv.Error as error:
        raise DocumentError(
            f"{name}: {error}. Write other texts to a .txt file, one document per line."
        ) from error


def corpus(path: Annotated[Path, arg(metavar="PATH")], /) -> Source:
    """Read a whole corpus (folder, file or tar archive) and say how many documents are in it."""
    return Source(path, "The corpus")


def _describe(path: Path) -> str:
    texts = read_documents(path)
    first = next(texts)
    count = 1 + sum(1 for _ in texts)
    return f"{count:,} documents; the first begins with {first[:60]!r}."


def main(argv: Sequence[str] | None = None) -> int:
    """Run this script; its exit code."""
    return run_script("documents", corpus, _describe, argv)


if __name__ == "__main__":
    sys.exit(main())
