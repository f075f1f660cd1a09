import errno
import json
import os
import random
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.callback.rnn import ModelResetter
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.torch_core import defaults
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.conftest import made_store
from ulmfit_app.config import ClassifierSettings, LanguageModelSettings, ModelSettings
from ulmfit_app.errors import Diverged
from ulmfit_app.models.awd_lstm import AWDLSTM, build_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, unique_tensors
from ulmfit_app.models.pretrained import Start
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.training import checkpoints, classifier, language_model, loop
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.ongoing import TrainingSettings
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import Phase, Plan, language_model_phases

SHAPE = ModelSettings(emb_sz=12, n_hid=16, n_layers=2)
PLAN = Plan(
    "short", (Phase("head", 1, -1, 1e-2), Phase("all groups", 2, 0, 5e-3, 1.3)), drop_mult=0.5
)


def lm_learner(precision="fp32", **settings):
    store = made_store([30] * 20)
    seed_everything(3)
    settings = LanguageModelSettings(batch_size=4, bptt=10, **settings)
    start = Start("random weights", "random", SHAPE)
    return language_model.make_learner(
        store, np.arange(16), np.arange(16, 20), start, settings, precision, seed=3
    )


def lm_settings(key="k", **changes) -> TrainingSettings:
    settings = LanguageModelSettings(schedule="one-cycle", weight_decay=0.1, grad_clip=None)
    return replace(language_model.training_settings(settings, "forward", key), **changes)


def train_lm(folder, key="k", phases=None, precision="fp32", softmax="exact", **settings):
    learn = lm_learner(precision, softmax=softmax)
    phases = phases or (*language_model_phases(2, 4e-3, None), Phase("again", 1, -1, 1e-3))
    return learn, train(learn, phases, folder, lm_settings(key, **settings))


def train_classifier(folder, key="k", plan=PLAN, precision="fp32", **settings):
    store = made_store([random.Random(i).randint(2, 40) for i in range(30)])
    labels = np.arange(30) % 2
    seed_everything(3)
    model = build_language_model(len(store.words), SHAPE)
    save_bundle(folder / "lm", model, Bundle("language model", SHAPE, "en", store.words))
    lm = load_bundle(folder / "lm", "language model")
    parts = (np.arange(24), labels[:24]), (np.arange(24, 30), labels[24:])
    seed_everything(3)
    how = ClassifierSettings(
        batch_size=5, schedule="slanted-triangular", weight_decay=0.01, grad_clip=0.5
    )
    learn = classifier.make_learner(store, *parts, 2, lm, plan, how, precision, seed=3)
    training = replace(classifier.training_settings(how, "forward", key), **settings)
    return learn, train(learn, plan.phases, folder, training)


def test_training_prints_none_of_fastais_tables_and_bars(tmp_path, capsys):
    learn = lm_learner()
    assert any(callback is ProgressCallback for callback in defaults.callbacks)
    assert not any(isinstance(callback, ProgressCallback) for callback in learn.cbs)
    learn.fit(1, 1e-3)
    assert capsys.readouterr().out == ""


class Killed(BaseException):
    pass


def interrupted(job, folder, monkeypatch, at: int):
    """Run a training that is killed right after its step number `at`, then again to its end."""
    steps = 0
    real = loop._Progress.after_batch

    def counted(self):
        nonlocal steps
        real(self)
        if self.training:
            steps += 1
            if steps == at:
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop._Progress, "after_batch", counted)
        with pytest.raises(Killed):
            job(folder)
    return job(folder)


def test_a_training_killed_behind_the_end_of_a_phase_goes_on_with_the_same_random_numbers(
    tmp_path, monkeypatch
):
    """Its checkpoint is the phase's last; the next phase has other groups, and a new optimizer."""
    steps = []
    real = loop._Progress.after_batch

    def counted(self):
        real(self)
        if self.training:
            steps.append(self.job.position.phase)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Progress, "after_batch", counted)
        _, whole = train_classifier(tmp_path / "whole")
    first = steps.index(1) + 1  # the first step of the second phase
    _, again = interrupted(train_classifier, tmp_path / "killed", monkeypatch, at=first)
    pd.testing.assert_frame_equal(
        again.drop(columns="seconds"), whole.drop(columns="seconds"), check_exact=True
    )


@pytest.mark.parametrize("job", [train_lm, train_classifier])
def test_a_training_killed_anywhere_ends_with_the_same_weights(job, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)  # after every step
    whole, history = job(tmp_path / "whole")
    for at in (1, 4, 7, 12, 15, 19, 25):
        if at >= (history.shape[0] - 1) * 5:
            break
        resumed, again = interrupted(job, tmp_path / str(at), monkeypatch, at)
        for name, value in unique_tensors(whole.model).items():
            assert torch.equal(value, unique_tensors(resumed.model)[name]), (at, name)
        pd.testing.assert_frame_equal(
            history.drop(columns="seconds"), again.drop(columns="seconds")
        )


