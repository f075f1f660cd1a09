"""A classifier as an ONNX graph: from ids to calibrated probabilities (extra `onnx`).

The graph of an AWD-LSTM is written here, node by node. torch's exporter of 2.14 traces the LSTM
with the length of its example, and gives no way to read each text by its own length. A long batch
is read by a Loop, some tokens of each text at a time, as `pooling.TextEncoder` reads it: memory
does not grow with the length of texts. Both directions are one graph.

    inputs     ids int64 [batch, length], padded on the right; lengths int64 [batch]
    output     probabilities float32 [batch, n_labels], temperatures included

A transformer's graph (`onnx_transformer.py`) has the same output.

In int8, the LSTM layers are onnxruntime's DynamicQuantizeLSTM: weights are int8 with a scale for
each gate's unit, inputs and states are put into int8 as they come. Embeddings are int8 with a
scale per word.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.models.bundle import Bundle, rows_in_int8
from ulmfit_app.models.reader import read_classifier

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

OPSET, IR_VERSION = 17, 9
STEP = 256  # tokens of each text that are read at once
MICROSOFT = "com.microsoft"  # the domain of onnxruntime's own operators
GATES = [0, 3, 1, 2]  # torch's input, forget, cell, output in ONNX's order: i, o, f, c


def missing_onnx() -> SettingError:
    """The error where the extra `onnx` is not installed."""
    return SettingError(
        "ONNX needs the packages onnx and onnxruntime, which are not installed. "
        "Run: pip install 'ulmfit-app[onnx]'"
    )


class Graph:
    """Nodes and constants of an ONNX graph that is being written.

    Attributes:
        nodes: in the order of their computation.
        constants: tensors, which the bodies of loops see too.
    """

    def __init__(self, outer: "Graph | None" = None) -> None:
        """Begin a graph.

        Args:
            outer: of a loop's body: the graph that it stands in.
        """
        self.nodes: list[NodeProto] = []
        self._outer = outer
        self._count = outer._count if outer else iter(range(1 << 30))
        self.constants: list[TensorProto] = outer.constants if outer else []

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        """The name of a new constant."""
        from onnx import numpy_helper

        name = f"c{next(self._count)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, outputs: int = 1, domain: str = "", **how) -> Any:
        """The name of a new node's output, or a list of the names of several."""
        from onnx import helper

        names = [f"{operator.lower()}{next(self._count)}" for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, domain=domain, **how))
        return names[0] if outputs == 1 else names

    def insert(self, graph: "GraphProto", inputs: dict[str, str]) -> None:
        """Put another graph's nodes here; its constants are to be put among `constants`.

        Args:
            graph: its names are none of this one's.
            inputs: its name of each input, and this graph's name of what it is given.
        """
        from onnx import helper

        for theirs, ours in inputs.items():
            self.nodes.append(helper.make_node("Identity", [ours], [theirs]))
        self.nodes += graph.node

    def loop(self, count: str, body: "Graph", kept: Sequence[tuple[str, str, str]]) -> list[str]:
        """Run a body some times.

        Args:
            count: how often, int64 scalar.
            body: its first two inputs are named `turn` and `goes_on`.
            kept: of each tensor that goes from turn to turn, fp32: its name in this graph, in the
                body before a turn, and behind it.

        Returns:
            The names of what is kept, after the last turn.
        """
        from onnx import TensorProto, helper

        unknown = helper.make_tensor_value_info
        going = body.add("Identity", "goes_on")
        inputs = [
            unknown("turn", TensorProto.INT64, []),
            unknown("goes_on", TensorProto.BOOL, []),
            *(unknown(before, TensorProto.FLOAT, None) for _, before, _ in kept),
        ]
        outputs = [
            unknown(going, TensorProto.BOOL, []),
            *(unknown(after, TensorProto.FLOAT, None) for _, _, after in kept),
        ]
        graph = helper.make_graph(body.nodes, "body", inputs, outputs)
        names = [name for name, _, _ in kept]
        found = self.add("Loop", count, "", *names, outputs=len(kept), body=graph)
        return found if len(kept) > 1 else [found]

    def model(self, inputs: Sequence["ValueInfoProto"], output: "ValueInfoProto") -> "ModelProto":
        """The whole, checked.

        Args:
            inputs, output: as onnx describes them.
        """
        from onnx import checker, helper

        graph = helper.make_graph(self.nodes, "classifier", inputs, [output], self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ulmfit-app"
        )
        checker.check_model(model)
        return model


