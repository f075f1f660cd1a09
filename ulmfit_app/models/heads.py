"""Blocks of a transformer with fewer attention heads than its config says.

transformers' configs know no head without its share of the states' width: of 12 heads in a model
of width 384, each is 32 wide, and 6 heads would be 64 wide. So layers are put in the place of its
own, of as many heads as are left, each as wide as before.
"""

from dataclasses import dataclass

from torch import nn

from ulmfit_app.errors import SettingError
from ulmfit_app.models.shapes import TransformerShape


@dataclass(frozen=True)
class Layout:
    """Names of what can be left out of the blocks of a kind of transformer.

    Args:
        queries: layers of a block that make queries, keys and values.
        attended: the layer that reads what all heads found.
        rows: the layer that makes the feed-forward layer's inner activations.
        read: the layer that reads them.
        n_heads, n_rows: in the config, how many a block has.
    """

    queries: tuple[str, ...]
    attended: str
    rows: str
    read: str
    n_heads: str = "num_attention_heads"
    n_rows: str = "intermediate_size"


_BERT = Layout(
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_DISTILBERT = Layout(
    ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    "attention.out_lin",
    "ffn.lin1",
    "ffn.lin2",
    "n_heads",
    "hidden_dim",
)
_MODERNBERT = Layout(("attn.Wqkv",), "attn.Wo", "mlp.Wi", "mlp.Wo")
# model_type of transformers' config -> where its blocks have what
LAYOUTS = {
    **dict.fromkeys(["bert", "camembert", "electra", "roberta", "xlm-roberta"], _BERT),
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
}


def layout_of(shape: TransformerShape) -> Layout:
    """Where the blocks of a transformer have what can be left out of them.

    Raises:
        SettingError: their heads cannot be removed.
    """
    kind = shape.model["model_type"]
    if kind not in LAYOUTS:
        raise SettingError(
            f"The attention heads of a {kind} cannot be removed: where its blocks have them is "
            f"known of {', '.join(LAYOUTS)} and of no other transformer. Prune a run that started "
            "from one of these, such as --pretrained minilm, or from an AWD-LSTM."
        )
    return LAYOUTS[kind]


def count_heads(shape: TransformerShape) -> int:
    """Attention heads of each block."""
    return shape.heads or shape.model[layout_of(shape).n_heads]


def leave_heads_out(blocks: nn.ModuleList, shape: TransformerShape) -> None:
    """Give blocks as many heads as their shape says, with random weights.

    Args:
        blocks: with as many as its config says.
        shape: with `heads`.

    Raises:
        SettingError: as `layout_of` does.
    """
    layout = layout_of(shape)
    whole = shape.model[layout.n_heads]
    for block in blocks:
        for name in (*layout.queries, layout.attended):
            old = block.get_submodule(name)
            n_in, n_out = old.in_features, old.out_features
            if name == layout.attended:
                n_in = n_in // whole * shape.heads
            else:
                n_out = n_out // whole * shape.heads
            block.set_submodule(name, nn.Linear(n_in, n_out, old.bias is not None))
