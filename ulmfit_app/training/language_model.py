"""The language model: built, started from pretrained weights or from none, fine-tuned, and measured by its perplexity.

ULMFiT sections 3.1 and 3.2. The model is fastai's AWD-LSTM with tied embeddings (Merity et al. 2017).
"""

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import Perplexity, accuracy
from fastai.text.learner import language_model_learner, match_embeds
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config

from data_scripts.files import replacing
from ulmfit_app.config import LanguageModelSettings
from ulmfit_app.errors import BundleError
from ulmfit_app.models.awd_lstm import _mend, shaped, start_bias_at_frequencies
from ulmfit_app.models.bundle import require_direction
from ulmfit_app.models.pretrained import Start
from ulmfit_app.models.softmax import Sampler, cross_entropy
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.rules import UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.training.loop import prepare
from ulmfit_app.training.optimizer import FusedAdam

if "MPLBACKEND" not in os.environ:  # a notebook says there where its figures go
    matplotlib.use("Agg")  # fastai imports pyplot, which would look for a screen

log = logging.getLogger(__name__)


def vocabulary_overlap(start: Start, words: list[str], counts: np.ndarray) -> str:
    """How far the start's vocabulary covers texts, in a sentence. counts: how often each of `words` occurs in them."""
    known = set(start.vocab)
    new = np.array([word not in known for word in words]) & (counts > 0)
    share_new, share_unknown = counts[new].sum() / counts.sum(), counts[UNK_ID] / counts.sum()
    return (
        f"The texts use {(counts > 0).sum():,} words of the vocabulary, {new.sum():,} of them new to the start "
        f"({share_new:.1%} of the running words), which begin as the mean of the words it knows; of the running words "
        f"{share_unknown:.1%} are not in the vocabulary."
    )


def learner(
    store: TokenStore,
    train: np.ndarray,
    valid: np.ndarray,
    start: Start,
    settings: LanguageModelSettings,
    precision: str,
    seed: int,
    tokens_an_epoch: int | None = None,
) -> Learner:
    """fastai's language-model Learner over our batches, its weights as `start` says.

    train, valid: which texts of the store; words that the start does not know begin as the mean of those it knows.
    Raises BundleError when the store gives texts in the other direction than the start reads.
    """
    require_direction(start.direction, store.direction, f"The start, {start.origin},")
    batches = LanguageModelBatches(
        store,
        train,
        settings.batch_size,
        settings.bptt,
        seed,
        shuffle=True,
        tokens_an_epoch=tokens_an_epoch,
    )
    check = LanguageModelBatches(store, valid, settings.batch_size, settings.bptt)
    learn = language_model_learner(
        DataLoaders(batches, check),
        AWD_LSTM,
        config=shaped(awd_lstm_lm_config, start.shape),
        drop_mult=settings.drop_mult,
        pretrained=False,
        metrics=[accuracy, Perplexity()],
        opt_func=FusedAdam,
    )
    _mend(learn.model)
    learn.loss_func = cross_entropy
    counts = store.counts(train)
    if settings.softmax == "sampled":
        learn.model[1].sampler = Sampler(counts)
    if start.is_pretrained:
        log.info(vocabulary_overlap(start, store.words, counts))
        weights = match_embeds(dict(start.weights), start.vocab, store.words)
        try:
            learn.model.load_state_dict(weights)
        except RuntimeError as error:
            raise BundleError(
                f"The weights of {start.origin} do not fit fastai's AWD-LSTM: {error}"
            ) from None
    else:
        start_bias_at_frequencies(learn.model, counts)
    return prepare(learn, precision)


def save_lr_finder_plot(learn: Learner, path: Path) -> None:
    """Run fastai's learning-rate finder (Smith 2017) and draw loss against rate; the learner is as before."""
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
    axes.axvline(
        suggestion.valley,
        linestyle=":",
        color="gray",
        label=f"fastai's suggestion: {suggestion.valley:.1e}",
    )
    axes.set(xscale="log", xlabel="learning rate", ylabel="smoothed training loss (nats a token)")
    axes.set_title("Learning-rate finder, language model")
    axes.legend()
    with replacing(path) as draft:
        figure.savefig(draft, dpi=150)
