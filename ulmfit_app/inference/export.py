"""A run's classifier as a folder that needs neither this package nor torch.

    model.onnx        ids to calibrated probabilities (`models/onnx_graph.py`)
    settings.json     architecture, directions, temperatures, and the thresholds or costs by which
                      it answers; of subwords the token that begins a text, and the conversion it
                      goes through; how a transformer cuts windows
    tokenizer.json    of words: language and vocabulary; of subwords: their tokenizer
    labels.json       in the order of the probabilities
    run.py            `python run.py "a text"` prints what `predict` prints
    onnx_runner.py, tokens/, requirements.txt      what run.py needs

The rules that make tokens are copied from this package's source, not written again: the tokens are
the same, and stay so when the package changes.
"""

import logging
import re
import shlex
import shutil
from importlib import resources
from importlib.metadata import version
from itertools import count
from pathlib import Path

import numpy as np

from data_scripts.files import replacing, write_json
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.inference.onnx_runner import (
    LABELS,
    MODEL,
    SETTINGS,
    OnnxClassifier,
    Windows,
)
from ulmfit_app.inference.predictor import BidirectionalPredictor, Predictor, load_predictor
from ulmfit_app.models.architectures import tokenizer_of
from ulmfit_app.models.bundle import Bundle
from ulmfit_app.models.onnx_graph import awd_lstm_graph, missing_onnx
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.text.rules import PAD, RULES_VERSION

log = logging.getLogger(__name__)

FORMAT = 1
NEAR = 1e-4  # of probability; sums in another order move it by 1e-6
CHECKED = (1, 17, 300)  # tokens of made texts
_import = re.compile(r"^(\s*)from ulmfit_app\.([\w.]+) import ", re.MULTILINE)


def export_onnx(run: Path, out: Path, int8: bool = False) -> Path:
    """Write a run's classifier as ONNX, with all that it takes to label texts.

    Args:
        run: its folder.
        out: a folder that is not there, or empty, or an earlier export, which is replaced when the
            new one is complete.
        int8: weights in a quarter of the bytes; for onnxruntime alone, and less exact.

    Returns:
        `out`.

    Raises:
        SettingError: the folder is taken, an extra is not installed, or the model has no ONNX.
        RunFolderError, BundleError: as `load_predictor` does; or the graph computes otherwise.
    """
    _require_free(out, run)
    predictor = load_predictor(run, "fp32")
    model = _graph_of(predictor, int8)
    bundle = predictor.bundle
    windows = _windows_of(bundle)
    difference = _compare(predictor, _opened(model, windows, int8))
    if not int8 and difference > NEAR:
        raise BundleError(
            f"The graph of {predictor.folder} is not the classifier: probabilities differ by up "
            f"to {difference:.2g}. Expected {NEAR:g} at most. Nothing was written; serve the run "
            f"without: python -m ulmfit_app serve {shlex.quote(str(run))}"
        )
    log.info("Largest difference in probability from fp32, made texts: %.1g.", difference)
    with replacing(out) as draft:
        draft.mkdir()
        (draft / MODEL).write_bytes(model)
        write_json(draft / SETTINGS, _settings(predictor, windows, int8))
        write_json(draft / LABELS, bundle.labels)
        _write_tokenizer(draft, bundle)
        _write_runner(draft, bundle)
        if out.is_dir():
            shutil.rmtree(out)  # what takes its place must find nothing
    return out


def _require_free(out: Path, run: Path) -> None:
    inside = out.resolve().is_relative_to(run.resolve())
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    is_export = {MODEL, SETTINGS, LABELS, "run.py"} <= names
    if inside or out.is_file() or (names and not is_export):
        why = "belongs to the run" if inside else "is taken"
        taken = (run.resolve().parent / f"{run.resolve().name}-onnx-{n}" for n in count(2))
        other = next(path for path in taken if not path.exists())
        raise SettingError(
            f"{out} {why}; an export needs a folder of its own, which is new or empty, or holds "
            f"an earlier export. Name another: --out {shlex.quote(str(other))}"
        )


def _graph_of(predictor: Predictor, int8: bool) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        raise missing_onnx() from None
    if isinstance(predictor.bundle.shape, TransformerShape):
        from ulmfit_app.models.onnx_transformer import transformer_graph

        return transformer_graph(predictor.bundle, int8).SerializeToString()
    bundles = [predictor.bundle]
    if isinstance(predictor, BidirectionalPredictor):
        bundles.append(predictor.backward.bundle)
    return awd_lstm_graph(bundles, predictor.decision, int8).SerializeToString()


