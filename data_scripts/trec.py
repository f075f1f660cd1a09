"""The TREC questions of Li and Roth (2002), "Learning Question Classifiers", free for research.

Latin-1 lines `COARSE:fine question`, 5,452 for training and 500 for test; the six coarse classes
are TREC-6.

python -m data_scripts.trec [--data FOLDER]
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from data_scripts.fetch import FetchError, Source, cache_folder, download, run_script

URL = "https://cogcomp.seas.upenn.edu/Data/QA/QC"
SHA256 = {
    "train_5500.label": "9e4c8bdcaffb96ed61041bd64b564183d52793a8e91d84fc3a8646885f466ec3",
    "TREC_10.label": "033f22c028c2bbba9ca682f68ffe204dc1aa6e1cf35dd6207f2d4ca67f0d0e8e",
}


def fetch(
    data: Annotated[
        Path | None,
        arg(metavar="FOLDER", help="A folder that holds train_5500.label and TREC_10.label."),
    ] = None,
) -> Source:
    """The questions, from the first of: --data, the cache, their publisher's URL.

    Args:
        data: a folder that holds train_5500.label and TREC_10.label, whatever is in them.

    Returns:
        A folder with these two files; from the cache or the URL they are the published ones, by
        sha256.

    Raises:
        FetchError: they are not in --data, or cannot be had.
    """
    if data is not None:
        return _from_data(data)
    folder = cache_folder() / "trec"
    try:
        for name, sha256 in SHA256.items():
            download(f"{URL}/{name}", folder / name, sha256=sha256)
    except FetchError as error:
        raise FetchError(
            f"{error} Get {' and '.join(SHA256)} from {URL} by other means, then run: "
            "python -m data_scripts.trec --data FOLDER"
        ) from error
    return Source(folder, "the publisher's train_5500.label and TREC_10.label")


def _from_data(data: Path) -> Source:
    missing = [name for name in SHA256 if not (data / name).is_file()]
    if missing:
        found = (
            ", ".join(sorted(path.name for path in data.iterdir())[:8])
            if data.is_dir()
            else "no such folder"
        )
        raise FetchError(
            f"{data} lacks {' and '.join(missing)} (found: {found or 'nothing'}). Give the folder "
            "that holds both: python -m data_scripts.trec --data FOLDER"
        )
    return Source(data, f"--data {data.resolve().name}")


def _describe(folder: Path) -> str:
    counts = {name: (folder / name).read_bytes().count(b"\n") for name in SHA256}
    return ", ".join(f"{n:,} questions in {name}" for name, n in counts.items()) + "."


def main(argv: Sequence[str] | None = None) -> int:
    """Run this script; its exit code."""
    return run_script("trec", fetch, _describe, argv)


if __name__ == "__main__":
    sys.exit(main())
