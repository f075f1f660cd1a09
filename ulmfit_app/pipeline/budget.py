"""How long a run will take: measured rates, the estimate, and the plan in minutes.

Bounds are in training tokens and not in minutes, so that the same command does the same work
whatever else the machine is doing. `--minutes` measures the machine, and turns the time into such
bounds; `refitting` does so again on the way.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from ulmfit_app.config import ModelSettings, Settings
from ulmfit_app.errors import SettingError
from ulmfit_app.evaluation.baselines import tfidf_logistic_regression
from ulmfit_app.hardware import autocast, choose_device, resolve_precision, wait_for_device
from ulmfit_app.languages import has_subwords
from ulmfit_app.models import transformer
from ulmfit_app.models.architectures import subwords_of
from ulmfit_app.models.awd_lstm import build_classifier, build_language_model
from ulmfit_app.models.pooling import TextEncoder
from ulmfit_app.models.shapes import Shape, TransformerShape
from ulmfit_app.models.softmax import Logits, Sampler, trains_in_pieces
from ulmfit_app.models.start import Start
from ulmfit_app.pipeline.selection import Selection, count_tokens_roughly
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.windows import MASKED
from ulmfit_app.training.memory import keep_what_fits
from ulmfit_app.training.optimizer import FusedAdam
from ulmfit_app.training.recipes import Phase, Plan, count_epochs

SAMPLE = 200  # texts a rate is measured on
FEW_TEXTS = 8  # in a step of a transformer, which may be large
FIXED_SECONDS = 30  # imports, figures, files
TEST_SHARE = 0.25  # of the time, at most, for scoring the test split
LM_SHARE = 0.3  # of the time left for training, at least
FEWEST_SECONDS = 20  # of training


@dataclass(frozen=True)
class Rates:
    """Seconds per token on this machine, of the models of all directions of the run together."""

    tokenizing: float
    lm_training: float
    classifier_training: float  # all groups learning
    encoding: float  # forward only
    baseline: float


# --------------------------------------------------------------------------------------- measuring
def measure_rates(texts: pd.Series, start: Start, settings: Settings) -> Rates:
    """Time a few real steps of each stage, in the shapes that the run will have.

    Args:
        texts: a sample of them is read.
        start: its shape, and its number of words.
        settings: of the run.
    """
    generator = np.random.default_rng(settings.seed)
    sample = texts.iloc[generator.permutation(len(texts))[:SAMPLE]].tolist()
    began = time.perf_counter()
    n_tokens = _count_tokens(sample, start, settings)
    tokenizing = (time.perf_counter() - began) / n_tokens / torch.get_num_threads()
    began = time.perf_counter()
    truth = np.arange(len(sample)) % 2
    tfidf_logistic_regression(sample, truth, sample, 2, settings.seed, settings.tokens.language)
    baseline = (time.perf_counter() - began) / n_tokens

    vocab_size = _vocab_size(texts, start, settings)
    length = max(n_tokens // len(sample), 2)
    if isinstance(start.shape, TransformerShape):
        lm_training = _measure_transformer(start.shape, length, settings)
    else:
        lm_training = measure_language_model(vocab_size, start.shape, settings)
    of_classifier = _measure_classifier(vocab_size, length, start.shape, settings)
    directions = 1 + settings.bidirectional
    of_models = (directions * rate for rate in (lm_training, *of_classifier))
    return Rates(tokenizing, *of_models, baseline)


def _count_tokens(texts: list[str], start: Start, settings: Settings) -> int:
    if start.tokenizer:
        return sum(map(len, subwords_of(start, settings.tokens.opencc).ids(texts)))
    language = settings.tokens.language
    # They are not learned yet, or the facts of the start alone are known.
    if start.has_subwords or has_subwords(language):
        return int(count_tokens_roughly(pd.Series(texts), language).sum())
    return sum(map(len, Tokenizer(language).each(texts)))


def _vocab_size(texts: pd.Series, start: Start, settings: Settings) -> int:
    if start.has_subwords:  # all of them are kept
        return start.n_words
    # Vocabularies grow about with the square root of a text (Heaps' law); this is generous for
    # words seen three times.
    in_all = int(count_tokens_roughly(texts, settings.tokens.language).sum())
    return min(settings.tokens.max_vocab, max(1_000 + int(12 * in_all**0.5), start.n_words))


def measure_language_model(vocab_size: int, shape: ModelSettings, settings: Settings) -> float:
    """Seconds per token of training a language model here, by `settings.lm`."""
    device = choose_device()
    model = build_language_model(vocab_size, shape, settings.lm.drop_mult).to(device).train()
    if settings.lm.softmax == "sampled":
        model[1].sampler = Sampler(np.ones(vocab_size))
    ids = torch.randint(9, vocab_size, (settings.lm.batch_size, settings.lm.bptt), device=device)
    precision = resolve_precision(settings.precision)

    def loss_of(logits: Logits) -> Tensor:
        if trains_in_pieces(settings.lm.softmax, device):
            return logits.cross_entropy(ids)
        # As fastai's head and loss, which train on CUDA: all logits at once, the loss in fp32.
        whole = linear(logits.hidden, logits.weight, logits.bias)
        return cross_entropy(whole.flatten(0, 1).float(), ids.flatten())

    return _time_training(model, ids, lambda: loss_of(model(ids)[0]), precision)


def _measure_transformer(shape: TransformerShape, length: int, settings: Settings) -> float:
    """Seconds per token of training a transformer's language model on texts of a length."""
    device = choose_device()
    model = transformer.build_language_model(shape).to(device).train()
    length = min(length, shape.window)
    ids = torch.randint(len(shape.end) + 1, shape.model["vocab_size"], (FEW_TEXTS, length + 1))
    ids = ids.to(device)
    where = torch.rand(ids.shape, device=device) < (MASKED if shape.kind == "masked" else 1)
    where[:, -1] = True
    return _time_training(
        model,
        ids,
        lambda: model(ids, where)[0].cross_entropy(ids[where]),
        resolve_precision(settings.precision),
    )


