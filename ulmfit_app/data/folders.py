"""Class folders of text files, read whole: what is left out is counted and said."""

import codecs
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pandas as pd

from ulmfit_app.data.encodings import decode, find_codec
from ulmfit_app.data.opening import refuse_broken_link
from ulmfit_app.data.split_column import SPLIT_OF_WORD
from ulmfit_app.data.tables import is_table_name
from ulmfit_app.errors import DataError, count_texts, quoted

# That systems put beside the files of people, like every name that begins with a dot.
_OF_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx"}
# Names such as 51060, 12.5 and 0001.ea7e79d3153e7469 have none.
_EXTENSION = re.compile(r"\.[a-z][a-z0-9]{0,5}")
_PANDOC = (".html", ".htm", ".docx", ".odt", ".rtf", ".epub")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass
class _Found:
    """The files of one folder, those of its folders included.

    Attributes:
        texts: contents of text files, in the order of their names.
        inside: how many of them lie in folders of it, by that folder's name.
        others: how many files of other kinds, by extension; "" is none, and no text.
        hidden: how many files of a system.
        links: folders that are links, which are not followed.
    """

    texts: list[str] = field(default_factory=list)
    inside: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    links: list[str] = field(default_factory=list)


def read_class_folders(path: Path, encoding: str) -> tuple[pd.DataFrame, list[str]]:
    """Texts in one folder for each class, alone or in folders named train, valid and test.

    A text is a file named .txt, or without an extension where its content is text; it may lie in
    a folder of its class's folder.

    Args:
        path: the folder.
        encoding: of the files, as Python names it.

    Returns:
        Text, label and split, a row for each file: the label is "" where the split is unlabelled,
        and the split "train" where the folder names none. And what was left out, in sentences.

    Raises:
        DataError: there are no classes, a class or a split has no texts, a file is not in this
            encoding, or a link leads nowhere.
        SettingError: there is no such encoding.
    """
    return _Reader(path, encoding).read()


