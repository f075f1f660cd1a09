"""One training by several processes: each reads its rows of every batch, gradients are summed.

A batch is the global batch, so that settings mean the same whatever the number of processes: what
one process computes of a batch, several compute in shares. With dropouts of 0 the losses are the
same up to the order of sums; with others each process draws its own.

Ours, because fastai's `to_distributed` pads the texts so that all processes have as many, hands
batches out whole (N processes make it N times as large), needs the package accelerate, and its
`SyncBatchNorm` refuses CPUs. torch's own DistributedDataParallel averages processes that read
different numbers of rows as if they had read the same, and knows no step without rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from fastai.callback.core import Callback
from fastai.learner import Learner, Metric
from torch import Tensor, nn

from ulmfit_app.errors import SettingError
from ulmfit_app.training import processes
from ulmfit_app.training.recipes import Phase, phases_of_pairs

LARGE = 100_000  # numbers: a sum of fewer takes as long as its message, so they go in one block


@contextmanager
def shared(learn: Learner, phases: Sequence[Phase], folder: Path, settings: Any) -> Iterator[None]:
    """Let all processes carry out a training; where there is one alone, nothing changes.

    Args:
        learn: of the first process; the others were sent it.
        phases, folder, settings: as `loop.train` takes them.

    Raises:
        SettingError: a phase compares the texts of a batch, of which each process sees some.
        WorkerError: another process has ended.
    """
    if processes.count() == 1:
        yield
        return
    if phases_of_pairs(phases):
        raise SettingError(
            "--classifier.plan contrastive compares all texts of a batch, which several processes "
            "share. Train it in one: leave torchrun out."
        )
    if processes.rank() == 0:
        processes.send(((learn, phases, folder, settings), torch.get_rng_state()))
    threads, whole = torch.get_num_threads(), learn.model
    torch.set_num_threads(processes.threads())
    for batches in learn.dls.loaders:
        batches.shard = processes.rank(), processes.count()
    replaced = _share_batch_norm(learn.model)
    learn.add_cb(ShareWork())
    try:
        yield
    except BaseException:
        # They are in the middle of a step, and would wait for it.
        processes.forsake()
        raise
    finally:
        learn.remove_cb(ShareWork)
        for name, module in replaced.items():
            whole.set_submodule(name, module)
        for batches in learn.dls.loaders:
            batches.shard = 0, 1
        torch.set_num_threads(threads)


class ShareWork(Callback):
    """Sums the gradients and the loss of all processes, and what their metrics counted."""

    order = 5  # before anything that reads gradients, and before the Recorder

    def before_batch(self) -> None:
        """Leave a row that stands in for none out of the batch's statistics."""
        for module in self.model.modules():
            if isinstance(module, GlobalBatchNorm):
                module.counts = self.dl.share > 0

    def before_backward(self) -> None:
        """A mean over the own rows, in the mean over all."""
        self.learn.loss_grad = self.loss_grad * self.dl.share

    def after_backward(self) -> None:
        """Sums of all gradients, the large ones where they lie, and of the loss."""
        learning = [each for each in self.model.parameters() if each.grad is not None]
        large = [each.grad.numel() >= LARGE and each.grad.is_contiguous() for each in learning]
        for parameter in compress(learning, large):
            processes.sum_in_place(parameter.grad)
        small = [each for each, is_large in zip(learning, large, strict=True) if not is_large]
        own = (self.learn.loss.detach() * self.dl.share).reshape(1)
        total = processes.sum_up(torch.cat([*(each.grad.flatten() for each in small), own]))
        parts = total.split([*(each.numel() for each in small), 1])
        for parameter, gradient in zip(small, parts, strict=False):
            parameter.grad = gradient.view_as(parameter)
        self.learn.loss = parts[-1][0]

    def after_validate(self) -> None:
        """Each has validated its own rows."""
        for metric in (self.recorder.loss, *self.learn.metrics):
            _merge(metric)


def _merge(metric: Metric) -> None:
    """Let a metric know what those of all processes saw."""
    if hasattr(metric, "preds"):
        seen = processes.gather((metric.preds, metric.targs))
        metric.preds, metric.targs = (sum(parts, []) for parts in zip(*seen, strict=True))
    else:  # a mean
        both = torch.tensor([float(metric.total), metric.count], dtype=torch.float64)
        metric.total, metric.count = processes.sum_up(both)


# ---------------------------------------------------------------------------- batch normalisation
class _Sum(torch.autograd.Function):
    """The sum over all processes, through which gradients flow to each of them."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return processes.sum_up(own.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return processes.sum_up(gradient.clone())


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch normalisation by the rows of all processes (torch's `SyncBatchNorm` is for GPUs).

    Attributes:
        counts: whether this process's rows are of the batch, or stand in for none.
    """

    counts = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalised [rows, n], of x [rows, n]."""
        if not self.training:
            return super().forward(x)
        # In fp64, where the difference of two large sums is good enough.
        rows = x.double() if self.counts else x[:0].double()
        size = rows.new_full((1,), len(rows))
        sums = _Sum.apply(torch.cat([rows.sum(0), rows.square().sum(0), size]))
        n = sums[-1].detach()
        mean, square = (part / n for part in sums[:-1].chunk(2))
        variance = (square - mean.square()).clamp_min(0)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            unbiased = variance * n / (n - 1)
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        normal = (x.double() - mean) * (variance + self.eps).rsqrt()
        return (normal.to(self.weight) * self.weight + self.bias).to(x.dtype)


def _share_batch_norm(model: nn.Module) -> dict[str, nn.Module]:
    """Put layers that see all rows in the place of a model's own, whose name -> layer it gives."""
    own = {name: each for name, each in model.named_modules() if type(each) is nn.BatchNorm1d}
    for name, old in own.items():
        new = GlobalBatchNorm(old.num_features, old.eps, old.momentum)
        # The very same numbers, which the optimizer and the other layer go on with.
        for each in ("weight", "bias"):
            setattr(new, each, getattr(old, each))
        for each, buffer in old.named_buffers():
            setattr(new, each, buffer)
        model.set_submodule(name, new.train(old.training))
    return own


# --------------------------------------------------------------------- what each process has alone
def gather_carried(learn: Learner) -> dict[str, Tensor]:
    """What modules carry from batch to batch for the rows of all processes, in their order.

    Names are MODULE:PART. Where there are several processes, each is [1, rows, ...].
    """
    own = {
        f"{name}:{part}": state.detach().cpu().contiguous()
        for name, module in learn.model.named_modules()
        if hasattr(module, "carried_state")
        for part, state in module.carried_state().items()
    }
    if processes.count() == 1:
        return own
    if not learn.dls.train.share:
        own = {name: state[:, :0] for name, state in own.items()}
    all_parts = processes.gather(own)
    return {name: torch.cat([part[name] for part in all_parts], 1).contiguous() for name in own}


def own_rows(carried: dict[str, Tensor]) -> dict[str, Tensor]:
    """This process's rows of what `gather_carried` gave."""
    if processes.count() == 1:
        return carried
    return {
        name: state[:, processes.own_part(state.shape[1])].contiguous()
        for name, state in carried.items()
    }


def draw_apart(state: Tensor) -> None:
    """Let this process's random numbers be others than the first one's.

    Args:
        state: of the first one's generator, from which they follow.
    """
    digest = sha256(state.numpy().tobytes() + bytes([processes.rank() % 256])).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
