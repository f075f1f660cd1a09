"""The classifier: pooling over an encoder."""

import torch
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from fastai.text.models.core import (
    PoolingLinearClassifier,
    SentenceEncoder,
    SequentialRNN,
    _pad_tensor,
    get_text_classifier,
)
from torch import Tensor
from torch.nn import functional as F

from ulmfit_app.config import ModelSettings
from ulmfit_app.models.awd_lstm import shaped
from ulmfit_app.models.lstm import mend
from ulmfit_app.text.rules import PAD_ID

# fastai leaves a dropout of 0 out of the head, whose layers would then be numbered otherwise than in a bundle.
NO_DROPOUT = 1e-9
TOKENS_AT_A_TIME = 1 << 14  # in evaluation: few enough to take little memory


class TextEncoder(SentenceEncoder):
    """Encodes texts of any length in steps of `bptt` tokens and pools as it goes, so that memory does not grow with them.

    bptt: tokens a step; max_len: gradients reach back over a text's last `max_len` tokens; all of its tokens are pooled
    (fastai pools the last `max_len` only).
    """

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids: int64 [batch, length], padded on the right with `pad_idx`, rows in any order.

        Returns the pooled texts [batch, 3 * emb_sz], each the last state, the maximum and the mean over its tokens
        (section 3.3, "concat pooling"), and the encoder's outputs [batch, tokens, emb_sz], zero at padding, for the
        activation regularisation, rows by falling length; in evaluation these are empty.
        """
        lengths, order = (ids != self.pad_idx).sum(1).sort(descending=True, stable=True)
        self.reset()
        # A step's gradient for the embeddings is as large as what was looked up: the batch's words, not the vocabulary.
        words, ids = ids[order].unique(return_inverse=True)
        embeddings = self.module.encoder_dp(words)
        largest = total = None
        pooled, outputs = [], []
        steps = lengths.tolist()
        # Without a gradient to cut off, steps may be longer; that saves laying out the weights for each.
        step = self.bptt if self.training else max(self.bptt, TOKENS_AT_A_TIME // len(ids))
        for start in range(0, max(steps[0], 1), step):
            # Rows stand by length, so those with tokens left are always the first ones.
            alive = max(sum(length > start for length in steps), 1)
            end = start + step
            learns = any(length - self.max_len < end for length in steps[:alive])
            with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
                out = self.module(
                    F.embedding(ids[:alive, start:end], embeddings), from_embeds=True
                )
                own = (
                    torch.arange(start, start + out.shape[1], device=ids.device)
                    < lengths[:alive, None]
                )[:, :, None]
                here = out.masked_fill(~own, -torch.inf).amax(1)
                largest = here if largest is None else torch.maximum(largest[:alive], here)
                out = out.masked_fill(~own, 0)
                # A sum over thousands of tokens leaves the range of fp16.
                sums = out.float().sum(1)
                total = sums if total is None else total[:alive] + sums
            if self.training and learns:
                outputs.append(_pad_tensor(out, len(ids)))
            going_on = sum(length > end for length in steps)
            done = slice(going_on, alive)
            if going_on < alive:
                last = out[
                    torch.arange(going_on, alive, device=ids.device), lengths[done] - start - 1
                ]
                pooled.append(
                    torch.cat([last, largest[done], total[done] / lengths[done, None]], 1)
                )
            largest, total = largest[:going_on], total[:going_on]
        # The shortest texts were done first.
        texts = torch.cat(pooled[::-1])[order.argsort()]
        return texts, torch.cat(outputs, 1) if outputs else texts.new_zeros(0)


class PooledClassifier(PoolingLinearClassifier):
    """fastai's head over texts that are pooled already."""

    def forward(self, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits [batch, classes] and, twice, what fastai's AR and TAR callbacks regularise."""
        texts, outputs = encoded
        return self.layers(texts), outputs, outputs


def _mend(model: SequentialRNN, grad_tokens: int) -> SequentialRNN:
    """fastai's text classifier with our encoder and head around the same parameters."""
    encoder, head = model[0], model[1]
    mend(encoder.module)
    for layer in encoder.module.rnns:
        layer.draws_at_reset = True
    model[0] = TextEncoder(encoder.bptt, encoder.module, PAD_ID, grad_tokens)
    # Only the forward pass differs.
    head.__class__ = PooledClassifier
    return model


def build_classifier(
    vocab_size: int, n_classes: int, shape: ModelSettings, bptt: int = 72
) -> SequentialRNN:
    """A classifier with random weights, ready for a bundle's."""
    model = get_text_classifier(
        AWD_LSTM, vocab_size, n_classes, bptt, config=shaped(awd_lstm_clas_config, shape)
    )
    return _mend(model, grad_tokens=0)
