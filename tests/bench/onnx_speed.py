"""Is a classifier faster by onnxruntime than by torch, and what does int8 cost?

    python -m tests.bench.onnx_speed RUN --scratch FOLDER [--texts 512] [--threads 1 2]

RUN is a run with a report: its test texts and labels are read from there. Ways: torch in fp32,
bf16 where the processor has it, and int8 by torch.ao; onnxruntime in fp32 and int8. Each labels
one text of 200 tokens and many texts, the first ones of the report. Of one thread, the processor's
time counts, so that other programs matter little; of several, the clock; of the one text, the
least of the turns. Accuracy is that on the many texts, and labels have changed against torch in
fp32.

Prints a table and writes results/onnx-ARCHITECTURE-PROCESSOR.json.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from tests.bench.compare import OUT, machine, slug_of
from ulmfit_app.data.reading import read_table
from ulmfit_app.hardware import bf16_units, set_up_cpu
from ulmfit_app.inference.export import export_onnx
from ulmfit_app.inference.onnx_runner import OnnxClassifier
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.text.store import TokenStore

ONE, TURNS = 200, 10  # tokens of the one text; turns of it
Way = Callable[[TokenStore, np.ndarray], np.ndarray]  # a store and which of its texts


def by_torch_ao(run: Path) -> Way:
    """What `Predictor` did in int8 before onnxruntime was measured."""
    from torch.ao.quantization import quantize_dynamic

    predictor = load_predictor(run, "fp32")
    encoder = predictor._model[0].module
    layers = torch.nn.ModuleList()
    for layer in encoder.rnns:
        layers.append(torch.nn.LSTM(layer.input_size, layer.hidden_size, batch_first=True))
        layers[-1].load_state_dict(layer.state_dict())
    encoder.rnns = quantize_dynamic(layers, {torch.nn.LSTM}, dtype=torch.qint8)
    return lambda store, texts: np.concatenate(
        [predictor.probabilities(store, texts[i : i + 1], None) for i in range(len(texts))]
    )


def ways_of(run: Path, scratch: Path, threads: int) -> dict[str, Callable[[], Way]]:
    """How probabilities are made, each loaded when it is called."""

    def by_torch(precision: str) -> Way:
        predictor = load_predictor(run, precision)
        return lambda store, texts: predictor.probabilities(store, texts, None)

    def by_onnx(int8: bool) -> Way:
        folder = scratch / ("int8" if int8 else "fp32")
        if not folder.exists():
            export_onnx(run, folder, int8)
        classifier = OnnxClassifier.open(folder, threads)
        return lambda store, texts: classifier.probabilities([np.asarray(store[i]) for i in texts])

    ways = {"torch fp32": lambda: by_torch("fp32")}
    if bf16_units():
        ways["torch bf16"] = lambda: by_torch("bf16")
    if load_predictor(run, "fp32").bundle.architecture == "awd-lstm":
        ways["torch.ao int8"] = lambda: by_torch_ao(run)
    return ways | {"onnx fp32": lambda: by_onnx(False), "onnx int8": lambda: by_onnx(True)}


def timed(work: Callable[[], np.ndarray], threads: int) -> tuple[float, np.ndarray]:
    """Seconds, and what came of them."""
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    found = work()
    return clock() - start, found


def measure(run: Path, scratch: Path, n_texts: int, threads: Sequence[int]) -> list[dict]:
    """One row per way and number of threads."""
    table = read_table(run / "report" / "predictions.csv").fillna("")[:n_texts]
    predictor = load_predictor(run, "fp32")
    store = predictor.store(table["text"].tolist())
    truth = table["label"].map(predictor.labels.index).to_numpy()
    ids = np.asarray(store[int(store.lengths().argmax())])[:ONE].copy()
    one = TokenStore(ids, np.array([0, len(ids)]), store.words, "forward", store.padding)
    rows, exact = [], None
    for n in threads:
        torch.set_num_threads(n)
        for name, load in ways_of(run, scratch, n).items():
            way = load()
            way(one, np.arange(1))
            turns = [timed(partial(way, one, np.arange(1)), n)[0] for _ in range(TURNS)]
            seconds, found = timed(partial(way, store, np.arange(len(store))), n)
            exact = found if exact is None else exact
            rows.append(
                {
                    **{"way": name, "threads": n, "one_ms": round(min(turns) * 1000, 2)},
                    "texts_per_s": round(len(store) / seconds, 1),
                    "accuracy": round(float((found.argmax(1) == truth).mean()), 4),
                    "changed_labels": int((found.argmax(1) != exact.argmax(1)).sum()),
                    "largest_difference": float(f"{np.abs(found - exact).max():.1g}"),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--scratch", type=Path, required=True, help="for the exported folders")
    given = parser.parse_args()
    set_up_cpu()
    rows = measure(given.run, given.scratch, given.texts, given.threads)
    architecture = load_predictor(given.run, "fp32").bundle.architecture
    facts = machine() | {"onnxruntime": version("onnxruntime"), "onnx": version("onnx")}
    processor = slug_of(facts["processor"])
    result = {"machine": facts, "texts": given.texts, "ways": rows}
    path = OUT / f"onnx-{architecture}-{processor}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
