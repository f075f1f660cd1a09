"""What a language model starts from: random weights, a bundle, or fastai's own files."""

import logging
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from fastai.text.learner import clean_raw_keys

from data_scripts import wt103
from data_scripts.fetch import FetchError
from data_scripts.files import replacing, sha256_of
from ulmfit_app.config import Direction, ModelSettings
from ulmfit_app.errors import BundleError
from ulmfit_app.models.awd_lstm import with_weights
from ulmfit_app.models.bundle import load_bundle, require_direction

log = logging.getLogger(__name__)

RANDOM = "random weights"
MODELS = Path(__file__).parents[1] / "weights"  # those that come with the package
MARKS = {
    "forward": "fwd",
    "backward": "bwd",
}  # in the names of fastai's files, which say the direction in no other way
BESIDE = "Beside a forward model's folder NAME, the backward one is looked for in NAME-backward and NAME-bwd."


@dataclass(frozen=True)
class Start:
    """What a language model starts from.

    weights: parameters by fastai's names, on the CPU, or None for random ones; vocab: the word of each of their ids;
    fingerprint: another start has another one; origin: for people.
    """

    origin: str
    fingerprint: str
    shape: ModelSettings
    weights: dict[str, torch.Tensor] | None = None
    vocab: list[str] | None = None
    is_strong: bool = False  # whether it learned from general text, and not only from a domain's
    direction: Direction = "forward"  # in which it reads

    @property
    def is_pretrained(self) -> bool:
        return self.weights is not None


class _DataOnly(pickle.Unpickler):
    """Reads pickled lists, numbers and strings; a pickle that names a class or a function is refused, not run."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it calls {module}.{name}")


def _read_vocab(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            vocab = _DataOnly(file).load()
    except Exception as error:  # a broken pickle can raise nearly anything
        raise BundleError(
            f"{path} was refused: {error}. Expected fastai's vocabulary, a pickled list of words; nothing in it was run."
        ) from None
    if not isinstance(vocab, list) or not all(isinstance(word, str) for word in vocab):
        raise BundleError(
            f"{path} holds no vocabulary. Expected fastai's format, a pickled list of words."
        )
    return vocab


def read_fastai(folder: Path, direction: Direction = "forward") -> Start:
    """Weights and vocabulary in fastai's own format: one .pth and one .pkl, as in WT103_FWD.

    Both are pickles. They are read by readers that build tensors, lists and strings and call nothing.
    direction: what the caller knows of them; the format does not say it, but the files' names may.
    Raises BundleError when a file is missing, refused, named for the other direction, or the two do not belong together.
    """
    files = {suffix: sorted(folder.glob(f"*{suffix}")) for suffix in (".pth", ".pkl")}
    for suffix, found in files.items():
        if len(found) != 1:
            raise BundleError(f"Expected one {suffix} file in {folder}, found {len(found)}.")
    (weights_file,), (vocab_file,) = files[".pth"], files[".pkl"]
    for file in (weights_file, vocab_file):
        named = [known for known, mark in MARKS.items() if mark in file.name.lower()]
        if len(named) == 1:
            require_direction(named[0], direction, f"By its name, {file}", BESIDE)
    vocab = _read_vocab(vocab_file)
    try:
        weights = torch.load(weights_file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its own and pickle's errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BundleError(f"{weights_file} was refused, nothing in it was run: {reason}") from None
    try:
        weights = clean_raw_keys(dict(weights.get("model", weights)))
        embedding = weights["0.encoder.weight"]
        layers = [
            name
            for name in weights
            if name.startswith("0.rnns.") and name.endswith("weight_hh_l0_raw")
        ]
        shape = ModelSettings(
            embedding.shape[1], weights["0.rnns.0.weight_hh_l0_raw"].shape[1], len(layers)
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"{weights_file} is no AWD-LSTM language model of fastai's: {error}"
        ) from None
    if len(vocab) != len(embedding):
        raise BundleError(
            f"{vocab_file} has {len(vocab):,} words, {weights_file.name} {len(embedding):,} embeddings."
        )
    fingerprint = sha256_of(weights_file) + sha256_of(vocab_file)
    origin = f"fastai's format in {folder.name}"
    return Start(origin, fingerprint, shape, weights, vocab, is_strong=True, direction=direction)


def write_fastai(model_folder: Path, name: str) -> tuple[Path, Path]:
    """A bundle as fastai's own files: NAME.pth and NAME.pkl beside it, which plain fastai takes as `pretrained_fnames`.

    Returns both paths. Raises BundleError where there is no bundle.
    """
    bundle = load_bundle(model_folder, "language model")
    model = with_weights(bundle)
    weights, vocab = model_folder / f"{name}.pth", model_folder / f"{name}.pkl"
    with replacing(weights) as draft:
        torch.save(model.state_dict(), draft)
    with replacing(vocab) as draft:
        draft.write_bytes(pickle.dumps(bundle.vocab))
    return weights, vocab


def packaged() -> list[str]:
    """Names of the language models that come with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/bundle.json"))