@pytest.mark.parametrize(
    "job", [partial(train_lm, softmax="sampled"), train_classifier], ids=["lm", "classifier"]
)
def test_in_bf16_too_a_killed_training_ends_with_the_same_weights(job, tmp_path, monkeypatch):
    # Any CPU multiplies bf16, if slowly.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    whole, history = job(tmp_path / "whole", precision="bf16")
    assert history["valid_loss"].notna().all()
    for at in (2, 9, 13):
        resumed, _ = interrupted(
            partial(job, precision="bf16"), tmp_path / str(at), monkeypatch, at
        )
        for name, value in unique_tensors(whole.model).items():
            assert torch.equal(value, unique_tensors(resumed.model)[name]), (at, name)


def test_a_training_killed_between_checkpoints_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 1e9)  # at the end of an epoch only
    whole, _ = train_lm(tmp_path / "whole")
    resumed, _ = interrupted(train_lm, tmp_path / "killed", monkeypatch, at=20)
    for name, value in unique_tensors(whole.model).items():
        assert torch.equal(value, unique_tensors(resumed.model)[name]), name


def test_short_epochs_write_no_file_each_and_the_best_one_is_kept_all_the_same(
    tmp_path, monkeypatch
):
    """Here an early epoch is the best, and a kill falls behind it and before a checkpoint."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 1e9)
    written, real = [], checkpoints.save_file
    monkeypatch.setattr(
        checkpoints, "save_file", lambda *a, **k: written.append(a[1].name) or real(*a, **k)
    )
    rising = Phase("ever too high", 4, 0, 3.0, schedule="rising")
    job = partial(train_lm, phases=(rising, Phase("low", 1, 0, 1e-9)))
    whole, history = job(tmp_path / "whole")
    assert history["valid_loss"].idxmin() < 3 and len(history) == 5
    assert whole.validate()[0] == pytest.approx(history["valid_loss"].min(), rel=1e-5)
    assert len([name for name in written if "checkpoint" in name]) == 2, "one for each phase"
    n = len(whole.dls.train)
    for at in (n - 1, n + 2, 3 * n + 1):
        resumed, again = interrupted(job, tmp_path / str(at), monkeypatch, at)
        for name, value in unique_tensors(whole.model).items():
            assert torch.equal(value, unique_tensors(resumed.model)[name]), (at, name)
        assert len(again) == 5


class Memory(torch.nn.Module):
    """Adds what it remembers of all batches so far: state that no class of ours knows."""

    def __init__(self):
        super().__init__()
        self.weight, self.memory = torch.nn.Parameter(torch.tensor(0.5)), None

    def forward(self, x):
        before = 0 if self.memory is None else self.memory
        self.memory = before + x.detach().mean((0, 1))
        return x + self.weight * self.memory

    def reset(self):
        self.memory = None

    def carried_state(self):
        return {} if self.memory is None else {"memory": self.memory}

    def carry_on(self, state):
        self.memory = state["memory"]


class Toy(torch.nn.Sequential):
    """A language model that is no AWD-LSTM; its Memory lies deeper than AWD-LSTM's encoder."""

    def __init__(self, n_words):
        inner = torch.nn.Sequential(torch.nn.Embedding(n_words, 8), Memory())
        super().__init__(inner, torch.nn.Linear(8, n_words))

    def reset(self):
        self[0][1].reset()


def train_toy(folder):
    store = made_store([30] * 20)
    seed_everything(3)
    parts = np.arange(16), np.arange(16, 20)
    dls = DataLoaders(*(LanguageModelBatches(store, texts, 4, 10, seed=3) for texts in parts))
    toy = Toy(len(store.words))
    learn = Learner(
        dls, toy, CrossEntropyLossFlat(), FusedAdam, metrics=[accuracy], cbs=[ModelResetter]
    )
    phases = (Phase("all groups", 2, 0, 1e-2),)
    return learn, train(loop.prepare(learn, "fp32"), phases, folder, lm_settings())


