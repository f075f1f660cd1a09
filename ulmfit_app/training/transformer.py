"""Learners on a pretrained transformer: its language model, and the classifier on its encoder.

They are fastai's `Learner` over our batches. fastai's constructors for text build recurrent models
alone; the loop, the schedules and the checkpoints are those of AWD-LSTM.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from fastai.callback.rnn import RNNCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import Perplexity, accuracy
from fastcore.basics import noop
from torch import nn

from ulmfit_app.config import ClassifierSettings, LanguageModelSettings
from ulmfit_app.models.adapters import VIRTUAL_TOKENS, with_adapter
from ulmfit_app.models.architectures import subwords_of
from ulmfit_app.models.bundle import Bundle
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.softmax import cross_entropy
from ulmfit_app.models.start import Start
from ulmfit_app.models.transformer import (
    build_classifier,
    build_language_model,
    load_language_model,
    parameter_groups,
)
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.windows import Objective, WindowBatches
from ulmfit_app.training.choosing import batch_size_for, passes_for
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import Plan


def make_language_model_learner(
    store: TokenStore,
    train: np.ndarray,
    valid: np.ndarray,
    start: Start,
    settings: LanguageModelSettings,
    seed: int,
) -> Learner:
    """A Learner that trains a transformer to predict masked tokens, or the next one.

    Args:
        store: texts as ids of the transformer.
        train, valid: which of them, [n].
        start: the transformer, with its weights.
        settings: of the batches.
        seed: of the order of texts, and of what is masked.
    """
    shape: TransformerShape = start.shape
    tokenizer = subwords_of(start)
    objective = Objective(shape.mask, tokenizer.specials, tokenizer.unknown)
    sizes = settings.batch_size, shape.window, objective
    dls = DataLoaders(
        WindowBatches(store, train, *sizes, seed, shuffle=True),
        WindowBatches(store, valid, *sizes, seed),
    )
    model = build_language_model(shape)
    model.load_state_dict(start.weights)
    return Learner(
        dls,
        model,
        loss_func=cross_entropy,
        splitter=partial(_groups_of_language_model, shape=shape),
        metrics=[accuracy, Perplexity()],
        opt_func=FusedAdam,
        cbs=[RNNCallback()],
    )


def make_classifier_learner(
    store: TokenStore,
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    n_classes: int,
    shape: TransformerShape,
    language_model: Bundle | None,
    drop_mult: float,
    settings: ClassifierSettings,
    seed: int,
) -> Learner:
    """A Learner that trains a classifier on the encoder of a transformer, still without a loss.

    Args:
        store: texts as ids of the transformer.
        train, valid: which of them [n], and the index of each one's label [n].
        n_classes: labels.
        shape: of the language model, or of a classifier that was trained before.
        language_model: fine-tuned, or as it came; None: the encoder has random weights.
        drop_mult: times the head's dropout.
        settings: of the batches, the pooling, the groups and the adapter.
        seed: of the order of texts.

    Raises:
        SettingError: as `with_adapter` does.
    """
    shape = classifier_shape(shape, settings) if language_model else shape
    batch_size = batch_size_for(len(train[0]), settings.batch_size)
    passes = passes_for(len(train[0]), batch_size)
    batches = ClassifierBatches(store, *train, batch_size, seed, shuffle=True, passes=passes)
    module = None
    if language_model:
        module = with_adapter(load_language_model(language_model).encoder, shape)
    model = build_classifier(shape, n_classes, module, drop_mult, settings.grad_tokens)
    return Learner(
        DataLoaders(batches, ClassifierBatches(store, *valid, settings.batch_size)),
        model,
        # Before labels are known, so that fastai looks for none of its own.
        loss_func=noop,
        splitter=partial(_groups_of_classifier, shape=shape),
        opt_func=FusedAdam,
        # fastai would let the normalisations of frozen blocks learn.
        train_bn=False,
        cbs=[RNNCallback()],
    )


# Functions with names, which a Learner can be sent to other processes with.
def _groups_of_language_model(model: nn.Module, shape: TransformerShape) -> list:
    return parameter_groups(model.encoder, shape, model.parameters())


def _groups_of_classifier(model: nn.Module, shape: TransformerShape) -> list:
    return parameter_groups(model[0].module, shape, model[1].parameters())


def classifier_shape(shape: TransformerShape, settings: ClassifierSettings) -> TransformerShape:
    """The shape of a classifier on a transformer."""
    how = {name: getattr(settings, name) for name in ("groups", "pooling", "adapter")}
    # A soft prompt takes positions.
    taken = VIRTUAL_TOKENS if settings.adapter == "prompt" else 0
    return replace(shape, window=shape.window - taken, **how)


def count_parameters(learn: Learner, plan: Plan) -> dict[str, int]:
    """Parameters of a classifier, and how many of them learn in some phase of a plan.

    Args:
        learn: as `make_classifier_learner` gives it.
        plan: that it is trained by.
    """
    groups = learn.splitter(learn.model)
    learning = {i for phase in plan.phases for i in phase.learning(len(groups))}
    return {
        "parameters": sum(each.numel() for each in learn.model.parameters()),
        "trained_parameters": sum(each.numel() for i in learning for each in groups[i]),
    }
