"""The report stage: the test split scored, once, beside the baselines."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ulmfit_app.data.extending import UPDATE
from ulmfit_app.data.near_copies import find_copies
from ulmfit_app.evaluation.calibrated import Calibration
from ulmfit_app.evaluation.figures import PERPLEXITY
from ulmfit_app.evaluation.messages import ENGLISH, Message, ReportLanguage, speaking
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.evaluation.multilabel_report import worst_sets, write_multilabel_report
from ulmfit_app.evaluation.report import write_report
from ulmfit_app.evaluation.tables import PREFIX, find_right, prediction_table, sets_to_truth
from ulmfit_app.evaluation.updates import DURATIONS
from ulmfit_app.files import write_table
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predictor import (
    BidirectionalPredictor,
    Predictor,
    load_classifiers,
    read_validation,
)
from ulmfit_app.models.bundle import versions
from ulmfit_app.models.prune import inner_units
from ulmfit_app.models.shapes import Shape, TransformerShape
from ulmfit_app.pipeline.augmenting import describe_augmented
from ulmfit_app.pipeline.baselines import score_baselines
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.judging import find_learned, judge_update
from ulmfit_app.pipeline.run_files import RunFiles, write_mark
from ulmfit_app.pipeline.stages import calibrate, resolved_precision, seconds_of
from ulmfit_app.run_folder import (
    MARK,
    TEACHER,
    VALIDATION,
    find_lost,
    read_mark,
)
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.subword_store import describe_windows
from ulmfit_app.text.tokenizing import tokenize
from ulmfit_app.training.balance import metric_to_select_by

log = logging.getLogger(__name__)

LANGUAGE = "report_language"  # what the mark of the stage calls it
N_EXPLAINED = 10  # errors in the report
EXPLAINED_TOKENS = 500  # of a text at most, so that ten take seconds
PARTS = {"language model": "lm", "classifier": "classifier"}  # with histories -> their stages


def make_report(
    run: RunFiles, folder: Path, language: ReportLanguage = ENGLISH
) -> dict[str, ReportLanguage]:
    """Score the test split, once, beside the baselines, and write the report.

    Args:
        run: whose classifiers are there.
        folder: of the report.
        language: of the page and the figures.

    Returns:
        The language, for the mark of the stage.
    """
    record, rows, store = run.record, run.rows, run.open_tokens()
    folders = run.classifiers()
    _calibrate_again(run, folders)
    n_valid = record.counts["valid"]
    predictor = load_classifiers(folders, n_valid, record.settings.precision)
    test = np.flatnonzero(rows["split"] == "test")
    each = predictor.each(store, test, "Scoring the test split")
    before = np.mean(list(each.values()), axis=0)
    groups, of_valid = (
        run.groups_for(predictor.decision, rows["split"] == split) for split in ("test", "valid")
    )
    texts, calibrated = rows["text"][test].tolist(), predictor.decision.calibrate(before)
    how = predictor.labels, predictor.decision, groups
    predictions = prediction_table(texts, calibrated, *how)
    predictions.insert(1, "label", rows["label"][test].to_numpy())
    predictions["copy_in_train"] = find_learned(run) if record.parent else _find_copies(run)
    for name in _compared_by(run):
        predictions[name] = run.column(name)[test].to_numpy()
    write_table(folder / "predictions.csv", predictions)
    update, seconds = judge_update(run, predictions) if record.parent else (None, {})
    histories = _read_histories(run)
    facts = _facts(run, histories, predictor.bundle.about)
    facts["durations"] |= {DURATIONS[name]: _in_minutes(each) for name, each in seconds.items()}
    facts |= _facts_of_shape(predictor.bundle.shape, run)
    facts["notes"] += _notes(run, predictions, predictor.bundle.shape)
    baselines = score_baselines(run, predictions["text"].tolist(), predictor.decision)
    directions, answers = _alone(predictor, each)
    known = read_validation(folders, n_valid, record.data.multilabel)
    write = write_multilabel_report if record.data.multilabel else write_report
    write(
        folder,
        predictions,
        baselines.probabilities,
        histories,
        facts,
        directions,
        Calibration(predictor.decision, before, *known, groups, of_valid),
        _explain_errors(predictor, predictions, store.lengths()[test], language),
        language,
        record.settings.tokens.language,
        baselines.answers | answers,
        record.data.groups,
        record.data.time,
        update,
    )
    return {LANGUAGE: language}


def _compared_by(run: RunFiles) -> list[str]:
    """Columns of the source that predictions keep: groups, time, and which update brought a
    text."""
    data = run.record.data
    named = [*data.groups, *([data.time] if data.time else [])]
    return [*named, UPDATE] if run.record.parent else named


def _facts_of_shape(shape: Shape, run: RunFiles) -> dict[str, Any]:
    found = {}
    if run.record.settings.distillation.pruned:
        found["classifier_layers"] = inner_units(shape)
    if isinstance(shape, TransformerShape):
        found["model"] = Message("ULMFiT's recipe on {kind}", kind=shape.model["model_type"])
    return found


def _notes(run: RunFiles, predictions: pd.DataFrame, shape: Shape) -> list[str]:
    """What was found of the texts, in sentences."""
    multilabel = run.record.data.multilabel
    notes = [_describe_copies(predictions, multilabel), *describe_augmented(run)]
    notes += _describe_untested(run, predictions)
    if isinstance(shape, TransformerShape):
        notes.append(describe_windows(run.open_tokens(), shape.window))
    return notes


def _describe_untested(run: RunFiles, predictions: pd.DataFrame) -> list[str]:
    """Which groups no tested text is of, a sentence for each column that has some."""
    notes = []
    for name in run.record.data.groups:
        tested = set(predictions[name].str.strip())
        missing = sorted(set(run.corpus.table[name].str.strip()) - tested - {""})
        if missing:
            names = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
            note = Message(
                "No tested text is of {n:,} of the groups in “{column}”: {names}.",
                n=len(missing),
                column=name,
                names=names,
            )
            notes.append(note)
    return notes


def _calibrate_again(run: RunFiles, folders: list[Path]) -> None:
    """Write what classifiers made of the validation part where it was deleted by hand, as a
    message about a damaged one advises."""
    for which, classifier in zip(run.record.directions, folders, strict=True):
        if not (classifier / VALIDATION).is_file():
            calibrate(run, which, classifier)
            # Its temperature was written again, too, on another machine perhaps a longer number.
            if find_lost(classifier):
                write_mark(classifier, read_mark(classifier / MARK))


def _alone(
    predictor: Predictor, each: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray] | None, dict[str, np.ndarray]]:
    """Each direction's calibrated probabilities and answers, where there are two."""
    if not isinstance(predictor, BidirectionalPredictor):
        return None, {}
    decisions = {
        one.direction: one.decision for one in (predictor.bundle, predictor.backward.bundle)
    }
    found = {which: one.calibrate(each[which]) for which, one in decisions.items()}
    return found, {which: one.answer(found[which]) for which, one in decisions.items()}


