"""A pull towards the weights that training began with: L2-SP (Li, Grandvalet and Davoine 2018,
"Explicit Inductive Bias for Transfer Learning with Convolutional Networks", section 3)."""

from collections.abc import Mapping

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn


class PullToStart(Callback):
    """Takes weights back towards those that training began with, after each step.

        w <- w - lr * strength * (w - start)

    It is the gradient step of their penalty, strength / 2 * |w - start|^2 (their equation 3),
    decoupled from Adam as weight decay is (Loshchilov and Hutter 2019), which pulls to 0 instead.
    Weights that the start did not have, such as a new word's embedding, are not pulled.

    Args:
        model: with the weights that it starts from, before any checkpoint is loaded.
        strength: of the pull.
        fresh: name of a parameter -> which of its rows the start did not have, bool [n_rows].
    """

    run_valid = False

    def __init__(
        self, model: nn.Module, strength: float, fresh: Mapping[str, Tensor] | None = None
    ) -> None:
        self.strength = strength
        named = dict(model.named_parameters())
        self.starts = {each: each.detach().clone() for each in named.values()}
        self.fresh = {named[name]: rows for name, rows in (fresh or {}).items() if name in named}

    def before_fit(self) -> None:
        """Onto the device that the model is on by now."""
        for held in (self.starts, self.fresh):
            held |= {parameter: each.to(parameter.device) for parameter, each in held.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Pull what has just learned, each group by its own rate."""
        for parameter, _, _, hyper in self.opt.all_params(with_grad=True):
            way = (self.starts[parameter] - parameter) * min(hyper["lr"] * self.strength, 1.0)
            if parameter in self.fresh:
                way[self.fresh[parameter]] = 0
            parameter += way
