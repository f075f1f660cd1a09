"""The jobs that are timed, each by plain fastai and by this application: the calls of fastai's
tutorials, and ours.

A side of a job is a function from the texts, and the amount, to a unit of work: a function that
does it once, and returns how many tokens or texts it dealt with. Both sides train in the same bare
loop, by the same recipe, at the paper's size. Ours notes in `limits.multiplied` which products of
matrices a unit consists of, where they are what it mainly does.
"""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.text.all import (
    AWD_LSTM,
    CrossEntropyLossFlat,
    DataLoaders,
    Learner,
    TextDataLoaders,
    awd_lstm_clas_config,
    awd_lstm_clas_split,
    awd_lstm_lm_config,
    awd_lstm_lm_split,
    get_language_model,
    get_text_classifier,
    text_classifier_learner,
    tokenize_texts,
)
from torch.nn import functional as F

from tests.bench.limits import watch_encoder, watch_softmax

BATCH, BPTT, VOCAB = 64, 72, 60_000
SHAPE = (400, 1152, 3)
Unit = Callable[[], int]


@dataclass(frozen=True)
class Amount:
    """How much of the texts a job takes.

    Attributes:
        train: reviews for the classifier.
        batches: of them in a unit.
        predicted: texts in a unit of many predictions.
        tokenized: reviews in a unit of tokens. Starting worker processes is little of the time
            where they are many.
    """

    train: int
    batches: int
    predicted: int
    tokenized: int


FULL = Amount(train=6_000, batches=3, predicted=512, tokenized=12_000)
QUICK = Amount(train=640, batches=1, predicted=64, tokenized=2_000)


def _step(opt, model, ids: torch.Tensor, loss_of: Callable, precision: str = "fp32") -> None:
    from ulmfit_app.hardware import autocast

    with autocast(precision, "cpu"):
        loss = loss_of(model(ids)[0])
    loss.backward()
    opt.step()
    opt.zero_grad()


def _ids(vocab: int = VOCAB) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(9, vocab, (BATCH, BPTT), generator=torch.Generator().manual_seed(0))
    return ids, ids.roll(-1, 1)


# ------------------------------------------------------------------------- language-model training
def plain_language_model(texts: pd.DataFrame | None, amount: Amount) -> Unit:
    x, y = _ids()
    model = get_language_model(AWD_LSTM, VOCAB, config=awd_lstm_lm_config)
    learn = Learner(
        DataLoaders([(x, y)], [(x, y)]),
        model,
        loss_func=CrossEntropyLossFlat(),
        splitter=awd_lstm_lm_split,
    )
    learn.create_opt()
    model.train()
    return lambda: (
        _step(learn.opt, model, x, lambda out: F.cross_entropy(out.flatten(0, 1), y.flatten()))
        or x.numel()
    )


def our_language_model(
    texts: pd.DataFrame | None, amount: Amount, softmax: str = "exact", vocab: int = VOCAB
) -> Unit:
    from ulmfit_app.config import ModelSettings
    from ulmfit_app.hardware import resolve_precision
    from ulmfit_app.models.awd_lstm import build_language_model
    from ulmfit_app.models.softmax import Sampler
    from ulmfit_app.training.optimizer import FusedAdam

    x, y = _ids(vocab)
    model = build_language_model(vocab, ModelSettings(*SHAPE)).train()
    if softmax == "sampled":
        model[1].sampler = Sampler(np.full(vocab, 100))
    watch_encoder(model[0])
    watch_softmax(model[1])
    opt = FusedAdam(awd_lstm_lm_split(model), lr=1e-3)
    precision = resolve_precision("auto")
    return lambda: (
        _step(opt, model, x, lambda logits: logits.cross_entropy(y), precision) or x.numel()
    )


def our_sampled_language_model(texts: pd.DataFrame | None, amount: Amount) -> Unit:
    return our_language_model(texts, amount, "sampled")


# ----------------------------------------------------------------------------- classifier training
def _train_on(batches: Iterator, n: int, opt, model, precision: str = "fp32") -> Unit:
    """A unit of n batches, counted in tokens without padding."""

    def unit() -> int:
        tokens = 0
        for _ in range(n):
            x, y = (b.as_subclass(torch.Tensor) for b in next(batches))
            _step(opt, model, x, lambda out, y=y: F.cross_entropy(out.float(), y), precision)
            tokens += int((x != 1).sum())
        return tokens

    return unit


