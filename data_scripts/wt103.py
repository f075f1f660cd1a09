"""fastai's AWD-LSTM language models, trained on WikiText-103: where the ULMFiT paper starts.

python -m data_scripts.wt103                         the one that reads forward
python -m data_scripts.wt103 --direction backward
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from data_scripts.fetch import FetchError, Source, download_archive, run_script, unpacked

# fastai publishes neither sizes nor hashes; gzip's own checksum, read to the end, tells a damaged
# archive.
URL = "https://s3.amazonaws.com/fast-ai-modelzoo"
NAMES = {"forward": "wt103-fwd", "backward": "wt103-bwd"}


def fetch(direction: Literal["forward", "backward"] = "forward") -> Source:
    """The weights and their vocabulary, from the first of: the cache, fastai's URL.

    Args:
        direction: in which the language model reads; it decides the archive.

    Returns:
        A folder that holds one .pth and one .pkl. Both are pickles: nothing here opens them.

    Raises:
        FetchError: they cannot be had; it says what to start from instead.
        ArchiveError: the archive is truncated, altered or unsafe.
    """
    name = NAMES[direction]
    url, origin = f"{URL}/{name}.tgz", f"fastai's {name}.tgz"
    if cached := unpacked(name, origin, locate=weights_folder):
        return cached
    try:
        return download_archive(url, name, origin, locate=weights_folder)
    except FetchError as error:
        where, option = (
            (" beside the forward model's FOLDER", " --bidirectional")
            if direction == "backward"
            else ("", "")
        )
        advice = (
            f"Get {url} by other means, extract it{where}, and give the same command with "
            f"--pretrained FOLDER{option}. Or start without it: from the packaged model with "
            "--pretrained en-small, or from random weights with --pretrained none."
        )
        raise type(error)(f"{error} {advice}") from error


def weights_folder(folder: Path) -> Path:
    """The folder that holds one .pth and one .pkl: `folder` or one in it.

    Raises:
        FetchError: none of them does.
    """
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if all(len(list(candidate.glob(pattern))) == 1 for pattern in ("*.pth", "*.pkl")):
            return candidate
    held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise FetchError(
        "These are not fastai's weights: expected one .pth and one .pkl in a folder, found "
        f"{held}."
    )


def _describe(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".pth", ".pkl"))
    return ", ".join(f"{path.name} of {path.stat().st_size:,} bytes" for path in files) + "."


def main(argv: Sequence[str] | None = None) -> int:
    """Run this script; its exit code."""
    return run_script("wt103", fetch, _describe, argv)


if __name__ == "__main__":
    sys.exit(main())
