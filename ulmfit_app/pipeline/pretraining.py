"""Stage one: a language model learns a language from general text (ULMFiT section 3.1), in either direction.

A model's folder holds its bundle, `config.json` with what it was made from, `history.csv` with a row for each few million
tokens, the loss curve, a model card, and `steady.safetensors`, from which a longer training goes on.
"""

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_scripts.documents import RULES_VERSION, documents
from data_scripts.files import replacing, sha256_of, write_json
from ulmfit_app.config import Direction, Settings, to_json
from ulmfit_app.errors import DataError, RunFolderError, SettingError
from ulmfit_app.evaluation.drawing import save_png
from ulmfit_app.evaluation.figures import training_curves_figure
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.models import awd_lstm, pretrained
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, versions
from ulmfit_app.pipeline.budget import language_model_seconds
from ulmfit_app.text.rules import UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import numericalize, tokenize_documents
from ulmfit_app.text.vocabulary import make_vocab
from ulmfit_app.training import language_model
from ulmfit_app.training.checkpoints import finish
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.recipes import pretraining_phases

log = logging.getLogger(__name__)

CONFIG, CARD = "config.json", "MODEL_CARD.md"
TOKENS_AN_EPOCH = 2_000_000  # trained on between two looks at the held-out documents, or a tenth of a small budget
HELD_OUT = 100_000  # tokens of whole documents, or a twentieth of a small corpus
FEWEST_STEPS = 10  # in a corpus; below it there is nothing to learn a language from
VALIDATION_SHARE = 0.04  # of the time
# Of settings.lm, on which the weights depend. How long to train may grow from one call to the next.
MATTERS = (
    "lr",
    "random_lr",
    "drop_mult",
    "weight_decay",
    "batch_size",
    "bptt",
    "softmax",
    "grad_clip",
)


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus: its store, and which documents are held out."""

    store: TokenStore
    train: np.ndarray
    valid: np.ndarray
    train_tokens: int
    unknown_share: float  # of the held-out tokens


def corpus_hash(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files and their names."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    return sha256_of_strings(
        part for file in files for part in (str(file.relative_to(path)), sha256_of(file))
    )


def read_corpus(
    path: Path,
    sha256: str,
    settings: Settings,
    direction: Direction = "forward",
    known: Sequence[str] = (),
) -> Corpus:
    """Tokenize a corpus into the cache, and hold whole documents out, by `settings.seed`.

    known: words that the weights to start from have an embedding of.
    Raises DataError when there is too little text.
    """
    tokenized = tokenize_documents(
        documents(path), f"{RULES_VERSION} {sha256}", settings.tokens.language
    )
    store = TokenStore.open(tokenized)
    order = np.random.default_rng(settings.seed).permutation(len(store))
    upto = store.lengths()[order].cumsum()
    needed = FEWEST_STEPS * settings.lm.batch_size * settings.lm.bptt
    found = int(upto[-1]) if len(upto) else 0
    n_valid = int(np.searchsorted(upto, min(HELD_OUT, found // 20))) + 1
    left = found - int(upto[min(n_valid, len(upto)) - 1]) if found else 0
    if left < needed:
        raise DataError(
            f"{path} is too small to learn a language from: {found:,} tokens in {len(store):,} documents, {left:,} without "
            f"the held-out ones. Needed are {needed:,} ({FEWEST_STEPS} steps of {settings.lm.batch_size} x "
            f"{settings.lm.bptt}). Give more text, in more documents, or try with a smaller --lm.batch-size"
        )
    valid, train_documents = np.sort(order[:n_valid]), np.sort(order[n_valid:])
    vocab = make_vocab(store, train_documents, settings.tokens, known)
    store = TokenStore.open(numericalize(tokenized, vocab))
    unknown = store.counts(valid)[UNK_ID] / store.lengths()[valid].sum()
    store = store.backward() if direction == "backward" else store
    return Corpus(store, train_documents, valid, left, float(unknown))


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(set(old) | set(new))
        return [
            line
            for key in names
            for line in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{name} was {old!r}, is {new!r}"]


def _what_it_is(
    corpus: Path, sha256: str, settings: Settings, start: pretrained.Start, direction: Direction
) -> dict:
    """Everything that the weights depend on, but how long they are trained."""
    values = to_json(settings)
    return {
        "corpus": {"name": corpus.name, "sha256": sha256},
        "direction": direction,
        "tokens": values["tokens"],
        "shape": values["model"],
        "lm": {name: values["lm"][name] for name in MATTERS},
        "start": start.fingerprint,
        "seed": settings.seed,
        "precision": resolve_precision(settings.precision),
    }


def _known(folder: Path, what: dict) -> dict | None:
    """What the folder's config.json says, where there is one. Raises RunFolderError when it is of another model."""
    path = folder / CONFIG
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if known is not None and (changed := _differences(known["what"], what)):
        raise RunFolderError(
            f"{folder} holds a model made with other settings: {'; '.join(changed)}. It is left as it is. Give the same "
            "settings to go on with it, or another --name"
        )
    return known


