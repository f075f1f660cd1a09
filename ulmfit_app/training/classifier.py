"""The classifier's Learner, and the plan by which it is trained (ULMFiT section 3.3).

fastai's classifier under our pooling, on the encoder of a fine-tuned language model. fastai's
`save_encoder` keeps no vocabulary; here an encoder whose words have other ids is refused.
"""

import math

import numpy as np
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.text.learner import text_classifier_learner

from ulmfit_app.config import ClassifierSettings, Direction, Precision
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.models.awd_lstm import (
    AWDLSTM,
    NO_DROPOUT,
    classifier_config,
    load_language_model,
    with_pooling,
)
from ulmfit_app.models.bundle import Bundle, require_direction
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.store import TokenStore
from ulmfit_app.training.loop import TrainingSettings, prepare
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import (
    Plan,
    batch_size_for,
    count_epochs,
    extend_to,
    extend_to_enough_steps,
    fit_plan_to,
    make_plan,
)

WHY = {
    "weak-start": "The plan for a weak start, since the language model did not start from one "
    "that learned from general text; the published rates assume an encoder that knows the "
    "language.",
    "published": "The published plan, since the language model started from one that learned from "
    "general text.",
    "full-discr": "All groups learn from the first step on, at discriminative rates: from a start "
    "that learned from general text, that is better than gradual unfreezing where epochs are few.",
}


def choose_plan(
    settings: ClassifierSettings,
    n_groups: int,
    is_strong_start: bool,
    passes: float | None = None,
    n_texts: int | None = None,
) -> tuple[Plan, str]:
    """Choose the plan that the settings name, and say in sentences why it is this one.

    Args:
        settings: plan, epochs and batch size.
        n_groups: layer groups of the classifier.
        is_strong_start: whether the language model started from one that knows the language.
        passes: over all labelled texts, for which there is time; None: as many as the plan has.
        n_texts: labelled ones, where they are known.

    Raises:
        SettingError: fewer epochs than the plan has phases.
    """
    name, reason = settings.plan, f"The plan {settings.plan!r} was asked for."
    if name == "auto":
        strong = "published" if passes is None else "full-discr"
        name = strong if is_strong_start else "weak-start"
        reason = WHY[name]
    plan = make_plan(name, n_groups)
    if settings.epochs is not None:
        try:
            plan = extend_to(plan, settings.epochs)
        except ValueError as error:
            raise SettingError(f"--classifier.epochs {settings.epochs}: {error}") from None
        return plan, f"{reason} {settings.epochs} epochs were asked for."
    if settings.plan != "auto":
        return plan, reason
    if is_strong_start and passes is not None:
        plan = fit_plan_to(plan, passes)
        reason += (
            f" The time is enough for {passes:.1f} passes over the labels: {plan.name!r}, "
            f"epochs: {count_epochs(plan)}."
        )
    elif n_texts is not None:
        most = math.inf if passes is None else passes
        longer = extend_to_enough_steps(plan, n_texts, settings.batch_size, most)
        if longer != plan:
            times = count_epochs(longer)
            plan, reason = longer, f"{reason} The labels are few, and each is read {times} times."
    return plan, reason


def make_learner(
    store: TokenStore,
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    n_classes: int,
    language_model: Bundle,
    plan: Plan,
    settings: ClassifierSettings,
    precision: Precision,
    seed: int,
) -> Learner:
    """fastai's classifier Learner over our batches, on the encoder of a language model.

    Args:
        store: texts, read in its direction.
        train, valid: which of them [n], and the index of each one's label [n].
        n_classes: labels.
        language_model: fine-tuned.
        plan: its dropouts.
        settings: of the batches.
        precision: of matrix products.
        seed: of the order of texts.

    Raises:
        BundleError: the store's ids mean other words than the language model's, or come in the
            other direction.
    """
    require_direction(language_model.direction, store.direction, "The language model")
    if sha256_of_strings(store.words) != language_model.vocab_hash:
        raise BundleError(
            "The texts were numericalised with another vocabulary than the language model's: its "
            "encoder would read every word as another. Run the stages again in one run folder."
        )
    batch_size = batch_size_for(len(train[0]), settings.batch_size)
    batches = ClassifierBatches(store, *train, batch_size, seed, shuffle=True)
    learn = text_classifier_learner(
        DataLoaders(batches, ClassifierBatches(store, *valid, settings.batch_size)),
        AWDLSTM,
        config=classifier_config(language_model.shape),
        drop_mult=plan.drop_mult or NO_DROPOUT,
        pretrained=False,
        n_out=n_classes,
        loss_func=CrossEntropyLossFlat(),
        metrics=[accuracy],
        opt_func=FusedAdam,
    )
    encoder = load_language_model(language_model)[0]
    learn.model[0].module.load_state_dict(encoder.state_dict())
    learn.model = with_pooling(learn.model, settings.grad_tokens)
    return prepare(learn, precision)


def training_settings(
    settings: ClassifierSettings, direction: Direction, key: str
) -> TrainingSettings:
    """How its Learner is trained: the epoch of the best validation accuracy is kept."""
    return TrainingSettings(
        "Classifier" if direction == "forward" else f"Classifier, {direction}",
        key,
        settings.schedule,
        settings.weight_decay,
        settings.grad_clip,
        settings.patience,
        select_by="accuracy",
        section="classifier",
    )
