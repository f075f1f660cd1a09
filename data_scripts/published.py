"""Data sets that their publishers keep as single files: fetched, known again, or a user's copy.

What chinese.py and english.py share.
"""

from dataclasses import dataclass, field
from pathlib import Path

from data_scripts.fetch import FetchError, Source, cache_folder, disk_errors, download


@dataclass(frozen=True)
class PublishedSet:
    """A data set, and how it is known again.

    Attributes:
        language: of its texts, as languages.py has it.
        url: of the folder with its files.
        files: of each the sha256, in hexadecimal, or the number of its lines where no more is
            known of it.
        also_named: another name that a user's copy of a file may have.
        elsewhere: the URL of a file that lies in another place, or there under another name.
    """

    language: str
    url: str
    files: dict[str, str | int]
    also_named: dict[str, str] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> str:
        """The files, for people."""
        *most, last = self.files
        return f"{', '.join(most)} and {last}" if most else last

    @property
    def places(self) -> str:
        """Where the publishers have them, for people."""
        return " and ".join([self.url, *self.elsewhere.values()])

    def url_of(self, file: str) -> str:
        """Where the publisher has one of its files."""
        return self.elsewhere.get(file, f"{self.url}/{file}")

    def find(self, file: str, folder: Path) -> Path | None:
        """One of its files in a folder, under either name; None where it has neither."""
        names = (file, self.also_named.get(file, file))
        return next((folder / name for name in names if (folder / name).is_file()), None)


def fetch_published(script: str, name: str, known: PublishedSet, data: Path | None) -> Source:
    """The files of a set, from the first of: `data`, the cache, their publisher's URL.

    Args:
        script: what fetches it on the command line, for messages.
        name: of the set, there and in the cache.
        known: the set.
        data: a folder that holds the set's files, or its only file, whatever is in them.

    Returns:
        The folder with the set's files, or its only file. From the cache or the URL they are the
        published ones, by sha256 or by their lines.

    Raises:
        FetchError: they are not in `data`, or cannot be had.
    """
    if data is not None:
        return _from_data(script, name, known, data)
    folder = cache_folder() / name
    try:
        for file, published in known.files.items():
            url = known.url_of(file)
            if isinstance(published, str):
                download(url, folder / file, sha256=published)
            else:
                download(url, folder / file)
                _verify_lines(folder / file, url, published)
    except FetchError as error:
        raise FetchError(
            f"{error} Get {known.names} from {known.places} by other means, then run: "
            f"python -m data_scripts.{script} {name} --data FOLDER"
        ) from error
    return Source(_place(folder, known), f"the publisher's {known.names}")


def _place(folder: Path, known: PublishedSet) -> Path:
    """The folder of a set's files, or its only file."""
    return folder if len(known.files) > 1 else folder / known.names


def _from_data(script: str, name: str, known: PublishedSet, data: Path) -> Source:
    origin = f"--data {data.resolve().name}"
    if len(known.files) == 1 and data.is_file():
        return Source(data, origin)
    missing = [file for file in known.files if known.find(file, data) is None]
    if missing:
        found = (
            ", ".join(sorted(path.name for path in data.iterdir())[:8])
            if data.is_dir()
            else "no such folder"
        )
        raise FetchError(
            f"{data} lacks {' and '.join(missing)} (found: {found or 'nothing'}). Give the folder "
            f"that holds {known.names}: python -m data_scripts.{script} {name} --data FOLDER"
        )
    return Source(_place(data, known), origin)


def _verify_lines(path: Path, url: str, expected: int) -> None:
    """Hold a file against the number of its lines `label<TAB>text`; another one is not kept."""
    with disk_errors():
        lines = path.read_bytes().rstrip().split(b"\n")
        n_labelled = sum(b"\t" in line for line in lines)
        if n_labelled == len(lines) == expected:
            return
        path.unlink()
    raise FetchError(
        f"{url}: what came is not the published file; expected {expected:,} lines of "
        f"'label<TAB>text', found {len(lines):,}, of which {n_labelled:,} have a tab."
    )
