"""Our LSTM layer with dropped recurrent weights, against torch's own layer on the same weights."""

import pytest
import torch
from torch import nn

from ulmfit_app.models.awd_lstm import WeightDroppedLSTM

N_IN, N_HID, BATCH, STEPS, P = 5, 8, 3, 7, 0.5
OTHERS = ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0")


def dropped_layer(p: float = P) -> WeightDroppedLSTM:
    torch.manual_seed(0)
    return WeightDroppedLSTM(nn.LSTM(N_IN, N_HID, 1, batch_first=True), p).train()


def inputs(n_steps: int = STEPS) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    x = torch.randn(BATCH, n_steps, N_IN, requires_grad=True)
    state = (torch.randn(1, BATCH, N_HID, requires_grad=True) for _ in "hc")
    return x, tuple(state)


def mask_of(layer: WeightDroppedLSTM) -> torch.Tensor:
    """Which recurrent weights the last step kept: 1 or 0."""
    return (layer.module.weight_hh_l0 != 0).float().detach()


def torchs_layer(layer: WeightDroppedLSTM, mask: torch.Tensor, p: float = P) -> nn.LSTM:
    """With the kept weights made larger by 1 / (1 - p), as dropout does."""
    lstm = nn.LSTM(N_IN, N_HID, 1, batch_first=True)
    with torch.no_grad():
        for name in OTHERS:
            getattr(lstm, name).copy_(getattr(layer.module, name))
        lstm.weight_hh_l0.copy_(layer.weight_hh_l0_raw * mask / (1 - p))
    return lstm


def scalar(outputs: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Something of which every output and both states have a gradient of their own."""
    generator = torch.Generator().manual_seed(4)
    parts = (outputs, *state)
    return sum((part * torch.randn(part.shape, generator=generator)).sum() for part in parts)


def gradients(layer: WeightDroppedLSTM) -> dict[str, torch.Tensor]:
    of_others = {name: getattr(layer.module, name).grad for name in OTHERS}
    return {**of_others, "raw": layer.weight_hh_l0_raw.grad}


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9])
def test_outputs_and_states_are_torchs_on_the_kept_weights(p):
    layer = dropped_layer(p)
    x, state = inputs()
    outputs, after = layer(x, state)
    mask = mask_of(layer)
    assert abs(mask.mean().item() - (1 - p)) < 0.12
    expected, expected_after = torchs_layer(layer, mask, p)(x, state)
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(after, expected_after)


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_gradients_are_torchs_and_reach_the_kept_weights_alone(p):
    layer = dropped_layer(p)
    x, state = inputs()
    scalar(*layer(x, state)).backward()
    mask, ours = mask_of(layer), gradients(layer)
    of_inputs = [tensor.grad.clone() for tensor in (x, *state)]
    for tensor in (x, *state):
        tensor.grad = None

    lstm = torchs_layer(layer, mask, p)
    scalar(*lstm(x, state)).backward()
    torch.testing.assert_close(of_inputs, [tensor.grad for tensor in (x, *state)])
    for name in OTHERS:
        torch.testing.assert_close(ours[name], getattr(lstm, name).grad)
    torch.testing.assert_close(ours["raw"], lstm.weight_hh_l0.grad * mask / (1 - p))
    assert ours["raw"][mask == 0].abs().max() == 0 if p else (mask == 1).all()


@pytest.mark.parametrize("detached", [True, False], ids=["detached", "through the state"])
@pytest.mark.parametrize("draws_at_reset", [False, True])
def test_over_several_steps_the_state_goes_on_and_the_gradients_add_up(draws_at_reset, detached):
    """Each step has a mask of its own, or all have one, where it is drawn at a reset alone."""
    layer = dropped_layer()
    layer.draws_at_reset = draws_at_reset
    layer.reset()
    steps = [torch.randn(BATCH, n_steps, N_IN) for n_steps in (4, 1, 6)]
    start = tuple(torch.randn(2, 1, BATCH, N_HID))
    state, loss, masks, ours = start, 0.0, [], []
    for x in steps:
        outputs, state = layer(x, state)
        loss = loss + scalar(outputs, state)
        masks.append(mask_of(layer))
        ours.append(outputs.detach())
        state = tuple(s.detach() for s in state) if detached else state
    loss.backward()
    assert all(torch.equal(mask, masks[0]) for mask in masks) == draws_at_reset

    layers, expected_loss, state = [torchs_layer(layer, mask) for mask in masks], 0.0, start
    for x, lstm, of_step in zip(steps, layers, ours, strict=True):
        outputs, state = lstm(x, state)
        torch.testing.assert_close(of_step, outputs.detach())
        expected_loss = expected_loss + scalar(outputs, state)
        state = tuple(s.detach() for s in state) if detached else state
    expected_loss.backward()
    found = gradients(layer)
    for name in OTHERS:
        expected = sum(getattr(lstm, name).grad for lstm in layers)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-5)
    expected = sum(
        lstm.weight_hh_l0.grad * mask / (1 - P) for lstm, mask in zip(layers, masks, strict=True)
    )
    torch.testing.assert_close(found["raw"], expected, rtol=1e-5, atol=1e-5)


def test_in_evaluation_nothing_is_dropped():
    layer = dropped_layer().eval()
    x, state = inputs()
    with torch.no_grad():
        outputs, after = layer(x, state)
        expected, expected_after = torchs_layer(layer, torch.ones(4 * N_HID, N_HID), p=0.0)(
            x, state
        )
    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(after, expected_after)


def test_training_moves_the_raw_weights_and_the_next_step_uses_them():
    layer = dropped_layer(0.0)
    x, state = inputs()
    assert {id(p) for p in layer.parameters()} == {
        id(p) for p in (layer.weight_hh_l0_raw, *(getattr(layer.module, n) for n in OTHERS))
    }
    before = layer.weight_hh_l0_raw.detach().clone()
    scalar(*layer(x, state)).backward()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter -= 0.1 * parameter.grad
    assert not torch.equal(before, layer.weight_hh_l0_raw)
    outputs, _ = layer(x, state)
    expected, _ = torchs_layer(layer, torch.ones_like(before), p=0.0)(x, state)
    torch.testing.assert_close(outputs, expected)
