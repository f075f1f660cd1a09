"""This application against plain fastai, job by job, and against the processor's own limit.

    python -m tests.bench.compare [JOB …] [--data IMDB] [--pairs 5] [--quick]

Each side of a job runs in a process of its own, and the two take turns on all cores: plain, ours,
plain, ours. What is reported is the median of the ratios of the pairs, so that a machine that
slows down or speeds up meanwhile does both sides alike. What the command line sets for torch's
threads and memory, both have. Peak memory is a process's own, imports included.

Between the pairs, the products of matrices that our side's work consists of are timed alone
(tests/bench/limits.py): the limit. The share is how long they take against how long the unit took,
the median of the units. Tokens have no products, and those of int8 are onnxruntime's, which cannot
be had alone: these two have no limit.

Writes results/PROCESSOR/JOB.json per job, and results/PROCESSOR/compare.png from what is there.
--quick takes five minutes on two cores: fewer pairs, less work per unit, and texts made of the
sentences that come with the package, so that nothing is fetched. It prints, and writes nothing.
"""

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from data_scripts.fetch import FetchError
from data_scripts.files import write_json
from ulmfit_app.__main__ import WAITS
from ulmfit_app.errors import UserError

if TYPE_CHECKING:
    from tests.bench.limits import Product, Stopwatch

OUT = Path(__file__).parent / "results"
NAMES = (
    "lm",
    "lm-sampled",
    "classifier",
    "classifier-recompute",
    "predict-one",
    "predict-one-int8",
    "predict-512",
    "tokens",
)
# Without a name, plain fastai's classifier is not timed twice.
ALL = tuple(name for name in NAMES if name != "classifier-recompute")
QUICK_PAIRS, PAIRS = 2, 5


# ----------------------------------------------------------------------------- in a process a side
def _work(job: str, side: int, texts: str, quick: bool) -> None:
    """Answer with a line of JSON when ready, and then to each line on standard input: one unit of
    the job's work, timed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    warnings.filterwarnings("ignore")
    table = pd.DataFrame(json.loads(Path(texts).read_text())) if texts else None
    from tests.bench.jobs import FULL, JOBS, QUICK
    from tests.bench.limits import multiplied
    from ulmfit_app.hardware import set_up_cpu

    set_up_cpu()  # on both sides: plain fastai, which has no such thing, gains by it too
    unit = (JOBS[job].ours if side else JOBS[job].plain)(table, QUICK if quick else FULL)

    def answer() -> None:
        multiplied.clear()
        began = time.perf_counter()
        done = unit()
        seconds = time.perf_counter() - began
        products = [[*product, times] for product, times in multiplied.items()]
        line = {"done": done, "seconds": seconds, "peak_mib": _peak_mib(), "products": products}
        print(json.dumps(line), file=answers, flush=True)

    answer()  # warms up: memory, caches, and the batch of the longest texts
    for _ in sys.stdin:
        answer()


def read_texts(data: str) -> pd.DataFrame:
    """IMDb's training reviews, mixed by a fixed seed, with their labels."""
    from ulmfit_app.config import DataSettings
    from ulmfit_app.data.corpus import load_corpus

    table = load_corpus(DataSettings("imdb", data=Path(data) if data else None), seed=0).table
    table = table[table["split"] == "train"]
    return table.sample(frac=1, random_state=0)[["text", "label"]].reset_index(drop=True)


def takes_texts(job: str) -> bool:
    """Whether a job reads texts."""
    return not job.startswith("lm")


