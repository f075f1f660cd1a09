"""The norm of the gradients: clipped where that is asked for, and known in any case."""

import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from torch import nn

from ulmfit_app.training.checkpoints import Position


class GradientNorms(Callback):
    """Clips gradients as fastai's `GradientClip` does, which tells nobody of their norm, and adds
    up the norms of an epoch's steps before that.

    A step whose gradients are not finite is left out: in fp16 the scaler skips it.

    Args:
        largest: norm that is left; None: as it is.
    """

    order, run_valid = GradientClip.order, False  # behind the scaler of fp16

    def __init__(self, largest: float | None = None) -> None:
        self.largest = largest

    def go_on(self, position: Position) -> None:
        """Begin an epoch, or go on within one."""
        self.total, self.steps = (
            torch.tensor(each, dtype=torch.float64, device=self.dls.device)
            for each in (position.norm_sum, position.norms)
        )

    def before_step(self) -> None:
        """All parameters that learn have their gradients now."""
        learning = [each for each in self.model.parameters() if each.grad is not None]
        if self.largest:
            norm = nn.utils.clip_grad_norm_(learning, self.largest)
        else:
            norm = torch.linalg.vector_norm(
                torch.stack([torch.linalg.vector_norm(each.grad) for each in learning])
            )
        finite = norm.isfinite()
        self.total += torch.where(finite, norm, 0)
        self.steps += finite

    def tell(self, position: Position) -> None:
        """Write what is known into a position; waits for the device."""
        position.norm_sum, position.norms = float(self.total), float(self.steps)