@pytest.mark.parametrize("seconds", [-1, 1e9], ids=["after every step", "after an epoch"])
def test_what_any_model_carries_is_saved_and_restored(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", seconds)
    whole, history = train_toy(tmp_path / "whole")
    assert len(whole.dls.train) == 12
    for at in (1, 7, 11, 12, 20):
        resumed, again = interrupted(train_toy, tmp_path / str(at), monkeypatch, at)
        for name, value in unique_tensors(whole.model).items():
            assert torch.equal(value, unique_tensors(resumed.model)[name]), (at, name)
        pd.testing.assert_frame_equal(
            history.drop(columns="seconds"), again.drop(columns="seconds")
        )


def test_what_is_carried_matters_to_these_tests(tmp_path, monkeypatch):
    """Without it, the toy and the language model end with other weights."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    for job, module in ((train_toy, Memory), (train_lm, AWDLSTM)):
        whole, _ = job(tmp_path / module.__name__ / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(module, "carry_on", lambda *_: None)
            resumed, _ = interrupted(job, tmp_path / module.__name__, monkeypatch, at=7)
        assert any(
            not torch.equal(value, unique_tensors(resumed.model)[name])
            for name, value in unique_tensors(whole.model).items()
        )


def test_a_checkpoint_of_another_training_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    fresh, _ = train_lm(tmp_path / "fresh", key="b")
    train_lm(tmp_path / "used", key="a")
    other, _ = train_lm(tmp_path / "used", key="b")
    for name, value in unique_tensors(fresh.model).items():
        assert torch.equal(value, unique_tensors(other.model)[name]), name


def test_the_best_validation_epoch_is_kept(tmp_path):
    learn, history = train_lm(
        tmp_path, phases=(Phase("some", 1, 0, 1e-2), Phase("far too high", 2, 0, 3.0))
    )
    loss = learn.validate()[0]
    assert loss == pytest.approx(history["valid_loss"].min(), rel=1e-5)
    assert history["valid_loss"].idxmin() < 2, (
        "the rate must be too high for the test to say anything"
    )


def test_a_loss_that_is_not_a_number_stops_the_training_and_saves_nothing(tmp_path, monkeypatch):
    real = loop._Progress.before_train

    def poisoned(self):
        real(self)
        with torch.no_grad():
            self.model[1].decoder.bias.fill_(float("nan"))

    monkeypatch.setattr(loop._Progress, "before_train", poisoned)
    with pytest.raises(Diverged, match="became nan in epoch 1.*--lm.grad-clip"):
        train_lm(tmp_path)
    assert not (tmp_path / "best.safetensors").exists()
    assert not (tmp_path / "checkpoint.safetensors").exists()


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("softmax", ["exact", "sampled"])
def test_on_a_gpu_a_training_learns_and_goes_on_from_its_checkpoint(
    tmp_path, monkeypatch, precision, softmax
):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    job = partial(train_lm, precision=precision, softmax=softmax)
    learn, history = job(tmp_path / "whole")
    assert next(learn.model.parameters()).device.type == "cuda"
    assert history["valid_loss"].iloc[-1] < np.log(60)
    _, again = interrupted(job, tmp_path / "killed", monkeypatch, at=7)
    np.testing.assert_allclose(again["valid_loss"], history["valid_loss"], rtol=0.01)


class Gpu(str):
    """A device that says it is a GPU, and is the CPU."""

    type = "cuda"


def test_a_gpus_losses_are_looked_at_now_and_then_and_before_anything_is_saved(
    tmp_path, monkeypatch
):
    """To look is to wait for the GPU. One loss is infinite, those behind it are not a number."""
    looks, steps = [], []
    real, look = loop._Progress.after_backward, loop._Progress._require_finite_loss

    def poisoned(self):
        steps.append(self.training)
        if sum(steps) == 3:
            self.learn.loss = self.learn.loss * torch.inf
        elif sum(steps) > 3:
            self.learn.loss = self.learn.loss * torch.nan
        real(self)

    def counted(self):
        looks.append(sum(steps))
        look(self)

    monkeypatch.setattr(LanguageModelBatches, "device", Gpu("cpu"))
    monkeypatch.setattr(loop, "STEPS_BETWEEN_LOOKS", 5)
    monkeypatch.setattr(loop._Progress, "after_backward", poisoned)
    monkeypatch.setattr(loop._Progress, "_require_finite_loss", counted)
    with pytest.raises(Diverged, match="became inf in epoch 1"):
        train_toy(tmp_path / "looks")
    assert looks == [5]

    monkeypatch.setattr(loop, "STEPS_BETWEEN_LOOKS", 1_000)
    for seconds, seen in ((1e9, 12), (-1, 3)):
        steps.clear(), looks.clear()
        monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", seconds)
        with pytest.raises(Diverged, match="became inf in epoch 1"):
            train_toy(tmp_path / str(seconds))
        assert looks[-1] == seen, "at the end of an epoch, or before a checkpoint"
    files = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["checkpoint.safetensors"], "the one before the third step"
    facts = checkpoints.Checkpoints(tmp_path / "-1", "k").facts()
    assert facts["position"]["batch"] == 2 and np.isfinite(facts["position"]["loss_sum"])


def test_a_training_goes_on_in_another_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    for first, then in (("bf16", "fp32"), ("fp32", "bf16")):
        folder = tmp_path / first
        stopped = partial(train_lm, precision=first)

        def job(folder, stopped=stopped, then=then):
            return (stopped if not folder.exists() else partial(train_lm, precision=then))(folder)

        _, history = interrupted(job, folder, monkeypatch, at=4)
        assert len(history) == 3 and history["valid_loss"].notna().all()


def test_a_gpus_random_state_and_loss_scale_do_not_hinder_a_cpu(tmp_path, monkeypatch):
    """The checkpoint of a training in fp16 on CUDA, as its files would say it, goes on here."""
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)
    real, random_state = checkpoints.save_file, torch.get_rng_state()

    def on_cuda(tensors, path, metadata=None):
        if metadata:
            facts = json.loads(metadata["training"])
            facts["scaler"] = {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0}
            metadata = {"training": json.dumps(facts)}
            tensors["rng.cuda"] = random_state[:16].clone()
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoints, "save_file", on_cuda)
    _, history = interrupted(train_lm, tmp_path, monkeypatch, at=4)
    assert len(history) == 3


def test_a_phase_out_of_patience_ends_early(tmp_path):
    plan = Plan("flat", (Phase("all groups", 6, 0, 1e-12),), drop_mult=0.5)
    _, history = train_classifier(tmp_path, plan=plan, patience=2)
    # A rate of nearly nothing: the accuracy stays, and losses move in the last digits only.
    assert len(history) < 6


def test_without_phases_a_training_leaves_the_weights_and_says_how_they_do(tmp_path):
    learn = lm_learner()
    before = {name: tensor.clone() for name, tensor in unique_tensors(learn.model).items()}
    history = train(learn, (), tmp_path, lm_settings())
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in unique_tensors(learn.model).items()
    )
    (row,) = history.to_dict("records")
    assert row["phase"] == "not trained" and row["perplexity"] == pytest.approx(
        np.exp(row["valid_loss"]), rel=1e-4
    )
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1


def test_gradients_are_clipped_to_the_norm_asked_for(tmp_path, monkeypatch):
    norms, step = [], FusedAdam.step

    def watched(self, *args):
        norms.append(
            torch.stack([p.grad.norm() for p, *_ in self.all_params(with_grad=True)]).norm().item()
        )
        return step(self, *args)

    monkeypatch.setattr(FusedAdam, "step", watched)
    train_lm(tmp_path, grad_clip=1e-3)
    assert max(norms) <= 1e-3 * 1.001


def test_history_has_one_row_per_epoch_and_is_saved(tmp_path):
    _, history = train_lm(tmp_path)
    assert list(history["phase"]) == ["all groups", "all groups", "again"]
    assert np.allclose(np.exp(history["valid_loss"]), history["perplexity"], rtol=1e-4)
    assert len(pd.read_csv(tmp_path / "history.csv")) == 3


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("I/O error: No space left on device (os error 28)", errno.ENOSPC),
        ("I/O error: failed to write whole buffer", errno.EIO),
    ],
)
def test_a_full_disk_is_an_error_of_the_disk_and_the_last_checkpoint_stays(
    tmp_path, monkeypatch, words, code
):
    learn, _ = train_lm(tmp_path)
    kept = checkpoints.Checkpoints(tmp_path, "k")
    kept.keep_best(learn)
    kept.save(learn, checkpoints.Position(), [])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: {words}")

    monkeypatch.setattr(checkpoints, "save_file", full)
    for path in (kept.path, kept.best):
        with pytest.raises(OSError, match=re.escape(os.strerror(code))) as raised:
            kept.save(learn, checkpoints.Position(), [])
        kept.keep_best(learn)
        assert (raised.value.errno, raised.value.filename) == (code, str(path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_checkpoints_are_safetensors_with_json_facts(tmp_path):
    train_lm(tmp_path)
    tensors = load_file(tmp_path / "checkpoint.safetensors")
    assert {"rng.cpu", "carried.0:0.h", "carried.0:1.c"} <= set(tensors)
    assert any(name.startswith("opt.") and name.endswith(".sqr_avg") for name in tensors)
    facts = checkpoints.Checkpoints(tmp_path, "k").facts()
    assert json.dumps(facts)
    assert checkpoints.Checkpoints(tmp_path, "another").facts() is None
