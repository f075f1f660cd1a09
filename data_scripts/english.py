"""Labelled English texts beside IMDb and TREC: many classes, several labels a text, rare classes.

banking77: Casanueva et al. 2020, "Efficient Intent Detection with Dual Sentence Encoders", CC BY
4.0. goemotions: Demszky et al. 2020, "GoEmotions: A Dataset of Fine-Grained Emotions", CC BY 4.0.
hatespeech: Davidson et al. 2017, "Automated Hate Speech Detection and the Problem of Offensive
Language", MIT. hatecheck: its tweets, and the cases of Röttger et al. 2021, "HateCheck: Functional
Tests for Hate Speech Detection Models", CC BY 4.0. The texts of both offend, and those of
goemotions may.

python -m data_scripts.english NAME [--data PATH]
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from data_scripts.fetch import Source, run_script
from data_scripts.published import PublishedSet, fetch_published

_GITHUB = "https://raw.githubusercontent.com"
_TWEETS = f"{_GITHUB}/t-davidson/hate-speech-and-offensive-language/master/data"
_TWEETS_HASH = "fcb8bc7c68120ae4af04a5b9acd58585513ede11e1548ebf36a5c2040b6f6281"

# What a branch has may change; its sha256 tells, and another file is refused.
SETS = {
    "banking77": PublishedSet(
        "en",
        f"{_GITHUB}/PolyAI-LDN/task-specific-datasets/master/banking_data",
        {
            "train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
            "test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
        },
    ),
    "goemotions": PublishedSet(
        "en",
        f"{_GITHUB}/google-research/google-research/master/goemotions/data",
        {
            "train.tsv": "1c254a142be5c00e80d819b9ae1bbd36d94b2eeb8f4b1271846508d57e57d9c5",
            "dev.tsv": "575489c079c9de1097062a01738f998590d6b7ead66dd1c9fd1d2ba01fd8bc62",
            "test.tsv": "0587b2dd8b27b97352adbfc3fb083d46005c8946657fdc2b1ca8b1cc7f1f8be4",
            "emotions.txt": "45c3ef86782d2a4d7fedcd6d8c111aa0d0e94720689bd164fac94fefb4495a89",
        },
        also_named={
            **{f"{part}.tsv": f"goemotions-{part}.tsv" for part in ("train", "dev", "test")},
            "emotions.txt": "goemotions-labels.txt",
        },
    ),
    "hatespeech": PublishedSet(
        "en",
        _TWEETS,
        {"labeled_data.csv": _TWEETS_HASH},
    ),
    "hatecheck": PublishedSet(
        "en",
        _TWEETS,
        {
            "labeled_data.csv": _TWEETS_HASH,
            "hatecheck.csv": "ecf0dc1e93fccc90b6f880e632b19e635c0f0a68b3157915a9e20b6938f121cf",
        },
        also_named={"hatecheck.csv": "test_suite_cases.csv"},
        elsewhere={
            "hatecheck.csv": f"{_GITHUB}/paul-rottger/hatecheck-data/"
            "d84302298ceeb34f4b0dde2d8a1f4932c2caa612/test_suite_cases.csv"
        },
    ),
}


def fetch(
    name: Positional[Literal["banking77", "goemotions", "hatespeech", "hatecheck"]],
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
        The folder with the set's files, or its only file. From the cache or the URL they are the
        published ones, by sha256.

    Raises:
        FetchError: they are not in --data, or cannot be had.
    """
    return fetch_published("english", name, SETS[name], data)


def _describe(path: Path) -> str:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return ", ".join(f"{file.name} of {file.stat().st_size:,} bytes" for file in files) + "."


def main(argv: Sequence[str] | None = None) -> int:
    """Run this script; its exit code."""
    return run_script("english", fetch, _describe, argv)


if __name__ == "__main__":
    sys.exit(main())