def _budget(
    began: float,
    minutes: float | None,
    known: dict | None,
    corpus: Corpus,
    settings: Settings,
    start: pretrained.Start,
) -> tuple[int, int]:
    """Tokens to train on, in all and an epoch. began: when the minutes did; known: what was settled in an earlier call."""
    if minutes is None:
        budget = settings.lm.epochs * corpus.train_tokens
        budget = min(budget, settings.lm.max_tokens or budget)
    elif known is not None and known["minutes"] == minutes:
        budget = known["budget"]
    else:
        budget = _measured_tokens(minutes, began, len(corpus.store.words), settings, start)
    # The same from call to call, or a longer training could not go on from a shorter one.
    return budget, known["tokens_an_epoch"] if known else min(
        TOKENS_AN_EPOCH, budget // 10, corpus.train_tokens
    )


def _measured_tokens(
    minutes: float, began: float, vocab_size: int, settings: Settings, start: pretrained.Start
) -> int:
    seconds = language_model_seconds(vocab_size, start.shape, settings)
    left = minutes * 60 * (1 - VALIDATION_SHARE) - (time.monotonic() - began)
    tokens = int(left / seconds)
    if tokens < FEWEST_STEPS * settings.lm.batch_size * settings.lm.bptt:
        raise SettingError(
            f"{minutes:g} minutes do not reach for {FEWEST_STEPS} steps here. Give more --minutes."
        )
    log.info(
        "Measured: %s training tokens/s; %s tokens fit the time.",
        f"{1 / seconds:,.0f}",
        f"{tokens:,}",
    )
    return tokens


def pretrain(
    corpus_path: Path,
    folder: Path,
    settings: Settings,
    direction: Direction = "forward",
    minutes: float | None = None,
) -> dict[str, Any]:
    """Train a language model on a corpus, or go on training it, until `lm.max_tokens` or `lm.epochs` passes are done.

    minutes: instead of max_tokens, as many as fit, measured on this machine. Returns what the model card says.
    Raises RunFolderError when the folder holds a model made with other settings, DataError for a corpus too small.
    """
    began = time.monotonic()
    if not settings.lm.epochs:
        raise SettingError("--lm.epochs must be more than 0 to pretrain, not 0.")
    sha256 = corpus_hash(corpus_path)
    start = pretrained.find_start(settings.lm.pretrained, settings.model, direction)
    what = _what_it_is(corpus_path, sha256, settings, start, direction)
    known = _known(folder, what)
    corpus = read_corpus(corpus_path, sha256, settings, direction, start.vocab or ())
    log.info(
        "Corpus: %s tokens to learn from, %s held out (%s documents); a vocabulary of %s words, %.1f %% of the held-out "
        "tokens are unknown.", f"{corpus.train_tokens:,}", f"{corpus.store.lengths()[corpus.valid].sum():,}",
        f"{len(corpus.valid):,}", f"{len(corpus.store.words):,}", 100 * corpus.unknown_share,
    )  # fmt: skip
    budget, tokens_an_epoch = _budget(began, minutes, known, corpus, settings, start)
    seed_everything(settings.seed)
    learn = language_model.learner(
        corpus.store,
        corpus.train,
        corpus.valid,
        start,
        settings.lm,
        settings.precision,
        settings.seed,
        tokens_an_epoch,
    )
    an_epoch = len(learn.dls.train) * learn.dls.train.batch_size * settings.lm.bptt
    rate = settings.lm.lr if start.is_pretrained else settings.lm.random_lr
    phases = pretraining_phases(max(round(budget / an_epoch), 2), rate)
    if (
        finished := _finished(folder, an_epoch * sum(phase.epochs for phase in phases))
    ) is not None:
        log.info(
            "Finished before, on %s tokens: nothing is repeated.",
            f"{finished['tokens_trained_on']:,}",
        )
        return finished
    facts = {
        "what": what,
        "minutes": minutes,
        "budget": budget,
        "tokens_an_epoch": tokens_an_epoch,
        "versions": versions(),
    }
    write_json(folder / CONFIG, facts)
    history = train(
        learn, phases, folder, sha256_of_strings([json.dumps(what, sort_keys=True)]), section="lm", schedule="constant",
        weight_decay=settings.lm.weight_decay, grad_clip=settings.lm.grad_clip,
    )  # fmt: skip
    history.insert(0, "tokens", np.arange(1, len(history) + 1) * an_epoch)
    about = {
        "start": start.origin,
        "corpus": what["corpus"],
        "tokens_trained_on": int(history["tokens"].iloc[-1]),
        "tokens_in_corpus": corpus.train_tokens,
        "perplexity": float(history["perplexity"].min()),
        "held_out": {
            "documents": len(corpus.valid),
            "unknown_share": round(corpus.unknown_share, 4),
        },
        "hours": round(float(history["seconds"].sum()) / 3600, 2),
    }
    bundle = Bundle(
        "language model",
        start.shape,
        settings.tokens.language,
        corpus.store.words,
        about=about,
        direction=direction,
    )
    save_bundle(folder, learn.model, bundle)
    _write_about(folder, bundle, settings, history)
    finish(folder)
    return about


