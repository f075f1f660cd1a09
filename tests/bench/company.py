"""Does this application get its fair share beside other programs?

    python -m tests.bench.company [JOB …] [--data IMDB] [--rounds 5]

The jobs of tests/bench/compare.py, our side alone, in two processes that take turns: one with
torch's threads as they come, one with what the command line sets (`__main__.WAITS`). First the
machine is theirs; then a program that does nothing but count runs on each core; then it is theirs
again. As many threads as cores against one such program per core get half of the machine at most:
the fair share is half of the rate alone.

Writes results/PROCESSOR/company.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data_scripts.files import write_json
from tests.bench.compare import OUT, Side, kind_of_processor, machine, read_texts, takes_texts
from ulmfit_app.__main__ import WAITS
from ulmfit_app.hardware import count_cpus

JOBS = ("lm", "predict-one", "predict-512")
WAYS = {"torch's own": dict.fromkeys(WAITS), "the command line's": WAITS}


@contextmanager
def busy_cores() -> Iterator[None]:
    """A busy process per core, for as long as this lasts."""
    count = "while True: pass"
    others = [subprocess.Popen([sys.executable, "-c", count]) for _ in range(count_cpus())]
    try:
        if hasattr(os, "sched_setaffinity"):
            for cpu, other in zip(sorted(os.sched_getaffinity(0)), others, strict=False):
                os.sched_setaffinity(other.pid, [cpu])
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(job: str, texts: str, rounds: int) -> dict[str, dict]:
    """Rates of a job alone and in company, each way."""
    with ExitStack() as stack:
        sides = {
            way: stack.enter_context(Side(job, 1, texts, False, environ))
            for way, environ in WAYS.items()
        }
        for side in sides.values():
            side.answer()
        before = _take_turns(sides, rounds)
        with busy_cores():
            beside = _take_turns(sides, rounds)
        after = _take_turns(sides, rounds)
    return {way: _summarize(before[way] + after[way], beside[way]) for way in WAYS}


def _take_turns(sides: dict[str, Side], rounds: int) -> dict[str, list[float]]:
    rates = {way: [] for way in sides}
    for _ in range(rounds):
        for way, side in sides.items():
            unit = side.unit()
            rates[way].append(unit["done"] / unit["seconds"])
    return rates


def _summarize(alone: list[float], beside: list[float]) -> dict:
    rates = statistics.median(alone), statistics.median(beside)
    return {
        "alone_per_s": round(rates[0], 2),
        "beside_per_s": round(rates[1], 2),
        "of_fair_share": round(rates[1] / (rates[0] / 2), 3),
        "all_alone": [round(rate, 2) for rate in alone],
        "all_beside": [round(rate, 2) for rate in beside],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)}; none: all")
    parser.add_argument("--data", default="", help="IMDb, where it is not in the cache")
    parser.add_argument("--rounds", type=int, default=5, help="of units, three times")
    given = parser.parse_args()
    from tests.bench.jobs import FULL

    unknown = set(given.jobs) - set(JOBS)
    if unknown:
        parser.error(f"no job {', '.join(sorted(unknown))}; there are: {', '.join(JOBS)}")
    path, found = OUT / kind_of_processor() / "company.json", {}
    with tempfile.TemporaryDirectory() as made:
        texts = Path(made) / "texts.json"
        jobs = given.jobs or JOBS
        if any(map(takes_texts, jobs)):
            write_json(texts, read_texts(given.data)[: FULL.tokenized].to_dict("list"))
        for job in jobs:
            found[job] = measure(job, str(texts) if takes_texts(job) else "", given.rounds)
            for way, of_way in found[job].items():
                share = f"{of_way['of_fair_share']:.0%} of the fair share"
                rates = f"{of_way['alone_per_s']:,} -> {of_way['beside_per_s']:,} per s"
                print(f"{job}, {way} waiting: {rates}, {share}", flush=True)
    write_json(path, {"machine": machine(), "jobs": found})


if __name__ == "__main__":
    main()
