"""Stage one: a language model learns a language from general text (ULMFiT section 3.1).

A model's folder holds its bundle, `config.json` with what it was made from, `history.csv` with one
row per few million tokens, the loss curve, a model card, and `steady.safetensors`, from which a
longer training goes on.
"""

import json
import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fastai.learner import Learner

from data_scripts.files import write_json
from ulmfit_app.config import Direction, Settings
from ulmfit_app.errors import RunFolderError, SettingError
from ulmfit_app.files import sha256_of_path, sha256_of_strings
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.models.awd_lstm import load_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, versions
from ulmfit_app.models.pretrained import Start, find_start
from ulmfit_app.pipeline.budget import measure_language_model
from ulmfit_app.pipeline.corpora import (
    FEWEST_STEPS,
    TokenizedCorpus,
    count_fewest_tokens,
    read_corpus,
)
from ulmfit_app.pipeline.model_card import CARD, write_about
from ulmfit_app.pipeline.tracker import TrackerName
from ulmfit_app.pipeline.tracking import following
from ulmfit_app.settings_json import to_json
from ulmfit_app.training import language_model
from ulmfit_app.training.checkpoints import finish
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.ongoing import TrainingSettings
from ulmfit_app.training.recipes import Phase, pretraining_phases

log = logging.getLogger(__name__)

CONFIG = "config.json"
# Trained on between two looks at the held-out documents, or a tenth of a small budget.
TOKENS_PER_EPOCH = 2_000_000
VALIDATION_SHARE = 0.04  # of the time
# Of settings.lm, what the weights depend on. How long to train may grow from one call to the next.
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


# ------------------------------------------------------------------------------------ the training
def pretrain(
    corpus_path: Path,
    folder: Path,
    settings: Settings,
    direction: Direction = "forward",
    minutes: float | None = None,
    track: TrackerName | None = None,
) -> dict[str, Any]:
    """Train a language model on a corpus, or go on training it.

    Args:
        corpus_path: as `read_documents` takes it.
        folder: of the model.
        settings: it is trained until `lm.max_tokens` or `lm.epochs` passes are done.
        direction: in which it learns to read.
        minutes: instead of max_tokens, as many as fit, measured on this machine.
        track: what follows it; None: nothing does.

    Returns:
        What the model card says.

    Raises:
        RunFolderError: the folder holds a model made with other settings, or trained on more.
        DataError: the corpus is too small.
        SettingError: the minutes are not enough, or no epochs are asked for.
    """
    began = time.monotonic()
    if not settings.lm.epochs:
        raise SettingError("--lm.epochs must be more than 0 to pretrain, not 0.")
    sha256 = sha256_of_path(corpus_path)
    start = find_start(settings.lm.pretrained, settings.model, direction)
    what = _what_it_is(corpus_path, sha256, settings, start, direction)
    known = _known(folder, what)
    corpus = read_corpus(corpus_path, sha256, settings, direction, start)
    log.info(corpus.describe())
    budget, per_epoch = _find_budget(began, minutes, known, corpus, settings, start)
    seed_everything(settings.seed)
    learn = language_model.make_learner(
        corpus.store, corpus.train, corpus.valid, start, settings.lm, settings.precision,
        settings.seed, per_epoch,
    )  # fmt: skip
    phases, tokens_per_epoch = _phases(learn, budget, settings, start)
    finished = _finished(folder, tokens_per_epoch * sum(phase.epochs for phase in phases))
    if finished is not None:
        return finished
    # As the first call wrote it, so that its checkpoints stay those of the same training.
    what = known["what"] if known else what
    facts = {"what": what, "minutes": minutes, "budget": budget, "tokens_an_epoch": per_epoch}
    _write_config(folder, facts, settings)
    how = _how(settings, direction, what)
    # By its budget, too: a longer one replaces the epochs at a falling rate.
    with following(track, folder, f"{how.key}+{budget}", settings) as watch:
        history = train(learn, phases, folder, how, watch)
    history.insert(0, "tokens", np.arange(1, len(history) + 1) * tokens_per_epoch)
    about = _about(history, corpus, start, what)
    bundle = _describe(start, corpus, settings, about, direction)
    save_bundle(folder, learn.model, bundle)
    write_about(folder, bundle, settings, history)
    finish(folder)
    return about


def _write_config(folder: Path, facts: dict, settings: Settings) -> None:
    precision = resolve_precision(settings.precision)
    write_json(folder / CONFIG, {**facts, "precision": precision, "versions": versions()})


def _phases(
    learn: Learner, budget: int, settings: Settings, start: Start
) -> tuple[tuple[Phase, ...], int]:
    """The phases that make so many tokens, and the tokens that an epoch of the Learner has."""
    batches = learn.dls.train
    tokens_per_epoch = len(batches) * batches.batch_size * settings.lm.bptt
    rate = settings.lm.lr if start.is_pretrained else settings.lm.random_lr
    return pretraining_phases(max(round(budget / tokens_per_epoch), 2), rate), tokens_per_epoch


def _how(settings: Settings, direction: Direction, what: dict) -> TrainingSettings:
    """As in fine-tuning, but that each phase names its own schedule."""
    key = sha256_of_strings([json.dumps(what, sort_keys=True)])
    how = language_model.training_settings(settings.lm, direction, key)
    return replace(how, schedule="constant")


