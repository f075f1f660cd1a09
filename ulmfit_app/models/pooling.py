"""A text of any length to one vector: an encoder read in steps, and concat pooling."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulmfit_app.models.recomputing import recomputed
from ulmfit_app.text.rules import PAD_ID

TOKENS_AT_A_TIME = 1 << 14  # in evaluation: few enough to take little memory
# On a CPU: enough for products at full speed, few enough that little is read behind texts' ends.
TOKENS_ON_CPU, FEWEST_STEPS = 1 << 11, 16
# In evaluation, in low precision. A bf16 product of one row is summed in another order than that
# of several, which moved probabilities of a text alone by up to 0.003; those of two rows and of
# 150 agree to 1e-7.
FEWEST_ROWS = 2


class TextEncoder(nn.Module):
    """Encodes texts in steps and pools as it goes, so that memory does not grow with their length.

    fastai's `SentenceEncoder` and `masked_concat_pool` count rows by the first token of each chunk
    and pool by a mask of the whole batch, so that a text's pooled vector, and with it its
    prediction, depends on which texts share its batch (fastai#3379; up to 0.20 of probability).
    They pool a text's last `max_len` tokens only. Here each text is read by its own length, and
    all of its tokens are pooled and nothing else.

    Args:
        bptt: tokens per step in training.
        module: the encoder: `embed(ids)`, `reset()`, and a call with `from_embeds=True`.
        max_len: gradients reach back over a text's last `max_len` tokens.

    Attributes:
        kept_tokens: in training, what the backward pass needs is kept of a batch's last so many
            tokens. The steps before them are computed again there, one at a time, which gives the
            same gradients to the bit: it takes a forward pass more, and memory for so many tokens.
    """

    kept_tokens = math.inf

    def __init__(self, bptt: int, module: nn.Module, max_len: int) -> None:
        super().__init__()
        self.bptt, self.module, self.max_len = bptt, module, max_len

    def reset(self) -> None:
        """Begin texts anew."""
        self.module.reset()

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [..., emb_sz] of ids [...]."""
        return self.module.embed(ids)

    def say_nothing(self, ids: Tensor) -> Tensor:
        """Embeddings of tokens that say nothing, in the place of ids: zeros."""
        return torch.zeros_like(self.embed(ids))

    def forward(self, ids: Tensor, embedded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pool a batch of texts (ULMFiT section 3.3, "concat pooling").

        Args:
            ids: int64 [batch, length], padded on the right with PAD_ID, rows in any order.
            embedded: [batch, length, emb_sz], to be read in the place of the ids' embeddings.

        Returns:
            The pooled texts [batch, 3 * emb_sz], each the last state, the maximum and the mean
            over its tokens; and the encoder's outputs [batch, tokens, emb_sz], zero at padding,
            for the activation regularisation, rows by falling length; in evaluation these are
            empty.
        """
        n_texts = len(ids)
        is_low = next(self.module.parameters()).dtype != torch.float32
        fewest = FEWEST_ROWS if is_low and not self.training else 1
        if n_texts < fewest:
            ids = ids.repeat(fewest, 1)
        lengths, order = (ids != PAD_ID).sum(1).sort(descending=True, stable=True)
        self.reset()
        embeddings, ids = self._look_up(ids, order, embedded)
        largest = total = None
        pooled, outputs = [], []
        steps = lengths.tolist()
        end = 0
        while end < max(steps[0], 1):
            # Rows stand by length, so those with tokens left are always the first ones.
            start, alive = end, max(sum(length > end for length in steps), 1)
            end += self._tokens_per_step(alive, ids.device)
            learns = self.learns(end, steps[:alive])
            here = ids[: max(alive, fewest), start:end]
            read = partial(self._read, here, embeddings, lengths[:alive] - start)
            left = sum(max(length - start, 0) for length in steps)
            with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
                if self.training and learns and left > self.kept_tokens:
                    back_then = partial(self.module.at, self.module.place())
                    out, top, sums = recomputed(read, ids.device, back_then)
                else:
                    out, top, sums = read()
                largest = top if largest is None else torch.maximum(largest[:alive], top)
                total = sums if total is None else total[:alive] + sums
            if self.training and learns:
                outputs.append(F.pad(out, (0, 0, 0, 0, 0, len(ids) - alive)))
            going_on = sum(length > end for length in steps)
            done = slice(going_on, alive)
            if going_on < alive:
                rows = torch.arange(going_on, alive, device=ids.device)
                last = out[rows, lengths[done] - start - 1]
                pooled.append(
                    torch.cat([last, largest[done], total[done] / lengths[done, None]], 1)
                )
            largest, total = largest[:going_on], total[:going_on]
        # The shortest texts were done first.
        texts = torch.cat(pooled[::-1])[order.argsort()][:n_texts]
        if not outputs:
            return texts, texts.new_zeros(0)
        # Processes that share a batch have places for its longest text each, to take means over.
        return texts, F.pad(torch.cat(outputs, 1), (0, 0, 0, max(ids.shape[1] - end, 0)))

    def learns(self, end: int, lengths: list[int]) -> bool:
        """Whether gradients reach a step up to token `end`, of texts of lengths that begin it."""
        return any(length - self.max_len < end for length in lengths)

    def _read(
        self, ids: Tensor, embeddings: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A step's outputs, zero behind each text's length, and their maximum and sum over it."""
        out = self.module(F.embedding(ids, embeddings), from_embeds=True)[: len(lengths)]
        own = (torch.arange(out.shape[1], device=ids.device) < lengths[:, None])[:, :, None]
        largest = out.masked_fill(~own, -torch.inf).amax(1)
        out = out.masked_fill(~own, 0)
        # A sum over thousands of tokens leaves the range of fp16.
        return out, largest, out.float().sum(1)

    def _tokens_per_step(self, rows: int, device: torch.device) -> int:
        """How many tokens of each row are read at once, which no result depends on."""
        if self.training:
            return self.bptt
        if device.type == "cpu" and not torch.is_grad_enabled():
            return max(FEWEST_STEPS, TOKENS_ON_CPU // rows)
        # Without a gradient to cut off, steps may be long, and one is to reach over all of a text.
        return max(self.bptt, TOKENS_AT_A_TIME // rows)

    def _look_up(
        self, ids: Tensor, order: Tensor, embedded: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Embeddings [n, emb_sz], and which one each token has, [batch, length], in an order."""
        if embedded is None:
            # A step's gradient for the embeddings is as large as what was looked up: the batch's
            # words, not the vocabulary.
            words, which = ids[order].unique(return_inverse=True)
            return self.embed(words), which
        which = torch.arange(ids.numel(), device=ids.device).view_as(ids)
        return embedded[order].flatten(0, 1), which


class PooledHead(nn.Module):
    """The classifier's layers over texts that are pooled already.

    fastai's `PoolingLinearClassifier` pools by the mask of a batch, as `TextEncoder` says.

    Args:
        layers: fastai's: batch normalisation, dropout, a linear layer, ReLU; and without ReLU
            again.
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [batch, classes] and, twice, what fastai's AR and TAR callbacks regularise."""
        texts, outputs = encoded
        return self.layers(texts), outputs, outputs