def _finished(folder: Path, tokens: int) -> dict[str, Any] | None:
    """What the folder's finished model says of itself where it was trained on so many tokens; None for fewer, or no model.

    Raises RunFolderError where it was trained on more.
    """
    if not (folder / "bundle.json").is_file():
        return None
    about = load_bundle(folder, "language model").about
    if about["tokens_trained_on"] > tokens:
        raise RunFolderError(
            f"The model in {folder} was trained on {about['tokens_trained_on']:,} tokens, more than {tokens:,}, which were "
            "asked for. It is left as it is. Give more --lm.max-tokens or --minutes to train it on, or another --name"
        )
    return about if about["tokens_trained_on"] == tokens else None


def _write_about(folder: Path, bundle: Bundle, settings: Settings, history: pd.DataFrame) -> None:
    """What people read beside a bundle: its card, its history, and the curve of the loss."""
    with replacing(folder / CARD) as draft:
        draft.write_text(_card(folder.name, bundle, settings), encoding="utf-8")
    with replacing(folder / "history.csv") as draft:
        history.to_csv(draft, index=False)
    title = f"{folder.name}; an epoch is {history['tokens'].iloc[0] / 1e6:.2g} million tokens"
    with replacing(folder / "curve.png") as draft:
        save_png(training_curves_figure(history, title), draft)


def _card(name: str, bundle: Bundle, settings: Settings) -> str:
    """What a user of the model has to know of it, in Markdown."""
    about, shape, lm = bundle.about, bundle.shape, settings.lm
    corpus, held_out = about["corpus"], about["held_out"]
    rows = {
        "corpus": f"{corpus['name']} (sha256 {corpus['sha256'][:16]}…), {about['tokens_in_corpus']:,} tokens to learn from",
        "trained on": f"{about['tokens_trained_on']:,} tokens, from {about['start']}, in {about['hours']} hours",
        "perplexity": f"{about['perplexity']:.1f} on {held_out['documents']:,} held-out documents, of whose tokens "
        f"{held_out['unknown_share']:.1%} are unknown words",
        "settings": f"{lm.softmax} softmax, batches of {lm.batch_size} x {lm.bptt}, AWD's dropouts x {lm.drop_mult:g}, seed "
        f"{settings.seed}, {resolve_precision(settings.precision)}",
        "versions": ", ".join(f"{package} {number}" for package, number in versions().items()),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# {name}

An AWD-LSTM language model (Merity et al. 2017), {shape.emb_sz}/{shape.n_hid}/{shape.n_layers}, {len(bundle.vocab):,} words,
language {bundle.language}, which reads {bundle.direction}.

| | |
| --- | --- |
{table}

Perplexity is over this vocabulary and these tokens, and comparable only with models of the same. The model repeats what its
corpus says, its prejudices too. The corpus's licence holds for what is made of it.
"""


def write_int8(folder: Path) -> Path:
    """The bundle in `folder` once more, in a quarter of the bytes, with its card: the folder int8 in it."""
    bundle = load_bundle(folder, "language model")
    save_bundle(folder / "int8", awd_lstm.with_weights(bundle), bundle, in_int8=True)
    shutil.copyfile(folder / CARD, folder / "int8" / CARD)
    return folder / "int8"
