"""Many files of texts to as many files of predictions: each once, however often it is begun again.

A part is written beside its place and renamed, and then a note says what it was made of. Who goes
on after an interruption trusts a part that a note or the manifest tells of, with the hashes that
stand there, and no other.
"""

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_scripts.files import progress, sha256_of, write_json
from ulmfit_app.cluster import Workers, require_written
from ulmfit_app.config import Quotes
from ulmfit_app.data.opening import name_without_suffix
from ulmfit_app.data.tables import is_table_name
from ulmfit_app.errors import (
    DataError,
    JobKilled,
    RunFolderError,
    SettingError,
    UserError,
    WorkerError,
    quoted,
)
from ulmfit_app.inference.predicted_file import predict_file
from ulmfit_app.inference.predicted_parquet import predict_parquet
from ulmfit_app.inference.spread import SharedPredictor
from ulmfit_app.jobs import result_of
from ulmfit_app.run_folder import working_in

MANIFEST, NOTES = "manifest.json", ".done"
Entry = dict[str, Any]  # of the manifest: one part's file, rows, and hashes


@dataclass(frozen=True)
class Parts:
    """Files to predict, and where their predictions go.

    Args:
        sources: the files, in the order of the manifest.
        out: the folder of the predictions.
        shared: what predicts them.
        text, encoding, own, quotes: as `predicted_file.open_texts` takes them.
    """

    sources: tuple[Path, ...]
    out: Path
    shared: SharedPredictor
    text: str | None = None
    encoding: str = "utf-8"
    own: str | None = None
    quotes: Quotes = "csv"

    def target(self, source: Path) -> Path:
        """Where a part's predictions go: a Parquet file for one, a CSV for any other."""
        suffix = ".parquet" if source.suffix.lower() == ".parquet" else ".csv"
        return self.out / f"{name_without_suffix(source)}{suffix}"

    def note(self, source: Path) -> Path:
        """What is known of a part that is done, until the manifest says it."""
        return self.out / NOTES / f"{self.target(source).name}.json"

    @property
    def made_with(self) -> dict[str, Any]:
        """What predictions depend on beside the texts."""
        return {
            "fingerprint": self.shared.fingerprint,
            "precision": self.shared.precision,
            "text": self.text or self.own,
            "encoding": self.encoding,
            "quotes": self.quotes,
        }


def find_parts(named: Sequence[Path]) -> tuple[Path, ...]:
    """The tables that some paths name.

    Args:
        named: files; folders, for the tables in them whose names begin with neither . nor _; or
            patterns for such tables, as texts/*.csv.

    Raises:
        DataError: there is nothing, or no table in a folder.
    """
    found: list[Path] = []
    for path in named:
        inside = [path]
        if path.is_dir():
            inside = [each for each in sorted(path.iterdir()) if _is_part(each)]
        elif not path.exists() and set("*?[") & set(path.name):
            inside = [each for each in sorted(path.parent.glob(path.name)) if _is_part(each)]
        if not inside or not inside[0].exists():
            raise DataError(
                f"There is no table at {path}. Expected files such as part-0.csv, a folder that "
                "holds some, or a pattern in quotes, such as 'texts/part-*.csv'."
            )
        found += inside
    return tuple(found)


def _is_part(path: Path) -> bool:
    return path.is_file() and is_table_name(path) and path.name[0] not in "._"


def predict_parts(parts: Parts, workers: Workers | None = None) -> int:
    """Predict each file into one of its own, and write manifest.json when all are there.

    After an interruption, of whatever process, the same call goes on with those that are missing.
    A file that cannot be read stops no other.

    Args:
        parts: the files.
        workers: of a cluster, which see all of these paths; None: this process works alone.

    Returns:
        The number of rows of all files.

    Raises:
        SettingError: two parts would be one, or one would be overwritten.
        RunFolderError: in the folder lie predictions of another run, of other settings or of other
            files, or files of the same names that are none; or another process works there.
        DataError: a file was changed since it was predicted; or some could not be predicted, and
            the others are done.
    """
    _check_places(parts)
    with working_in(parts.out, "name another folder: --out FOLDER"):
        known = _read_known(parts)
        _refuse_files_of_others(parts)
        left = _check_known(parts, known)
        failed: dict[Path, Exception] = {}
        with progress(total=len(parts.sources), description="Predicting", unit=" files") as bar:
            bar.update(len(parts.sources) - len(left))
            for source, outcome in _outcomes(parts, left, workers):
                if isinstance(outcome, Exception):
                    failed[source] = outcome
                else:
                    require_written(parts.target(source))
                    known[parts.target(source).name] = outcome
                bar.update()
        if failed:
            with suppress(OSError):  # where some are done
                (parts.out / NOTES).rmdir()
            raise _not_all(parts, failed)
        return _finish(parts, [known[parts.target(source).name] for source in parts.sources])


def _finish(parts: Parts, entries: list[Entry]) -> int:
    rows = sum(entry["rows"] for entry in entries)
    about = {"run": str(parts.shared.run), "made_with": parts.made_with, "rows": rows}
    write_json(parts.out / MANIFEST, about | {"parts": entries})
    shutil.rmtree(parts.out / NOTES, ignore_errors=True)
    for entry in entries:  # what processes had begun that were killed
        for draft in parts.out.glob(f".{entry['file']}.*/"):
            shutil.rmtree(draft, ignore_errors=True)
    return rows