def _find_copies(run: RunFiles) -> np.ndarray:
    """Of each tested text, whether the classifier learned from a copy, as `find_copies` says
    it."""
    texts, split = run.rows["text"].tolist(), run.rows["split"].to_numpy()
    store = run.open_tokens()
    if not run.read_tokenizer():
        # As they were tokenized: among the numbers of a vocabulary, texts would agree in all words
        # that it lacks.
        store = TokenStore.open(tokenize(texts, run.record.settings.tokens.language))
    return find_copies(store, texts, split == "test", split == "train")


def _read_histories(run: RunFiles) -> dict[str, pd.DataFrame]:
    return {
        each.named(part, ", "): read_history(run.place(each.named(stage))).rename(
            columns={"perplexity": _name_perplexity(each.start.shape)}
        )
        for each in run.record.directions
        for part, stage in PARTS.items()
    }


def _name_perplexity(shape: Shape) -> str:
    """A masked model knows what stands on both sides, and so is less surprised than others."""
    is_masked = isinstance(shape, TransformerShape) and shape.kind == "masked"
    return f"{PERPLEXITY} of masked tokens" if is_masked else PERPLEXITY


def _facts(
    run: RunFiles, histories: dict[str, pd.DataFrame], about: dict[str, Any]
) -> dict[str, Any]:
    record, settings = run.record, run.record.settings
    seconds = {"tokens": seconds_of(run.place("tokens"))}
    if record.teachers:
        seconds["asking teachers"] = seconds_of(run.place(TEACHER))
    seconds |= {name: float(history["seconds"].sum()) for name, history in histories.items()}
    models = {}
    for each in record.directions:
        perplexity = _name_perplexity(each.start.shape)
        perplexities = histories[each.named("language model", ", ")][perplexity]
        models[each.named("language_model", "_")] = {
            "start": each.start.origin,
            "shape": _sizes(each.start.shape),
            "epochs": record.lm_epochs,
            f"validation_{perplexity}".replace(" ", "_"): float(perplexities.min()),
        }
        schedule = settings.classifier.schedule
        plan = {"name": each.plan.name, "reason": each.plan_reason, "schedule": schedule}
        models[each.named("plan", "_")] = plan
    by = metric_to_select_by(settings.classifier, record.data.multilabel)
    if settings.classifier.balance != "none" or by != "accuracy":
        models |= {"balance": settings.classifier.balance, "kept_epoch_by": by.replace("_", " ")}
    # Of a transformer, whose parameters may nearly all stay as they are.
    counted = ("trained_parameters", "parameters")
    models |= {name: about[name] for name in counted if name in about}
    return {
        "data_set": settings.data.source,
        "origin": record.data.origin,
        "test_name": record.data.test_name,
        "rows": {split: record.counts.get(split, 0) for split in _SPLITS},
        "notes": [*record.data_notes, *record.selection_notes],
        "preset": record.preset,
        **models,
        "seed": settings.seed,
        "precision": resolved_precision(run),
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "durations": {name: _in_minutes(value) for name, value in seconds.items()},
    }