def _measure_classifier(
    vocab_size: int, length: int, shape: Shape, settings: Settings
) -> tuple[float, float]:
    """Seconds per token of training a classifier on texts of a length, and of reading alone."""
    device = choose_device()
    precision = resolve_precision(settings.precision)
    n_texts = settings.classifier.batch_size
    if isinstance(shape, TransformerShape):
        model, n_texts = transformer.build_classifier(shape, 2), min(n_texts, FEW_TEXTS)
        vocab_size = shape.model["vocab_size"]
    else:
        model = build_classifier(vocab_size, 2, shape)
    model.to(device).train()
    # Gradients over whole texts, as in training.
    model[0].max_len = length
    if isinstance(model[0], TextEncoder):
        keep_what_fits(model, [length] * n_texts, settings.classifier, precision, device)
    ids = torch.randint(9, vocab_size, (n_texts, length), device=device)
    labels = ids.new_zeros(len(ids))
    training = _time_training(
        model, ids, lambda: cross_entropy(model(ids)[0].float(), labels), precision
    )
    model.eval()
    with torch.inference_mode(), autocast(precision, device.type):
        return training, _time(lambda: model(ids)) / ids.numel()


def _time(step: Callable[[], None], repeats: int = 2) -> float:
    step()  # warms up
    wait_for_device()
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    wait_for_device()
    return (time.perf_counter() - began) / repeats


def _time_training(
    model: nn.Module, ids: Tensor, read: Callable[[], Tensor], precision: str
) -> float:
    """Seconds per token of training steps on ids [batch, tokens]; read: their loss."""
    optimizer = FusedAdam(list(model.parameters()), lr=1e-5)

    def step() -> None:
        model.reset()
        with autocast(precision, ids.device.type):
            loss = read()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return _time(step) / ids.numel()


# ---------------------------------------------------------------------------------------- planning
def estimate(
    table: pd.DataFrame,
    selection: Selection,
    plan: Plan,
    n_groups: int,
    settings: Settings,
    rates: Rates,
    passes: float = 1,
) -> dict[str, list[float]]:
    """Seconds that each stage will take for the selected rows, of trainings by epoch.

    Args:
        table: with a column text.
        selection: which of its rows, and as what.
        plan: of the classifier.
        n_groups: its layer groups.
        settings: of the run.
        rates: as `measure_rates` finds them.
        passes: over the texts that it learns from, that make an epoch of the classifier.
    """
    of_text = count_tokens_roughly(table["text"], settings.tokens.language)
    splits = ["train", "valid", "test", "unlabelled"]
    tokens = of_text.groupby(selection.split).sum().reindex(splits, fill_value=0.0)
    read, learned = of_text[selection.read].sum(), of_text[selection.learned].sum()
    validation = rates.encoding * tokens["valid"]
    epochs = [
        passes * learned * _seconds_per_token(phase, n_groups, rates) + validation
        for phase in plan.phases
        for _ in range(phase.epochs)
    ]
    return {
        "tokens": [rates.tokenizing * tokens.sum()],
        # A validation pass saves the backward pass, two thirds of the work.
        "language model": [rates.lm_training * (read + tokens["valid"] / 3)] * selection.lm_epochs,
        "classifier": [*epochs, validation],  # the last one to fit the temperature
        "report": [
            rates.encoding * tokens["test"] + rates.baseline * (tokens["train"] + tokens["test"])
        ],
        "start and files": [FIXED_SECONDS],
    }