# ------------------------------------------------------------------------- what is there already
def _check_places(parts: Parts) -> None:
    out = parts.out
    if out.exists() and not out.is_dir():
        raise SettingError(f"{out} is a file, and the parts go to a folder: --out FOLDER")
    sources: dict[str, Path] = {}
    for source in parts.sources:
        if source.parent.resolve() == out.resolve():
            raise SettingError(
                f"The predictions cannot go to {out}, where {source.name} lies itself. "
                "Name another folder: --out FOLDER"
            )
        name = parts.target(source).name
        if name in sources:
            raise SettingError(
                f"{sources[name]} and {source} would both be written to {parts.target(source)}. "
                "Name each once, rename one, or give two commands with two folders."
            )
        sources[name] = source


def _read_known(parts: Parts) -> dict[str, Entry]:
    """What the manifest and the notes in the folder say, by the names of the files."""
    entries: dict[str, Entry] = {}
    paths = [parts.out / MANIFEST, *sorted((parts.out / NOTES).glob("*.json"))]
    for path in paths:
        if not path.is_file():
            continue
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            made_with, found = said["made_with"], said.get("parts", [said])
            here = {entry["file"]: {name: entry[name] for name in ENTRY} for entry in found}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"{path} is damaged or of another program ({type(error).__name__}: {error}). Name "
                "another folder: --out FOLDER"
            ) from None
        other = [name for name, value in parts.made_with.items() if made_with.get(name) != value]
        if other:
            raise RunFolderError(
                f"{parts.out} holds predictions that were made with another {other[0]}: "
                f"{made_with.get(other[0])} there, {parts.made_with[other[0]]} here. Parts of two "
                "kinds would be mixed. Name another folder: --out FOLDER"
            )
        entries |= here
    if others := sorted(set(entries) - {parts.target(source).name for source in parts.sources}):
        raise RunFolderError(
            f"{parts.out} holds predictions of files that are not among those named: "
            f"{quoted(others)}. Name these files too, or another folder: --out FOLDER"
        )
    return entries


def _refuse_files_of_others(parts: Parts) -> None:
    """Before a part is written over a file that no such command wrote; makes the folder of notes,
    by which the next one knows that what lies here is its own."""
    if not (parts.out / MANIFEST).is_file() and not (parts.out / NOTES).is_dir():
        targets = [parts.target(source) for source in parts.sources]
        if there := [target.name for target in targets if target.exists()]:
            raise RunFolderError(
                f"{parts.out} holds {quoted(there)}, which predict --files did not write and "
                "would write over. Nothing was done. Name another folder: --out FOLDER"
            )
    (parts.out / NOTES).mkdir(exist_ok=True)


ENTRY = ("source", "source_sha256", "file", "sha256", "rows")


def _check_known(parts: Parts, known: dict[str, Entry]) -> list[Path]:
    """The files that are left to predict; raises DataError for those that were changed."""
    left, changed = [], []
    with progress(list(parts.sources), description="Checking", unit=" files") as sources:
        for source in sources:
            target = parts.target(source)
            entry = known.get(target.name)
            if entry is None or not target.is_file() or sha256_of(target) != entry["sha256"]:
                left.append(source)
            elif sha256_of(source) != entry["source_sha256"]:
                changed.append(source)
    if changed:
        remove = shlex.join(["rm", *(str(parts.target(source)) for source in changed[:10])])
        raise DataError(
            f"Changed since predicted: {quoted([source.name for source in changed])}. Nothing "
            f"was done. Put them back, name another folder, or remove what was predicted: {remove}"
        )
    return left


# ---------------------------------------------------------------------------------- the work
def _outcomes(
    parts: Parts, left: Sequence[Path], workers: Workers | None
) -> Iterator[tuple[Path, Entry | Exception]]:
    """Each part as it is done, with its entry or what went wrong with it alone."""
    if workers is None:
        for source in left:
            yield source, _outcome(partial(_predict_part, parts, source))
        return
    jobs = {workers.submit(_predict_part, parts, source): source for source in left}
    try:
        for job in as_completed(jobs):
            yield jobs[job], _outcome(partial(result_of, job, str(jobs[job])))
    finally:
        for job in jobs:
            job.cancel()


def _outcome(work: Callable[[], Entry]) -> Entry | Exception:
    try:
        return work()
    except JobKilled as error:
        return error
    except WorkerError:  # the cluster's, and of no single part
        raise
    except (UserError, OSError) as error:
        return error


def _predict_part(parts: Parts, source: Path) -> Entry:
    predictor = parts.shared.load()
    target, before = parts.target(source), source.stat()
    source_sha256 = sha256_of(source)
    predict = predict_parquet if target.suffix == ".parquet" else predict_file
    rows = predict(predictor, source, target, parts.text, parts.encoding, parts.own, parts.quotes)
    after = source.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        target.unlink()
        raise DataError(f"{source} was changed while it was read. Give the command again.")
    entry = {
        "source": str(source),
        "source_sha256": source_sha256,
        "file": target.name,
        "sha256": sha256_of(target),
        "rows": rows,
    }
    write_json(parts.note(source), {"made_with": parts.made_with, **entry})
    return entry


def _not_all(parts: Parts, failed: dict[Path, Exception]) -> DataError:
    n_done = len(parts.sources) - len(failed)
    shown = "\n".join(f"{source}: {error}" for source, error in list(failed.items())[:10])
    more = f"\nand {len(failed) - 10} more" if len(failed) > 10 else ""
    return DataError(
        f"{len(failed)} of {len(parts.sources)} files could not be predicted; the other "
        f"{n_done} are done. The same command tries those again that are left:\n{shown}{more}"
    )
