"""A pretrained transformer as ULMFiT's encoder and language model (extra `transformers`).

The modules are those of transformers, without code of the model's own. Around them stands what the
recipe needs: texts of any length, read in windows and pooled; layer groups, lowest first; and the
two objectives of stage two, masked tokens (Devlin et al. 2019) and the next token.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ulmfit_app.models.bundle import Bundle, load_weights
from ulmfit_app.models.heads import leave_heads_out
from ulmfit_app.models.hub import quiet, require_transformers
from ulmfit_app.models.pooling import PooledHead
from ulmfit_app.models.reader import Reader
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.softmax import Logits
from ulmfit_app.text.windows import cut_into_windows

# Tokens of windows that are read at once. In training, the activations of more are computed again
# in the backward pass, so that memory does not grow with the length of texts.
TRAINED_AT_A_TIME, READ_AT_A_TIME = 8_192, 16_384
DROPOUT = 0.1  # before the head; Devlin et al. 2019


# --------------------------------------------------------------------------------------- the parts
def build_whole(shape: TransformerShape) -> nn.Module:
    """transformers' own language model of a shape, with random weights in fp32.

    Raises:
        SettingError: the extra `transformers` is not installed.
    """
    require_transformers()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    auto = AutoModelForMaskedLM if shape.kind == "masked" else AutoModelForCausalLM
    with quiet():
        config = AutoConfig.for_model(**shape.model)
        whole = auto.from_config(config, dtype=torch.float32)
    if shape.heads is not None:
        leave_heads_out(blocks_of(whole.base_model)[1], shape)
    return whole


def blocks_of(module: nn.Module) -> tuple[str, nn.ModuleList]:
    """The transformer blocks of a model without a head, lowest first, and their name in it."""
    for name, part in module.named_modules():
        if isinstance(part, nn.ModuleList):
            return name, part
    raise ValueError(f"{type(module).__name__} has no list of blocks")


def count_positions(module: nn.Module, config: Any) -> int | None:
    """Tokens that a model without a head can read at once, specials included; None: any number."""
    for name, part in module.named_modules():
        # RoBERTa's count from behind the padding's.
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            first = 0 if part.padding_idx is None else part.padding_idx + 1
            return part.num_embeddings - first
    return getattr(config, "max_position_embeddings", None)


class WindowEncoder(nn.Module):
    """Encodes texts of any length and pools their states.

    A text longer than a window is read in windows of nearly equal length, each between the tokens
    that the model expects around a text, and the pooled windows are averaged: nothing is cut off.
    Padding is masked, so that a text's vector does not depend on the texts beside it.

    Args:
        module: transformers' model without a head.
        shape: of it.
        grad_tokens: gradients reach back over a text's last so many tokens.
    """

    def __init__(self, module: nn.Module, shape: TransformerShape, grad_tokens: int = 0) -> None:
        super().__init__()
        self.module, self.shape, self.max_len = module, shape, grad_tokens

    def reset(self) -> None:
        """Begin texts anew; nothing is carried from one batch to the next."""

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [..., width] of ids [...], positions aside."""
        return self.module.get_input_embeddings()(ids)

    def say_nothing(self, ids: Tensor) -> Tensor:
        """Embeddings of tokens that say nothing, in the place of ids [batch, length]: padding.

        Not zeros: of a vector before a layer normalisation only its direction counts.
        """
        padding = ids.new_full(ids.shape, _padding(self.shape))
        padding[:, 0] = ids[:, 0]
        return self.embed(padding)

    def forward(self, ids: Tensor, embedded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pool a batch of texts.

        Args:
            ids: int64 [batch, length], padded on the right with OF_SUBWORDS; each text begins with
                the shape's `begin`.
            embedded: [batch, length, width], to be read in the place of the ids' embeddings.

        Returns:
            The pooled texts, fp32 [batch, d], and nothing to regularise, as `TextEncoder` gives
            it.
        """
        lengths = (ids >= 0).sum(1).cpu()
        windows = torch.from_numpy(cut_into_windows(lengths.numpy() - 1, self.shape.window))
        behind = lengths[windows[:, 0]] - windows[:, 2]
        learns = behind < self.max_len if self.training else torch.zeros(len(windows)).bool()
        owners, pooled = [], []
        groups = self._groups(windows, learns)
        are_several = sum(with_gradient for _, with_gradient in groups) > 1
        for group, with_gradient in groups:
            with torch.set_grad_enabled(
                torch.is_grad_enabled() and (with_gradient or not self.training)
            ):
                pooled.append(self._read_group(ids, group, embedded, are_several))
            owners.append(group[:, 0])
        owner = torch.cat(owners).to(ids.device)
        found = torch.cat(pooled)
        total = found.new_zeros(len(ids), found.shape[1]).index_add(0, owner, found)
        return total / owner.bincount(minlength=len(ids))[:, None], found.new_zeros(0)

    def _groups(self, windows: Tensor, learns: Tensor) -> list[tuple[Tensor, bool]]:
        """Windows of like length together, few enough to be read at once."""
        most = TRAINED_AT_A_TIME if self.training else READ_AT_A_TIME
        groups = []
        for flag in (True, False):
            chosen = windows[learns == flag]
            lengths = chosen[:, 2] - chosen[:, 1]
            chosen = chosen[lengths.argsort(descending=True, stable=True)]
            while len(chosen):
                longest = int(chosen[0, 2] - chosen[0, 1]) + 1 + len(self.shape.end)
                n = max(most // longest, 1)
                groups.append((chosen[:n], flag))
                chosen = chosen[n:]
        return groups

    def _read_group(
        self, ids: Tensor, group: Tensor, embedded: Tensor | None, are_several: bool
    ) -> Tensor:
        framed, mask, places = frame(ids, group, self.shape)
        inputs = None
        if embedded is not None:
            own = embedded[group[:, :1].to(ids.device), places.clamp_min(0)]
            inputs = torch.where((places >= 0)[..., None], own, self.embed(framed))
        if are_several and self.training and torch.is_grad_enabled():
            return checkpoint(self._pooled, framed, mask, inputs, use_reentrant=False)
        return self._pooled(framed, mask, inputs)

    def _pooled(self, framed: Tensor, mask: Tensor, embedded: Tensor | None) -> Tensor:
        read = {"input_ids": framed} if embedded is None else {"inputs_embeds": embedded}
        states = self.module(**read, attention_mask=mask.long()).last_hidden_state
        # Before them stands a soft prompt, perhaps.
        return pool(states[:, -framed.shape[1] :], mask, self.shape.pooling)


def frame(ids: Tensor, windows: Tensor, shape: TransformerShape) -> tuple[Tensor, Tensor, Tensor]:
    """Windows as the model expects a text.

    Args:
        ids: int64 [batch, length].
        windows: int64 [n, 3]: text, first token, and behind the last one.
        shape: its begin and end.

    Returns:
        Ids int64 [n, tokens], padded on the right; whether each is none of padding; and the place
        in its text, -1 for `end` and padding.
    """
    windows = windows.to(ids.device)
    lengths = windows[:, 2] - windows[:, 1]
    steps = torch.arange(int(lengths.max()) + 1 + len(shape.end), device=ids.device)
    places = torch.where(steps == 0, 0, windows[:, 1:2] + steps - 1)
    places = places.masked_fill(steps > lengths[:, None], -1)
    framed = torch.where(places >= 0, ids[windows[:, :1], places.clamp_min(0)], _padding(shape))
    for i, token in enumerate(shape.end, start=1):
        framed = torch.where(steps == lengths[:, None] + i, token, framed)
    return framed, steps <= lengths[:, None] + len(shape.end), places


def _padding(shape: TransformerShape) -> int:
    """An id that exists; what stands there is masked."""
    found = shape.model.get("pad_token_id")
    return shape.begin if found is None or found < 0 else found


def pool(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """One vector per window.

    Args:
        states: [n, tokens, width].
        mask: bool [n, tokens], false at padding, which stands on the right.
        how: mean, first, last, or concat: last, maximum and mean (ULMFiT section 3.3).

    Returns:
        fp32 [n, width], or [n, 3 * width].
    """
    states, own = states.float(), mask[..., None]
    if how == "first":
        return states[:, 0]
    last = states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    if how == "last":
        return last
    mean = states.masked_fill(~own, 0).sum(1) / own.sum(1)
    if how == "mean":
        return mean
    return torch.cat([last, states.masked_fill(~own, -torch.inf).amax(1), mean], 1)


class TransformerLanguageModel(nn.Module):
    """A masked or a causal language model whose logits are left to be worked off by the loss.

    Args:
        whole: transformers' own, with its head.
        shape: of it.
    """

    def __init__(self, whole: nn.Module, shape: TransformerShape) -> None:
        super().__init__()
        decoder = whole.get_output_embeddings()
        # In its place the states pass through, so that logits are made where they are asked for.
        for parent in whole.modules():
            for name, part in parent.named_children():
                if part is decoder:
                    self._place = parent, name  # in a tuple, or it would be a part of this module
                    setattr(parent, name, nn.Identity())
        self.whole, self.decoder, self.shape = whole, decoder, shape

    @property
    def encoder(self) -> nn.Module:
        """transformers' model without a head."""
        return self.whole.base_model

    def give_back(self) -> nn.Module:
        """transformers' own model, whole again; this one is of no use afterwards."""
        setattr(*self._place, self.decoder)
        return self.whole

    def reset(self) -> None:
        """Begin texts anew; nothing is carried from one batch to the next."""

    def forward(self, ids: Tensor, where: Tensor) -> tuple[Logits, Tensor, Tensor]:
        """Logits of some tokens of a batch of windows.

        Args:
            ids: int64 [batch, length], padded on the right with OF_SUBWORDS, `begin` first.
            where: bool [batch, length], at which of them.

        Returns:
            Logits [n, vocabulary] of the n places in order, and nothing to regularise.
        """
        lengths = (ids >= 0).sum(1)
        rows = torch.arange(len(ids), device=ids.device)
        windows = torch.stack([rows, torch.ones_like(rows), lengths], 1)
        framed, mask, _ = frame(ids, windows, self.shape)
        n = max(TRAINED_AT_A_TIME // framed.shape[1], 1)
        parts = list(zip(framed.split(n), mask.split(n), strict=True))
        if len(parts) > 1 and self.training and torch.is_grad_enabled():
            states = [checkpoint(self._states, *part, use_reentrant=False) for part in parts]
        else:
            states = [self._states(*part) for part in parts]
        hidden = torch.cat(states)[:, : ids.shape[1]][where]
        weight = self.decoder.weight
        bias = self.decoder.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        return Logits(hidden, weight, bias), hidden, hidden

    def _states(self, framed: Tensor, mask: Tensor) -> Tensor:
        return self.whole(input_ids=framed, attention_mask=mask.long()).logits


# ------------------------------------------------------------------------------------------ models
def build_language_model(shape: TransformerShape) -> TransformerLanguageModel:
    """A language model with random weights."""
    return TransformerLanguageModel(build_whole(shape), shape)


def load_language_model(bundle: Bundle) -> TransformerLanguageModel:
    """The language model of a loaded bundle.

    Raises:
        BundleError: its weights do not fit its description.
    """
    model = build_language_model(bundle.shape)
    load_weights(bundle, model)
    return model


def build_head(shape: TransformerShape, n_classes: int, drop_mult: float = 1.0) -> PooledHead:
    """Layer normalisation, which makes rates fit any model's states; dropout; a linear layer."""
    width = shape.width * (3 if shape.pooling == "concat" else 1)
    dropout = nn.Dropout(DROPOUT * drop_mult)
    return PooledHead(nn.Sequential(nn.LayerNorm(width), dropout, nn.Linear(width, n_classes)))


def build_classifier(
    shape: TransformerShape,
    n_classes: int,
    module: nn.Module | None = None,
    drop_mult: float = 1.0,
    grad_tokens: int = 0,
) -> Reader:
    """A classifier; of ids [batch, length] it gives logits [batch, classes].

    Args:
        shape: of the transformer, with the classifier's pooling.
        n_classes: labels.
        module: transformers' model without a head, with the shape's adapter; None: one with random
            weights.
        drop_mult: times the head's dropout.
        grad_tokens: as `WindowEncoder` has it.
    """
    module = build_whole(shape).base_model if module is None else module
    encoder = WindowEncoder(module, shape, grad_tokens)
    model = Reader(encoder, build_head(shape, n_classes, drop_mult))
    if shape.adapter is not None:
        # What lies elsewhere: bundles and checkpoints leave it out.
        model.base_names = {
            name
            for name in model.state_dict()
            if name.startswith("0.") and not is_of_adapter(name)
        }
    return model


def group_sizes(n_blocks: int, n_groups: int) -> list[int]:
    """How many blocks each group has, lowest first.

    >>> group_sizes(12, 4), group_sizes(6, 4), group_sizes(3, 4)
    ([3, 3, 3, 3], [1, 1, 2, 2], [1, 1, 1])
    """
    n_groups = min(n_groups, n_blocks)
    whole, rest = divmod(n_blocks, n_groups)
    return [whole + (i >= n_groups - rest) for i in range(n_groups)]


def parameter_groups(
    module: nn.Module, shape: TransformerShape, above: Iterable[nn.Parameter]
) -> list[list[nn.Parameter]]:
    """The parameters of a model's layer groups, lowest first: embeddings, blocks, head.

    Blocks are divided into `shape.groups` of nearly equal size, as a 12-layer BERT into 4 of 3.
    What stands behind the last block, such as a normalisation, belongs to its group. Those of an
    adapter's base are in no group: nothing ever lets them learn.

    Args:
        module: transformers' model without a head.
        shape: of it.
        above: the head's parameters; those that it shares with the embeddings are theirs.
    """
    name, blocks = blocks_of(module)
    sizes = group_sizes(len(blocks), shape.groups)
    group_of_block = [group for group, size in enumerate(sizes, start=1) for _ in range(size)]
    groups: list[list[nn.Parameter]] = [[] for _ in range(len(sizes) + 1)]
    behind = False
    for its_name, parameter in module.named_parameters():
        found = its_name.startswith(f"{name}.")
        inner = its_name.removeprefix(f"{name}.")
        behind = behind or found
        if shape.adapter is None or is_of_adapter(its_name):
            group = group_of_block[int(inner.partition(".")[0])] if found else -1 if behind else 0
            groups[group].append(parameter)
    below = {id(parameter) for parameter in module.parameters()}
    groups.append([parameter for parameter in above if id(parameter) not in below])
    return [group for group in groups if group]


def is_of_adapter(name: str) -> bool:
    """Whether a parameter of transformers' model is an adapter's, by the name that peft gives."""
    return any(mark in name for mark in ("lora_", "ia3_", "prompt_encoder"))
