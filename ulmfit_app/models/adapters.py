"""Adapters: little that learns beside a transformer's weights, which stay as they are (extra
`transformers`, through peft).

LoRA (Hu et al. 2021, section 4.1). A linear layer computes W x, with W [n_out, n_in]. Full
fine-tuning learns an update of all n_out * n_in numbers. LoRA learns one of rank r, as a product:

    h = W x + (alpha / r) * B A x        A [r, n_in], random;  B [n_out, r], zeros at first

W is frozen, and training begins at the model as it came, since B is zero. With r = 8, a layer of
MiniLM with W [384, 384] learns 8 * (384 + 384) = 6,144 numbers in the place of 147,456.

A soft prompt (Lester et al. 2021, section 2) is n vectors [n, width] that stand before the
embeddings of each window, as words would, and are in no vocabulary. They alone learn. They begin
as the embeddings of random tokens (section 3.2).

(IA)3 (Liu et al. 2022, section 3.3) learns factors, ones at first: the keys and values of
attention, [width] each, and the inner activations of the feed-forward layers, [inner width], are
multiplied by them.

The head is ours and stands outside of peft's model, so that it needs no `modules_to_save`: it
learns as ever, and is stored beside the adapter. A bundle holds these two alone, and says on which
weights they stand: by name, and by a hash.
"""

import hashlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ulmfit_app.config import ModelSettings
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.models.hub import quiet
from ulmfit_app.models.pretrained import find_start
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.transformer import (
    blocks_of,
    build_language_model,
    build_whole,
    is_of_adapter,
    load_language_model,
)
from ulmfit_app.run_folder import AGAIN, NEXT, READY, command_of_run, find_part
from ulmfit_app.text.subwords import missing_transformers

RANK, ALPHA, DROPOUT = 8, 16, 0.1  # of LoRA; the dropout is that of peft's guide
VIRTUAL_TOKENS = 16  # of a soft prompt
OWN_LM = "../lm"  # from a classifier's folder: the fine-tuned language model of the same run

# Linear layers of a block that (IA)3 works on. peft's own table lacks DistilBERT, XLM-R and
# ModernBERT, and of BERT takes attention's output too. Where a layer makes queries, keys and
# values at once, its queries are multiplied as well.
_keys_and_values = re.compile(
    r"(.*\.)?((key|value|k|v)(_lin|_proj)?|c_attn|Wqkv|qkv_proj|query_key_value)"
)
_feed_forward = re.compile(
    r"output\.dense|(.*\.)?(ffn\.lin2|mlp\.(Wo|c_proj|down_proj|dense_4h_to_h)|fc2)"
)


def with_adapter(module: nn.Module, shape: TransformerShape) -> nn.Module:
    """transformers' model without a head, with the adapter of a shape; without one, as it is.

    Args:
        module: its own weights learn no more.
        shape: of it, with the classifier's adapter.

    Raises:
        SettingError: peft is not installed, or the adapter has no place in such a model.
    """
    if shape.adapter is None:
        return module
    if importlib.util.find_spec("peft") is None:
        raise missing_transformers()
    from peft import get_peft_model

    makers = {"lora": _lora, "ia3": _ia3, "prompt": _soft_prompt}
    with quiet():
        return get_peft_model(module, makers[shape.adapter](module, shape))


def require_place(shape: TransformerShape) -> None:
    """Tell in a second what `with_adapter` would tell once the language model is fine-tuned.

    Args:
        shape: of a transformer, with the classifier's adapter.

    Raises:
        SettingError: as `with_adapter` does.
    """
    if shape.adapter is not None:
        with torch.device("meta"):
            with_adapter(build_whole(shape).base_model, shape)


def _lora(module: nn.Module, shape: TransformerShape):
    from peft import LoraConfig, TaskType

    return LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=DROPOUT,
        target_modules=_linear_layers(module, shape),
        fan_in_fan_out=_is_transposed(module),
    )


