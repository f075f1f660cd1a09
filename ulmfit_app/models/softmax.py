"""The language model's softmax over the vocabulary, worked off in pieces.

A batch of 64 x 72 tokens over 60,000 words has 276 million logits: a gigabyte, which fastai's
`LinearDecoder` and `CrossEntropyLossFlat` write and read several times per step; on a CPU that is
most of the step (tests/bench/compare.py, "lm"). Here the logits of a few hundred tokens are made,
turned into loss and gradients, and forgotten; what comes out is the full cross-entropy and its
gradients, rounding apart. On CUDA, whose memory is fast enough, fastai's own head and loss train,
unless the softmax is sampled; models that are not in a Learner keep this head there too.

Logits are products in the working precision. What is made of them, the sum over all words and the
loss, is computed in fp32: fp16 has no number for a probability under e^-17, nor bf16 three digits
of any.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ulmfit_app.hardware import working_dtype
from ulmfit_app.models.products import Packed

# Fewer, and on a CPU the products run at half the speed; more, and their logits take more memory
# than the model.
TOKENS_AT_A_TIME = 768
WORDS_AT_A_TIME = 4_096
ROWS_IN_CACHE = 16  # tokens whose logits a CPU's cache holds in fp32
NEGATIVES = 8_192  # draws a step
SIZES_APART = 1_024  # the number of words that they and the batch's come to is a multiple of this


def trains_in_pieces(softmax: Literal["exact", "sampled"], device: torch.device) -> bool:
    """Whether a language model is trained with this head instead of fastai's own.

    The pieces are for a CPU's memory; a GPU's is fast enough for all logits at once.
    """
    return softmax == "sampled" or device.type != "cuda"


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of targets [n] under a softmax over words.

    The logits are hidden [n, emb] x weight [words, emb] + bias [words]. The gradients are made
    beside the loss, because both need the same logits. Backward may run once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        loss = hidden.new_zeros((), dtype=weight.dtype)
        to_hidden, to_weight, to_bias = (
            torch.empty_like(hidden),
            torch.zeros_like(weight),
            torch.zeros_like(bias),
        )
        low, low_weight = hidden.to(dtype), weight.to(dtype)
        to_logits, from_logits = Packed(low_weight), Packed(low_weight.t())
        # The bias is the weight of an activation that is always 1. There are eight of them, since
        # GPUs are slow where rows are no multiple of 16 bytes.
        with_ones, emb = F.pad(low, (0, 8), value=1.0), low.shape[1]
        for rows, probabilities, losses in _softmax(low, to_logits, bias.to(dtype), targets):
            loss += losses.sum()
            # The target's probability - 1: in low precision, that of a likely one would be 0.
            # A scatter would copy all probabilities.
            here = torch.arange(len(losses), device=losses.device)
            probabilities[here, targets[rows]] = torch.expm1(-losses).to(dtype)
            to_hidden[rows] = from_logits(probabilities)
            # In slices, whose sums are added up while they are in cache.
            for words in range(0, len(weight), WORDS_AT_A_TIME):
                here = slice(words, words + WORDS_AT_A_TIME)
                found = probabilities[:, here].t() @ with_ones[rows]
                to_weight[here] += found[:, :emb]
                to_bias[here] += found[:, emb]
            del probabilities
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        return loss / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad / len(ctx.saved_tensors[0])
        return *(gradient.mul_(scale) for gradient in ctx.saved_tensors), None, None


def _softmax(
    hidden: Tensor, to_logits: Packed, bias: Tensor, targets: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yields (rows of hidden, probabilities [n, words], losses of the targets [n]), in pieces.

    Probabilities come in hidden's dtype; whoever takes them deletes them before asking for the
    next piece, whose logits then lie in the same memory. Losses are in nats and at least in fp32.
    """
    precise = torch.promote_types(hidden.dtype, torch.float32)
    n = min(TOKENS_AT_A_TIME, len(hidden))
    few = min(ROWS_IN_CACHE, n) if hidden.device.type == "cpu" else n
    workspace = hidden.new_empty(few, len(bias), dtype=precise)
    for start in range(0, len(hidden), n):
        piece = slice(start, start + n)
        h, y = hidden[piece], targets[piece, None]
        logits = to_logits(h, bias)
        losses = torch.empty(len(h), 1, dtype=precise, device=h.device)
        for row in range(0, len(h), few):
            rows = slice(row, row + few)
            low = logits[rows]
            z = low if low.dtype == precise else workspace[: len(low)].copy_(low)
            losses[rows] = _softmax_in_place(z, y[rows])
            if z is not low:
                low.copy_(z)
        del low, z
        yield piece, logits, losses[:, 0]
        del logits


def _softmax_in_place(logits: Tensor, targets: Tensor) -> Tensor:
    """Turn logits [n, words] into probabilities; the losses of targets [n, 1] come back, [n, 1].

    A loss is the log of the sum of exponentials less the target's logit: unlike the log of the
    target's probability, it is right when that probability is too small for any number. The
    likeliest word, whose probability never is, gives the sum.
    """
    largest, of_target = logits.amax(1, keepdim=True), logits.gather(1, targets)
    torch.softmax(logits, 1, out=logits)
    return (largest - of_target) - logits.amax(1, keepdim=True).log()


