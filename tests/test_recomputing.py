"""What the backward pass computes again instead of keeping it: the same to the bit."""

import logging
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from tests.conftest import made_store
from ulmfit_app.config import ClassifierSettings, ModelSettings, Settings
from ulmfit_app.hardware import autocast
from ulmfit_app.models.awd_lstm import build_classifier, build_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, unique_tensors
from ulmfit_app.models.recomputing import recomputed
from ulmfit_app.pipeline import budget
from ulmfit_app.settings_json import from_json, to_json
from ulmfit_app.text.rules import PAD_ID
from ulmfit_app.training import classifier, memory, processes
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.memory import keep_what_fits
from ulmfit_app.training.recipes import Phase, Plan

SHAPE, WORDS, BPTT, REACH = ModelSettings(emb_sz=12, n_hid=16, n_layers=3), 50, 10, 40
CPU = torch.device("cpu")
PLAN = Plan(
    "short",
    (Phase("head", 1, -1, 1e-2), Phase("last", 1, -2, 1e-2), Phase("all", 1, 0, 5e-3)),
    0.5,
)


def made_model(bptt=BPTT, shape=SHAPE):
    torch.manual_seed(0)
    model = build_classifier(WORDS, 2, shape, bptt).train()
    model[0].max_len = REACH
    return model


def batch(*lengths, seed=1):
    ids = torch.randint(
        9, WORDS, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed)
    )
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = PAD_ID
    return ids


# Of the first one, a step is read without a gradient; of the second, rows end at different steps.
BATCHES = {"long": (95, 90, 93), "uneven": (64, 3, 31, 10)}


def loss_of(model, ids, precision="fp32"):
    """With fastai's regularisation, which reads the outputs of all steps."""
    with autocast(precision, "cpu"):
        logits, raw, out = model(ids)
        change = (raw[:, 1:] - raw[:, :-1]).float().square().mean()
        return logits.float().square().sum() + 2 * out.float().square().mean() + change


def gradients(model):
    found = {name: each.grad for name, each in model.named_parameters()}
    model.zero_grad()
    return found


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("kept", [0, 50])
def test_gradients_and_random_numbers_are_the_same_to_the_bit(precision, lengths, kept):
    model, ids, found = made_model(), batch(*lengths), []
    for model[0].kept_tokens in (math.inf, kept):
        torch.manual_seed(5)
        loss = loss_of(model, ids, precision)
        state, place = torch.get_rng_state(), model[0].module.place()
        loss.backward()
        assert torch.equal(torch.get_rng_state(), state)
        assert model[0].module.place() == place, "as after the forward pass"
        found.append({"loss": loss.detach(), "random state": state, **gradients(model)})
    assert_equal(*found)
    assert all(each.any() for each in found[0].values())


def test_of_two_batches_at_once_each_is_computed_again_with_its_own_state_and_masks():
    model, found = made_model(), []
    for model[0].kept_tokens in (math.inf, 0):
        torch.manual_seed(5)
        losses = [loss_of(model, batch(*lengths)) for lengths in BATCHES.values()]
        sum(losses).backward()
        found.append(gradients(model))
    assert_equal(*found)


def test_a_second_backward_pass_computes_again_once_more():
    """Nothing is left of the first one, which would take memory."""
    model, calls = made_model(), []
    model[0].kept_tokens = 0
    model[0].module.register_forward_hook(lambda *_: calls.append(1))
    loss = loss_of(model, batch(60, 30))
    loss.backward(retain_graph=True)
    once = gradients(model)
    loss.backward()
    assert_equal(gradients(model), once)
    assert len(calls) == 3 * 60 / BPTT


