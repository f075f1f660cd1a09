"""How much `serve` carries: python -m tests.bench.serving RUN [--data IMDB] [--seconds 60]
[--memory-minutes 10]

The server is a process of its own on the loopback device; 1, 8, 64 and 512 connections ask for one
text of about 200 tokens each, over and over (http_load.py), and every answer is compared with what
the predictor itself says. Beside it, on the same texts and in the same run: `predict --file`; wrk,
where it is installed, which compares nothing; and the server of a tutorial (naive_server.py). Then
memory under load, and what becomes of requests when the server is stopped, or killed, and started
again. Clients and server share the machine's cores; how many each kept busy is written beside each
figure, and those that others kept busy, which should be none.

Writes results/serving.json. For Linux.
"""

import argparse
import asyncio
import bisect
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_scripts.files import write_json
from tests.bench.compare import OUT, machine, read_texts
from tests.bench.http_load import Checker, Load, Tally, make_requests
from tests.bench.served import Cores, Served

CONNECTIONS = [1, 8, 64, 512]
MANY = 64
TOKENS = 200
WARM_SECONDS = 3.0  # of each level, before it is timed
RESTART_SECONDS = 8.0  # of load before the signal and after the new start
# Of a probability, from that of the predictor, which puts texts of like length together: in a
# batch of another size the same products are summed in another order.
TOLERANCE = {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.01, "int8": 1e-4}

_LUA = """local bodies, i = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local headers = {["Content-Type"] = "application/json"}
request = function()
  i = i + 1
  return wrk.format("POST", "/v1/predict", headers, bodies[(i - 1) %% #bodies + 1])
end
"""


# --------------------------------------------------------------------------------------- the texts
def make_texts(predictor, data: str, n: int) -> list[str]:
    """Texts of as near to 200 of the model's tokens as their words allow, always the same ones.

    Args:
        predictor: whose tokens are counted.
        data: IMDb, whose training reviews are joined and cut; "": words of the vocabulary.
        n: texts.
    """
    if data:
        words = " ".join(read_texts(data)["text"][: 2 * n]).split()
    else:
        known = [word for word in predictor.bundle.vocab if word.isalpha()]
        words = random.Random(0).choices(known, k=TOKENS * n)
    texts, start = [], 0
    for _ in range(n):
        left = words[start : start + TOKENS]

        def count(k: int, left=left) -> int:
            return len(predictor.tokenizer(" ".join(left[:k])))

        stop = bisect.bisect_right(range(len(left) + 1), TOKENS, key=count) - 1
        texts.append(" ".join(left[:stop]))
        start = (start + stop) % (len(words) - TOKENS)
    return texts


# ---------------------------------------------------------------------------------- predict --file
def time_file(predictor, texts: list[str]) -> dict[str, float]:
    """Texts per second, and per second of CPU time, of `predict_file` with a predictor that is
    loaded."""
    from ulmfit_app.inference.predicted_file import predict_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.csv"
        pd.DataFrame({"text": texts}).to_csv(path, index=False)
        began, cpu = time.perf_counter(), time.process_time()
        predict_file(predictor, path, Path(folder) / "out.csv", "text", "utf-8")
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    rates = {"texts_per_s": len(texts) / took, "texts_per_cpu_s": len(texts) / cpu}
    return {name: round(rate, 2) for name, rate in rates.items()}


def time_command(run: Path, texts: list[str], precision: str) -> float:
    """Texts/s of the command, from its start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.csv"
        pd.DataFrame({"text": texts}).to_csv(path, index=False)
        command = ["predict", run, "--file", path, "--text", "text", "--precision", precision]
        command += ["--out", Path(folder) / "out.csv"]
        began = time.perf_counter()
        _quiet([sys.executable, "-m", "ulmfit_app", *map(str, command)])
        return len(texts) / (time.perf_counter() - began)


def _quiet(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} … ended with {done.returncode}: {done.stderr}")
    return done.stdout


# ---------------------------------------------------------------------------------------- the load
def summary(tally: Tally, seconds: float) -> dict[str, Any]:
    """A level's figures; those of time without the warming up."""
    return {
        **tally.rate(WARM_SECONDS, WARM_SECONDS + seconds),
        "sent": tally.sent,
        "by_status": {str(status): n for status, n in sorted(tally.statuses.items())},
        "closed_without_answer": tally.closed,
        "cut": tally.cut,
        "unfinished": tally.unfinished,
        "adds_up": tally.adds_up,
        "wrong": tally.wrong,
        "largest_difference": float(f"{tally.largest:.3g}"),
        "other_label": tally.other_label,
    }


