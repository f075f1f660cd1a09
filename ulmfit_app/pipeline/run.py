"""The pipeline: tokens, language model, classifier, report, in this order, each from the files of the one before.

A bidirectional run has language model and classifier twice, forward and then backward, each a stage of its own.

A stage's key is a hash of everything its result depends on, the key of the stage before included. A stage whose key stands
in its folder is not repeated; one that was interrupted goes on from its checkpoint; changed settings change the keys of
exactly what depends on them.
"""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_scripts.files import replacing, write_json
from ulmfit_app.config import PAPER, PRESETS, Settings, to_json
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.near_copies import copied
from ulmfit_app.errors import RunFolderError
from ulmfit_app.evaluation.baselines import majority, tfidf_logistic_regression
from ulmfit_app.evaluation.calibration import Calibration, fit_temperature, tempered
from ulmfit_app.evaluation.metrics import accuracy_interval, check_predictions
from ulmfit_app.evaluation.report import write_report
from ulmfit_app.files import sha256_of_strings
from ulmfit_app.hardware import resolve_precision
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predictor import BidirectionalPredictor, Predictor, prediction_table
from ulmfit_app.models import pretrained
from ulmfit_app.models.bundle import Bundle, load_bundle, save_bundle, save_temperature, versions
from ulmfit_app.pipeline import budget, selection
from ulmfit_app.run_folder import FORMAT, STAGES, Stage, key_of, read_config, stored_config
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizing import numericalize, tokenize
from ulmfit_app.text.vocabulary import make_vocab, word_to_id
from ulmfit_app.training import classifier, language_model
from ulmfit_app.training.checkpoints import finish
from ulmfit_app.training.loop import seed_everything, train
from ulmfit_app.training.recipes import Plan, language_model_phases

log = logging.getLogger(__name__)

N_EXPLAINED = 10  # errors in the report
EXPLAINED_TOKENS = 500  # of a text at most, so that ten take seconds
VALIDATION = "validation.csv"  # beside a classifier: its probabilities of the validation split, at temperature 1


