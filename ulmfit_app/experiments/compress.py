"""What makes a run smaller and faster, and what it costs: its teacher, precisions, ONNX, pruning.

A way may be chosen by its accuracy, so it is scored on the validation split; the test split stays
unread.
"""

import shlex
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from data_scripts.files import progress, replacing
from ulmfit_app.errors import SettingError, count_texts, quoted
from ulmfit_app.evaluation.compression_figure import compression_figure
from ulmfit_app.evaluation.tables import markdown_table
from ulmfit_app.experiments.comparing import measure_share, save_result
from ulmfit_app.experiments.compressed import (
    EXACT,
    ONE,
    SOME,
    VALID,
    Texts,
    Way,
    Work,
    find_ways,
    gather_texts,
    is_adapter,
    name_pruned,
    name_teachers,
    name_zeros,
    place_of_pruned,
    teachers_of,
)
from ulmfit_app.hardware import (
    choose_device,
    name_processor,
    resolve_precision,
    wait_for_device,
)
from ulmfit_app.inference.predictor import Predictor, load_predictor
from ulmfit_app.pipeline.run import Run
from ulmfit_app.pipeline.teachers import hash_text

TURNS_OF_ONE, TURNS_OF_MANY = 20, 3


def run_compress(
    folder: Path, out: Path, shares: Sequence[float]
) -> tuple[pd.DataFrame, list[str]]:
    """Measure a run, and what makes it smaller and faster.

    Args:
        folder: of the run, whose classifier is finished.
        out: gets a run folder for each share, and compress.csv, compress.md and compress.png.
        shares: of the run's inner units that pruned runs are without, as `prune_run` has them.

    Returns:
        One row per way to have texts labelled: what, n, accuracy in %, low, high (95 %); changed,
        the number of labels that are not those of the run in fp32, and changed_share, in %;
        megabytes, ms (of one text) and texts_per_s. And paragraphs of how it was measured, and of
        what is left out and why.

    Raises:
        RunFolderError: there is no such run.
        BundleError, SettingError: its classifier cannot be read; a share is not between 0 and 1.
    """
    for share in shares:
        if not 0 < share < 1:
            raise SettingError(f"--shares must be more than 0 and less than 1, not {share:g}.")
    run, exact = Run.open(folder), load_predictor(folder, "fp32")
    shares, texts = sorted(set(shares)), gather_texts(run, exact)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".ways-") as scratch:
        ways, left_out = find_ways(run, exact, texts, shares, out, Path(scratch))
        table = measure_ways(ways, texts, run.labelled("valid")[1])
    notes = _describe(exact, texts)
    there = set(table["what"])
    if name_teachers(run) in there:
        notes += describe_teachers(run)
    done = [share for share in shares if name_pruned(share) in there]
    if done:
        notes.append(_describe_pruned(folder, out, done[-1]))
    if shares and name_zeros(shares[-1]) in there:
        notes.append(
            "Zeros stand in place of the smallest weights of each matrix of the encoder. They are "
            "multiplied as before and take as many bytes: they save nothing, and are not offered."
        )
    notes += left_out
    save_result(out, "compress", table, compression_figure(table))
    with replacing(out / "compress.md") as draft:
        draft.write_text(format_compress(table, notes), encoding="utf-8")
    return table, notes


# ----------------------------------------------------------------------------------------- figures
def measure_ways(ways: list[Way], texts: Texts, truth: np.ndarray) -> pd.DataFrame:
    """The table that `run_compress` returns.

    Args:
        ways: one of them EXACT.
        texts: that they label.
        truth: the classes of the validation texts, [n].
    """
    bar = progress(ways, description="Labelling the validation split", unit=" ways")
    given = {way.name: way.read(VALID)().argmax(axis=1) for way in bar}
    ones, many = ([way.read(which) for way in ways] for which in (ONE, SOME))
    seconds_of_one = time_in_turns(ones, ones, TURNS_OF_ONE, "Timing one text")
    seconds_of_many = time_in_turns(ones, many, TURNS_OF_MANY, "Timing many texts")
    found = []
    for way, one, some in zip(ways, seconds_of_one, seconds_of_many, strict=True):
        changed = given[way.name] != given[EXACT]
        line = {"what": way.name, **measure_share("accuracy", given[way.name] == truth)}
        line |= {"changed": int(changed.sum()), "changed_share": 100 * float(changed.mean())}
        line |= {"megabytes": way.megabytes, "ms": 1000 * one}
        found.append(line | {"texts_per_s": len(texts.named[SOME]) / some})
    return pd.DataFrame(found)


