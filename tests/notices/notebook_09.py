"""What notebook 09 says of its outputs."""

import re

import numpy as np
import torch

from ulmfit_app.course import compare_intervals, lesson_09
from ulmfit_app.evaluation.metrics import SIGNIFICANT


def which_layers_of_a_transformer_learn_together(groups):
    assert list(groups.index[[0, -1]]) == ["embeddings", "head"]
    assert groups["MiniLM blocks"].tolist()[1:-1] == ["1", "2", "3 to 4", "5 to 6"]
    assert groups["BERT blocks"].tolist()[1:-1] == ["1 to 3", "4 to 6", "7 to 9", "10 to 12"]
    for name in ("MiniLM", "BERT"):
        counted = groups[f"{name} parameters"]
        assert counted.idxmax() == "embeddings"
        assert counted["head"] < counted.sum() / 1_000


def what_does_freezing_save(steps):
    assert steps["forward"].nunique() == 1
    backward = steps["backward"]
    assert backward.is_monotonic_increasing and backward.iloc[0] < 0.01 * backward.iloc[-1]
    assert 1.8 < (backward / steps["forward"]).iloc[-1] < 2.2
    of_embeddings = steps.diff().iloc[-1]
    assert of_embeddings["parameters that learn"] > 0.3 * steps["parameters that learn"].iloc[-1]
    assert of_embeddings["backward"] < 0.05 * backward.iloc[-1]


def what_does_it_read_instead_of_words(words, tokenizer, text):
    subwords = tokenizer(text)
    assert words.count("xxunk") >= 2 and "[UNK]" not in subwords
    assert "xxmaj" in words and not re.search("[A-Z]", "".join(subwords[1:]))
    assert (words[0], subwords[0]) == ("xxbos", "[CLS]")
    assert sum(one.startswith("##") for one in subwords) > 5


def what_becomes_of_a_text_that_is_too_long(whole, by_hand, parts, short):
    assert torch.allclose(whole, by_hand, atol=1e-5) and abs(whole).max() > 0.01
    assert len(parts) == 2 and all(1 < len(one) - 1 <= short.shape.window for one in parts)


def how_can_a_layer_learn_while_its_weights_stay(at_first, layer, x, by_hand, W, A, B):
    assert at_first and torch.allclose(layer(x), by_hand, atol=1e-4)
    assert not torch.allclose(layer(x), layer.base_layer(x), atol=1e-2)
    assert A.numel() + B.numel() < W.numel() / 10 and (B @ A).shape == W.shape


def how_much_learns_then(adapted):
    for way in ("LoRA", "(IA)3", "a soft prompt"):
        row = adapted.loc[way]
        assert row["share (%)"] < 5 and row["megabytes"] < adapted.loc["all weights", "megabytes"]


def what_do_the_recipes_make_of_a_hundred_labels(scores, printed, recipe_trials):
    assert scores["way"].tolist() == list(recipe_trials.WAYS) and scores["n"].nunique() == 1
    three = scores[
        scores["way"].isin((recipe_trials.PLAIN, recipe_trials.LSTM, recipe_trials.TFIDF))
    ]
    assert len(printed.splitlines()) == 3
    assert all(line in printed for line in compare_intervals(three, "way").splitlines())


def does_the_recipe_of_the_paper_still_help(compared, shown):
    for row, verdict in zip(compared.itertuples(), shown["on these texts"], strict=True):
        assert (verdict == "not told apart") == (row.p_value >= SIGNIFICANT)
    assert (compared["other"] == "one rate").all() and len(shown) == 4


def what_matters_more_the_recipe_or_which_texts_have_labels(draws, printed):
    assert printed.strip() == lesson_09.compare_spreads(draws) and len(draws) == 3


def break_it_what_if_the_rates_are_those_of_an_lstm(broken, printed):
    works, coin = broken.to_dict("records")
    assert coin["low"] < 0.5 < coin["high"] and coin["accuracy"] < works["accuracy"]
    assert compare_intervals(broken, "way") in printed


def how_can_that_be_mended(mended, of_lstm):
    for who, rates in mended.items():
        assert np.allclose(rates / rates.iloc[0], np.array(of_lstm) / of_lstm[0]), who
    top = mended.iloc[-1]
    assert top.idxmin() == "a transformer, whole" and top.is_unique


# Without SmolLM2 random weights stand in its place: the notebook says that its notices are not of
# them.
RANDOM = "random weights"


def _count_repeats(text: str) -> int:
    words = re.findall(r"\w+", text.lower())
    threes = list(zip(words, words[1:], words[2:], strict=False))
    return len(threes) - len(set(threes))


def what_does_a_model_of_gpt_2_s_kind_write(written, models, told):
    sizes = {name: lesson_09.describe(model) for name, model in models.items()}
    assert len(set(sizes.values())) == 2
    for _, rows in written[[RANDOM not in told] * len(written)].groupby("model"):
        likeliest, drawn = map(_count_repeats, rows.sort_values("temperature")["text"])
        assert likeliest > drawn


def what_surprises_each_of_them(surprise, told):
    if RANDOM in told:
        return
    gained = (surprise["en-small"] - surprise["transformer"]).sort_values(ascending=False)
    assert gained.sum() > 5 and "Paris," in gained.index[:4]
    assert gained.iloc[:4].sum() > 0.7 * gained.sum()
    assert (surprise.loc["of"] < 2).all()


def how_far_back_does_each_of_them_look(again, told):
    if RANDOM in told:
        return
    for name in ("Marlowe", "Quentin"):
        first, later = again.loc[name], again.loc[f"{name} again"]
        assert later["transformer"] < 0.5 * first["transformer"]
        assert later["en-small"] > 0.7 * first["en-small"]
