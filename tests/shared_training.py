"""Trainings that tests carry out in one process, and, as a script that torchrun starts, in
several."""

import json
import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback

from tests.conftest import made_store
from ulmfit_app.config import ClassifierSettings, LanguageModelSettings, ModelSettings
from ulmfit_app.models.awd_lstm import build_language_model
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, unique_tensors
from ulmfit_app.models.pretrained import Start
from ulmfit_app.training import classifier, language_model, loop, processes
from ulmfit_app.training.data_parallel import GlobalBatchNorm
from ulmfit_app.training.following import follow
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.recipes import Phase, Plan

SHAPE = ModelSettings(emb_sz=8, n_hid=12, n_layers=2)
PLAN = Plan("short", (Phase("head", 1, -1, 1e-2), Phase("all", 2, 0, 5e-3, 1.3)), drop_mult=0)
STEPS = 200  # at least
CUT = 7  # after so many steps, a copy of the checkpoint is kept


class Losses(Callback):
    """Writes the loss of each step, and keeps the checkpoint of step CUT, where there is one."""

    order = 70

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def after_batch(self):
        if not self.training or processes.rank():
            return
        self.seen.append(float(self.learn.loss))
        checkpoint = self.folder / "checkpoint.safetensors"
        if len(self.seen) == CUT and checkpoint.is_file():
            (self.folder / "cut").mkdir(exist_ok=True)
            shutil.copyfile(checkpoint, self.folder / "cut" / checkpoint.name)


def _result(learn, losses, history):
    return {
        "losses": losses.seen,
        "history": history.drop(columns="seconds").to_dict("list"),
        "weights": {name: part.tolist() for name, part in unique_tensors(learn.model).items()},
    }


def train_lm(folder, batch_size=5, epochs=4, bptt=11, drop_mult=0.0, precision="fp32"):
    """52 steps per epoch where a batch has 5 places."""
    store = made_store([random.Random(i).randint(20, 40) for i in range(110)])
    settings = LanguageModelSettings(
        batch_size=batch_size, bptt=bptt, drop_mult=drop_mult, softmax="exact", grad_clip=0.5
    )
    seed_everything(3)
    parts = np.arange(96), np.arange(96, 110)
    start = Start("random weights", "random", SHAPE)
    learn = language_model.make_learner(store, *parts, start, settings, precision, 3)
    learn.add_cb(losses := Losses(folder))
    phases = (Phase("all groups", epochs, 0, 2e-3),)
    how = language_model.training_settings(settings, "forward", "k")
    return _result(learn, losses, train(learn, phases, folder, how))


def train_classifier(folder, batch_size=5, epochs=None):
    """31 texts to learn from: the last batch of 5 has one more. 11 to validate."""
    store = made_store([random.Random(i).randint(2, 40) for i in range(42)])
    labels = np.arange(42) % 3
    seed_everything(3)
    model = build_language_model(len(store.words), SHAPE)
    save_bundle(folder / "lm", model, Bundle("language model", SHAPE, "en", store.words))
    lm = load_bundle(folder / "lm", "language model")
    settings = ClassifierSettings(batch_size=batch_size, select_by="macro-f1", grad_clip=0.5)
    parts = (np.arange(31), labels[:31]), (np.arange(31, 42), labels[31:])
    seed_everything(3)
    learn = classifier.make_learner(store, *parts, 3, lm, PLAN, settings, "fp32", 3)
    for module in learn.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    learn.add_cb(losses := Losses(folder))
    how = replace(classifier.training_settings(settings, "forward", "k"), patience=1)
    return _result(learn, losses, train(learn, PLAN.phases, folder, how))


def carry_out(folder):
    """All of them; name -> result."""
    return {
        "lm": train_lm(folder / "lm"),
        "one place": train_lm(folder / "one-place", batch_size=1, epochs=1, bptt=44),
        "bf16": train_lm(folder / "bf16", epochs=1, precision="bf16"),
        "classifier": train_classifier(folder / "classifier"),
        "pairs": train_classifier(folder / "pairs", batch_size=2),
    }


def go_on(folder, **how):
    """The training that was cut, to its end."""
    again = folder.with_name(f"{folder.name}-again-{processes.count()}")
    shutil.copytree(folder / "cut", again)
    return train_lm(again, epochs=1, **how)


def carry_out_together(folder, of_one):
    """What one process has no part in. of_one: where it left a checkpoint to go on from."""
    results = carry_out(folder)
    loop.SECONDS_BETWEEN_CHECKPOINTS = -1
    whole = train_lm(folder / "cut", epochs=1)
    dropped = train_lm(folder / "dropped", epochs=1, drop_mult=0.5)
    return results | {
        "cut": whole,
        "from one": go_on(of_one),
        "dropped": dropped,
        "dropped again": go_on(folder / "dropped", drop_mult=0.5),
    }


def normalise(folder):
    """Each process's part of a batch of 5 rows, normalised, and the gradients of all."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 2 + 50
    own = x[processes.own_part(5)].clone().requires_grad_()
    layer = GlobalBatchNorm(3)
    out = layer(own)
    (out.pow(3).sum()).backward()
    values = processes.gather((out.tolist(), own.grad.tolist()))
    names = "out", "grad"
    found = {
        name: sum(parts, []) for name, parts in zip(names, zip(*values, strict=True), strict=True)
    }
    return found | {"mean": layer.running_mean.tolist(), "var": layer.running_var.tolist()}


if __name__ == "__main__":
    torch.cpu.get_capabilities = lambda: {"amx_bf16": True}  # any CPU multiplies it, if slowly
    here, of_one = map(Path, sys.argv[1:])
    processes.join()
    assert "WORLD_SIZE" not in os.environ
    normalised = normalise(here)
    if processes.rank():
        follow()
    else:
        found = carry_out_together(here, of_one) | {"normalised": normalised}
        (here / "results.json").write_text(json.dumps(found))
        processes.leave()
