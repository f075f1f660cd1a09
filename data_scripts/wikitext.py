"""WikiText-2 and WikiText-103, good articles of the English Wikipedia, CC BY-SA.

Merity et al. (2016), "Pointer Sentinel Mixture Models", count 2 and 103 million words in them.
fastai's WT103 was trained on the second.

python -m data_scripts.wikitext 2
python -m data_scripts.wikitext 103
"""

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from data_scripts.fetch import (
    FetchError,
    Source,
    download_archive,
    run_script,
    unpacked,
    verify_published,
)

URL = "https://s3.amazonaws.com/fast-ai-nlp"
# Bytes, and md5 of the first MiB, as fastai publishes them in fastai/data/download_checks.py
# (2.8.12). The rest is held by gzip's own checksum.
PUBLISHED = {
    2: (4_070_055, "2a82d47a7b85c8b6a8e068dc4c1d37e7"),
    103: (190_200_704, "2dd8cf8693b3d27e9c8f0a7df054b2c7"),
}
FILES = ("train.csv", "test.csv")


def fetch(
    which: Annotated[Literal[2, 103], arg(metavar="{2,103}", help="Millions of words.")], /
) -> Source:
    """WikiText-2 or WikiText-103, from the first of: the cache, fastai's URL.

    Args:
        which: 2 or 103, millions of words.

    Returns:
        A folder with train.csv and test.csv, which `read_articles` reads.

    Raises:
        FetchError: it cannot be had, or is not the published archive.
        ArchiveError: it is truncated, altered or unsafe.
    """
    name = f"wikitext-{which}"
    url, origin = f"{URL}/{name}.tgz", f"fastai's {name}.tgz"
    if cached := unpacked(name, origin, locate=articles_folder):
        return cached

    def verify(archive: Path) -> None:
        verify_published(archive, url, *PUBLISHED[which])

    try:
        return download_archive(url, name, origin, locate=articles_folder, verify=verify)
    except FetchError as error:
        advice = (
            f"Get {url} by other means, extract it, and run: python -m ulmfit_app pretrain "
            "FOLDER --name NAME"
        )
        raise type(error)(f"{error} {advice}") from error


def articles_folder(folder: Path) -> Path:
    """The folder that holds train.csv and test.csv: `folder` or one in it.

    Raises:
        FetchError: none of them does.
    """
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if all((candidate / name).is_file() for name in FILES):
            return candidate
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise FetchError(
        "This is not fastai's WikiText: expected train.csv and test.csv in a folder, found "
        f"{held}."
    )


def read_articles(lines: Iterable[str]) -> Iterator[str]:
    """Articles of a CSV without header that has one of them in each row, in ordinary spelling.

    Args:
        lines: of the file.

    Raises:
        csv.Error: anything else was found; it names the line.
    """
    # The csv module's own limit, 131,072 characters, is shorter than some articles.
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(lines, strict=True)
    try:
        for row in reader:
            if len(row) > 1:
                raise csv.Error(f"it has {len(row)} columns")
            yield from map(detokenize, row)
    except csv.Error as error:
        problem = (
            f"line {reader.line_num} is not of fastai's WikiText, a CSV of one column with "
            f"one article per row ({error})"
        )
        raise csv.Error(problem) from error


def detokenize(article: str) -> str:
    """An article of WikiText with its words whole again, so that they are those of other texts.

    WikiText was split into words as Moses does it (tokenizer.perl), and its headings stand between
    equals signs.

    >>> detokenize(" \\n = Fish = \\n \\n A well @-@ known <unk> doesn 't weigh 1 @,@ 000 t . \\n")
    "Fish\\nA well-known <unk> doesn't weigh 1,000 t ."
    """
    # Other spaces stay, for "kg ." and "kg." are the same tokens. So does <unk>, which our
    # tokenizer knows for WikiText's unknown word; it would take xxunk for something that a person
    # typed.
    article = re.sub(r"(?<=\w) '(?=\w)", "'", re.sub(r" @([-,.])@ ", r"\1", article))
    lines = (re.sub(r"^(?:= )+(.+?)(?: =)+$", r"\1", line.strip()) for line in article.split("\n"))
    return "\n".join(filter(None, lines))


def _describe(folder: Path) -> str:
    counts = {}
    for name in FILES:
        with open(folder / name, encoding="utf-8", newline="") as file:
            counts[name] = sum(1 for _ in read_articles(file))
    return ", ".join(f"{n:,} articles in {name}" for name, n in counts.items()) + "."


def main(argv: Sequence[str] | None = None) -> int:
    """Run this script; its exit code."""
    return run_script("wikitext", fetch, _describe, argv)


if __name__ == "__main__":
    sys.exit(main())
