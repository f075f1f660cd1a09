"""How much of the data is used, and how long it will take: bounds in tokens, measured rates, and the plan in minutes.

Bounds are in training tokens and not in minutes, so that the same command does the same work whatever else the machine is
doing. `--minutes` measures the machine once, and turns the time into such bounds.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ulmfit_app.config import ModelSettings, Settings
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.hardware import autocast, resolve_precision
from ulmfit_app.models.awd_lstm import build
from ulmfit_app.models.awd_lstm_classifier import build_classifier
from ulmfit_app.models.pretrained import Start
from ulmfit_app.models.softmax import Sampler
from ulmfit_app.pipeline.selection import Selection, planned_tokens
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import Plan, epochs_of

SAMPLE = 200  # texts a rate is measured on
FIXED_SECONDS = 30  # imports, figures, files
TEST_SHARE = 0.25  # of the time, at most, for scoring the test split
LM_SHARE = 0.3  # of the time left for training, at least


# ------------------------------------------------------------------------------------------------------ how long it takes
@dataclass(frozen=True)
class Rates:
    """Seconds a token on this machine, of models all directions of the run together."""

    tokenizing: float
    lm_training: float
    classifier_training: float  # all groups learning
    encoding: float  # forward only
    baseline: float


def _seconds(step: Callable[[], None], repeats: int = 2) -> float:
    step()  # warms up
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - began) / repeats


def measure(texts: pd.Series, start: Start, settings: Settings) -> Rates:
    """Time a few real steps of each stage on a sample of the texts, in the shapes that the run will have."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sample = texts.iloc[
        np.random.default_rng(settings.seed).permutation(len(texts))[:SAMPLE]
    ].tolist()
    tokenizer = Tokenizer(settings.tokens.language)
    began = time.perf_counter()
    n_tokens = sum(len(tokenizer(text)) for text in sample)
    tokenizing = (time.perf_counter() - began) / n_tokens
    began = time.perf_counter()
    truth = np.arange(len(sample)) % 2
    tfidf_logistic_regression(sample, truth, sample, 2, settings.seed, settings.tokens.language)
    baseline = (time.perf_counter() - began) / n_tokens

    # Vocabularies grow about with the square root of a text (Heaps' law); this is generous for words seen three times.
    in_all = int(planned_tokens(texts, settings.tokens.language).sum())
    vocab_size = min(
        settings.tokens.max_vocab, max(1_000 + int(12 * in_all**0.5), len(start.vocab or ()))
    )
    lm_training = language_model_seconds(vocab_size, start.shape, settings)
    precision = resolve_precision(settings.precision)
    length = max(n_tokens // len(sample), 2)
    clas = build_classifier(vocab_size, 2, start.shape).to(device).train()
    # Gradients over whole texts, as in training.
    clas[0].max_len = length
    texts = torch.randint(9, vocab_size, (settings.classifier.batch_size, length), device=device)
    labels = texts.new_zeros(len(texts))
    classifier_training = _training_seconds(
        clas, texts, lambda logits: cross_entropy(logits, labels), precision
    )
    clas.eval()
    with torch.inference_mode(), autocast(precision, device.type):
        encoding = _seconds(lambda: clas(texts)) / texts.numel()
    directions = 1 + settings.bidirectional
    of_models = (directions * rate for rate in (lm_training, classifier_training, encoding))
    return Rates(tokenizing / torch.get_num_threads(), *of_models, baseline)


def language_model_seconds(vocab_size: int, shape: ModelSettings, settings: Settings) -> float:
    """Seconds a token of training a language model here, by `settings.lm`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vocab = [str(i) for i in range(vocab_size)]
    model = build(vocab, shape, settings.lm.drop_mult).to(device).train()
    if settings.lm.softmax == "sampled":
        model[1].sampler = Sampler(np.ones(vocab_size))
    ids = torch.randint(9, vocab_size, (settings.lm.batch_size, settings.lm.bptt), device=device)
    return _training_seconds(
        model, ids, lambda logits: logits.cross_entropy(ids), resolve_precision(settings.precision)
    )


def _training_seconds(
    model: nn.Module, ids: Tensor, loss_of: Callable[[Any], Tensor], precision: str
) -> float:
    """Seconds a token of training steps on ids [batch, tokens]; loss_of: a prediction's loss."""
    optimizer = FusedAdam(list(model.parameters()), lr=1e-5)

    def step() -> None:
        model.reset()
        with autocast(precision, ids.device.type):
            loss = loss_of(model(ids)[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _seconds(step) / ids.numel()


def estimate(
    table: pd.DataFrame, selection: Selection, plan: Plan, settings: Settings, rates: Rates
) -> dict[str, float]:
    """Seconds a stage will take for the selected rows."""
    of_text = planned_tokens(table["text"], settings.tokens.language)
    tokens = (
        of_text.groupby(selection.split)
        .sum()
        .reindex(["train", "valid", "test", "unlabelled"], fill_value=0.0)
    )
    read = of_text[selection.read].sum()
    epochs = epochs_of(plan)
    groups = 5  # embedding, three layers, head; a frozen group costs its forward pass alone
    learning = sum(
        phase.epochs
        * (
            rates.encoding
            + (rates.classifier_training - rates.encoding)
            * _learning_share(phase.freeze_to, groups)
        )
        for phase in plan.phases
    )
    return {
        "tokens": rates.tokenizing * (tokens.sum()),
        # A validation pass saves the backward pass, two thirds of the work.
        "language model": selection.lm_epochs * rates.lm_training * (read + tokens["valid"] / 3),
        # Once more than there are epochs, to fit the temperature.
        "classifier": learning * tokens["train"] + (epochs + 1) * rates.encoding * tokens["valid"],
        "report": rates.encoding * tokens["test"]
        + rates.baseline * (tokens["train"] + tokens["test"]),
        "start and files": FIXED_SECONDS,
    }


def _learning_share(freeze_to: int, groups: int) -> float:
    return 1.0 if freeze_to >= 0 else -freeze_to / groups


def fit(
    minutes: float,
    elapsed: float,
    table: pd.DataFrame,
    plan_for: Callable[[float], Plan],
    settings: Settings,
    rates: Rates,
) -> Settings:
    """Settings whose bounds in tokens fill the time that is left of `minutes`.

    elapsed: seconds used so far. plan_for: the classifier's plan, given the passes over all labels that there is time for.
    Raises SettingError when the time does not reach for anything.
    """
    tokens = planned_tokens(table["text"], settings.tokens.language)
    by_split = tokens.groupby(table["split"]).sum()
    left = minutes * 60 - elapsed - FIXED_SECONDS
    a_test_token = rates.tokenizing + rates.encoding + rates.baseline
    test_seconds = a_test_token * by_split["test"]
    data = settings.data
    if test_seconds > TEST_SHARE * left > 0:
        n_test = int((table["split"] == "test").sum() * TEST_SHARE * left / test_seconds)
        data = replace(
            data, max_test=min(max(n_test, table["label"].nunique()), data.max_test or n_test)
        )
        test_seconds = TEST_SHARE * left
    left -= test_seconds
    passes = (1 - LM_SHARE) * left / (rates.classifier_training * by_split["train"])
    epochs = epochs_of(plan_for(max(passes, 0)))
    left -= by_split["valid"] * (
        rates.tokenizing + (epochs + 1) * rates.encoding + rates.lm_training / 3
    )
    if left < 20:
        needed = minutes + (20 - left) / 60
        raise SettingError(
            f"{minutes:g} minutes do not reach for training here: start, validation and test take all of them. "
            f"Use --minutes {needed + 1:.0f} or more, a smaller --max-test and --max-valid, or --preset tiny"
        )
    a_classifier_token = rates.classifier_training + (rates.tokenizing + rates.baseline) / epochs
    classifier_tokens = (1 - LM_SHARE) * left / a_classifier_token
    needed = by_split["train"] * epochs
    if classifier_tokens > needed:
        classifier_tokens = needed * 1.01
    lm_tokens = (left - classifier_tokens * a_classifier_token) / (
        rates.lm_training + rates.tokenizing
    )
    return replace(
        settings,
        data=data,
        lm=replace(settings.lm, max_tokens=int(lm_tokens)),
        classifier=replace(settings.classifier, max_tokens=int(classifier_tokens)),
    )
