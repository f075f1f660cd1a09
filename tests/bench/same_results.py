"""What the speed costs in quality: python -m tests.bench.same_results JOB [SIDE] [--data PATH]

JOB: lm (500 steps on IMDb reviews), imdb (a classifier from 2,000 reviews) or trec6; SIDE: plain
or ours; none: both. Plain fastai in fp32 and this application in the machine's precision, from
random weights of one small shape, by one recipe, three seeds each, all scored on the same texts:
a text counts once, as the share of seeds that label it rightly. Writes
results/same-JOB-SIDE.json; when both sides are there, prints them beside each other, and the
difference on the same texts.
"""

import argparse
import json
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.text.all import (
    AWD_LSTM,
    CrossEntropyLossFlat,
    DataLoaders,
    Learner,
    TextDataLoaders,
    accuracy,
    awd_lstm_clas_config,
    awd_lstm_lm_split,
    get_language_model,
    rnn_cbs,
    text_classifier_learner,
)

from tests.bench.compare import OUT, machine
from ulmfit_app.config import (
    ClassifierSettings,
    DataSettings,
    LanguageModelSettings,
    ModelSettings,
    TokenSettings,
)
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.experiments.comparing import measure_difference
from ulmfit_app.hardware import set_up_cpu
from ulmfit_app.models.awd_lstm import build_language_model, language_model_config
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle
from ulmfit_app.models.pretrained import Start
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import numericalize, tokenize
from ulmfit_app.text.vocabulary import make_vocab
from ulmfit_app.training import classifier, language_model
from ulmfit_app.training.loop import seed_everything
from ulmfit_app.training.recipes import WEAK_START

SEEDS = (1, 2, 3)
STEPS, LM_SHAPE = 500, ModelSettings(emb_sz=200, n_hid=400, n_layers=3)
CLASSIFIER_SHAPE = ModelSettings(emb_sz=100, n_hid=200, n_layers=2)
EPOCHS, RATE, BATCH, DROP_MULT = {"imdb": 3, "trec6": 6}, 5e-3, 32, 0.25


class _InOrder(Callback):
    """Tell our batches which epoch it is, as a run does."""

    def before_epoch(self) -> None:
        self.dls.train.epoch = self.epoch


def _table(name: str, data: str) -> pd.DataFrame:
    return load_corpus(DataSettings(name, data=Path(data) if data else None), seed=0).table


def _store(texts: list[str], training: int, max_vocab: int) -> TokenStore:
    tokenized = tokenize(texts)
    vocab = make_vocab(
        TokenStore.open(tokenized), range(training), TokenSettings(max_vocab=max_vocab)
    )
    return TokenStore.open(numericalize(tokenized, vocab))


def _validation_loss(model: torch.nn.Module, batches: LanguageModelBatches) -> float:
    """Exact, in fp32, whichever side trained it."""
    config = language_model_config(LM_SHAPE)
    plain = get_language_model(AWD_LSTM, len(batches.vocab), config=config)
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.eval()
    plain.reset()
    total = n = 0
    with torch.no_grad():
        for x, y in batches:
            total += torch.nn.functional.cross_entropy(
                plain(x)[0].flatten(0, 1), y.flatten(), reduction="sum"
            ).item()
            n += y.numel()
    return total / n


def language_model_loss(side: str, seed: int, data: str) -> dict:
    """Validation loss, nats per token, after 500 steps."""
    texts = (
        _table("imdb", data)
        .query("split == 'train'")["text"]
        .sample(4_000, random_state=seed)
        .tolist()
    )
    store = _store(texts, 3_800, 10_000)
    settings = LanguageModelSettings(batch_size=8)
    start = Start("random weights", "random", LM_SHAPE)
    seed_everything(seed)
    seen = np.arange(np.searchsorted(store.offsets, STEPS * settings.batch_size * settings.bptt))
    learn = language_model.make_learner(
        store, seen, np.arange(3_800, 4_000), start, settings, "auto", seed
    )
    train, check = learn.dls.train, learn.dls.valid
    if side == "plain":
        config = language_model_config(LM_SHAPE)
        model = get_language_model(AWD_LSTM, len(store.words), config=config)
        model.load_state_dict(learn.model.state_dict(), strict=False)
        learn = Learner(
            DataLoaders(train, check),
            model,
            loss_func=CrossEntropyLossFlat(),
            splitter=awd_lstm_lm_split,
            cbs=rnn_cbs(alpha=2.0, beta=1.0),
        )
    with learn.no_bar(), learn.no_logging(), learn.no_mbar():
        learn.fit_one_cycle(1, 4e-3)
    return {"steps": len(train), "valid_loss": _validation_loss(learn.model, check)}