class Sampler:
    """Chooses the words of a sampled softmax, which stands for the full one while training.

    After Bengio and Senécal 2008. The words of the batch are always among them. The others are
    drawn in proportion to count^0.75, and weigh 1 / (their chance to be drawn), so that the
    softmax's sum over all words is estimated without bias.

    Args:
        counts: occurrences of each word in the training texts, [vocabulary].
        draws: words drawn per step, before repetitions are dropped.
    """

    def __init__(self, counts: np.ndarray, draws: int = NEGATIVES) -> None:
        shares = torch.as_tensor(counts + 1.0) ** 0.75
        shares /= shares.sum()
        self.draws = draws
        self.upto = shares.cumsum(0)
        self.log_chance = torch.log(-torch.expm1(draws * torch.log1p(-shares)))

    def choose(
        self, weight: Tensor, bias: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Choose words for a step.

        Args:
            weight: [vocabulary, emb].
            bias: [vocabulary].
            targets: [n].

        Returns:
            Weight [words, emb] and corrected bias [words] of the chosen words, and where among
            them the targets are, [n].
        """
        device = weight.device
        drawn = torch.searchsorted(
            self.upto, torch.rand(self.draws, dtype=self.upto.dtype)
        ).clamp_max(len(weight) - 1)
        present = targets.unique()
        words = torch.cat([present, drawn.to(device)]).unique()
        correction = self.log_chance.to(device, bias.dtype)[words]
        correction[torch.searchsorted(words, present)] = 0
        where = torch.searchsorted(words, targets)
        # oneDNN compiles and keeps code for each size of a product that it meets, so there should
        # be few of them. The words that fill up have no probability.
        filling = -len(words) % SIZES_APART
        words, correction = (
            F.pad(words, (0, filling)),
            F.pad(correction, (0, filling), value=torch.inf),
        )
        # The backward pass of an embedding is far faster than that of an index.
        return F.embedding(words, weight), bias[words] - correction, where


@dataclass
class Logits:
    """The logits of a batch, not multiplied out.

    They are hidden [..., emb] x weight [vocabulary, emb] + bias [vocabulary]. fastai's Learner
    passes it on as the prediction, and its metrics find in it the `argmax` that they ask for.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    # For training alone: without gradients, the softmax is always over all words.
    sampler: Sampler | None = None
    _best: Tensor | None = None

    def _inputs(self) -> tuple[Tensor, torch.dtype]:
        return self.hidden.flatten(0, -2), working_dtype(self.hidden)

    def cross_entropy(self, targets: Tensor) -> Tensor:
        """Mean negative log-likelihood of targets [...], in nats; backward may run once."""
        targets = targets.flatten()
        if not torch.is_grad_enabled():
            return self._evaluate(targets).mean()
        hidden, dtype = self._inputs()
        weight, bias = self.weight, self.bias
        if self.sampler is not None:
            weight, bias, targets = self.sampler.choose(weight, bias, targets)
        return _CrossEntropy.apply(hidden, weight, bias, targets, dtype)

    @torch.no_grad()
    def _evaluate(self, targets: Tensor) -> Tensor:
        hidden, dtype = self._inputs()
        losses, best = [], []
        to_logits = Packed(self.weight.to(dtype))
        pieces = _softmax(hidden.to(dtype), to_logits, self.bias.to(dtype), targets)
        for _, probabilities, of_piece in pieces:
            losses.append(of_piece)
            # torch.argmax takes three times as long.
            best.append(probabilities.max(1).indices)
            del probabilities
        self._best = torch.cat(best).view(self.hidden.shape[:-1])
        return torch.cat(losses)

    def argmax(self, dim: int = -1) -> Tensor:
        """The likeliest words [...]."""
        if self._best is None:
            self._evaluate(
                torch.zeros(
                    self.hidden.shape[:-1].numel(), dtype=torch.int64, device=self.hidden.device
                )
            )
        return self._best


class VocabularyHead(nn.Module):
    """A decoder, tied weights and dropout included, that leaves its logits to be worked off.

    Args:
        decoder: [emb] -> [vocabulary].
        output_dp: dropout before it.
    """

    sampler: Sampler | None = None

    def __init__(self, decoder: nn.Linear, output_dp: nn.Module) -> None:
        super().__init__()
        self.decoder, self.output_dp = decoder, output_dp

    def forward(self, outputs: Tensor) -> tuple[Logits, Tensor, Tensor]:
        """The logits of outputs [batch, tokens, emb], and what AR and TAR regularise."""
        dropped = self.output_dp(outputs)
        sampler = self.sampler if self.training else None
        logits = Logits(dropped, self.decoder.weight, self.decoder.bias, sampler)
        return logits, outputs, dropped


def cross_entropy(logits: Logits, targets: Tensor) -> Tensor:
    """The language model's loss, for a Learner."""
    return logits.cross_entropy(targets)
