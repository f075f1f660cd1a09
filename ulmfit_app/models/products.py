"""Products with one weight, laid out once."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ulmfit_app.models.evidence import Ways, is_better


class Packed:
    """A weight [n, k] for many products x @ weight.T of rows x [rows, k].

    On a CPU oneDNN lays a weight out anew for each product, which takes as long as multiplying 64
    rows by it. torch lays it out once for models that its compiler freezes, by operators that it
    does not document. They are used where they are right and as quick as torch's own products
    (`evidence.is_better`): in fp32 on an AMD EPYC they take less than half the time of MKL's.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        packs = weight.device.type == "cpu" and _packing_wins(weight.dtype)
        self._packed = _lay_out(weight) if packs else None

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x @ weight.T + bias, [rows, n]."""
        if self._packed is None:
            return F.linear(x, self._weight, bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")

    def plus(self, x: Tensor, y: Tensor) -> Tensor:
        """x @ weight.T + y, of y [rows, n]."""
        if self._packed is None:
            return F.linear(x, self._weight) + y
        return _multiply_and_add(x, self._packed, y)


def _lay_out(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def _multiply_and_add(x: Tensor, packed: Tensor, y: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(x, y, packed, None, "add")


@cache
def _packing_wins(dtype: torch.dtype) -> bool:
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not there or dtype not in (torch.float32, torch.bfloat16):
        return False
    return is_better(f"{dtype} products with a weight laid out once", lambda: _ways(dtype))


def _ways(dtype: torch.dtype) -> Ways:
    """The recurrence of the paper's layers, for 64 texts."""
    weight, x, y = torch.randn(4608, 1152), torch.randn(64, 1152), torch.randn(64, 4608)
    right = [x @ weight.t() + y]
    weight, x, y = (each.to(dtype) for each in (weight, x, y))
    packed = _lay_out(weight)
    ours, torchs = lambda: [_multiply_and_add(x, packed, y)], lambda: [F.linear(x, weight) + y]
    return ours, torchs, right
