"""What notebook 03 says of its outputs."""

from dataclasses import replace

import numpy as np

from ulmfit_app.inference.perplexity import measure_perplexity
from ulmfit_app.text.batches import LanguageModelBatches


def what_does_a_language_model_say(expected, total, n_needed):
    assert abs(total - 1) < 1e-3
    assert "xxmaj" in expected.index[:8]
    assert expected.head(8).sum() > 0.3
    assert n_needed > 50


def how_does_it_read_a_sentence(embeddings, layer, words, W, U, b):
    assert len(W) == len(U) == len(b) == 4 * layer.hidden_size
    assert W.shape[1] == embeddings.shape[1] and U.shape[1] == layer.hidden_size
    assert "xxmaj" in words


def what_does_one_step_of_an_lstm_compute(encoder, h, c):
    model_h, model_c = (part.flatten() for part in encoder.hidden[0])
    assert abs(h - model_h).max() < 1e-4 and abs(c - model_c).max() < 1e-4
    assert abs(h).max() > 0.01


def what_does_one_word_cost(probabilities, cost, by_torch):
    assert abs(probabilities.sum() - 1) < 1e-3
    assert abs(cost - by_torch) < 1e-3


def what_is_perplexity(steps, ours, cost):
    assert abs(np.exp(steps["nats"].mean()) - ours) < 0.01
    cost_of = steps.drop_duplicates("token").set_index("token")["nats"]
    assert abs(cost_of["released"] - float(cost)) < 1e-3
    assert cost_of["united"] < 0.5 and cost_of["states"] < 0.5
    assert cost_of.idxmax() == "film"
    assert steps["likeliest"][2] == "xxmaj"


def what_does_it_write(written, trained, begun, draws, lesson_03):
    by = written.set_index("temperature")
    (unlucky,) = [draw for draw in draws if draw.temperature == 0]
    (again,) = lesson_03.write(trained, begun, [replace(unlucky, seed=12_345)])["text"]
    assert again == by["text"][0]
    assert by["perplexity"][2] > 10 * by["perplexity"][0]


def what_does_a_model_write_that_has_learned_nothing(before, scores, texts, trials):
    assert scores[0] < 0.8 * scores[1]
    commonest = np.argsort(-trials.store.counts(trials.train))[:300]
    common = {trials.store.words[i] for i in commonest}
    tokens = before["random weights"].model.tokenizer(texts[1])
    assert np.mean([token in common for token in tokens]) > 0.6


def what_does_pretraining_give(perplexities, after, trials):
    assert perplexities["pretrained"][1] < 0.8 * min(perplexities["random weights"])
    assert all(len(course) == 4 for course in perplexities.values())
    batches = LanguageModelBatches(trials.store, trials.valid, 16, 72)
    for name, course in perplexities.items():
        kept = measure_perplexity(after[name].model.model, batches).perplexity
        assert abs(kept / min(course) - 1) < 0.03, name


def what_does_it_expect_about_films_now(says):
    for word in ("released", "directed"):
        assert says["fine-tuned"][word] < says["pretrained"][word], word
    for word in ("funny", "good"):
        assert says["fine-tuned"][word] > says["pretrained"][word], word


def how_far_back_does_it_look(memory):
    tuned, scratch = (memory[name]["as they stand"] for name in ("pretrained", "random weights"))
    shuffled = memory["pretrained"]["shuffled"]
    assert tuned[1] > tuned[2] > tuned[4] > tuned[16]
    assert tuned[1] / tuned[4] > tuned[4] / tuned[16]
    assert all(shuffled[n] > 1.05 * tuned[n] for n in (2, 4, 8, 16))
    assert scratch[1] / scratch[16] < 0.8 * tuned[1] / tuned[16]


def break_it_what_does_backwards_true_turn_round(rows, before):
    forward, backward = rows["backwards=False"], rows["backwards=True"]
    assert forward["reads"] == backward["reads"]
    assert backward["perplexity"] > 1.5 * before["random weights"].perplexities[0]
    assert backward["perplexity"] > 3 * forward["perplexity"]


def what_does_the_wrong_direction_cost(table):
    (own, wrong), (wrong_too, own_too) = table.to_numpy()
    assert 0.75 < own / own_too < 1.33
    assert wrong > 3 * own and wrong_too > 3 * own_too


def how_can_that_be_mended(printed):
    assert "learned to read backward, but is to read forward" in " ".join(printed.split())
