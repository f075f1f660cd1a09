"""The stages of a run: tokens, language model, classifier; the report has a file of its own.

Each makes its result in the folder that it is given, from the files that the stages before it
left.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts.files import write_json
from ulmfit_app.config import Settings
from ulmfit_app.errors import RunFolderError
from ulmfit_app.evaluation.decisions import (
    Decision,
    describe_decision,
    equalise_recall,
    fit_decision,
)
from ulmfit_app.evaluation.tables import PREFIX
from ulmfit_app.files import link_file, write_table
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.languages import has_subwords
from ulmfit_app.models.adapters import OWN_LM, hash_base, require_place
from ulmfit_app.models.architectures import subwords_of
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, save_decision, versions
from ulmfit_app.models.growing import find_new, grow_vocab
from ulmfit_app.models.hub import MINILM
from ulmfit_app.models.pretrained import find_start
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.start import Start
from ulmfit_app.pipeline.augmenting import with_augmented
from ulmfit_app.pipeline.record import DirectionPlan, trained_key
from ulmfit_app.pipeline.run_files import RunFiles, open_tokens, write_mark
from ulmfit_app.pipeline.teachers import prune_teacher, taught
from ulmfit_app.pipeline.updated import grow_from_parent, place_of_start
from ulmfit_app.run_folder import (
    BEGUN,
    MARK,
    ORDER,
    VALIDATION,
    find_lost,
    find_part,
    is_finished,
    read_mark,
)
from ulmfit_app.text.chinese import converter
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.subword_store import describe_windows, write_subwords
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.tokenizing import numericalize, tokenize
from ulmfit_app.text.unigram import BEGIN, choose_texts, learn_subwords
from ulmfit_app.text.vocabulary import make_vocab, word_to_id
from ulmfit_app.training import classifier, language_model
from ulmfit_app.training.balance import chooses_thresholds, weigh_by_groups
from ulmfit_app.training.checkpoints import finish
from ulmfit_app.training.distillation import forget_teacher, learn_from_teacher
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.mixing import MixStates
from ulmfit_app.training.pull import PullToStart
from ulmfit_app.training.recipes import Plan, language_model_phases, phases_of_pairs
from ulmfit_app.training.transformer import classifier_shape, count_parameters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Args:
        name: of its folder, such as lm or lm-backward.
        key: the identity of its result.
        work: makes the result in a folder; what it returns stands in the mark, as facts.
    """

    name: str
    key: str
    work: Callable[[Path], dict[str, str] | None]

    @property
    def kind(self) -> str:
        """One of ORDER."""
        return self.name.removesuffix("-backward")

    def comes_before(self, kind: str, or_is: bool = False) -> bool:
        """Whether it is carried out before the stages of a kind, or with them."""
        place, other = ORDER.index(self.kind), ORDER.index(kind)
        return place < other or (or_is and place == other)

    def is_finished(self, folder: Path) -> bool:
        """Whether a folder holds its result, whole."""
        return is_finished(folder, self.key)

    def find_lost(self, folder: Path) -> list[str]:
        """Files of its result that a folder has lost, or that are not as long as they were."""
        is_own = read_mark(folder / MARK).get("key") == self.key
        return find_lost(folder) if is_own else []

    def is_begun(self, folder: Path) -> bool:
        """Whether a folder holds a part of its result, to go on from."""
        return read_mark(folder / BEGUN).get("key") == self.key

    def carry_out(self, folder: Path, precision: str) -> None:
        """Make the result in a folder; what is there of another one is removed."""
        if not self.is_begun(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / BEGUN, {"key": self.key})
        began = time.monotonic()
        own = self.work(folder) or {}
        seconds = round(time.monotonic() - began, 1)
        facts = {"seconds": seconds, "precision": precision, "versions": versions(), **own}
        # Last of all: before it, the stage counts as unfinished.
        write_mark(folder, {"key": self.key, **facts})
        (folder / BEGUN).unlink()


def seconds_of(folder: Path) -> float:
    """How long a finished stage took."""
    return read_mark(folder / MARK)["seconds"]


# ---------------------------------------------------------------------------------------- the work
def make_tokens(run: RunFiles, folder: Path) -> None:
    """Tokenize the selected texts; the vocabulary is of what the language model learns from.

    Subwords are the start's own. Random weights have none: where the language writes no spaces,
    they are learned from the texts that the language model learns from.
    """
    settings, rows = run.record.settings, run.rows
    start = load_start(run.record.directions[0], place_of_start(run))
    if start.tokenizer or has_subwords(settings.tokens.language):
        _write_subwords(folder, rows, start, settings)
        return
    tokenized = tokenize(rows["text"].tolist(), settings.tokens.language)
    seen = np.flatnonzero(rows["split"].isin(settings.lm.splits))
    if settings.distillation.pruned:
        vocab = start.vocab  # what is left of a teacher knows its words, and no others
    elif run.record.parent:
        how = settings.tokens.min_freq, settings.tokens.max_vocab
        vocab = grow_vocab(start.vocab, TokenStore.open(tokenized), seen, *how)
    else:
        vocab = make_vocab(TokenStore.open(tokenized), seen, settings.tokens, start.vocab or ())
    made = numericalize(tokenized, vocab)
    try:
        open_tokens(made, run.again())
    except RunFolderError:
        # A run's tokens may be the very file in the cache (_link), and so may be what happened to
        # them.
        shutil.rmtree(made)
        made = numericalize(tokenized, vocab)
    for file in made.iterdir():
        link_file(file, folder / file.name)
    log.info("Tokens: a vocabulary of %s words.", f"{len(word_to_id(vocab)):,}")


