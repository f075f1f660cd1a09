"""How far training by several processes goes: measured here with one and two, simulated beyond.

python -m tests.bench.scale            measures, then simulates; writes docs/results/scale/ and
                                       the tables of docs/scale.md
python -m tests.bench.scale simulate   simulates again from what was measured

One process has one core, two have one each. A language model of the preset `small` is trained by
the loop that everything is trained by, in turns by one process with the whole batch, by one with
half of it, and by two that share it. `predict` knows the first two and the network's times, and
says how long the third should take.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from fastai.callback.core import Callback

from data_scripts.files import write_json

OUT, PAGE = Path("docs/results/scale"), Path("docs/scale.md")
BEGIN, END = "<!-- what was measured -->\n", "<!-- until here -->\n"  # of the page's tables
VOCAB, BPTT, BATCH = 40_000, 70, 128
STEPS, WARM = 8, 3  # timed, and before them
ROUNDS = 3
SIZES = [1, 100_000, 1_000_000, 10_000_000]  # numbers that are summed up
# Bytes per second one way, and seconds per message: what networks promise, less a fifth.
NETWORKS = {
    "1 Gb/s Ethernet": (1.0e8, 5e-5),
    "10 Gb/s Ethernet": (1.0e9, 3e-5),
    "100 Gb/s InfiniBand": (1.0e10, 5e-6),
}
PROCESSES = [2**power for power in range(11)]


# -------------------------------------------------------------------------------- the simulation
@dataclass(frozen=True)
class Costs:
    """What a step of a process costs.

    Args:
        fixed, per_row: seconds, in all and for each row of the batch that it reads.
        bytes_sent: of the gradients.
        spread: of its steps, each by the median one, [n]; drawn from for each process and step.
    """

    fixed: float
    per_row: float
    bytes_sent: int
    spread: tuple[float, ...] = (1.0,)


def seconds_to_sum(size: int, processes: int, bandwidth: float, latency: float) -> float:
    """A ring: each process sends 2 (n - 1) parts of size / n to its neighbour (Patarasuk and Yuan
    2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").

    Args:
        size: bytes that each has.
        processes: n.
        bandwidth: bytes per second.
        latency: seconds per message.

    >>> seconds_to_sum(1_000, 1, 1e3, 1.0), seconds_to_sum(1_000, 2, 1e3, 0.5)
    (0.0, 2.0)
    """
    messages = 2 * (processes - 1)
    return messages * (latency + size / processes / bandwidth)


def simulate(
    costs: Costs,
    rows: int,
    processes: int,
    network: tuple[float, float],
    steps: int = 200,
    seed: int = 0,
) -> float:
    """Seconds per step, in the mean: all wait for the slowest, then for the sum.

    Args:
        costs: of a process.
        rows: of the whole batch; who has fewer than others waits for them.
        processes: that share it.
        network: bandwidth and latency.
        steps: so many.
        seed: of how much each process is slower or faster in each step.

    >>> simulate(Costs(0.5, 0.1, 0), 10, 5, (1.0, 0.0))
    0.7
    """
    draws = np.random.default_rng(seed).choice(costs.spread, (steps, processes))
    own = costs.fixed + costs.per_row * -(-rows // processes)
    computing = own * float(draws.max(1).mean())
    return computing + seconds_to_sum(costs.bytes_sent, processes, *network)


def where_half(costs: Costs, rows: int, grows: bool, network: tuple[float, float]) -> int:
    """The largest number of PROCESSES that are at least half as good, each, as one alone.

    Args:
        costs, network: as `simulate` takes them.
        rows: of the batch.
        grows: the batch, with the processes; otherwise they share it.
    """
    alone, best = simulate(costs, rows, 1, network), 1
    for n in PROCESSES:
        time_of_step = simulate(costs, rows * n if grows else rows, n, network)
        speedup = alone / time_of_step * (n if grows else 1)
        best = n if speedup >= n / 2 else best
    return best


# ------------------------------------------------------------------------------------ measuring
class Clock(Callback):
    """Seconds of each step, and of the sum in it."""

    order = 90

    def before_fit(self) -> None:
        self.steps = []

    def before_batch(self) -> None:
        self.began = time.perf_counter()

    def after_batch(self) -> None:
        if self.training:
            self.steps.append(time.perf_counter() - self.began)


def work(out: Path, batch: int) -> None:
    """Train for some steps on the core that is this process's, and write how long they took."""
    place, processes_here = (
        int(os.environ.get(n, d)) for n, d in (("LOCAL_RANK", 0), ("WORLD_SIZE", 1))
    )
    os.sched_setaffinity(0, {place})
    import torch

    from ulmfit_app.hardware import set_up_cpu
    from ulmfit_app.training import processes

    set_up_cpu()
    torch.set_num_threads(1)
    if processes_here > 1:
        processes.join()
    sums = {size: _time_sum(size) for size in SIZES} if processes_here > 1 else {}
    if processes.rank():
        from ulmfit_app.training.following import follow

        follow()
        return
    steps, bytes_sent = _train(batch)
    write_json(out, {"steps": steps, "bytes": bytes_sent, "sums": sums})
    processes.leave()


def _time_sum(size: int) -> float:
    import torch

    from ulmfit_app.training import processes

    numbers, times = torch.ones(size), []
    for _ in range(7):
        began = time.perf_counter()
        processes.sum_up(numbers)
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def _train(batch: int) -> tuple[list[float], int]:
    from ulmfit_app.models.pretrained import find_start
    from ulmfit_app.presets import SMALL
    from ulmfit_app.text.rules import SPECIALS
    from ulmfit_app.text.store import TokenStore
    from ulmfit_app.training import language_model
    from ulmfit_app.training.loop import seed_everything, train
    from ulmfit_app.training.recipes import Phase

    lm = replace(SMALL.lm, batch_size=batch, bptt=BPTT)
    rng = np.random.default_rng(0)
    lengths = [BPTT] * (batch * (STEPS + WARM) + 2) + [BPTT] * batch
    # Words as frequent as words are (Zipf's law).
    ids = np.minimum(rng.zipf(1.3, sum(lengths)) + len(SPECIALS), VOCAB - 1).astype(np.int32)
    words = [*SPECIALS, *(f"w{i}" for i in range(VOCAB - len(SPECIALS)))]
    store = TokenStore(ids, np.cumsum([0, *lengths]).astype(np.int64), words)
    texts = np.arange(len(lengths))
    seed_everything(0)
    start = find_start("none", SMALL.model)
    parts = texts[:-batch], texts[-batch:]
    learn = language_model.make_learner(store, *parts, start, lm, "auto", 0)
    learn.add_cb(clock := Clock())
    how = language_model.training_settings(lm, "forward", "k")
    with TemporaryDirectory() as folder:
        train(learn, (Phase("steady", 1, 0, 1e-3),), Path(folder), how)
    size = sum(each.numel() * each.element_size() for each in learn.model.parameters())
    return clock.steps[WARM : WARM + STEPS], size


def _launch(processes: int, batch: int) -> dict:
    with TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        launcher = [
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            "-m",
        ]
        words = [*(launcher if processes > 1 else []), "tests.bench.scale", "work", out, batch]
        command = [sys.executable, "-m", *map(str, words)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
        return json.loads(out.read_text())


def measure() -> dict:
    """The steps of one process with the batch and with half of it, and of two, in turns."""
    kinds = {"one": (1, BATCH), "one, half the batch": (1, BATCH // 2), "two": (2, BATCH)}
    found = {name: {"steps": [], "sums": []} for name in kinds}
    for number in range(ROUNDS):
        for name, how in kinds.items():
            once = _launch(*how)
            found[name]["steps"] += once["steps"]
            found[name]["sums"].append(once["sums"])
            found[name]["bytes"] = once["bytes"]
            median = np.median(once["steps"])
            print(f"Round {number + 1}, {name}: {median:.3f} s per step", flush=True)
    sums = {
        size: float(np.median([each[str(size)] for each in found["two"]["sums"]]))
        for size in SIZES
    }
    from ulmfit_app.hardware import name_processor, resolve_precision

    return {
        "processor": name_processor(),
        "precision": resolve_precision("auto"),
        "batch": BATCH,
        "bptt": BPTT,
        "bytes": found["one"]["bytes"],
        "steps": {name: each["steps"] for name, each in found.items()},
        "sums": sums,
    }


def costs_of(measured: dict) -> tuple[Costs, tuple[float, float]]:
    """A process's costs, and the bandwidth and latency between two, of what was measured with one
    process and by sums alone."""
    whole, half = (np.median(measured["steps"][name]) for name in ("one", "one, half the batch"))
    per_row = (whole - half) / (measured["batch"] / 2)
    steps = np.array(measured["steps"]["one"])
    spread = tuple((steps / np.median(steps)).round(4).tolist())
    # A busy machine may have made the whole batch slower by more than twice.
    fixed = max(whole - per_row * measured["batch"], 0.0)
    costs = Costs(fixed, per_row, measured["bytes"], spread)
    sums = {int(size): seconds for size, seconds in measured["sums"].items()}
    latency = sums[SIZES[0]] / 2
    bandwidth = 4 * SIZES[-1] / (sums[SIZES[-1]] - 2 * latency)
    return costs, (bandwidth, latency)


def predict(measured: dict) -> dict:
    """Seconds per step of one and two processes, as simulated and as measured."""
    costs, network = costs_of(measured)
    rows = {}
    for name, n in (("one", 1), ("two", 2)):
        found = float(np.median(measured["steps"][name]))
        rows[name] = {
            "simulated": simulate(costs, measured["batch"], n, network),
            "measured": found,
        }
    tokens = measured["batch"] * measured["bptt"]
    alone, together = rows["one"]["measured"], rows["two"]["measured"]
    return {
        "seconds per step": rows,
        "tokens per second": {name: tokens / each["measured"] for name, each in rows.items()},
        "speedup": alone / together,
        "bandwidth": network[0],
        "latency": network[1],
    }


def beyond(measured: dict) -> dict:
    """By network and number of processes, how many times as fast as one."""
    costs, _ = costs_of(measured)
    rows, found = measured["batch"], {}
    for name, network in NETWORKS.items():
        alone = simulate(costs, rows, 1, network)
        found[name] = {
            "shared batch": [alone / simulate(costs, rows, n, network) for n in PROCESSES],
            "growing batch": [
                alone * n / simulate(costs, rows * n, n, network) for n in PROCESSES
            ],
            "half as good": [where_half(costs, rows, grows, network) for grows in (False, True)],
        }
    return {"processes": PROCESSES, "speedup": found}


def describe(measured: dict) -> str:
    """The tables of the page."""
    checked, further = predict(measured), beyond(measured)
    tokens = checked["tokens per second"]
    steps, costs = checked["seconds per step"], costs_of(measured)[0]
    lines = [
        f"| {measured['batch']} x {measured['bptt']} tokens per step | seconds per step, measured "
        "| simulated | tokens/s |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {steps[of]['measured']:.2f} | {steps[of]['simulated']:.2f} "
            f"| {tokens[of]:,.0f} |"
            for name, of in (("one process on one core", "one"), ("two, one core each", "two"))
        ),
        "",
        f"Two processes are {checked['speedup']:.2f} times as fast as one (an "
        f"{measured['processor']}, {measured['precision']}, the others idle). Each sends "
        f"{costs.bytes_sent / 1e6:.0f} MB of gradients per step; between processes of this "
        f"machine that runs at {checked['bandwidth'] / 1e9:.1f} GB/s.",
        "",
        "| a billion tokens, read once | hours |",
        "| --- | --- |",
        *(
            f"| {name} | {1e9 / rate / 3_600:.1f} |"
            for name, rate in (
                ("one core", tokens["one"]),
                ("two cores", tokens["two"]),
                (
                    "64 cores of 64 machines, 10 Gb/s, the batch 64 times as large",
                    tokens["one"]
                    * further["speedup"]["10 Gb/s Ethernet"]["growing batch"][PROCESSES.index(64)],
                ),
            )
        ),
        "",
        f"| at least half as good each as one, up to | {measured['batch']} rows shared | "
        f"{measured['batch']} rows each |",
        "| --- | --- | --- |",
        *(
            f"| {name} | " + " | ".join(_processes(n) for n in found["half as good"]) + " |"
            for name, found in further["speedup"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _processes(n: int) -> str:
    return f"{n:,} processes{' or more' if n == PROCESSES[-1] else ''}"


def draw(found: dict, path: Path) -> None:
    """How many times as fast, by processes, a panel for each kind of batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, kind in zip(
        figure.subplots(1, 2, sharey=True), ("shared batch", "growing batch"), strict=True
    ):
        n = found["processes"]
        axes.plot(n, n, color="gray", linestyle=":", label="one each")
        for (name, of_network), marker in zip(found["speedup"].items(), "os^", strict=True):
            axes.plot(n, of_network[kind], marker=marker, markersize=4, label=name)
        axes.set(xscale="log", yscale="log", xlabel="processes, one core each")
        axes.set_title(f"{BATCH} rows shared" if kind == "shared batch" else f"{BATCH} rows each")
    figure.axes[0].set_ylabel("times as fast as one")
    figure.axes[0].legend()
    figure.savefig(path, dpi=120)


def main(words: list[str]) -> None:
    if words[:1] == ["work"]:
        work(Path(words[1]), int(words[2]))
        return
    if words != ["simulate"]:
        write_json(OUT / "measured.json", measure())
    measured = json.loads((OUT / "measured.json").read_text())
    checked, further = predict(measured), beyond(measured)
    write_json(OUT / "simulated.json", checked | further)
    draw(further, OUT / "scale.png")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(before + BEGIN + describe(measured) + END + after, encoding="utf-8")
    for name, row in checked["seconds per step"].items():
        print(f"{name}: {row['measured']:.3f} s per step, simulated {row['simulated']:.3f}")
    print(f"Two processes are {checked['speedup']:.2f} times as fast as one.")


if __name__ == "__main__":
    main(sys.argv[1:])
