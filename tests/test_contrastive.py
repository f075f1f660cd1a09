"""The phase of pairs (Tunstall et al. 2022), for an AWD-LSTM and for a transformer."""

import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from tests.conftest import made_store
from tests.test_training import interrupted
from ulmfit_app.config import ClassifierSettings, ModelSettings
from ulmfit_app.errors import Diverged
from ulmfit_app.models.awd_lstm import build_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, unique_tensors
from ulmfit_app.models.transformer import WindowEncoder
from ulmfit_app.training import choosing, classifier, loop
from ulmfit_app.training.contrastive import loss_of_pairs
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.recipes import CONTRASTIVE, Phase, Plan, count_epochs

SHAPE = ModelSettings(emb_sz=12, n_hid=16, n_layers=2)
N, N_TRAIN = 40, 28
STILL = Phase("still", 1, -1, 0.0)  # a phase of labels in which nothing learns
PLAN = Plan(
    "pairs and labels",
    (
        Phase("pairs", 2, 0, 5e-3, objective="pairs"),
        Phase("head", 2, -1, 1e-2),
        Phase("all groups", 1, 0, 1e-3),
    ),
    drop_mult=0.5,
)


# -------------------------------------------------------------------------------------- the loss
def test_the_loss_is_the_mean_squared_error_of_the_cosines_of_each_kind_of_pairs():
    torch.manual_seed(0)
    pooled, labels = torch.randn(9, 5), torch.tensor([0, 0, 1, 2, 2, 2, 1, 0, 3])
    alike, others = [], []
    for i in range(9):
        for j in range(i):
            cosine = float(F.cosine_similarity(pooled[i], pooled[j], dim=0))
            if labels[i] == labels[j]:
                alike.append((cosine - 1) ** 2)
            else:
                others.append(cosine**2)
    expected = np.mean(alike) + np.mean(others)
    assert float(loss_of_pairs(pooled, labels)) == pytest.approx(expected, rel=1e-5)
    assert float(loss_of_pairs(3 * pooled, labels)) == pytest.approx(expected, rel=1e-5)


def test_where_all_labels_are_alike_or_none_is_the_other_kind_counts_nothing():
    pooled = torch.eye(3)
    assert float(loss_of_pairs(pooled, torch.zeros(3))) == pytest.approx(1.0)
    assert float(loss_of_pairs(pooled, torch.arange(3))) == pytest.approx(0.0)
    alone = pooled[:1].clone().requires_grad_()
    assert float(loss_of_pairs(alone, torch.zeros(1))) == 0.0


def test_the_losss_gradient_is_finite_at_a_text_of_zeros_and_right():
    torch.manual_seed(0)
    pooled = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 2])
    zeros = torch.zeros(3, 4, requires_grad=True)
    loss_of_pairs(zeros, labels[:3]).backward()
    assert zeros.grad.isfinite().all()
    found = pooled.float().requires_grad_()
    loss_of_pairs(found, labels).backward()
    step = 1e-3
    for i, j in ((0, 0), (2, 3), (4, 1)):
        around = []
        for sign in (1, -1):
            moved = pooled.clone()
            moved[i, j] += sign * step
            around.append(float(loss_of_pairs(moved, labels)))
        slope = (around[0] - around[1]) / (2 * step)
        assert float(found.grad[i, j]) == pytest.approx(slope, abs=2e-3)


# ----------------------------------------------------------------------------- what is trained
def awd_lstm(folder):
    """Texts of random words, a language model of random weights."""
    store = made_store([random.Random(i).randint(2, 40) for i in range(N)])
    # Each label has words of its own.
    ids = 9 + store.ids % 17 + 17 * np.repeat(np.arange(N) % 3, store.lengths())
    store = replace(store, ids=ids.astype(np.int32))
    seed_everything(3)
    model = build_language_model(len(store.words), SHAPE)
    save_bundle(folder / "lm", model, Bundle("language model", SHAPE, "en", store.words))
    return store


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    pytest.importorskip("transformers")
    from tests.tiny_transformers import make_checkpoint
    from ulmfit_app.models.transformer_start import read_transformer

    folder = make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "bert", "bert")
    return read_transformer(folder, str(folder))


def on_transformer(folder, start):
    """Made reviews, some longer than a window, and a tiny BERT."""
    from tests.tiny_transformers import make_reviews, subwords_in_memory
    from ulmfit_app.models.transformer import build_language_model
    from ulmfit_app.text.subwords import SubwordTokenizer

    tokenizer = SubwordTokenizer(start.tokenizer, start.vocab[start.shape.begin])
    texts = [
        f"{'dull' if i % 3 else 'great'} film " * (1 + i % 3) + t
        for i, t in enumerate(make_reviews(N))
    ]
    texts[3] = texts[5] = " ".join(texts[:6])
    model = build_language_model(start.shape)
    model.load_state_dict(start.weights)
    about = Bundle("language model", start.shape, "en", start.vocab, tokenizer=start.tokenizer)
    save_bundle(folder / "lm", model, about)
    return subwords_in_memory(texts, tokenizer)