def plain_classifier(texts: pd.DataFrame, amount: Amount) -> Unit:
    learn = _plain_classifier_learner(texts[: amount.train])
    learn.create_opt()
    learn.unfreeze()
    learn.model.train()
    batches = iter(cycle(list(learn.dls.train)))
    return _train_on(batches, amount.batches, learn.opt, learn.model)


def _plain_classifier_learner(texts: pd.DataFrame) -> Learner:
    dls = TextDataLoaders.from_df(
        texts, text_col="text", label_col="label", valid_pct=0.1, seed=0, bs=BATCH
    )
    return text_classifier_learner(
        dls, AWD_LSTM, config=awd_lstm_clas_config, pretrained=False, drop_mult=0.5
    )


def our_classifier(texts: pd.DataFrame, amount: Amount, kept_tokens: float = math.inf) -> Unit:
    from ulmfit_app.config import ModelSettings
    from ulmfit_app.hardware import resolve_precision
    from ulmfit_app.models.awd_lstm import AWDLSTM, classifier_config, with_pooling
    from ulmfit_app.text.batches import ClassifierBatches
    from ulmfit_app.training.optimizer import FusedAdam

    texts = texts[: amount.train]
    store = _store(texts["text"].tolist())
    labels = texts["label"].astype("category").cat.codes.to_numpy(np.int64)
    batches = ClassifierBatches(store, np.arange(len(texts)), labels, BATCH, seed=0, shuffle=True)
    config = classifier_config(ModelSettings(*SHAPE))
    model = get_text_classifier(AWDLSTM, len(store.words), 2, BPTT, config=config, drop_mult=0.5)
    model = with_pooling(model, grad_tokens=20 * BPTT).train()
    model[0].kept_tokens = kept_tokens
    watch_encoder(model[0].module)
    opt = FusedAdam(awd_lstm_clas_split(model), lr=1e-3)
    batches = iter(cycle(list(batches)))
    return _train_on(batches, amount.batches, opt, model, resolve_precision("auto"))


def our_recomputing_classifier(texts: pd.DataFrame, amount: Amount) -> Unit:
    """As `--classifier.recompute yes` has it: one step's activations are kept."""
    return our_classifier(texts, amount, BATCH * BPTT)


def _store(texts: list[str]):
    from ulmfit_app.config import TokenSettings
    from ulmfit_app.text.store import TokenStore
    from ulmfit_app.text.tokenizing import numericalize, tokenize
    from ulmfit_app.text.vocabulary import make_vocab

    tokenized = tokenize(texts)
    vocab = make_vocab(TokenStore.open(tokenized), range(len(texts)), TokenSettings())
    return TokenStore.open(numericalize(tokenized, vocab))


# -------------------------------------------------------------------------------------- prediction
def _of_200_tokens(texts: pd.DataFrame) -> str:
    """The first review's words, until there are 200 tokens of it."""
    from ulmfit_app.text.tokenizer import Tokenizer

    tokenizer, words = Tokenizer(), " ".join(texts["text"][:5]).split()
    upto = next(n for n in range(100, len(words)) if len(tokenizer(" ".join(words[:n]))) >= 200)
    return " ".join(words[:upto])


def _plain_predictor(texts: pd.DataFrame) -> Learner:
    return _plain_classifier_learner(texts[:600])


def plain_prediction(texts: pd.DataFrame, amount: Amount) -> Unit:
    learn, text = _plain_predictor(texts), _of_200_tokens(texts)

    def unit() -> int:
        with learn.no_bar(), learn.no_logging():
            for _ in range(10):
                learn.predict(text)
        return 10

    return unit


def plain_predictions(texts: pd.DataFrame, amount: Amount) -> Unit:
    learn, many = _plain_predictor(texts), texts["text"][: amount.predicted].tolist()

    def unit() -> int:
        with learn.no_bar(), learn.no_logging():
            learn.get_preds(dl=learn.dls.test_dl(many))
        return len(many)

    return unit


