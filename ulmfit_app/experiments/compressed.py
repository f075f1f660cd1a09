"""Ways to have a run's texts labelled: by its teachers, by itself, in int8, as ONNX, pruned."""

import itertools
import shutil
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data_scripts.fetch import FetchError
from ulmfit_app.config import PredictorPrecision
from ulmfit_app.errors import BundleError, RunFolderError, SettingError
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.inference.export import export_onnx
from ulmfit_app.inference.onnx_runner import OnnxClassifier
from ulmfit_app.inference.predictor import Predictor, load_predictor
from ulmfit_app.models.architectures import read_classifier
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.pipeline.pupils import prune_run
from ulmfit_app.pipeline.run import Run
from ulmfit_app.pipeline.teachers import has_changed
from ulmfit_app.run_folder import RECORD, VALIDATION, find_part
from ulmfit_app.text.store import TokenStore

TOKENS, MANY = 200, 512  # of the one text, at most; texts
ONE, SOME, VALID = "one", "some", "valid"  # names of the texts
EXACT = "run, fp32"  # the way that the others are compared with
LEFT_OUT = (BundleError, FetchError, RunFolderError, SettingError)  # why there is no such way

Work = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Way:
    """A way to have texts labelled.

    Args:
        name: of its row.
        megabytes: on disk of what a server reads.
        read: the name of some texts to what gives their probabilities, [n, n_labels].
    """

    name: str
    megabytes: float
    read: Callable[[str], Work]


class Texts:
    """Texts that all ways label, and their tokens, made once for each vocabulary.

    Args:
        named: some texts for each of ONE, SOME and VALID.
    """

    def __init__(self, named: dict[str, list[str]]) -> None:
        self.named = named
        self._stores: dict[tuple[str, ...], TokenStore] = {}

    def store(self, predictor: Predictor, which: str) -> TokenStore:
        """Some of the texts, as a predictor reads them."""
        bundle = predictor.bundle
        read_by = bundle.language, bundle.vocab_hash, bundle.tokenizer, bundle.opencc
        key = (which, *read_by, bundle.direction)
        if key not in self._stores:
            self._stores[key] = predictor.store(self.named[which])
        return self._stores[key]


# ------------------------------------------------------------------------------------------- texts
def gather_texts(run: Run, predictor: Predictor) -> Texts:
    """The run's texts that are measured; of the test split, none.

    Args:
        run: whose texts they are.
        predictor: of the run, whose tokens are counted.
    """
    rows = run.rows
    others = rows.loc[rows["split"] != "test", "text"]
    some = others.sample(min(MANY, len(others)), random_state=0).tolist()
    one = cut_text(some, TOKENS, lambda text: len(predictor.store([text]).ids))
    valid = rows.loc[rows["split"] == "valid", "text"].tolist()
    return Texts({ONE: [one], SOME: some, VALID: valid})


def cut_text(texts: Sequence[str], n_tokens: int, count: Callable[[str], int]) -> str:
    """A text of a number of tokens: the beginning of the first that is as long, or of all of them,
    one behind the other, as often as it takes.

    Args:
        texts: of which at least one has a token.
        n_tokens: at most; fewer where the last ones only come together.
        count: the tokens of a text.

    >>> cut_text(["a b", "c d e f"], 3, lambda text: len(text.split()))
    'c d e'
    >>> cut_text(["a b"], 3, lambda text: len(text.split()))
    'a b a'
    """
    whole = next((text for text in texts if count(text) >= n_tokens), "")
    more = itertools.cycle(texts)
    while count(whole) < n_tokens:
        whole = f"{whole} {next(more)}".strip()
    end = bisect_right(range(len(whole) + 1), n_tokens, key=lambda n: count(whole[:n])) - 1
    return whole[:end].strip()


# -------------------------------------------------------------------------------------------- ways
def find_ways(
    run: Run, exact: Predictor, texts: Texts, shares: Sequence[float], out: Path, scratch: Path
) -> tuple[list[Way], list[str]]:
    """The ways there are, in the order of the table; pruned runs are carried out first.

    Args:
        run: whose classifier is finished.
        exact: its predictor in fp32.
        texts: that are to be labelled.
        shares: of the pruned runs, the largest one last.
        out: gets the pruned runs.
        scratch: gets what need not stay.

    Returns:
        The ways, and in sentences why others are none.
    """

    def by_torch(name: str, runs: Sequence[Path], precision: PredictorPrecision = "auto") -> Way:
        predictors = [load_predictor(each, precision) for each in runs]
        return by_predictors(name, predictors, sum(map(megabytes_of, runs)), exact.labels, texts)

    def in_int8(name: str) -> Way:
        if isinstance(exact.bundle.shape, TransformerShape):
            raise SettingError("it is for AWD-LSTM; a transformer has int8 as ONNX alone.")
        return by_torch(name, [run.folder], "int8")

    def by_onnx(name: str, int8: bool) -> Way:
        exported = export_onnx(run.folder, scratch / ("int8" if int8 else "fp32"), int8)
        return _by_onnx(name, exported, exact, texts)

    makers: dict[str, Callable[[str], Way]] = {}
    if run.record.teachers:
        makers[name_teachers(run)] = lambda name: by_torch(name, teachers_of(run))
    for precision in dict.fromkeys((resolve_precision("auto"), "fp32")):
        makers[f"run, {precision}"] = lambda name, p=precision: by_torch(name, [run.folder], p)
    makers |= {
        "int8": in_int8,
        "ONNX": lambda name: by_onnx(name, int8=False),
        "ONNX, int8": lambda name: by_onnx(name, int8=True),
    }
    for share in shares:
        makers[name_pruned(share)] = lambda name, s=share: by_torch(name, [_prune(run, s, out)])
    if shares:
        zeros, share = scratch / "zeros", shares[-1]
        makers[name_zeros(share)] = lambda name: by_torch(name, [_zeroed(run, share, zeros)])
    ways, left_out = [], []
    for name, make in makers.items():
        try:
            ways.append(make(name))
        except LEFT_OUT as error:
            left_out.append(f"{name} is left out: {error}")
    return ways, left_out


