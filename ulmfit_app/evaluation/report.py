"""The report of a run: metrics.json for programs, report.html for people, and what is between."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ulmfit_app.evaluation import figures
from ulmfit_app.evaluation.calibrated import (
    Calibration,
    before_and_after,
    compare_costs,
    costs_of,
    judge_decision,
    mean_cost,
    without_answers,
)
from ulmfit_app.evaluation.calibration import MAX_NAMES, undefined
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.groups_and_time import draw_groups_and_time, judge_groups_and_time
from ulmfit_app.evaluation.headline import measures
from ulmfit_app.evaluation.messages import ENGLISH, Message, ReportLanguage, speaking
from ulmfit_app.evaluation.metrics import paired_comparison, score
from ulmfit_app.evaluation.page import named_scores, page
from ulmfit_app.evaluation.report_files import (
    as_json,
    can_draw,
    for_json,
    language_of,
    note_on_fonts,
    training_figures,
    without_lone_surrogates,
    write_figures,
    write_text,
)
from ulmfit_app.evaluation.scripts import pad, width_of
from ulmfit_app.evaluation.several_seeds import compare_macro_f1, macro_f1_interval
from ulmfit_app.evaluation.slices import slices
from ulmfit_app.evaluation.tables import PREFIX, probability_columns, true_classes
from ulmfit_app.files import write_table

PAGE = "report.html"
N_WORST_ERRORS = 500  # as many as a page of 3 MB holds with ease


def write_report(
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
    """Write the whole report of one label a text into a folder.

    metrics.json, classification_report.txt, worst_errors.csv, figures/*.png and report.html. The
    first is written last, and is the same, byte for byte, of two runs that predict the same.

    Args:
        folder: made where it is missing.
        predictions: one row per tested text: text, label (the true class), a column `p_LABEL` of
            probabilities per class, in order, and perhaps predicted, the answer, else the most
            probable class. The accuracy is also given by other columns, such as a text's source.
        baselines: name -> probabilities [n, n_classes] for the same rows.
        histories: stage -> what figures.training_curves_figure takes; an empty one is left out.
        facts: what else to know about the run, nested and ready for JSON. Five have a place of
            their own: model (its name; ULMFiT without it), data_set and test_name (the heading),
            notes (sentences) and durations (of stages), which stay out of metrics.json.
        directions: "forward", "backward" -> [n, n_classes], where predictions are their mean.
        calibration: how the predictions were calibrated and decided; without it there are no
            thresholds, which must not be chosen on the tested texts.
        explanations: row of a wrong prediction -> HTML of its text and what moved it.
        report_language: of the page and the figures; what programs read is in English.
        language: code of the texts' language; "" and Chinese codes: found by their characters.
        answers: of a baseline or direction that does not answer its most probable classes, [n].
        groups, time: columns of predictions: whose values are groups; when a text is from.
        update: of an updated run: what updates.compare_update returns, and what else
            page_update.update_section reads.

    Returns:
        What metrics.json holds.

    Raises:
        ValueError: predictions and baselines do not fit each other, or a cell names no class.
        DataError: the column of times cannot be read.
    """
    arrays = labels, probabilities, truth, predicted = _arrays_of(predictions)
    given = directions, predicted, answers, calibration and calibration.decision
    metrics = compare(probabilities, baselines, truth, labels, *given)
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
    errors = worst_errors(texts, probabilities, truth, labels, predicted)
    write_table(folder / "worst_errors.csv", errors.map(without_lone_surrogates))
    write_text(folder / "classification_report.txt", classification_report(metrics["model"]))
    # Not for metrics.json: which fonts this machine has.
    facts = with_notes(facts, predicted, truth, labels, report_language)
    language = language_of(texts, language)
    with speaking(report_language):
        write_text(folder / PAGE, page(metrics, errors, pngs, facts, explanations, language))
    write_text(folder / "metrics.json", as_json(metrics))


def _arrays_of(
    predictions: pd.DataFrame,
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """The class names, the probabilities [n, n_classes], the true classes and the answers, [n]."""
    columns, truth = probability_columns(predictions), true_classes(predictions)
    probabilities = predictions[columns].to_numpy(dtype=float)
    predicted = probabilities.argmax(axis=1)
    if "predicted" in predictions:
        predicted = pd.Index(columns).get_indexer(PREFIX + predictions["predicted"])
    for name, classes in (("label", truth), ("predicted", predicted)):
        if (classes < 0).any():
            missing = PREFIX + predictions[name][classes < 0].iloc[0]
            raise ValueError(
                f"expected a column of probabilities for each {name}, found none named {missing!r}"
            )
    return [column.removeprefix(PREFIX) for column in columns], probabilities, truth, predicted


def _details(
    predictions: pd.DataFrame,
    arrays: tuple[list[str], np.ndarray, np.ndarray, np.ndarray],
    calibration: Calibration | None,
    groups: Sequence[str],
    time: str | None,
) -> dict:
    """What calibration did, and the accuracy on parts of the texts, in groups and over time."""
    found, (labels, probabilities, truth, predicted) = {}, arrays
    if calibration:
        found["calibration"] = before_and_after(calibration, probabilities, truth)
        if judged := judge_decision(calibration, probabilities, truth, labels):
            found["decision"] = judged
    others = predictions.drop(columns=[*groups, *([time] if time else [])])
    found["slices"], found["not_sliced"] = slices(others, probabilities, truth, predicted)
    found |= judge_groups_and_time(predictions, arrays, groups, time, calibration)
    return found | {"undefined": undefined(truth, labels)}


def _figures_of(
    metrics: dict,
    probabilities: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    calibration: Calibration | None,
) -> dict[str, Figure]:
    """The figures of the predictions, by name."""
    model = metrics["model"]
    before = calibration and calibration.before
    thresholds = metrics["calibration"]["thresholds"] if calibration else []
    return {
        **{of: figures.comparison_figure(named_scores(metrics), of) for of in measures(metrics)},
        "confusion_matrix": figures.confusion_figure(
            np.array(model["confusion_matrix"]), list(model["per_class"])
        ),
        "confidence": figures.confidence_figure(probabilities, truth, predicted),
        "reliability": figures.reliability_figure(probabilities, truth, before),
        "risk_coverage": figures.risk_coverage_figure(probabilities, truth, thresholds, predicted),
        **draw_groups_and_time(metrics),
    }


def with_notes(
    facts: dict,
    predicted: np.ndarray,
    truth: np.ndarray,
    labels: list[str],
    language: ReportLanguage,
) -> dict:
    """The facts with notes on labels that no text is given, and on fonts, where there are any.

    Args:
        facts: as in write_report.
        predicted, truth: [n] class indices; of several labels [n, n_labels].
        labels: their names.
        language: of the page.
    """
    notes = _note_on_answers(predicted, truth, labels) + note_on_fonts(labels, language)
    return facts | {"notes": [*facts.get("notes", []), *notes]}


def _note_on_answers(predicted: np.ndarray, truth: np.ndarray, labels: list[str]) -> list[str]:
    """A sentence on labels that tested texts have and none is given, where there are any."""
    missing = without_answers(predicted, truth, labels)
    if not missing:
        return []
    names = ", ".join(missing[:MAX_NAMES]) + (", …" if len(missing) > MAX_NAMES else "")
    return [
        Message(
            "No tested text is given {n} of the {n_classes} classes, though some have them: "
            "{names}.",
            n=len(missing),
            n_classes=len(labels),
            names=names,
        )
    ]


def compare(
    probabilities: np.ndarray,
    baselines: dict[str, np.ndarray],
    truth: np.ndarray,
    labels: list[str],
    directions: dict[str, np.ndarray] | None = None,
    predicted: np.ndarray | None = None,
    answers: dict[str, np.ndarray] | None = None,
    decision: Decision | None = None,
) -> dict:
    """Scores of the model and of each baseline, and how the model compares with each.

    Args:
        probabilities: the model's, [n, n_classes].
        baselines: name -> probabilities [n, n_classes] for the same texts.
        truth: [n] class indices.
        labels: the class names, in order.
        directions: direction -> probabilities [n, n_classes], where the model is the mean of two.
        predicted: the model's answers, as metrics.score takes them.
        answers: as in write_report.
        decision: whose costs, where it has some, all answers are judged by.

    Returns:
        {"model": scores, "baselines": {name: scores + {"model_against_it":
        metrics.paired_comparison and compare_macro_f1}}}, and "directions" like
        "baselines" where some are given. Scores are metrics.score and macro_f1_ci95; with costs
        there are calibrated.mean_cost and calibrated.compare_costs, too.

    Raises:
        ValueError: the arrays do not fit each other, or hold no probabilities.
    """
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    has_costs = decision is not None and bool(decision.costs)

    def against(other: np.ndarray) -> dict:
        by_class = compare_macro_f1(truth, predicted, other, len(labels))
        found = paired_comparison(predicted == truth, other == truth) | by_class
        if has_costs:
            found |= compare_costs(*(costs_of(of, truth, decision) for of in (predicted, other)))
        return found

    def scored(of: np.ndarray, said: np.ndarray) -> dict:
        found = score(of, truth, labels, said)
        _, low, high = macro_f1_interval(truth, said[:, None], len(labels))
        found["macro_f1_ci95"] = [float(low), float(high)]
        return found | (mean_cost(costs_of(said, truth, decision)) if has_costs else {})

    def compared(others: dict[str, np.ndarray]) -> dict:
        found = {}
        for name, other in others.items():
            said = (answers or {}).get(name, other.argmax(axis=1))
            found[name] = scored(other, said) | {"model_against_it": against(said)}
        return found

    found = {"model": scored(probabilities, predicted), "baselines": compared(baselines)}
    return found | {"directions": compared(directions)} if directions else found


def worst_errors(
    texts: pd.Series,
    probabilities: np.ndarray,
    truth: np.ndarray,
    labels: list[str],
    predicted: np.ndarray | None = None,
) -> pd.DataFrame:
    """The wrong predictions with the highest confidence, highest first, at most N_WORST_ERRORS.

    Args:
        texts: [n] the tested ones.
        probabilities: [n, n_classes].
        truth: [n] class indices.
        labels: the class names, in order.
        predicted: as metrics.score takes it.

    Returns:
        Columns row (of the tested texts, from 0), label, predicted, confidence,
        probability_of_label, text.
    """
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(truth)), predicted]
    wrong = np.flatnonzero(predicted != truth)
    # Stable, so that equal confidences keep the order of the texts.
    rows = wrong[np.argsort(-confidence[wrong], kind="stable")][:N_WORST_ERRORS]
    return pd.DataFrame(
        {
            "row": rows,
            "label": [labels[index] for index in truth[rows]],
            "predicted": [labels[index] for index in predicted[rows]],
            "confidence": confidence[rows],
            "probability_of_label": probabilities[rows, truth[rows]],
            "text": texts.iloc[rows].reset_index(drop=True),
        }
    )


def classification_report(scores: dict) -> str:
    """A table as scikit-learn prints it, with the accuracy's interval; "-" means undefined.

    The means are over the classes: of the recall it is the balanced accuracy.

    Args:
        scores: what metrics.score returns.
    """
    per_class = scores["per_class"]
    width = max(map(width_of, [*per_class, "accuracy"]))
    lines = [f"{'':>{width}}  precision  recall      f1  avg prec  support", ""]
    for label, numbers in per_class.items():
        precision, recall, f1, ranked = (
            "-" if numbers[key] is None else f"{numbers[key]:.4f}"
            for key in ("precision", "recall", "f1", "average_precision")
        )
        lines.append(
            f"{pad(label, width)}  {precision:>9}  {recall:>6}  {f1:>6}  {ranked:>8}  "
            f"{numbers['support']:>7}"
        )
    n, (low, high) = scores["n"], scores["accuracy_ci95"]
    lines.append("")
    means = "balanced_accuracy", "macro_f1", "mean_average_precision"
    recall, f1, ranked = (f"{scores[key]:.4f}" for key in means)
    lines.append(f"{'mean':>{width}}  {'':>9}  {recall}  {f1}  {ranked:>8}  {n:>7}")
    accuracy = f"{scores['accuracy']:.4f}"
    lines.append(f"{'accuracy':>{width}}  {'':>9}  {'':>6}  {accuracy}  {'':>8}  {n:>7}")
    lines.append(f"{'':>{width}}  95 % interval of the accuracy: {low:.4f} to {high:.4f}")
    return "\n".join(lines) + "\n"