def _sizes(shape: Shape) -> dict[str, Any]:
    if not isinstance(shape, TransformerShape):
        return asdict(shape)
    sizes = {"kind": shape.kind, "blocks": shape.n_blocks, "width": shape.width}
    return {"model": shape.model["model_type"], **sizes, "window": shape.window}


_SPLITS = ("train", "valid", "test", "unlabelled")


def _in_minutes(seconds: float) -> str:
    if seconds < 60:
        return Message("{seconds:.0f} s", seconds=seconds)
    return Message("{minutes:.1f} min", minutes=seconds / 60)


def _describe_copies(predictions: pd.DataFrame, multilabel: bool) -> str:
    """How many tested texts have a copy in train, and the accuracy without them, as a sentence."""
    alone = predictions["copy_in_train"] == "no"
    n, n_copies = int(alone.sum()), int((~alone).sum())
    if not n_copies:
        return Message("None of the {n:,} tested texts has a copy, or nearly one, in train.", n=n)
    exact = int((predictions["copy_in_train"] == "word for word").sum())
    found = Message(
        "{n_copies:,} of {n:,} tested texts have a copy in train, {exact:,} of them word for word",
        n_copies=n_copies,
        n=len(alone),
        exact=exact,
    )
    if not n:
        return Message("{found}: there is no accuracy without them.", found=found)
    right = int(find_right(predictions, multilabel)[alone].sum())
    low, high = accuracy_interval(right, n)
    return Message(
        "{found}; without them the accuracy is {accuracy:.1%} ({low:.1%} to {high:.1%}, n = "
        "{n:,}).",
        found=found,
        accuracy=right / n,
        low=low,
        high=high,
        n=n,
    )


def _explain_errors(
    predictor: Predictor, predictions: pd.DataFrame, lengths: np.ndarray, language: ReportLanguage
) -> dict[int, str]:
    """The worst of the wrong predictions, explained: row -> HTML.

    Of one label a text, those that the classifier was surest of; of several, the first of
    worst_sets, and of each text the label that it was most wrong about.

    lengths: of the texts, in tokens. Occlusion takes longer than in proportion to it.
    """
    short = predictions[lengths <= EXPLAINED_TOKENS]
    if predictor.decision.multilabel:
        worst = _worst_labels(short, predictor.labels)
    else:
        wrong = short[~find_right(short, multilabel=False)]
        rows = wrong["confidence"].sort_values(ascending=False, kind="stable").index
        worst = dict.fromkeys(rows[:N_EXPLAINED])
    log.info("Explaining %d of the wrong predictions.", len(worst))
    with speaking(language):
        return {
            int(row): explain(predictor, predictions["text"][row], label=label).html(how=False)
            for row, label in worst.items()
        }


def _worst_labels(predictions: pd.DataFrame, labels: list[str]) -> dict[int, str]:
    """Of the worst errors of several labels: row -> the label that was most wrong."""
    probabilities = predictions[[PREFIX + label for label in labels]].to_numpy(float)
    truth, said = (sets_to_truth(predictions[of], labels) for of in ("label", "predicted"))
    found = worst_sets(predictions["text"], probabilities, truth, labels, said > 0)
    wrong = np.where(truth == said, -np.inf, np.abs(truth - probabilities))
    rows = found["row"][:N_EXPLAINED]
    return {predictions.index[row]: labels[int(wrong[row].argmax())] for row in rows}
