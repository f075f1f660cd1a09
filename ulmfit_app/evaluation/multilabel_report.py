"""The report of a run of several labels a text, in the same files as that of one."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ulmfit_app.evaluation import figures, multilabel_figures
from ulmfit_app.evaluation.calibrated import (
    Calibration,
    before_and_after_of_labels,
    judge_decision,
)
from ulmfit_app.evaluation.calibration import MAX_NAMES
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.groups_and_time import draw_groups_and_time, judge_groups_and_time
from ulmfit_app.evaluation.messages import ENGLISH, Message, ReportLanguage, speaking
from ulmfit_app.evaluation.multilabel import compare_sets, score_sets
from ulmfit_app.evaluation.multilabel_page import multilabel_page
from ulmfit_app.evaluation.page import named_scores
from ulmfit_app.evaluation.report import N_WORST_ERRORS, PAGE, with_notes
from ulmfit_app.evaluation.report_files import (
    as_json,
    can_draw,
    for_json,
    language_of,
    training_figures,
    without_lone_surrogates,
    write_figures,
    write_text,
)
from ulmfit_app.evaluation.scripts import pad, width_of
from ulmfit_app.evaluation.slices import slices_of_sets
from ulmfit_app.evaluation.tables import PREFIX, probability_columns, sets_to_truth, spell_set
from ulmfit_app.files import write_table


def write_multilabel_report(
    folder: Path,
    predictions: pd.DataFrame,
    baselines: dict[str, np.ndarray],
    histories: dict[str, pd.DataFrame],
    facts: dict,
    directions: dict[str, np.ndarray] | None = None,
    calibration: Calibration | None = None,
    explanations: dict[int, str] | None = None,
    report_language: ReportLanguage = ENGLISH,
    language: str = "",
    answers: dict[str, np.ndarray] | None = None,
    groups: Sequence[str] = (),
    time: str | None = None,
    update: dict | None = None,
) -> dict:
    """Write the whole report of several labels a text into a folder.

    The files are those of report.write_report.

    Args:
        folder: made where it is missing.
        predictions: one row per tested text: text, label and predicted (sets of labels, as
            tables.spell_set writes them), and a column `p_LABEL` of probabilities per label, in
            the order of the labels. Without `predicted`, labels whose probability reaches 0.5 are
            the answer.
        baselines: name -> probabilities [n, n_labels] for the same rows.
        answers: name of a baseline or a direction -> its answers, boolean [n, n_labels], where
            they are not those of probabilities that reach 0.5.
        histories, facts, directions, calibration, explanations, report_language, language, groups,
            time, update: as report.write_report takes them.

    Returns:
        What metrics.json holds.

    Raises:
        ValueError: predictions and baselines do not fit each other.
        KeyError: a label or an answer has no column.
        DataError: the column of times cannot be read.
    """
    arrays = labels, probabilities, truth, predicted = _arrays_of(predictions)
    limits = calibration and calibration.decision.limits(len(labels))
    model = score_sets(probabilities, truth, labels, predicted, limits)
    metrics = {"multilabel": True, "model": model}
    for kind, rivals in (("baselines", baselines), ("directions", directions)):
        if rivals is not None:
            metrics[kind] = _compared(rivals, answers or {}, truth, labels, predicted)
    metrics |= _details(predictions, arrays, calibration, groups, time)
    metrics |= {"update": update} if update else {}
    metrics["facts"] = for_json(facts)
    told = calibration, histories, facts, explanations, report_language, language
    _write(folder, predictions["text"], arrays, metrics, *told)
    return metrics


def _write(
    folder: Path,
    texts: pd.Series,
    arrays: tuple[list[str], np.ndarray, np.ndarray, np.ndarray],
    metrics: dict,
    calibration: Calibration | None,
    histories: dict[str, pd.DataFrame],
    facts: dict,
    explanations: dict[int, str] | None,
    report_language: ReportLanguage,
    language: str,
) -> None:
    """All files of a report, metrics.json last. arrays: as _arrays_of gives them."""
    labels, probabilities, truth, predicted = arrays
    with speaking(report_language if can_draw(report_language) else ENGLISH):
        drawn = _figures_of(metrics, probabilities, truth, predicted, calibration)
        pngs = write_figures(folder / "figures", drawn | training_figures(histories))
    errors = worst_sets(texts, probabilities, truth, labels, predicted)
    write_table(folder / "worst_errors.csv", errors.map(without_lone_surrogates))
    write_text(folder / "classification_report.txt", sets_report(metrics["model"]))
    facts = with_notes(facts, predicted, truth, labels, report_language)
    language = language_of(texts, language)
    with speaking(report_language):
        html = multilabel_page(metrics, errors, pngs, facts, explanations, language)
        write_text(folder / PAGE, html)
    write_text(folder / "metrics.json", as_json(metrics))


def _arrays_of(
    predictions: pd.DataFrame,
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """The names of the labels, and probabilities, truth and answers, [n, n_labels]."""
    labels = [column.removeprefix(PREFIX) for column in probability_columns(predictions)]
    probabilities = predictions[probability_columns(predictions)].to_numpy(dtype=float)
    truth = sets_to_truth(predictions["label"], labels)
    if "predicted" not in predictions:
        return labels, probabilities, truth, Decision(True).answer(probabilities)
    return labels, probabilities, truth, sets_to_truth(predictions["predicted"], labels) > 0


def _compared(
    rivals: dict[str, np.ndarray],
    answers: dict[str, np.ndarray],
    truth: np.ndarray,
    labels: list[str],
    predicted: np.ndarray,
) -> dict[str, dict]:
    """Scores of each rival, and how the model compares with it."""
    found = {}
    for name, probabilities in rivals.items():
        said = answers.get(name, Decision(True).answer(probabilities))
        against = {"model_against_it": compare_sets(truth, predicted, said)}
        found[name] = score_sets(probabilities, truth, labels, said) | against
    return found


def _details(
    predictions: pd.DataFrame,
    arrays: tuple[list[str], np.ndarray, np.ndarray, np.ndarray],
    calibration: Calibration | None,
    groups: Sequence[str],
    time: str | None,
) -> dict:
    """What calibration and thresholds did, and how good answers are on parts of the texts, in
    groups and over time."""
    found, (labels, probabilities, truth, predicted) = {}, arrays
    if calibration:
        of_tested = calibration, probabilities, truth, labels
        found["calibration"] = before_and_after_of_labels(*of_tested)
        if judged := judge_decision(*of_tested):
            found["decision"] = judged
    others = predictions.drop(columns=[*groups, *([time] if time else [])])
    found["slices"], found["not_sliced"] = slices_of_sets(others, truth, predicted)
    found |= judge_groups_and_time(predictions, arrays, groups, time, calibration)
    absent = [label for label, has in zip(labels, truth.any(axis=0), strict=True) if not has]
    found["undefined"] = []
    if absent:
        names = ", ".join(absent[:MAX_NAMES]) + (", …" if len(absent) > MAX_NAMES else "")
        note = Message(
            "No tested text has {n_absent} of the {n_labels} labels ({names}): how well their "
            "probabilities fit cannot be seen here.",
            n_absent=len(absent),
            n_labels=len(labels),
            names=names,
        )
        found["undefined"].append(note)
    return found


def _figures_of(
    metrics: dict,
    probabilities: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    calibration: Calibration | None,
) -> dict[str, Figure]:
    """The figures of the predictions, by name."""
    model, labels = metrics["model"], list(metrics["model"]["per_label"])
    before = calibration and calibration.before
    return {
        "macro_f1": figures.comparison_figure(named_scores(metrics), "macro_f1"),
        "labels": multilabel_figures.labels_figure(model),
        "labels_together": multilabel_figures.together_figure(truth, labels),
        "labels_given": multilabel_figures.given_figure(truth, predicted, labels),
        "reliability": multilabel_figures.pooled_reliability_figure(probabilities, truth, before),
        **draw_groups_and_time(metrics),
    }


def worst_sets(
    texts: pd.Series,
    probabilities: np.ndarray,
    truth: np.ndarray,
    labels: list[str],
    predicted: np.ndarray,
) -> pd.DataFrame:
    """Texts that are not given exactly their labels, at most N_WORST_ERRORS.

    First those whose labels, and lack of the others, the classifier thought least probable: by the
    log loss of the text, summed over all labels. So a label that was thought impossible comes
    before one that was missed by a little.

    Args:
        texts: [n] the tested ones.
        probabilities, truth, predicted: [n, n_labels].
        labels: their names.

    Returns:
        Columns row (of the tested texts, from 0), label, predicted (sets, as in predictions),
        missed, in_vain (JSON objects: label -> its probability), log_loss (nats), text.
    """
    has = truth > 0
    of_truth = np.where(has, probabilities, 1 - probabilities)
    losses = -np.log(np.clip(of_truth, np.finfo(float).eps, 1)).sum(axis=1)
    wrong = np.flatnonzero((has != predicted).any(axis=1))
    rows = wrong[np.argsort(-losses[wrong], kind="stable")][:N_WORST_ERRORS]
    names = np.array(labels, object)

    def with_probabilities(row: int, chosen: np.ndarray) -> str:
        found = {names[i]: round(float(probabilities[row, i]), 6) for i in np.flatnonzero(chosen)}
        return json.dumps(found, ensure_ascii=False)

    return pd.DataFrame(
        {
            "row": rows,
            "label": [spell_set(names[has[row]]) for row in rows],
            "predicted": [spell_set(names[predicted[row]]) for row in rows],
            "missed": [with_probabilities(row, has[row] & ~predicted[row]) for row in rows],
            "in_vain": [with_probabilities(row, predicted[row] & ~has[row]) for row in rows],
            "log_loss": losses[rows],
            "text": texts.iloc[rows].reset_index(drop=True),
        }
    )


def sets_report(scores: dict) -> str:
    """A table as scikit-learn prints it; "-" means undefined.

    Args:
        scores: what multilabel.score_sets returns.
    """

    def shown(numbers: dict, prefix: str = "") -> str:
        keys = "precision", "recall", "f1"
        cells = [numbers[prefix + key] for key in keys]
        return "  ".join(
            f"{'-' if cell is None else f'{cell:.4f}':>{width}}"
            for cell, width in zip(cells, (9, 6, 6), strict=True)
        )

    def ranked(value: float | None) -> str:
        return f"{'-' if value is None else f'{value:.4f}':>8}"

    width = max(map(width_of, [*scores["per_label"], "macro mean"]))
    lines = [f"{'':>{width}}  precision  recall      f1  avg prec  support", ""]
    for label, numbers in scores["per_label"].items():
        of_label = ranked(numbers["average_precision"])
        lines.append(f"{pad(label, width)}  {shown(numbers)}  {of_label}  {numbers['support']:>7}")
    n, (low, high) = scores["n"], scores["subset_accuracy_ci95"]
    mean = ranked(scores["mean_average_precision"])
    lines += [
        "",
        f"{'micro mean':>{width}}  {shown(scores, 'micro_')}  {'':>8}  {n:>7}",
        f"{'macro mean':>{width}}  {shown(scores, 'macro_')}  {mean}  {n:>7}",
        "",
        f"subset accuracy {scores['subset_accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f})",
        f"Hamming loss {scores['hamming_loss']:.4f}, coverage error "
        f"{scores['coverage_error']:.4f}, label ranking average precision "
        f"{scores['label_ranking_average_precision']:.4f}",
    ]
    return "\n".join(lines) + "\n"
