"""The optimizer's reason to be: torch's fused kernel."""

import torch

from ulmfit_app.training import optimizer


def test_a_step_is_one_call_of_the_fused_kernel_per_group(monkeypatch):
    calls, real = [], optimizer.adamw
    monkeypatch.setattr(
        optimizer, "adamw", lambda *args, **how: calls.append(how["fused"]) or real(*args, **how)
    )
    params = [[torch.nn.Parameter(torch.ones(3)) for _ in range(4)] for _ in range(2)]
    opt = optimizer.FusedAdam(params, lr=0.1)
    for p in sum(params, []):
        p.grad = torch.ones(3)
    opt.step()
    assert calls == [True, True]


def test_gradients_are_given_up_after_a_step():
    """A buffer of zeros would cost a pass over all gradients."""
    (p,) = params = [torch.nn.Parameter(torch.ones(3))]
    opt = optimizer.FusedAdam([params], lr=0.1)
    p.grad = torch.ones(3)
    opt.zero_grad()
    assert p.grad is None
