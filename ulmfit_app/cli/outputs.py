"""Where a command writes: never into the folder that holds its data."""

import os
import shlex
from pathlib import Path

from ulmfit_app.config import DataSettings
from ulmfit_app.data.opening import name_without_suffix
from ulmfit_app.errors import SettingError


def name_of(source: str | Path) -> str:
    """The name of a data set, file or folder, for what is made from it; also of `.` and `..`.

    >>> name_of("data/reviews.csv.gz"), name_of("trec6")
    ('reviews', 'trec6')
    """
    return name_without_suffix(Path(os.path.abspath(source)))


def folder_of(data: DataSettings) -> Path:
    """The path that the texts are read from; of no folder where they have another form."""
    return data.data or Path(data.source)


def find_outside(out: Path, source: Path, default: Path) -> Path | None:
    """A place outside of the data, where `out` is not.

    Args:
        out: the folder to be written; it need not exist.
        source: what is read. Of a file, the folder around it may be written to.
        default: where the command writes when it is told nothing, relative to where it is given.

    Returns:
        `default` beside the folder of the data, absolute if `out` is; None where `out` is not the
        folder of the data and not in it.
    """
    folder = source.resolve()
    if not folder.is_dir() or not out.resolve().is_relative_to(folder):
        return None
    outside = folder.parent / default
    return outside if out.is_absolute() else Path(os.path.relpath(outside))


def require_outside(out: Path, source: Path, default: Path) -> None:
    """Refuse to write into the folder of the data, whose next reader would take it for data.

    Args:
        out, source, default: as `find_outside` has them.

    Raises:
        SettingError: it names a place outside.
    """
    outside = find_outside(out, source, default)
    if outside is not None:
        raise SettingError(
            f"The results would lie in {source.resolve()}, which holds the data, and be read as "
            f"data the next time. Name a folder outside: --out {shlex.quote(str(outside))}"
        )


def place_outside_run(run: Path, out: Path | None, kind: str) -> Path:
    """Where what was found about a run goes: `out`, else experiments/KIND-RUNNAME.

    Args:
        run: its folder.
        out: the folder that was named.
        kind: of the experiment.

    Raises:
        SettingError: it is the run's folder, or in it.
    """
    name = f"{kind}-{run.resolve().name}"
    out = out or Path("experiments") / name
    if out.resolve().is_relative_to(run.resolve()):
        outside = run.resolve().with_name(name)
        raise SettingError(
            f"The results would lie in {run}, which holds the run. Name a folder outside: "
            f"--out {shlex.quote(str(outside))}"
        )
    return out
