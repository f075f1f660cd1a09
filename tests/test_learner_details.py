"""What the two Learners are made with: order, batch sizes, dropouts, loss, metrics, sentences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.metrics import AccumMetric, Perplexity, accuracy

from tests.conftest import made_store
from ulmfit_app.config import ClassifierSettings, LanguageModelSettings, ModelSettings
from ulmfit_app.errors import BundleError
from ulmfit_app.models.awd_lstm import build_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle
from ulmfit_app.models.pretrained import Start
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import numericalize, tokenize
from ulmfit_app.training import classifier, language_model
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import PUBLISHED

SHAPE = ModelSettings(emb_sz=12, n_hid=16, n_layers=2)
RANDOM = Start("random weights", "random", SHAPE)


@pytest.fixture
def lm(tmp_path):
    """The bundle of a language model over the made store's words."""
    words = made_store([3]).words
    save_bundle(
        tmp_path / "lm",
        build_language_model(len(words), SHAPE),
        Bundle("language model", SHAPE, "en", words),
    )
    return load_bundle(tmp_path / "lm", "language model")


def classifier_learner(lm, n=40, n_valid=10, n_classes=2, plan=PUBLISHED, **settings):
    store = made_store([5 + i % 40 for i in range(n + n_valid)])
    labels = np.arange(n + n_valid) % n_classes
    parts = [(rows, labels[rows]) for rows in (np.arange(n), np.arange(n, n + n_valid))]
    settings = ClassifierSettings(**{"batch_size": 8} | settings)
    return classifier.make_learner(store, *parts, n_classes, lm, plan, settings, "fp32", seed=1)


def lm_learner(store=None, **settings):
    store = store or made_store([30] * 20)
    settings = LanguageModelSettings(**{"batch_size": 4, "bptt": 10} | settings)
    rows = np.arange(len(store) - 4), np.arange(len(store) - 4, len(store))
    return language_model.make_learner(store, *rows, RANDOM, settings, "fp32", seed=1)


def read(batches) -> list[list[int]]:
    return [x.tolist() for x, _ in batches]


# -------------------------------------------------------------------------------------- classifier
def test_texts_are_trained_on_in_another_order_each_epoch_and_validated_in_one(lm):
    learn = classifier_learner(lm)
    orders = {}
    for name in ("train", "valid"):
        batches = getattr(learn.dls, name)
        batches.epoch = 0
        first, again = read(batches), read(batches)
        batches.epoch = 1
        assert first == again
        orders[name] = first, read(batches)
    assert orders["train"][0] != orders["train"][1]
    assert orders["valid"][0] == orders["valid"][1]


def test_few_texts_are_trained_on_in_small_batches_and_validated_in_those_asked_for(lm):
    learn = classifier_learner(lm, batch_size=32, n=600, n_valid=40)
    assert len(read(learn.dls.train)[1]) == 600 // 30
    assert len(read(learn.dls.valid)[0]) == 32


def test_a_classifier_has_the_dropouts_of_its_plan_and_an_output_per_class(lm):
    learn = classifier_learner(lm, n_classes=3, plan=replace(PUBLISHED, drop_mult=0.25))
    encoder, head = learn.model[0].module, learn.model[1]
    # A quarter of fastai's for AWD-LSTM classifiers: 0.05, 0.4, 0.3, 0.5 and 0.4 of the head.
    assert encoder.encoder_dp.embed_p == pytest.approx(0.25 * 0.05)
    assert encoder.input_dp.p == pytest.approx(0.25 * 0.4)
    assert {dropout.p for dropout in encoder.hidden_dps} == {0.25 * 0.3}
    assert {layer.weight_p for layer in encoder.rnns} == {0.25 * 0.5}
    drops = [layer.p for layer in head.modules() if isinstance(layer, torch.nn.Dropout)]
    assert drops == [pytest.approx(0.25 * 0.4), 0.1]
    assert head.layers[-1][-1].out_features == 3


def test_a_classifier_learns_from_the_cross_entropy_and_is_measured_by_its_accuracy(lm):
    learn = classifier_learner(lm)
    logits, truth = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    expected = torch.nn.functional.cross_entropy(logits, truth)
    assert learn.loss_func(logits, truth) == pytest.approx(float(expected))
    assert [metric.name for metric in learn.metrics] == ["accuracy"]
    assert learn.opt_func is FusedAdam


def test_a_classifiers_gradients_reach_back_as_far_as_its_settings_say(lm):
    assert classifier_learner(lm, grad_tokens=144).model[0].max_len == 144


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_training_has_the_settings_of_its_stage_and_names_a_direction_that_is_not_usual(
    direction,
):
    ours = dict(schedule="cosine", weight_decay=0.03, grad_clip=0.7)
    of_lm = language_model.training_settings(LanguageModelSettings(**ours), direction, "k")
    of_classifier = classifier.training_settings(
        ClassifierSettings(**ours, patience=3), direction, "k"
    )
    for made, title in ((of_lm, "Language model"), (of_classifier, "Classifier")):
        assert made.title == title + {"forward": "", "backward": ", backward"}[direction]
        assert {name: getattr(made, name) for name in ours} == ours and made.key == "k"
    assert (of_lm.select_by, of_lm.section, of_lm.patience) == ("valid_loss", "lm", None)
    found = of_classifier.select_by, of_classifier.section, of_classifier.patience
    assert found == ("accuracy", "classifier", 3)