def our_predictor(texts: pd.DataFrame, precision: str = "auto"):
    """A classifier of random weights: how long it takes does not depend on what it has learned."""
    from ulmfit_app.config import ModelSettings
    from ulmfit_app.inference.predictor import Predictor
    from ulmfit_app.models.awd_lstm import build_classifier
    from ulmfit_app.models.bundle import Bundle, save_bundle

    vocab = _store(texts["text"][:600].tolist()).words
    shape = ModelSettings(*SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(
            Path(folder),
            build_classifier(len(vocab), 2, shape),
            Bundle("classifier", shape, "en", vocab, ["0", "1"]),
        )
        predictor = Predictor(Path(folder), precision)
    if precision != "int8":  # which onnxruntime multiplies, and torch has no product of
        watch_encoder(predictor._model[0].module)
    return predictor


def our_prediction(texts: pd.DataFrame, amount: Amount, precision: str = "auto") -> Unit:
    predictor, text = our_predictor(texts, precision), _of_200_tokens(texts)

    def unit() -> int:
        for _ in range(10):
            predictor.predict([text])
        return 10

    return unit


def our_int8_prediction(texts: pd.DataFrame, amount: Amount) -> Unit:
    return our_prediction(texts, amount, "int8")


def our_predictions(texts: pd.DataFrame, amount: Amount) -> Unit:
    predictor, many = our_predictor(texts), texts["text"][: amount.predicted].tolist()
    return lambda: len(predictor.predict(many))


# ------------------------------------------------------------------------------------------ tokens
def plain_tokens(texts: pd.DataFrame, amount: Amount) -> Unit:
    many = texts["text"][: amount.tokenized].tolist()
    return lambda: sum(map(len, tokenize_texts(many)))


def our_tokens(texts: pd.DataFrame, amount: Amount) -> Unit:
    import os

    from ulmfit_app.text.store import TokenStore
    from ulmfit_app.text.tokenizing import tokenize

    many = texts["text"][: amount.tokenized].tolist()

    def unit() -> int:
        # An empty cache each time, or the second would be served from the first.
        with tempfile.TemporaryDirectory() as cache:
            os.environ["XDG_CACHE_HOME"] = cache
            return int(TokenStore.open(tokenize(many)).offsets[-1])

    return unit


@dataclass(frozen=True)
class Job:
    """What is compared.

    Attributes:
        label: for people.
        plain, ours: the two sides.
        counted: what a unit returns the number of.
        times_plain: the goal, how many times as fast as plain fastai; None where the goal is a
            share of the limit, which no number of times can pass.
        of_limit: the goal, a share of the processor's limit (`limits.py`); None where there is
            none.
        has_limit: whether a unit is products of matrices for the most part, and torch has them.
    """

    label: str
    plain: Callable[[pd.DataFrame | None, Amount], Unit]
    ours: Callable[[pd.DataFrame | None, Amount], Unit]
    counted: str
    times_plain: float | None = None
    of_limit: float | None = None
    has_limit: bool = True


JOBS = {
    "lm": Job(
        "language model, training",
        *(plain_language_model, our_language_model, "tokens"),
        of_limit=0.85,
    ),
    "lm-sampled": Job(
        "the same, sampled softmax",
        *(plain_language_model, our_sampled_language_model, "tokens"),
        times_plain=6,
    ),
    "classifier": Job(
        "classifier, training", plain_classifier, our_classifier, "tokens", of_limit=0.85
    ),
    # Its goal is a third of the memory, at no less than plain fastai's speed.
    "classifier-recompute": Job(
        "the same, recomputed",
        *(plain_classifier, our_recomputing_classifier, "tokens"),
        times_plain=1,
        has_limit=False,
    ),
    "predict-one": Job("one prediction", plain_prediction, our_prediction, "texts", times_plain=4),
    "predict-one-int8": Job(
        "the same, int8",
        *(plain_prediction, our_int8_prediction, "texts"),
        times_plain=8,
        has_limit=False,
    ),
    "predict-512": Job(
        "512 predictions", plain_predictions, our_predictions, "texts", of_limit=0.8
    ),
    "tokens": Job("tokens", plain_tokens, our_tokens, "tokens", times_plain=5, has_limit=False),
}