def _ia3(module: nn.Module, shape: TransformerShape):
    from peft import IA3Config, TaskType

    feed_forward = _linear_layers(module, shape, _feed_forward)
    return IA3Config(
        task_type=TaskType.FEATURE_EXTRACTION,
        target_modules=[*_linear_layers(module, shape, _keys_and_values), *feed_forward],
        feedforward_modules=feed_forward,
        fan_in_fan_out=_is_transposed(module),
    )


def _soft_prompt(module: nn.Module, shape: TransformerShape):
    from peft import PromptTuningConfig, PromptTuningInit, TaskType

    return PromptTuningConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        num_virtual_tokens=VIRTUAL_TOKENS,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        # peft finds these under the names of some architectures' configs only.
        num_layers=shape.n_blocks,
        token_dim=module.get_input_embeddings().embedding_dim,
        num_attention_heads=module.config.num_attention_heads,
    )


def _linear_layers(
    module: nn.Module, shape: TransformerShape, which: re.Pattern = re.compile(".*")
) -> list[str]:
    """Names in a model of the linear layers of its blocks whose names in a block match."""
    name, blocks = blocks_of(module)
    found = [
        f"{name}.{i}.{inner}"
        for i, block in enumerate(blocks)
        for inner, layer in block.named_modules()
        if _is_linear(layer) and which.fullmatch(inner)
    ]
    if not found:
        raise SettingError(
            f"The adapter {shape.adapter!r} finds no place in the blocks of a "
            f"{shape.model['model_type']}: they have no linear layers of the names that it looks "
            "for. Use: --classifier.adapter prompt"
        )
    return found


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"


def _is_transposed(module: nn.Module) -> bool:
    """Whether linear layers hold their weights as [n_in, n_out], as GPT-2's do."""
    return any(type(layer).__name__ == "Conv1D" for layer in module.modules())


# ----------------------------------------------------------------------------------- what it is on
def hash_base(module: nn.Module) -> str:
    """A hash of a model's own weights, with an adapter on them or without.

    It depends on no path, file format or name of a parameter.

    Args:
        module: transformers' model without a head.
    """
    digest, seen = hashlib.sha256(), set()
    for name, tensor in module.state_dict().items():
        if not is_of_adapter(name) and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).numpy())
    return digest.hexdigest()


def read_base(folder: Path, base: dict[str, str]) -> nn.Module:
    """transformers' model without a head that a classifier's adapter was trained on.

    It is looked for in the classifier's own run first, whose language model has these weights;
    then under the name of what the run started from.

    Args:
        folder: of the classifier's bundle.
        base: its name, OWN_LM or as --pretrained takes it, and its `hash_base` as sha256.

    Raises:
        BundleError: it is not there, or is another one by now.
        SettingError, data_scripts.fetch.FetchError: as `find_start` does.
    """
    run = _run_of(folder)
    found = False
    for module in _candidates(folder, base["name"]):
        if hash_base(module) == base["sha256"]:
            return module
        found = True
    where = run / "lm" if base["name"] == OWN_LM else base["name"]
    what = f"The classifier in {folder} is an adapter on the transformer {where}"
    if not found:
        raise BundleError(
            f"{what}, which is not there. Put it back, or give the command again that made the "
            f"run: {command_of_run(run)}"
        )
    again = f"python -m ulmfit_app classify {shlex.quote(str(run))}"
    raise BundleError(
        f"{what}, whose weights are not those that it was trained on: their SHA-256 is not "
        f"{base['sha256'][:12]}…. Put those back, or train the classifier again: {again}"
    )


def _candidates(folder: Path, name: str) -> Iterator[nn.Module]:
    # Results that are being made, or moved to their place, may stand on a finished language model.
    places = [folder.parent / "lm", find_part(_run_of(folder), "lm")]
    for place in dict.fromkeys(places):
        if (place / "bundle.json").is_file():
            yield load_language_model(load_bundle(place, "language model")).encoder
    if name != OWN_LM and (not Path(name).is_absolute() or Path(name).exists()):
        start = find_start(name, ModelSettings())
        model = build_language_model(start.shape)
        model.load_state_dict(start.weights)
        yield model.encoder


def _run_of(folder: Path) -> Path:
    work = folder.parent
    return work.parent if work.absolute().name in (NEXT, AGAIN, READY) else work
