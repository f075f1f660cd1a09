"""Learning from another model's answers (Hinton et al. 2015, "Distilling the Knowledge in a Neural
Network", section 2), and from its pooled states (Romero et al. 2015, "FitNets", section 2.2)."""

import numpy as np
from fastai.learner import Learner
from torch import Tensor, nn
from torch.nn import functional as F

from ulmfit_app.config import DistillationSettings
from ulmfit_app.evaluation.calibration import tempered


def soft_targets(
    probabilities: np.ndarray,
    truth: np.ndarray,
    temperature: float,
    states: np.ndarray | None = None,
) -> np.ndarray:
    """What a student is to say of texts: their teacher's answers, and the labels of some.

    Args:
        probabilities: of the teacher, [n, n_classes].
        truth: the index of each text's label, [n]; -1 where it has none.
        temperature: that softens the teacher's answers.
        states: what the teacher's head reads, [n, d]; None where they are not learned.

    Returns:
        float32 [n, 2 * n_classes + d]: the softened answers, the label as ones and zeros, all
        zeros where there is none, and the states.

    >>> targets = soft_targets(np.array([[0.8, 0.2]]), np.array([1]), temperature=2)
    >>> targets.astype(float).round(2).tolist()
    [[0.67, 0.33, 0.0, 1.0]]
    """
    hard = np.zeros_like(probabilities)
    known = np.flatnonzero(truth >= 0)
    hard[known, truth[known]] = 1
    parts = [tempered(probabilities, temperature), hard, *([] if states is None else [states])]
    return np.concatenate(parts, 1).astype(np.float32)


class DistillationLoss:
    """Cross-entropy with softened answers and with labels, a weighted mean of both.

    The first is multiplied by the square of the temperature, so that its gradients are as large
    as the labels'. A text without a label counts by the teacher's answer alone. Integer targets,
    as validation has them, are labels as ever.

    Args:
        settings: temperature and weights.
        head: of the student. Where the weight of states is not 0, its layer `to_teacher` maps the
            student's pooled states to the teacher's.
    """

    def __init__(self, settings: DistillationSettings, head: nn.Module) -> None:
        self.settings, self.head = settings, head
        self.hook = head.register_forward_pre_hook(self._keep)

    def _keep(self, head: nn.Module, inputs: tuple) -> None:
        self.pooled = inputs[0][0]

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch.

        Args:
            logits: [batch, n_classes].
            targets: as `soft_targets` gives them, or classes [batch].
        """
        logits = logits.float()
        if not targets.is_floating_point():
            return F.cross_entropy(logits, targets)
        how, n = self.settings, logits.shape[1]
        soft, hard, states = targets.tensor_split((n, 2 * n), dim=1)
        of_teacher = -(soft * (logits / how.temperature).log_softmax(1)).sum(1)
        of_labels = -(hard * logits.log_softmax(1)).sum(1)
        weight = how.hard_weight * hard.sum(1)
        loss = (1 - weight) * of_teacher * how.temperature**2 + weight * of_labels
        if how.states_weight:
            mapped = self.head.to_teacher(self.pooled)
            loss = loss + how.states_weight * (1 - F.cosine_similarity(mapped.float(), states))
        return loss.mean()


def learn_from_teacher(learn: Learner, settings: DistillationSettings, n_states: int) -> None:
    """Let a Learner of a classifier learn from `soft_targets`, which its batches have as labels.

    Args:
        learn: the Learner.
        settings: temperature and weights.
        n_states: width of the teacher's states. Where they are learned, the head gets a linear map
            to them, which learns with it; `forget_teacher` takes it away.
    """
    head = learn.model[1]
    if settings.states_weight:
        width = next(head.layers.parameters()).shape[-1]
        head.to_teacher = nn.Linear(width, n_states).to(learn.dls.device)
    learn.loss_func = DistillationLoss(settings, head)


def forget_teacher(learn: Learner) -> None:
    """Leave of the head what a classifier has; of a Learner without a teacher, all."""
    if isinstance(learn.loss_func, DistillationLoss):
        learn.loss_func.hook.remove()
    if hasattr(learn.model[1], "to_teacher"):
        del learn.model[1].to_teacher
