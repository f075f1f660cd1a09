"""A backward pass that keeps little: what it needs is computed again when it gets there (Chen et
al. 2016, "Training Deep Nets with Sublinear Memory Cost", section 3)."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Computed = TypeVar("Computed")


def recomputed(
    compute: Callable[[], Computed],
    device: torch.device,
    back_then: Callable[[], AbstractContextManager] = nullcontext,
) -> Computed:
    """compute(), which the backward pass calls again instead of keeping what it needs of it.

    Gradients are the same to the bit: the graph is the one that compute() makes, random numbers,
    mixed precision and gradients for all inputs included. Ours, because torch's `checkpoint`
    imports torch's compiler, which takes seconds and 150 MB, as transformers do in any case.

    Args:
        compute: gives tensors; called a second time it gives the same, if `back_then` and the
            random state are as they were.
        device: that it computes on.
        back_then: within it, what compute() reads beside its tensors is as it was.
    """
    on_gpu = device.type == "cuda"
    state, of_gpu = torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None
    kind, is_mixed = device.type, torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(kind) if is_mixed else None
    saved: dict[int, Tensor] = {}

    def compute_again() -> None:
        numbers = count()

        def save(tensor: Tensor) -> None:
            saved[next(numbers)] = tensor.detach()

        with (
            torch.random.fork_rng([device] if on_gpu else []),
            torch.autocast(kind, dtype, enabled=is_mixed),
            torch.enable_grad(),
            back_then(),
            saved_tensors_hooks(save, lambda _: None),
        ):
            torch.set_rng_state(state)
            if on_gpu:
                torch.cuda.set_rng_state(of_gpu, device)
            compute()

    def find(number: int) -> Tensor:
        if number not in saved:
            compute_again()
        # Each is needed once, and takes memory as long as it is here.
        return saved.pop(number)

    numbers = count()
    with saved_tensors_hooks(lambda _: next(numbers), find):
        return compute()