# ------------------------------------------------------------------------------------- an AWD-LSTM
def awd_lstm_graph(
    bundles: Sequence[Bundle], decision: Decision, int8: bool = False
) -> "ModelProto":
    """The graph of an AWD-LSTM classifier, or of the mean of a forward and a backward one.

    Args:
        bundles: loaded, of the same labels and vocabulary.
        decision: of the mean of their probabilities.
        int8: for onnxruntime alone: weights in a quarter of the bytes.

    Raises:
        BundleError: weights do not fit their description.
        SettingError: the extra `onnx` is not installed.
    """
    graph, alone = _begin(), []
    for bundle in bundles:
        weights = _weights_of(bundle)
        ids = "ids"
        if bundle.direction == "backward":
            ids = graph.add("ReverseSequence", "ids", "lengths", batch_axis=0, time_axis=1)
        pooled = _read(graph, weights, ids, bundle.shape.n_layers, int8)
        alone.append(_head(graph, weights, pooled))
    output = add_probabilities(graph, alone, decision)
    return _of_texts(graph, output, len(bundles[0].labels))


def encoder_graph(bundle: Bundle) -> "ModelProto":
    """The graph of an AWD-LSTM classifier's encoder alone, in int8, as `pooling.TextEncoder` is.

    Args:
        bundle: loaded.

    Returns:
        Of ids [batch, length], in the direction that the bundle reads, and lengths [batch], it
        gives pooled texts, fp32 [batch, 3 * emb_sz].

    Raises:
        BundleError, SettingError: as `awd_lstm_graph` does.
    """
    graph = _begin()
    pooled = _read(graph, _weights_of(bundle), "ids", bundle.shape.n_layers, int8=True)
    return _of_texts(graph, pooled, 3 * bundle.shape.emb_sz)


def _begin() -> Graph:
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise missing_onnx() from None
    return Graph()


def _weights_of(bundle: Bundle) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in read_classifier(bundle).state_dict().items()}


def _of_texts(graph: Graph, output: str, width: int) -> "ModelProto":
    from onnx import TensorProto, helper

    described = helper.make_tensor_value_info
    return graph.model(
        [
            described("ids", TensorProto.INT64, ["batch", "length"]),
            described("lengths", TensorProto.INT64, ["batch"]),
        ],
        described(output, TensorProto.FLOAT, ["batch", width]),
    )


def _read(graph: Graph, weights: dict[str, np.ndarray], ids: str, layers: int, int8: bool) -> str:
    """Texts as their last state, maximum and mean, [batch, 3 * emb_sz], as in `TextEncoder`."""
    units = [weights[f"0.module.rnns.{i}.weight_hh_l0"].shape[1] for i in range(layers)]
    batch = graph.add("Shape", ids, start=0, end=1)
    body = Graph(graph)
    kept, names = [], []
    for i, n in enumerate(units):
        shape = graph.add("Concat", graph.constant([1]), batch, graph.constant([n]), axis=0)
        zeros = graph.add("Expand", graph.constant(0, np.float32), shape)
        names.append((f"hidden{i}", f"cell{i}"))
        kept += [(zeros, f"hidden{i}", ""), (zeros, f"cell{i}", "")]
    shape = graph.add("Concat", batch, graph.constant([units[-1]]), axis=0)
    kept.append((graph.add("Expand", graph.constant(-np.inf, np.float32), shape), "largest", ""))
    kept.append((graph.add("Expand", graph.constant(0, np.float32), shape), "total", ""))
    after = _read_step(body, weights, ids, names, int8)
    kept = [(name, before, new) for (name, before, _), new in zip(kept, after, strict=True)]
    longest = graph.add("ReduceMax", "lengths", keepdims=0)
    more = graph.add("Add", longest, graph.constant(STEP - 1))
    found = graph.loop(graph.add("Div", more, graph.constant(STEP)), body, kept)
    last = graph.add("Squeeze", found[-4], graph.constant([0]))
    column = graph.add("Unsqueeze", "lengths", graph.constant([1]))
    mean = graph.add("Div", found[-1], graph.add("Cast", column, to=1))
    return graph.add("Concat", last, found[-2], mean, axis=1)


def _read_step(
    body: Graph,
    weights: dict[str, np.ndarray],
    ids: str,
    states: Sequence[tuple[str, str]],
    int8: bool,
) -> list[str]:
    """STEP tokens more: each layer's new states, then the maximum and the sum so far."""
    start = body.add("Mul", "turn", body.constant(STEP))
    first = body.add("Unsqueeze", start, body.constant([0]))
    stop = body.add("Add", first, body.constant([STEP]))
    some = body.add("Slice", ids, first, stop, body.constant([1]))
    left = body.add("Sub", "lengths", start)  # tokens of each text from here on
    here = body.add("Squeeze", body.add("Shape", some, start=1, end=2))
    # onnxruntime wants one token of each; what it makes of a text that has ended is left out.
    lengths = body.add("Max", body.add("Min", left, here), body.constant(1))
    lengths = body.add("Cast", lengths, to=6)
    goes = body.add("Greater", left, body.constant(0))
    goes = body.add("Unsqueeze", goes, body.constant([0, 2]))
    x = _embed(body, weights["0.module.encoder.weight"], body.add("Transpose", some), int8)
    after = []
    for i, (hidden, cell) in enumerate(states):
        own = [weights[f"0.module.rnns.{i}.{name}_l0"] for name in LSTM_WEIGHTS]
        y, new_hidden, new_cell = _lstm(body, own, x, lengths, hidden, cell, int8)
        after += [
            body.add("Where", goes, new_hidden, hidden),
            body.add("Where", goes, new_cell, cell),
        ]
        x = body.add("Squeeze", y, body.constant([1]))
    places = body.add("Range", body.constant(0), here, body.constant(1))
    places = body.add("Unsqueeze", places, body.constant([1]))
    own = body.add("Unsqueeze", body.add("Less", places, left), body.constant([2]))
    nothing = body.constant(-np.inf, np.float32)
    largest = body.add("ReduceMax", body.add("Where", own, x, nothing), axes=[0], keepdims=0)
    kept = body.add("Where", own, x, body.constant(0, np.float32))
    total = body.add("ReduceSum", kept, body.constant([0]), keepdims=0)
    return [*after, body.add("Max", "largest", largest), body.add("Add", "total", total)]


