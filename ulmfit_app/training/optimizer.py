"""Adam by torch's fused kernel, one pass over the weights, on CPUs and on CUDA.

fastai's own makes several passes.
"""

from itertools import groupby

import torch
from fastai.optimizer import Optimizer
from torch.optim.adamw import adamw


class FusedAdam(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), by torch's fused kernel.

    Its update is the one of fastai's `Adam` (tests/test_optimizer.py compares them step by step).

    Args:
        params: parameters per layer group.
        lr, mom, sqr_mom, eps, wd: fastai's hyper-parameters, scheduled and set per group as there;
            mom is Adam's first beta, sqr_mom its second.
    """

    def __init__(
        self,
        params: list,
        lr: float,
        mom: float = 0.9,
        sqr_mom: float = 0.99,
        eps: float = 1e-5,
        wd: float = 0.01,
    ) -> None:
        super().__init__(params, [], lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

    def zero_grad(self) -> None:
        # Without a buffer to add to, the backward pass hands its own over; that saves a pass over
        # all gradients.
        for p, *_ in self.all_params(with_grad=True):
            p.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for p, _, state, _ in self.all_params(with_grad=True):
            if "step" not in state:
                state |= {
                    "grad_avg": torch.zeros_like(p),
                    "sqr_avg": torch.zeros_like(p),
                    "step": torch.zeros((), device=p.device),
                }
                self.state[p] = state
        for group, hyper in zip(self.param_lists, self.hypers, strict=True):
            learning = [p for p in group if p.grad is not None]
            for decays, params in groupby(learning, lambda p: self.state[p].get("do_wd", True)):
                params = list(params)
                states = [self.state[p] for p in params]
                adamw(
                    params,
                    [p.grad for p in params],
                    [state["grad_avg"] for state in states],
                    [state["sqr_avg"] for state in states],
                    [],
                    [state["step"] for state in states],
                    fused=True,
                    amsgrad=False,
                    beta1=hyper["mom"],
                    beta2=hyper["sqr_mom"],
                    lr=hyper["lr"],
                    weight_decay=hyper["wd"] if decays else 0.0,
                    eps=hyper["eps"],
                    maximize=False,
                )
