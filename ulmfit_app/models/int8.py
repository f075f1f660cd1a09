"""An AWD-LSTM's encoder in int8, for single texts on a CPU (extra `onnx`).

By onnxruntime. torch.ao has an int8 LSTM too, but is announced as removed, takes longer, and is
off by more (`python -m tests.bench.onnx_speed RUN`).
"""

import torch
from torch import Tensor, nn

from ulmfit_app.models.bundle import Bundle
from ulmfit_app.models.onnx_graph import encoder_graph, missing_onnx
from ulmfit_app.text.rules import PAD_ID


class Int8Encoder(nn.Module):
    """What `pooling.TextEncoder` is, in evaluation, with embeddings and LSTM layers in int8.

    Inputs of a layer are scaled by the largest of a batch: a text that is to have its own
    probabilities is read alone.

    Args:
        bundle: of a classifier, loaded; an AWD-LSTM.

    Raises:
        BundleError: its weights do not fit its description.
        SettingError: the extra `onnx` is not installed.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError:
            raise missing_onnx() from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            encoder_graph(bundle).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled texts [batch, 3 * emb_sz] of ids [batch, length], and nothing to regularise.

        Args:
            ids: int64, padded on the right with PAD_ID.
        """
        given = {"ids": ids.numpy(), "lengths": (ids != PAD_ID).sum(1).numpy()}
        pooled = torch.from_numpy(self._session.run(None, given)[0])
        return pooled, pooled.new_zeros(0)