def classifier_accuracy(side: str, seed: int, data: str, name: str) -> dict:
    """How many of the n test texts are labelled rightly, and which: a string of 0 and 1."""
    table = _table(name, data)
    n_train, n_test = {"imdb": (2_000, 2_000), "trec6": (4_900, 500)}[name]
    train = table[table["split"] == "train"].sample(n_train, random_state=0)
    test = table[table["split"] == "test"].sample(n_test, random_state=0)
    labels = sorted(table["label"][table["split"] == "train"].unique())
    seed_everything(seed)
    if side == "plain":
        both = pd.concat([train, test]).assign(is_valid=[False] * n_train + [True] * n_test)
        dls = TextDataLoaders.from_df(
            both, text_col="text", label_col="label", valid_col="is_valid", bs=BATCH, seed=seed
        )
        config = {**awd_lstm_clas_config, **asdict(CLASSIFIER_SHAPE)}
        learn = text_classifier_learner(
            dls, AWD_LSTM, config=config, pretrained=False, drop_mult=DROP_MULT, metrics=accuracy
        )
        callbacks = []
    else:
        store = _store([*train["text"], *test["text"]], n_train, 60_000)
        truth = np.array([labels.index(label) for label in (*train["label"], *test["label"])])
        with tempfile.TemporaryDirectory() as folder:
            model = build_language_model(len(store.words), CLASSIFIER_SHAPE)
            save_bundle(
                Path(folder), model, Bundle("language model", CLASSIFIER_SHAPE, "en", store.words)
            )
            lm = load_bundle(Path(folder), "language model")
            first, rest = np.arange(n_train), np.arange(n_train, n_train + n_test)
            settings = ClassifierSettings(batch_size=BATCH)
            parts = (first, truth[:n_train]), (rest, truth[n_train:])
            learn = classifier.make_learner(
                store, *parts, len(labels), lm, WEAK_START, settings, "auto", seed
            )
        callbacks = [_InOrder()]
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging(), learn.no_mbar():
        learn.fit_one_cycle(EPOCHS[name], RATE, cbs=callbacks)
        predicted, of_texts = learn.get_preds(dl=learn.dls.valid)
    right = (predicted.argmax(1) == of_texts).int().numpy()
    if side == "ours":
        # fastai puts the texts of its own batches back in order.
        in_batches, right = right, np.empty_like(right)
        right[learn.dls.valid.order] = in_batches
    return {"right": int(right.sum()), "n": n_test, "which": "".join(map(str, right))}


def compare_sides(plain: list[dict], ours: list[dict]) -> list[str]:
    """Say how accurate two sides are on the same texts, and how far apart they are.

    Args:
        plain: what classifier_accuracy returns, for each seed; without `which`, as earlier
            versions stored it, the sides cannot be paired.
        ours: likewise.
    """
    lines = []
    for name, seeds in (("plain", plain), ("ours", ours)):
        # Each seed labels the same texts: three answers about a text are not three texts.
        right, n = np.mean([seed["right"] for seed in seeds]), seeds[0]["n"]
        low, high = accuracy_interval(right, n)
        each = ", ".join(f"{seed['right'] / n:.1%}" for seed in seeds)
        lines.append(
            f"{name}: {right / n:.1%} ({low:.1%} to {high:.1%}), n = {n:,} texts, mean of "
            f"{len(seeds)} seeds ({each})"
        )
    if all("which" in seed for seed in (*plain, *ours)):
        shares = [
            np.mean([[int(hit) for hit in seed["which"]] for seed in seeds], axis=0)
            for seeds in (plain, ours)
        ]
        found = measure_difference(*shares)
        low, high = f"{found['difference_low']:+.1f}", f"{found['difference_high']:+.1f}"
        lines.append(
            f"ours errs on {found['difference']:+.1f} points more of them ({low} to {high}), "
            f"p = {found['p_value']:.2g}"
        )
    return lines


def _show(job: str) -> None:
    paths = {side: OUT / f"same-{job}-{side}.json" for side in ("plain", "ours")}
    if not all(path.is_file() for path in paths.values()):
        return
    results = {side: json.loads(path.read_text())["results"] for side, path in paths.items()}
    if job == "lm":
        for side, of_seeds in results.items():
            losses = [result["valid_loss"] for result in of_seeds]
            each = ", ".join(f"{loss:.4f}" for loss in losses)
            print(f"{side}: validation loss {np.mean(losses):.4f} ({each})")
        return
    print(*compare_sides(**results), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=["lm", "imdb", "trec6"])
    parser.add_argument("side", nargs="?", choices=["plain", "ours"])
    parser.add_argument("--data", default="", help="IMDb or TREC, where they are not in the cache")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    set_up_cpu()
    OUT.mkdir(exist_ok=True)
    for side in [arguments.side] if arguments.side else ["plain", "ours"]:
        results = []
        for seed in SEEDS:
            if arguments.job == "lm":
                results.append(language_model_loss(side, seed, arguments.data))
            else:
                results.append(classifier_accuracy(side, seed, arguments.data, arguments.job))
            print(arguments.job, side, "seed", seed, results[-1], flush=True)
        facts = {"machine": machine(), "results": results}
        (OUT / f"same-{arguments.job}-{side}.json").write_text(json.dumps(facts, indent=1) + "\n")
    _show(arguments.job)


if __name__ == "__main__":
    main()