def _describe(
    start: Start, corpus: TokenizedCorpus, settings: Settings, about: dict, direction: Direction
) -> Bundle:
    return Bundle(
        "language model",
        start.shape,
        settings.tokens.language,
        corpus.store.words,
        about=about,
        direction=direction,
        tokenizer=corpus.tokenizer,
        opencc=settings.tokens.opencc or "",
    )


def _about(
    history: pd.DataFrame, corpus: TokenizedCorpus, start: Start, what: dict
) -> dict[str, Any]:
    perplexity = float(history["perplexity"].min())
    held_out = {"documents": len(corpus.valid), "unknown_share": round(corpus.unknown_share, 4)}
    if corpus.held_out_characters:
        each = corpus.store.lengths()[corpus.valid].sum() / corpus.held_out_characters
        held_out |= {
            "characters": corpus.held_out_characters,
            "perplexity_per_character": round(perplexity**each, 2),
        }
    return {
        "start": start.origin,
        "corpus": what["corpus"],
        "tokens_trained_on": int(history["tokens"].iloc[-1]),
        "tokens_in_corpus": corpus.train_tokens,
        "perplexity": perplexity,
        "held_out": held_out,
        "hours": round(float(history["seconds"].sum()) / 3600, 2),
    }


# -------------------------------------------------------------------- what was there, and how long
def _what_it_is(
    corpus: Path, sha256: str, settings: Settings, start: Start, direction: Direction
) -> dict:
    """Everything that the weights depend on, but how long they are trained, and by what
    machine."""
    values = to_json(settings)
    return {
        "corpus": {"name": corpus.name, "sha256": sha256},
        "direction": direction,
        "tokens": values["tokens"],
        "shape": values["model"],
        "lm": {name: values["lm"][name] for name in MATTERS},
        "start": start.fingerprint,
        "seed": settings.seed,
    }


def _known(folder: Path, what: dict) -> dict | None:
    """What the folder's config.json says, where there is one.

    Raises:
        RunFolderError: it is of another model.
    """
    path = folder / CONFIG
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if known is None:
        return None
    # The first version took the precision for a part of what a model is.
    before = {name: value for name, value in known["what"].items() if name != "precision"}
    if changed := _differences(before, what):
        raise RunFolderError(
            f"{folder} holds a model made with other settings: {'; '.join(changed)}. It is left "
            "as it is. Give the same settings to go on with it, or another --name"
        )
    return known


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(set(old) | set(new))
        return [
            line
            for key in names
            for line in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{name} was {old!r}, is {new!r}"]


def _find_budget(
    began: float,
    minutes: float | None,
    known: dict | None,
    corpus: TokenizedCorpus,
    settings: Settings,
    start: Start,
) -> tuple[int, int]:
    """Tokens to train on, in all and per epoch.

    began: when the minutes did; known: what was settled in an earlier call.
    """
    if minutes is None:
        budget = settings.lm.epochs * corpus.train_tokens
        budget = min(budget, settings.lm.max_tokens or budget)
    elif known is not None and known["minutes"] == minutes:
        budget = known["budget"]
    else:
        budget = _measure_budget(minutes, began, len(corpus.store.words), settings, start)
    # The same from call to call, or a longer training could not go on from a shorter one.
    if known:
        return budget, known["tokens_an_epoch"]
    return budget, min(TOKENS_PER_EPOCH, budget // 10, corpus.train_tokens)


def _measure_budget(
    minutes: float, began: float, vocab_size: int, settings: Settings, start: Start
) -> int:
    seconds = measure_language_model(vocab_size, start.shape, settings)
    left = minutes * 60 * (1 - VALIDATION_SHARE) - (time.monotonic() - began)
    tokens = int(left / seconds)
    if tokens < count_fewest_tokens(settings):
        raise SettingError(
            f"{minutes:g} minutes are not enough for {FEWEST_STEPS} steps here. "
            "Give more --minutes."
        )
    rate = f"{1 / seconds:,.0f}"
    log.info("Measured: %s training tokens/s; %s tokens fit the time.", rate, f"{tokens:,}")
    return tokens


def _finished(folder: Path, tokens: int) -> dict[str, Any] | None:
    """What the folder's model says of itself where it was trained on so many tokens.

    None for fewer, or no model.

    Raises:
        RunFolderError: it was trained on more.
    """
    if not (folder / "bundle.json").is_file():
        return None
    about = load_bundle(folder, "language model").about
    if about["tokens_trained_on"] > tokens:
        raise RunFolderError(
            f"The model in {folder} was trained on {about['tokens_trained_on']:,} tokens, more "
            f"than {tokens:,}, which were asked for. It is left as it is. Give more "
            "--lm.max-tokens or --minutes to train it on, or another --name"
        )
    if about["tokens_trained_on"] < tokens:
        return None
    log.info("Finished before, on %s tokens: nothing is repeated.", f"{tokens:,}")
    return about


def write_int8(folder: Path) -> Path:
    """Write a model's bundle once more, in a quarter of the bytes, with its card.

    Returns:
        The folder int8 in the model's.

    Raises:
        BundleError: there is no bundle.
    """
    bundle = load_bundle(folder, "language model")
    save_bundle(folder / "int8", load_language_model(bundle), bundle, in_int8=True)
    shutil.copyfile(folder / CARD, folder / "int8" / CARD)
    return folder / "int8"