class _Reader:
    """One walk over class folders."""

    def __init__(self, path: Path, encoding: str) -> None:
        self.path, self.encoding = path, encoding
        self.rows: list[tuple[str, str, str]] = []
        self.notes: list[str] = []
        # Of all folders of classes together.
        self.others: Counter[str] = Counter()
        self.inside: Counter[str] = Counter()
        self.n_beside = self.hidden = 0

    def read(self) -> tuple[pd.DataFrame, list[str]]:
        folders = self._folders_in(self.path)
        split_of = {folder: SPLIT_OF_WORD.get(folder.name.casefold()) for folder in folders}
        if "train" in split_of.values():
            if other := [folder.name for folder, split in split_of.items() if split is None]:
                self.notes.append(f"Left out folders that are no split: {quoted(other)}.")
            for folder, split in split_of.items():
                if split == "unlabelled":
                    self._add(folder, "", split)
                elif split is not None:
                    self._read_split(folder, split)
            self._note_loose(self.path)
        else:
            self._check_names(split_of)
            self._read_classes(self.path, "train", folders)
        if not self.rows:
            raise DataError(
                f"{self.path} has no class folders with texts. Expected one folder per class with "
                f"one .txt file per text, as in {self.path / 'pos' / '1.txt'}, or the same in "
                f"folders train, valid and test. {_describe(self.path)}"
            )
        self._note_rest()
        table = pd.DataFrame(self.rows, columns=["text", "label", "split"], dtype=object)
        return table, self.notes

    def _folders_in(self, path: Path) -> list[Path]:
        entries = sorted(path.iterdir())
        for entry in entries:
            if not _is_of_system(entry.name):
                refuse_broken_link(entry)
        folders = [entry for entry in entries if entry.is_dir()]
        hidden = [folder for folder in folders if _is_of_system(folder.name)]
        self.hidden += sum(len(names) for folder in hidden for _, _, names in os.walk(folder))
        return [folder for folder in folders if folder not in hidden]

    def _check_names(self, split_of: dict[Path, str | None]) -> None:
        """Refuse folders valid or test that hold classes beside none called train; say others."""
        for folder, split in split_of.items():
            if split not in ("valid", "test"):
                continue
            if any(entry.is_dir() for entry in folder.iterdir()):
                raise DataError(
                    f"{self.path} has the folder {folder.name} with class folders, and no folder "
                    f"train. Found: {quoted([each.name for each in split_of])}. Name the one to "
                    f"train on: mv FOLDER {shlex.quote(str(self.path / 'train'))}"
                )
            self.notes.append(
                f"Took {folder} for a class called {folder.name}, since there is no folder train."
            )

    def _read_split(self, folder: Path, split: str) -> None:
        before = len(self.rows)
        n_loose = self._read_classes(folder, split, self._folders_in(folder))
        if len(self.rows) > before:
            return
        if split == "train" or not n_loose:
            loose = f", but {count_texts(n_loose, 'file')} in no folder" if n_loose else ""
            instead = (
                f" Or have a split held out of train instead: rm -r {shlex.quote(str(folder))}"
                if split != "train"
                else ""
            )
            raise DataError(
                f"{folder} has no class folders with texts{loose}. Expected one folder per class "
                f"with one .txt file per text, as in {folder / 'pos' / '1.txt'}.{instead}"
            )
        self.notes.append(
            f"{folder} has no class folders, so that part is held out of train instead."
        )

    def _read_classes(self, folder: Path, split: str, folders: list[Path]) -> int:
        """Add the class folders in a folder, and return how many files lie beside them."""
        classes: dict[Path, _Found] = {}
        for class_folder in folders:
            if SPLIT_OF_WORD.get(class_folder.name.casefold()) == "unlabelled":
                self._add(class_folder, "", "unlabelled")
            else:
                classes[class_folder] = self._add(class_folder, class_folder.name, split)
        _check_one_class(folder, classes)
        return self._note_loose(folder)

    def _add(self, folder: Path, label: str, split: str) -> _Found:
        found = _read_texts(folder, self.encoding)
        self.hidden += found.hidden
        self.rows += [(text, label, split) for text in found.texts]
        if found.links:
            self.notes.append(f"Left out links to folders in {folder}: {quoted(found.links)}.")
        if found.others and not found.texts:
            raise DataError(
                f"{folder} has no text files, but {_kinds(found.others)}. Expected one .txt file "
                f"per text. If it is no class, take it out. {_conversion(folder, found.others)}"
            )
        if not found.texts:
            self.notes.append(f"Left out {folder}, which has no files.")
        self.others += found.others
        self.n_beside += bool(found.others)
        self.inside += found.inside
        return found

    def _note_loose(self, folder: Path) -> int:
        """Say how many files lie beside the folders in a folder, and return their number."""
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
        seen = [name for name in names if not _is_of_system(name)]
        self.hidden += len(names) - len(seen)
        kinds = Counter(map(_extension, seen))
        if seen:
            note = f"Left out {_kinds(kinds)} in {folder} itself, in no class folder"
            if kinds[".txt"]:
                note += (
                    ": they have no label. For the language model to read them, put them into "
                    f"{self.path / 'unlabelled'}; to predict them, make a table for predict "
                    f"--file of them: {_table_command(folder, self.encoding)}"
                )
            self.notes.append(note if kinds[".txt"] else f"{note}.")
        return len(seen)

    def _note_rest(self) -> None:
        """Say what was left out of folders of classes, and what was found deeper in them."""
        if self.others:
            self.notes.append(
                f"Left out {_kinds(self.others)} beside the text files in "
                f"{count_texts(self.n_beside, 'folder')}. {_conversion(self.path, self.others)}"
            )
        if self.inside:
            self.notes.append(
                f"Read {count_texts(self.inside.total())} of {len(self.rows):,} from folders "
                f"inside of the classes' own: {quoted(list(self.inside))}."
            )
        if self.hidden:
            self.notes.append(
                f"Left out {count_texts(self.hidden, 'hidden file')} of the system, such as "
                ".DS_Store and those of macOS that begin with ._"
            )


def _describe(path: Path) -> str:
    """What lies in a folder, and the command for a table among it."""
    names = sorted(entry.name for entry in path.iterdir())
    found = f"Found: {quoted(names) or 'nothing'}."
    tables = [name for name in names if is_table_name(Path(name))]
    if tables:
        table = shlex.quote(str(path / tables[0]))
        found += f" For the table in it: python -m ulmfit_app.run {table}"
    return found


