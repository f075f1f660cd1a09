"""20 kills of workers, of the scheduler and of the command itself during a big prediction.

python -m tests.bench.cluster_kills RUN FILE.csv [KILLS]

RUN is a run, FILE.csv has a column `text`. Afterwards the parts are compared with those of one
process that nobody disturbed: none lost, none twice, the same bytes.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from data_scripts.files import sha256_of
from ulmfit_app.data.reading import read_table
from ulmfit_app.files import write_table

PORT = 8907
ADDRESS = f"tcp://127.0.0.1:{PORT}"
N_PARTS, ROWS = 120, 1_500
QUIET = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start(*words: str) -> subprocess.Popen:
    # A group of its own, so that a nanny's worker can be killed with it.
    return subprocess.Popen([sys.executable, "-m", *words], start_new_session=True, **QUIET)


def start_scheduler() -> subprocess.Popen:
    return start(
        *("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(PORT)),
        "--no-dashboard",
    )


def start_worker() -> subprocess.Popen:
    return start(
        *("distributed.cli.dask_worker", ADDRESS, "--nworkers", "1", "--nthreads", "1"),
        "--no-dashboard",
    )


def kill(process: subprocess.Popen) -> None:
    """With all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def children(process: subprocess.Popen) -> list[int]:
    """A nanny starts its worker in a thread of its own."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(pid) for thread in threads for pid in thread.read_text().split()]


def kill_worker_alone(nanny: subprocess.Popen) -> bool:
    """The worker of a nanny, which starts another one."""
    for pid in children(nanny):
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def wait_for_another(out: Path, running: subprocess.Popen) -> None:
    """Until a part is there that was not, so that each kill hits something under way."""
    count, end = len(list(out.glob("part-*.csv"))), time.monotonic() + 60
    while time.monotonic() < end and running.poll() is None:
        if len(list(out.glob("part-*.csv"))) > count:
            return
        time.sleep(0.05)


def disturb(command: list[str], out: Path, kills: int) -> dict[str, int]:
    """Kill until it is enough, and let the command end."""
    rng, done = random.Random(0), {}
    scheduler = start_scheduler()
    workers = [start_worker(), start_worker()]
    running = start(*command)
    while True:
        if sum(done.values()) < kills:
            wait_for_another(out, running)
            time.sleep(rng.uniform(0, 1))
            what = rng.choice(["worker", "worker", "nanny", "command", "scheduler"])
            if what == "worker" and not kill_worker_alone(rng.choice(workers)):
                continue
            if what == "nanny":
                i = rng.randrange(2)
                kill(workers[i])
                workers[i] = start_worker()
            if what == "command":
                kill(running)
            if what == "scheduler":
                kill(scheduler)
                for worker in workers:
                    kill(worker)
                scheduler, workers = start_scheduler(), [start_worker(), start_worker()]
            done[what] = done.get(what, 0) + 1
            there = len(list(out.glob("part-*.csv")))
            print(f"kill {sum(done.values())}: {what}, {there} parts there", flush=True)
        if running.poll() is not None:
            if running.returncode == 0:
                break
            running = start(*command)
        time.sleep(0.5)
    for process in (*workers, scheduler):
        kill(process)
    return done


def main(run: str, file: str, kills: int = 20) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        table = read_table(Path(file))
        for i in range(N_PARTS):
            rows = table.sample(ROWS, random_state=i).assign(part=str(i))
            write_table(folder / "in" / f"part-{i:03}.csv", rows)
        plain = ["ulmfit_app", "predict", run, "--files", str(folder / "in"), "--text", "text"]
        alone, out = folder / "alone", folder / "out"
        start(*plain, "--out", str(alone)).wait()
        began = time.monotonic()
        done = disturb([*plain, "--out", str(out), "--cluster", ADDRESS], out, kills)
        seconds = time.monotonic() - began
        names = {path.name for path in alone.iterdir()}
        found = {path.name for path in out.iterdir()}
        same = sum(sha256_of(alone / name) == sha256_of(out / name) for name in names & found)
        print(
            f"{sum(done.values())} kills {done} in {seconds:.0f} s: {len(names)} files expected, "
            f"{len(found)} found, {same} the same; others: {sorted(found ^ names)}"
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
