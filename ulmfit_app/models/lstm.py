"""An LSTM layer that trains in bf16 on a CPU.

The training pass is written out here: large products over all steps at once where the recurrence
allows it, a small one per step where it does not, gates and cell state in fp32. torch gives bf16
LSTMs on CPUs to oneDNN. `python -m tests.bench.lstm_canary` compares the two with fp32: on an AMD
EPYC with AVX512-BF16 and torch 2.14.1, both are right, and oneDNN's takes 1 to 9 % longer; with
torch 2.15 on an Intel Xeon with AMX, oneDNN's gradient of the input was off by more than its own
size from 1,024 units on (no figures of that were kept). So ours is taken on every CPU; a choice by
a timing would give one seed two results. On CUDA and in fp32, torch's own layer trains, as in
fastai.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ulmfit_app.hardware import working_dtype

_sigmoid_backward = torch.ops.aten.sigmoid_backward
_tanh_backward = torch.ops.aten.tanh_backward


def _packed_product(weight: Tensor) -> Callable[[Tensor, Tensor | None], Tensor]:
    """x [n, k], y [n, m] -> x @ weight.T + y [n, m], for many products with one weight [m, k].

    oneDNN lays a weight out anew for each product, which takes as long as multiplying 64 rows by
    it. torch lays it out once for models that its compiler freezes, by operators that it does not
    document; without them, the product is slower.
    """
    mkldnn = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and hasattr(mkldnn, "_linear_pointwise")):
        return lambda x, y: F.linear(x, weight) + y
    packed = mkldnn._reorder_linear_weight(weight)
    return lambda x, y: mkldnn._linear_pointwise.binary(x, y, packed, None, "add")


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
        self.w_ih, self.bias = w_ih.bfloat16(), bias.bfloat16()
        self.kept, self.scale = _kept(w_hh, p), 1 / (1 - p)
        dropped = (w_hh * self.kept).mul_(self.scale).bfloat16()
        self.recur = _packed_product(dropped)
        self.recur_back = _packed_product(dropped.t().contiguous())


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
        gates = F.linear(x, low.w_ih, low.bias)
        outputs = x.new_empty(steps + 1, batch, n_hid)
        cells = c0.new_empty(steps + 1, batch, n_hid)
        outputs[0], cells[0] = h0, c0
        z = c0.new_empty(batch, 4 * n_hid)
        i, f, g, o = z.split(n_hid, 1)
        for t in range(steps):
            z.copy_(low.recur(outputs[t], gates[t]))
            z[:, : 2 * n_hid].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            gates[t] = z
            torch.mul(cells[t], f, out=cells[t + 1]).addcmul_(i, g)
            torch.mul(cells[t + 1].tanh(), o, out=outputs[t + 1])
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
        # The weights' gradients are products of the transpose, which takes twice as long where it
        # is not laid out so.
        by_gate = gates.new_empty(4 * n_hid, steps, batch)
        z, dz = cells.new_empty(2, batch, 4 * n_hid)
        i, f, g, o = z.split(n_hid, 1)
        di, df, dg, do = dz.split(n_hid, 1)
        dh, dc = grad[-1], cells.new_zeros(batch, n_hid)
        for t in reversed(range(steps)):
            z.copy_(gates[t])
            tanh_c = cells[t + 1].tanh()
            _sigmoid_backward.grad_input(dh * tanh_c, o, grad_input=do)
            dc = dc + _tanh_backward(dh * o, tanh_c)
            _sigmoid_backward.grad_input(dc * g, i, grad_input=di)
            _sigmoid_backward.grad_input(dc * cells[t], f, grad_input=df)
            _tanh_backward.grad_input(dc * i, g, grad_input=dg)
            dc = dc * f
            dh = ctx.low.recur_back(d_gates[t].copy_(dz), grad[t - 1])
            by_gate[:, t].copy_(d_gates[t].t())
        low = ctx.low
        dx = d_gates @ low.w_ih if ctx.needs_input_grad[0] else None
        by_gate = by_gate.flatten(1)
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


def is_bf16_on_cpu(x: Tensor) -> bool:
    """Whether products with x are computed in bf16 on a CPU."""
    return x.device.type == "cpu" and working_dtype(x) == torch.bfloat16


def run_evenly(
    layer: Callable, x: Tensor, state: tuple[Tensor, Tensor], rows_at_a_time: int = 32
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """layer(x, state), with rows of zeros added where oneDNN would take six times as long.

    That is in bf16 with 191 rows, say, or 53.
    """
    rows = len(x)
    extra = -rows % rows_at_a_time
    if not extra or rows < rows_at_a_time or not is_bf16_on_cpu(x):
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
