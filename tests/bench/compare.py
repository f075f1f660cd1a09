"""This application against plain fastai, job by job: python -m tests.bench.compare [JOB …] [--data
IMDB] [--pairs 5]

Each side of a job runs in a process of its own, and the two take turns on all cores: plain, ours,
plain, ours. What is reported is the median of the ratios of the pairs, so that a machine that
slows down or speeds up meanwhile does both sides alike. Peak memory is a process's own, imports
included. Beside them stands the rate of a large matrix product, measured in the same run.

Writes results/JOB.json a job, and results/compare.png from what is there.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

OUT = Path(__file__).parent / "results"
LABELS = {
    "lm": "language model, training",
    "lm-sampled": "the same, sampled softmax",
    "classifier": "classifier, training",
    "predict-one": "one prediction",
    "predict-one-int8": "the same, int8",
    "predict-512": "512 predictions",
    "tokens": "tokens",
}


# ----------------------------------------------------------------------------- in a process a side
def _work(job: str, side: int, data: str) -> None:
    """Answer each line on standard input with a line of JSON: one unit of the job's work,
    timed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for an answer
    warnings.filterwarnings("ignore")
    texts = None if job.startswith("lm") else _texts(data)
    from tests.bench.jobs import JOBS
    from ulmfit_app.hardware import set_up_cpu

    set_up_cpu()  # on both sides: plain fastai, which has no such thing, gains by it too
    unit = JOBS[job][side](texts)
    unit()  # warms up: memory, caches, and the batch of the longest texts
    for _ in sys.stdin:
        began = time.perf_counter()
        done = unit()
        answer = {"done": done, "seconds": time.perf_counter() - began, "peak_mib": _peak_mib()}
        print(json.dumps(answer), file=answers, flush=True)


def _texts(data: str):
    """IMDb's training reviews, mixed by a fixed seed, with their labels."""
    from ulmfit_app.config import DataSettings
    from ulmfit_app.data.corpus import load_corpus

    table = load_corpus(DataSettings("imdb", data=Path(data) if data else None), seed=0).table
    table = table[table["split"] == "train"]
    return table.sample(frac=1, random_state=0)[["text", "label"]].reset_index(drop=True)


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class _Side:
    def __init__(self, job: str, side: int, data: str) -> None:
        command = [sys.executable, "-m", "tests.bench.compare", "--work", job, str(side), data]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def unit(self) -> dict:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise SystemExit(f"A side of the comparison ended with {code}; its message is above.")
        return json.loads(line)


@contextmanager
def _sides(job: str, data: str) -> Iterator[list[_Side]]:
    sides = [_Side(job, side, data) for side in (0, 1)]
    try:
        yield sides
    finally:
        for side in sides:
            side.process.stdin.close()
            side.process.wait()


# --------------------------------------------------------------------------------------- the pairs
def compare(job: str, data: str, pairs: int) -> dict:
    """Time `pairs` pairs of units of a job; rates of both sides, ratios and their median, peak
    memory, machine."""
    from tests.bench.jobs import JOBS

    *_, at_least, aim, counted, flop = JOBS[job]
    rates, peaks = ([], []), [0, 0]
    with _sides(job, data) as sides:
        for _ in range(pairs):
            for i, side in enumerate(sides):
                result = side.unit()
                rates[i].append(result["done"] / result["seconds"])
                peaks[i] = result["peak_mib"]
    ratios = [ours / plain for plain, ours in zip(*rates, strict=True)]
    summary = {
        "job": job,
        "counted": counted,
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(r, 2) for r in ratios],
        "at_least": at_least,
        "aim": aim,
        "plain_per_s": round(statistics.median(rates[0]), 2),
        "ours_per_s": round(statistics.median(rates[1]), 2),
        "plain_peak_mib": peaks[0],
        "ours_peak_mib": peaks[1],
        "machine": machine(),
    }
    if flop:
        peak = gemm_gflops()
        achieved = [statistics.median(r) * flop / 1e9 for r in rates]
        summary["roofline"] = {
            "gemm_gflops": peak,
            "plain_gflops": round(achieved[0]),
            "ours_gflops": round(achieved[1]),
            "ours_share_of_gemm": round(achieved[1] / max(peak.values()), 3),
        }
    return summary


def gemm_gflops() -> dict[str, int]:
    """The best rate of a product as large as an LSTM layer's over a batch, in each precision of
    this machine's."""
    import torch

    from ulmfit_app.hardware import DTYPES, available_precisions

    best = {}
    for precision in available_precisions():
        a, b = (
            torch.randn(4608, 1152).to(DTYPES[precision]),
            torch.randn(1152, 4608).to(DTYPES[precision]),
        )
        seconds = []
        for _ in range(8):
            began = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - began)
        best[precision] = round(2 * 4608 * 1152 * 4608 / min(seconds) / 1e9)
    return best


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


def draw(results: list[dict], path: Path) -> None:
    """A bar a job: how many times as fast as plain fastai, beside the goal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.55 * len(results) + 1.4), layout="constrained")
    axes = figure.subplots()
    names = [LABELS[r["job"]] for r in results]
    axes.barh(names, [r["ratio"] for r in results], color="#4c72b0", height=0.6)
    for i, r in enumerate(results):
        axes.plot(
            [r["at_least"]] * 2,
            [i - 0.38, i + 0.38],
            color="black",
            label="goal" if i == 0 else None,
        )
        axes.plot([min(r["ratios"]), max(r["ratios"])], [i, i], color="#222222", linewidth=1.2)
        digits = 1 if r["ours_per_s"] < 100 else 0
        unit = f"{r['plain_per_s']:,.{digits}f} → {r['ours_per_s']:,.{digits}f} {r['counted']}/s"
        axes.text(
            max(*r["ratios"], r["at_least"]) + 0.15,
            i,
            f"{r['ratio']:.1f}×  ({unit})",
            va="center",
            fontsize=9,
        )
    axes.set_xlim(0, max(max(r["ratios"]) for r in results) * 1.55)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast as plain fastai (bar: median of pairs, line: all of them)")
    m = results[-1]["machine"]
    axes.set_title(
        f"{m['processor']}, {m['threads']} threads, {m['precision']}, torch {m['torch']}",
        fontsize=9,
    )
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        return _work(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help=f"of {', '.join(LABELS)}; none: all"
    )
    parser.add_argument("--data", default="", help="IMDb, where it is not in the cache")
    parser.add_argument("--pairs", type=int, default=5, help="of timings a job; 5 unless told")
    arguments = parser.parse_args()
    unknown = set(arguments.jobs) - set(LABELS)
    if unknown:
        parser.error(f"no job {', '.join(sorted(unknown))}; there are: {', '.join(LABELS)}")
    OUT.mkdir(exist_ok=True)
    for job in arguments.jobs or LABELS:
        result = compare(job, arguments.data, arguments.pairs)
        (OUT / f"{job}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(
            f"{job}: {result['ratio']} times plain fastai ({result['ratios']}), "
            f"{result['plain_per_s']:,} -> {result['ours_per_s']:,} {result['counted']}/s, "
            f"peak {result['plain_peak_mib']:,} -> {result['ours_peak_mib']:,} MiB",
            flush=True,
        )
    done = [
        json.loads((OUT / f"{job}.json").read_text())
        for job in LABELS
        if (OUT / f"{job}.json").exists()
    ]
    draw(done, OUT / "compare.png")


if __name__ == "__main__":
    main()