def _seconds_per_token(phase: Phase, n_groups: int, rates: Rates) -> float:
    """Of an epoch: gradients reach down to the lowest group that learns."""
    lowest = min(phase.learning(n_groups))
    share = (n_groups - lowest) / n_groups
    return rates.encoding + (rates.classifier_training - rates.encoding) * share


def fit_settings(
    minutes: float,
    elapsed: float,
    table: pd.DataFrame,
    settings: Settings,
    rates: Rates,
    plan_for: Callable[[float], Plan],
    passes_per_epoch: float = 1,
) -> Settings:
    """Settings whose bounds in tokens fill the time that is left of `minutes`.

    Args:
        minutes: in all.
        elapsed: seconds used so far.
        table: a Corpus's.
        settings: to be bounded.
        rates: as `measure_rates` finds them.
        plan_for, passes_per_epoch: as `fit_training` takes them.

    Raises:
        SettingError: the time is not enough for anything.
    """
    left = minutes * 60 - elapsed - FIXED_SECONDS
    data, test_seconds = _bound_test(left, table, settings, rates)
    left -= test_seconds
    fitted, left = fit_training(left, table, settings, rates, plan_for, passes_per_epoch)
    if left < FEWEST_SECONDS:
        enough = minutes + (FEWEST_SECONDS - left) / 60 + 1
        raise SettingError(
            f"{minutes:g} minutes are not enough for training here: start, validation and test "
            f"take all of them. Use --minutes {enough:.0f} or more, a smaller --max-test and "
            "--max-valid, or --preset tiny"
        )
    return replace(fitted, data=data)


def fit_training(
    left: float,
    table: pd.DataFrame,
    settings: Settings,
    rates: Rates,
    plan_for: Callable[[float], Plan],
    passes_per_epoch: float,
    reads: bool = True,
) -> tuple[Settings, float]:
    """Settings whose bounds in tokens fill so much time, or FEWEST_SECONDS where it is less.

    Args:
        left: seconds for the trainings, with their validation.
        table: a Corpus's.
        settings: to be bounded.
        rates: per token, for the time to come.
        plan_for: the classifier's plan, given the passes over all labels that there is time for.
        passes_per_epoch: over the labelled texts, that make an epoch of the classifier.
        reads: whether a language model is still to be trained, and bounded, too.

    Returns:
        The settings, and the seconds that validation leaves.
    """
    tokens = _tokens_by_split(table, settings)
    n_train, n_valid = tokens["train"], tokens["valid"]
    lm_share = LM_SHARE if reads and settings.lm.epochs else 0.0
    passes = (1 - lm_share) * left / (rates.classifier_training * n_train)
    epochs = count_epochs(plan_for(max(passes, 0)))
    of_lm = rates.lm_training / 3 if lm_share else 0.0
    left -= n_valid * (rates.tokenizing + (epochs + 1) * rates.encoding + of_lm)
    spare = max(left, FEWEST_SECONDS)
    epochs *= passes_per_epoch
    per_token = rates.classifier_training + (rates.tokenizing + rates.baseline) / epochs
    most = (1 - lm_share) * spare / per_token
    needed = n_train * epochs
    tokens_learned = needed * 1.01 if most > needed else most
    how = replace(settings.classifier, max_tokens=int(tokens_learned))
    settings = replace(settings, classifier=how)
    if lm_share:
        seconds = spare - tokens_learned * per_token
        tokens_read = int(seconds / (rates.lm_training + rates.tokenizing))
        settings = replace(settings, lm=replace(settings.lm, max_tokens=tokens_read))
    return settings, left


def _tokens_by_split(table: pd.DataFrame, settings: Settings) -> pd.Series:
    tokens = count_tokens_roughly(table["text"], settings.tokens.language)
    return tokens.groupby(table["split"]).sum()


def seconds_to_test(table: pd.DataFrame, settings: Settings, rates: Rates) -> float:
    """Seconds of scoring the test split."""
    tokens = _tokens_by_split(table, settings)["test"]
    return (rates.tokenizing + rates.encoding + rates.baseline) * tokens


def _bound_test(left: float, table: pd.DataFrame, settings: Settings, rates: Rates):
    """Data settings whose test split takes at most TEST_SHARE of the seconds left, and its own."""
    data = settings.data
    seconds = seconds_to_test(table, settings, rates)
    if not seconds > TEST_SHARE * left > 0:
        return data, seconds
    n_test = int((table["split"] == "test").sum() * TEST_SHARE * left / seconds)
    at_least = max(n_test, table["label"].nunique())
    return replace(data, max_test=min(at_least, data.max_test or n_test)), TEST_SHARE * left
