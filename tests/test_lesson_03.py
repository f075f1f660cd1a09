"""Notebook 03: it measures what the package computes, fastai's trap is real, checks are right."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.text.learner import language_model_learner
from fastai.text.models.awdlstm import AWD_LSTM

from tests.conftest import says
from ulmfit_app.config import ModelSettings
from ulmfit_app.course import PRESETS, directions, lesson_02, lesson_03
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.inference.generation import NEVER_WRITTEN, generate
from ulmfit_app.inference.language_model import TrainedModel, load
from ulmfit_app.inference.perplexity import measure_perplexity
from ulmfit_app.models.awd_lstm import build_language_model, load_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle
from ulmfit_app.models.pretrained import find_start, locate
from ulmfit_app.sampling_settings import SamplingSettings
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.detokenizer import detokenize
from ulmfit_app.text.rules import BOS, SPECIALS
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer

from .conftest import reviews

SHAPE = ModelSettings(emb_sz=12, n_hid=20, n_layers=2)
TEXTS = reviews(40)["review"].tolist()
VOCAB = [
    *SPECIALS,
    *sorted({token for text in TEXTS for token in Tokenizer()(text)} - set(SPECIALS)),
]


@pytest.fixture
def trained(tmp_path) -> TrainedModel:
    """A forward model of random weights, large enough for words to differ."""
    torch.manual_seed(0)
    model = build_language_model(len(VOCAB), SHAPE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    save_bundle(tmp_path, model, Bundle("language model", SHAPE, "en", VOCAB))
    return load(tmp_path, "fp32")


# --------------------------------------------------------------------------------- what it expects
def test_the_probabilities_of_all_next_words_are_one_together(trained):
    expected = lesson_03.predict_next_word(trained, "the plot of")
    assert expected.sum() == pytest.approx(1, abs=1e-5)
    assert set(expected.index) == set(VOCAB)
    assert expected.is_monotonic_decreasing


def test_the_likeliest_next_word_is_written_where_nothing_is_left_to_chance(trained):
    likeliest = next(
        word
        for word in lesson_03.predict_next_word(trained, "the plot of").index
        if word not in NEVER_WRITTEN
    )
    (written,) = generate(trained, "the plot of", SamplingSettings(words=1, temperature=0))
    assert written == detokenize([likeliest], "en", start="the plot of")


def test_a_text_has_by_hand_the_perplexity_that_the_package_computes(trained):
    text = "The plot of the film."
    steps = lesson_03.read_word_by_word(trained, text)
    assert steps["token"].tolist() == Tokenizer()(text)[1:]
    assert np.exp(steps["nats"].mean()) == pytest.approx(
        lesson_02.measure_with_vocabulary(trained, [text], VOCAB), rel=1e-4
    )


def test_what_is_expected_at_a_step_is_the_likeliest_word_behind_those_before(trained):
    steps = lesson_03.read_word_by_word(trained, "a plot of the film")
    for n, before in enumerate(["", "a", "a plot", "a plot of"]):
        expected = lesson_03.predict_next_word(trained, before)
        assert steps["likeliest"][n] == expected.index[0]
        assert steps["probability"][n] == pytest.approx(expected[steps["token"][n]], rel=1e-4)


def test_small_probabilities_are_told_and_no_row_has_an_exponent():
    steps = pd.DataFrame({"probability": [0.25, 9.4e-8, 0.0001], "nats": [1.38629, 16.18, 9.21]})
    told = lesson_03.write_steps(steps)
    assert told["probability"].tolist() == ["0.2500", "below 0.0001", "0.0001"]
    assert told["nats"].tolist() == [1.3863, 16.18, 9.21]
    assert steps["probability"][0] == 0.25


def test_what_a_model_writes_is_in_one_line_with_its_own_perplexity(trained):
    draws = [
        SamplingSettings(words=9, temperature=t, top_p=p, seed=3) for t, p in ((0, 1), (2, 0.9))
    ]
    table = lesson_03.write(trained, "the plot", draws)
    assert table["temperature"].tolist() == [0, 2] and table["top-p"].tolist() == [1, 0.9]
    for draw, row in zip(draws, table.itertuples(), strict=True):
        assert row.text.split() == generate(trained, "the plot", draw)[0].split()
        assert "\n" not in row.text
        own = lesson_02.measure_with_vocabulary(trained, [row.text], VOCAB)
        assert row.perplexity == pytest.approx(own, abs=0.06)


def test_with_all_tokens_before_it_a_word_is_as_likely_as_in_its_text(trained):
    texts = ["the plot of a scene", "a dull story with music"]
    last = [lesson_03.read_word_by_word(trained, text)["nats"].iloc[-1] for text in texts]
    table = lesson_03.limit_memory(trained, texts, lengths=(1, 5))
    assert table.loc[5, "as they stand"] == pytest.approx(np.exp(np.mean(last)), rel=1e-4)


def test_one_token_has_no_order_and_several_have(trained):
    table = lesson_03.limit_memory(trained, TEXTS, lengths=(1, 4), n=50)
    assert table.loc[1, "shuffled"] == pytest.approx(table.loc[1, "as they stand"])
    assert table.loc[4, "shuffled"] != pytest.approx(table.loc[4, "as they stand"])


def test_a_memory_longer_than_every_text_is_refused(trained):
    with pytest.raises(ValueError, match="more than 50 tokens"):
        lesson_03.limit_memory(trained, ["a short text"], lengths=(50,))


# ---------------------------------------------------------------------------------- what it learns
@pytest.fixture(scope="module")
def trials() -> lesson_03.StartTrials:
    settings = PRESETS["tiny"]
    return lesson_03.StartTrials(load_corpus(settings.data, settings.seed), settings)


def test_a_start_is_measured_as_it_is_and_after_each_epoch(trials):
    before, after = (trials.finetune(trials.random, epochs) for epochs in (0, 2))
    assert len(before.perplexities) == 1 and len(after.perplexities) == 3
    assert after.perplexities[0] == before.perplexities[0] > after.perplexities[-1]


def test_the_model_that_comes_back_is_the_one_that_was_measured(trials):
    tuned = trials.finetune(trials.random, epochs=1)
    batches = LanguageModelBatches(trials.store, trials.valid, directions.ROWS, directions.BPTT)
    # bf16, where a machine has it, and other batches.
    assert measure_perplexity(tuned.model.model, batches).perplexity == pytest.approx(
        tuned.perplexities[-1], rel=0.03
    )


def test_what_reviews_add_is_asked_of_a_model_that_has_not_read_any():
    settings = PRESETS["laptop"]
    few = replace(settings.data, max_train=40, max_valid=10, max_test=10)
    trials = lesson_03.StartTrials(load_corpus(few, settings.seed), settings)
    start = find_start("en-small", settings.model)
    assert settings.lm.pretrained == "en-reviews-small"
    assert trials.start.fingerprint == start.fingerprint


def test_random_weights_have_the_shape_and_the_words_of_the_start(trials):
    assert trials.random.shape == trials.start.shape and not trials.random.is_pretrained
    assert trials.finetune(trials.random, epochs=0).model.bundle.vocab == trials.store.words


# ------------------------------------------------------------------------------ in which direction
def test_texts_are_scored_in_both_directions_whatever_the_model_learned(trained):
    store = TokenStore(*_ids_of(TEXTS), VOCAB)
    table = directions.compare_directions({"ours": trained}, TEXTS)
    for way, read in (("texts read forward", store), ("texts read backward", store.backward())):
        batches = LanguageModelBatches(read, range(len(read)), directions.ROWS, directions.BPTT)
        assert table.loc["ours", way] == pytest.approx(
            measure_perplexity(trained.model, batches).perplexity
        )


def _ids_of(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    tokens = [[VOCAB.index(token) for token in Tokenizer()(text)] for text in texts]
    return np.array(sum(tokens, []), np.int32), np.cumsum([0, *map(len, tokens)])


def test_plain_fastai_takes_backward_weights_and_leaves_the_texts_forward():
    dls = directions.make_fastai_loaders(TEXTS, VOCAB)
    with directions.supply_weights() as config:
        learners = [
            language_model_learner(dls, AWD_LSTM, config=config, backwards=flag)
            for flag in (False, True)
        ]
    for learn, name in zip(learners, ("en-small", "en-small-bwd"), strict=True):
        ours = load_language_model(load_bundle(locate(name), "language model"))
        torch.testing.assert_close(
            learn.model[0].rnns[0].weight_hh_l0_raw, ours[0].rnns[0].weight_hh_l0_raw
        )
    texts = TEXTS[len(TEXTS) // 2 :][:2]
    first = " ".join([token for text in texts for token in Tokenizer()(text)][:14])
    seen = [directions.describe_reading(learn) for learn in learners]
    assert [one["reads"] for one in seen] == [first, first]
    assert all(one["perplexity"] > 1 for one in seen)


def test_plain_fastai_turns_texts_where_its_data_is_told_to():
    dls = directions.make_fastai_loaders(TEXTS, VOCAB, backwards=True)
    x, _ = dls.valid.one_batch()
    assert [dls.vocab[i] for i in x[0, :5]] == Tokenizer()(TEXTS[len(TEXTS) // 2])[::-1][:5]


# ----------------------------------------------------------------------------------- the exercises
def test_a_perplexity_is_told_from_a_loss_and_from_other_means():
    p = np.array([0.5, 0.1, 0.02, 0.3])
    nats = -np.log(p).mean()
    assert lesson_03.check_perplexity(np.exp(nats), p).right
    assert lesson_03.check_perplexity(round(np.exp(nats), 2), p).right
    assert "the loss" in says(lesson_03.check_perplexity(nats, p))
    assert "added up" in says(lesson_03.check_perplexity(1 / p.prod(), p))
    assert "probabilities were averaged" in says(lesson_03.check_perplexity(1 / p.mean(), p))
    assert "1/probability" in says(lesson_03.check_perplexity((1 / p).mean(), p))
    assert "np.exp" in says(lesson_03.check_perplexity(2**nats, p))
    assert "not 1234" in says(lesson_03.check_perplexity(1234, p))
    assert "three dots" in says(lesson_03.check_perplexity(..., p))


def test_where_all_probabilities_are_alike_every_mean_is_right():
    assert lesson_03.check_perplexity(4.0, [0.25, 0.25]).right


def test_a_temperature_is_judged_by_the_likeliest_word():
    expected = pd.Series([0.4, 0.3, 0.2, 0.1], ["a", "b", "c", "d"])
    temperatures = np.linspace(0.1, 1, 2_000)
    tops = np.array([0.4 ** (1 / t) / (expected ** (1 / t)).sum() for t in temperatures])
    right = temperatures[np.abs(tops - 0.6).argmin()]
    assert lesson_03.check_temperature(right, expected, 0.6).right
    assert "1 over" in says(lesson_03.check_temperature(1 / right, expected, 0.6))
    assert "less than wanted" in says(lesson_03.check_temperature(1.0, expected, 0.6))
    assert "more than wanted" in says(lesson_03.check_temperature(right / 2, expected, 0.6))
    assert "above 0" in says(lesson_03.check_temperature(0, expected, 0.6))
    assert "three dots" in says(lesson_03.check_temperature(..., expected, 0.6))


def test_a_text_is_turned_token_by_token_specials_and_all():
    text = "The plot is SLOW, and sooo long!"
    tokens = Tokenizer()(text)
    assert lesson_03.check_turned(tokens[::-1], text).right
    assert "forward model" in says(lesson_03.check_turned(tokens, text))
    assert "letters" in says(lesson_03.check_turned(Tokenizer()(text[::-1]), text))
    assert "before it was tokenized" in says(
        lesson_03.check_turned(Tokenizer()(" ".join(text.split()[::-1])), text)
    )
    assert "read" in says(lesson_03.check_turned([BOS, *tokens[:0:-1]], text))
    assert "reads it last" in says(lesson_03.check_turned(tokens[:0:-1], text))
    marks_kept = "! long xxrep 3 o s and , xxup slow is plot xxmaj the xxbos".split()
    assert "marks went with their words" in says(lesson_03.check_turned(marks_kept, text))
    assert "first 2 tokens" in says(lesson_03.check_turned([*tokens[::-1][:2], "short"], text))
    assert "list of tokens" in says(lesson_03.check_turned(" ".join(tokens[::-1]), text))
    assert "three dots" in says(lesson_03.check_turned(..., text))


def test_a_text_without_marks_is_right_though_other_ways_come_to_the_same():
    assert lesson_03.check_turned(["film", "good", "a", BOS], "a good film").right
