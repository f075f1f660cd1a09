"""A checkpoint as the start of a run: what is read, what is new, what is refused."""

import json
import shutil

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from tests.tiny_transformers import make_checkpoint
from ulmfit_app.errors import BundleError
from ulmfit_app.models.hub import quiet
from ulmfit_app.models.pretrained import find_start
from ulmfit_app.models.transformer import build_language_model
from ulmfit_app.models.transformer_start import read_transformer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: make_checkpoint(root / kind, kind) for kind in ("bert", "gpt2")}


@pytest.fixture(scope="module")
def starts(folders):
    return {kind: read_transformer(folder, str(folder)) for kind, folder in folders.items()}


def without(folder, target, part: str):
    """A copy of a checkpoint that lacks the weights with a part in their names."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    kept = {name: value for name, value in weights.items() if part not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    return target


def test_a_head_that_the_checkpoint_lacks_is_new_the_same_each_time_and_said(
    folders, starts, tmp_path
):
    folder = without(folders["bert"], tmp_path / "bert", "cls.")
    one = find_start(str(folder), None)
    torch.manual_seed(7)
    other = find_start(str(folder), None)
    assert "whose head for masked tokens is new" in one.origin
    assert "is new" not in starts["bert"].origin and str(folders["bert"]) in starts["bert"].origin
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())
    assert one.fingerprint == other.fingerprint != starts["bert"].fingerprint


@pytest.mark.parametrize(("kind", "part"), [("bert", "layer.2."), ("gpt2", "h.1.attn")])
def test_a_checkpoint_that_lacks_a_part_of_the_body_is_refused(folders, tmp_path, kind, part):
    folder = without(folders[kind], tmp_path / kind, part)
    with pytest.raises(BundleError, match=r"incomplete: \d+ are missing, the first of them .*"):
        read_transformer(folder, str(folder))


def test_weights_that_do_not_fit_the_config_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["bert"], tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(BundleError, match="do not fit its config.json.*again"):
        read_transformer(folder, str(folder))


def test_weights_stored_in_bf16_are_read_in_fp32(folders, tmp_path):
    folder = shutil.copytree(folders["gpt2"], tmp_path / "gpt2")
    weights = load_file(folder / "model.safetensors")
    low = {name: value.bfloat16() for name, value in weights.items()}
    save_file(low, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    start = read_transformer(folder, str(folder))
    assert {value.dtype for value in start.weights.values()} == {torch.float32}
    model = build_language_model(start.shape)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_model_whose_logits_are_more_than_a_linear_layer_is_refused(tmp_path):
    """As those of Gemma 2, which are capped: the loss would be another than the model's."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    folder = make_checkpoint(tmp_path / "gemma2", "llama")
    vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=8)
    config = Gemma2Config(
        vocab_size=vocab, intermediate_size=32, num_key_value_heads=2, bos_token_id=0,
        eos_token_id=1, pad_token_id=None, final_logit_softcapping=0.1, **sizes,
    )  # fmt: skip
    with quiet():
        Gemma2ForCausalLM(config).save_pretrained(folder)
    with pytest.raises(BundleError, match="more than a linear layer.*gemma2 cannot.*minilm"):
        read_transformer(folder, str(folder))
    config.final_logit_softcapping = None
    with quiet():
        Gemma2ForCausalLM(config).save_pretrained(folder)
    assert read_transformer(folder, str(folder)).shape.kind == "causal"
