"""How much of a batch a classifier's training keeps for its backward pass, by the memory there is.

An AWD-LSTM keeps 46 kB per token in bf16 at the paper's size, which is 4 GB of 64 texts that
gradients reach back over 1,440 tokens of. What is not kept is computed again, with the same
results (`models/recomputing.py`), so that what one machine decides changes nothing but time.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ulmfit_app.config import ClassifierSettings, Precision
from ulmfit_app.hardware import autocast, free_memory, resolve_precision
from ulmfit_app.models.pooling import TextEncoder
from ulmfit_app.training import processes

SHARE = 0.8  # of the free memory, at most: others need some, and the estimate is one
# Bytes, as they were measured at the paper's size, gaps between blocks of memory included: of a
# parameter's gradient, Adam's two means and copies in low precision; and of each number that the
# encoder gives, which are regularised.
OF_PARAMETER, OF_OUTPUT = 24, 28
GB = 1e9


def keep_what_fits(
    model: nn.Module,
    lengths: Sequence[int],
    settings: ClassifierSettings,
    precision: Precision,
    device: torch.device,
) -> str:
    """Let a classifier keep no more of a batch for the backward pass than there is memory for.

    Args:
        model: a classifier whose first part is a `TextEncoder`; moved to the device.
        lengths: of the texts of the largest batch, in tokens.
        settings: recompute: auto, yes or no.
        precision: of matrix products.
        device: that it is trained on.

    Returns:
        What is to be said of it; nothing where all is kept, or none was asked for.
    """
    encoder, together = model[0], processes.count()  # each reads its share of the batch
    rows = math.ceil(len(lengths) / together)
    a_step = rows * encoder.bptt  # takes its memory in any case, when it is computed again
    encoder.kept_tokens = a_step if settings.recompute == "yes" else math.inf
    free = free_memory(device) if settings.recompute == "auto" else None
    if free is None:
        return ""
    own = SHARE * free / (1 if device.type == "cuda" else together)
    model.to(device)
    steps, tokens = _count_learned(encoder, lengths)
    per_token = _bytes_per_token(encoder, precision, device)
    of_tokens = per_token * tokens / together
    fixed = OF_PARAMETER * sum(each.numel() for each in model.parameters())
    fixed += OF_OUTPUT * rows * steps * encoder.bptt * encoder.module.emb_sz
    if fixed + of_tokens <= own:
        return ""
    encoder.kept_tokens = max((own - fixed) / per_token, a_step)
    return (
        f"Memory is short: {free / GB:.1f} GB are free, and a batch of the longest texts would "
        f"take {(fixed + of_tokens) * together / GB:.1f}. So a part of it is computed again in "
        "the backward pass, with the same results, in up to a third more time "
        "(--classifier.recompute no: never)."
    )


def _count_learned(encoder: TextEncoder, lengths: Sequence[int]) -> tuple[int, int]:
    """In how many steps a batch has gradients, and how many of its tokens these are."""
    steps = tokens = 0
    for start in range(0, max(lengths), encoder.bptt):
        alive = [length for length in lengths if length > start]
        if encoder.learns(start + encoder.bptt, alive):
            steps += 1
            tokens += sum(min(length - start, encoder.bptt) for length in alive)
    return steps, tokens


def _bytes_per_token(encoder: TextEncoder, precision: Precision, device: torch.device) -> float:
    """What the encoder keeps for the backward pass, in training, measured on small batches."""
    few, more = (_bytes_kept(encoder, rows, precision, device) for rows in (8, 16))
    return (more - few) / (8 * encoder.bptt)


def _bytes_kept(
    encoder: TextEncoder, rows: int, precision: Precision, device: torch.device
) -> int:
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.full((rows, encoder.bptt), 2, device=device)  # one word: embeddings are fixed
    mode, reach = encoder.training, encoder.max_len
    encoder.train()
    encoder.max_len = encoder.bptt
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        autocast(resolve_precision(precision), device.type),
        saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        read = encoder(ids)
    del read
    encoder.train(mode)
    encoder.max_len = reach
    encoder.reset()
    return sum(kept.values())