def name_teachers(run: Run) -> str:
    """The row of a run's teachers."""
    n = len(run.record.teachers)
    return "teacher" if n == 1 else f"mean of {n} teachers"


def name_pruned(share: float) -> str:
    """The row of a pruned run."""
    return f"pruned by {100 * share:g} %"


def name_zeros(share: float) -> str:
    """The row of the run with zeros."""
    return f"{100 * share:g} % zeros"


def by_predictors(
    name: str, predictors: list[Predictor], megabytes: float, labels: list[str], texts: Texts
) -> Way:
    """The mean of some predictors.

    Args:
        name, megabytes: as Way has them.
        predictors: with the same labels, in whatever order.
        labels: in the order that is wanted.
        texts: that they label.
    """
    places = [[each.labels.index(label) for label in labels] for each in predictors]

    def read(which: str) -> Work:
        stores = [texts.store(each, which) for each in predictors]
        return lambda: np.mean(
            [
                each.probabilities(store, description=None)[:, order]
                for each, store, order in zip(predictors, stores, places, strict=True)
            ],
            axis=0,
        )

    return Way(name, megabytes, read)


def _by_onnx(name: str, exported: Path, exact: Predictor, texts: Texts) -> Way:
    classifier = OnnxClassifier.open(exported, torch.get_num_threads())

    def read(which: str) -> Work:
        ids = list(texts.store(exact, which))
        return lambda: classifier.probabilities(ids)

    files = (file for file in exported.rglob("*") if file.is_file())
    return Way(name, sum(file.stat().st_size for file in files) / 1e6, read)


def megabytes_of(run: Path) -> float:
    """The size of what a server reads of a run: its record and its classifiers, in MB.

    Of an adapter, without the transformer that it stands on.
    """
    directions = Run.open(run).record.directions
    files = [find_part(run, RECORD)]
    for each in directions:
        folder = find_part(run, each.named("classifier"))
        files += [folder / "bundle.json", *folder.glob("*-*.json"), *folder.glob("*.safetensors")]
        if len(directions) > 1:
            files.append(folder / VALIDATION)  # has the temperature of their mean
    return sum(file.stat().st_size for file in files) / 1e6


def is_adapter(bundle: Bundle) -> bool:
    """Whether a classifier stands on a transformer's weights, which are not its own."""
    return isinstance(bundle.shape, TransformerShape) and bundle.shape.adapter is not None


def teachers_of(run: Run) -> list[Path]:
    """The folders of a run's teachers.

    Raises:
        RunFolderError: one of them is not there any more, or was trained again.
    """
    for teacher in run.record.teachers:
        if not Path(teacher.run).is_dir():
            raise RunFolderError(f"{teacher.run} is gone.")
        if has_changed(teacher):
            raise RunFolderError(f"{teacher.run} was trained again since it taught the run.")
    return [Path(teacher.run) for teacher in run.record.teachers]


def place_of_pruned(out: Path, share: float) -> Path:
    """Where the run without a share of the units lies."""
    return out / f"pruned-{100 * share:g}"


def _prune(run: Run, share: float, out: Path) -> Path:
    """Carry out a pruned run, up to its classifier: the test split stays unread."""
    pruned = prune_run(run.folder, place_of_pruned(out, share), share)
    pruned.carry_out("classifier")
    return pruned.folder


def _zeroed(run: Run, share: float, folder: Path) -> Path:
    """Copy of a run what predicts, a share of its encoder's weights replaced by zeros."""
    folder.mkdir()
    shutil.copy(find_part(run.folder, RECORD), folder)
    for each in run.record.directions:
        place = find_part(run.folder, each.named("classifier"))
        bundle = load_bundle(place, "classifier")
        if is_adapter(bundle):
            raise SettingError("the classifier is an adapter, on weights that are not its own.")
        model = read_classifier(bundle)
        zero_smallest(model[0], share)
        save_bundle(folder / place.name, model, bundle)
        if (place / VALIDATION).is_file():
            shutil.copy(place / VALIDATION, folder / place.name)
    return folder


@torch.no_grad()
def zero_smallest(encoder: nn.Module, share: float) -> None:
    """Set the smallest weights of each matrix to zero, but for embeddings.

    Args:
        encoder: LSTM layers, or attention and feed-forward ones; changed in place.
        share: of a matrix's weights.
    """
    embeddings = {id(each.weight) for each in encoder.modules() if isinstance(each, nn.Embedding)}
    for matrix in encoder.parameters():
        if matrix.ndim == 2 and id(matrix) not in embeddings:
            smallest_first = matrix.abs().flatten().argsort()
            matrix.view(-1)[smallest_first[: round(share * matrix.numel())]] = 0
