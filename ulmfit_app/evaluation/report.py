"""The report of a run: metrics.json for programs, report.html for people, and what is between."""

import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from data_scripts.files import replacing
from ulmfit_app.evaluation import drawing, figures
from ulmfit_app.evaluation.calibration import Calibration, before_and_after, undefined
from ulmfit_app.evaluation.fonts import families_for, how_to_install
from ulmfit_app.evaluation.messages import (
    ENGLISH,
    Message,
    ReportLanguage,
    characters_of,
    known,
    speaking,
)
from ulmfit_app.evaluation.metrics import compare_macro_f1, paired_comparison, score
from ulmfit_app.evaluation.page import named_scores, page
from ulmfit_app.evaluation.scripts import pad, script_of, width_of
from ulmfit_app.evaluation.slices import slices
from ulmfit_app.evaluation.tables import PREFIX, probability_columns, true_classes
from ulmfit_app.files import write_table
from ulmfit_app.languages import is_chinese

log = logging.getLogger(__name__)

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
) -> dict:
    """Write the whole report into a folder.

    metrics.json, classification_report.txt, worst_errors.csv, figures/*.png and report.html. The
    first is written last: a folder that has one has a whole report. Two runs that predict the same
    have the same one, byte for byte.

    Args:
        folder: made where it is missing.
        predictions: one row per tested text: text, label (the true class), and a column `p_LABEL`
            of probabilities per class, in the order of the classes. Where there is a column
            `predicted`, it holds the answers, else the most probable class is the answer. The
            accuracy is also given for each value of the other columns, such as a text's source.
        baselines: name -> probabilities [n, n_classes] for the same rows.
        histories: stage -> what figures.training_curves_figure takes; an empty one is left out.
        facts: what else to know about the run, nested and ready for JSON. Five have a place of
            their own: model (its name; ULMFiT without it), data_set and test_name (the heading),
            notes (sentences) and durations (of stages), which stay out of metrics.json.
        directions: "forward" and "backward" -> [n, n_classes], where predictions are their mean.
        calibration: how the predictions were calibrated; without it there are no thresholds,
            which must not be chosen on the tested texts.
        explanations: row of a wrong prediction -> HTML of its text and what moved it.
        report_language: of the page and the figures; what programs read is in English.
        language: code of the texts' language; "" and Chinese codes: found by their characters.

    Returns:
        What metrics.json holds.

    Raises:
        ValueError: predictions and baselines do not fit each other, or a label or an answer has
            no column.
    """
    labels, probabilities, truth, predicted = _arrays_of(predictions)
    metrics = compare(probabilities, baselines, truth, labels, directions, predicted)
    metrics |= _details(predictions, probabilities, truth, predicted, calibration)
    metrics["facts"] = _for_json(facts)
    with speaking(report_language if _can_draw(report_language) else ENGLISH):
        drawn = _figures_of(metrics, probabilities, truth, predicted, calibration)
        pngs = _write_figures(folder / "figures", drawn | _training_figures(histories))
    errors = worst_errors(predictions["text"], probabilities, truth, labels, predicted)
    write_table(folder / "worst_errors.csv", errors.map(_without_lone_surrogates))
    _write(folder / "classification_report.txt", classification_report(metrics["model"]))
    # Which fonts this machine has is not part of the metrics.
    facts = facts | {"notes": [*facts.get("notes", []), *_note_on_fonts(labels, report_language)]}
    language = _language_of(predictions["text"], language)
    with speaking(report_language):
        _write(folder / PAGE, page(metrics, errors, pngs, facts, explanations, language))
    _write(folder / "metrics.json", _as_json(metrics))
    return metrics


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
    probabilities: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    calibration: Calibration | None,
) -> dict:
    """What calibration did, and the accuracy on parts of the texts."""
    found = {}
    if calibration:
        found["calibration"] = before_and_after(calibration, probabilities, truth)
    found["slices"], found["not_sliced"] = slices(predictions, probabilities, truth, predicted)
    labels = [column.removeprefix(PREFIX) for column in probability_columns(predictions)]
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
        "accuracy": figures.comparison_figure(named_scores(metrics)),
        "confusion_matrix": figures.confusion_figure(
            np.array(model["confusion_matrix"]), list(model["per_class"])
        ),
        "confidence": figures.confidence_figure(probabilities, truth, predicted),
        "reliability": figures.reliability_figure(probabilities, truth, before),
        "risk_coverage": figures.risk_coverage_figure(probabilities, truth, thresholds),
    }


