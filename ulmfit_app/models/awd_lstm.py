"""The AWD-LSTM as it is trained: fastai's (Merity et al. 2017), with our layers around its
weights.

`get_language_model`, `get_text_classifier` and both learner constructors of fastai build it, since
its encoder is registered in fastai's table of architectures. `reader.py` has the same model for
prediction, without fastai.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from fastai.text.models.awdlstm import (
    AWD_LSTM,
    EmbeddingDropout,
    WeightDropout,
    awd_lstm_clas_config,
    awd_lstm_lm_config,
    dropout_mask,
)
from fastai.text.models.core import (
    SequentialRNN,
    _model_meta,
    get_language_model,
    get_text_classifier,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ulmfit_app.config import ModelSettings
from ulmfit_app.models.bundle import Bundle, load_weights
from ulmfit_app.models.lstm import (
    LowWeights,
    is_bf16_on_cpu,
    is_written_out,
    run_evenly,
    train_in_bf16,
)
from ulmfit_app.models.pooling import PooledHead, TextEncoder
from ulmfit_app.models.softmax import VocabularyHead

# fastai leaves a dropout of 0 out of the head, whose layers would then be numbered otherwise than
# in a bundle.
NO_DROPOUT = 1e-9

Drawn = LowWeights | Tensor  # recurrent weights of which some are dropped
Place = tuple[list[tuple[Tensor, Tensor]], int, list[Drawn | None]]


# ------------------------------------------------------------------------------------------ layers
class WeightDroppedLSTM(WeightDropout):
    """fastai's weight-dropped LSTM layer (Merity et al. 2017, section 2), with three differences.

    Under bf16 on a CPU it trains by `train_in_bf16`, where that is right and as quick. A dropout
    of 0 works: fastai 2.8 then hands the raw parameter to the LSTM, which registers it twice, and
    crashes at the second reset. And where `draws_at_reset`, one mask holds until the next reset
    instead of for one step of `bptt` tokens: for the whole forward and backward pass of a batch of
    texts, as Merity et al. say.
    """

    draws_at_reset = False
    drawn: Drawn | None = None

    def reset(self) -> None:
        """Draw another mask at the next step."""
        self.drawn = None

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs [batch, steps, n_hid] and state, of x [batch, steps, n_in] and a state.

        A state is two [1, batch, n_hid].
        """
        draws = not self.draws_at_reset or self.drawn is None
        lstm, raw, p = self.module, self.weight_hh_l0_raw, self.weight_p if self.training else 0.0
        if self.training and is_bf16_on_cpu(x) and is_written_out():
            weights = lstm.weight_ih_l0, raw, lstm.bias_ih_l0 + lstm.bias_hh_l0
            if draws:
                self.drawn = LowWeights(*weights, p)
            return train_in_bf16(x, state, weights, self.drawn)
        if draws:
            # The first tokens of long texts are read without a gradient, by the same weights as
            # those behind them.
            with torch.set_grad_enabled(torch.is_grad_enabled() or self.training):
                self.drawn = F.dropout(raw, p) if p > 0 else raw.clone()
        lstm.weight_hh_l0 = self.drawn
        with warnings.catch_warnings():
            # That the weights are not one block of memory, which dropping some of them makes so.
            warnings.simplefilter("ignore", UserWarning)
            return run_evenly(lstm, x, state)


class WordDropout(EmbeddingDropout):
    """fastai's embedding dropout, which drops whole words, applied to the words of the batch.

    fastai multiplies the whole vocabulary's embeddings by the mask at each step.
    """

    def forward(self, words: Tensor) -> Tensor:
        """Embeddings [batch, steps, emb_sz] of ids [batch, steps]."""
        embedded = self.emb(words)
        if not self.training or self.embed_p == 0:
            return embedded
        weight = self.emb.weight
        return embedded * dropout_mask(weight.data, (len(weight), 1), self.embed_p)[words]


