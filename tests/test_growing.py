"""A trained model with more words and more labels than it had."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fastai.text.learner import match_embeds

from ulmfit_app.config import ModelSettings
from ulmfit_app.models import awd_lstm
from ulmfit_app.models.bundle import Bundle, load_bundle, load_weights, save_bundle
from ulmfit_app.models.growing import find_new, grow_classifier, grow_vocab
from ulmfit_app.models.prune import build_classifier
from ulmfit_app.text.rules import FAKE, SPECIALS
from ulmfit_app.text.store import TokenStore

SHAPE = ModelSettings(6, 8, 2)
WORDS = [*SPECIALS, "good", "bad", "film", *[FAKE] * 4]
MORE = [*SPECIALS, "good", "bad", "film", "plot", *[FAKE] * 3]
LABELS = ["neg", "pos"]


def store_of(*texts):
    words = list(dict.fromkeys(word for text in texts for word in text.split()))
    ids = [np.array([words.index(word) for word in text.split()], np.int32) for text in texts]
    return TokenStore(np.concatenate(ids), np.cumsum([0, *map(len, ids)]), words)


# ------------------------------------------------------------------------------------------- words
def test_known_words_keep_their_ids_and_new_ones_stand_behind_them():
    store = store_of("film plot plot arc good", "plot arc good good good", "unread unread unread")
    grown = grow_vocab(WORDS, store, [0, 1], min_freq=2, most=10)
    n = len(WORDS) - 4
    assert grown[:n] == WORDS[:n] and grown[n : n + 2] == ["plot", "arc"]
    assert set(grown[n + 2 :]) == {FAKE} and len(grown) % 8 == 0


def test_no_more_words_are_new_than_may_be_and_the_most_frequent_ones_are():
    store = store_of("arc plot plot arc plot")
    assert "arc" not in grow_vocab(WORDS, store, [0], min_freq=1, most=1)
    assert "plot" in grow_vocab(WORDS, store, [0], min_freq=1, most=1)


def test_without_a_new_word_the_vocabulary_stays_as_it_is():
    assert grow_vocab(WORDS, store_of("good film rare"), [0], min_freq=2, most=10) == WORDS


# -------------------------------------------------------------------------------------- classifier
@pytest.fixture
def models(tmp_path):
    """A language model, the same with more words and one moved weight, and a classifier."""
    torch.manual_seed(0)
    before = awd_lstm.build_language_model(len(WORDS), SHAPE)
    save_bundle(tmp_path / "before", before, Bundle("language model", SHAPE, "en", WORDS))
    weights = match_embeds(dict(before.state_dict()), WORDS, MORE)
    after = awd_lstm.build_language_model(len(MORE), SHAPE)
    after.load_state_dict(weights)
    with torch.no_grad():
        after[0].rnns[0].weight_hh_l0_raw += 0.5
        after[0].encoder.weight[MORE.index("plot")] += 2.0
        after[0].encoder.weight[MORE.index("good")] += 3.0
    save_bundle(tmp_path / "after", after, Bundle("language model", SHAPE, "en", MORE))
    model = awd_lstm.build_classifier(len(WORDS), 2, SHAPE)
    save_bundle(tmp_path / "own", model, Bundle("classifier", SHAPE, "en", WORDS, LABELS))
    return tmp_path


def grown(models, labels=LABELS, share=1.0, after="after"):
    bundles = (load_bundle(models / name, "language model") for name in ("before", after))
    return grow_classifier(models / "own", labels, *bundles, share)


def weights_of(models):
    bundle = load_bundle(models / "own", "classifier")
    model = build_classifier(bundle)
    load_weights(bundle, model)
    return model.state_dict()


def test_a_language_model_that_learned_nothing_changes_nothing(models):
    found, own = grown(models, after="before"), weights_of(models)
    assert found.fresh == {} and found.shape == SHAPE
    assert all(torch.equal(found.weights[name], own[name]) for name in own)


def test_what_the_language_model_learned_is_added_to_the_encoder(models):
    own = weights_of(models)
    for share in (0.0, 0.5, 1.0):
        found = grown(models, share=share).weights
        moved = found["0.module.rnns.0.weight_hh_l0_raw"] - own["0.module.rnns.0.weight_hh_l0_raw"]
        torch.testing.assert_close(moved, torch.full_like(moved, 0.5 * share))
        embedded, known = (each["0.module.encoder.weight"] for each in (found, own))
        torch.testing.assert_close(
            embedded[MORE.index("good")], known[WORDS.index("good")] + 3 * share
        )
        torch.testing.assert_close(embedded[MORE.index("bad")], known[WORDS.index("bad")])
        assert torch.equal(found["1.layers.0.2.weight"], own["1.layers.0.2.weight"])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_new_word_begins_as_the_mean_and_what_the_language_model_made_of_it(models, share):
    found, own = grown(models, share=share), weights_of(models)["0.module.encoder.weight"]
    for name in ("0.module.encoder.weight", "0.module.encoder_dp.emb.weight"):
        torch.testing.assert_close(found.weights[name][MORE.index("plot")], own.mean(0) + 2)
        assert found.fresh[name].tolist() == [word == "plot" for word in MORE]


def test_a_new_label_begins_as_the_mean_of_the_others_which_keep_their_outputs(models):
    labels = ["mixed", "neg", "pos"]
    found, own = grown(models, labels), weights_of(models)
    name = "1.layers.1.2.weight"
    assert torch.equal(found.weights[name][1:], own[name])
    torch.testing.assert_close(found.weights[name][0], own[name].mean(0))
    assert found.fresh[name].tolist() == [True, False, False]
    model = build_classifier(
        replace(load_bundle(models / "own", "classifier"), vocab=MORE, labels=labels)
    )
    model.load_state_dict(found.weights)
    ids = torch.tensor([[2, 9, 10, 11]])
    same = build_classifier(replace(load_bundle(models / "own", "classifier"), vocab=MORE))
    same.load_state_dict(grown(models).weights)
    torch.testing.assert_close(model(ids)[0][:, 1:], same(ids)[0])


def test_a_pruned_classifier_gets_no_more_of_the_language_model_than_fits(models):
    shape = replace(SHAPE, n_hid=4)
    small = awd_lstm.build_classifier(len(WORDS), 2, shape)
    save_bundle(models / "own", small, Bundle("classifier", shape, "en", WORDS, LABELS))
    found, own = grown(models), weights_of(models)
    name = "0.module.rnns.0.weight_hh_l0_raw"
    assert found.shape == shape and torch.equal(found.weights[name], own[name])
    assert len(found.weights["0.module.encoder.weight"]) == len(MORE)


def test_new_words_are_those_that_a_vocabulary_lacks():
    assert [MORE[i] for i in find_new(MORE, WORDS).nonzero()] == ["plot"]
