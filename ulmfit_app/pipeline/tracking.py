"""A run's history and scores in a tracker, as they grow: `--track tensorboard` or `mlflow`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ulmfit_app.config import Settings
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.mlflow_tracker import MLflow
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.pipeline.tensorboard_tracker import TensorBoard
from ulmfit_app.pipeline.tracker import Tracker, TrackerName
from ulmfit_app.settings_json import flatten, to_json
from ulmfit_app.training.watching import Watch, watch_nothing

_KINDS = {"tensorboard": TensorBoard, "mlflow": MLflow}
TITLES = {"lm": "Language model", "classifier": "Classifier"}  # as their trainings have them


@contextmanager
def following(
    name: TrackerName | None,
    folder: Path,
    key: str,
    settings: Settings,
    find_report: Callable[[], Path | None] = lambda: None,
) -> Iterator[Watch]:
    """A tracker of what is trained meanwhile.

    Args:
        name: of the tracker; None: nobody follows.
        folder: of the run or model.
        key: of what the trainings' results depend on.
        settings: of them.
        find_report: gives the folder of the report, at the end; None where there is none.

    Yields:
        What is to be told of each epoch.
    """
    if name is None:
        yield watch_nothing
        return
    spelled = {
        option: value if isinstance(value, str) else json.dumps(value)
        for option, value in flatten(to_json(settings)).items()
    }
    tracker: Tracker = _KINDS[name](folder, name, key, spelled)
    try:
        yield tracker
    except BaseException as error:
        tracker.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.end("FINISHED", find_report())


@contextmanager
def tracking(run: RunFiles, name: TrackerName | None) -> Iterator[None]:
    """While a run is carried out, a tracker follows it; it hears of what was trained before, too.

    Args:
        run: its watches have one more.
        name: of the tracker; None: nobody follows.
    """
    record = run.record
    trained = {
        each.named(stage): each.named(title, ", ")
        for stage, title in TITLES.items()
        for each in record.directions
    }
    key = sha256_of_strings(record.keys[stage] for stage in trained)

    def find_report() -> Path | None:
        return run.place("report") if run.is_finished("report") else None

    with following(name, run.folder, key, record.settings, find_report) as watch:
        for stage, title in trained.items():
            if run.is_finished(stage):
                watch(title, read_history(run.place(stage)).to_dict("records"))
        if name is not None:
            run.watches.append(watch)
        yield