@pytest.fixture(params=["awd-lstm", "transformer"])
def make_learner(request):
    """A function of a folder that gives a classifier's Learner and how it is trained."""
    of_bert = request.param == "transformer" and request.getfixturevalue("start")

    def make(folder, precision="fp32", labels=None, **changes):
        store = on_transformer(folder, of_bert) if of_bert else awd_lstm(folder)
        labels = np.arange(N) % 3 if labels is None else labels
        rows = np.arange(N)
        parts = (rows[:N_TRAIN], labels[:N_TRAIN]), (rows[N_TRAIN:], labels[N_TRAIN:])
        lm = load_bundle(folder / "lm", "language model")
        seed_everything(3)
        how = ClassifierSettings(batch_size=8, schedule="slanted-triangular")
        learn = classifier.make_learner(store, *parts, 3, lm, PLAN, how, precision, seed=3)
        settings = replace(classifier.training_settings(how, "forward", "k"), **changes)
        return learn, settings

    return make


def weights_of(part):
    return {name: value.clone() for name, value in part.state_dict().items()}


def test_the_phase_of_pairs_teaches_the_encoder_and_leaves_the_head(make_learner, tmp_path):
    learn, settings = make_learner(tmp_path, weight_decay=0.1)
    encoder, head = weights_of(learn.model[0]), dict(learn.model[1].named_parameters())
    before = {name: value.detach().clone() for name, value in head.items()}
    real = learn.loss_func
    history = train(learn, (PLAN.phases[0], STILL), tmp_path, settings)
    assert any(
        not torch.equal(value, encoder[name])
        for name, value in learn.model[0].state_dict().items()
    )
    for name, value in learn.model[1].named_parameters():
        assert torch.equal(value, before[name]), name
    # All is left as it was.
    assert learn.loss_func is real and not learn.dls.train.mixed
    assert not learn.model[1]._forward_pre_hooks
    # Validated by labels: as the head, which stays as it was, does in the phase behind it.
    loss, accuracy = learn.validate()
    assert history["valid_loss"].iloc[1] == pytest.approx(loss, rel=0.01)
    assert history["accuracy"].iloc[1] == pytest.approx(accuracy)


def test_what_is_learned_brings_texts_of_a_label_together(make_learner, tmp_path):
    learn, settings = make_learner(tmp_path)
    # A rate that the smallest of transformers bears, too, whatever tokens it was made with.
    phases = (replace(PLAN.phases[0], epochs=12, lr=3e-3), STILL)
    history = train(learn, phases, tmp_path, settings)
    assert history["train_loss"].iloc[11] < 0.8 * history["train_loss"].iloc[0]


def test_batches_of_pairs_hold_texts_of_all_lengths(make_learner, tmp_path, monkeypatch):
    learn, settings = make_learner(tmp_path)
    seen, real = [], type(learn.dls.train)._batches

    def listened(self):
        if self.shuffle:
            seen.append(self.mixed)
        return real(self)

    monkeypatch.setattr(type(learn.dls.train), "_batches", listened)
    train(learn, PLAN.phases, tmp_path, settings)
    assert seen == [True, True, False, False, False]


def test_an_untrained_heads_accuracy_neither_keeps_an_epoch_nor_ends_a_phase(
    make_learner, tmp_path, monkeypatch
):
    """It may be high by chance: here the head learns nothing later either."""
    learn, settings = make_learner(tmp_path, patience=1)
    phases = (replace(PLAN.phases[0], epochs=4), replace(PLAN.phases[1], lr=1e-9))
    real = loop._Progress.after_epoch

    def praised(self):
        if self.job.phase.objective == "pairs":
            self.recorder.values[-1][-1] = 1.0 - self.epoch / 100  # falling
        real(self)

    monkeypatch.setattr(loop._Progress, "after_epoch", praised)
    history = train(learn, phases, tmp_path, settings)
    assert history["phase"].tolist()[:4] == ["pairs"] * 4, "patience does not end it"
    head = history[history["phase"] == "head"]
    best = head["accuracy"].max()
    assert float(learn.validate()[1]) == pytest.approx(best), "the kept epoch is the head's"


