"""Which epoch a training ends with, where training and validation say the opposite."""

import logging

import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy

from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.store import TokenStore
from ulmfit_app.training.loop import prepare, train
from ulmfit_app.training.ongoing import TrainingSettings
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import Phase


def macro_f1(logits, truth):
    """Of two classes of which all or none are right, the accuracy."""
    return accuracy(logits, truth)


@pytest.mark.parametrize(
    ("select_by", "why"),
    [("accuracy", ""), ("valid_loss", ""), ("macro_f1", ", of the best macro F1")],
)
def test_the_best_epoch_is_that_of_validation_where_training_says_the_last(
    tmp_path, select_by, why, caplog
):
    """The validation labels are the wrong ones: the better the model learns, the worse it does."""
    caplog.set_level(logging.INFO, "ulmfit_app")
    words = np.tile([10, 11], 8)
    store = TokenStore(words.astype(np.int32), np.arange(17), [f"w{i}" for i in range(12)])
    train_texts, valid_texts = np.arange(8), np.arange(8, 16)
    dls = DataLoaders(
        ClassifierBatches(store, train_texts, words[:8] - 10, 4, shuffle=True),
        ClassifierBatches(store, valid_texts, 11 - words[8:], 4),
    )
    model = torch.nn.EmbeddingBag(12, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[10, 1] = model.weight[11, 0] = 0.3
    learn = prepare(
        Learner(dls, model, CrossEntropyLossFlat(), FusedAdam, metrics=[accuracy, macro_f1]),
        "fp32",
    )
    how = TrainingSettings("toy", "k", "constant", 0.0, select_by=select_by)
    history = train(learn, [Phase("all groups", 5, 0, lr=0.05)], tmp_path, how)
    assert history["train_loss"].is_monotonic_decreasing
    assert history["accuracy"].iloc[[0, -1]].tolist() == [1, 0]
    loss, right, _ = learn.validate()
    assert (loss, right) == (pytest.approx(history["valid_loss"].iloc[0]), 1)
    kept = f"toy: the epoch kept is 1 of the phase 'all groups'{why}."
    assert kept in [record.getMessage() for record in caplog.records]
