"""Runs side by side, each in a folder of its own, so that experiments can compare what came out of them."""

import json
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from data_scripts.files import progress, replacing
from ulmfit_app.bundle import versions
from ulmfit_app.config import Settings, to_json
from ulmfit_app.run import Run

MOST_AT_ONCE = 4  # a large corpus takes some GB a run


@dataclass(frozen=True)
class Trial:
    """One run of an experiment: its folder's name, what it is made with, and the stage that it ends with."""

    name: str
    settings: Settings
    last: str = "classifier"


def at_once() -> int:
    """How many trials run side by side on this machine: one on a GPU; one a core elsewhere, up to MOST_AT_ONCE."""
    return 1 if torch.cuda.is_available() else min(torch.get_num_threads(), MOST_AT_ONCE)


def carry_out(trials: Sequence[Trial], folder: Path, description: str) -> None:
    """Run all trials that are not finished, each in `folder`/name, with its minutes in trial.json and its words in log.txt.

    Interrupted, the same call goes on with what is left. An error of one trial stops all, and is raised here.
    """
    left = [trial for trial in trials if not _is_finished(trial, folder)]
    if not left:
        return
    # fastai decorates with torch.jit.script at import, in each process anew; the user can do nothing about it.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:`torch.jit.script`:FutureWarning")
    bar = progress(total=len(trials), description=description, unit=" runs")
    bar.update(len(trials) - len(left))
    with ProcessPoolExecutor(at_once(), get_context("spawn"), _begin) as processes:
        jobs = [processes.submit(_carry_out, trial, folder / trial.name) for trial in left]
        try:
            for job in as_completed(jobs):
                job.result()
                bar.update()
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            bar.close()


def minutes_of(trial: Trial, folder: Path) -> float:
    """How long a finished trial took, beside the others."""
    return json.loads((folder / trial.name / "trial.json").read_text(encoding="utf-8"))["minutes"]


def _made_with(trial: Trial) -> dict[str, Any]:
    # Through JSON, which knows no tuples.
    return json.loads(json.dumps({"settings": to_json(trial.settings), "last": trial.last, "versions": versions()}))


def _is_finished(trial: Trial, folder: Path) -> bool:
    try:
        facts = json.loads((folder / trial.name / "trial.json").read_text(encoding="utf-8"))
        return facts["made_with"] == _made_with(trial)
    except (OSError, ValueError, KeyError):
        return False


def _begin() -> None:
    if not torch.cuda.is_available():
        # Threads of several runs on the same cores would wait for each other.
        torch.set_num_threads(max(torch.get_num_threads() // MOST_AT_ONCE, 1))


def _carry_out(trial: Trial, folder: Path) -> None:
    """In a process of its own: the run, with what it says in log.txt instead of on the screen that all share."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        logging.basicConfig(format="%(message)s", stream=log, force=True)
        for name in ("ulmfit_app", "data_scripts"):
            logging.getLogger(name).setLevel(logging.INFO)
        began = time.monotonic()
        Run(folder, trial.settings).carry_out(trial.last)
        facts = {"made_with": _made_with(trial), "minutes": round((time.monotonic() - began) / 60, 2)}
    with replacing(folder / "trial.json") as draft:
        draft.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
