from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.text.data import TensorText, pad_chunk
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.text.models.core import get_text_classifier, masked_concat_pool

from tests.conftest import made_store
from ulmfit_app.config import ClassifierSettings, ModelSettings
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.hardware import autocast
from ulmfit_app.models.awd_lstm import (
    build_classifier,
    build_language_model,
    classifier_config,
    load_language_model,
)
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle
from ulmfit_app.presets import TINY
from ulmfit_app.text.rules import PAD_ID
from ulmfit_app.training import classifier
from ulmfit_app.training.choosing import choose_plan
from ulmfit_app.training.loop import _freeze, prepare
from ulmfit_app.training.precision import MixedPrecision
from ulmfit_app.training.recipes import PUBLISHED, count_epochs, make_plan

SHAPE = ModelSettings(emb_sz=16, n_hid=24, n_layers=2)
WORDS = 60


@pytest.fixture
def pair():
    """Plain fastai's classifier and ours, of the same weights, so large that differences show."""
    torch.manual_seed(0)
    config = classifier_config(SHAPE)
    del config["draws_at_reset"]
    plain = get_text_classifier(AWD_LSTM, WORDS, 2, config=config).eval()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    ours = build_classifier(WORDS, 2, SHAPE).eval()
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def texts(*lengths):
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(9, WORDS, (length,), generator=rng) for length in lengths]


def padded(batch, pad=PAD_ID):
    return torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=pad)


def probabilities(model, x):
    with torch.no_grad():
        return model(x)[0].softmax(1)


def test_a_single_text_gets_fastais_probabilities(pair):
    plain, ours = pair
    for text in texts(1, 71, 72, 73, 300):
        assert torch.allclose(
            probabilities(ours, text[None]), probabilities(plain, text[None]), atol=1e-6
        )


def test_a_texts_probabilities_do_not_depend_on_its_batch(pair):
    _, ours = pair
    batch = texts(5, 300, 72, 71, 150, 1)
    together = probabilities(ours, padded(batch))
    alone = torch.cat([probabilities(ours, text[None]) for text in batch])
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(("dtype", "fewest"), [(torch.bfloat16, 2), (torch.float32, 1)])
def test_in_low_precision_no_product_has_one_row(pair, dtype, fewest):
    """A product of one row is summed in another order than that of several."""
    ours = pair[1]
    ours.eval()
    encoder, rows = ours[0].module.to(dtype), []
    encoder.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    alone = torch.randint(9, 60, (1, 50_000))
    others = torch.randint(9, 60, (2, 50_000))
    others[1, 20:] = PAD_ID
    with torch.inference_mode():
        assert ours(alone)[0].shape[0] == 1 and ours(others)[0].shape[0] == 2
    assert min(rows) == fewest


def test_plain_fastais_probabilities_depend_on_the_batch(pair):
    """What ours does not: fastai's own padding, texts in the order they come (fastai#3379)."""
    plain, _ = pair
    batch = texts(5, 300, 72, 71, 150, 1)
    rows = torch.stack(
        [pad_chunk(TensorText(text), seq_len=72, pad_len=300) for text in batch]
    ).as_subclass(torch.Tensor)
    together = probabilities(plain, rows)
    alone = torch.cat([probabilities(plain, text[None]) for text in batch])
    assert (together - alone).abs().max() > 0.01


def test_every_token_of_a_long_text_is_pooled(pair):
    plain, ours = pair
    (text,) = texts(2_000)
    with torch.no_grad():
        ours[0].reset()
        out = ours[0].module(text[None])
        expected = torch.cat([out[:, -1], out.amax(1), out.mean(1)], 1)
        assert torch.allclose(ours[0](text[None])[0], expected, atol=1e-5)
        fastais = masked_concat_pool(*plain[0](text[None]), 72)
    # fastai keeps the last 1,440 tokens: its mean is another one.
    assert not torch.allclose(fastais, expected, atol=1e-3)


def test_gradients_reach_back_over_the_last_tokens_only(pair):
    _, ours = pair
    ours.train()
    ours[0].max_len = 72
    x = torch.cat([torch.full((144,), 10), torch.full((72,), 11)])[None].repeat(2, 1)
    ours(x)[0].sum().backward()
    gradient = ours[0].module.encoder.weight.grad.abs().sum(1)
    assert gradient[11] > 0
    assert gradient[10] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_texts_whose_first_tokens_have_no_gradient_teach_all_weights(pair, precision):
    """The recurrent weights' mask is drawn before those that have one."""
    ours = pair[1].train()
    ours[0].max_len = 72
    with autocast(precision, "cpu"):
        loss = ours(padded(texts(300, 300)))[0].float().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
    assert all(layer.weight_hh_l0_raw.grad.any() for layer in ours[0].module.rnns)