def _windows_of(bundle: Bundle) -> Windows | None:
    shape = bundle.shape
    if isinstance(shape, TransformerShape):
        return Windows(shape.window, shape.end)
    return None


def _opened(model: bytes, windows: Windows | None, int8: bool) -> OnnxClassifier:
    try:
        return OnnxClassifier(model, windows, int8)
    except ValueError as error:
        raise SettingError(f"{error}. Run: pip install --upgrade onnxruntime") from None


def _compare(predictor: Predictor, classifier: OnnxClassifier) -> float:
    """The largest difference between probabilities of texts of random words."""
    # Padding is the word that no text has.
    words = [word for word in predictor.bundle.vocab if word and word != PAD]
    draw = np.random.default_rng(0)
    store = predictor.store_of([draw.choice(words, n).tolist() for n in CHECKED])
    expected = predictor.probabilities(store, description=None)
    return float(np.abs(classifier.probabilities(list(store)) - expected).max())


def _settings(predictor: Predictor, windows: Windows | None, int8: bool) -> dict:
    bundle = predictor.bundle
    both = isinstance(predictor, BidirectionalPredictor)
    return {
        "format": FORMAT,
        "architecture": bundle.architecture,
        "directions": ["forward", "backward"] if both else [bundle.direction],
        "int8": int8,
        **_decided(predictor),
        "begin": tokenizer_of(bundle).begin if bundle.tokenizer else None,
        "opencc": bundle.opencc,
        "windows": windows and vars(windows),
        "versions": {name: version(name) for name in ("ulmfit-app", "onnx", "onnxruntime")},
    }


def _decided(predictor: Predictor) -> dict:
    """How probabilities become answers, as `onnx_runner.Answers` takes it."""
    decision, n_labels = predictor.decision, len(predictor.labels)
    several = decision.multilabel
    thresholds = decision.limits(n_labels).tolist() if several else list(decision.thresholds)
    return {
        "temperature": list(decision.temperatures) if several else decision.temperature,
        "multilabel": several,
        "thresholds": thresholds,
        # Of several labels they are in the thresholds.
        "costs": [] if several else [list(row) for row in decision.costs],
    }


def _write_tokenizer(folder: Path, bundle: Bundle) -> None:
    path = folder / "tokenizer.json"
    if bundle.tokenizer:
        path.write_text(bundle.tokenizer, encoding="utf-8")
        return
    facts = {"language": bundle.language, "rules": RULES_VERSION, "spacy": version("spacy")}
    write_json(path, facts | {"vocab": bundle.vocab})


def _write_runner(folder: Path, bundle: Bundle) -> None:
    (folder / "run.py").write_text(_source("cli.exported"), encoding="utf-8")
    (folder / "onnx_runner.py").write_text(_source("inference.onnx_runner"), encoding="utf-8")
    tokens = folder / "tokens"
    tokens.mkdir()
    tokenizer = "text.subwords" if bundle.tokenizer else "text.tokenizer"
    waiting, done = [tokenizer, "data.characters"], set()
    while waiting:
        module = waiting.pop()
        done.add(module)
        source = _source(module)
        waiting += {found[2] for found in _import.finditer(source)} - done - set(waiting)
        source = _import.sub(
            lambda found: f"{found[1]}from tokens.{found[2].rpartition('.')[2]} import ", source
        )
        (tokens / f"{module.rpartition('.')[2]}.py").write_text(source, encoding="utf-8")
    notice = f'"""Copied from ulmfit-app {version("ulmfit-app")}, Apache License 2.0."""\n'
    (tokens / "__init__.py").write_text(notice, encoding="utf-8")
    libraries = ["tokenizers" if bundle.tokenizer else "spacy"]
    libraries += ["opencc"] if bundle.opencc else []
    needs = ["numpy", "onnxruntime"]
    needs += [f"{name}=={version(name)}" for name in libraries]  # another version, other tokens
    (folder / "requirements.txt").write_text("\n".join(needs) + "\n", encoding="utf-8")


def _source(module: str) -> str:
    *folders, name = module.split(".")
    return resources.files("ulmfit_app").joinpath(*folders, f"{name}.py").read_text("utf-8")
