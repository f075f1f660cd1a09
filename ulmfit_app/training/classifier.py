"""The classifier's Learner (ULMFiT section 3.3).

fastai's classifier under our pooling, on the encoder of a fine-tuned language model. fastai's
`save_encoder` keeps no vocabulary; here an encoder whose words have other ids is refused.
"""

import logging

import numpy as np
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.metrics import AccumMetric, accuracy
from fastai.text.learner import text_classifier_learner
from fastcore.basics import noop
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor

from ulmfit_app.config import ClassifierSettings, Direction, Precision
from ulmfit_app.errors import BundleError
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.models.awd_lstm import (
    AWDLSTM,
    NO_DROPOUT,
    classifier_config,
    load_language_model,
    with_pooling,
)
from ulmfit_app.models.bundle import Bundle, require_direction
from ulmfit_app.models.pooling import TextEncoder
from ulmfit_app.models.shapes import Shape
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.store import TokenStore
from ulmfit_app.training import transformer
from ulmfit_app.training.balance import make_loss, metric_to_select_by, resample
from ulmfit_app.training.choosing import batch_size_for
from ulmfit_app.training.loop import prepare
from ulmfit_app.training.memory import keep_what_fits
from ulmfit_app.training.ongoing import TrainingSettings
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import Plan

log = logging.getLogger(__name__)


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
    trained: tuple[Shape, dict[str, Tensor]] | None = None,
) -> Learner:
    """fastai's classifier Learner over our batches, on the encoder of a language model.

    Args:
        store: texts, read in its direction.
        train, valid: which of them [n], and the index of each one's label [n], or, of several
            labels, 1 for each that it has and 0 for the others [n, n_classes]; train may have a
            teacher's answers instead.
        n_classes: labels.
        language_model: fine-tuned.
        plan: its dropouts.
        settings: of the batches.
        precision: of matrix products.
        seed: of the order of texts.
        trained: shape and weights of a classifier of the same words to go on from, in the place of
            the language model's encoder.

    Raises:
        BundleError: the store's ids mean other words than the language model's, or come in the
            other direction.
    """
    require_direction(language_model.direction, store.direction, "The language model")
    shape = trained[0] if trained else language_model.shape
    if sha256_of_strings(store.words) != language_model.vocab_hash:
        raise BundleError(
            "The texts were numericalised with another vocabulary than the language model's: its "
            "encoder would read every word as another. Run the stages again in one run folder."
        )
    multilabel, truth = np.ndim(valid[1]) == 2, np.asarray(train[1])
    loss = make_loss(settings.balance, truth, n_classes)
    if truth.ndim == 1:  # neither several labels nor a teacher's answers
        sampled = resample(truth, settings.balance, seed)
        train = np.asarray(train[0])[sampled], truth[sampled]
    data = store, train, valid, n_classes
    make = (
        transformer.make_classifier_learner
        if language_model.architecture == "transformer"
        else _on_awd_lstm
    )
    start = None if trained else language_model
    learn = make(*data, shape, start, plan.drop_mult, settings, seed)
    learn.loss_func, learn.metrics = loss, _metrics(settings, multilabel)
    if trained:
        learn.model.load_state_dict(trained[1])
    if isinstance(learn.model[0], TextEncoder):
        _keep_what_fits(learn, settings, precision)
    return prepare(learn, precision)


def _keep_what_fits(learn: Learner, settings: ClassifierSettings, precision: Precision) -> None:
    batches = learn.dls.train
    longest = batches.lengths[batches.order[: batches.batch_size]].tolist()
    said = keep_what_fits(learn.model, longest, settings, precision, learn.dls.device)
    if said:
        log.info(said)


def _metrics(settings: ClassifierSettings, multilabel: bool) -> list:
    by = metric_to_select_by(settings, multilabel)
    if by == "average_precision":
        return [AccumMetric(_mean_average_precision, flatten=False, name=by)]
    of_classes = AccumMetric(f1_score, -1, invert_arg=True, name="macro_f1", average="macro")
    return [accuracy, *([of_classes] if by == "macro_f1" else [])]


def _mean_average_precision(scores: Tensor, truth: Tensor) -> float:
    """Over the labels that a text has: of the others it is undefined, and scikit-learn says 0."""
    seen = truth.any(dim=0)
    if not seen.any():
        return 0.0
    return float(average_precision_score(truth[:, seen], scores[:, seen].float(), average="macro"))


def _on_awd_lstm(
    store: TokenStore,
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    n_classes: int,
    shape: Shape,
    language_model: Bundle | None,
    drop_mult: float,
    settings: ClassifierSettings,
    seed: int,
) -> Learner:
    batch_size = batch_size_for(len(train[0]), settings.batch_size)
    batches = ClassifierBatches(store, *train, batch_size, seed, shuffle=True)
    learn = text_classifier_learner(
        DataLoaders(batches, ClassifierBatches(store, *valid, settings.batch_size)),
        AWDLSTM,
        config=classifier_config(shape),
        drop_mult=drop_mult or NO_DROPOUT,
        pretrained=False,
        n_out=n_classes,
        # Before labels are known, so that fastai looks for none of its own.
        loss_func=noop,
        opt_func=FusedAdam,
    )
    if language_model is not None:
        encoder = load_language_model(language_model)[0]
        learn.model[0].module.load_state_dict(encoder.state_dict())
    learn.model = with_pooling(learn.model, settings.grad_tokens)
    return learn


def training_settings(
    settings: ClassifierSettings, direction: Direction, key: str, multilabel: bool = False
) -> TrainingSettings:
    """How its Learner is trained, and which epoch is kept."""
    return TrainingSettings(
        "Classifier" if direction == "forward" else f"Classifier, {direction}",
        key,
        settings.schedule,
        settings.weight_decay,
        settings.grad_clip,
        settings.patience,
        select_by=metric_to_select_by(settings, multilabel),
        section="classifier",
        rate_setting="classifier.lr-mult",
    )