def _training_figures(histories: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """The training curves of each stage that was trained, by name."""
    return {
        f"training_{re.sub(r'[^a-z0-9]+', '_', stage.lower())}": figures.training_curves_figure(
            history, _sentence(known(stage))
        )
        for stage, history in histories.items()
        if len(history)
    }


def _write_figures(folder: Path, drawn: dict[str, Figure]) -> dict[str, bytes]:
    """Write figures as PNG files, and return their bytes, by name."""
    for name, figure in drawn.items():
        with replacing(folder / f"{name}.png") as draft:
            drawing.save_png(figure, draft)
    return {name: (folder / f"{name}.png").read_bytes() for name in drawn}


def _sentence(begun: str) -> str:
    return begun[:1].upper() + begun[1:]


def _can_draw(language: ReportLanguage) -> bool:
    """Whether fonts of this machine have the words of a report in a language."""
    missing = families_for(characters_of(language))[1]
    if missing:
        log.info("%s %s", _WITHOUT_FONT, how_to_install(missing))
    return not missing


_WITHOUT_FONT = Message(
    "No font on this machine has the words of the figures: they are in English."
)


def _note_on_fonts(labels: list[str], language: ReportLanguage) -> list[str]:
    """Sentences on what no font here can draw of class names and of a report's words."""
    hidden = [labels[index] for index in drawing.undrawable(labels)]
    notes = []
    if hidden:
        note = Message(
            "No font on this machine can draw the names of {n} of the {n_classes} classes: "
            "figures show their numbers instead, which the table of each class gives. {install}",
            n=len(hidden),
            n_classes=len(labels),
            install=how_to_install(set("".join(hidden))),
        )
        notes.append(note)
    if missing := families_for(characters_of(language))[1]:
        notes += [_WITHOUT_FONT] if hidden else [_WITHOUT_FONT, how_to_install(missing)]
    return notes


def _language_of(texts: pd.Series, code: str) -> str:
    """The language of texts as a page names it in `lang`. code: their language's, or ""."""
    if code and not is_chinese(code):
        return code
    # Enough to tell: all of a large data set would take seconds.
    return script_of("".join(texts.head(200).str[:200])) or code


def compare(
    probabilities: np.ndarray,
    baselines: dict[str, np.ndarray],
    truth: np.ndarray,
    labels: list[str],
    directions: dict[str, np.ndarray] | None = None,
    predicted: np.ndarray | None = None,
) -> dict:
    """Scores of the model and of each baseline, and how the model compares with each.

    Args:
        probabilities: the model's, [n, n_classes].
        baselines: name -> probabilities [n, n_classes] for the same texts.
        truth: [n] class indices.
        labels: the class names, in order.
        directions: direction -> probabilities [n, n_classes], where the model is the mean of two.
        predicted: the model's answers, as metrics.score takes them.

    Returns:
        {"model": metrics.score, "baselines": {name: metrics.score + {"model_against_it":
        metrics.paired_comparison and metrics.compare_macro_f1}}}, and "directions" like
        "baselines" where some are given.

    Raises:
        ValueError: the arrays do not fit each other, or hold no probabilities.
    """
    if predicted is None:
        predicted = probabilities.argmax(axis=1)
    right = predicted == truth

    def against(other: np.ndarray) -> dict:
        by_class = compare_macro_f1(truth, predicted, other, len(labels))
        return paired_comparison(right, other == truth) | by_class

    def compared(others: dict[str, np.ndarray]) -> dict:
        return {
            name: score(other, truth, labels) | {"model_against_it": against(other.argmax(axis=1))}
            for name, other in others.items()
        }

    model = score(probabilities, truth, labels, predicted)
    found = {"model": model, "baselines": compared(baselines)}
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


def _without_lone_surrogates(cell):
    """A lone surrogate, which has no UTF-8, as U+FFFD; as it stands in a run's texts already."""
    return re.sub("[\ud800-\udfff]", "\ufffd", cell) if isinstance(cell, str) else cell


def classification_report(scores: dict) -> str:
    """A table as scikit-learn prints it, with the accuracy's interval; "-" means undefined.

    Args:
        scores: what metrics.score returns.
    """
    per_class = scores["per_class"]
    width = max(map(width_of, [*per_class, "macro F1"]))
    lines = [f"{'':>{width}}  precision  recall      f1  support", ""]
    for label, numbers in per_class.items():
        precision, recall, f1 = (
            "-" if numbers[key] is None else f"{numbers[key]:.4f}"
            for key in ("precision", "recall", "f1")
        )
        lines.append(
            f"{pad(label, width)}  {precision:>9}  {recall:>6}  {f1:>6}  {numbers['support']:>7}"
        )
    n, (low, high) = scores["n"], scores["accuracy_ci95"]
    lines.append("")
    for name, key in (("macro F1", "macro_f1"), ("accuracy", "accuracy")):
        lines.append(f"{name:>{width}}  {'':>9}  {'':>6}  {scores[key]:.4f}  {n:>7}")
    lines.append(f"{'':>{width}}  95 % interval of the accuracy: {low:.4f} to {high:.4f}")
    return "\n".join(lines) + "\n"


def _for_json(value):
    """The facts without durations, and without NaN and Infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _for_json(one) for key, one in value.items() if key != "durations"}
    if isinstance(value, (list, tuple)):
        return [_for_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f"not a finite number ({value})"
    return value


def _as_json(metrics: dict) -> str:
    """Indented JSON with each row of numbers, such as one of a confusion matrix, on one line."""
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    # Inside a JSON string a line never breaks, so that this touches no string.
    rows = r"\[\n\s+([-+.\de]+(?:,\n\s+[-+.\de]+)*)\n\s+\]"
    return re.sub(rows, lambda row: f"[{' '.join(row[1].split())}]", text) + "\n"


def _write(path: Path, text: str) -> None:
    """As UTF-8; a lone surrogate, which has none, becomes its escape, which JSON reads back."""
    with replacing(path) as draft:
        draft.write_bytes(text.encode("utf-8", errors="backslashreplace"))
