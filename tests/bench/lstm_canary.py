"""Is torch's own LSTM in bf16 right on this processor, and is it quick?

    python -m tests.bench.lstm_canary [--units 256 768 …] [--repeats 5]

One layer's outputs and gradients, by torch's LSTM under autocast, by torch's LSTM with weights in
bf16, and by ours (`models/lstm.py`), each against fp32 by its relative error; and how long a
training step of the layer takes at the sizes of the models here. Whatever the machine does beside
it, the processor's time of one thread is what counts, the least of several turns.

Writes results/lstm-PROCESSOR.json, by processor and torch's version: what docs/speed.md says about
torch's LSTM is true of those that have one.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.bench.compare import OUT, machine, slug_of
from ulmfit_app.hardware import bf16_units, set_up_cpu
from ulmfit_app.models.evidence import relative_error
from ulmfit_app.models.lstm import LowWeights, train_in_bf16

UNITS = [256, 768, 1024, 1152, 1536, 2048]
CHECKED = (16, 6)  # texts and tokens: an error that depends on the size of the layer shows at once
# n_in, n_hid, texts, tokens: layers of the paper's model and of the laptop preset's.
TIMED = [(400, 1152, 64, 72), (1152, 1152, 64, 72), (1152, 400, 64, 72), (768, 768, 64, 72)]

Step = Callable[[], list[Tensor]]  # outputs, gradients of input, two weights and bias


def steps_of(n_in: int, n_hid: int, texts: int, tokens: int) -> dict[str, Step]:
    """A training step of the same layer on the same inputs, in each way."""
    torch.manual_seed(0)
    lstm = nn.LSTM(n_in, n_hid, batch_first=True)
    low_lstm = nn.LSTM(n_in, n_hid, batch_first=True).bfloat16()
    low_lstm.load_state_dict(lstm.state_dict())
    x, direction = torch.randn(texts, tokens, n_in), torch.randn(texts, tokens, n_hid)
    state = tuple(torch.zeros(2, 1, texts, n_hid))

    def of_torch(layer: nn.LSTM, dtype: torch.dtype, autocast: bool) -> list[Tensor]:
        inputs, low_state = x.to(dtype).requires_grad_(), tuple(s.to(dtype) for s in state)
        weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs, _ = layer(inputs, low_state)
        found = torch.autograd.grad(outputs, [inputs, *weights], direction.to(outputs.dtype))
        return [outputs.detach(), *found]

    def ours() -> list[Tensor]:
        inputs = x.bfloat16().requires_grad_()
        bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().requires_grad_()
        weights = lstm.weight_ih_l0, lstm.weight_hh_l0, bias
        outputs, _ = train_in_bf16(inputs, state, weights, LowWeights(*weights, p=0.0))
        found = torch.autograd.grad(outputs, [inputs, *weights], direction.bfloat16())
        return [outputs.detach(), *found]

    return {
        "fp32": lambda: of_torch(lstm, torch.float32, autocast=False),
        "torch, autocast": lambda: of_torch(lstm, torch.float32, autocast=True),
        "torch, bf16 weights": lambda: of_torch(low_lstm, torch.bfloat16, autocast=False),
        "ours": ours,
    }


def errors(units: int) -> dict[str, dict[str, float]]:
    """Each way's relative errors of outputs and gradients, of a layer units -> units."""
    steps = steps_of(units, units, *CHECKED)
    reference = steps.pop("fp32")()
    names = ["outputs", "d input", "d weight_ih", "d weight_hh", "d bias"]
    return {
        way: {
            name: round(relative_error(found, right), 5)
            for name, found, right in zip(names, step(), reference, strict=True)
        }
        for way, step in steps.items()
    }


def milliseconds(sizes: tuple[int, int, int, int], repeats: int) -> dict[str, float]:
    """The processor's time for a training step in each way, the ways taking turns."""
    least = {}
    for _ in range(repeats):
        for way, step in steps_of(*sizes).items():
            began = time.process_time()
            step()
            least[way] = min(least.get(way, 1e9), (time.process_time() - began) * 1e3)
    return {way: round(ms, 1) for way, ms in least.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", nargs="+", type=int, default=UNITS, help="of the checked layer")
    parser.add_argument("--repeats", type=int, default=5, help="of timings")
    arguments = parser.parse_args()
    set_up_cpu()
    torch.set_num_threads(1)
    found = {
        "machine": machine(),
        "system": platform.system(),
        "units_of_bf16": bf16_units(),
        "errors": {},
        "ms": {},
    }
    print(json.dumps(found["machine"]))
    for units in arguments.units:
        found["errors"][units] = errors(units)
        for way, values in found["errors"][units].items():
            print(f"{units} units, {way}: largest relative error {max(values.values()):.2%}")
    for sizes in TIMED:
        shape = "{} -> {}, {} x {} tokens".format(*sizes)
        found["ms"][shape] = milliseconds(sizes, arguments.repeats)
        print(shape, found["ms"][shape], flush=True)
    name = slug_of(found["machine"]["processor"])
    path = OUT / f"lstm-{name}-torch-{found['machine']['torch']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