def test_in_training_the_regularised_outputs_are_zero_at_padding(pair):
    _, ours = pair
    ours.train()
    ours[0].max_len = 1_000
    outputs = ours(padded(texts(3, 100)))[1]
    assert outputs.shape == (2, 100, SHAPE.emb_sz)
    assert (outputs[0, :100] != 0).any()  # rows come by falling length
    assert (outputs[1, 3:] == 0).all()


def saved_language_model(folder, vocab, shape=SHAPE):
    model = build_language_model(len(vocab), shape)
    save_bundle(folder, model, Bundle("language model", shape, "en", vocab))
    return load_bundle(folder, "language model")


def make_learner(lm, store, plan=PUBLISHED):
    rows, labels = np.arange(len(store)), np.arange(len(store)) % 2
    settings = ClassifierSettings(batch_size=4)
    return classifier.make_learner(
        store, (rows, labels), (rows, labels), 2, lm, plan, settings, "fp32", seed=1
    )


def test_the_classifiers_encoder_is_the_language_models(tmp_path):
    store = made_store([5, 9, 12, 30])
    lm = saved_language_model(tmp_path, store.words)
    source = load_language_model(lm)
    learn = make_learner(lm, store)
    for name, value in source[0].state_dict().items():
        assert torch.equal(learn.model[0].module.state_dict()[name], value), name


def test_a_classifiers_weight_mask_holds_for_a_batch_of_texts_and_a_language_models_for_a_step(
    tmp_path,
):
    """Merity et al. 2017, section 2: one mask for the whole forward and backward pass."""
    store = made_store([5, 9, 12, 30])
    lm = saved_language_model(tmp_path, store.words)
    encoder = make_learner(lm, store).model[0].module
    assert [layer.draws_at_reset for layer in encoder.rnns] == [True, True]
    encoder = load_language_model(lm)[0]
    assert [layer.draws_at_reset for layer in encoder.rnns] == [False, False]


def test_a_classifier_without_dropout_learns_and_is_loaded_again(tmp_path):
    """fastai's head has other names of weights at a dropout of 0."""
    store = made_store([5, 9, 12, 30])
    learn = make_learner(
        saved_language_model(tmp_path, store.words), store, replace(PUBLISHED, drop_mult=0.0)
    )
    encoder, x = learn.model[0].train(), padded(texts(5, 30))
    assert torch.equal(encoder(x)[0], encoder(x)[0]), "the encoder drops nothing"
    build_classifier(len(store.words), 2, SHAPE).load_state_dict(learn.model.state_dict())


def test_an_encoder_with_another_vocabulary_of_equal_size_is_refused(tmp_path):
    store = made_store([5, 9, 12, 30])
    lm = saved_language_model(tmp_path, [*store.words[:-2], store.words[-1], store.words[-2]])
    with pytest.raises(BundleError, match="another vocabulary"):
        make_learner(lm, store)


def test_unfreezing_adds_one_group_per_phase(tmp_path):
    store = made_store([5, 9, 12, 30])
    learn = make_learner(saved_language_model(tmp_path, store.words), store)
    learn.create_opt()
    learning = []
    for phase in PUBLISHED.phases:
        learn.freeze_to(phase.freeze_to)
        learning.append([any(p.requires_grad for p in group) for group in learn.opt.param_lists])
    # embedding, two LSTM layers, head
    assert learning == [
        [False, False, False, True],
        [False, False, True, True],
        [False, True, True, True],
        [True, True, True, True],
    ]


