"""The AWD-LSTM: language model and classifier."""

import numpy as np
import torch
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
from fastai.text.models.core import SequentialRNN, get_language_model

from ulmfit_app.config import ModelSettings
from ulmfit_app.models.bundle import Bundle, load_weights
from ulmfit_app.models.lstm import mend
from ulmfit_app.models.softmax import VocabularyHead


def shaped(config: dict, shape: ModelSettings) -> dict:
    """One of fastai's AWD-LSTM configurations in another shape."""
    return {**config, "emb_sz": shape.emb_sz, "n_hid": shape.n_hid, "n_layers": shape.n_layers}


def build(vocab: list[str], shape: ModelSettings, drop_mult: float) -> SequentialRNN:
    """An AWD-LSTM language model with random weights; logits are [batch, tokens, vocabulary]."""
    model = get_language_model(
        AWD_LSTM, len(vocab), config=shaped(awd_lstm_lm_config, shape), drop_mult=drop_mult
    )
    return _mend(model)


def with_weights(bundle: Bundle) -> SequentialRNN:
    """The language model of a loaded bundle. Raises BundleError when its weights do not fit."""
    model = build(bundle.vocab, bundle.shape, drop_mult=1.0)
    load_weights(bundle, model)
    return model


def _mend(model: SequentialRNN) -> SequentialRNN:
    """fastai's language model with our layers around the same parameters."""
    mend(model[0])
    model[1].__class__ = VocabularyHead
    return model


def start_bias_at_frequencies(model: SequentialRNN, counts: np.ndarray) -> None:
    """Set the output bias to the log of the words' shares, so that training need not begin by learning word counts.

    counts: occurrences of each id in the training texts, [vocabulary].
    """
    shares = torch.tensor(counts + 1.0) / (counts + 1.0).sum()
    with torch.no_grad():
        model[1].decoder.bias.copy_(shares.log())
