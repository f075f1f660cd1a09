"""Who writes down a training's history for a tracker, as it grows.

The tracker is told what the run's own files say and nothing else; it changes no result. What it
cannot be told, because it does not answer or its disk is full, it is told with the next epoch, and
the training goes on.
"""

import json
import logging
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from data_scripts.files import write_json
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.scripts import shorten
from ulmfit_app.run_folder import read_mark

log = logging.getLogger(__name__)

TrackerName = Literal["tensorboard", "mlflow"]
FACTS = "tracked.json"  # beside what is tracked: of which trainings it is
LONGEST_REASON = 200  # characters of what a tracker says of itself
TEST = "Test"  # the section of the report's scores


class Tracker:
    """A `Watch` that writes numbers where they are not written yet, and says once if it cannot.

    Args:
        folder: of the run or model; what is tracked lies in a folder of it.
        name: of that folder.
        key: of what the trainings' results depend on; what was tracked of others is forgotten.
        settings: flat, by name.
    """

    def __init__(self, folder: Path, name: TrackerName, key: str, settings: dict[str, str]):
        self.folder, self.place, self.name = folder, folder / name, name
        self.key, self.settings = key, settings
        self.has_failed = False

    def __call__(self, title: str, history: list[dict[str, Any]], share: float = 0.0) -> None:
        """Write the epochs of a training that are not written yet, numbered from 1."""
        with self._never_fatal():
            self.write(title, [_numbers(row) for row in history])

    def end(self, status: str, report: Path | None = None) -> None:
        """Write the scores of a report, and that the run has ended.

        Args:
            status: FINISHED, FAILED or KILLED.
            report: its folder; None: there is none.
        """
        with self._never_fatal():
            if report is not None:
                metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
                self.write(TEST, [_numbers(metrics["model"])])
            self.close(status, report)

    @contextmanager
    def _never_fatal(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind: it is the tracker's, and costs no training
            if not self.has_failed:
                said = shorten(str(error).partition("\n")[0], LONGEST_REASON)
                how = (
                    "%s could not be told (%s: %s). The training goes on. What is missing is told "
                    "with the next epoch, or when the same command is given again."
                )
                log.warning(how, self.name, type(error).__name__, said)
            self.has_failed = True
            with suppress(Exception):
                self.forget()

    def read_facts(self) -> dict[str, Any]:
        """What was noted when the same trainings were tracked before; else nothing, and what was
        tracked of others is removed."""
        facts = read_mark(self.place / FACTS)
        if facts.get("key") == self.key:
            return facts
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        return {}

    def note(self, **facts: str) -> None:
        """Write what the next command has to know."""
        write_json(self.place / FACTS, {"key": self.key, **facts})

    def write(self, section: str, rows: list[dict[str, float]]) -> None:
        """Write the rows of a section that are not there yet, each as a step, counted from 1."""
        raise NotImplementedError

    def forget(self) -> None:
        """After a failure: look again next time at what is there."""
        raise NotImplementedError

    def close(self, status: str, report: Path | None) -> None:
        """Write what stands beside the numbers; as `end` has it."""
        raise NotImplementedError


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """What of a row can be drawn."""
    return {
        name: float(value)
        for name, value in row.items()
        if name != "epoch"
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


def require_tracker(name: TrackerName | None) -> None:
    """Refuse to track by what is not installed, before anything is trained.

    Raises:
        SettingError: the extra is missing.
    """
    if name is not None and find_spec(name) is None:
        raise SettingError(
            f"--track {name} needs the package {name}, which is not installed. "
            f"Run: pip install 'ulmfit-app[{name}]'"
        )


def folder_name(section: str) -> str:
    """A section as a name for folders and metrics.

    >>> folder_name("Language model, backward")
    'language-model-backward'
    """
    return re.sub(r"[^a-z0-9]+", "-", section.lower()).strip("-")