def measure_level(
    served: Served, requests: list[bytes], checker: Checker, connections: int, seconds: float
) -> dict[str, Any]:
    """A number of connections for some seconds."""
    before, cores = batches_of(served), Cores(served)
    load = Load(served.port, requests, checker, f"c{connections}")
    tally = asyncio.run(load.run(connections, WARM_SECONDS + seconds))
    busy, after = cores.shares(), batches_of(served)
    texts, batches = (b - a for a, b in zip(before, after, strict=True))
    level = {"connections": connections, **summary(tally, seconds), "cores": busy}
    level["requests_per_cpu_s"] = round(tally.statuses[200] / busy["server_cpu_s"], 2)
    return level | ({"texts_per_batch": round(texts / batches, 1)} if batches else {})


def batches_of(served: Served) -> tuple[float, float]:
    """How many texts were predicted, and in how many batches; of another server, nothing."""
    try:
        metrics = served.metrics()
    except OSError:
        return 0.0, 0.0
    return tuple(metrics.get(f"ulmfit_batch_texts_{of}", 0.0) for of in ("sum", "count"))


def measure_wrk(served: Served, texts: list[str], connections: int, seconds: float) -> dict | None:
    """The same by wrk, which compares no answers; None where it is not installed."""
    if shutil.which("wrk") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        bodies, script = Path(folder) / "bodies", Path(folder) / "load.lua"
        bodies.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        script.write_text(_LUA % bodies)
        how = ["-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "120s", "--latency"]
        cores = Cores(served)
        url = f"http://127.0.0.1:{served.port}"
        said = _quiet(["wrk", *how, "-s", str(script), url])
    return {"connections": connections, **read_wrk(said), "cores": cores.shares()}


def read_wrk(said: str) -> dict[str, Any]:
    """Figures in what wrk prints."""

    def milliseconds(share: str) -> float:
        value, unit = re.search(rf"^\s+{share}%\s+([\d.]+)(us|ms|s|m)\s*$", said, re.M).groups()
        return round(float(value) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit], 1)

    errors = re.search(r"Socket errors: (.*)", said)
    other = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    return {
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),
        "p50_ms": milliseconds("50"),
        "p99_ms": milliseconds("99"),
        "socket_errors": errors[1] if errors else "none",
        "not_200": int(other[1]) if other else 0,
    }


# ------------------------------------------------------------------------------------------ memory
def measure_memory(
    served: Served, requests: list[bytes], checker: Checker, minutes: float
) -> dict[str, Any]:
    """What the server holds, each second of a load by 64 connections, and how fast that grows."""
    held: list[tuple[float, int]] = []

    async def watch(load: Load) -> Tally:
        running = asyncio.create_task(load.run(MANY, 60 * minutes))
        began = time.perf_counter()
        while not running.done():
            held.append((time.perf_counter() - began, served.memory()))
            await asyncio.wait([running], timeout=1)
        return running.result()

    tally = asyncio.run(watch(Load(served.port, requests, checker, "memory")))
    at, kilobytes = np.array(held).T
    late = at > at[-1] / 2
    return {
        "minutes": minutes,
        "connections": MANY,
        "requests": tally.sent,
        "wrong": tally.wrong,
        "first_mib": round(float(kilobytes[0]) / 1024, 1),
        "last_mib": round(float(kilobytes[-1]) / 1024, 1),
        "most_mib": round(float(kilobytes.max()) / 1024, 1),
        "kb_per_minute": _slope(at, kilobytes),
        "kb_per_minute_second_half": _slope(at[late], kilobytes[late]),
    }


