"""A run's folder: config.json, which says what it was made with, and a folder a stage, which says whether it is finished."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_scripts.files import write_json
from ulmfit_app.config import from_json, to_json
from ulmfit_app.errors import RunFolderError, UserError
from ulmfit_app.files import sha256_of_strings

log = logging.getLogger(__name__)

FORMAT = 1
CONFIG_PARTS = (
    "preset",
    "minutes",
    "requested",
    "settings",
)  # of config.json, which the next start needs
STAGES = (
    "tokens",
    "lm",
    "classifier",
    "report",
)  # a backward one is called lm-backward or classifier-backward


def key_of(*parts: Any) -> str:
    """A hash of JSON-ready parts."""
    return sha256_of_strings(json.dumps(part, sort_keys=True, default=str) for part in parts)[:32]


def read_config(folder: Path) -> dict[str, Any] | None:
    """What config.json says, with its settings as Settings; None without one."""
    path = folder / "config.json"
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(
            f"{folder} is a file; a run needs a folder of its own. Name another: --out {folder}-run"
        )
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["format"] == FORMAT:
            requested = config["requested"]
            # Settings that this version has and the one before had not are at their defaults, as in a command without them.
            asked = {
                "settings": to_json(from_json(requested["settings"])),
                "minutes": requested["minutes"],
            }
            found = {"settings": from_json(config["settings"]), "requested": asked}
            return config | {name: config[name] for name in CONFIG_PARTS} | found
    except (AttributeError, KeyError, TypeError, UserError, ValueError) as error:
        raise RunFolderError(
            f"{path} is damaged or was changed by hand ({type(error).__name__}: {error}). Nothing was changed. "
            f"Put it back as it was, or run into another folder: --out {folder}-new"
        ) from None
    raise RunFolderError(
        f"The run folder {folder} has format {config['format']}; this version reads and writes format {FORMAT}. "
        f"Nothing in it was changed. Run into another folder: --out {folder}-new"
    )


def stored_config(folder: Path) -> dict[str, Any]:
    """What a run folder was made with. Raises RunFolderError where there is no run, or one that cannot be read."""
    config = read_config(folder)
    if config is None:
        raise RunFolderError(
            f"No run in {folder}: it has no config.json. Start one: python -m ulmfit_app.run imdb --out '{folder}'"
        )
    return config


class Stage:
    """One stage's folder inside a run, and the key of what is to be in it."""

    def __init__(self, run: Path, name: str, key: str, work: Callable[[Path], None]) -> None:
        self.name, self.key, self.folder, self._work = name, key, run / name, work
        self.kind = name.removesuffix("-backward")  # one of STAGES
        self._mark = self.folder / "stage.json"

    def _found(self) -> dict[str, Any]:
        try:
            return json.loads(self._mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def is_finished(self) -> bool:
        return self._found().get("key") == self.key

    def carry_out(self) -> None:
        """Do the work, unless its result is there already."""
        if self.is_finished():
            log.info("Stage %s: finished before, not repeated.", self.name)
            return
        if self._mark.exists():
            log.info("Stage %s: what it depends on has changed, it is repeated.", self.name)
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        self._work(self.folder)
        # Last of all: before it, the stage counts as unfinished.
        write_json(self._mark, {"key": self.key, "seconds": round(time.monotonic() - began, 1)})

    def require(self) -> None:
        """Raises RunFolderError when the stage has not been finished with these settings."""
        if not self.is_finished():
            raise RunFolderError(
                f"The stage {self.name!r} of {self.folder.parent} is not finished with the run's settings, which this one "
                "starts from. Give the command again that made the run: python -m ulmfit_app.run …"
            )

    @property
    def seconds(self) -> float:
        return self._found()["seconds"]