def _check_one_class(folder: Path, classes: dict[Path, _Found]) -> None:
    """Refuse a single class folder whose texts all lie in folders of it, which may be classes."""
    if len(classes) != 1:
        return
    ((only, found),) = classes.items()
    if len(found.inside) > 1 and found.inside.total() == len(found.texts):
        raise DataError(
            f"{folder} has one class folder, {only.name}, and all its texts lie in folders of it: "
            f"{quoted(list(found.inside))}. A classifier needs two classes or more. If those are "
            f"the classes, name the folder that holds them: {only}"
        )


def _read_texts(folder: Path, encoding: str) -> _Found:
    found = _Found()
    for place, name in _walk(folder, found):
        extension = _extension(name)
        if _is_of_system(name):
            found.hidden += 1
            continue
        if extension in (".txt", ""):
            path = os.path.join(place, name)
            try:
                with open(path, "rb", buffering=0) as file:
                    content = file.read()
            except FileNotFoundError:
                refuse_broken_link(Path(path))
                raise
            if extension == ".txt" or not _is_binary(content, encoding):
                found.texts.append(decode(content, Path(path), encoding))
                if place != str(folder):
                    found.inside[os.path.relpath(place, folder).split(os.sep)[0]] += 1
                continue
        found.others[extension] += 1
    return found


def _walk(folder: Path, found: _Found) -> Iterator[tuple[str, str]]:
    """Folder and name of each file, in order, but for those in folders of a system."""
    for place, folders, names in os.walk(folder, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        hidden = {name for name in folders if _is_of_system(name)} - set(links)
        found.links += [os.path.relpath(os.path.join(place, name), folder) for name in links]
        found.hidden += sum(
            len(inner) for name in hidden for _, _, inner in os.walk(os.path.join(place, name))
        )
        folders[:] = sorted(set(folders) - hidden)
        yield from ((place, name) for name in sorted(names))


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_of_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OF_SYSTEM


def _is_binary(content: bytes, encoding: str) -> bool:
    """Whether a file without an extension is no text, which has no NUL but in UTF-16 and -32."""
    is_wide = find_codec(encoding).startswith(("utf-16", "utf-32")) or content.startswith(_UTF16)
    return b"\0" in content[:4096] and not is_wide


def _extension(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()
    return suffix if _EXTENSION.fullmatch(suffix) else ""


def _kinds(counts: Counter[str]) -> str:
    """How many files there are of which extension, the commonest first.

    >>> _kinds(Counter({".html": 2, "": 1}))
    '3 files (2 .html, 1 without extension)'
    """
    kinds = [f"{n:,} {extension or 'without extension'}" for extension, n in counts.most_common(9)]
    return f"{count_texts(counts.total(), 'file')} ({', '.join(kinds)})"


def _conversion(folder: Path, others: Counter[str]) -> str:
    """What to do with the commonest kind of other files."""
    extension = others.most_common(1)[0][0]
    if not extension:
        return "They are no text, since they hold NUL characters."
    if extension in _PANDOC:
        advice, tool = "To read them too, convert them", 'pandoc -t plain "$1" -o "$1.txt"'
    elif extension == ".pdf":
        advice, tool = "To read them too, convert them", 'pdftotext "$1" "$1.txt"'
    else:
        advice, tool = "To read them too, if they are plain text, copy them", 'cp "$1" "$1.txt"'
    return (
        f"{advice}: find {shlex.quote(str(folder))} -iname '*{extension}' "
        f"-exec sh -c '{tool}' _ {{}} \\;"
    )


def _table_command(folder: Path, encoding: str) -> str:
    code = (
        "import pandas, pathlib, sys; pandas.DataFrame([(path.name, path.read_text(sys.argv[2])) "
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()) if path.suffix.lower() == "
        "'.txt'], columns=['file', 'text']).to_csv(sys.argv[3], index=False)"
    )
    place, out = shlex.quote(str(folder)), shlex.quote(f"{folder.name}.csv")
    return f'python -c "{code}" {place} {encoding} {out}'
