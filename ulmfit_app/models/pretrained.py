"""What a language model starts from: random weights, a bundle, fastai's own files, or a
transformer."""

import pickle
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from data_scripts import wt103
from data_scripts.files import replacing, sha256_of
from ulmfit_app.config import Direction, ModelSettings
from ulmfit_app.errors import BundleError
from ulmfit_app.models.bundle import load_bundle, require_direction
from ulmfit_app.models.hub import MINILM, MODELS, is_transformer, packaged
from ulmfit_app.models.start import RANDOM, Start
from ulmfit_app.models.transformer_start import read_transformer
from ulmfit_app.run_folder import find_part

# In the names of fastai's files, which say the direction in no other way.
MARKS = {"forward": "fwd", "backward": "bwd"}
BESIDE = (
    "Beside a forward model's folder NAME, the backward one is looked for in NAME-backward and "
    "NAME-bwd."
)


class _DataOnly(pickle.Unpickler):
    """Reads pickled lists, numbers and strings; one that names a class or function is refused."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"it calls {module}.{name}")


def _read_vocab(path: Path) -> list[str]:
    try:
        with open(path, "rb") as file:
            vocab = _DataOnly(file).load()
    except Exception as error:  # a broken pickle can raise nearly anything
        raise BundleError(
            f"{path} was refused: {error}. Expected fastai's vocabulary, a pickled list of words; "
            "nothing in it was run."
        ) from None
    if not isinstance(vocab, list) or not all(isinstance(word, str) for word in vocab):
        raise BundleError(
            f"{path} holds no vocabulary. Expected fastai's format, a pickled list of words."
        )
    return vocab


def read_fastai(folder: Path, direction: Direction = "forward") -> Start:
    """Weights and vocabulary in fastai's own format: one .pth and one .pkl, as in WT103_FWD.

    Both are pickles. They are read by readers that build tensors, lists and strings and call
    nothing; fastai's `load_pretrained` unpickles whatever it is given.

    Args:
        folder: of the two files.
        direction: what the caller knows of them; the format does not say it, but the files' names
            may.

    Raises:
        BundleError: a file is missing, refused, named for the other direction, or the two do not
            belong together.
    """
    from fastai.text.learner import clean_raw_keys  # takes seconds, for few runs

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
            f"{vocab_file} has {len(vocab):,} words, {weights_file.name} {len(embedding):,} "
            "embeddings."
        )
    fingerprint = sha256_of(weights_file) + sha256_of(vocab_file)
    origin = f"fastai's format in {folder.name}"
    facts = dict(is_strong=True, direction=direction, n_words=len(vocab))
    return Start(origin, fingerprint, shape, weights, vocab, **facts)


def write_fastai(model_folder: Path, name: str) -> tuple[Path, Path]:
    """Write a bundle as fastai's own files, which plain fastai takes as `pretrained_fnames`.

    Args:
        model_folder: of the bundle.
        name: of the files.

    Returns:
        The paths of NAME.pth and NAME.pkl, beside the bundle.

    Raises:
        BundleError: there is no bundle, or its tokens are subwords.
    """
    from ulmfit_app.models.awd_lstm import load_language_model

    bundle = load_bundle(model_folder, "language model")
    if bundle.tokenizer:
        raise BundleError(
            f"The language model in {model_folder} reads subwords, and fastai's format has no "
            "place for the tokenizer that makes them: without it, nobody can use the model. Take "
            f"the bundle as it is: --pretrained {shlex.quote(str(model_folder))}"
        )
    model = load_language_model(bundle)
    weights, vocab = model_folder / f"{name}.pth", model_folder / f"{name}.pkl"
    with replacing(weights) as draft:
        torch.save(model.state_dict(), draft)
    with replacing(vocab) as draft:
        draft.write_bytes(pickle.dumps(bundle.vocab))
    return weights, vocab


def locate(name: str) -> Path:
    """The folder of a language model's bundle.

    Args:
        name: of a model that comes with the package, such as en-small; or a bundle's folder; or a
            run's, whose forward model is meant.

    Raises:
        BundleError: there is none.
    """
    if name in packaged():
        return MODELS / name
    folder = Path(name)
    model = bundle_in(folder)
    if (model / "bundle.json").is_file():
        return model
    found = "neither it nor its folder lm holds a bundle.json"
    raise BundleError(
        f"There is no language model {name!r}: {found if folder.is_dir() else 'it is no folder'}. "
        f"Expected a name (here: {', '.join(packaged()) or 'none'}), the folder of a language "
        "model, or a run's folder. Make one: python -m ulmfit_app pretrain CORPUS"
    )


def find_start(pretrained: str, shape: ModelSettings, direction: Direction = "forward") -> Start:
    """Resolve the setting `lm.pretrained`, and load the weights.

    Args:
        pretrained: "wt103", "none", a packaged model's name, a transformer as
            `models.hub.find_checkpoint` finds it, or a folder, which may be a run's. Beside a
            forward model's folder NAME or NAME-fwd, the backward one is looked for in
            NAME-backward, as in a run, and NAME-bwd.
        shape: of random weights.
        direction: in which the start has to read.

    Raises:
        BundleError: a folder that cannot be read, or whose model reads in the other direction.
        data_scripts.fetch.FetchError: WT103, or a model of the hub, cannot be had.
    """
    if is_transformer(pretrained):
        return read_transformer(bundle_in(Path(pretrained)), pretrained)
    if pretrained == "none":
        return Start(RANDOM, f"random {shape}", shape, direction=direction)
    if pretrained == "wt103":
        source = wt103.fetch(direction)
        return replace(read_fastai(source.path, direction), origin=source.origin)
    folder = _folder_of(pretrained, direction)
    if (folder / "bundle.json").is_file():
        return _read_bundle(folder, direction)
    if not folder.is_dir():
        known = ", ".join([*packaged(), "wt103", "none"])
        raise BundleError(
            f"No folder {folder} to start from. Expected for --pretrained: {known}, minilm, or a "
            "folder with a bundle, with fastai's .pth and .pkl or with a transformer, or a run's "
            "folder."
        )
    return read_fastai(folder, direction)


def find_starts(pretrained: Sequence[str], shape: ModelSettings) -> list[Start]:
    """`find_start` for each name, the forward direction's first, then perhaps the backward one's.

    Raises:
        BundleError: as `find_start`, and where both would start from the same files.
    """
    starts = [
        find_start(name, shape, direction)
        for name, direction in zip(pretrained, get_args(Direction), strict=False)
    ]
    prints = [start.fingerprint for start in starts if start.is_pretrained]
    if len(set(prints)) < len(prints):
        raise BundleError(
            f"The files in {pretrained[0]} cannot read both forward and backward. {BESIDE}"
        )
    return starts


def has_changed(start: Start, pretrained: str) -> bool:
    """Whether the user's bundle that a start was read from is another one by now.

    Args:
        start: its facts, as they were.
        pretrained: the setting that named it.
    """
    if pretrained in ("none", "wt103", MINILM, *packaged()):
        return False
    path = _folder_of(pretrained, start.direction) / "bundle.json"
    return path.is_file() and sha256_of(path) != start.fingerprint


def bundle_in(folder: Path) -> Path:
    """The folder itself, or that of a run's forward language model where it is a run's."""
    lm = find_part(folder, "lm")
    is_run = not (folder / "bundle.json").is_file() and (lm / "bundle.json").is_file()
    return lm if is_run else folder


def _folder_of(pretrained: str, direction: Direction) -> Path:
    """Its folder; of the backward direction rather the one beside it, where there is one."""
    folder = MODELS / pretrained if pretrained in packaged() else bundle_in(Path(pretrained))
    stem = folder.name.removesuffix("-fwd")
    beside = [folder.parent / f"{stem}-{ending}" for ending in ("backward", "bwd")]
    return next((other for other in beside if direction == "backward" and other.is_dir()), folder)


def _read_bundle(folder: Path, direction: Direction) -> Start:
    from ulmfit_app.models.awd_lstm import load_language_model

    bundle = load_bundle(folder, "language model")
    require_direction(bundle.direction, direction, f"The language model in {folder}", BESIDE)
    before = bundle.about.get("start", "a start that it does not name")
    corpus = bundle.about.get("corpus")
    name = folder.name if folder.parent == MODELS else f"the bundle {folder}"
    history = f"started from {before}"
    if corpus is not None:
        millions = bundle.about["tokens_trained_on"] / 1e6
        history = f"learned from {millions:,.0f} million tokens of {corpus['name']}"
    return Start(
        f"{name}, which {history}",
        sha256_of(folder / "bundle.json"),
        bundle.shape,
        load_language_model(bundle).state_dict(),
        bundle.vocab,
        is_strong=corpus is not None or not before.endswith(RANDOM),
        direction=bundle.direction,
        n_words=len(bundle.vocab),
        tokenizer=bundle.tokenizer,
    )
