"""The parent of an updated run: a finished run that it goes on from.

Its language models and classifiers are put into parent/ of the updated run's folder when that is
planned, as hard links where the file system has them. From then on nothing of the parent's own
folder is needed: it may be moved, deleted, trained again or updated once more.
"""

import shlex
from pathlib import Path
from typing import Any

from data_scripts.files import sha256_of
from ulmfit_app.config import Settings
from ulmfit_app.errors import BundleError, RunFolderError, SettingError
from ulmfit_app.files import link_file, sha256_of_strings
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.record import Parent, RunRecord
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.run_folder import HISTORY, MARK, VALIDATION, read_mark, require_record
from ulmfit_app.settings_json import to_json

PARENT = "parent"  # folder in that of an updated run
KINDS = {"lm": "language model", "classifier": "classifier"}
_FILES = ("weights-*.safetensors", "vocab-*.json", "tokenizer-*.json", VALIDATION, "bundle.json")


def open_parent(settings: Settings) -> RunFiles:
    """The run that a run is to go on from, whose models are there and as they were saved.

    Args:
        settings: of the updated run.

    Raises:
        RunFolderError: there is none, it is not finished, or a validation.csv is missing.
        BundleError: a model of it was altered.
        SettingError: its classifier is an adapter.
    """
    folder = Path(settings.update.parent)
    run = RunFiles(folder, RunRecord.understand(require_record(folder), folder), folder)
    for name, place in _parts(run).items():
        if not run.is_finished(name):
            raise RunFolderError(
                f"The run in {folder} has no finished {name} to go on from. To make it, "
                f"{run.again()}"
            )
        bundle = load_bundle(place, KINDS[name.removesuffix("-backward")])
        if isinstance(bundle.shape, TransformerShape) and bundle.shape.adapter is not None:
            raise SettingError(
                f"The classifier of {folder} is an adapter ({bundle.shape.adapter}) on weights "
                "that stay as they are, and an update lets all weights learn. Train it again on "
                "old and new texts: the command that made it."
            )
        if len(run.record.directions) > 1 and bundle.kind == "classifier":
            _require_validation(place, folder)
    return run


def _require_validation(place: Path, folder: Path) -> None:
    if not (place / VALIDATION).is_file():
        raise RunFolderError(
            f"{place / VALIDATION} is missing, by which two directions answer as one. Have it "
            f"written again: python -m ulmfit_app report {shlex.quote(str(folder))}"
        )


def _parts(run: RunFiles) -> dict[str, Path]:
    """Where the language models and classifiers of a run lie, by name."""
    names = [each.named(kind) for each in run.record.directions for kind in KINDS]
    return {name: run.place(name) for name in names}


def fingerprint_of(run: RunFiles) -> str:
    """A hash of a run's language models and classifiers."""
    return sha256_of_strings(sha256_of(place / "bundle.json") for place in _parts(run).values())


def describe_parent(run: RunFiles) -> Parent:
    """What the record of an updated run says of its parent."""
    folder, n_valid = str(run.folder.absolute()), run.record.counts["valid"]
    prints, seconds = fingerprint_of(run), seconds_to_train(run)
    return Parent(folder, prints, n_valid, seconds, recipe_of(run.record))


def recipe_of(record: RunRecord) -> dict[str, Any]:
    """The settings of the first of a line of updates, as JSON writes them."""
    return record.parent.recipe if record.parent else to_json(record.settings)


def seconds_to_train(run: RunFiles) -> float:
    """What tokens, language models and classifiers of a run took; its report is left out."""
    return sum(_seconds_of(run.place(name)) for name in run.record.keys if name != "report")


def _seconds_of(place: Path) -> float:
    """Of a stage. After an interruption its mark knows the last sitting alone, and its history
    all epochs."""
    of_mark = float(read_mark(place / MARK).get("seconds", 0))
    if not (place / HISTORY).is_file():
        return of_mark
    return max(of_mark, float(read_history(place)["seconds"].sum()))


def has_parent_changed(parent: Parent | None) -> bool:
    """Whether the parent's folder holds other models by now; one that is gone does not."""
    if parent is None:
        return False
    folder = Path(parent.run)
    try:
        run = RunFiles(folder, RunRecord.understand(require_record(folder), folder), folder)
        return fingerprint_of(run) != parent.fingerprint
    except (OSError, RunFolderError):
        return False


# ------------------------------------------------------------------------------ in a run's folder
def keep_parent(run: RunFiles, folder: Path) -> None:
    """Put a parent's models into the folder of an updated run.

    Args:
        run: the parent.
        folder: of the updated run.
    """
    for name, place in _parts(run).items():
        kept = folder / PARENT / name
        kept.mkdir(parents=True, exist_ok=True)
        # No file of a bundle is ever written in place, so that a link keeps what it was.
        for pattern in _FILES:
            for file in place.glob(pattern):
                link_file(file, kept / file.name)


def require_same_parent(folder: Path, before: Parent | None, now: Parent | None) -> None:
    """Refuse to put an update of one parent, as it was then, in the place of that of another.

    Args:
        folder: of the updated run.
        before: its parent.
        now: the one that is asked for.

    Raises:
        RunFolderError: they are not the same models.
    """
    if (before and before.fingerprint) == (now and now.fingerprint):
        return
    if before is None or now is None:
        what = "a run of its own" if before is None else f"an update of {before.run}"
        found = f"{folder} holds {what}, and what is asked for is another kind of run"
    elif before.run == now.run:
        found = f"{before.run} was trained again since {folder} went on from it"
    else:
        found = f"{folder} holds an update of {before.run}, not of {now.run}"
    raise RunFolderError(
        f"{found}; it is left as it is. Update into another folder: --out "
        f"{shlex.quote(f'{folder}-2')}"
    )


def parent_folders(run: RunFiles) -> list[Path]:
    """Where the parent's classifiers lie in an updated run's folder, the forward one first.

    Raises:
        BundleError: they are gone.
    """
    folders = [run.folder / PARENT / each.named("classifier") for each in run.record.directions]
    for folder in folders:
        if not (folder / "bundle.json").is_file():
            raise BundleError(
                f"{folder} is gone, which this run goes on from. Put it back, or update the run "
                f"{run.record.parent.run} again, into another folder."
            )
    return folders
