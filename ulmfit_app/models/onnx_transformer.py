"""A transformer's classifier as an ONNX graph (extras `onnx` and `transformers`).

torch's exporter writes transformers' model, which reads windows; what stands around it is written
here, for the exporter would give pooling the number of windows of its example.

    inputs     ids int64 [windows, tokens]: windows between the tokens that begin and end them,
               padded on the right; lengths int64 [windows]: their tokens, those two included;
               owner int64 [windows]: the number of the text that each is of
    output     probabilities float32 [batch, n_labels], temperatures included

A text's windows are averaged in the graph, and read some at a time, as by
`transformer.WindowEncoder`: memory does not grow with the length of texts.
"""

import io
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ulmfit_app.errors import SettingError
from ulmfit_app.models.architectures import read_classifier
from ulmfit_app.models.bundle import Bundle
from ulmfit_app.models.hub import quiet
from ulmfit_app.models.onnx_graph import OPSET, Graph, add_probabilities, missing_onnx

if TYPE_CHECKING:
    from onnx import ModelProto

READ_AT_A_TIME = 4_096  # tokens; onnxruntime keeps all of attention's products of them
LARGEST = (1 << 31) - 1  # bytes of an ONNX file, which is one protobuf message


class _States(nn.Module):
    """States [n, tokens, width] of windows [n, tokens], without those of a soft prompt."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.module(input_ids=ids, attention_mask=mask).last_hidden_state
        return states[:, -ids.shape[1] :]


def transformer_graph(bundle: Bundle, int8: bool = False) -> "ModelProto":
    """The graph of a transformer's classifier.

    Args:
        bundle: loaded.
        int8: for onnxruntime alone: weights in a quarter of the bytes, products of int8.

    Raises:
        BundleError: weights do not fit their description.
        SettingError: an extra is not installed, the model has an operator that ONNX lacks, or it
            is too large for one file.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError:
        raise missing_onnx() from None
    model = read_classifier(bundle)
    weights = {name: value.numpy() for name, value in model[1].state_dict().items()}
    reader = _export(_States(model[0].module).eval(), bundle)
    if int8:
        reader = _quantized(reader)
    graph = Graph()
    texts = graph.add("Add", graph.add("ReduceMax", "owner", keepdims=0), graph.constant(1))
    pooled = _read(graph, reader, texts, bundle)
    centred = graph.add(
        "LayerNormalization",
        pooled,
        *(graph.constant(weights[f"layers.0.{name}"], "float32") for name in ("weight", "bias")),
        epsilon=model[1].layers[0].eps,
    )
    linear = [
        graph.constant(weights[f"layers.2.{name}"], "float32") for name in ("weight", "bias")
    ]
    logits = graph.add("Gemm", centred, *linear, transB=1)
    output = add_probabilities(graph, [logits], bundle.decision)
    described = helper.make_tensor_value_info
    return graph.model(
        [
            described("ids", TensorProto.INT64, ["windows", "tokens"]),
            described("lengths", TensorProto.INT64, ["windows"]),
            described("owner", TensorProto.INT64, ["windows"]),
        ],
        described(output, TensorProto.FLOAT, ["batch", len(bundle.labels)]),
    )


def _export(states: nn.Module, bundle: Bundle) -> "ModelProto":
    """The graph of `_States`; of any number of windows and tokens."""
    import onnx

    size = sum(parameter.nbytes for parameter in states.parameters())
    if size > LARGEST:
        raise SettingError(
            f"The model has {size / 1e9:.1f} GB of weights; an ONNX file holds 2.1 GB at most. "
            "Teach a smaller one, or serve this one: python -m ulmfit_app serve RUN"
        )
    ids = torch.full((3, 9), bundle.shape.begin)
    mask = (torch.arange(9) < torch.tensor([[9], [5], [7]])).long()
    file = io.BytesIO()
    try:
        # By tracing: torch's newer exporter wants a package more, onnxscript, and fixed the
        # number of windows when it was tried.
        with torch.no_grad(), warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                states,
                (ids, mask),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=["window_ids", "window_mask"],
                output_names=["window_states"],
                dynamic_axes={
                    name: {0: "windows", 1: "tokens"}
                    for name in ("window_ids", "window_mask", "window_states")
                },
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise SettingError(
            f"torch {torch.__version__} cannot write this {bundle.shape.model['model_type']} as "
            f"ONNX: {first}. Serve it without: python -m ulmfit_app serve RUN"
        ) from None
    return onnx.load_model_from_string(file.getvalue())