def all_of_it(make_learner, folder, **more):
    learn, settings = make_learner(folder, **more)
    return learn, train(learn, PLAN.phases, folder, settings)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_in_the_phase_of_pairs_or_later_it_ends_with_the_same_weights(
    make_learner, tmp_path, monkeypatch, precision
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)

    def job(folder):
        return all_of_it(make_learner, folder, precision=precision)

    whole, history = job(tmp_path / "whole")
    n = len(whole.dls.train)
    assert history["phase"].tolist() == ["pairs"] * 2 + ["head"] * 2 + ["all groups"]
    # The loop is the same for all models and precisions; slow ones are killed less often.
    every = 3 if precision == "bf16" else 2 if isinstance(whole.model[0], WindowEncoder) else 1
    for at in (2, n, n + 1, 2 * n + 2, 4 * n + 1)[::every]:
        resumed, again = interrupted(job, tmp_path / str(at), monkeypatch, at)
        for name, value in unique_tensors(whole.model).items():
            assert torch.equal(value, unique_tensors(resumed.model)[name]), (at, name)
        pd.testing.assert_frame_equal(
            history.drop(columns="seconds"), again.drop(columns="seconds")
        )


def test_pairs_of_texts_without_two_of_a_label_are_learned_from_too(make_learner, tmp_path):
    learn, settings = make_learner(tmp_path, labels=np.zeros(N, int))
    history = train(learn, (PLAN.phases[0], STILL), tmp_path, settings)
    assert np.isfinite(history["train_loss"]).all()


def test_a_loss_of_pairs_that_is_not_a_number_stops_the_training(
    make_learner, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "ulmfit_app.training.contrastive.loss_of_pairs",
        lambda pooled, labels: pooled.sum() * np.nan,
    )
    learn, settings = make_learner(tmp_path)
    with pytest.raises(Diverged, match="became nan in epoch 1 of the phase 'pairs'"):
        train(learn, PLAN.phases, tmp_path, settings)


# ------------------------------------------------------------------------------------ choosing
def choose(n_texts=100, passes=None, architecture="transformer", **settings):
    how = ClassifierSettings(**settings)
    return choosing.choose_plan(how, 6, True, passes, n_texts, architecture)


def test_few_labels_of_a_transformer_are_learned_by_pairs_first():
    plan, reason = choose(100)
    assert plan.name == "contrastive" and reason.startswith("Pairs of texts first")
    assert plan == choosing.scale_rates(CONTRASTIVE, 0.05)
    assert choose(1_000)[0].name == "contrastive" and choose(1_001)[0].name == "full"
    assert choose(None)[0].name == "full", "how many labels there are is not known yet"
    assert choose(100, architecture="awd-lstm")[0].name == "published"


def test_pairs_take_the_epochs_and_passes_that_they_need():
    epochs = count_epochs(CONTRASTIVE)
    assert choose(100, epochs=epochs)[0].name == "contrastive"
    few, reason = choose(100, epochs=epochs - 1)
    assert few.name == "full" and count_epochs(few) == epochs - 1 and "were asked for" in reason
    # 100 texts in batches of 16: five passes make an epoch.
    assert choosing.passes_for(100, choosing.batch_size_for(100, 64)) == 5
    assert choose(100, passes=5 * epochs)[0].name == "contrastive"
    assert choose(100, passes=5 * epochs - 1)[0].name == "full"


@pytest.mark.parametrize("passes", [0.3, 4, 10, 39, 60])
@pytest.mark.parametrize("n_texts", [60, 100, 400, 5_000])
def test_a_plan_takes_no_more_passes_than_there_is_time_for(n_texts, passes):
    plan, _ = choose(n_texts, passes)
    batch_size = choosing.batch_size_for(n_texts, 64)
    per_epoch = choosing.passes_for(n_texts, batch_size)
    assert count_epochs(plan) * per_epoch <= max(passes, per_epoch)


@pytest.mark.parametrize("adapter", [None, "lora", "ia3", "prompt"])
def test_all_plans_rates_are_scaled_for_a_transformer_the_brief_one_too(adapter):
    factor = choosing.RATES[adapter]
    for name in ("full", "published", "gradual-discr", "contrastive", "chain-thaw"):
        ours = choose(5_000, plan=name, adapter=adapter)[0]
        theirs = choose(5_000, plan=name, architecture="awd-lstm")[0]
        assert ours == choosing.scale_rates(theirs, factor) and factor != 1
    brief, _ = choose(5_000, passes=2.5, adapter=adapter)
    assert brief.name == "brief" and count_epochs(brief) == 2
    assert brief.phases[0].lr == pytest.approx(choosing.BRIEF.phases[0].lr * factor)


def test_an_epoch_of_few_texts_has_enough_steps_and_of_many_is_one_pass():
    for n in (2, 16, 100, 479, 480, 1_000, 5_000):
        size = choosing.batch_size_for(n, 64)
        passes = choosing.passes_for(n, size)
        assert passes * -(-n // size) >= choosing.STEPS_PER_EPOCH
        assert passes == 1 or (passes - 1) * -(-n // size) < choosing.STEPS_PER_EPOCH
