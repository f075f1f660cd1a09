import pytest
import torch
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
from torch.nn import functional as F

from tests.bench import lstm_canary
from ulmfit_app.models import products
from ulmfit_app.models.awd_lstm import AWDLSTM, WeightDroppedLSTM, WordDropout
from ulmfit_app.models.evidence import relative_error
from ulmfit_app.models.lstm import (
    EvenLSTM,
    LowWeights,
    _kept,
    run_evenly,
    train_in_bf16,
)
from ulmfit_app.models.products import Packed

BATCH, STEPS = 6, 11


@pytest.fixture(params=[False, True], ids=["without AMX", "with AMX"])
def amx(request, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": request.param})
    return request.param


# At 1,152 units torch's own backward pass was seen to be wrong: tests/bench/lstm_canary.py.
@pytest.mark.parametrize(("n_in", "n_hid"), [(5, 7), (24, 1152), (1152, 40)])
def test_in_bf16_outputs_and_gradients_agree_with_torchs_lstm_in_fp32(n_in, n_hid, amx):
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(n_in, n_hid)
    x, direction = (
        torch.randn(STEPS, BATCH, n_in, requires_grad=True),
        torch.randn(STEPS, BATCH, n_hid),
    )
    h0, c0 = torch.randn(2, BATCH, n_hid)
    expected, (h, c) = lstm(x, (h0[None], c0[None]))
    weights = [lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0]
    reference = torch.autograd.grad((expected * direction).sum(), [x, *weights])

    low = x.detach().bfloat16().transpose(0, 1).contiguous().requires_grad_()
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().requires_grad_()
    ours = [lstm.weight_ih_l0, lstm.weight_hh_l0, bias]
    packed = LowWeights(*ours, p=0.0)
    outputs, (last_h, last_c) = train_in_bf16(low, (h0[None], c0[None]), ours, packed)
    outputs = outputs.transpose(0, 1)
    of_x, *gradients = torch.autograd.grad(outputs, [low, *ours], direction.bfloat16())
    gradients = [of_x.transpose(0, 1), *gradients]

    assert relative_error(outputs, expected) < 0.01
    assert relative_error(last_h, h) < 0.01
    assert relative_error(last_c, c) < 0.01
    for mine, theirs in zip(gradients, reference, strict=True):
        assert relative_error(mine, theirs) < 0.02


def test_the_canary_finds_ours_right_and_torchs_pass_that_evaluation_relies_on():
    found = lstm_canary.errors(1152)
    assert set(found) == {"torch, autocast", "torch, bf16 weights", "ours"}
    assert max(found["ours"].values()) < 0.02
    # Not its gradients, which on some processors may be wrong: nothing here takes them.
    assert found["torch, bf16 weights"]["outputs"] < 0.01
    assert found["torch, autocast"]["outputs"] < 0.01


SIZES = {"emb_sz": 12, "n_hid": 20, "n_layers": 2}
DROPOUTS = {k: awd_lstm_lm_config[k] for k in ("hidden_p", "input_p", "embed_p", "weight_p")}


def encoder(drop_mult: float = 0.0, **options) -> AWDLSTM:
    torch.manual_seed(0)
    dropouts = {name: p * drop_mult for name, p in DROPOUTS.items()}
    return AWDLSTM(50, **SIZES, **dropouts, **options).train()


def test_our_encoder_and_fastais_agree_in_fp32_with_the_same_random_numbers():
    words = torch.randint(0, 50, (3, 7))
    outputs = []
    for architecture in (AWD_LSTM, AWDLSTM):
        torch.manual_seed(0)
        model = architecture(50, **SIZES, **DROPOUTS)
        model.train()
        model.reset()
        torch.manual_seed(5)
        out = model(words)
        out.sum().backward()
        outputs.append((out, model.encoder.weight.grad, model.rnns[1].weight_hh_l0_raw.grad))
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_hidden_state_goes_on_from_batch_to_batch_in_bf16(written_out):
    model, words = encoder(), torch.randint(0, 50, (3, 14))
    with torch.autocast("cpu", torch.bfloat16):
        model.reset()
        whole = model(words)
        model.reset()
        parts = torch.cat([model(words[:, :5]), model(words[:, 5:])], 1)
    assert relative_error(parts, whole.float()) < 0.02
    assert model.hidden[0][1].dtype == torch.float32, (
        "a cell state in bf16 would lose what it adds up"
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_weight_mask_holds_until_the_next_reset_where_asked_for(precision, written_out):
    words = torch.randint(0, 50, (3, 5))

    def made(**options):
        model = encoder(drop_mult=1.0, **options)
        for dropout in (model.input_dp, *model.hidden_dps):
            dropout.p = 0.0
        model.encoder_dp.embed_p = 0.0
        model.reset()
        return model

    def outputs(model):
        # From the same state, so that only the masks can differ.
        model.hidden = [tuple(torch.zeros_like(s) for s in state) for state in model.hidden]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return model(words)

    model = made()
    assert not torch.equal(outputs(model), outputs(model))
    model = made(draws_at_reset=True)
    first = outputs(model)
    assert torch.equal(outputs(model), first)
    model.reset()
    assert not torch.equal(outputs(model), first)


def backward_passes(tensor: torch.Tensor) -> int:
    """How many LSTM layers stand in what autograd has recorded."""
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return sum("WrittenOutLSTM" in node.name() for node in seen)


def test_frozen_layers_cost_no_backward_pass(written_out):
    model, words = encoder(drop_mult=1.0), torch.randint(0, 50, (3, 5))
    for p in model.parameters():
        p.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        assert not model(words).requires_grad
        model.rnns[1].requires_grad_(True)
        assert backward_passes(model(words)) == 1
        model.requires_grad_(True)
        assert backward_passes(model(words)) == 2


def test_every_layer_is_ours():
    model = encoder()
    assert all(type(layer) is WeightDroppedLSTM for layer in model.rnns)
    assert type(model.encoder_dp) is WordDropout and model.encoder_dp.emb is model.encoder


@pytest.mark.parametrize("rows", [1, 31, 33, 53, 64])
def test_added_rows_change_no_result(rows, amx):
    torch.manual_seed(0)
    plain = torch.nn.LSTM(8, 12, batch_first=True).bfloat16()
    even = EvenLSTM(8, 12, batch_first=True).bfloat16()
    even.load_state_dict(plain.state_dict())
    x, state = torch.randn(rows, 5, 8).bfloat16(), tuple(torch.randn(2, 1, rows, 12).bfloat16())
    with torch.no_grad():
        (ours, our_state), (expected, state) = even(x, state), plain(x, state)
    torch.testing.assert_close(ours, expected, rtol=0.02, atol=0.01)
    for mine, theirs in zip(our_state, state, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.01)


@pytest.mark.parametrize(("rows", "given"), [(1, 1), (31, 31), (33, 64), (53, 64), (64, 64)])
def test_rows_are_added_in_bf16_alone_up_to_a_multiple_of_32_with_amx(rows, given, amx):
    layer, seen = torch.nn.LSTM(8, 12, batch_first=True), []

    def watched(x, state):
        seen.append(len(x))
        return layer(x, state)

    state = tuple(torch.zeros(2, 1, rows, 12))
    run_evenly(watched, torch.zeros(rows, 5, 8), state)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, after = run_evenly(watched, torch.zeros(rows, 5, 8), state)
    assert seen == [rows, given if amx else rows]
    assert len(outputs) == rows and {part.shape[1] for part in after} == {rows}


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_with_a_packed_weight_are_those_without(dtype, packs, monkeypatch):
    monkeypatch.setattr(products, "_packing_wins", lambda dtype: packs)
    weight, bias = torch.randn(24, 8).to(dtype), torch.randn(24).to(dtype)
    x, y = torch.randn(5, 8).to(dtype), torch.randn(5, 24).to(dtype)

    packed, back = Packed(weight), Packed(weight.t())
    assert (packed._packed is not None) == packs
    found = packed(x), packed(x, bias), packed.plus(x, y), back(y)
    expected = [
        F.linear(x, weight),
        F.linear(x, weight, bias),
        F.linear(x, weight) + y,
        y @ weight,
    ]
    for result, right in zip(found, expected, strict=True):
        torch.testing.assert_close(result, right, rtol=0.02, atol=0.02)


def test_no_gradient_is_computed_for_an_input_that_needs_none():
    lstm, state = torch.nn.LSTM(5, 7), tuple(torch.zeros(2, 1, BATCH, 7))
    weights = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0
    for needs_one in (False, True):
        low = LowWeights(*weights, p=0.0)
        x = torch.randn(BATCH, STEPS, 5, requires_grad=needs_one)
        train_in_bf16(x, state, weights, low)[0].sum().backward()
        assert ("read_back" in vars(low)) == needs_one


def test_weights_are_kept_with_the_chance_asked_for():
    torch.manual_seed(0)
    for p in (0.0, 0.2, 0.5, 0.9):
        share = _kept(torch.empty(1_000, 1_001), p).double().mean().item()
        # 5 standard errors of a million draws, and the resolution of 16 bits.
        assert abs(share - (1 - p)) <= 5 * (p * (1 - p) / 1e6) ** 0.5 + 2**-16