def time_in_turns(
    before: Sequence[Work], works: Sequence[Work], turns: int, description: str
) -> list[float]:
    """Median seconds of each of some works, which take turns, so that a busy moment hits all.

    Args:
        before: what is done, untimed, before each: caches and processors are another's until then.
        works: what is timed.
        turns: how often.
        description: of the progress bar.
    """
    seconds: list[list[float]] = [[] for _ in works]
    with progress(total=turns * len(works), description=description, unit=" turns") as bar:
        for _ in range(turns):
            for first, work, found in zip(before, works, seconds, strict=True):
                first()
                wait_for_device()
                start = time.perf_counter()
                work()
                wait_for_device()
                found.append(time.perf_counter() - start)
                bar.update()
    return list(map(statistics.median, seconds))


# --------------------------------------------------------------------------------------- its words
def _describe(exact: Predictor, texts: Texts) -> list[str]:
    tokens = {}
    for which in (ONE, SOME):
        work = [lambda which=which: exact.store(texts.named[which])]
        (tokens[which],) = time_in_turns(work, work, TURNS_OF_MANY, "Making tokens")
    n_tokens, n_some = len(texts.store(exact, ONE).ids), len(texts.named[SOME])
    notes = [
        f"Measured on {name_machine()}. ms: the median of {TURNS_OF_ONE} times for one text of "
        f"{n_tokens} tokens, by the run's tokenizer; texts/s: the median of {TURNS_OF_MANY} times "
        f"for {count_texts(n_some)} of the run's own, the same for all; the rows took turns. "
        "Making tokens is not in these times: the run's tokenizer takes "
        f"{1000 * tokens[ONE]:.2g} ms for the one text, and does {n_some / tokens[SOME]:,.0f} "
        "texts/s, of words that were met before.",
        "MB: the files that a server reads, without Python and its libraries. Rows that name no "
        f"precision are in {resolve_precision('auto')}, and ONNX is in fp32.",
    ]
    if is_adapter(exact.bundle):
        notes.append("The run is an adapter: the transformer that it stands on is not in its MB.")
    return notes


def describe_teachers(run: Run) -> list[str]:
    """Which they are, and how many validation texts they know the labels of."""
    name, folders = name_teachers(run), teachers_of(run)
    notes = [f"The {name}: {quoted([folder.name for folder in folders])}."]
    known: set[str] = set()
    for folder in folders:
        rows = Run.open(folder).rows
        known |= set(map(hash_text, rows.loc[rows["split"] == "train", "text"]))
    texts = run.rows.loc[run.rows["split"] == "valid", "text"]
    n_known = sum(hash_text(text) in known for text in texts)
    if n_known:
        notes.append(
            f"{count_texts(n_known)} of the validation split are among those that the {name} "
            "learned from: its accuracy is not one of unseen texts."
        )
    return notes


def _describe_pruned(run: Path, out: Path, share: float) -> str:
    """How a pruned run is finished."""
    place = shlex.quote(str(place_of_pruned(out, share)))
    return (
        f"Pruned runs lie in {out}; they learned for an epoch from what the whole run answers. To "
        "have one scored on the test split, with a report: python -m ulmfit_app prune "
        f"{shlex.quote(str(run))} --share {share:g} --out {place}"
    )


def name_machine() -> str:
    """The processor, how many threads compute on it, and with which libraries."""
    threads = torch.get_num_threads()
    libraries = [f"{name} {version(name)}" for name in ("torch", "onnxruntime") if _has(name)]
    about = f"{name_processor()}, {count_texts(threads, 'thread')}, {', '.join(libraries)}"
    if choose_device().type == "cuda":
        gpu = torch.cuda.get_device_name()
        return f"{about}; int8 and ONNX, and the others on a GPU, {gpu}"
    return about


def _has(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def format_compress(table: pd.DataFrame, notes: list[str]) -> str:
    """The table as a page to read or to paste. table, notes: what `run_compress` returns."""
    rows = []
    for line in table.itertuples():
        accuracy = f"{line.accuracy:.1f} ({line.low:.1f} to {line.high:.1f})"
        changed = f"{line.changed:,} ({line.changed_share:.1f} %)"
        speeds = [f"{line.megabytes:.2f}", f"{line.ms:.1f}", f"{line.texts_per_s:,.0f}"]
        rows.append([line.what, accuracy, "" if line.what == EXACT else changed, *speeds])
    header = ["what", "accuracy", "changed labels", "MB", "ms, one text", "texts/s"]
    lines = [
        f"Accuracies in %, with 95 % intervals, on the n = {table['n'].max():,} texts of the "
        "run's validation split, by which its best epoch and its temperature were chosen; the "
        f"test split stayed unread. Changed labels: against {EXACT!r}.",
        "",
        markdown_table(header, rows),
        *(f"\n{note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"
