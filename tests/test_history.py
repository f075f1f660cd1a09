"""What a training's history says of each epoch."""

import numpy as np
import pytest
from fastai.callback.core import Callback

from tests.test_training import lm_learner, lm_settings
from ulmfit_app.training import ongoing
from ulmfit_app.training.checkpoints import Position
from ulmfit_app.training.loop import train
from ulmfit_app.training.recipes import Phase


class RecordedLosses(Callback):
    """The loss of each step, by epoch."""

    def __init__(self):
        self.seen = {}

    def after_loss(self):
        if self.training:
            self.seen.setdefault(self.epoch, []).append(float(self.learn.loss.detach()))


def test_an_epochs_training_loss_is_the_mean_of_its_own_steps(tmp_path):
    learn, losses = lm_learner(), RecordedLosses()
    learn.add_cb(losses)
    history = train(learn, [Phase("all groups", 3, 0, 1e-2)], tmp_path, lm_settings())
    expected = [np.mean(of_epoch) for of_epoch in losses.seen.values()]
    assert history["train_loss"].tolist() == pytest.approx(expected, rel=1e-6)


def test_the_seconds_of_an_epoch_count_those_before_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(ongoing, "Position", lambda **facts: Position(seconds=1000, **facts))
    history = train(lm_learner(), [Phase("all groups", 1, 0, 1e-2)], tmp_path, lm_settings())
    assert 1000 <= history["seconds"][0] < 1100
