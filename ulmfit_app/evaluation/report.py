"""The report of a run: metrics.json for programs, report.html for people, and the files between the two."""

import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts.files import replacing
from ulmfit_app.evaluation import drawing, figures
from ulmfit_app.evaluation.calibration import Calibration, before_and_after, undefined
from ulmfit_app.evaluation.metrics import paired_comparison, score
from ulmfit_app.evaluation.page import named_scores, page
from ulmfit_app.evaluation.slices import slices

log = logging.getLogger(__name__)

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
) -> dict:
    """Write metrics.json, classification_report.txt, worst_errors.csv, figures/*.png and report.html into `folder`.

    predictions: one row a tested text: text, label (the true class), and a probability column "p_<label>" for each
    class, in the order of the classes. Predicted class and confidence follow from the probabilities; by other columns,
    such as a text's source, the accuracy is given for each of their values.
    baselines: name -> probabilities [n, n_classes] for the same rows.
    histories: stage -> one row an epoch, as figures.training_curves_figure wants it; an empty one is left out.
    facts: what else to know about the run, nested and ready for JSON. Five keys have a place of their own on the page:
    model (what it is called; ULMFiT without it), data_set and test_name (strings, the heading), notes (a list of sentences)
    and durations (stage -> minutes, or any text). Durations stay out of metrics.json, which is the same, byte for byte, for
    two runs that predict the same.
    directions: "forward" and "backward" -> probabilities [n, n_classes], where the predictions are the mean of two.
    calibration: how the predictions were calibrated; without it the report shows them as they are, and no thresholds, which
    must not be chosen on the tested texts.
    explanations: row of a wrong prediction -> HTML that shows its text, and in it what moved the prediction.
    Returns what metrics.json holds. It is written last: a folder with a metrics.json has a whole report.
    Raises ValueError when predictions and baselines do not fit each other.
    """
    labels = [column.removeprefix("p_") for column in predictions if column.startswith("p_")]
    probabilities = predictions[[f"p_{label}" for label in labels]].to_numpy(dtype=float)
    truth = pd.Index(labels).get_indexer(predictions["label"])
    if (truth < 0).any():
        unknown = predictions["label"][truth < 0].iloc[0]
        raise ValueError(
            f"expected a column of probabilities for each label, found none named {f'p_{unknown}'!r}"
        )
    metrics = compare(probabilities, baselines, truth, labels, directions)
    if calibration:
        metrics["calibration"] = before_and_after(calibration, probabilities, truth)
    metrics["slices"], metrics["not_sliced"] = slices(predictions, probabilities, truth)
    metrics["undefined"] = undefined(truth, labels)
    metrics["facts"] = _for_json(facts)

    pictures = {
        "accuracy": figures.comparison_figure(named_scores(metrics)),
        "confusion_matrix": figures.confusion_figure(
            np.array(metrics["model"]["confusion_matrix"]), labels
        ),
        "confidence": figures.confidence_figure(probabilities, truth),
        "reliability": figures.reliability_figure(
            probabilities, truth, calibration and calibration.before
        ),
        "risk_coverage": figures.risk_coverage_figure(
            probabilities, truth, metrics["calibration"]["thresholds"] if calibration else []
        ),
    }
    for stage, history in histories.items():
        if len(history):
            title = stage[:1].upper() + stage[1:]
            pictures[f"training_{re.sub(r'[^a-z0-9]+', '_', stage.lower())}"] = (
                figures.training_curves_figure(history, title)
            )
    for name, picture in pictures.items():
        with replacing(folder / "figures" / f"{name}.png") as draft:
            drawing.save_png(picture, draft)

    errors = worst_errors(predictions["text"], probabilities, truth, labels)
    with replacing(folder / "worst_errors.csv") as draft:
        # A lone surrogate in a text has no UTF-8; it is shown as a question mark.
        errors.to_csv(draft, index=False, encoding="utf-8", errors="replace")
    _write(folder / "classification_report.txt", classification_report(metrics["model"]))
    pngs = {name: (folder / "figures" / f"{name}.png").read_bytes() for name in pictures}
    # Which fonts this machine has is no part of the metrics.
    hidden = drawing.undrawable(labels)
    if hidden:
        note = (
            f"No font on this machine can draw the names of {len(hidden)} of the {len(labels)} classes: figures show their "
            "numbers instead, which the table of each class gives."
        )
        facts = facts | {"notes": [*facts.get("notes", []), note]}
    _write(folder / "report.html", page(metrics, errors, pngs, facts, explanations))
    _write(folder / "metrics.json", _as_json(metrics))
    log.info("The report is at %s", folder / "report.html")
    return metrics


def compare(
    probabilities: np.ndarray,
    baselines: dict[str, np.ndarray],
    truth: np.ndarray,
    labels: list[str],
    directions: dict[str, np.ndarray] | None = None,
) -> dict:
    """Scores of the model and of each baseline, and how the model fares against each on the same texts.

    Returns {"model": metrics.score, "baselines": {name: metrics.score + {"model_against_it": paired_comparison}}}, and
    "directions" like "baselines" where some are given.
    """
    right = probabilities.argmax(axis=1) == truth

    def compared(others: dict[str, np.ndarray]) -> dict:
        return {
            name: score(other, truth, labels)
            | {"model_against_it": paired_comparison(right, other.argmax(axis=1) == truth)}
            for name, other in others.items()
        }

    found = {"model": score(probabilities, truth, labels), "baselines": compared(baselines)}
    return found | {"directions": compared(directions)} if directions else found


def worst_errors(
    texts: pd.Series, probabilities: np.ndarray, truth: np.ndarray, labels: list[str]
) -> pd.DataFrame:
    """The wrong predictions with the highest confidence, highest first, at most N_WORST_ERRORS.

    Columns: row (of the tested texts, from 0), label, predicted, confidence, probability_of_label, text.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
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
    """A table as scikit-learn prints it, with the accuracy's interval; "-" stands where a number is undefined.

    scores: what metrics.score returns.
    """
    per_class = scores["per_class"]
    width = max(len(name) for name in [*per_class, "macro F1"])
    lines = [f"{'':>{width}}  precision  recall      f1  support", ""]
    for label, numbers in per_class.items():
        precision, recall, f1 = (
            "-" if numbers[key] is None else f"{numbers[key]:.4f}"
            for key in ("precision", "recall", "f1")
        )
        lines.append(
            f"{label:>{width}}  {precision:>9}  {recall:>6}  {f1:>6}  {numbers['support']:>7}"
        )
    low, high = scores["accuracy_ci95"]
    lines.append("")
    lines.append(
        f"{'macro F1':>{width}}  {'':>9}  {'':>6}  {scores['macro_f1']:.4f}  {scores['n']:>7}"
    )
    lines.append(
        f"{'accuracy':>{width}}  {'':>9}  {'':>6}  {scores['accuracy']:.4f}  {scores['n']:>7}"
    )
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
    return (
        re.sub(
            r"\[\n\s+([-+.\de]+(?:,\n\s+[-+.\de]+)*)\n\s+\]",
            lambda row: f"[{' '.join(row[1].split())}]",
            text,
        )
        + "\n"
    )


def _write(path: Path, text: str) -> None:
    """UTF-8; a lone surrogate, which has no UTF-8, becomes its escape \\udcXX, which JSON reads back as what it was."""
    with replacing(path) as draft:
        draft.write_bytes(text.encode("utf-8", errors="backslashreplace"))
