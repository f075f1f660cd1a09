"""Mixing the hidden states of texts (Guo et al. 2019, "Augmenting Data with Mixup for Sentence
Classification", section 3.2: senMixup)."""

import torch
from fastai.callback.core import Callback
from fastai.callback.rnn import RNNCallback
from torch import Tensor
from torch.distributions import Beta

from ulmfit_app.training.contrastive import LearnFromPairs

ALPHA = 1.0  # of the Beta distribution: every share is as likely


class MixStates(Callback):
    """Gives the head means of two texts' pooled states while training, and both their targets.

    A batch has one share, and each of its texts another text of the batch beside it. The loss is
    the weighted mean of the losses with either's targets, which is that of mixed targets where a
    loss is linear in them, as cross-entropy is. So it works for one label and several, and with
    any weights; fastai's `MixUp` mixes inputs, which ids are not, and needs a loss whose
    `reduction` it can set.

    The random numbers are torch's of the CPU, which a checkpoint holds. In a phase of pairs,
    where no head learns, nothing is mixed.
    """

    order = RNNCallback.order + 1

    def before_fit(self) -> None:
        """Listen at the head."""
        self.of_targets, self.other = self.learn.loss_func, None
        self.rests = any(isinstance(each, LearnFromPairs) for each in self.learn.cbs)
        self.hook = self.model[1].register_forward_pre_hook(self._mix)

    def _mix(self, head: object, inputs: tuple) -> tuple | None:
        if not self.training or self.rests:
            return None
        (pooled, *others), *rest = inputs
        self.share = Beta(ALPHA, ALPHA).sample().item()
        self.other = torch.randperm(len(pooled)).to(pooled.device)
        mixed = self.share * pooled + (1 - self.share) * pooled[self.other]
        return (mixed, *others), *rest

    def before_train(self) -> None:
        """Two targets of a text while training."""
        if not self.rests:
            self.learn.loss_func = self._loss

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        own, others = (self.of_targets(logits, each) for each in (targets, targets[self.other]))
        return self.share * own + (1 - self.share) * others

    def before_validate(self) -> None:
        """Its own alone in validation."""
        if not self.rests:
            self.learn.loss_func = self.of_targets

    def after_fit(self) -> None:
        """Leave all as it was."""
        self.learn.loss_func = self.of_targets
        self.hook.remove()
