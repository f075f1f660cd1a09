"""What a training that goes badly says, once, and one that goes well does not."""

import logging
from dataclasses import replace

import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip

from tests.conftest import small_settings
from tests.test_training import PLAN, interrupted, lm_learner, lm_settings, train_classifier
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.run import begin
from ulmfit_app.training import loop, symptoms
from ulmfit_app.training.loop import train
from ulmfit_app.training.recipes import Phase


def everything(lr, epochs=3, **changes):
    return replace(PLAN, phases=(Phase("all groups", epochs, 0, lr, 1.3),), **changes)


def warned(caplog):
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def test_a_language_model_at_a_rate_of_10_says_once_that_its_rate_is_too_high(tmp_path, caplog):
    how = lm_settings(rate_setting="lm.random-lr")
    history = train(lm_learner(), [Phase("all groups", 3, 0, 10)], tmp_path, how)
    (said,) = warned(caplog)
    assert said.startswith("Warning: Language model, all groups: the training loss is ")
    assert said.endswith("and began at 3.92: the rate is too high. Lower the rate: --lm.random-lr")
    assert history["warnings"].tolist() == [symptoms.HIGH_LOSS, "", ""]
    assert (history["train_loss"] > 2 * 3.92).all()  # it could have said it three times


def test_a_classifier_at_a_rate_of_10_says_that_its_gradients_explode(tmp_path, caplog):
    _, history = train_classifier(tmp_path, plan=everything(10))
    assert history["warnings"][0] == f"{symptoms.HIGH_LOSS}; {symptoms.EXPLODING}"
    assert warned(caplog)[1].endswith(
        "on average. Clip it: --classifier.grad-clip 0.25. Lower the rate: --classifier.lr-mult"
    )


def test_a_training_that_goes_well_says_nothing_and_has_no_column_of_warnings(tmp_path, caplog):
    history = train(lm_learner(), [Phase("all groups", 3, 0, 4e-3)], tmp_path, lm_settings())
    _, of_classifier = train_classifier(tmp_path / "classifier")
    assert not warned(caplog)
    for one in (history, of_classifier):
        assert "warnings" not in one
        assert (one["grad_norm"] > 0.01).all()


def test_texts_learned_by_heart_are_noticed_by_the_validation_loss(tmp_path, caplog):
    """30 texts of chance words, whose labels say nothing."""
    _, history = train_classifier(tmp_path, plan=everything(5e-2, epochs=20, drop_mult=0.01))
    row = history.index[history.get("warnings", "") == symptoms.RISING].tolist()
    assert len(row) == 1
    losses = history["valid_loss"].tolist()[row[0] - 3 : row[0] + 1]
    assert losses == sorted(losses)
    (said,) = [one for one in warned(caplog) if "by heart" in one]
    assert f"rose for 3 epochs, from {losses[0]:.3g} to {losses[-1]:.3g}" in said
    assert f"--classifier.patience 2, or --classifier.epochs {row[0] - 2}" in said


def test_a_loss_that_rises_for_two_epochs_alone_or_by_little_says_nothing():
    def found(*losses):
        return symptoms.after_epoch([{"valid_loss": one} for one in losses], "lm.lr")

    assert not found(0.5, 0.6, 0.7)
    assert not found(0.6, 0.5, 0.6, 0.7)
    assert not found(0.5, 0.501, 0.502, 0.503)
    assert "--lm.epochs 2" in found(0.6, 0.5, 0.55, 0.6, 0.7)[symptoms.RISING]


class Freeze(Callback):
    """Gradients of a model that has stopped to learn."""

    order = GradientClip.order - 1

    def before_step(self):
        for each in self.model.parameters():
            if each.grad is not None:
                each.grad.mul_(1e-8)


def test_gradients_that_vanish_while_the_loss_is_high_are_noticed(tmp_path, caplog):
    learn = lm_learner()
    learn.add_cb(Freeze())
    history = train(learn, [Phase("all groups", 2, 0, 4e-3)], tmp_path, lm_settings())
    assert history["warnings"].tolist() == [symptoms.VANISHING, ""]
    assert "and the loss still 3.89: nothing" in warned(caplog)[0]


def test_gradients_that_vanish_with_the_loss_are_what_learning_ends_in():
    assert not symptoms.in_epoch(0.7, 1e-4, 1e-6, "lm.lr")
    assert list(symptoms.in_epoch(0.7, 0.5, 1e-6, "lm.lr")) == [symptoms.VANISHING]


