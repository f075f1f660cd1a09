"""What the written-out layer promises beside its numbers."""

import torch

from ulmfit_app.models.lstm import LowWeights, train_in_bf16

BATCH, STEPS, N_IN, N_HID = 3, 5, 4, 6


def layer(p: float = 0.0):
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(N_IN, N_HID)
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().requires_grad_()
    weights = lstm.weight_ih_l0, lstm.weight_hh_l0, bias
    return weights, LowWeights(*weights, p=p)


def test_no_gradient_flows_through_a_state():
    """fastai detaches it between batches."""
    weights, low = layer()
    state = tuple(torch.randn(2, 1, BATCH, N_HID).requires_grad_())
    outputs, after = train_in_bf16(torch.randn(BATCH, STEPS, N_IN), state, weights, low)
    assert outputs.requires_grad and not any(part.requires_grad for part in after)
    assert torch.autograd.grad(outputs.sum(), state, allow_unused=True) == (None, None)
    assert after[0].dtype == torch.bfloat16 and after[1].dtype == torch.float32


def test_a_dropped_recurrent_weight_gets_no_gradient_and_the_others_the_scaled_one():
    weights, low = layer(p=0.5)
    state = tuple(torch.randn(2, 1, BATCH, N_HID))
    x, direction = torch.randn(BATCH, STEPS, N_IN), torch.randn(BATCH, STEPS, N_HID)
    outputs, _ = train_in_bf16(x, state, weights, low)
    (ours,) = torch.autograd.grad(outputs, weights[1], direction.bfloat16())

    plain = torch.nn.LSTM(N_IN, N_HID, batch_first=True)
    w_ih, w_hh, bias = (weight.detach() for weight in weights)
    dropped = {"weight_ih_l0": w_ih, "weight_hh_l0": w_hh * low.kept * 2}
    plain.load_state_dict(dropped | {"bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)})
    expected_outputs, _ = plain(x, state)
    (of_dropped,) = torch.autograd.grad((expected_outputs * direction).sum(), plain.weight_hh_l0)
    expected = of_dropped * low.kept * 2
    assert 0.3 < low.kept.float().mean() < 0.7
    assert (ours[~low.kept] == 0).all()
    assert ((ours - expected).norm() / expected.norm()).item() < 0.03