def _slope(seconds: np.ndarray, kilobytes: np.ndarray) -> float:
    """kB per minute, by least squares."""
    return round(60 * float(np.polyfit(seconds, kilobytes, 1)[0]), 1)


# ---------------------------------------------------------------------------------------- restarts
def measure_restart(
    command: list[Any], requests: list[bytes], checker: Checker, kind: signal.Signals
) -> dict[str, Any]:
    """Stop the server under a load by 64 connections and start it again on its port.

    Its log of answers has the id of each request that it answered, so that none can be lost
    unseen.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "answers.jsonl"
        command = [*command, "--log", log]

        async def run(load: Load, served: Served) -> tuple[Served, int, float]:
            running = asyncio.create_task(load.run(MANY, 600))
            await asyncio.sleep(RESTART_SECONDS)
            began = time.perf_counter()
            code = await asyncio.to_thread(served.end, kind)
            down = time.perf_counter() - began
            again = await asyncio.to_thread(
                Served, "ulmfit_app", [*command, "--port", served.port]
            )
            await asyncio.sleep(RESTART_SECONDS)
            load.stop()
            await running
            return again, code, down

        served = Served("ulmfit_app", command)
        load = Load(served.port, requests, checker, kind.name)
        again, code, down = asyncio.run(run(load, served))
        again.end()
        # The id that a client sent stands before a dot, and the server's own behind it.
        logged = [
            json.loads(line)["request"].partition(".")[0] for line in log.read_text().splitlines()
        ]
    tally = load.tally
    return {
        "signal": kind.name,
        "exit_status": code,
        "seconds_until_exit": round(down, 2),
        "sent": tally.sent,
        "answered": tally.statuses[200],
        "other_statuses": {str(s): n for s, n in sorted(tally.statuses.items()) if s != 200},
        "closed_without_answer": tally.closed,
        "cut": tally.cut,
        "unfinished": tally.unfinished,
        "adds_up": tally.adds_up,
        "refused_connections": tally.refused,
        "wrong": tally.wrong,
        "answered_but_not_in_the_log": len(tally.answered - set(logged)),
        "in_the_log_but_not_received": len(set(logged) - tally.answered),
    }


# ----------------------------------------------------------------------------------------- the run
def _read_ours(answer: dict) -> tuple[dict[str, float], str]:
    (prediction,) = answer["predictions"]
    return prediction["probabilities"], prediction["label"]


def _read_naive(answer: dict, labels: list[str]) -> tuple[dict[str, float], str]:
    return dict(zip(labels, answer["probabilities"], strict=True)), answer["label"]


def _show(what: str, one: dict[str, Any]) -> None:
    statuses = json.dumps(one.get("by_status", {"not 200": one.get("not_200", 0)}))
    p50, p99 = (one[p] or 0.0 for p in ("p50_ms", "p99_ms"))
    print(
        f"{what:<10}{one['connections']:>5}{one['requests_per_s']:>10.1f}{p50:>10.1f}{p99:>10.1f}"
        f"{one.get('wrong', '-'):>7}{one.get('largest_difference', '-'):>11}"
        f"{one.get('texts_per_batch', '-'):>7}   {statuses} {json.dumps(one['cores'])}",
        flush=True,
    )


def measure_serve(
    command: list[Any],
    texts: list[str],
    checker: Checker,
    seconds: float,
    memory_minutes: float,
) -> dict[str, Any]:
    """The server by our clients and by wrk, and its memory."""
    requests = make_requests(texts)
    served = Served("ulmfit_app", [*command, "--port", 0])
    levels, by_wrk = [], []
    for connections in CONNECTIONS:
        levels.append(measure_level(served, requests, checker, connections, seconds))
        _show("serve", levels[-1])
        if found := measure_wrk(served, texts, connections, seconds):
            by_wrk.append(found)
            _show("  by wrk", found)
    memory = measure_memory(served, requests, checker, memory_minutes)
    print(f"memory: {memory}", flush=True)
    stopped = {"standard_error": served.errors(), "exit_status": served.end()}
    restarts = []
    for kind in (signal.SIGTERM, signal.SIGKILL):
        restarts.append(measure_restart(command, requests, checker, kind))
        print(f"restart: {restarts[-1]}", flush=True)
    return {
        "levels": levels,
        "wrk": by_wrk,
        "memory": memory,
        "stopped": stopped,
        "restarts": restarts,
    }


def measure_naive(
    run: Path, texts: list[str], labels: list[str], expected: np.ndarray, seconds: float
) -> dict[str, Any]:
    """The server of a tutorial, whose answers may differ: it computes in fp32, and its
    probabilities are not calibrated."""
    served = Served("tests.bench.naive_server", [run])
    checker = Checker(labels, expected, 1.0, partial(_read_naive, labels=labels))
    naive = measure_level(served, make_requests(texts), checker, MANY, seconds)
    served.end(signal.SIGKILL)
    _show("naive", naive)
    return naive


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    from ulmfit_app.inference.predictor import load_predictor

    run, seconds = arguments.run, arguments.seconds
    before = round(os.getloadavg()[0], 2)
    predictor = load_predictor(run, arguments.precision)
    bundle, labels, precision = predictor.bundle, predictor.labels, predictor.precision
    texts = make_texts(predictor, arguments.data, arguments.texts)
    expected = predictor.predict(texts)[[f"p_{label}" for label in labels]].to_numpy()
    checker = Checker(labels, expected, TOLERANCE[precision], _read_ours)
    print("server    conn.    req/s    p50 ms    p99 ms  wrong   largest  batch   statuses, cores")

    file_rates = [time_file(predictor, texts)]
    command = ["serve", run, "--precision", precision]
    of_serve = measure_serve(command, texts, checker, seconds, arguments.memory_minutes)
    naive = None
    if bundle.architecture == "awd-lstm" and bundle.direction == "forward":
        naive = measure_naive(run, texts, labels, expected, seconds)
    file_rates.append(time_file(predictor, texts))
    whole = round(time_command(run, texts, precision), 2)

    (at_64,) = (one for one in of_serve["levels"] if one["connections"] == MANY)
    at_64 = at_64["requests_per_s"]
    file_rate = np.mean([one["texts_per_s"] for one in file_rates])
    of_file = round(float(at_64 / file_rate), 3)
    times_naive = naive and round(at_64 / naive["requests_per_s"], 2)
    print(f"predict --file: {file_rates}, {whole} texts/s with its start and its end.")
    print(
        f"{MANY} connections: {of_file} of predict --file, {times_naive} times the naive server."
    )
    return {
        "command": f"python -m tests.bench.serving RUN{' --data IMDB' if arguments.data else ''} "
        f"--seconds {seconds:g} --memory-minutes {arguments.memory_minutes:g}",
        "machine": machine()
        | {"precision": precision, "load_average_before": before}
        | {package: version(package) for package in ("starlette", "uvicorn", "httptools")},
        "model": {
            "architecture": bundle.architecture,
            "shape": asdict(bundle.shape),
            "n_words": len(bundle.vocab),
        },
        "texts": {
            "n": len(texts),
            "tokens": np.quantile(predictor.store(texts).lengths(), [0, 1]).astype(int).tolist(),
            "from": "IMDb reviews" if arguments.data else "words of the vocabulary",
        },
        "tolerance": TOLERANCE[precision],
        "predict_file": {"before_and_after": file_rates, "whole_command_texts_per_s": whole},
        **of_serve,
        "naive": naive,
        "of_predict_file_at_64": of_file,
        "times_naive_at_64": times_naive,
    }


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server stays behind
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--data", default="", help="IMDb; without it, texts are made of words")
    parser.add_argument("--seconds", type=float, default=60, help="of each level")
    parser.add_argument("--memory-minutes", type=float, default=10)
    parser.add_argument("--texts", type=int, default=1024, help="different ones")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, default=OUT / "serving.json")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    from ulmfit_app.hardware import bound_threads, set_up_cpu

    set_up_cpu()
    bound_threads()
    write_json(arguments.out, measure(arguments))


if __name__ == "__main__":
    main()
