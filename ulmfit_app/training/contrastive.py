"""Learning from pairs of texts (Tunstall et al. 2022, "Efficient Few-Shot Learning Without
Prompts", section 3).

SetFit draws pairs of texts and teaches the encoder whether both have the same label. Here each
batch gives all of its pairs, so that a text is read once for all pairs that it is in.
"""

from fastai.callback.core import Callback
from fastai.callback.rnn import RNNCallback
from torch import Tensor
from torch.nn import functional as F


def loss_of_pairs(pooled: Tensor, labels: Tensor) -> Tensor:
    """How far the cosines of pairs are from 1 where both texts have a label, and from 0 elsewhere.

    The mean squared error of the pairs of one label, and that of the others, count the same: with
    many classes nearly all pairs are of two.

    Args:
        pooled: texts, [batch, d].
        labels: their classes, [batch].

    Returns:
        A number; 0 where there is no pair.
    """
    unit = F.normalize(pooled.float(), dim=1)
    # Not a product of matrices, which mixed precision would round.
    cosines = (unit[:, None] * unit[None]).sum(2)
    alike = labels[:, None] == labels
    first = cosines.new_ones(cosines.shape).triu(1).bool()
    loss = cosines.new_zeros(())
    for pairs, target in ((first & alike, 1.0), (first & ~alike, 0.0)):
        if pairs.any():
            loss = loss + (cosines[pairs] - target).square().mean()
    return loss


class LearnFromPairs(Callback):
    """Trains by `loss_of_pairs` of what reaches the head; validates as ever, by the labels.

    The head learns nothing meanwhile.
    """

    order = RNNCallback.order + 1

    def before_fit(self) -> None:
        """Listen at the head, and let batches hold texts of all lengths."""
        self.of_labels = self.learn.loss_func
        self.dls.train.mixed = True
        self.hook = self.model[1].register_forward_pre_hook(self._keep)

    def _keep(self, head: object, inputs: tuple) -> None:
        self.pooled = inputs[0][0]

    def after_pred(self) -> None:
        """Put the pooled texts in the place of the logits."""
        if self.training:
            self.learn.pred = self.pooled

    def before_train(self) -> None:
        """Pairs while training."""
        self.learn.loss_func = loss_of_pairs

    def before_validate(self) -> None:
        """Labels in validation."""
        self.learn.loss_func = self.of_labels

    def after_fit(self) -> None:
        """Leave all as it was."""
        self.learn.loss_func = self.of_labels
        self.dls.train.mixed = False
        self.hook.remove()