def _write_subwords(folder: Path, rows: pd.DataFrame, start: Start, settings: Settings) -> None:
    opencc, texts = settings.tokens.opencc or "", rows["text"].tolist()
    if start.tokenizer:
        tokenizer = subwords_of(start, opencc)
    else:
        convert = converter(opencc)
        seen = rows.loc[rows["split"].isin(settings.lm.splits), "text"]
        seen = seen[choose_texts(seen.str.len().to_numpy(), settings.seed)]
        how = settings.tokens.max_vocab, settings.tokens.language
        tokenizer = SubwordTokenizer(learn_subwords(map(convert, seen), *how), BEGIN, opencc)
    if isinstance(start.shape, TransformerShape):
        shape = classifier_shape(start.shape, settings.classifier)
        require_place(shape)
    write_subwords(folder, texts, len(texts), tokenizer)
    store = TokenStore.open(folder)
    if isinstance(start.shape, TransformerShape):
        log.info("Tokens: %s", describe_windows(store, shape.window))
    else:
        each = rows["text"].str.len().sum() / max(store.lengths().sum() - len(store), 1)
        log.info("Tokens: %s subwords, %.2f characters each.", f"{len(store.words):,}", each)


def finetune(run: RunFiles, which: DirectionPlan, folder: Path) -> None:
    """Fine-tune the language model and save its bundle."""
    settings, rows = run.record.settings, run.rows
    store, start = run.open_tokens(which), load_start(which, place_of_start(run))
    read, valid = np.flatnonzero(rows["read"]), np.flatnonzero(rows["split"] == "valid")
    seed_everything(settings.seed)
    learn = language_model.make_learner(
        store, read, valid, start, settings.lm, settings.precision, settings.seed
    )
    if run.record.parent and settings.update.pull:
        is_new = find_new(store.words, start.vocab)
        of_words = "0.encoder.weight", "1.decoder.bias"
        fresh = {} if start.tokenizer else dict.fromkeys(of_words, is_new)
        learn.add_cb(PullToStart(learn.model, settings.update.pull, fresh))
    suggested = None
    if settings.lm.lr_find:
        suggested = language_model.save_lr_finder_plot(learn, folder / "lr_find.png")
    lm = settings.lm
    rate = language_model.rate_setting(start)
    # Subwords know all of their tokens: there are no new words to learn alone.
    frozen_lr = lm.frozen_lr if rate == "lr" and not start.tokenizer else None
    phases = language_model_phases(run.record.lm_epochs, getattr(lm, rate), frozen_lr, lm.decay)
    key = run.record.keys[which.named("lm")]
    how = language_model.training_settings(lm, store.direction, key)
    how = replace(how, rate_setting=f"lm.{rate.replace('_', '-')}", suggested_rate=suggested)
    history = train(learn, phases, folder, how, run.tell)
    bundle = Bundle(
        "language model",
        start.shape,
        settings.tokens.language,
        store.words,
        about={"start": start.origin, "perplexity": float(history["perplexity"].min())},
        direction=store.direction,
        tokenizer=run.read_tokenizer(),
        opencc=settings.tokens.opencc or "",
    )
    save_bundle(folder, learn.model, bundle)
    finish(folder)


def classify(run: RunFiles, which: DirectionPlan, folder: Path) -> None:
    """Train the classifier on the language model's encoder, save its bundle, and calibrate it.

    Where one was trained so before, and only how it decides has changed, that one is taken.
    """
    if not _take_trained(run, which.named("classifier"), folder):
        train_classifier(run, which, which.plan, folder)
    calibrate(run, which, folder)
    finish(folder)


def _take_trained(run: RunFiles, name: str, folder: Path) -> bool:
    old = find_part(run.folder, name)
    key = read_mark(old / MARK).get("key", "")
    own = run.record.keys[name]
    # The same decision, too, is a stage that is asked for again.
    if key == own or trained_key(key) != trained_key(own) or find_lost(old):
        return False
    for file in read_mark(old / MARK)["files"]:
        link_file(old / file, folder / file)
    log.info("The classifier is trained already: what changes is how it decides.")
    return True


