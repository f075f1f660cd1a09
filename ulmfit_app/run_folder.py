"""Where the parts of a run lie in its folder, and what its run.json says.

Results that are made after changed settings lie in RUN/next until the last of them is complete.
Then RUN/next is renamed RUN/ready, which makes them the run's own in one step; each is moved to
its place afterwards. A reader who finds RUN/ready takes what it holds first, so that an
interrupted move shows nothing half new.
"""

import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ulmfit_app.errors import RunFolderError, UserError
from ulmfit_app.settings_json import from_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

FORMAT = 2
RECORD = "run.json"
NEXT, AGAIN, READY = "next", "again", "ready"  # under way; repeated by a verb; complete
# Of every run; backward ones are lm-backward and classifier-backward.
STAGES = ("tokens", "lm", "classifier", "report")
TEACHER = "teacher"  # the stage behind lm of a run that learns from other runs' answers
AUGMENT = "augment"  # likewise, of a run that makes more texts of its labelled ones
ORDER = ("tokens", "lm", TEACHER, AUGMENT, "classifier", "report")
VALIDATION = "validation.csv"  # beside a classifier: its probabilities of the validation split
TABLE, SELECTION = "data/table.csv", "data/selection.csv"
ROW = "row"  # column: the number of a row in the table
HISTORY = "history.csv"  # in a model's folder: one row per epoch, written after each
BEGUN, MARK = "begun.json", "stage.json"  # of an unfinished result, and of a finished one


def find_part(run: Path, name: str) -> Path:
    """The path of a part of a run, such as run.json, data or classifier; it need not exist."""
    ready = run / READY / name
    return ready if ready.exists() else run / name


def take_over(folder: Path, work: Path) -> None:
    """Let complete results in a folder inside a run take the place of the old ones, in one
    step."""
    finish_take_over(folder)
    os.rename(work, folder / READY)
    finish_take_over(folder)


def finish_take_over(folder: Path) -> None:
    """Move what lies ready in a run to its place; readers see no difference."""
    ready = folder / READY
    if not ready.is_dir():
        return
    for part in ready.iterdir():
        old = folder / part.name
        if old.is_dir():
            shutil.rmtree(old)
        os.replace(part, old)
    ready.rmdir()


def read_mark(path: Path) -> dict[str, Any]:
    """What a mark says; nothing where there is none, or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def find_lost(folder: Path) -> list[str]:
    """Files of a finished result that are not there any more, or not as long as they were."""
    files = read_mark(folder / MARK).get("files", {})
    return [name for name, size in files.items() if _size_of(folder / name) != size]


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def is_finished(folder: Path, key: str) -> bool:
    """Whether a folder holds the result of an identity, whole."""
    return read_mark(folder / MARK).get("key") == key and not find_lost(folder)


_held: set[Path] = set()  # the folders that this process works in


@contextmanager
def working_in(run: Path, instead: str | None = None) -> Iterator[None]:
    """Keep other processes from working in a run's folder meanwhile; readers need not ask.

    The folder itself is locked, which leaves no file behind and ends with the process, however
    that ends. Inside the block, the same process may ask again. Where the system or the file
    system knows no such lock, it is said, and nothing is kept away.

    Args:
        run: made where it is missing, with its parents, and removed again where it stays empty.
        instead: what to do but wait, for the error; None: make another run.

    Raises:
        RunFolderError: another process works there, or the folder is a file.
    """
    if run.exists() and not run.is_dir():
        raise RunFolderError(
            f"{run} is a file; a run needs a folder of its own. "
            f"Name another: --out {shlex.quote(f'{run}-run')}"
        )
    path = run.resolve()
    if path in _held:
        yield
        return
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    lock = _lock(path, run, instead)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        with suppress(OSError):  # where there is something in them
            for folder in missing:
                folder.rmdir()
        if lock is not None:
            os.close(lock)


def _lock(path: Path, run: Path, instead: str | None) -> int | None:
    """An open and locked descriptor of a folder; None where there is no such lock here."""
    unlocked = "%s cannot be locked (%s): give no second command for it meanwhile."
    if fcntl is None:
        log.info(unlocked, run, "this system has no flock")
        return None
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except BlockingIOError:
        os.close(lock)
        other = command_of_run(f"{run}-2")
        raise RunFolderError(
            f"Another process is working in {run}. Wait until it has ended and give the command "
            f"again, or {instead or f'make a new run meanwhile: {other}'}"
        ) from None
    except OSError as error:
        os.close(lock)
        log.info(unlocked, run, error)
        return None


def command_of_run(run: Path | str, source: str | None = None) -> str:
    """The command that makes a run, but for options that it may have had.

    Args:
        run: its folder.
        source: its data; None where they are not known.
    """
    data = "DATA" if source is None else shlex.quote(source)
    return f"python -m ulmfit_app.run {data} --out {shlex.quote(str(run))}"


def read_record(run: Path) -> dict[str, Any] | None:
    """What run.json says; None without one.

    Raises:
        RunFolderError: the folder is a file, or its run is of another format or damaged.
    """
    if run.is_file():
        folder = f": {shlex.quote(str(run.parent))}" if run.name == RECORD else "."
        raise RunFolderError(
            f"{run} is a file; a run needs a folder of its own. Name the folder of the run{folder}"
        )
    path = find_part(run, RECORD)
    if not path.is_file():
        _refuse_format_1(run)
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] == FORMAT:
            for settings in (record["settings"], record["requested"]["settings"]):
                from_json(settings)
            return record
    except (AttributeError, KeyError, TypeError, UserError, ValueError) as error:
        raise damaged(run, error) from None
    raise _other_format(run, record["format"])


def require_record(run: Path) -> dict[str, Any]:
    """`read_record`, and a RunFolderError where there is no run."""
    record = read_record(run)
    if record is None:
        raise RunFolderError(
            f"No run in {run}: it has no {RECORD}. {_suggest(run)}Start one: {command_of_run(run)}"
        )
    return record


def _suggest(run: Path) -> str:
    """Runs beside a folder that is not there, the likely ones first."""
    beside: list[str] = []
    if not run.exists():
        with suppress(OSError):
            found = (each for each in run.parent.iterdir() if find_part(each, RECORD).is_file())
            beside = sorted(each.name for each in found)
    names = get_close_matches(run.name, beside) or beside[:5]
    shown = ", ".join(shlex.quote(str(run.parent / name)) for name in names)
    return f"Did you mean {shown}? " if names else ""


def damaged(run: Path, error: Exception) -> RunFolderError:
    """The error for a run.json that cannot be understood."""
    return RunFolderError(
        f"{find_part(run, RECORD)} is damaged or was changed by hand "
        f"({type(error).__name__}: {error}). Nothing was changed. "
        f"Put it back as it was, or make a new run: {command_of_run(f'{run}-new')}"
    )


def _refuse_format_1(run: Path) -> None:
    if (run / "config.json").is_file() and (run / "tokens").is_dir():
        raise _other_format(run, 1)


def _other_format(run: Path, found: Any) -> RunFolderError:
    start = shlex.quote(str(run / "lm"))
    return RunFolderError(
        f"The run folder {run} has format {found}, and this version reads and writes format "
        f"{FORMAT}; nothing in it was changed. Make a new run, if you like from its language "
        f"model: {command_of_run(f'{run}-new')} --pretrained {start}"
    )