def _package_texts(n: int) -> pd.DataFrame:
    """As many texts of 50 to 400 words, the course's sentences one after the other, with labels by
    chance: for a look at how quick it is."""
    from ulmfit_app.course import REVIEWS

    rng = np.random.default_rng(0)
    words = np.array(" ".join(pd.read_csv(REVIEWS)["text"].sample(frac=1, random_state=0)).split())
    ends = rng.integers(50, 401, n).cumsum()
    cut = zip([0, *ends], ends, strict=False)
    texts = [" ".join(words.take(range(start, end), mode="wrap")) for start, end in cut]
    return pd.DataFrame({"text": texts, "label": rng.choice(["neg", "pos"], n)})


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Side:
    """A process that does a unit of a job's work whenever it is asked to.

    Args:
        job: its name.
        side: 0: plain fastai's; 1: ours.
        texts: the file with them; "" where the job takes none.
        quick: whether a unit is less work.
        environ: variables that it has beside this process's own; None: without it.
    """

    def __init__(
        self, job: str, side: int, texts: str, quick: bool, environ: dict[str, str | None]
    ) -> None:
        command = [sys.executable, "-m", "tests.bench.compare", "--work", job, str(side), texts]
        both = {**os.environ, **environ}
        self.process = subprocess.Popen(
            [*command, *(["quick"] if quick else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in both.items() if value is not None},
        )

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def unit(self) -> dict:
        """What came of one unit: how much was done, in how many seconds."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict:
        """The next line that it writes; the first one says that it is ready."""
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise SystemExit(f"A side of the comparison ended with {code}; its message is above.")
        return json.loads(line)


# --------------------------------------------------------------------------------------- the pairs
def compare(name: str, texts: str, pairs: int, quick: bool) -> dict:
    """Time pairs of units of a job.

    Args:
        name: of the job.
        texts: the file with them; "" where the job takes none.
        pairs: how many.
        quick: whether a unit is less work.

    Returns:
        Rates of both sides, ratios and their median, our share of the limit, peak memory, machine.
    """
    from tests.bench.jobs import JOBS
    from tests.bench.limits import Stopwatch
    from ulmfit_app.hardware import DTYPES, resolve_precision, set_up_cpu

    job = JOBS[name]
    set_up_cpu()
    stopwatch = Stopwatch(DTYPES[resolve_precision("auto")]) if job.has_limit else None
    units = ([], [])
    with Side(name, 0, texts, quick, WAITS) as plain, Side(name, 1, texts, quick, WAITS) as ours:
        sides = plain, ours
        # Neither is timed while the other still prepares itself.
        products = [side.answer() for side in sides][1]["products"]
        if stopwatch and not products:
            raise RuntimeError(f"{name}: limits.py saw no product. Does its encoder have others?")
        for _ in range(pairs):
            if stopwatch:
                stopwatch.take_turns(_products(products))
            for of_side, side in zip(units, sides, strict=True):
                of_side.append(side.unit())
            products = units[1][-1]["products"]
            if stopwatch:
                stopwatch.take_turns(_products(products))
    rates = [[unit["done"] / unit["seconds"] for unit in of_side] for of_side in units]
    ratios = [ours / plain for plain, ours in zip(*rates, strict=True)]
    return {
        "job": name,
        "counted": job.counted,
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "limit": measure_limit(stopwatch, units[1]) if stopwatch else None,
        "plain_per_s": round(statistics.median(rates[0]), 2),
        "ours_per_s": round(statistics.median(rates[1]), 2),
        "plain_peak_mib": units[0][-1]["peak_mib"],
        "ours_peak_mib": units[1][-1]["peak_mib"],
        "machine": machine(),
    }


def measure_limit(stopwatch: "Stopwatch", units: list[dict]) -> dict:
    """How long the products of some units take alone, as a share of how long the units took."""
    each = [_products(unit["products"]) for unit in units]
    seconds = [stopwatch.seconds(products) for products in each]
    shares = [limit / unit["seconds"] for limit, unit in zip(seconds, units, strict=True)]
    return {
        "share": round(statistics.median(shares), 3),
        "shares": [round(share, 3) for share in shares],
        "seconds": [round(limit, 4) for limit in seconds],
        "ours_seconds": [round(unit["seconds"], 4) for unit in units],
        "gflops": stopwatch.gflops(sum(each, Counter())),
        "large_gflops": stopwatch.large_gflops(),
    }


def _products(answered: list[list[float]]) -> "Counter[Product]":
    from tests.bench.limits import Product

    return Counter({Product(*sizes): times for *sizes, times in answered})


def machine() -> dict:
    """What was measured on, and with which versions."""
    import torch

    from ulmfit_app.hardware import name_processor, resolve_precision

    return {
        "processor": name_processor(),
        "threads": torch.get_num_threads(),
        "precision": resolve_precision("auto"),
        **{package: version(package) for package in ("fastai", "torch", "spacy")},
        "python": platform.python_version(),
    }


def slug_of(processor: str) -> str:
    """A processor's name as part of the names of files.

    >>> slug_of("Intel(R) Xeon(R) Processor")
    'intel-xeon-processor'
    """
    return re.sub(r"\W+", "-", re.sub(r"\((R|TM)\)", "", processor)).strip("-").lower()


def kind_of_processor() -> str:
    """This machine's, with what it multiplies bf16 by: "amd-epyc-avx512-bf16", "…-fp32"."""
    from ulmfit_app.hardware import bf16_units, name_processor

    short = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16", "bf16": "bf16"}
    used = short[bf16_units()[0]] if bf16_units() else "fp32"
    return f"{slug_of(name_processor())}-{used}"


# ------------------------------------------------------------------------------------ command line
def describe(result: dict) -> str:
    """A line for people."""
    limit = result["limit"]
    share = f", {limit['share']:.0%} of the limit ({limit['shares']})" if limit else ""
    return (
        f"{result['job']}: {result['ratio']} times plain fastai ({result['ratios']}), "
        f"{result['plain_per_s']:,} -> {result['ours_per_s']:,} {result['counted']}/s, "
        f"peak {result['plain_peak_mib']:,} -> {result['ours_peak_mib']:,} MiB{share}"
    )


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        job, side, texts, *quick = sys.argv[2:]
        return _work(job, int(side), texts, bool(quick))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    help_of_jobs = f"of {', '.join(NAMES)}; none: all but classifier-recompute"
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=help_of_jobs)
    parser.add_argument(
        "--data", default="", help="IMDb, where it is not in the cache, or for --quick"
    )
    parser.add_argument("--pairs", type=int, help=f"of timings per job: {PAIRS}, or {QUICK_PAIRS}")
    parser.add_argument("--quick", action="store_true", help="a look, in five minutes")
    given = parser.parse_args()
    unknown = set(given.jobs) - set(NAMES)
    if unknown:
        parser.error(f"no job {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    pairs = (QUICK_PAIRS if given.quick else PAIRS) if given.pairs is None else given.pairs
    if pairs < 1:
        parser.error(f"--pairs {pairs}: at least one is needed")
    jobs = [name for name in NAMES if name in (given.jobs or ALL)]
    try:
        run(jobs, given.data, pairs, given.quick)
    except (UserError, FetchError) as error:
        look = "" if given.quick else "\nWithout IMDb: python -m tests.bench.compare --quick"
        parser.exit(error.exit_code, f"{error}{look}\n")


def run(jobs: list[str], data: str, pairs: int, quick: bool) -> None:
    """Compare some jobs, print, and, unless quick, write."""
    from tests.bench.figure import draw
    from tests.bench.jobs import FULL, QUICK

    folder = OUT / kind_of_processor()
    with tempfile.TemporaryDirectory() as made:
        texts = Path(made) / "texts.json"
        if any(map(takes_texts, jobs)):
            n = (QUICK if quick else FULL).tokenized  # no job takes more
            table = _package_texts(n) if quick and not data else read_texts(data)[:n]
            write_json(texts, table.to_dict("list"))
        for job in jobs:
            result = compare(job, str(texts) if takes_texts(job) else "", pairs, quick)
            print(describe(result), flush=True)
            if not quick:
                write_json(folder / f"{job}.json", result)
    if quick:
        return print("A quick look at this machine; nothing was written.")
    paths = [folder / f"{name}.json" for name in NAMES]
    done = [json.loads(path.read_text()) for path in paths if path.exists()]
    draw(done, folder / "compare.png")
    print(folder)


if __name__ == "__main__":
    main()
