"""The AWD-LSTM as it is read with: no dropout, no fastai, the weights of a bundle.

The trained model is built on fastai's, whose import takes 2,000 modules and some seconds, which
nobody who serves a model should wait for. Here are the layers that are left when nothing is
trained, under the names that a bundle's weights have.
"""

import re

from torch import Tensor, nn

from ulmfit_app.config import ModelSettings
from ulmfit_app.models.bundle import Bundle, load_weights
from ulmfit_app.models.lstm import EvenLSTM
from ulmfit_app.models.pooling import PooledHead, TextEncoder
from ulmfit_app.models.softmax import VocabularyHead
from ulmfit_app.text.rules import PAD_ID

BPTT = 72  # tokens per step that a classifier reads at least, on a GPU; fastai
HEAD_UNITS = 50  # of the classifier's hidden layer; fastai and the paper


class Encoder(nn.Module):
    """Embeddings and LSTM layers; the hidden state stays from call to call until `reset`.

    Args:
        vocab_size: embeddings.
        shape: sizes; the last layer has as many units as an embedding.
    """

    def __init__(self, vocab_size: int, shape: ModelSettings) -> None:
        super().__init__()
        self.encoder = nn.Embedding(vocab_size, shape.emb_sz, padding_idx=PAD_ID)
        hidden = [shape.n_hid] * (shape.n_layers - 1)
        sizes = [shape.emb_sz, *hidden, shape.emb_sz]
        self.rnns = nn.ModuleList(
            EvenLSTM(n_in, n_out, batch_first=True)
            for n_in, n_out in zip(sizes, sizes[1:], strict=False)
        )
        self._units = sizes[1:]
        self.hidden: list[tuple[Tensor, Tensor]] | None = None

    def reset(self) -> None:
        """Begin with a hidden state of zeros."""
        self.hidden = None

    def embed(self, words: Tensor) -> Tensor:
        """Embeddings [n, emb_sz] of ids [n]."""
        return self.encoder(words)

    def forward(self, x: Tensor, from_embeds: bool = False) -> Tensor:
        """Read on: the last layer's outputs [batch, tokens, emb_sz].

        Args:
            x: ids [batch, tokens]; with from_embeds, embeddings [batch, tokens, emb_sz]. Fewer
                rows than before are the first ones of those.
        """
        output = x if from_embeds else self.encoder(x)
        states = self._state_of(len(x))
        self.hidden = []
        for layer, state in zip(self.rnns, states, strict=True):
            output, (hidden, cell) = layer(output, state)
            self.hidden.append((hidden.detach(), cell.detach()))
        return output

    def repeat_state(self, rows: int) -> None:
        """Let an encoder that has read one row go on with as many copies of it."""
        self.hidden = [tuple(part.repeat(1, rows, 1) for part in pair) for pair in self.hidden]

    def _state_of(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        if self.hidden is None:
            weight = self.encoder.weight
            return [
                (weight.new_zeros(1, rows, n), weight.new_zeros(1, rows, n)) for n in self._units
            ]
        return [tuple(part[:, :rows].contiguous() for part in pair) for pair in self.hidden]


class Reader(nn.Sequential):
    """An encoder and what stands on it."""

    def reset(self) -> None:
        """Begin texts anew."""
        self[0].reset()


def read_language_model(bundle: Bundle) -> Reader:
    """The language model of a loaded bundle, in evaluation.

    Returns:
        Of ids [batch, tokens] it gives `softmax.Logits` [batch, tokens, vocabulary].

    Raises:
        BundleError: its weights do not fit its description.
    """
    size = len(bundle.vocab)
    encoder = Encoder(size, bundle.shape)
    decoder = nn.Linear(bundle.shape.emb_sz, size)
    decoder.weight = encoder.encoder.weight
    model = Reader(encoder, VocabularyHead(decoder, nn.Identity()))
    load_weights(bundle, model, _plain_name)
    return model.eval()


def read_classifier(bundle: Bundle) -> Reader:
    """The classifier of a loaded bundle, in evaluation.

    Returns:
        Of ids [batch, length], padded on the right, it gives logits [batch, classes].

    Raises:
        BundleError: its weights do not fit its description.
    """
    encoder = Encoder(len(bundle.vocab), bundle.shape)
    units = 3 * bundle.shape.emb_sz
    layers = nn.Sequential(
        _norm_and_linear(units, HEAD_UNITS, nn.ReLU()),
        _norm_and_linear(HEAD_UNITS, len(bundle.labels)),
    )
    model = Reader(TextEncoder(BPTT, encoder, max_len=0), PooledHead(layers))
    load_weights(bundle, model, _plain_name)
    return model.eval()


def _norm_and_linear(n_in: int, n_out: int, *activation: nn.Module) -> nn.Sequential:
    """fastai's LinBnDrop; its dropout has a place, so that the names of the weights agree."""
    linear = nn.Linear(n_in, n_out, bias=False)
    return nn.Sequential(nn.BatchNorm1d(n_in), nn.Identity(), linear, *activation)


def _plain_name(name: str) -> str:
    """A plain layer's name of a weight whose name is fastai's weight-dropped layer's.

    >>> _plain_name("0.rnns.1.weight_hh_l0_raw"), _plain_name("0.rnns.1.module.bias_ih_l0")
    ('0.rnns.1.weight_hh_l0', '0.rnns.1.bias_ih_l0')
    """
    return re.sub(r"(rnns\.\d+)\.(?:module\.)?(\w+?)(?:_raw)?$", r"\1.\2", name)
