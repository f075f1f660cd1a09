"""The language model's Learner: fastai's over our batches, started from weights or from none.

ULMFiT sections 3.1 and 3.2; fastai's AWD-LSTM with tied embeddings (Merity et al. 2017).
"""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import Perplexity, accuracy
from fastai.text.learner import language_model_learner, match_embeds
from torch import nn

from data_scripts.files import replacing
from ulmfit_app.config import Direction, LanguageModelSettings, Precision
from ulmfit_app.errors import BundleError
from ulmfit_app.models.awd_lstm import (
    AWDLSTM,
    language_model_config,
    start_bias_at_frequencies,
    with_vocabulary_head,
)
from ulmfit_app.models.bundle import require_direction
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.softmax import Sampler, cross_entropy, trains_in_pieces
from ulmfit_app.models.start import Start
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.rules import UNK, UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.training import transformer
from ulmfit_app.training.loop import prepare
from ulmfit_app.training.ongoing import TrainingSettings
from ulmfit_app.training.optimizer import FusedAdam

log = logging.getLogger(__name__)


def make_learner(
    store: TokenStore,
    train: np.ndarray,
    valid: np.ndarray,
    start: Start,
    settings: LanguageModelSettings,
    precision: Precision,
    seed: int,
    tokens_per_epoch: int | None = None,
) -> Learner:
    """fastai's language-model Learner over our batches, its weights as `start` says.

    Args:
        store: texts, read in its direction.
        train, valid: which of them, [n].
        start: words that it does not know begin as the mean of those it knows.
        settings: of the batches, the dropouts and the softmax.
        precision: of matrix products.
        seed: of the order of texts.
        tokens_per_epoch: as `LanguageModelBatches` has it.

    Raises:
        BundleError: the store gives texts in the other direction than the start reads, or the
            start's weights do not fit.
    """
    require_direction(start.direction, store.direction, f"The start, {start.origin},")
    if isinstance(start.shape, TransformerShape):
        learn = transformer.make_language_model_learner(store, train, valid, start, settings, seed)
        return prepare(learn, precision)
    sizes = settings.batch_size, settings.bptt
    batches = LanguageModelBatches(
        store, train, *sizes, seed, shuffle=True, tokens_per_epoch=tokens_per_epoch
    )
    dls = DataLoaders(batches, LanguageModelBatches(store, valid, *sizes))
    learn = language_model_learner(
        dls,
        AWDLSTM,
        config=language_model_config(start.shape),
        drop_mult=settings.drop_mult,
        pretrained=False,
        metrics=[accuracy, Perplexity()],
        opt_func=FusedAdam,
    )
    counts = store.counts(train)
    if trains_in_pieces(settings.softmax, dls.device):
        learn.model = with_vocabulary_head(learn.model)
        learn.loss_func = cross_entropy
    if settings.softmax == "sampled":
        learn.model[1].sampler = Sampler(counts)
    if start.is_pretrained:
        if not start.has_subwords:  # which know every text
            log.info(describe_overlap(start, store, train))
        _load(start, learn.model, store.words)
    else:
        start_bias_at_frequencies(learn.model, counts)
    return prepare(learn, precision)


def _load(start: Start, model: nn.Module, words: list[str]) -> None:
    """Put the start's weights into a model of other words."""
    try:
        model.load_state_dict(match_embeds(dict(start.weights), start.vocab, words))
    except RuntimeError as error:
        raise BundleError(
            f"The weights of {start.origin} do not fit fastai's AWD-LSTM: {error}"
        ) from None


def training_settings(
    settings: LanguageModelSettings, direction: Direction, key: str
) -> TrainingSettings:
    """How its Learner is trained: the epoch of the lowest validation loss is kept."""
    title = "Language model" if direction == "forward" else f"Language model, {direction}"
    return TrainingSettings(
        title, key, settings.schedule, settings.weight_decay, settings.grad_clip
    )


def rate_setting(start: Start) -> Literal["lr", "random_lr", "transformer_lr"]:
    """The field of `LanguageModelSettings` that holds the peak rate for a start."""
    if isinstance(start.shape, TransformerShape):
        return "transformer_lr"
    return "lr" if start.is_pretrained or start.tokenizer else "random_lr"


def describe_overlap(start: Start, store: TokenStore, texts: np.ndarray) -> str:
    """How far the start's vocabulary covers texts, in a sentence.

    Args:
        start: with its words.
        store: texts as ids of the vocabulary that is trained.
        texts: which of them, by number.

    Raises:
        ValueError: the store is of tokens that no vocabulary has numbered yet, in which no token
            is unknown.
    """
    words = store.words
    if words[UNK_ID] != UNK:
        raise ValueError(
            f"expected texts as ids of a vocabulary, whose word {UNK_ID} is {UNK}, found tokens "
            f"whose word {UNK_ID} is {words[UNK_ID]}. Number them first: "
            "numericalize(tokenize(texts), vocab)"
        )
    counts, known = store.counts(texts), set(start.vocab)
    new = np.array([word not in known for word in words]) & (counts > 0)
    share_new, share_unknown = counts[new].sum() / counts.sum(), counts[UNK_ID] / counts.sum()
    return (
        f"The texts use {(counts > 0).sum():,} words of the vocabulary, {new.sum():,} of them new "
        f"to the start ({share_new:.1%} of the running words), which begin as the mean of the "
        f"words it knows; of the running words {share_unknown:.1%} are not in the vocabulary."
    )


def save_lr_finder_plot(learn: Learner, path: Path) -> float:
    """Run fastai's learning-rate finder (Smith 2017) and draw loss against rate.

    Args:
        learn: is as before, afterwards.
        path: of the PNG.

    Returns:
        The rate that it suggests.
    """
    from matplotlib.figure import Figure

    state = torch.get_rng_state()
    # fastai keeps the weights meanwhile in a folder below the learner's path.
    with TemporaryDirectory() as scratch:
        learn.path = Path(scratch)
        suggestion = learn.lr_find(show_plot=False)
    torch.set_rng_state(state)
    learn.opt = None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(learn.recorder.lrs, learn.recorder.losses)
    label = f"fastai's suggestion: {suggestion.valley:.1e}"
    axes.axvline(suggestion.valley, linestyle=":", color="gray", label=label)
    axes.set(
        xscale="log", xlabel="learning rate", ylabel="smoothed training loss (nats per token)"
    )
    axes.set_title("Learning-rate finder, language model")
    axes.legend()
    with replacing(path) as draft:
        figure.savefig(draft, dpi=150)
    return float(suggestion.valley)