@pytest.mark.parametrize(
    ("kept", "saves"),
    [
        (math.inf, [True, True, True, True]),
        (55, [False, True, True, True]),  # 3 * 10 + 25 behind the first step
        (54, [False, False, True, True]),
        (0, [False] * 4),
    ],
)
def test_what_is_kept_is_of_the_last_tokens(kept, saves):
    model, saved, numbers = made_model(), [], []
    model[0].kept_tokens = kept
    encoder = model[0].module
    encoder.register_forward_pre_hook(lambda *_: numbers.append(len(saved)))
    encoder.register_forward_hook(lambda *_: numbers.append(len(saved)))

    def save(tensor):
        saved.append(tensor)
        return tensor

    # Of the hooks only the innermost ones are called: what is not kept does not come here.
    with saved_tensors_hooks(save, lambda tensor: tensor):
        loss = loss_of(model, batch(20, 20, 20, 35))
    before, after = numbers[::2], numbers[1::2]
    assert [one < other for one, other in zip(before, after, strict=True)] == saves
    loss.backward()
    assert len(numbers) / 2 == 4 + saves.count(False), "each is computed again once"


def test_precision_and_what_is_read_beside_tensors_are_as_they_were():
    weight, seen, place = torch.randn(4, 4, requires_grad=True), [], ["then"]

    class BackThen:
        def __enter__(self):
            place.append("then")

        def __exit__(self, *_):
            place.pop()

    def compute():
        product = weight @ weight
        seen.append((product.dtype, place[-1], torch.is_grad_enabled()))
        return product.tanh()

    with autocast("bf16", "cpu"):
        out = recomputed(compute, CPU, BackThen)
    place.append("now")
    out.sum().backward()
    assert seen == [(torch.bfloat16, "then", True)] * 2 and place[-1] == "now"


def test_without_gradients_nothing_is_computed_again():
    model, calls = made_model(), []
    model[0].kept_tokens = 0
    model[0].module.requires_grad_(False)
    model[0].module.register_forward_hook(lambda *_: calls.append(1))
    model(batch(35, 35))[0].sum().backward()
    assert len(calls) == 4


