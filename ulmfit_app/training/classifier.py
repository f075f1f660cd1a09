"""The classifier: the fine-tuned encoder under a pooling head, trained by a plan (ULMFiT section 3.3).

Two classes differ from fastai's, and mend what makes a prediction there depend on its batch (fastai#3379): the encoder
looks at each text's own length, and the pooling sees every token of the text and nothing else.
"""

import math

import numpy as np
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.text.learner import text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config

from ulmfit_app.config import ClassifierSettings
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.models.awd_lstm import shaped, with_weights
from ulmfit_app.models.awd_lstm_classifier import NO_DROPOUT, _mend
from ulmfit_app.models.bundle import Bundle, require_direction
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.store import TokenStore
from ulmfit_app.training.loop import prepare
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import (
    PLANS,
    Plan,
    batch_size_for,
    epochs_of,
    fitted,
    lasting,
    with_enough_steps,
)


def choose_plan(
    settings: ClassifierSettings,
    strong_start: bool,
    passes: float | None = None,
    n_texts: int | None = None,
) -> tuple[Plan, str]:
    """The plan that the settings name, and in sentences why it is this one.

    passes: over all labelled texts, for which there is time; None: as many as the plan has epochs. n_texts: labelled ones,
    where they are known.
    Raises SettingError for fewer epochs than the plan has phases.
    """
    if settings.plan != "auto":
        plan, reason = PLANS[settings.plan], f"The plan {settings.plan!r} was asked for."
    elif not strong_start:
        plan = PLANS["weak-start"]
        reason = (
            "The plan for a weak start, since the language model did not start from one that learned from general text; the "
            "published rates assume an encoder that knows the language."
        )
    elif passes is None:
        plan = PLANS["published"]
        reason = "The published plan, since the language model started from one that learned from general text."
    else:
        plan = PLANS["full-discr"]
        reason = (
            "All groups learn from the first step on, at discriminative rates: from a start that learned from general text, "
            "that is better than gradual unfreezing where epochs are few."
        )
    if settings.epochs is not None:
        try:
            return lasting(
                plan, settings.epochs
            ), f"{reason} {settings.epochs} epochs were asked for."
        except ValueError as error:
            raise SettingError(f"--classifier.epochs {settings.epochs}: {error}") from None
    if settings.plan != "auto":
        return plan, reason
    if strong_start and passes is not None:
        plan = fitted(plan, passes)
        reason += f" The time reaches for {passes:.1f} passes over the labels: {plan.name!r}, epochs: {epochs_of(plan)}."
    elif n_texts is not None:
        longer = with_enough_steps(
            plan, n_texts, settings.batch_size, math.inf if passes is None else passes
        )
        if longer != plan:
            plan, reason = (
                longer,
                f"{reason} The labels are few, and each is read {epochs_of(longer)} times.",
            )
    return plan, reason


def learner(
    store: TokenStore,
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    n_classes: int,
    language_model: Bundle,
    plan: Plan,
    settings: ClassifierSettings,
    precision: str,
    seed: int,
) -> Learner:
    """fastai's classifier Learner over our batches, on the encoder of a fine-tuned language model.

    train, valid: (which texts of the store, the index of each one's label).
    Raises BundleError when the store's ids mean other words than the language model's, or come in the other direction.
    """
    require_direction(language_model.direction, store.direction, "The language model")
    if sha256_of_strings(store.words) != language_model.vocab_hash:
        raise BundleError(
            "The texts were numericalised with another vocabulary than the language model's: its encoder would read every "
            "word as another. Run the stages again in one run folder."
        )
    batch_size = batch_size_for(len(train[0]), settings.batch_size)
    batches = ClassifierBatches(store, *train, batch_size, seed, shuffle=True)
    check = ClassifierBatches(store, *valid, settings.batch_size)
    learn = text_classifier_learner(
        DataLoaders(batches, check),
        AWD_LSTM,
        config=shaped(awd_lstm_clas_config, language_model.shape),
        drop_mult=plan.drop_mult or NO_DROPOUT,
        pretrained=False,
        n_out=n_classes,
        loss_func=CrossEntropyLossFlat(),
        metrics=[accuracy],
        opt_func=FusedAdam,
    )
    learn.model[0].module.load_state_dict(with_weights(language_model)[0].state_dict())
    _mend(learn.model, settings.grad_tokens)
    return prepare(learn, precision)
