"""The jobs that are timed, each by plain fastai and by this application: the calls of fastai's
tutorials, and ours.

A side of a job is a function from the texts to a unit of work: a function that does it once, and
returns how many tokens or texts it dealt with. Both sides train in the same bare loop, by the same
recipe, at the paper's size.
"""

import tempfile
from collections.abc import Callable, Iterator
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

BATCH, BPTT, VOCAB = 64, 72, 60_000
TRAIN = 6_000  # reviews for the classifier
REVIEWS = 12_000  # to tokenize: enough that starting the worker processes is little of the time
SHAPE = (400, 1152, 3)
# Multiplications and additions a token: forward through the LSTM's weights, and twice as many
# backward.
LSTM_WEIGHTS = 4 * (1152 * (400 + 1152) + 1152 * (1152 + 1152) + 400 * (1152 + 400))
LSTM_FLOP = 3 * 2 * LSTM_WEIGHTS
SOFTMAX_FLOP = 3 * 2 * 400 * VOCAB

Unit = Callable[[], int]


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
def plain_language_model(texts: pd.DataFrame) -> Unit:
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


def our_language_model(texts: pd.DataFrame, softmax: str = "exact", vocab: int = VOCAB) -> Unit:
    from ulmfit_app.config import ModelSettings
    from ulmfit_app.hardware import resolve_precision
    from ulmfit_app.models.awd_lstm import build_language_model
    from ulmfit_app.models.softmax import Sampler
    from ulmfit_app.training.optimizer import FusedAdam

    x, y = _ids(vocab)
    model = build_language_model(vocab, ModelSettings(*SHAPE)).train()
    if softmax == "sampled":
        model[1].sampler = Sampler(np.full(vocab, 100))
    opt = FusedAdam(awd_lstm_lm_split(model), lr=1e-3)
    precision = resolve_precision("auto")
    return lambda: (
        _step(opt, model, x, lambda logits: logits.cross_entropy(y), precision) or x.numel()
    )


def our_sampled_language_model(texts: pd.DataFrame) -> Unit:
    return our_language_model(texts, "sampled")


# ----------------------------------------------------------------------------- classifier training
def _train_on(batches: Iterator, opt, model, precision: str = "fp32", n: int = 3) -> Unit:
    """A unit of n batches, counted in tokens without padding."""

    def unit() -> int:
        tokens = 0
        for _ in range(n):
            x, y = (b.as_subclass(torch.Tensor) for b in next(batches))
            _step(opt, model, x, lambda out, y=y: F.cross_entropy(out.float(), y), precision)
            tokens += int((x != 1).sum())
        return tokens

    return unit


def plain_classifier(texts: pd.DataFrame) -> Unit:
    learn = _plain_classifier_learner(texts[:TRAIN])
    learn.create_opt()
    learn.unfreeze()
    learn.model.train()
    return _train_on(iter(cycle(list(learn.dls.train))), learn.opt, learn.model)


def _plain_classifier_learner(texts: pd.DataFrame) -> Learner:
    dls = TextDataLoaders.from_df(
        texts, text_col="text", label_col="label", valid_pct=0.1, seed=0, bs=BATCH
    )
    return text_classifier_learner(
        dls, AWD_LSTM, config=awd_lstm_clas_config, pretrained=False, drop_mult=0.5
    )


def our_classifier(texts: pd.DataFrame) -> Unit:
    from ulmfit_app.config import ModelSettings
    from ulmfit_app.hardware import resolve_precision
    from ulmfit_app.models.awd_lstm import AWDLSTM, classifier_config, with_pooling
    from ulmfit_app.text.batches import ClassifierBatches
    from ulmfit_app.training.optimizer import FusedAdam

    texts = texts[:TRAIN]
    store = _store(texts["text"].tolist())
    labels = texts["label"].astype("category").cat.codes.to_numpy(np.int64)
    batches = ClassifierBatches(store, np.arange(TRAIN), labels, BATCH, seed=0, shuffle=True)
    config = classifier_config(ModelSettings(*SHAPE))
    model = get_text_classifier(AWDLSTM, len(store.words), 2, BPTT, config=config, drop_mult=0.5)
    model = with_pooling(model, grad_tokens=20 * BPTT).train()
    opt = FusedAdam(awd_lstm_clas_split(model), lr=1e-3)
    return _train_on(iter(cycle(list(batches))), opt, model, resolve_precision("auto"))


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


def plain_prediction(texts: pd.DataFrame) -> Unit:
    learn, text = _plain_predictor(texts), _of_200_tokens(texts)

    def unit() -> int:
        with learn.no_bar(), learn.no_logging():
            for _ in range(10):
                learn.predict(text)
        return 10

    return unit


def plain_predictions(texts: pd.DataFrame) -> Unit:
    learn, many = _plain_predictor(texts), texts["text"][:512].tolist()

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
        return Predictor(Path(folder), precision)


def our_prediction(texts: pd.DataFrame, precision: str = "auto") -> Unit:
    predictor, text = our_predictor(texts, precision), _of_200_tokens(texts)

    def unit() -> int:
        for _ in range(10):
            predictor.predict([text])
        return 10

    return unit


def our_int8_prediction(texts: pd.DataFrame) -> Unit:
    return our_prediction(texts, "int8")


def our_predictions(texts: pd.DataFrame) -> Unit:
    predictor, many = our_predictor(texts), texts["text"][:512].tolist()
    return lambda: len(predictor.predict(many))


# ------------------------------------------------------------------------------------------ tokens
def plain_tokens(texts: pd.DataFrame) -> Unit:
    many = texts["text"][:REVIEWS].tolist()
    return lambda: sum(map(len, tokenize_texts(many)))


def our_tokens(texts: pd.DataFrame, reviews: int = REVIEWS) -> Unit:
    import os

    from ulmfit_app.text.store import TokenStore
    from ulmfit_app.text.tokenizing import tokenize

    many = texts["text"][:reviews].tolist()

    def unit() -> int:
        # An empty cache each time, or the second would be served from the first.
        with tempfile.TemporaryDirectory() as cache:
            os.environ["XDG_CACHE_HOME"] = cache
            return int(TokenStore.open(tokenize(many)).offsets[-1])

    return unit


# Name -> (plain fastai, ours, at least so many times as fast, the aim, what is counted, FLOP for
# each or None).
JOBS = {
    "lm": (plain_language_model, our_language_model, 4, 5, "tokens", LSTM_FLOP + SOFTMAX_FLOP),
    "lm-sampled": (plain_language_model, our_sampled_language_model, 6, 8, "tokens", None),
    "classifier": (plain_classifier, our_classifier, 4, 6, "tokens", LSTM_FLOP),
    "predict-one": (plain_prediction, our_prediction, 4, 8, "texts", None),
    "predict-one-int8": (plain_prediction, our_int8_prediction, 4, 8, "texts", None),
    "predict-512": (plain_predictions, our_predictions, 5, 8, "texts", None),
    "tokens": (plain_tokens, our_tokens, 3, 5, "tokens", None),
}