def train_classifier(
    run: RunFiles, which: DirectionPlan, plan: Plan, folder: Path
) -> pd.DataFrame:
    """Train a classifier by a plan and save its bundle, at temperature 1; its history."""
    settings, labels = run.record.settings, run.record.data.labels
    lm = load_bundle(run.place(which.named("lm")), "language model")
    store = run.open_tokens(which)
    seed_everything(settings.seed)
    grown = grow_from_parent(run, which, lm)
    trained = (grown.shape, grown.weights) if grown else prune_teacher(run, which, store)
    train_texts = taught(run) if run.record.teachers else _weighed(run, *run.labelled("train"))
    store, train_texts = with_augmented(run, store, train_texts)
    texts = store, train_texts, run.labelled("valid")
    of = settings.classifier, settings.precision, settings.seed
    learn = classifier.make_learner(*texts, len(labels), lm, plan, *of, trained)
    if run.record.teachers:
        n_states = train_texts[1].shape[1] - 2 * len(labels)
        learn_from_teacher(learn, settings.distillation, n_states)
    if grown and settings.update.pull:
        learn.add_cb(PullToStart(learn.model, settings.update.pull, grown.fresh))
    if settings.augment.method == "mix":
        learn.add_cb(MixStates())
    key = trained_key(run.record.keys[which.named("classifier")])
    multilabel = run.record.data.multilabel
    how = classifier.training_settings(settings.classifier, store.direction, key, multilabel)
    history = train(learn, plan.phases, folder, how, run.tell)
    forget_teacher(learn)
    judged = history[~history["phase"].isin(phases_of_pairs(plan.phases))]
    about = {"plan": plan.name, f"validation_{how.select_by}": float(judged[how.select_by].max())}
    if run.record.teachers:
        about["teachers"] = [Path(each.run).name for each in run.record.teachers]
    shape = trained[0] if trained else lm.shape
    if isinstance(shape, TransformerShape):
        shape = shape if trained else classifier_shape(shape, settings.classifier)
        about |= count_parameters(learn, plan)
        if shape.adapter is not None:
            base = {"name": _base_name(run, which), "sha256": hash_base(learn.model[0].module)}
            shape = replace(shape, base=base)
    bundle = Bundle(
        "classifier",
        shape,
        lm.language,
        lm.vocab,
        labels,
        about,
        direction=store.direction,
        decision=Decision(multilabel),
        tokenizer=lm.tokenizer,
        opencc=lm.opencc,
    )
    save_bundle(folder, learn.model, bundle)
    return history


def _weighed(run: RunFiles, rows: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts and their labels, weighed by groups where that is asked for."""
    data = run.record.data
    if run.record.settings.classifier.balance != "groups":
        return rows, truth
    columns = [run.groups(name, rows) for name in data.groups]
    _, groups = np.unique(list(zip(*columns, strict=True)), axis=0, return_inverse=True)
    return rows, weigh_by_groups(truth, groups, len(data.labels))


def _base_name(run: RunFiles, which: DirectionPlan) -> str:
    """What an adapter stands on: the run's language model, or, as that came, what it was."""
    if run.record.lm_epochs:
        return OWN_LM
    path = Path(which.pretrained)
    is_path = which.pretrained != MINILM and path.exists()
    return str(path.resolve()) if is_path else which.pretrained


def calibrate(run: RunFiles, which: DirectionPlan, folder: Path) -> None:
    """Score the validation split as texts are predicted, and decide on it.

    Temperatures are fitted on it, and thresholds chosen.
    """
    rows = run.rows[run.rows["split"] == "valid"]
    predictor = Predictor(folder, run.record.settings.precision)
    title = which.named("classifier", ", ")
    scoring = f"Scoring the validation split, {title}"
    store = run.open_tokens(which)
    (probabilities,) = predictor.each(store, rows.index.to_numpy(), scoring).values()
    data, truth = run.record.data, run.corpus.truth(rows["label"])
    has_thresholds = chooses_thresholds(run.record.settings.classifier, data.multilabel)
    decision, reasons = fit_decision(probabilities, truth, has_thresholds, data.costs)
    if (label := run.record.settings.classifier.equal_recall) is not None:
        column = data.groups[0]
        groups = run.groups(column, rows.index)
        how = groups, column, data.labels.index(label)
        decision = equalise_recall(decision, probabilities, truth, *how)
    for line in describe_decision(decision, reasons, predictor.labels, probabilities):
        log.info("%s: %s", title.capitalize(), line)
    save_decision(folder, decision)
    columns = [f"{PREFIX}{label}" for label in predictor.labels]
    table = pd.DataFrame(probabilities, rows.index, columns)
    write_table(folder / VALIDATION, rows[["row", "label"]].join(table))


def load_start(which: DirectionPlan, place: Path | None = None) -> Start:
    """The weights and words that a direction starts from.

    Args:
        which: direction.
        place: a folder that has them; None: what it names.

    Raises:
        RunFolderError: they are others than when the run was planned.
        BundleError, data_scripts.fetch.FetchError: as `find_start` does.
    """
    name = which.pretrained if place is None else str(place)
    start = find_start(name, which.start.shape, which.start.direction)
    if start.fingerprint != which.start.fingerprint:
        raise RunFolderError(
            f"What --pretrained {which.pretrained} names has changed since this run was planned. "
            "Give the command that made the run, with another --out"
        )
    return start


def resolved_precision(run: RunFiles) -> str:
    """What the run computes in on this machine."""
    return resolve_precision(run.record.settings.precision)