def test_a_rate_far_from_the_finders_is_said_with_the_one_that_it_suggests(tmp_path, caplog):
    how = lm_settings(suggested_rate=4e-3)
    history = train(lm_learner(), [Phase("all groups", 2, 0, 1e-7)], tmp_path, how)
    assert history["warnings"].tolist() == [symptoms.ODD_RATE, ""]
    assert warned(caplog) == [
        "Warning: Language model, all groups: the rate is 1e-07, and the learning-rate finder "
        "suggests 4.0e-03: --lm.lr 4.0e-03"
    ]


@pytest.mark.parametrize(("rate", "is_odd"), [(0.041, True), (0.039, False), (3.9e-4, True)])
def test_the_finder_is_believed_within_a_factor_of_10(rate, is_odd):
    assert bool(symptoms.of_rate(rate, 4e-3, "lm.lr")) == is_odd
    assert not symptoms.of_rate(rate, None, "lm.lr")


def test_a_run_with_the_finder_compares_its_rate_to_what_that_found(csv, tmp_path, caplog):
    settings = small_settings(csv)
    lm = replace(settings.lm, epochs=1, lr_find=True, random_lr=1e-9, pretrained="none")
    begin(tmp_path / "run", replace(settings, lm=lm)).carry_out("lm")
    (said,) = warned(caplog)
    assert "the rate is 1e-09" in said
    assert "--lm.random-lr " in said
    assert read_history(tmp_path / "run" / "lm")["warnings"].tolist() == [symptoms.ODD_RATE]


def test_a_training_killed_while_it_goes_badly_ends_with_the_same_norms_and_warnings(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1)  # after every step
    monkeypatch.setattr(loop, "STEPS_BETWEEN_LOOKS", 2)

    def job(folder):
        return train_classifier(folder, plan=everything(10))

    _, whole = job(tmp_path / "whole")
    assert whole["warnings"][0]
    for at in (3, 7):
        _, again = interrupted(job, tmp_path / str(at), monkeypatch, at)
        pd.testing.assert_frame_equal(
            whole.drop(columns="seconds"), again.drop(columns="seconds"), check_exact=True
        )


class RecordedNorms(Callback):
    """The norm of each step's gradients, before they are clipped."""

    order = GradientClip.order - 1

    def __init__(self):
        self.seen = {}

    def before_step(self):
        grads = [each.grad.flatten() for each in self.model.parameters() if each.grad is not None]
        self.seen.setdefault(self.epoch, []).append(float(torch.cat(grads).norm()))


@pytest.mark.parametrize("largest", [None, 0.05])
def test_an_epochs_norm_is_the_mean_of_its_steps_before_clipping(tmp_path, largest):
    learn, norms = lm_learner(), RecordedNorms()
    learn.add_cb(norms)
    how = lm_settings(grad_clip=largest)
    history = train(learn, [Phase("all groups", 2, 0, 1e-2)], tmp_path, how)
    means = [sum(of_epoch) / len(of_epoch) for of_epoch in norms.seen.values()]
    assert history["grad_norm"].tolist() == pytest.approx(means, rel=1e-5)
    assert min(means) > 0.05


def test_gradients_are_clipped_as_fastai_clips_them(tmp_path, monkeypatch):
    def weights(folder):
        learn = lm_learner()
        train(learn, [Phase("all groups", 1, 0, 1e-2)], folder, lm_settings(grad_clip=0.05))
        return list(learn.model.parameters())

    class Fastais(GradientClip):
        def go_on(self, _):
            pass

        def tell(self, _):
            pass

    ours = weights(tmp_path / "ours")
    monkeypatch.setattr(loop, "GradientNorms", Fastais)
    assert all(map(torch.equal, ours, weights(tmp_path / "fastai's")))


def test_the_start_of_a_phase_of_pairs_is_not_that_of_the_classifier(tmp_path):
    phases = (Phase("pairs", 1, 0, 1e-3, objective="pairs"), Phase("head", 1, -1, 1e-3))
    job = loop.Training(phases, tmp_path, lm_settings(), lambda *_: None)
    job.position.start_loss = 0.1
    job.enter_phase(1)
    assert job.position.start_loss is None


def test_the_history_is_there_while_the_training_goes_on_and_makes_no_stage_finished(
    csv, tmp_path
):
    run, seen = begin(tmp_path / "run", small_settings(csv)), []

    def watch(title, history, _):
        if title == "Classifier" and history:
            seen.append(read_history(run.work / "classifier"))
            assert not run.is_finished("classifier")

    run.watches.append(watch)
    run.carry_out("classifier")
    assert [len(each) for each in seen] == list(range(1, len(seen) + 1))
    pd.testing.assert_frame_equal(seen[-1], read_history(run.folder / "classifier"))
