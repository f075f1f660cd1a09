"""Labelled Chinese texts: jokes, web pages, news, and reviews of hotels and of an online shop.

joke, pcweb and pcnews are Traditional, and MIT: Tseng (2020), "The Feasibility of Automated Topic
Analysis", Journal of Educational Media and Library Sciences 57 (1). hotel (Tan's ChnSentiCorp) and
shopping are Simplified, and come from ChineseNlpCorpus.

python -m data_scripts.chinese NAME [--data PATH]
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from data_scripts.fetch import Source, run_script
from data_scripts.published import PublishedSet, fetch_published

# Of one commit each, so that what lies there stays as it is.
_TSENG = (
    "https://raw.githubusercontent.com/SamTseng/Chinese_Skewed_TxtClf/"
    "0a1ea8605dcc580a159cccdb629486c3ecf83bf6/Datasets"
)
_CORPUS = "https://raw.githubusercontent.com/SophonPlus/ChineseNlpCorpus"


# Those of two files have train and test, lines of `label<TAB>text`; the others are one table.
SETS = {
    "joke": PublishedSet(
        "zh-tw",
        _TSENG,
        {
            "Joke_train.txt": "fdd53e2060fe53eda30799d1515a199959afe2f8f9e41582b63b952653598569",
            "Joke_test.txt": "1677d4f9e70ae7a58e385a99e43422ea402ce59dff2b810299ebc0e0fc465115",
        },
    ),
    "pcweb": PublishedSet(
        "zh-tw",
        _TSENG,
        {
            "PCWeb_train.txt": "f93bfed9c3c2b538c96fa5f944096657d1223405c1f98b6d357030c560fa0796",
            "PCWeb_test.txt": "6873c8895d646bc546e3ecf1be0ef517fc465e40334e95bd08e8ce4bfcbe453d",
        },
    ),
    "pcnews": PublishedSet("zh-tw", _TSENG, {"PCNews_train.txt": 644, "PCNews_test.txt": 270}),
    "hotel": PublishedSet(
        "zh",
        f"{_CORPUS}/4ef366aa97c927f5bd69e1d97dc88461590174fd/datasets/ChnSentiCorp_htl_all",
        {
            "ChnSentiCorp_htl_all.csv": (
                "1d414b9c65caf3a836abdb4efded621968502ad3338e1a9d885ae131c86083f0"
            )
        },
    ),
    "shopping": PublishedSet(
        "zh",
        f"{_CORPUS}/9afa1292465c1247184073cf151adc583699d1d6/datasets/online_shopping_10_cats",
        {
            "online_shopping_10_cats.zip": (
                "6816ded66fde9d0927ecbd370b5e12d0174d1abac35192ec014ac2a0a8d25858"
            )
        },
    ),
}


def fetch(
    name: Positional[Literal["joke", "pcweb", "pcnews", "hotel", "shopping"]],
    data: Annotated[
        Path | None,
        arg(metavar="PATH", help="The folder that holds the set's files, or its only file."),
    ] = None,
) -> Source:
    """The texts of a set, from the first of: --data, the cache, their publisher's URL.

    Args:
        name: of the set, in SETS.
        data: a folder that holds the set's files, or its only file, whatever is in them.

    Returns:
        The folder with the set's two files, or its only file. From the cache or the URL they are
        the published ones, by sha256 or by their lines.

    Raises:
        FetchError: they are not in --data, or cannot be had.
    """
    return fetch_published("chinese", name, SETS[name], data)


def _describe(path: Path) -> str:
    if path.is_file():
        return f"{path.name} of {path.stat().st_size:,} bytes."
    pairs = [tuple(known.files) for known in SETS.values() if len(known.files) > 1]
    held = [file for pair in pairs for file in pair if (path / file).is_file()]
    counts = {file: (path / file).read_bytes().count(b"\n") for file in held}
    return ", ".join(f"{n:,} texts in {file}" for file, n in counts.items()) + "."


def main(argv: Sequence[str] | None = None) -> int:
    """Run this script; its exit code."""
    return run_script("chinese", fetch, _describe, argv)


if __name__ == "__main__":
    sys.exit(main())
