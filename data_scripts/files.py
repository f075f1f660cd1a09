"""Whole files and honest progress: what every stage that writes or takes long has in common."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well, or else vanishes.

    Args:
        path: a folder takes the place of nothing or of an empty folder only; parents are made.

    Yields:
        A path in the same folder, so that the final rename is atomic. The block may make a file
        or a folder there.

    >>> import tempfile; target = Path(tempfile.mkdtemp()) / "new" / "notes.txt"
    >>> with replacing(target) as draft:
    ...     _ = draft.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp makes a name nobody else has; the suffix is kept because some writers choose their
    # format by it.
    workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    draft = workspace / path.name
    try:
        yield draft
        if draft.is_file():
            # Without it a power cut after the rename can leave an empty file under the final name.
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def unless_made(folder: Path) -> Iterator[None]:
    """Take `folder` from whoever made it first, where the block fails because of that.

    For folders whose name follows from their content, and which appear whole: the other one is as
    good.
    """
    try:
        yield
    except OSError:
        if not folder.is_dir():
            raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all.

    Raises:
        ValueError: it holds NaN or infinity, which JSON does not have.
    """
    with replacing(path) as draft:
        draft.write_text(
            json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# Of the units of work and of time, before it is said how long is left.
FEWEST_DONE, SMALLEST_SHARE, FEWEST_SECONDS = 3, 0.02, 3.0


class _Bar(tqdm):
    """tqdm's bar, which says how long is left only when that can be known.

    The first batch, which waits for everything that is done once, says nothing of the others.
    """

    @property
    def format_dict(self):
        facts = super().format_dict
        done, total = facts["n"] - facts["initial"], facts["total"]
        few = done < FEWEST_DONE or (total and done < SMALLEST_SHARE * total)
        if total and facts["n"] < total and (few or facts["elapsed"] < FEWEST_SECONDS):
            facts["rate"] = 0  # which is shown as ?
        return facts


class _Lines(_Bar):
    """A line each time, instead of a carriage return that fills log files with one endless
    line."""

    def display(self, msg=None, pos=None):
        if msg is None:
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return False

    def close(self):
        has_shown = not self.disable and self.last_print_t >= self.start_t + self.delay
        if has_shown and self.n > self.last_print_n:
            self.display()
        super().close()


def progress(
    iterable=None, *, total: int | None = None, description: str | None, unit: str = "it"
) -> tqdm:
    """A bar with an estimate on a terminal; elsewhere one line per minute, none for shorter work.

    Args:
        iterable: what is counted as it is passed through; None to call `update` instead.
        total: of units, where the iterable cannot tell.
        description: what is being done, for people; None: nothing is shown.
        unit: "B" is shown in thousands and millions.
    """
    about = dict(total=total, desc=description, unit=unit, unit_scale=unit == "B", miniters=1)
    about["disable"] = description is None
    if sys.stderr.isatty():
        return _Bar(iterable, **about, dynamic_ncols=True, mininterval=0.2, leave=False)
    if total is None and not hasattr(iterable, "__len__"):
        line = "{desc}: {n_fmt}{unit}"
    else:
        line = "{desc}: {percentage:.0f} % ({n_fmt} of {total_fmt}), {remaining} left"
    return _Lines(iterable, **about, mininterval=60, delay=60, leave=False, bar_format=line)
