"""What runs are there, and what became of each: read from their small files, without torch.

A run of another format, or one that is damaged, is listed as what it is.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from ulmfit_app.data.opening import name_without_suffix
from ulmfit_app.errors import RunFolderError, SettingError, UserError
from ulmfit_app.evaluation.headline import measures
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.run_folder import (
    AGAIN,
    BEGUN,
    HISTORY,
    MARK,
    NEXT,
    ORDER,
    READY,
    RECORD,
    command_of_run,
    find_lost,
    find_part,
    is_finished,
    read_mark,
    require_record,
)
from ulmfit_app.settings_json import flatten
from ulmfit_app.training.symptoms import JOINT, names_in

TRAINED = ("lm", "classifier")  # stages with a history; backward ones are named after these
# Of the table, in order: the names of the columns, which are also what it is sorted by.
COLUMNS = (
    *("run", "data", "preset", "start", "plan", "labels", "state", "validation", "measure"),
    *("test", "test_low", "test_high", "n", "minutes", "warnings", "date"),
)
# A classifier's metrics, the one first that its epoch was chosen by where it has several.
_METRICS = ("average_precision", "macro_f1", "accuracy")
_INSIDE = {*ORDER, NEXT, AGAIN, READY, "data", "parent", "tensorboard", "mlflow"}


@dataclass(frozen=True)
class ListedRun:
    """One run folder.

    Args:
        facts: the cells of its row by the names of COLUMNS; None where something is not known.
        settings: by name, such as lm.lr.
        histories: of its trainings that have begun, by the name of the stage.
    """

    facts: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    histories: dict[str, pd.DataFrame] = field(default_factory=dict)


def list_runs(folders: list[Path]) -> list[ListedRun]:
    """All runs in some folders, and in folders of these, by name.

    Args:
        folders: of runs, experiments or searches; a run's own, too.

    Raises:
        RunFolderError: a folder is not there, or no run is in any.
    """
    found = {path: None for folder in folders for path in _find_runs(_require(folder))}
    if not found:
        where = ", ".join(map(str, folders))
        raise RunFolderError(
            f"No run is in {where}: no folder there has a {RECORD}. Start one: "
            f"{command_of_run(folders[0] / 'NAME')}"
        )
    return [_read_run(path) for path in found]


def _require(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    if folder.exists():
        raise RunFolderError(f"{folder} is no folder. Name the folder that holds your runs.")
    beside = folder.parent.iterdir() if folder.parent.is_dir() else []
    beside = [each.name for each in beside if each.is_dir()]
    near = [str(folder.with_name(name)) for name in get_close_matches(folder.name, beside)]
    hint = f"Did you mean {', '.join(near)}?" if near else "Name the folder that holds your runs."
    raise RunFolderError(f"There is no folder {folder}. {hint}")


def _find_runs(folder: Path) -> Iterator[Path]:
    for path, inner, _ in os.walk(folder):
        here = Path(path)
        is_run = find_part(here, RECORD).is_file() or _is_of_format_1(here)
        if is_run:
            yield here
        inner[:] = sorted(
            name for name in inner if not (is_run and name.removesuffix("-backward") in _INSIDE)
        )


def _is_of_format_1(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "tokens").is_dir()


# ------------------------------------------------------------------------------------- one of them
def _read_run(folder: Path) -> ListedRun:
    facts: dict[str, Any] = dict.fromkeys(COLUMNS)
    facts |= {"run": str(folder), "date": _date_of(folder)}
    try:
        record = require_record(folder)
        return _understand(folder, facts, record)
    except RunFolderError as error:
        what = "another format" if "has format" in str(error) else "damaged"
        return ListedRun(facts | {"state": f"{what}: {RECORD}"})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return ListedRun(facts | {"state": f"damaged: {type(error).__name__} {error}"})


def _understand(folder: Path, facts: dict[str, Any], record: dict[str, Any]) -> ListedRun:
    first, settings = record["directions"][0], record["settings"]
    facts |= {
        "data": name_without_suffix(Path(settings["data"]["source"])),
        "preset": record["preset"],
        "start": Path(first["pretrained"]).name,
        "plan": first["plan"]["name"],
        "labels": record["counts"]["train"],
    }
    notes: list[str] = []
    histories = _read_histories(folder, record["keys"], notes)
    if "classifier" in histories:
        pairs = [each["name"] for each in first["plan"]["phases"] if each["objective"] == "pairs"]
        facts |= _validation(histories["classifier"], pairs)
    facts |= _test(find_part(folder, "report"), record["keys"].get("report", ""), notes)
    facts["state"] = _state(folder, record["keys"], histories, notes)
    if histories:
        seconds = sum(float(each["seconds"].sum()) for each in histories.values())
        facts["minutes"] = round(seconds / 60, 2)
        said = [name for each in histories.values() for name in names_in(each.to_dict("records"))]
        facts["warnings"] = JOINT.join(dict.fromkeys(said)) or None
    return ListedRun(facts, flatten(settings), histories)


def _state(
    folder: Path, keys: dict[str, str], histories: dict[str, pd.DataFrame], notes: list[str]
) -> str:
    """The first stage that is not finished, and how far it has come; or what is damaged."""
    for name, key in keys.items():
        place = find_part(folder, name)
        if read_mark(place / MARK).get("key") == key and (lost := find_lost(place)):
            notes.append(f"{name} has lost {', '.join(lost)}")
    if notes:
        return f"damaged: {'; '.join(notes)}"
    open_stages = [n for n, key in keys.items() if not is_finished(find_part(folder, n), key)]
    changed = ", new settings under way" if (folder / NEXT / RECORD).is_file() else ""
    if not open_stages:
        return f"finished{changed}"
    # In the order of the work: the first one that was begun, else the last one that is finished.
    for name in open_stages:
        if (find_part(folder, name) / BEGUN).is_file():
            n = len(histories.get(name, ()))
            epochs = f", {n} epoch{'s' if n > 1 else ''} done" if n else ""
            return f"unfinished: {name}{epochs}{changed}"
    done = [name for name in keys if name not in open_stages]
    return f"unfinished: {f'{done[-1]} done' if done else 'planned'}{changed}"


def _read_histories(
    folder: Path, keys: dict[str, str], notes: list[str]
) -> dict[str, pd.DataFrame]:
    found = {}
    for name in keys:
        place = find_part(folder, name)
        if name.removesuffix("-backward") in TRAINED and (place / HISTORY).is_file():
            try:
                found[name] = read_history(place)
            except (UserError, KeyError, ValueError):
                notes.append(f"{name}/{HISTORY} cannot be read")
    return found


def _validation(history: pd.DataFrame, pairs: list[str]) -> dict[str, Any]:
    """Of the best epoch, those that train no head left out."""
    measure = next((name for name in _METRICS if name in history), None)
    judged = history[~history["phase"].isin(pairs)]
    if measure is None or not len(judged):
        return {}
    best = float(judged[measure].max())
    return {"validation": None if math.isnan(best) else best, "measure": measure}


def _test(report: Path, key: str, notes: list[str]) -> dict[str, Any]:
    """What the test split said, where the report is the run's own."""
    if not is_finished(report, key):
        return {}
    try:
        metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
        # A mean cost is no share; the accuracy stands beside it.
        measure = measures(metrics)[-1]
        model = metrics["model"]
        low, high = model[f"{measure}_ci95"]
        return {"test": model[measure], "test_low": low, "test_high": high, "n": model["n"]}
    except (OSError, KeyError, TypeError, ValueError):
        notes.append("report/metrics.json cannot be read")
        return {}