def _quantized(model: "ModelProto") -> "ModelProto":
    import onnx

    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata
    except ImportError:
        raise missing_onnx() from None
    add_pre_process_metadata(model)  # or it advises, by a warning, what brings nothing here
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_dynamic(model, path, weight_type=QuantType.QInt8, per_channel=True)
        return onnx.load(path)


def _read(graph: Graph, reader: "ModelProto", texts: str, bundle: Bundle) -> str:
    """The mean of each text's pooled windows, [texts, d]."""
    shape = bundle.shape
    width = shape.width * (3 if shape.pooling == "concat" else 1)
    graph.constants += reader.graph.initializer
    tokens = graph.add("Squeeze", graph.add("Shape", "ids", start=1, end=2))
    at_once = graph.add("Div", graph.constant(READ_AT_A_TIME), tokens)
    at_once = graph.add("Max", at_once, graph.constant(1))
    windows = graph.add("Squeeze", graph.add("Shape", "ids", start=0, end=1))
    more = graph.add("Sub", graph.add("Add", windows, at_once), graph.constant(1))
    numbers = graph.add("Range", graph.constant(0), texts, graph.constant(1))
    column = graph.add("Unsqueeze", numbers, graph.constant([1]))
    body = Graph(graph)
    first = body.add("Mul", "turn", at_once)
    cuts = [body.add("Unsqueeze", name, body.constant([0])) for name in (first, at_once)]
    stop = body.add("Add", *cuts)
    ids, lengths, owner = (
        body.add("Slice", name, cuts[0], stop, body.constant([0]))
        for name in ("ids", "lengths", "owner")
    )
    places = body.add("Range", body.constant(0), tokens, body.constant(1))
    ends = body.add("Unsqueeze", lengths, body.constant([1]))
    mask = body.add("Less", places, ends)
    body.insert(reader.graph, {"window_ids": ids, "window_mask": body.add("Cast", mask, to=7)})
    pooled = _pool(body, "window_states", mask, places, ends, shape.pooling)
    # A product with ones and zeros is the sum of each text's windows.
    own = body.add("Cast", body.add("Equal", column, owner), to=1)
    total = body.add("Add", "total", body.add("MatMul", own, pooled))
    size = graph.add(
        "Concat",
        graph.add("Unsqueeze", texts, graph.constant([0])),
        graph.constant([width]),
        axis=0,
    )
    zeros = graph.add("Expand", graph.constant(0, "float32"), size)
    found = graph.loop(graph.add("Div", more, at_once), body, [(zeros, "total", total)])
    every = graph.add("Cast", graph.add("Equal", column, "owner"), to=1)
    return graph.add("Div", found[0], graph.add("ReduceSum", every, graph.constant([1])))


def _pool(graph: Graph, states: str, mask: str, places: str, ends: str, how: str) -> str:
    """One vector per window, as `transformer.pool` makes it."""
    if how == "first":
        return graph.add("Gather", states, graph.constant(0), axis=1)

    def reduced(operator: str, which: str, instead: float, **axes) -> str:
        own = graph.add("Unsqueeze", which, graph.constant([2]))
        kept = graph.add("Where", own, states, graph.constant(instead, "float32"))
        inputs = () if axes else (graph.constant([1]),)
        return graph.add(operator, kept, *inputs, keepdims=0, **axes)

    at_end = graph.add("Equal", places, graph.add("Sub", ends, graph.constant(1)))
    if how == "last":
        return reduced("ReduceSum", at_end, 0)
    mean = graph.add("Div", reduced("ReduceSum", mask, 0), graph.add("Cast", ends, to=1))
    if how == "mean":
        return mean
    largest = reduced("ReduceMax", mask, float("-inf"), axes=[1])
    return graph.add("Concat", reduced("ReduceSum", at_end, 0), largest, mean, axis=1)
