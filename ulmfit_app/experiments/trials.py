"""Runs side by side, each in a folder of its own, for experiments to compare."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_scripts.files import progress, sha256_of, write_json
from ulmfit_app.cluster import require_written
from ulmfit_app.config import Settings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.tables import prediction_table
from ulmfit_app.executors import open_executor
from ulmfit_app.files import sha256_of_strings, write_table
from ulmfit_app.jobs import result_of
from ulmfit_app.models.bundle import versions
from ulmfit_app.pipeline.run import begin
from ulmfit_app.settings_json import to_json


@dataclass(frozen=True)
class Trial:
    """One run of an experiment.

    Attributes:
        name: of its folder.
        settings: what it is made with.
        last: the stage that it ends with.
        instead: a function or a `partial` of one, which labels the test split in the place of a
            run, from train_texts, train_truth, test_texts, n_classes and seed, as
            baselines.tfidf_logistic_regression does. It learns from all labels that a run would
            use: those of train and those of valid. The folder then holds predictions alone, where
            a run has them.
        n_labels: of train and valid together; None: as many as there are.
    """

    name: str
    settings: Settings
    last: str = "classifier"
    instead: Callable[..., np.ndarray] | None = None
    n_labels: int | None = None

    @property
    def what(self) -> str:
        """What it makes: the name of the function instead of a run, or of the last stage."""
        if self.instead is None:
            return self.last
        return getattr(self.instead, "func", self.instead).__name__


def carry_out(
    trials: Sequence[Trial], folder: Path, description: str, executor: Executor | None = None
) -> None:
    """Run all trials that are not finished. Interrupted, the same call continues with the rest.

    Args:
        trials: with different names.
        folder: gets a folder per trial, by its name, with its trial.json, and what it says as
            log.txt.
        description: of the progress bar.
        executor: runs each trial in a process of its own, as `executors.open_executor` has it;
            None: in processes of this machine.

    Raises:
        Exception: the first error of a trial, which stops all.
    """
    left = [trial for trial in trials if not _is_finished(trial, folder)]
    if not left:
        return
    if executor is None:
        with open_executor() as here:
            return carry_out(trials, folder, description, here)
    bar = progress(total=len(trials), description=description, unit=" runs")
    bar.update(len(trials) - len(left))
    folder = folder.absolute()  # another process may work in another place
    jobs = {executor.submit(run_trial, trial, folder / trial.name): trial for trial in left}
    try:
        for job in as_completed(jobs):
            log = folder / jobs[job].name / "log.txt"
            result_of(job, f"the run {jobs[job].name}, whose log is {log},")
            require_written(folder / jobs[job].name / "trial.json")
            bar.update()
    except BaseException:
        for job in jobs:
            job.cancel()
        raise
    finally:
        bar.close()


def read_facts(trial: Trial, folder: Path) -> dict[str, Any]:
    """Read what is known of a finished trial.

    Returns:
        Among others minutes, beside the other trials, and peak_memory_gb, None where the system
        does not say it.
    """
    return json.loads((folder / trial.name / "trial.json").read_text(encoding="utf-8"))


def _made_with(trial: Trial) -> dict[str, Any]:
    made_with = {
        "settings": to_json(trial.settings),
        "start": _hash_start(Path(trial.settings.lm.pretrained)),
        "what": trial.what,
    }
    return json.loads(json.dumps(made_with))  # JSON knows no tuples


def _hash_start(folder: Path) -> str | None:
    """Of a folder's model, which may have been trained on since, under the same name."""
    bundle = folder / "bundle.json"
    if bundle.is_file():
        return sha256_of(bundle)
    weights = sorted(folder.glob("*.safetensors"))  # of a transformer
    return sha256_of_strings(map(sha256_of, weights)) if weights else None


def _is_finished(trial: Trial, folder: Path) -> bool:
    try:
        return read_facts(trial, folder)["made_with"] == _made_with(trial)
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def saying_in(path: Path) -> Iterator[None]:
    """What the block says goes to the end of a file, instead of the screen that all share."""
    with (
        open(path, "a", encoding="utf-8", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        logging.basicConfig(format="%(message)s", stream=log, force=True)
        for name in ("ulmfit_app", "data_scripts"):
            logging.getLogger(name).setLevel(logging.INFO)
        yield


def run_trial(trial: Trial, folder: Path) -> None:
    """Run one trial, with what it says in log.txt instead of on the screen that all share.

    Raises:
        SettingError: it would use another number of labels than `trial.n_labels`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with saying_in(folder / "log.txt"):
        began = time.monotonic()
        if trial.instead:
            _label_instead(trial, folder)
        else:
            run = begin(folder, trial.settings)
            counts = run.record.counts
            _require_labels(trial, counts.get("train", 0) + counts.get("valid", 0))
            run.carry_out(trial.last)
        minutes = round((time.monotonic() - began) / 60, 2)
    facts = {
        "made_with": _made_with(trial),
        "versions": versions(),
        "minutes": minutes,
        "peak_memory_gb": _peak_memory(),
    }
    write_json(folder / "trial.json", facts)


def _label_instead(trial: Trial, folder: Path) -> None:
    seed = trial.settings.seed
    corpus = load_corpus(trial.settings.data, seed)
    known = corpus.table[corpus.table["split"].isin(("train", "valid"))]
    test = corpus.table[corpus.table["split"] == "test"]
    _require_labels(trial, len(known))
    texts, truth = test["text"].tolist(), corpus.truth(known["label"])
    probabilities = trial.instead(known["text"].tolist(), truth, texts, len(corpus.labels), seed)
    predictions = prediction_table(texts, probabilities, corpus.labels)
    predictions.insert(1, "label", test["label"].to_numpy())
    write_table(folder / "report" / "predictions.csv", predictions)


def _require_labels(trial: Trial, found: int) -> None:
    """Raises SettingError for a comparison in which not all would use as many labels."""
    if trial.n_labels not in (None, found):
        raise SettingError(
            f"The run {trial.name} is to use {trial.n_labels:,} labels, and would use {found:,}: "
            "--classifier.max-tokens is not enough for the others. Give more, or none with "
            "--classifier.max-tokens None."
        )


def _peak_memory() -> float | None:
    """In GB, of this process so far."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)