def _date_of(folder: Path) -> str | None:
    """When something of it was written last."""
    marks = (BEGUN, MARK, HISTORY)
    parts = [
        find_part(folder, RECORD),
        *(folder / name / mark for name in ORDER for mark in marks),
        folder / "config.json",
    ]
    times = []
    for path in parts:
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times)).strftime("%Y-%m-%d %H:%M") if times else None


# ------------------------------------------------------------------------------------ all together
def differing_settings(runs: list[ListedRun]) -> pd.DataFrame:
    """The settings that are not the same in all runs, a column each, one row per run.

    A setting that a run leaves out is at its default, and stands as nothing.
    """
    table = pd.DataFrame([{k: _spelled(v) for k, v in each.settings.items()} for each in runs])
    known = table[[bool(each.settings) for each in runs]].fillna("")
    return table[[name for name in table if known[name].nunique() > 1]].fillna("")


def _spelled(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def sort_runs(runs: list[ListedRun], by: str) -> list[ListedRun]:
    """Runs by a column, those last that have nothing in it.

    Args:
        runs: as `list_runs` returns them.
        by: one of COLUMNS, or a setting; descending with a - before it.

    Raises:
        SettingError: there is no such column; the nearest is named.
    """
    name, descending = by.removeprefix("-"), by.startswith("-")
    names = [*COLUMNS, *{key: None for each in runs for key in each.settings}]
    if name not in names:
        near = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(COLUMNS)}."
        raise SettingError(f"--sort {by}: there is no column {name!r}. {hint}")

    def value(run: ListedRun) -> Any:
        return run.facts[name] if name in COLUMNS else run.settings.get(name)

    there = [run for run in runs if value(run) is not None]
    are_numbers = all(isinstance(value(run), int | float) for run in there)
    there.sort(
        key=lambda run: value(run) if are_numbers else _spelled(value(run)), reverse=descending
    )
    return [*there, *(run for run in runs if value(run) is None)]