LSTM_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")  # torch's names


def _in_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8, and what each row [n, 1] is to be multiplied by."""
    small, scale = rows_in_int8(torch.from_numpy(matrix))
    return small.numpy(), scale.numpy()


def _embed(graph: Graph, matrix: np.ndarray, ids: str, int8: bool) -> str:
    if not int8:
        return graph.add("Gather", graph.constant(matrix, np.float32), ids)
    small, scale = _in_rows(matrix)
    found = graph.add("Gather", graph.constant(small, np.int8), ids)
    scales = graph.add("Gather", graph.constant(scale, np.float32), ids)
    return graph.add("Mul", graph.add("Cast", found, to=1), scales)


def _lstm(
    graph: Graph,
    weights: Sequence[np.ndarray],
    x: str,
    lengths: str,
    hidden: str,
    cell: str,
    int8: bool,
) -> list[str]:
    """Outputs [tokens, 1, batch, n], and the two states [1, batch, n]."""
    units = weights[1].shape[1]
    # [4 * n, …] by gates, and back.
    by_gate = [w.reshape(4, units, -1)[GATES].reshape(4 * units, -1) for w in weights]
    bias = graph.constant(np.concatenate(by_gate[2:])[None, :, 0], np.float32)
    if not int8:
        matrices = [graph.constant(w[None], np.float32) for w in by_gate[:2]]
        return graph.add(
            "LSTM", x, *matrices, bias, lengths, hidden, cell, outputs=3, hidden_size=units
        )
    matrices, scales = [], []
    for w in by_gate[:2]:
        small, scale = _in_rows(w)
        matrices.append(graph.constant(small.T[None], np.int8))
        scales.append(graph.constant(scale.T, np.float32))
        scales.append(graph.constant(np.zeros_like(scale.T), np.int8))
    return graph.add(
        "DynamicQuantizeLSTM",
        *(x, *matrices, bias, lengths, hidden, cell, "", *scales),
        outputs=3,
        domain=MICROSOFT,
        hidden_size=units,
    )


def _head(graph: Graph, weights: dict[str, np.ndarray], x: str) -> str:
    """Logits of pooled texts: two linear layers, each with its batch normalisation in itself."""
    for i in (0, 1):
        names = ("weight", "bias", "running_mean", "running_var")
        gain, shift, mean, variance = (
            weights[f"1.layers.{i}.0.{name}"].astype(float) for name in names
        )
        gain = gain / np.sqrt(variance + BATCH_NORM_EPSILON)
        linear = weights[f"1.layers.{i}.2.weight"].astype(float)
        bias = graph.constant(linear @ (shift - mean * gain), np.float32)
        x = graph.add("Gemm", x, graph.constant((linear * gain).T, np.float32), bias)
        if i == 0:
            x = graph.add("Relu", x)
    return x


BATCH_NORM_EPSILON = 1e-5  # torch's


def add_probabilities(graph: Graph, logits: Sequence[str], decision: Decision) -> str:
    """The mean of one or two models' probabilities, calibrated, as `Predictor` computes it.

    Args:
        graph: is given the nodes.
        logits: each model's, [batch, n_labels].
        decision: of several labels, each has a probability of its own; its temperatures divide the
            logarithm of the mean, or of several labels the mean's log-odds.

    Returns:
        The name of the probabilities, fp32 [batch, n_labels].
    """
    double = [graph.add("Cast", each, to=11) for each in logits]
    several = decision.multilabel
    how = ("Sigmoid", {}) if several else ("Softmax", {"axis": 1})
    if len(double) > 1:
        alone = [graph.add(how[0], each, **how[1]) for each in double]
        total = graph.add("Add", *alone)
        # The sum is the mean but for a factor, which the softmax does not see.
        double = [graph.add("Log", total)]
        if several:  # nor do odds: p and 1 - p are both twice as large
            rest = graph.add("Sub", graph.constant(2.0, np.float64), total)
            double = [graph.add("Sub", double[0], graph.add("Log", rest))]
    temperatures = graph.constant(decision.temperatures, np.float64)
    divided = graph.add("Div", double[0], temperatures)
    return graph.add("Cast", graph.add(how[0], divided, **how[1]), to=1)
