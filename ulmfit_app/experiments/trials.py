"""Runs side by side, each in a folder of its own, so that experiments can compare what came out of them."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_scripts.files import progress, replacing, sha256_of, write_json
from ulmfit_app.config import Settings, to_json
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import RunFolderError
from ulmfit_app.inference.predictor import prediction_table
from ulmfit_app.models.bundle import versions
from ulmfit_app.pipeline.run import Run

MOST_AT_ONCE = 4  # a large corpus takes some GB a run


@dataclass(frozen=True)
class Trial:
    """One run of an experiment: its folder's name, what it is made with, and the stage that it ends with.

    instead: a function with the arguments and the result of baselines.tfidf_logistic_regression, which labels the test split
    in the place of a run; its folder then holds predictions alone, where a run has them.
    """

    name: str
    settings: Settings
    last: str = "classifier"
    instead: Callable[..., np.ndarray] | None = None


def at_once() -> int:
    """How many trials run side by side on this machine: one on a GPU; one a core elsewhere, up to MOST_AT_ONCE."""
    return 1 if torch.cuda.is_available() else min(torch.get_num_threads(), MOST_AT_ONCE)


def carry_out(trials: Sequence[Trial], folder: Path, description: str) -> None:
    """Run all trials that are not finished, each in `folder`/name, which gets its trial.json, and its words as log.txt.

    Interrupted, the same call goes on with what is left. An error of one trial stops all, and is raised here.
    """
    left = [trial for trial in trials if not _is_finished(trial, folder)]
    if not left:
        return
    # fastai decorates with torch.jit.script at import, in each process anew; the user can do nothing about it.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:`torch.jit.script`:FutureWarning")
    bar = progress(total=len(trials), description=description, unit=" runs")
    bar.update(len(trials) - len(left))
    with ThreadPoolExecutor(at_once()) as threads:
        jobs = [threads.submit(_in_a_process, trial, folder / trial.name) for trial in left]
        try:
            for job in as_completed(jobs):
                job.result()
                bar.update()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            bar.close()


def facts_of(trial: Trial, folder: Path) -> dict[str, Any]:
    """Of a finished trial: minutes, beside the others, and peak_memory_gb, None where the system does not say it."""
    return json.loads((folder / trial.name / "trial.json").read_text(encoding="utf-8"))


def _made_with(trial: Trial) -> dict[str, Any]:
    what = trial.instead.__name__ if trial.instead else trial.last
    # The model in a folder may have been trained on since, and the folder's name is the same.
    bundle = Path(trial.settings.lm.pretrained) / "bundle.json"
    start = sha256_of(bundle) if bundle.is_file() else None
    # Through JSON, which knows no tuples.
    return json.loads(
        json.dumps(
            {
                "settings": to_json(trial.settings),
                "start": start,
                "what": what,
                "versions": versions(),
            }
        )
    )


def _is_finished(trial: Trial, folder: Path) -> bool:
    try:
        return facts_of(trial, folder)["made_with"] == _made_with(trial)
    except (OSError, ValueError, KeyError):
        return False


def _in_a_process(trial: Trial, folder: Path) -> None:
    # A process for each, because the peak of memory is known of whole processes only.
    with ProcessPoolExecutor(1, get_context("spawn"), _begin) as process:
        try:
            process.submit(_carry_out, trial, folder).result()
        except BrokenProcessPool:
            raise RunFolderError(
                f"The process of the run {folder.name} was ended from outside, as the system does when memory runs out. "
                f"What it said is in {folder / 'log.txt'}. The same command goes on with the runs that are left."
            ) from None


def _begin() -> None:
    if not torch.cuda.is_available():
        # Threads of several runs on the same cores would wait for each other.
        torch.set_num_threads(max(torch.get_num_threads() // MOST_AT_ONCE, 1))


def _carry_out(trial: Trial, folder: Path) -> None:
    """The run, with what it says in log.txt instead of on the screen that all share."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / "log.txt", "a", encoding="utf-8", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        logging.basicConfig(format="%(message)s", stream=log, force=True)
        for name in ("ulmfit_app", "data_scripts"):
            logging.getLogger(name).setLevel(logging.INFO)
        began = time.monotonic()
        if trial.instead:
            _label_instead(trial, folder)
        else:
            Run(folder, trial.settings).carry_out(trial.last)
        minutes = round((time.monotonic() - began) / 60, 2)
    facts = {"made_with": _made_with(trial), "minutes": minutes, "peak_memory_gb": _peak_memory()}
    write_json(folder / "trial.json", facts)


def _label_instead(trial: Trial, folder: Path) -> None:
    s = trial.settings
    corpus = load_corpus(s.data, s.seed)
    train, test = (corpus.table[corpus.table["split"] == split] for split in ("train", "test"))
    texts, truth = test["text"].tolist(), corpus.truth(train["label"])
    probabilities = trial.instead(
        train["text"].tolist(), truth, texts, len(corpus.labels), s.seed, s.tokens.language
    )
    predictions = prediction_table(texts, probabilities, corpus.labels)
    predictions.insert(1, "label", test["label"].to_numpy())
    with replacing(folder / "report" / "predictions.csv") as draft:
        predictions.to_csv(draft, index=False)


def _peak_memory() -> float | None:
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)