# ----------------------------------------------------------------------------------- in a training
def trained(folder, recompute="auto", precision="fp32"):
    store = made_store([random.Random(i).randint(2, 200) for i in range(24)])
    seed_everything(3)
    model = build_language_model(len(store.words), SHAPE)
    save_bundle(folder / "lm", model, Bundle("language model", SHAPE, "en", store.words))
    lm = load_bundle(folder / "lm", "language model")
    labels = np.arange(24) % 2
    parts = (np.arange(18), labels[:18]), (np.arange(18, 24), labels[18:])
    how = ClassifierSettings(batch_size=4, recompute=recompute)
    seed_everything(3)
    learn = classifier.make_learner(store, *parts, 2, lm, PLAN, how, precision, seed=3)
    kept = learn.model[0].kept_tokens
    again = classifier.training_settings(how, "forward", "k")
    history = train(learn, PLAN.phases, folder, again).drop(columns="seconds")
    return kept, history, unique_tensors(learn.model)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_ends_with_the_same_weights_and_history(
    tmp_path, monkeypatch, caplog, precision
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    kept, history, weights = trained(tmp_path / "no", "no", precision)
    assert kept == math.inf
    others = {"yes": 4 * 72, "auto": 4 * 72}
    monkeypatch.setattr(memory, "free_memory", lambda _: 2 * 10**5)
    for recompute, expected in others.items():
        caplog.clear()
        with caplog.at_level(logging.INFO):
            found = trained(tmp_path / recompute, recompute, precision)
        assert found[0] == expected
        assert ("Memory is short: 0.0 GB are free" in caplog.text) == (recompute == "auto")
        assert found[1].equals(history)
        assert_equal(found[2], weights)


def told(free, monkeypatch, lengths=(300,) * 8, recompute="auto", reach=10_000, bptt=72):
    monkeypatch.setattr(memory, "free_memory", lambda _: free)
    model = made_model(bptt, replace(SHAPE, n_hid=64))
    model[0].max_len = reach
    torch.manual_seed(9)
    state = torch.get_rng_state()
    said = keep_what_fits(model, lengths, ClassifierSettings(recompute=recompute), "fp32", CPU)
    assert torch.equal(torch.get_rng_state(), state), "or a training would depend on the machine"
    assert model.training and model[0].max_len == reach
    return model[0].kept_tokens, said


def free_for(tokens, texts=8, steps=5, n_hid=64):
    """Memory that has room for so many tokens of a batch."""
    model = made_model(72, replace(SHAPE, n_hid=n_hid))
    per_token = memory._bytes_per_token(model[0], "fp32", CPU)
    of_outputs = memory.OF_OUTPUT * texts * steps * 72 * SHAPE.emb_sz
    of_model = memory.OF_PARAMETER * sum(each.numel() for each in model.parameters())
    return (of_model + of_outputs + tokens * per_token) / memory.SHARE


def test_as_much_is_kept_as_there_is_memory_for(monkeypatch):
    assert told(None, monkeypatch) == (math.inf, "")
    assert told(free_for(8 * 300 + 1), monkeypatch) == (math.inf, "")
    kept, said = told(free_for(8 * 200), monkeypatch)
    assert kept == pytest.approx(8 * 200)
    assert told(0, monkeypatch)[0] == 8 * 72, "a step is computed at once in any case"
    assert said.startswith("Memory is short: 0.0 GB are free, and a batch of the longest texts")
    assert "--classifier.recompute no" in said


def test_only_tokens_with_gradients_count(monkeypatch):
    """Of 300 tokens, steps begin at 216 and 288 behind those that gradients do not reach."""
    free = free_for(8 * (300 - 216) + 1, steps=2)
    assert told(free, monkeypatch, reach=72) == (math.inf, "")
    assert told(free, monkeypatch, reach=100)[0] < math.inf


def test_processes_share_the_texts_and_on_a_cpu_the_memory(monkeypatch):
    alone, _ = told(8 * 10**6, monkeypatch, recompute="yes")
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert told(8 * 10**6, monkeypatch, recompute="yes")[0] == alone / 2
    both = free_for(4 * 200, texts=4) * 2
    assert told(both, monkeypatch)[0] == pytest.approx(4 * 200)


def test_the_setting_is_left_out_of_json_at_its_default():
    assert "recompute" not in to_json(Settings())["classifier"]
    changed = Settings(classifier=ClassifierSettings(recompute="no"))
    assert from_json(to_json(changed)) == changed


@pytest.mark.parametrize("recompute", ["auto", "yes"])
def test_the_estimate_times_what_will_be_kept(monkeypatch, recompute):
    """And needs no more memory for it than the training."""
    monkeypatch.setattr(memory, "free_memory", lambda _: 0)
    calls = []

    def count(*arguments):
        calls.append(1)
        return recomputed(*arguments)

    monkeypatch.setattr("ulmfit_app.models.pooling.recomputed", count)
    how = Settings(classifier=ClassifierSettings(batch_size=4, recompute=recompute))
    assert min(budget._measure_classifier(WORDS, 200, SHAPE, how)) > 0
    assert len(calls) == 2 * 3, "of three steps all but the last, when warming up and twice after"


@pytest.mark.parametrize("shape", [SHAPE, ModelSettings(40, 96, 2)])
def test_the_bytes_per_token_are_those_of_the_written_out_lstm(shape, written_out):
    """In bf16 a layer keeps its input, four gates, outputs, and, in fp32, cells; behind the last,
    the maximum over a step reads the outputs."""
    widths = [shape.emb_sz, *[shape.n_hid] * (shape.n_layers - 1), shape.emb_sz]
    layers = zip(widths, widths[1:], strict=False)
    expected = sum(2 * n_in + (8 + 4 + 2) * n_out for n_in, n_out in layers) + 2 * shape.emb_sz
    model = made_model(72, shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
        found = memory._bytes_per_token(model[0], "bf16", CPU)
    assert expected < found < 1.2 * expected


def test_what_is_kept_once_counts_for_no_token():
    """In fp32, the weights of which some are dropped."""
    encoder = made_model(72, replace(SHAPE, n_hid=128))[0]
    few, more = (memory._bytes_kept(encoder, rows, "fp32", CPU) for rows in (16, 32))
    found = memory._bytes_per_token(encoder, "fp32", CPU)
    assert found == pytest.approx((more - few) / (16 * 72), rel=0.01)
    assert few / (16 * 72) > 1.03 * found