def _without_none(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    # What a plan leaves to the run was not named in it at first, and finished runs keep their keys.
    return {name: value for name, value in fields if value is not None}


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


@dataclass(frozen=True)
class _Direction:
    """One direction of a run: what its language model starts from, and its classifier's plan."""

    start: pretrained.Start
    plan: Plan
    plan_reason: str

    def named(self, thing: str, joint: str = "-") -> str:
        """The name of one of its things, such as lm and lm-backward."""
        return (
            thing if self.start.direction == "forward" else f"{thing}{joint}{self.start.direction}"
        )


# ---------------------------------------------------------------------------------------------------------- the pipeline
class Run:
    """A run: its folder, its settings, and its stages.

    settings: None goes on with those in the folder's config.json. minutes: fit the work into so many, measured on this
    machine; the bounds found are stored with the run, and the same command uses them again.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings | None = None,
        minutes: float | None = None,
        preset: str = "",
    ) -> None:
        self._began = time.monotonic()
        self.folder = folder
        known = stored_config(folder) if settings is None else read_config(folder)
        if settings is None:
            settings, minutes, preset = known["settings"], known["minutes"], known["preset"]
            self.requested = known["requested"]
        else:
            self.requested = {"settings": to_json(settings), "minutes": minutes}
        if known is not None and known["settings"].data.source != settings.data.source:
            raise RunFolderError(
                f"{folder} holds a run on {known['settings'].data.source}, not on {settings.data.source}; it is left as it "
                f"is. Run into another folder: --out {folder}-2"
            )
        self.settings, self.minutes, self.preset = settings, minutes, preset
        starts = pretrained.find_starts(settings.starts, settings.model)
        self._choose_plans(starts)
        corpus = None
        if minutes is not None:
            if known is not None and known["requested"] == self.requested:
                self.settings = known["settings"]
            else:
                corpus = self._fit(minutes)
        self.corpus = corpus or load_corpus(self.settings.data, self.settings.seed)
        most = self.settings.classifier.max_tokens
        passes = most and most / selection.labelled_tokens(self.corpus.table, self.settings)
        self._choose_plans(starts, passes, int((self.corpus.table["split"] == "train").sum()))
        self.selection = selection.select(
            self.corpus.table,
            self.settings,
            self.directions[0].plan,
            self.directions[0].start.is_pretrained,
        )
        self._name_stages()

    def _choose_plans(self, starts: list[pretrained.Start], *known: float | None) -> None:
        chosen = [
            classifier.choose_plan(self.settings.classifier, start.is_strong, *known)
            for start in starts
        ]
        self.directions = [
            _Direction(start, *plan) for start, plan in zip(starts, chosen, strict=True)
        ]

    def _fit(self, minutes: float) -> Corpus | None:
        """Settings for so many minutes. Returns the texts where those are the ones that were measured."""
        # A preset's own bounds are for its own time; others were asked for.
        data, presets = self.settings.data, PRESETS.get(self.preset, PAPER).data
        bounds = [
            name
            for name in ("max_train", "max_unlabelled")
            if getattr(data, name) == getattr(presets, name)
        ]
        self.settings = replace(self.settings, data=replace(data, **dict.fromkeys(bounds)))
        measured = self.settings.data
        corpus = load_corpus(measured, self.settings.seed)
        forward = self.directions[0]
        rates = budget.measure(corpus.table["text"], forward.start, self.settings)
        elapsed = time.monotonic() - self._began

        def plan_for(passes: float) -> Plan:
            n_texts = int((corpus.table["split"] == "train").sum())
            return classifier.choose_plan(
                self.settings.classifier, forward.start.is_strong, passes, n_texts
            )[0]

        self.settings = budget.fit(minutes, elapsed, corpus.table, plan_for, self.settings, rates)
        return corpus if self.settings.data == measured else None

    def _name_stages(self) -> None:
        s, table, split = self.settings, self.corpus.table, self.selection.split
        rows = split.index[split != ""]
        # Everything a result depends on, and nothing else: where a file lies, say, does not matter.
        read = self.selection.read[rows].astype(str)
        content = sha256_of_strings(
            [*table["text"][rows], *table["label"][rows], *split[rows], *read]
        )
        known = self.directions[0].start.vocab
        tokens = key_of(
            content,
            asdict(s.tokens),
            version("spacy"),
            *([sha256_of_strings(known)] if known else []),
        )
        libraries = [version("fastai"), version("torch"), resolve_precision(s.precision)]
        stages, classifiers = [("tokens", tokens, self.make_tokens)], []
        for d in self.directions:
            # The forward keys are those of a run in this direction alone, to which the other one can be added.
            which = [d.start.direction] if d.start.direction != "forward" else []
            lm = key_of(
                tokens,
                asdict(s.lm),
                self.selection.lm_epochs,
                d.start.fingerprint,
                s.seed,
                libraries,
                *which,
            )
            classifiers.append(
                key_of(
                    lm, asdict(s.classifier), asdict(d.plan, dict_factory=_without_none), libraries
                )
            )
            stages.append((d.named("lm"), lm, partial(self.finetune, d)))
            stages.append((d.named("classifier"), classifiers[-1], partial(self.classify, d)))
        learned = sha256_of_strings(table["text"][table["split"] == "train"])
        report = key_of(
            classifiers[0],
            learned,
            self.corpus.test_name,
            version("scikit-learn"),
            *classifiers[1:],
        )
        stages.append(("report", report, self.report))
        self.stages = {name: Stage(self.folder, name, key, work) for name, key, work in stages}

    # ---- what it is going to do
    def describe(self) -> list[str]:
        """What will run, on how much data, from what, in sentences."""
        s, counts = self.settings, self.selection.split.value_counts()
        n = {
            split: int(counts.get(split, 0)) for split in ("train", "valid", "test", "unlabelled")
        }
        models = []
        for d in self.directions:
            shape = d.start.shape
            models += [
                f"{d.named('Language model', ', ')}: AWD-LSTM {shape.emb_sz}/{shape.n_hid}/{shape.n_layers}, at most "
                f"{s.tokens.max_vocab:,} words, from {d.start.origin}, epochs: {self.selection.lm_epochs}.",
                f"{d.named('Classifier', ', ')}: {d.plan_reason}",
            ]
        return [
            f"Data: {s.data.source}, from {self.corpus.origin}; {len(self.corpus.labels)} classes.",
            f"Texts: {n['train']:,} to train on, {n['valid']:,} to validate, {n['test']:,} to test "
            f"({self.corpus.test_name}), {n['unlabelled']:,} unlabelled.",
            *self.corpus.notes,
            *self.selection.notes,
            *models,
            f"Precision {resolve_precision(s.precision)}, seed {s.seed}.",
        ]

    def estimate(self) -> dict[str, float]:
        """Seconds a stage, from a measured warm-up on this machine."""
        table, forward = self.corpus.table, self.directions[0]
        rates = budget.measure(
            table["text"][self.selection.split != ""], forward.start, self.settings
        )
        return budget.estimate(table, self.selection, forward.plan, self.settings, rates)

    def is_fresh(self) -> bool:
        """Whether no stage has left anything yet."""
        return not any(stage.folder.exists() for stage in self.stages.values())

    def write_config(self) -> None:
        """Say in config.json everything that this run depends on."""
        write_json(
            self.folder / "config.json",
            {
                "format": FORMAT,
                "preset": self.preset,
                "minutes": self.minutes,
                "requested": self.requested,
                "settings": to_json(self.settings),
                "versions": versions(),
                "precision": resolve_precision(self.settings.precision),
                **{
                    d.named("language_model_start", "_"): {
                        "origin": d.start.origin,
                        "fingerprint": d.start.fingerprint,
                    }
                    for d in self.directions
                },
                "data": {"origin": self.corpus.origin, "test": self.corpus.test_name},
                "stage_keys": {name: stage.key for name, stage in self.stages.items()},
            },
        )

    # ---- its stages
    def carry_out(self, last: str = "report") -> Path:
        """All stages in order, up to one of STAGES in each direction; the report's path."""
        self.write_config()
        for stage in self.stages.values():
            if STAGES.index(stage.kind) <= STAGES.index(last):
                stage.carry_out()
        return self.folder / "report" / "report.html"

    def repeat(self, name: str) -> list[Path]:
        """Carry out one stage again, in each direction, from what the stages before it left; its folders."""
        again = [stage for stage in self.stages.values() if stage.kind == name]
        for stage in self.stages.values():
            if STAGES.index(stage.kind) < STAGES.index(name):
                stage.require()
        for stage in again:
            shutil.rmtree(stage.folder, ignore_errors=True)
            stage.carry_out()
        return [stage.folder for stage in again]

    def make_tokens(self, folder: Path) -> None:
        """Tokenize the selected texts; the vocabulary is of what the language model learns from."""
        split = self.selection.split[self.selection.split != ""]
        tokenized = tokenize(
            self.corpus.table["text"][split.index].tolist(), self.settings.tokens.language
        )
        seen = np.flatnonzero(split.isin(self.settings.lm.splits))
        known = self.directions[0].start.vocab or ()
        vocab = make_vocab(TokenStore.open(tokenized), seen, self.settings.tokens, known)
        for file in numericalize(tokenized, vocab).iterdir():
            _link(file, folder / file.name)
        labels, read = self.corpus.table["label"][split.index], self.selection.read[split.index]
        rows = pd.DataFrame({"row": split.index, "split": split, "label": labels, "read": read})
        with replacing(folder / "rows.csv") as draft:
            rows.to_csv(draft, index=False)
        log.info("Tokens: a vocabulary of %s words.", f"{len(word_to_id(vocab)):,}")

    def _texts(self, which: _Direction | None = None) -> tuple[TokenStore, pd.DataFrame]:
        """The tokens, to be read in a direction (forward where none is given), and the rows that they are of."""
        folder = self.stages["tokens"].folder
        rows = pd.read_csv(
            folder / "rows.csv", dtype={"split": str, "label": str}, keep_default_na=False
        )
        rows["truth"] = self.corpus.truth(rows["label"])
        store = TokenStore.open(folder)
        return (store.backward() if which and which.start.direction == "backward" else store), rows

    def finetune(self, which: _Direction, folder: Path) -> None:
        """Fine-tune the language model and save its bundle."""
        s, start = self.settings, which.start
        store, rows = self._texts(which)
        seen = np.flatnonzero(rows["read"])
        valid = np.flatnonzero(rows["split"] == "valid")
        seed_everything(s.seed)
        learn = language_model.learner(store, seen, valid, start, s.lm, s.precision, s.seed)
        if s.lm.lr_find:
            language_model.save_lr_finder_plot(learn, folder / "lr_find.png")
        pretrained = start.is_pretrained
        rates = (s.lm.lr, s.lm.frozen_lr) if pretrained else (s.lm.random_lr, None)
        phases = language_model_phases(self.selection.lm_epochs, *rates, s.lm.decay)
        history = train(
            learn, phases, folder, self.stages[which.named("lm")].key, section="lm", schedule=s.lm.schedule,
            weight_decay=s.lm.weight_decay, grad_clip=s.lm.grad_clip,
        )  # fmt: skip
        about = {"start": start.origin, "perplexity": float(history["perplexity"].min())}
        facts = dict(about=about, direction=store.direction)
        save_bundle(
            folder,
            learn.model,
            Bundle("language model", start.shape, s.tokens.language, store.words, **facts),
        )
        finish(folder)

    def classify(self, which: _Direction, folder: Path) -> None:
        """Train the classifier on the language model's encoder and save its bundle."""
        s, plan = self.settings, which.plan
        store, rows = self._texts(which)
        lm = load_bundle(self.stages[which.named("lm")].folder, "language model")
        parts = {
            split: (
                np.flatnonzero(rows["split"] == split),
                rows.loc[rows["split"] == split, "truth"].to_numpy(int),
            )
            for split in ("train", "valid")
        }
        seed_everything(s.seed)
        learn = classifier.learner(
            store,
            parts["train"],
            parts["valid"],
            len(self.corpus.labels),
            lm,
            plan,
            s.classifier,
            s.precision,
            s.seed,
        )
        history = train(
            learn, plan.phases, folder, self.stages[which.named("classifier")].key, section="classifier",
            schedule=s.classifier.schedule, weight_decay=s.classifier.weight_decay, grad_clip=s.classifier.grad_clip,
            patience=s.classifier.patience,
        )  # fmt: skip
        about = {"plan": plan.name, "validation_accuracy": float(history["accuracy"].max())}
        facts = dict(labels=self.corpus.labels, about=about, direction=store.direction)
        save_bundle(
            folder, learn.model, Bundle("classifier", lm.shape, lm.language, lm.vocab, **facts)
        )
        self._calibrate(which, folder)
        finish(folder)

    def _calibrate(self, which: _Direction, folder: Path) -> None:
        """Score the validation split with a trained classifier, as texts are predicted, and fit the temperature on it."""
        store, rows = self._texts(which)
        rows = rows[rows["split"] == "valid"]
        predictor = Predictor(folder, self.settings.precision)
        title = which.named("classifier", ", ")
        (probabilities,) = predictor.each(
            store, rows.index.to_numpy(), f"Scoring the validation split, {title}"
        ).values()
        temperature, reason = fit_temperature(probabilities, rows["truth"].to_numpy(int))
        fitted = (
            f"not fitted on the validation texts: {reason}"
            if reason
            else f"fitted on {len(rows):,} validation texts"
        )
        log.info("%s: temperature %.3g, %s.", title.capitalize(), temperature, fitted)
        save_temperature(folder, temperature)
        table = pd.DataFrame(
            probabilities, rows.index, [f"p_{label}" for label in predictor.labels]
        )
        with replacing(folder / VALIDATION) as draft:
            rows[["row", "label"]].join(table).to_csv(draft, index=False)

    def report(self, folder: Path) -> None:
        """Score the test split, once, beside the baselines, and write the report."""
        store, rows = self._texts()
        test = np.flatnonzero(rows["split"] == "test")
        folders = [self.stages[d.named("classifier")].folder for d in self.directions]
        for which, classifiers in zip(self.directions, folders, strict=True):
            # One of a version that did not calibrate need not be trained again for it.
            if not (classifiers / VALIDATION).is_file():
                self._calibrate(which, classifiers)
        predictor = load_predictor(self.folder, self.settings.precision)
        each = predictor.each(store, test, "Scoring the test split")
        before = np.mean(list(each.values()), axis=0)
        probabilities = tempered(before, predictor.temperature)
        calibration = Calibration(predictor.temperature, before, *validated(folders))
        directions = None
        if isinstance(predictor, BidirectionalPredictor):
            bundles = (predictor.bundle, predictor.backward.bundle)
            directions = {
                one.direction: tempered(each[one.direction], one.temperature) for one in bundles
            }
        texts = self.corpus.table["text"]
        test_texts = texts[rows["row"][test]].tolist()
        predictions = prediction_table(test_texts, probabilities, predictor.labels)
        predictions.insert(1, "label", rows["label"][test].to_numpy())
        predictions["copy_in_train"] = self._copied(rows)
        with replacing(folder / "predictions.csv") as draft:
            predictions.to_csv(draft, index=False)
        histories = {
            d.named(part, ", "): pd.read_csv(self.stages[d.named(stage)].folder / "history.csv")
            for d in self.directions
            for part, stage in (("language model", "lm"), ("classifier", "classifier"))
        }
        baselines, facts = self._baselines(rows, test_texts), self._facts(histories)
        facts["notes"].append(_copies_note(predictions))
        explanations = _explained(predictor, predictions, store.lengths()[test])
        write_report(
            folder, predictions, baselines, histories, facts, directions, calibration, explanations
        )

    def _copied(self, rows: pd.DataFrame) -> np.ndarray:
        """Of each tested text, whether the classifier learned from a copy of it, as duplicates.copied says it."""
        texts = self.corpus.table["text"][rows["row"]].tolist()
        # As they were tokenized: among the numbers of a vocabulary, texts would agree in all words that it lacks.
        store = TokenStore.open(tokenize(texts, self.settings.tokens.language))
        return copied(
            store, texts, *(rows["split"].to_numpy() == split for split in ("test", "train"))
        )

    def _baselines(self, rows: pd.DataFrame, test_texts: list[str]) -> dict[str, np.ndarray]:
        """What the classifier has to beat: the training labels' shares, and TF-IDF on the same labels and on all."""
        table, n_classes = self.corpus.table, len(self.corpus.labels)
        used = rows[rows["split"] == "train"]
        truth = used["truth"].to_numpy(int)
        baselines = {"majority class": majority(truth, len(test_texts), n_classes)}
        log.info("Baseline: TF-IDF with logistic regression.")
        sets = {
            f"TF-IDF + logistic regression, the same {len(used):,} labels": (
                table["text"][used["row"]],
                truth,
            )
        }
        everything = table[table["split"] == "train"]
        if len(everything) > len(used):
            codes = self.corpus.truth(everything["label"])
            sets[f"TF-IDF + logistic regression, all {len(everything):,} labels"] = (
                everything["text"],
                codes,
            )
        for name, (texts, codes) in sets.items():
            baselines[name] = tfidf_logistic_regression(
                texts.tolist(),
                codes,
                test_texts,
                n_classes,
                self.settings.seed,
                self.settings.tokens.language,
            )
        return baselines

    def _facts(self, histories: dict[str, pd.DataFrame]) -> dict[str, Any]:
        s = self.settings
        seconds = {"tokens": self.stages["tokens"].seconds}
        seconds |= {name: float(history["seconds"].sum()) for name, history in histories.items()}
        counts = self.selection.split.value_counts()
        models = {}
        for d in self.directions:
            models[d.named("language_model", "_")] = {
                "start": d.start.origin,
                "shape": asdict(d.start.shape),
                "epochs": self.selection.lm_epochs,
                "validation_perplexity": float(
                    histories[d.named("language model", ", ")]["perplexity"].min()
                ),
            }
            plan = {
                "name": d.plan.name,
                "reason": d.plan_reason,
                "schedule": s.classifier.schedule,
            }
            models[d.named("plan", "_")] = plan
        return {
            "data_set": s.data.source,
            "origin": self.corpus.origin,
            "test_name": self.corpus.test_name,
            "rows": {
                split: int(counts.get(split, 0))
                for split in ("train", "valid", "test", "unlabelled")
            },
            "notes": [*self.corpus.notes, *self.selection.notes],
            "preset": self.preset,
            **models,
            "seed": s.seed,
            "precision": resolve_precision(s.precision),
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "durations": {name: _minutes(value) for name, value in seconds.items()},
        }


def _copies_note(predictions: pd.DataFrame) -> str:
    """How many tested texts have a copy in train, and the accuracy without them, as a sentence."""
    alone = predictions["copy_in_train"] == "no"
    n, n_copies = int(alone.sum()), int((~alone).sum())
    if not n_copies:
        return f"None of the {n:,} tested texts has a copy, or nearly one, in train."
    exact = int((predictions["copy_in_train"] == "word for word").sum())
    found = f"{n_copies:,} of {len(alone):,} tested texts have a copy in train, {exact:,} of them word for word"
    if not n:
        return f"{found}: there is no accuracy without them."
    right = int((predictions["label"] == predictions["predicted"])[alone].sum())
    low, high = accuracy_interval(right, n)
    return f"{found}; without them the accuracy is {right / n:.1%} ({low:.1%} to {high:.1%}, n = {n:,})."


def _explained(
    predictor: Predictor, predictions: pd.DataFrame, lengths: np.ndarray
) -> dict[int, str]:
    """The wrong predictions that the classifier was surest of, explained: row -> HTML.

    lengths: of the texts, in tokens. Occlusion takes longer than in proportion to it.
    """
    predicted, label = predictions["predicted"].to_numpy(), predictions["label"].to_numpy()
    short = np.flatnonzero((predicted != label) & (lengths <= EXPLAINED_TOKENS))
    worst = short[np.argsort(-predictions["confidence"].to_numpy()[short], kind="stable")][
        :N_EXPLAINED
    ]
    log.info("Explaining %d of the wrong predictions.", len(worst))
    return {
        int(row): explain(predictor, predictions["text"][row]).html(how=False) for row in worst
    }


def load_predictor(folder: Path, precision: str = "auto") -> Predictor:
    """A run's classifier, or both where it is bidirectional. precision: as in Predictor.

    Raises RunFolderError when a classifier is not trained yet, or the run is of another format, and what Predictor raises.
    """
    names = ("classifier", "classifier-backward")[
        : 1 + stored_config(folder)["settings"].bidirectional
    ]
    for name in names:
        if not (folder / name / "bundle.json").is_file():
            raise RunFolderError(
                f"No trained {name} in {folder} yet. Finish the run with the command that started it."
            )
    folders = [folder / name for name in names]
    if len(folders) == 1:
        return Predictor(*folders, precision)
    # It depends on both classifiers, each of which may be trained again alone: fitted here, it is never that of other ones.
    known = validated(folders)
    return BidirectionalPredictor(
        *folders, precision, fit_temperature(*known)[0] if known else 1.0
    )


def validated(folders: Sequence[Path]) -> tuple[np.ndarray, np.ndarray] | None:
    """What classifiers in these folders made of the validation split: probabilities [n, n_classes], the mean of theirs, at
    temperature 1, and the true classes [n]. None where one of them is of a version that did not keep them.

    Raises RunFolderError when a file is damaged, or two are of other texts.
    """
    paths = [folder / VALIDATION for folder in folders]
    if not all(path.is_file() for path in paths):
        return None
    try:
        tables = [pd.read_csv(path, dtype={"label": str}, keep_default_na=False) for path in paths]
        labels = [column for column in tables[0] if column.startswith("p_")]
        if any(
            not table[["row", "label"]].equals(tables[0][["row", "label"]]) for table in tables
        ):
            raise ValueError("they are of other texts")
        truth = pd.Index(labels).get_indexer("p_" + tables[0]["label"])
        probabilities = np.mean([table[labels].to_numpy(float) for table in tables], axis=0)
        check_predictions(probabilities, truth)
        return probabilities, truth
    except (KeyError, ValueError) as error:
        raise RunFolderError(
            f"{' and '.join(map(str, paths))}: damaged, or of unfinished stages ({error}). "
            "Expected each classifier's probabilities of the same texts. Delete these files, and have them written again: "
            f"python -m ulmfit_app report {folders[0].parent}"
        ) from None


def _link(source: Path, target: Path) -> None:
    """The cache's file under another name, without a second copy where the file system allows it."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        with replacing(target) as draft:
            shutil.copyfile(source, draft)
