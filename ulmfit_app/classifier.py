"""The classifier: the fine-tuned encoder under a pooling head, trained by a plan (ULMFiT section 3.3).

Two classes differ from fastai's, and mend what makes a prediction there depend on its batch (fastai#3379): the encoder
looks at each text's own length, and the pooling sees every token of the text and nothing else.
"""

import math

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.text.learner import text_classifier_learner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
from fastai.text.models.core import (
    PoolingLinearClassifier,
    SentenceEncoder,
    SequentialRNN,
    _pad_tensor,
    get_text_classifier,
)
from torch import Tensor
from torch.nn import functional as F

from ulmfit_app.bundle import Bundle, require_direction
from ulmfit_app.config import ClassifierSettings, ModelSettings
from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.language_model import shaped, with_weights
from ulmfit_app.lstm import mend
from ulmfit_app.optimizer import FusedAdam
from ulmfit_app.recipes import PLANS, Plan, batch_size_for, epochs_of, fitted, lasting, with_enough_steps
from ulmfit_app.tokens import PAD_ID, ClassifierBatches, TokenStore, sha256_of_strings
from ulmfit_app.training import prepare

# fastai leaves a dropout of 0 out of the head, whose layers would then be numbered otherwise than in a bundle.
NO_DROPOUT = 1e-9
TOKENS_AT_A_TIME = 1 << 14  # in evaluation: few enough to take little memory


class TextEncoder(SentenceEncoder):
    """Encodes texts of any length in steps of `bptt` tokens and pools as it goes, so that memory does not grow with them.

    bptt: tokens a step; max_len: gradients reach back over a text's last `max_len` tokens; all of its tokens are pooled
    (fastai pools the last `max_len` only).
    """

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids: int64 [batch, length], padded on the right with `pad_idx`, rows in any order.

        Returns the pooled texts [batch, 3 * emb_sz], each the last state, the maximum and the mean over its tokens
        (section 3.3, "concat pooling"), and the encoder's outputs [batch, tokens, emb_sz], zero at padding, for the
        activation regularisation, rows by falling length; in evaluation these are empty.
        """
        lengths, order = (ids != self.pad_idx).sum(1).sort(descending=True, stable=True)
        self.reset()
        # A step's gradient for the embeddings is as large as what was looked up: the batch's words, not the vocabulary.
        words, ids = ids[order].unique(return_inverse=True)
        embeddings = self.module.encoder_dp(words)
        largest = total = None
        pooled, outputs = [], []
        steps = lengths.tolist()
        # Without a gradient to cut off, steps may be longer; that saves laying out the weights for each.
        step = self.bptt if self.training else max(self.bptt, TOKENS_AT_A_TIME // len(ids))
        for start in range(0, max(steps[0], 1), step):
            # Rows stand by length, so those with tokens left are always the first ones.
            alive = max(sum(length > start for length in steps), 1)
            end = start + step
            learns = any(length - self.max_len < end for length in steps[:alive])
            with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
                out = self.module(F.embedding(ids[:alive, start:end], embeddings), from_embeds=True)
                own = (torch.arange(start, start + out.shape[1], device=ids.device) < lengths[:alive, None])[:, :, None]
                here = out.masked_fill(~own, -torch.inf).amax(1)
                largest = here if largest is None else torch.maximum(largest[:alive], here)
                out = out.masked_fill(~own, 0)
                # A sum over thousands of tokens leaves the range of fp16.
                sums = out.float().sum(1)
                total = sums if total is None else total[:alive] + sums
            if self.training and learns:
                outputs.append(_pad_tensor(out, len(ids)))
            going_on = sum(length > end for length in steps)
            done = slice(going_on, alive)
            if going_on < alive:
                last = out[torch.arange(going_on, alive, device=ids.device), lengths[done] - start - 1]
                pooled.append(torch.cat([last, largest[done], total[done] / lengths[done, None]], 1))
            largest, total = largest[:going_on], total[:going_on]
        # The shortest texts were done first.
        texts = torch.cat(pooled[::-1])[order.argsort()]
        return texts, torch.cat(outputs, 1) if outputs else texts.new_zeros(0)


class PooledClassifier(PoolingLinearClassifier):
    """fastai's head over texts that are pooled already."""

    def forward(self, encoded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits [batch, classes] and, twice, what fastai's AR and TAR callbacks regularise."""
        texts, outputs = encoded
        return self.layers(texts), outputs, outputs


def _mend(model: SequentialRNN, grad_tokens: int) -> SequentialRNN:
    """fastai's text classifier with our encoder and head around the same parameters."""
    encoder, head = model[0], model[1]
    mend(encoder.module)
    for layer in encoder.module.rnns:
        layer.draws_at_reset = True
    model[0] = TextEncoder(encoder.bptt, encoder.module, PAD_ID, grad_tokens)
    # Only the forward pass differs.
    head.__class__ = PooledClassifier
    return model


def build_classifier(vocab_size: int, n_classes: int, shape: ModelSettings, bptt: int = 72) -> SequentialRNN:
    """A classifier with random weights, ready for a bundle's."""
    model = get_text_classifier(AWD_LSTM, vocab_size, n_classes, bptt, config=shaped(awd_lstm_clas_config, shape))
    return _mend(model, grad_tokens=0)


def choose_plan(
    settings: ClassifierSettings, strong_start: bool, passes: float | None = None, n_texts: int | None = None
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
            return lasting(plan, settings.epochs), f"{reason} {settings.epochs} epochs were asked for."
        except ValueError as error:
            raise SettingError(f"--classifier.epochs {settings.epochs}: {error}") from None
    if settings.plan != "auto":
        return plan, reason
    if strong_start and passes is not None:
        plan = fitted(plan, passes)
        reason += f" The time reaches for {passes:.1f} passes over the labels: {plan.name!r}, epochs: {epochs_of(plan)}."
    elif n_texts is not None:
        longer = with_enough_steps(plan, n_texts, settings.batch_size, math.inf if passes is None else passes)
        if longer != plan:
            plan, reason = longer, f"{reason} The labels are few, and each is read {epochs_of(longer)} times."
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