class AWDLSTM(AWD_LSTM):
    """fastai's encoder with the layers above; the training loop asks it for its hidden state.

    Args:
        vocab_size: embeddings.
        draws_at_reset: of its LSTM layers.
        config: as fastai's `AWD_LSTM` takes it.
    """

    def __init__(self, vocab_size: int, *, draws_at_reset: bool = False, **config: Any) -> None:
        super().__init__(vocab_size, **config)
        self.encoder_dp = WordDropout(self.encoder, config["embed_p"])
        for layer in self.rnns:
            layer.draws_at_reset = draws_at_reset

    def _one_rnn(self, n_in: int, n_out: int, bidir: bool, weight_p: float, layer: int):
        return WeightDroppedLSTM(nn.LSTM(n_in, n_out, 1, batch_first=True), weight_p)

    def embed(self, words: Tensor) -> Tensor:
        """Embeddings [n, emb_sz] of ids [n], words dropped."""
        return self.encoder_dp(words)

    def carried_state(self) -> dict[str, Tensor]:
        """What it carries from batch to batch beside its weights: each layer's h and c."""
        pairs = enumerate(self.hidden)
        return {
            f"{i}.{part}": of_layer
            for i, pair in pairs
            for part, of_layer in zip("hc", pair, strict=True)
        }

    def carry_on(self, state: dict[str, Tensor]) -> None:
        """Go on from what `carried_state` gave, in another precision perhaps."""
        layers = range(self.n_layers)
        weight = self.encoder.weight  # its type holds what any lower precision carried
        self.hidden = [tuple(state[f"{i}.{part}"].to(weight) for part in "hc") for i in layers]
        self.bs = self.hidden[0][0].shape[1]

    def place(self) -> Place:
        """Where it is in a batch: its hidden state, and the weights that it dropped some of."""
        return self.hidden, self.bs, [layer.drawn for layer in self.rnns]

    @contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """Be at an earlier place, and then where it was."""
        now = self.place()
        self._go_to(place)
        try:
            yield
        finally:
            self._go_to(now)

    def _go_to(self, place: Place) -> None:
        self.hidden, self.bs, drawn = place
        for layer, of_layer in zip(self.rnns, drawn, strict=True):
            layer.drawn = of_layer


# Whoever names this architecture to fastai gets its configurations, groups and sizes.
_model_meta[AWDLSTM] = _model_meta[AWD_LSTM]


# ------------------------------------------------------------------------------------------ models
def language_model_config(shape: ModelSettings) -> dict[str, Any]:
    """fastai's configuration of a language model, in a shape."""
    return {**awd_lstm_lm_config, **_sizes(shape)}


def classifier_config(shape: ModelSettings) -> dict[str, Any]:
    """fastai's configuration of a classifier, in a shape, one weight mask per batch of texts."""
    return {**awd_lstm_clas_config, **_sizes(shape), "draws_at_reset": True}


def _sizes(shape: ModelSettings) -> dict[str, int]:
    return {"emb_sz": shape.emb_sz, "n_hid": shape.n_hid, "n_layers": shape.n_layers}


def build_language_model(
    vocab_size: int, shape: ModelSettings, drop_mult: float = 1.0
) -> SequentialRNN:
    """An AWD-LSTM language model with random weights and tied embeddings.

    Args:
        vocab_size: words.
        shape: sizes.
        drop_mult: times fastai's dropouts.

    Returns:
        Of ids [batch, tokens] it gives `softmax.Logits` [batch, tokens, vocabulary].
    """
    config = language_model_config(shape)
    return with_vocabulary_head(get_language_model(AWDLSTM, vocab_size, config, drop_mult))


def with_vocabulary_head(model: SequentialRNN) -> SequentialRNN:
    """fastai's language model whose logits are left to be worked off by the loss."""
    return SequentialRNN(model[0], VocabularyHead(model[1].decoder, model[1].output_dp))


def build_classifier(
    vocab_size: int, n_classes: int, shape: ModelSettings, bptt: int = 72
) -> SequentialRNN:
    """A classifier with random weights; of ids [batch, length] it gives logits [batch,
    classes]."""
    config = classifier_config(shape)
    model = get_text_classifier(AWDLSTM, vocab_size, n_classes, bptt, config=config)
    return with_pooling(model, grad_tokens=0)


def with_pooling(model: SequentialRNN, grad_tokens: int) -> SequentialRNN:
    """fastai's text classifier that reads each text by its own length.

    Args:
        model: what fastai's `get_text_classifier` builds.
        grad_tokens: gradients reach back over so many tokens of a text.
    """
    encoder, head = model[0], model[1]
    return SequentialRNN(
        TextEncoder(encoder.bptt, encoder.module, grad_tokens), PooledHead(head.layers)
    )


def load_language_model(bundle: Bundle) -> SequentialRNN:
    """The language model of a loaded bundle, ready to be trained.

    Raises:
        BundleError: its weights do not fit its description.
    """
    model = build_language_model(len(bundle.vocab), bundle.shape)
    load_weights(bundle, model)
    return model


def start_bias_at_frequencies(model: SequentialRNN, counts: np.ndarray) -> None:
    """Set the output bias to the log of the words' shares: training need not begin by learning
    them.

    Args:
        model: a language model.
        counts: occurrences of each id in the training texts, [vocabulary].
    """
    shares = torch.tensor(counts + 1.0) / (counts + 1.0).sum()
    with torch.no_grad():
        model[1].decoder.bias.copy_(shares.log())
