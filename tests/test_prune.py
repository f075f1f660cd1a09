"""Pruning: what is removed, what is left, and that the smaller model is a model like any other."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.conftest import made_store
from ulmfit_app.config import ModelSettings
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.models import awd_lstm, transformer
from ulmfit_app.models.architectures import read_classifier
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, seal_of
from ulmfit_app.models.heads import LAYOUTS
from ulmfit_app.models.prune import (
    build_classifier,
    find_units,
    measure_importance,
    prune_classifier,
    smaller,
)
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.store import OF_SUBWORDS

AWD = ModelSettings(emb_sz=16, n_hid=24, n_layers=3)
LABELS = ["bad", "good", "so-so"]
STORE = made_store([5, 9, 12, 30, 7, 21])


def transformer_shape(kind: str, heads: int = 4) -> TransformerShape:
    sizes = {"vocab_size": len(STORE.words), "max_position_embeddings": 40, "pad_token_id": 1}
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": heads}
    model = {**sizes, **common, "intermediate_size": 48}
    if kind == "distilbert":
        model = {**sizes, "dim": 32, "n_layers": 2, "n_heads": heads, "hidden_dim": 48}
    if kind == "electra":
        model["embedding_size"] = 16
    if kind == "modernbert":
        model |= {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    return TransformerShape({**model, "model_type": kind}, "masked", 0, [2], 3, 2, 32, 20)


def store_of(shape):
    return STORE if isinstance(shape, ModelSettings) else replace(STORE, padding=OF_SUBWORDS)


def save_classifier(folder, shape, change=lambda model: None, **described):
    """A classifier with weights so large that texts differ, changed by a function."""
    if not isinstance(shape, ModelSettings):
        pytest.importorskip("transformers")
    described = {"labels": LABELS, "tokenizer": "{}", **described}
    bundle = Bundle("classifier", shape, "en", STORE.words, **described)
    torch.manual_seed(0)
    model = build_classifier(bundle)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
        change(model)
    save_bundle(folder, model, bundle)
    return bundle


def texts_of(store):
    (x,) = next(iter(ClassifierBatches(store, range(len(store)), None, len(store))))
    return x


def probabilities(folder):
    bundle = load_bundle(folder, "classifier")
    with torch.inference_mode():
        return read_classifier(bundle)(texts_of(store_of(bundle.shape)))[0].softmax(1)


def save_pruned(folder, bundle, share, out):
    """Prune a classifier, save what is left, and give its shape."""
    store = store_of(bundle.shape)
    shape, state = prune_classifier(folder, store, range(len(store)), share)
    bundle = replace(bundle, shape=shape)
    model = build_classifier(bundle)
    model.load_state_dict(state)
    save_bundle(out, model, bundle)
    return shape


def ignored_units(shape, share):
    """A function that makes a model not read a random share of its units."""

    def change(model):
        parameters = dict(model.named_parameters())
        for units in find_units(shape, smaller(shape, share), model):
            which = torch.randperm(units.n)[: units.n - units.left]
            for name in units.read_by:
                parameters[name].unflatten(-1, (units.n, -1))[..., which, :] = 0

    return change


# --------------------------------------------------------------------------------- what is removed
@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("kind", ["awd-lstm", *LAYOUTS])
def test_units_that_nothing_reads_leave_without_a_change(tmp_path, kind, share):
    shape = AWD if kind == "awd-lstm" else transformer_shape(kind)
    bundle = save_classifier(tmp_path / "whole", shape, ignored_units(shape, share))
    pruned = save_pruned(tmp_path / "whole", bundle, share, tmp_path / "pruned")
    expected = probabilities(tmp_path / "whole")
    assert torch.allclose(probabilities(tmp_path / "pruned"), expected, atol=1e-6)
    assert torch.pdist(expected).min() > 1e-3, "else the comparison says nothing"
    assert pruned == smaller(shape, share)


@pytest.mark.parametrize("kind", ["awd-lstm", "bert"])
def test_units_that_are_read_are_missed(tmp_path, kind):
    shape = AWD if kind == "awd-lstm" else transformer_shape(kind)
    bundle = save_classifier(tmp_path / "whole", shape)
    save_pruned(tmp_path / "whole", bundle, 0.5, tmp_path / "pruned")
    moved = probabilities(tmp_path / "pruned") - probabilities(tmp_path / "whole")
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["awd-lstm", "bert"])
def test_importance_is_how_fast_the_loss_moves_as_a_unit_fades(tmp_path, kind):
    """Against finite differences, of one batch."""
    shape = AWD if kind == "awd-lstm" else transformer_shape(kind)
    save_classifier(tmp_path, shape)
    bundle = load_bundle(tmp_path, "classifier")
    model = build_classifier(bundle)
    layers = find_units(shape, smaller(shape, 0.5), model)
    x = texts_of(store_of(shape))
    batches = ClassifierBatches(store_of(shape), range(len(STORE)), None, len(STORE))
    found = measure_importance(model, layers, batches)
    label = model(x)[0].argmax(1)
    parameters = dict(model.named_parameters())

    @torch.no_grad()
    def loss_with(units, unit, gate):
        whole = {name: parameters[name].clone() for name in units.read_by}
        for name in units.read_by:
            parameters[name].unflatten(-1, (units.n, -1))[..., unit, :] *= gate
        loss = F.cross_entropy(model(x)[0], label)
        for name in units.read_by:
            parameters[name].copy_(whole[name])
        return loss

    for units, importance in zip(layers, found, strict=True):
        for unit in importance.topk(2).indices:
            moved = loss_with(units, unit, 1.01) - loss_with(units, unit, 0.99)
            assert importance[unit] == pytest.approx(abs(moved.item()) / 0.02, rel=0.02)


def test_of_many_texts_some_from_all_over_are_read(tmp_path, monkeypatch):
    save_classifier(tmp_path, AWD)
    read = []

    def record(model, layers, batches):
        read.extend(batches.texts.tolist())
        return [torch.ones(units.n) for units in layers]

    monkeypatch.setattr("ulmfit_app.models.prune.measure_importance", record)
    monkeypatch.setattr("ulmfit_app.models.prune.MEASURED", 2)
    prune_classifier(tmp_path, STORE, np.arange(1, 6), 0.5)
    assert read == [1, 4]


# ------------------------------------------------------------------------------------ what is left
@pytest.mark.parametrize("kind", ["awd-lstm", "bert", "modernbert"])
def test_what_is_left_learns(tmp_path, kind):
    shape = AWD if kind == "awd-lstm" else transformer_shape(kind)
    save_classifier(tmp_path, shape)
    store = store_of(shape)
    left, state = prune_classifier(tmp_path, store, range(len(store)), 0.5)
    if kind == "awd-lstm":
        model = awd_lstm.build_classifier(len(STORE.words), 3, left)
    else:
        model = transformer.build_classifier(left, 3, grad_tokens=100)
    model.load_state_dict(state)
    assert all(tensor.is_contiguous() for tensor in state.values())
    F.cross_entropy(model.train()(texts_of(store))[0], torch.arange(len(store)) % 3).backward()
    for units in find_units(left, smaller(left, 0.5), model):
        for name in units.made_by + units.read_by:
            assert dict(model.named_parameters())[name].grad is not None, name


def test_what_is_left_can_be_pruned_again(tmp_path):
    shape = transformer_shape("bert")
    bundle = save_classifier(tmp_path / "whole", shape)
    once = save_pruned(tmp_path / "whole", bundle, 0.5, tmp_path / "once")
    twice = save_pruned(tmp_path / "once", replace(bundle, shape=once), 0.5, tmp_path / "twice")
    assert (once.heads, once.model["intermediate_size"]) == (2, 24)
    assert (twice.heads, twice.model["intermediate_size"]) == (1, 12)
    assert twice.model["num_attention_heads"] == 4
    assert torch.isfinite(probabilities(tmp_path / "twice")).all()


def test_a_bundle_from_before_pruning_has_the_heads_of_its_config(tmp_path):
    save_classifier(tmp_path, transformer_shape("bert"))
    path = tmp_path / "bundle.json"
    description = json.loads(path.read_text())
    del description["config"]["heads"]
    path.write_text(json.dumps(description | {"sha256": seal_of(description)}))
    assert load_bundle(tmp_path, "classifier").shape == transformer_shape("bert")


# ------------------------------------------------------------------------------ what is impossible
@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan")])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(SettingError, match=r"--share must be more than 0 and less than 1, not"):
        smaller(AWD, share)


def test_something_must_be_left():
    with pytest.raises(SettingError, match="leaves no unit of an inner LSTM layer: there are 24"):
        smaller(AWD, 0.99)
    with pytest.raises(SettingError, match="leaves no attention head of a block: there are 4"):
        smaller(transformer_shape("bert"), 0.9)
    one = replace(transformer_shape("bert"), heads=1)
    with pytest.raises(SettingError, match="there is 1. Give less"):
        smaller(one, 0.6)


def test_something_must_be_removed():
    with pytest.raises(SettingError, match="--share 0.01 is too little to remove anything"):
        smaller(AWD, 0.01)


def test_a_small_share_removes_rows_where_it_is_no_whole_head():
    shape = smaller(transformer_shape("bert"), 0.1)
    assert (shape.heads, shape.model["intermediate_size"]) == (4, 43)


def test_the_last_lstm_layer_is_not_pruned():
    with pytest.raises(SettingError, match="An AWD-LSTM of one layer has no inner units"):
        smaller(replace(AWD, n_layers=1), 0.5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "deberta-v2"])
def test_heads_of_an_unknown_kind_stay(kind):
    shape = replace(transformer_shape("bert"), model={"model_type": kind})
    with pytest.raises(SettingError, match=f"attention heads of a {kind} cannot be removed.*bert"):
        smaller(shape, 0.5)


def test_an_adapters_base_is_not_pruned():
    shape = replace(transformer_shape("bert"), adapter="lora")
    with pytest.raises(SettingError, match=r"an adapter \(lora\).*without --classifier.adapter"):
        smaller(shape, 0.5)


def test_texts_must_be_of_the_classifiers_words_and_direction(tmp_path):
    save_classifier(tmp_path, AWD)
    with pytest.raises(BundleError, match="learned to read forward, but is to read backward"):
        prune_classifier(tmp_path, STORE.backward(), [0, 1], 0.5)
    with pytest.raises(BundleError, match="another vocabulary than that of the classifier"):
        prune_classifier(tmp_path, replace(STORE, words=STORE.words[::-1]), [0, 1], 0.5)