def test_chain_thaw_lets_the_head_learn_then_each_lower_group_alone_then_all(tmp_path):
    store = made_store([5, 9, 12, 30])
    learn = make_learner(
        saved_language_model(tmp_path, store.words, replace(SHAPE, n_layers=3)), store
    )
    learn.create_opt()
    learning = []
    for phase in make_plan("chain-thaw", len(learn.opt.param_lists)).phases:
        _freeze(learn, phase)
        learning.append(
            [
                i
                for i, group in enumerate(learn.opt.param_lists)
                if any(p.requires_grad for p in group)
            ]
        )
    assert learning == [[4], [0], [1], [2], [3], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("name", ["gradual", "chain-thaw"])
@pytest.mark.parametrize(
    ("shape", "n_groups"),
    [(replace(SHAPE, n_layers=1), 3), (TINY.model, 4), (replace(SHAPE, n_layers=3), 5)],
    ids=["one layer", "the preset tiny", "three layers"],
)
def test_a_plan_freezes_the_groups_that_the_model_has(tmp_path, shape, n_groups, name):
    store = made_store([5, 9, 12, 30])
    learn = make_learner(saved_language_model(tmp_path, store.words, shape), store)
    learn.create_opt()
    groups = learn.opt.param_lists
    assert len(groups) == n_groups == shape.n_layers + 2
    phases = make_plan(name, n_groups).phases
    for phase in phases:
        _freeze(learn, phase)
        # The batch normalisation of the head always learns, as fastai has it.
        found = [i for i, group in enumerate(groups) if all(p.requires_grad for p in group)]
        assert found == phase.learning(n_groups), phase.name
    freezing = [phase for phase in phases if len(phase.learning(n_groups)) < n_groups]
    assert len(freezing) == (n_groups - 1 if name == "gradual" else n_groups)


def test_epochs_that_were_asked_for_are_the_plans_and_fewer_than_its_phases_are_refused():
    for passes, name in ((None, "published"), (2, "full-discr"), (100, "full-discr")):
        plan, reason = choose_plan(ClassifierSettings(epochs=9), 5, True, passes)
        assert (plan.name, count_epochs(plan)) == (name, 9) and "9 epochs were asked for" in reason
    with pytest.raises(
        SettingError, match="--classifier.epochs 2: The plan 'published' has 4 phases"
    ):
        choose_plan(ClassifierSettings(epochs=2), 5, True)


@pytest.mark.parametrize("backward", ["model", "texts"])
def test_texts_in_the_other_direction_than_the_encoder_reads_are_refused(tmp_path, backward):
    store = made_store([5, 9, 12, 30])
    bundle = saved_language_model(tmp_path, store.words)
    if backward == "model":
        bundle = replace(bundle, direction="backward")
    with pytest.raises(
        BundleError, match=r"The language model learned to read (forward|backward), but is to read"
    ):
        make_learner(bundle, store.backward() if backward == "texts" else store)


def test_the_plan_follows_the_strength_of_the_start():
    assert choose_plan(ClassifierSettings(), 5, True)[0].name == "published"
    assert choose_plan(ClassifierSettings(), 5, False)[0].name == "weak-start"
    assert choose_plan(ClassifierSettings(plan="published"), 5, False)[0].name == "published"


@pytest.mark.parametrize(
    ("passes", "name", "epochs"),
    [(None, "published", 5), (1.8, "brief", 1), (1e3, "full-discr", 10)],
)
def test_where_time_is_bounded_a_strong_start_learns_in_all_groups_at_once_for_all_of_it(
    passes, name, epochs
):
    plan, reason = choose_plan(ClassifierSettings(), 5, True, passes=passes, n_texts=5_000)
    assert (plan.name, count_epochs(plan)) == (name, epochs)
    assert (
        passes is None
        or f"{passes:.1f} passes over the labels: '{name}', epochs: {epochs}." in reason
    )


def test_the_plan_of_few_labels_is_longer_and_says_so():
    plan, reason = choose_plan(ClassifierSettings(), 5, True, passes=None, n_texts=100)
    assert (plan.name, count_epochs(plan)) == (
        "published",
        13,
    ) and "each is read 13 times" in reason
    assert choose_plan(ClassifierSettings(plan="published"), 5, True, n_texts=100)[0] == PUBLISHED


def test_mixed_precision_is_fastais_callback_on_a_gpu_and_works_on_a_cpu_too(
    tmp_path, monkeypatch
):
    """The CUDA branch with a mock: no GPU is needed to see which callback is added."""
    store = made_store([5, 9, 12, 30])
    learn = make_learner(saved_language_model(tmp_path, store.words), store)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    callback = prepare(learn, "auto").mixed_precision
    assert isinstance(callback, MixedPrecision)
    assert callback.amp_mode.value == "bf16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    learn = prepare(make_learner(load_bundle(tmp_path, "language model"), store), "auto")
    seen = []
    learn.model[1].layers.register_forward_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    with learn.no_logging(), learn.no_bar():
        learn.fit(1)
    assert seen
    assert all(seen), "in training and in validation"


def test_rates_decay_and_dropouts_of_a_plan_can_be_changed():
    changed = ClassifierSettings(plan="published", lr_mult=0.5, decay=1.5, drop_mult=0.0)
    plan, reason = choose_plan(changed, 5, True)
    assert [phase.lr for phase in plan.phases] == [phase.lr / 2 for phase in PUBLISHED.phases]
    assert {phase.decay for phase in plan.phases} == {1.5} and plan.drop_mult == 0
    assert reason.endswith(
        "Asked for: its rates times 0.5, a decay of 1.5 from a group to the one below, dropouts "
        "times 0."
    )
    own = ClassifierSettings(plan="published", decay=None, drop_mult=None)
    assert choose_plan(own, 5, True) == (PUBLISHED, "The plan 'published' was asked for.")
    of_transformer, _ = choose_plan(changed, 6, True, architecture="transformer")
    theirs, _ = choose_plan(own, 6, True, architecture="transformer")
    assert of_transformer.phases[-1].lr == theirs.phases[-1].lr / 2