def locate(name: str) -> Path:
    """The folder of a language model's bundle.

    name: of a model that comes with the package, such as en-small; or a bundle's folder; or a run's, whose forward model is
    meant. Raises BundleError where there is none.
    """
    if name in packaged():
        return MODELS / name
    folder = Path(name)
    for candidate in (folder, folder / "lm"):
        if (candidate / "bundle.json").is_file():
            return candidate
    found = (
        "neither it nor its folder lm holds a bundle.json"
        if folder.is_dir()
        else "it is no folder"
    )
    names = ", ".join(packaged()) or "none"
    raise BundleError(
        f"There is no language model {name!r}: {found}. Expected a name (here: {names}), the folder of a language model, or "
        "a run's folder. Make one: python -m ulmfit_app pretrain CORPUS"
    )


def _of_direction(folder: Path, direction: Direction) -> Path:
    """The folder itself; of the backward direction rather the one beside it, where there is one of such a name."""
    stem = folder.name.removesuffix("-fwd")
    beside = [folder.parent / f"{stem}-{ending}" for ending in ("backward", "bwd")]
    return next((other for other in beside if direction == "backward" and other.is_dir()), folder)


def _read_bundle(folder: Path, direction: Direction) -> Start:
    """A bundle to start from. Raises BundleError also where it reads in the other direction."""
    bundle = load_bundle(folder, "language model")
    require_direction(bundle.direction, direction, f"The language model in {folder}", BESIDE)
    before = bundle.about.get("start", "a start that it does not name")
    corpus = bundle.about.get("corpus")
    name = folder.name if folder.parent == MODELS else f"the bundle {folder}"
    if corpus is None:
        history = f"started from {before}"
    else:
        history = f"learned from {bundle.about['tokens_trained_on'] / 1e6:,.0f} million tokens of {corpus['name']}"
    return Start(
        f"{name}, which {history}",
        sha256_of(folder / "bundle.json"),
        bundle.shape,
        with_weights(bundle).state_dict(),
        bundle.vocab,
        is_strong=corpus is not None or not before.endswith(RANDOM),
        direction=bundle.direction,
    )


def find_start(pretrained: str, shape: ModelSettings, direction: Direction = "forward") -> Start:
    """Resolve the setting `lm.pretrained`: "wt103", "none", a packaged model's name, or a folder.

    direction: in which the start has to read. Beside a forward model's folder NAME or NAME-fwd, the backward one is looked
    for in NAME-backward, as in a run, and NAME-bwd.
    WT103 that cannot be had is replaced by random weights, with a warning; a folder that cannot be read, or whose model
    reads in the other direction, is a BundleError.
    """
    random = Start(RANDOM, f"random {shape}", shape, direction=direction)
    if pretrained == "none":
        return random
    if pretrained == "wt103":
        try:
            source = wt103.fetch(direction)
        except FetchError as error:
            log.warning(
                "NO PRETRAINED MODEL: %s\nThe language model starts from random weights.", error
            )
            return random
        start = read_fastai(source.path, direction)
        return replace(start, origin=source.origin)
    folder = _of_direction(
        MODELS / pretrained if pretrained in packaged() else Path(pretrained), direction
    )
    if (folder / "bundle.json").is_file():
        return _read_bundle(folder, direction)
    if not folder.is_dir():
        raise BundleError(
            f"No folder {folder} to start from. Expected for --pretrained: {', '.join([*packaged(), 'wt103', 'none'])}, or "
            "a folder with a bundle or with fastai's .pth and .pkl."
        )
    return read_fastai(folder, direction)


def find_starts(pretrained: Sequence[str], shape: ModelSettings) -> list[Start]:
    """`find_start` for each name, the forward direction's first, then perhaps the backward one's.

    Raises BundleError also when both would start from the same files.
    """
    starts = [
        find_start(name, shape, direction)
        for name, direction in zip(pretrained, get_args(Direction), strict=False)
    ]
    if len({start.fingerprint for start in starts if start.is_pretrained}) < sum(
        start.is_pretrained for start in starts
    ):
        raise BundleError(
            f"The files in {pretrained[0]} cannot read both forward and backward. {BESIDE}"
        )
    return starts
