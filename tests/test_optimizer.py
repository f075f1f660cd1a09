import pytest
import torch
from fastai.optimizer import Adam

from ulmfit_app.training.optimizer import FusedAdam


def groups():
    torch.manual_seed(0)
    shapes = [[(7, 3), (7,)], [(4, 5)], [(2, 2), (3,)]]
    return [[torch.nn.Parameter(torch.randn(shape)) for shape in group] for group in shapes]


def take_steps(optimizer, params):
    generator = torch.Generator().manual_seed(1)
    opt = optimizer([list(group) for group in params], lr=1e-2)
    opt.set_hyper("lr", [1e-3, 5e-3, 2e-2])
    opt.set_hyper("wd", 0.1)
    # As fastai marks biases: no weight decay.
    opt.state[params[0][1]]["do_wd"] = False
    for step in range(12):
        opt.set_hyper("mom", 0.8 - 0.02 * step)
        for group in params:
            for p in group:
                p.grad = torch.randn(p.shape, generator=generator) * 10.0 ** (step % 3 - 2)
        opt.step()
        opt.zero_grad()
        if step == 5:
            opt.clear_state()
    return opt


def test_the_update_is_that_of_fastais_adam():
    """Rates per group, scheduled momentum, weight decay for some, and a state cleared midway."""
    plain, ours = groups(), groups()
    take_steps(Adam, plain)
    opt = take_steps(FusedAdam, ours)
    for theirs, mine in zip(sum(plain, []), sum(ours, []), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    assert opt.state[ours[0][1]]["do_wd"] is False


def test_a_parameter_without_gradient_stays():
    params = groups()
    before = params[1][0].clone()
    opt = FusedAdam(params, lr=0.1)
    params[0][0].grad = torch.ones_like(params[0][0])
    opt.step()
    assert torch.equal(params[1][0], before)
    assert not torch.equal(params[0][0], groups()[0][0])


def test_frozen_groups_get_no_gradient():
    params = groups()
    opt = FusedAdam(params, lr=0.1)
    opt.freeze_to(-1)
    assert [p.requires_grad for p in sum(params, [])] == [False, False, False, True, True]
    with pytest.raises(RuntimeError, match="does not require grad"):
        params[0][0].sum().backward()
