"""How cost grows with the work: python -m tests.bench.growth [--data IMDB]

Time a token and peak memory over a growing corpus, longer texts, larger files to predict, and
larger vocabularies. Each point is a process of its own, so that one's memory is not another's.
Time a token should stay flat in all of them but the vocabulary, whose softmax costs in proportion;
memory should stay flat but for what has to be held: the vocabulary's weights, and the corpus.

Writes results/growth.json and results/growth.png.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.bench.compare import OUT, _peak_mib, machine, read_texts

SWEEPS = {
    "corpus": ([1_500, 6_000, 24_000], "reviews tokenized"),
    "length": ([50, 200, 1_000, 5_000], "tokens a text, predicted"),
    "rows": ([4_000, 16_000, 64_000], "rows of a file, predicted"),
    "vocabulary": ([10_000, 30_000, 100_000], "words, exact softmax, training"),
    "vocabulary-sampled": ([10_000, 30_000, 100_000], "words, sampled softmax, training"),
}


def _corpus(reviews: int, data: str) -> Callable[[], int]:
    from tests.bench.jobs import FULL, our_tokens

    # Where there are fewer, they come again.
    texts = read_texts(data)
    texts = texts.iloc[np.arange(reviews) % len(texts)]
    return our_tokens(texts, replace(FULL, tokenized=reviews))


def _length(tokens: int, data: str) -> Callable[[], int]:
    from tests.bench.jobs import our_predictor
    from ulmfit_app.text.store import TokenStore

    predictor = our_predictor(read_texts(data))
    n = max(200_000 // tokens, 128)  # as many as a batch has, or the longest would be alone
    ids = np.random.default_rng(0).integers(
        9, len(predictor.bundle.vocab), n * tokens, dtype=np.int32
    )
    store = TokenStore(ids, np.arange(n + 1, dtype=np.int64) * tokens, predictor.bundle.vocab)
    return lambda: predictor.probabilities(store) is not None and n * tokens


def _rows(rows: int, data: str) -> Callable[[], int]:
    from tests.bench.jobs import our_predictor
    from ulmfit_app.inference.predicted_file import predict_file

    texts = read_texts(data)
    predictor = our_predictor(texts)
    # Short ones, so that what a row costs shows and not what a long review costs.
    starts = texts["text"].str.split().str[:12].str.join(" ")
    folder = Path(tempfile.mkdtemp())
    starts.iloc[np.arange(rows) % len(starts)].to_csv(folder / "rows.csv", index=False)

    def unit() -> int:
        predict_file(predictor, folder / "rows.csv", folder / "out.csv", "text", "utf-8")
        return rows

    return unit


def _vocabulary(words: int, data: str, softmax: str = "exact") -> Callable[[], int]:
    from tests.bench.jobs import FULL, our_language_model

    return our_language_model(None, FULL, softmax, words)


def _work(sweep: str, size: int, data: str) -> dict:
    from ulmfit_app.hardware import set_up_cpu

    warnings.filterwarnings("ignore")
    set_up_cpu()
    makers = {"corpus": _corpus, "length": _length, "rows": _rows, "vocabulary": _vocabulary}
    makers["vocabulary-sampled"] = lambda words, data: _vocabulary(words, data, "sampled")
    unit = makers[sweep](size, data)
    trains = sweep.startswith("vocabulary")
    if trains:
        unit()  # warms up
    best, done = float("inf"), 0
    for _ in range(3 if trains else 1):
        began = time.perf_counter()
        done = unit()
        best = min(best, time.perf_counter() - began)
    return {"size": size, "microseconds": 1e6 * best / done, "peak_mib": _peak_mib()}


def _draw(points: dict[str, list[dict]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(points), 5.6), layout="constrained")
    grid = figure.subplots(2, len(points), sharex="col")
    for column, (sweep, values) in zip(grid.T, points.items(), strict=True):
        sizes = [v["size"] for v in values]
        for axes, key in zip(column, ("microseconds", "peak_mib"), strict=True):
            axes.plot(sizes, [v[key] for v in values], marker="o")
            axes.set(xscale="log", ylim=(0, 1.25 * max(v[key] for v in values)))
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
            axes.minorticks_off()
        column[1].set_xlabel(SWEEPS[sweep][1], fontsize=9)
        column[0].set_title(sweep, fontsize=10)
    grid[0][0].set_ylabel("microseconds a token (rows: a row)")
    grid[1][0].set_ylabel("peak memory (MiB)")
    figure.savefig(path, dpi=150)


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps(_work(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="", help="IMDb, where it is not in the cache")
    arguments = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    points = {}
    for sweep, (sizes, meaning) in SWEEPS.items():
        points[sweep] = []
        for size in sizes:
            command = [
                sys.executable,
                "-m",
                "tests.bench.growth",
                "--work",
                sweep,
                str(size),
                arguments.data,
            ]
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            points[sweep].append(json.loads(out.splitlines()[-1]))
            point = points[sweep][-1]
            took = f"{point['microseconds']:.1f} us, peak {point['peak_mib']:,} MiB"
            print(f"{size:,} {meaning}: {took}", flush=True)
    (OUT / "growth.json").write_text(
        json.dumps({"machine": machine(), "points": points}, indent=1) + "\n"
    )
    _draw(points, OUT / "growth.png")


if __name__ == "__main__":
    main()
