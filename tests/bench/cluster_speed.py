"""Rows per second of `predict --file --cluster` with one worker and with two, each on one core.

python -m tests.bench.cluster_speed RUN FILE.csv [PAIRS] [RESULT.json]

FILE.csv has a column `text`. One worker and two take turns, PAIRS times, so that both meet the
same noise. The scheduler and the command that reads and writes are on no core of their own. What
the workers' memory is over time is written beside the rates.
"""

import json
import os
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from data_scripts.files import sha256_of, write_json
from tests.bench.cluster_kills import ADDRESS, children, kill, start_scheduler, start_worker
from ulmfit_app.cluster import open_cluster
from ulmfit_app.data.reading import read_chunks
from ulmfit_app.files import write_table
from ulmfit_app.hardware import name_processor, set_up_cpu
from ulmfit_app.inference.predicted_file import predict_file
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.inference.spread import SharedPredictor


def memory_of(pids: list[int]) -> float:
    """In MB, of the largest."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return max(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def watch(pids: list[int], seen: list[float], ended: threading.Event) -> None:
    while not ended.wait(1):
        seen.append(round(memory_of(pids)))


def load(shared: SharedPredictor) -> None:
    shared.load()


def cpu_seconds(pids: list[int]) -> float:
    """Of processes so far, which other work on their cores does not change much."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(user) + int(system) for *_, user, system in (stat[:13] for stat in stats)) / (
        os.sysconf("SC_CLK_TCK")
    )


def measure(run: Path, file: Path, cores: list[int], out: Path) -> dict:
    """One worker per core, which has loaded the classifier before the clock starts."""
    scheduler = start_scheduler()
    workers = [start_worker() for _ in cores]
    for worker, core in zip(workers, cores, strict=True):
        os.sched_setaffinity(worker.pid, {core})
    predictor = load_predictor(run)
    shared = SharedPredictor.of(predictor, run)
    try:
        with open_cluster(ADDRESS, [run / "run.json"]) as cluster:
            cluster._client.wait_for_workers(len(cores), timeout=60)
            spread = partial(shared.spread, cluster)
            predict = partial(
                predict_file, predictor, text="text", encoding="utf-8", spread=spread
            )
            cluster._client.run(load, shared)
            few = out.with_name("few.csv")
            write_table(few, next(read_chunks(file, "utf-8", 100)))
            predict(few, out=out)  # the scheduler imports what it hands on
            pids = [pid for worker in workers for pid in children(worker)]
            pinned = {tuple(sorted(os.sched_getaffinity(pid))) for pid in pids}
            assert pinned == {(core,) for core in cores}, pinned
            seen, ended = [], threading.Event()
            watching = threading.Thread(target=watch, args=(pids, seen, ended))
            watching.start()
            before = [cpu_seconds(pids), cpu_seconds([scheduler.pid])]
            began = time.monotonic()
            own = time.process_time()
            rows = predict(file, out=out)
            seconds = time.monotonic() - began
            own = time.process_time() - own
            theirs, schedulers = (
                cpu_seconds(pids) - before[0],
                cpu_seconds([scheduler.pid]) - before[1],
            )
            ended.set()
            watching.join()
    finally:
        for process in (*workers, scheduler):
            kill(process)
    return {
        "workers": len(cores),
        "rows": rows,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "cpu_seconds": {
            "workers": round(theirs, 1),
            "scheduler": round(schedulers, 1),
            "reader": round(own, 1),
        },
        "memory_mb": seen,
        "sha256": sha256_of(out),
    }


def main(run: str, file: str, pairs: int = 3, result: str | None = None) -> None:
    set_up_cpu()
    found = []
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "out.csv"
        for _ in range(pairs):
            for cores in ([0], [0, 1]):
                found.append(measure(Path(run).absolute(), Path(file), cores, out))
                print(json.dumps(found[-1]), flush=True)
        predict_file(load_predictor(Path(run)), Path(file), out, "text", "utf-8")
        alone = sha256_of(out)
    ratios = [
        two["rows_per_second"] / one["rows_per_second"]
        for one, two in zip(found[::2], found[1::2], strict=True)
    ]
    facts = {
        "processor": name_processor(),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "same_as_without_a_cluster": {each["sha256"] for each in found} == {alone},
        "measured": found,
    }
    print({name: facts[name] for name in facts if name != "measured"})
    if result:
        write_json(Path(result), facts)


if __name__ == "__main__":
    words = sys.argv[1:]
    main(words[0], words[1], *map(int, words[2:3]), *words[3:4])
