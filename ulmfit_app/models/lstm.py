"""An LSTM layer that trains in bf16 on a CPU.

The training pass is written out here: large products over all steps at once where the recurrence
allows it, a small one per step where it does not, gates and cell state in fp32. torch gives bf16
LSTMs on CPUs to oneDNN. `python -m tests.bench.lstm_canary` compares the two with fp32: on an AMD
EPYC with AVX512-BF16 and torch 2.14.1, both are right, and oneDNN's takes longer; with torch 2.15
on an Intel Xeon with AMX, oneDNN's gradient of the input was off by more than its own size from
1,024 units on (no figures of that were kept). So each machine is asked once (`is_written_out`). On
CUDA and in fp32, torch's own layer trains, as in fastai.
"""

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ulmfit_app.hardware import autocast, bf16_units, working_dtype
from ulmfit_app.models.evidence import Ways, is_better
from ulmfit_app.models.products import Packed

_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward


def _tanh(z: Tensor, out: Tensor | None = None) -> Tensor:
    """tanh z as 2 sigmoid(2 z) - 1, which torch computes in half the time of its tanh."""
    return torch.mul(z, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _kept(weight: Tensor, p: float) -> Tensor:
    """Which elements stay: each with chance 1 - p, to 2^-16.

    Several times as fast as torch's dropout, and smaller.
    """
    words = torch.empty(-(-weight.numel() // 4), dtype=torch.int64)
    bits = words.random_(-(2**63), None).view(torch.int16)
    return (bits[: weight.numel()] >= round((p - 0.5) * 2**16)).view_as(weight)


class LowWeights:
    """A layer's weights in bf16, laid out for the forward and the backward products.

    Args:
        w_ih, w_hh, bias: as `train_in_bf16` has them.
        p: chance with which each recurrent weight is dropped.
    """

    @torch.no_grad()
    def __init__(self, w_ih: Tensor, w_hh: Tensor, bias: Tensor, p: float) -> None:
        self._w_ih, self.bias = w_ih.bfloat16(), bias.bfloat16()
        self.kept, self.scale = _kept(w_hh, p), 1 / (1 - p)
        self._w_hh = (w_hh * self.kept).mul_(self.scale).bfloat16()
        self.read, self.recur = Packed(self._w_ih), Packed(self._w_hh)

    @cached_property
    def read_back(self) -> Packed:
        """Of the gates' gradients, those of the layer's inputs."""
        return Packed(self._w_ih.t())

    @cached_property
    def recur_back(self) -> Packed:
        """Of the gates' gradients, those of the outputs one step before."""
        return Packed(self._w_hh.t())


class _WrittenOutLSTM(torch.autograd.Function):
    """One LSTM layer, forward and backward, step by step.

    Inputs x are time-major [steps, batch, n_in], bf16; states h0 (bf16) and c0 (fp32) are [batch,
    n_hid]. The weights are torch's, [4 * n_hid, n_in] and [4 * n_hid, n_hid] with the gates in the
    order input, forget, cell, output, and bias [4 * n_hid], all in fp32; `low` is made of them.
    Returns the outputs [steps, batch, n_hid] and the last states, through which no gradient flows,
    since fastai detaches them between batches.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        bias: Tensor,
        low: LowWeights,
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch, _ = x.shape
        n_hid = w_hh.shape[1]
        gates = low.read(x.flatten(0, 1), low.bias).view(steps, batch, 4 * n_hid)
        outputs = x.new_empty(steps + 1, batch, n_hid)
        cells = c0.new_empty(steps + 1, batch, n_hid)
        outputs[0], cells[0] = h0, c0
        z = c0.new_empty(batch, 4 * n_hid)
        tanh_c = torch.empty_like(c0)
        i, f, g, o = z.split(n_hid, 1)
        for t in range(steps):
            z.copy_(low.recur.plus(outputs[t], gates[t]))
            z[:, : 2 * n_hid].sigmoid_()
            _tanh(g, out=g)
            o.sigmoid_()
            gates[t] = z
            torch.mul(cells[t], f, out=cells[t + 1]).addcmul_(i, g)
            torch.mul(_tanh(cells[t + 1], out=tanh_c), o, out=outputs[t + 1])
        ctx.save_for_backward(x, gates, cells, outputs)
        ctx.low = low
        last = outputs[-1].clone(), cells[-1].clone()
        ctx.mark_non_differentiable(*last)
        return outputs[1:], *last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, gates, cells, outputs = ctx.saved_tensors
        steps, batch, n_hid = grad.shape
        d_gates = torch.empty_like(gates)
        # The weights' gradients are products of the transpose. With AMX they take twice as long
        # where it is not laid out so; else, laying it out takes longer than it saves.
        by_gate = gates.new_empty(4 * n_hid, steps, batch) if _has_amx() else None
        z, dz = cells.new_empty(2, batch, 4 * n_hid)
        i, f, g, o = z.split(n_hid, 1)
        di, df, dg, do = dz.split(n_hid, 1)
        dh, dc, tanh_c = grad[-1], torch.zeros_like(i), torch.empty_like(i)
        for t in reversed(range(steps)):
            z.copy_(gates[t])
            _tanh(cells[t + 1], out=tanh_c)
            _sigmoid_backward.grad_input(dh * tanh_c, o, grad_input=do)
            dc.add_(_tanh_backward(dh * o, tanh_c))
            _sigmoid_backward.grad_input(dc * g, i, grad_input=di)
            _sigmoid_backward.grad_input(dc * cells[t], f, grad_input=df)
            _tanh_backward.grad_input(dc * i, g, grad_input=dg)
            dc.mul_(f)
            d_gates[t] = dz
            if by_gate is not None:
                by_gate[:, t] = d_gates[t].t()
            if t:
                dh = ctx.low.recur_back.plus(d_gates[t], grad[t - 1])
        low, d_gates = ctx.low, d_gates.flatten(0, 1)
        dx = low.read_back(d_gates).view_as(x) if ctx.needs_input_grad[0] else None
        by_gate = d_gates.t() if by_gate is None else by_gate.flatten(1)
        d_ih = by_gate @ x.flatten(0, 1)
        d_hh = (by_gate @ outputs[:-1].flatten(0, 1)).mul_(low.kept).float().mul_(low.scale)
        d_bias = by_gate @ by_gate.new_ones(by_gate.shape[1])
        return dx, None, None, d_ih.float(), d_hh, d_bias.float(), None


def train_in_bf16(
    x: Tensor,
    state: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor, Tensor],
    low: LowWeights,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM layer over a batch, forward and backward written out.

    Args:
        x: [batch, steps, n_in].
        state: two [1, batch, n_hid]; no gradient flows through it.
        weights: torch's, in fp32: [4 * n_hid, n_in], [4 * n_hid, n_hid] and the sum of the biases
            [4 * n_hid].
        low: made of them.

    Returns:
        Outputs [batch, steps, n_hid] in bf16, and the state.
    """
    hidden, cell = state
    steps_first = x.bfloat16().transpose(0, 1).contiguous()
    states = hidden[0].bfloat16(), cell[0].float()
    outputs, hidden, cell = _WrittenOutLSTM.apply(steps_first, *states, *weights, low)
    return outputs.transpose(0, 1), (hidden[None], cell[None])


@cache
def is_written_out() -> bool:
    """Whether layers train by `train_in_bf16` on this CPU and not by torch's LSTM."""
    return is_better("bf16 LSTM layers written out", _ways)


def _ways() -> Ways:
    """A training step of a layer as large as the one whose gradients torch had wrong."""
    lstm = nn.LSTM(1152, 1152, batch_first=True)
    x, direction = torch.randn(32, 16, 1152, requires_grad=True), torch.randn(32, 16, 1152)
    state = tuple(torch.zeros(2, 1, 32, 1152))
    weights = lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0

    def differentiate(outputs: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(outputs, [x, *weights], direction.to(outputs.dtype))
        return [outputs.detach(), *found]

    def ours() -> list[Tensor]:
        return differentiate(train_in_bf16(x, state, weights, LowWeights(*weights, p=0.0))[0])

    def torchs() -> list[Tensor]:
        with autocast("bf16", "cpu"):
            return differentiate(lstm(x, state)[0])

    nn.init.zeros_(lstm.bias_hh_l0)
    return ours, torchs, differentiate(lstm(x, state)[0])


def is_bf16_on_cpu(x: Tensor) -> bool:
    """Whether products with x are computed in bf16 on a CPU."""
    return x.device.type == "cpu" and working_dtype(x) == torch.bfloat16


def _has_amx() -> bool:
    return "amx_bf16" in bf16_units()


def run_evenly(
    layer: Callable, x: Tensor, state: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """layer(x, state), with rows of zeros added up to a multiple of 32 where that takes less time.

    With AMX, oneDNN takes six times as long in bf16 with 191 rows as with 192, or with 53.
    """
    rows = len(x)
    extra = -rows % 32
    if not extra or rows < 32 or not is_bf16_on_cpu(x) or not _has_amx():
        return layer(x, state)
    hidden, cell = (F.pad(s, (0, 0, 0, extra)) for s in state)
    outputs, (hidden, cell) = layer(F.pad(x, (0, 0, 0, 0, 0, extra)), (hidden, cell))
    return outputs[:rows], (hidden[:, :rows].contiguous(), cell[:, :rows].contiguous())


class EvenLSTM(nn.LSTM):
    """torch's LSTM for evaluation, quick whatever the number of rows."""

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Outputs [batch, steps, n_hid] and state, of x [batch, steps, n_in] and a state.

        A state is two [1, batch, n_hid].
        """
        return run_evenly(super().forward, x, state)