@pytest.mark.parametrize(
    ("of_model", "of_texts"), [("forward", "backward"), ("backward", "forward")]
)
def test_the_direction_that_a_language_model_learned_is_told_from_that_of_the_texts(
    lm, of_model, of_texts
):
    store, rows = made_store([5, 9, 12]), (np.arange(3), np.arange(3) % 2)
    store = store if of_texts == "forward" else store.backward()
    expected = f"The language model learned to read {of_model}, but is to read {of_texts} here"
    with pytest.raises(BundleError, match=expected):
        classifier.make_learner(
            store,
            *(rows, rows, 2, replace(lm, direction=of_model), PUBLISHED),
            *(ClassifierSettings(), "fp32", 1),
        )


# ---------------------------------------------------------------------------------- language model
def test_an_epoch_of_a_language_model_reads_as_many_tokens_as_asked_for():
    store, rows = made_store([30] * 20), (np.arange(16), np.arange(16, 20))
    settings = LanguageModelSettings(batch_size=4, bptt=10)
    whole, half = (
        language_model.make_learner(store, *rows, RANDOM, settings, "fp32", 1, tokens_per_epoch=n)
        for n in (None, 200)
    )
    assert (whole.dls.train.parts, half.dls.train.parts, half.dls.valid.parts) == (1, 2, 1)


def test_a_language_model_reads_texts_in_another_order_each_epoch_and_is_validated_in_one():
    learn = lm_learner()
    orders = {}
    for name in ("train", "valid"):
        batches = getattr(learn.dls, name)
        batches.epoch = 0
        first = read(batches)
        batches.epoch = 1
        orders[name] = first, read(batches)
    assert orders["train"][0] != orders["train"][1]
    assert orders["valid"][0] == orders["valid"][1]
    assert {len(x[0]) for x in orders["train"][0][:-1]} == {10}


def test_a_language_model_is_measured_by_its_accuracy_and_its_perplexity():
    learn = lm_learner()
    first, second = learn.metrics
    assert first.func is accuracy if isinstance(first, AccumMetric) else first.name == "accuracy"
    assert isinstance(second, Perplexity) and learn.opt_func is FusedAdam


def test_a_language_models_dropouts_are_fastais_times_what_is_asked_for():
    encoder = lm_learner(drop_mult=0.5).model[0]
    # fastai's for AWD-LSTM language models: 0.02, 0.25, 0.15 and 0.2.
    assert encoder.encoder_dp.embed_p == pytest.approx(0.5 * 0.02)
    assert encoder.input_dp.p == pytest.approx(0.5 * 0.25)
    assert {dropout.p for dropout in encoder.hidden_dps} == {0.5 * 0.15}
    assert {layer.weight_p for layer in encoder.rnns} == {0.5 * 0.2}


def test_the_sampled_softmax_draws_words_as_often_as_the_training_texts_have_them():
    store = made_store([30] * 20)
    store.ids[: 30 * 16] = np.resize([20, 21, 21, 21], 30 * 16)
    sampler = lm_learner(store, softmax="sampled").model[1].sampler
    assert sampler is not None and lm_learner(store, softmax="exact").model[1].sampler is None
    counts = store.counts(np.arange(16))
    assert (counts[20], counts[21], counts.sum()) == (120, 360, 480)


def test_how_far_a_start_covers_the_texts_is_counted_in_words_and_in_running_words():
    words = ["xxunk", "xxpad", "old", "new", "rare", "unused", "new but unused"]
    ids = np.repeat([0, 2, 3, 4, 6], [10, 60, 25, 5, 30]).astype(np.int32)
    store = TokenStore(ids, np.array([0, 50, 100, 130]), words)
    start = replace(RANDOM, vocab=["xxunk", "xxpad", "old", "unused"])
    sentence = language_model.describe_overlap(start, store, np.array([0, 1]))
    assert sentence.startswith("The texts use 4 words of the vocabulary, 2 of them new")
    assert "(30.0% of the running words)" in sentence
    assert sentence.endswith("of the running words 10.0% are not in the vocabulary.")


def test_tokens_without_a_vocabulary_are_refused_before_their_first_word_counts_as_unknown():
    texts = ["a good film", "a bad one"]
    start = replace(RANDOM, vocab=[*SPECIALS, "a", "film"])
    tokens, first = tokenize(texts), np.arange(2)
    with pytest.raises(ValueError, match="word 0 is xxunk, found .* xxbos. Number them first"):
        language_model.describe_overlap(start, TokenStore.open(tokens), first)
    numbered = TokenStore.open(numericalize(tokens, [*SPECIALS, "a", "film", "good"]))
    found = language_model.describe_overlap(start, numbered, first)
    # xxbos twice, a twice, film, good; bad and one are unknown.
    assert "5 words of the vocabulary, 1 of them new to the start (12.5%" in found
    assert "of the running words 25.0% are not in the vocabulary" in found


def test_a_start_that_reads_the_other_way_is_named():
    with pytest.raises(BundleError, match="^The start, random weights, learned to read backward"):
        language_model.make_learner(
            made_store([30] * 8),
            np.arange(6),
            np.arange(6, 8),
            replace(RANDOM, direction="backward"),
            LanguageModelSettings(batch_size=4, bptt=10),
            "fp32",
            seed=1,
        )
