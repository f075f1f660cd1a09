"""The report of a run, or of anybody's predictions, as one HTML page.

The sections on confidence and on errors have files of their own: page_confidence, page_errors.
"""

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.markup import (
    MAX_NAME,
    cut,
    document,
    interval,
    listed,
    page_file,
    picture,
    table,
    text,
)
from ulmfit_app.evaluation.metrics import SIGNIFICANT
from ulmfit_app.evaluation.page_confidence import confidence_section
from ulmfit_app.evaluation.page_errors import count_wrong, errors_section

MODEL = "ULMFiT"
N_CONFUSIONS = 15
# Facts that have a place of their own.
OF_THE_HEADING = ("model", "data_set", "test_name", "notes", "durations")

CAPTIONS = {
    "accuracy": "Each dot is an accuracy, each line its 95% interval: where the accuracy on "
    "unlimited texts of the same kind is likely to lie. All were scored on the same texts.",
    "confusion_matrix": "One row holds the texts of one true class, spread over the columns by "
    "predicted class. The diagonal is right; a dark cell elsewhere is a frequent mistake. Colours "
    "are shares of the row, so that small classes show as well as large ones.",
    "confidence": "Each group is drawn in % of its own size. The further apart they lie, the "
    "better confidence tells which predictions to check by hand.",
    "reliability": "A well calibrated model lies on the dashed line: of the texts it is 80% sure "
    "of, 80% are right. Points below the line mean that it is too sure of itself. Vertical lines "
    "are 95% intervals; the bars count the texts.",
    "risk_coverage": "From left to right more of the tested texts are answered, the most "
    "confident first; the line is how often the answers are wrong. Where it rises steadily, "
    "confidence tells which texts to leave to people.",
}
CAPTIONS_CALIBRATED = {
    "reliability": " Orange shows the model before calibration.",
    "risk_coverage": " Marks show what the thresholds of the table give here; the dotted line of "
    "the same colour is the error that was wanted.",
}


def page(
    metrics: dict,
    errors: pd.DataFrame,
    pngs: dict[str, bytes],
    facts: dict,
    explanations: dict[int, str] | None = None,
) -> str:
    """The whole page as HTML.

    Args:
        metrics: what metrics.json holds.
        errors: what report.worst_errors returns.
        pngs: the figures by name, those of the training under names that begin with "training".
        facts: as in report.write_report.
        explanations: as in report.write_report.
    """
    model, title = metrics["model"], _sentence(model_name(metrics))
    title += f" on {facts['data_set']}" if "data_set" in facts else ": report"
    test = facts.get("test_name", "texts it was not trained on")
    about = f"Tested on {test}: n = {model['n']:,} texts, {len(model['per_class'])} classes."
    captions = CAPTIONS
    if "calibration" in metrics:
        captions = {
            key: caption + CAPTIONS_CALIBRATED.get(key, "") for key, caption in CAPTIONS.items()
        }
    pictures = {key: picture(key, png, captions.get(key, "")) for key, png in pngs.items()}
    training = [one for key, one in pictures.items() if key.startswith("training")]
    sections = [
        _summary(metrics, facts.get("notes", [])),
        f'<h2>Results</h2><div class="results">{_results(metrics)}</div>' + pictures["accuracy"],
        "<h2>Classes</h2>" + pictures["confusion_matrix"] + _confusions(model) + _classes(model),
        "<h2>Parts of the texts</h2>" + _slices(metrics),
        "<h2>Confidence</h2>" + pictures["confidence"] + confidence_section(metrics, pictures),
        _training(training),
        _run(facts),
        "<h2>The most confident errors</h2>"
        + errors_section(errors, model, model_name(metrics), explanations or {}),
    ]
    script = page_file("page.js") if len(errors) else ""
    return document(title, about, sections, script)


def model_name(metrics: dict) -> str:
    """What the model is called: the fact `model`, or ULMFiT without it.

    Args:
        metrics: what metrics.json holds.
    """
    return metrics.get("facts", {}).get("model", MODEL)


def named_scores(metrics: dict) -> dict[str, dict]:
    """What was scored, by the name that people read.

    Args:
        metrics: what report.compare returns.

    Returns:
        Name -> scores: the model, each of its directions alone, the baselines.
    """
    model = model_name(metrics)
    directions = {
        f"{model}, {which} alone": scores
        for which, scores in metrics.get("directions", {}).items()
    }
    return {model: metrics["model"], **directions, **metrics["baselines"]}


def verdict(metrics: dict, baseline: str) -> str:
    """Two sentences: does the model beat this baseline here, and do their intervals overlap?

    Args:
        metrics: what report.compare returns.
        baseline: its name.
    """
    model, other = metrics["model"], metrics["baselines"][baseline]
    paired = other["model_against_it"]
    gain = 100 * paired["accuracy_difference"]
    rival = f"the baseline “{baseline}”"
    by_chance = "too little to tell from chance on these texts"
    if gain == 0:
        finding = f"does not beat {rival}: both are right equally often"
    elif paired["p_value"] < SIGNIFICANT:
        finding = (
            f"beats {rival} by {gain:.1f} points"
            if gain > 0
            else f"is beaten by {rival} by {-gain:.1f} points"
        )
    elif gain > 0:
        finding = f"is {gain:.1f} points above {rival}, {by_chance}"
    else:
        finding = f"does not beat {rival}: it is {-gain:.1f} points below, {by_chance}"
    (low, high), (other_low, other_high) = model["accuracy_ci95"], other["accuracy_ci95"]
    p_value = "p < 0.0001" if paired["p_value"] < 0.0001 else f"p = {paired['p_value']:.2g}"
    overlap = "overlap" if low <= other_high and other_low <= high else "do not overlap"
    name = model_name(metrics)
    return _sentence(
        f"{name} {finding} ({name} alone is right on {paired['only_first_right']:,} texts, the "
        f"baseline alone on {paired['only_other_right']:,}; exact McNemar test, {p_value}). "
        f"Their 95% intervals {overlap}."
    )


def _summary(metrics: dict, notes: list[str]) -> str:
    """What came out, whether it beats the baselines, and what else to know before believing it."""
    model = metrics["model"]
    right = model["n"] - count_wrong(model)
    found = (
        f"{_sentence(model_name(metrics))} is right on {right:,} of {model['n']:,} texts: "
        f"accuracy {model['accuracy']:.1%}, 95% interval {interval(model)}."
    )
    if "directions" in metrics:
        alone = (
            f"the {which} one alone has {scores['accuracy']:.1%} ({interval(scores)})"
            for which, scores in metrics["directions"].items()
        )
        found += f" Its probabilities are the mean of two classifiers’: {', '.join(alone)}."
    sentences = [found, *(verdict(metrics, baseline) for baseline in metrics["baselines"])]
    return "".join(f"<p>{text(sentence)}</p>" for sentence in sentences) + listed(notes, "Notes")


def _training(pictures: list[str]) -> str:
    how = (
        "Epochs are counted over all phases; dotted lines separate the phases, which are named "
        "above the axes. A validation loss that rises while the training loss falls is "
        "overfitting. The training loss is measured with dropout on, so that it may lie above the "
        "validation loss."
    )
    return f'<h2>Training</h2><p class="how">{how}</p>{"".join(pictures)}' if pictures else ""


def _results(metrics: dict) -> str:
    rows = [
        [
            name,
            f"{numbers['accuracy']:.1%}",
            interval(numbers),
            f"{numbers['macro_f1']:.3f}",
            f"{numbers['log_loss']:.3f}",
            f"{numbers['expected_calibration_error']:.1%}",
            f"{numbers['n']:,}",
        ]
        for name, numbers in named_scores(metrics).items()
    ]
    heads = ["", "accuracy", "95% interval", "macro F1", "log loss", "calibration error", "n"]
    classes = metrics["model"]["per_class"]
    absent = sum(not scores["support"] for scores in classes.values())
    over = (
        f" (F1 is undefined or 0 for {absent} of {len(classes)} classes, which no tested text has)"
        if absent
        else ""
    )
    how = (
        "Macro F1 is the mean of the classes’ F1; small classes count as much as large ones"
        f"{over}. Log loss is in nats per text, lower is better; it punishes confident errors. "
        "Calibration error is how far confidence and accuracy lie apart on average (15 bins). The "
        "interval (Wilson) covers the chance in which texts were tested, not the chance in which "
        "another seed would train another model."
    )
    return table(heads, rows) + f'<p class="how">{how}</p>'


def _classes(model: dict) -> str:
    rows = []
    for number, (label, scores) in enumerate(model["per_class"].items(), start=1):
        interval = " to ".join(f"{bound:.3f}" for bound in scores["recall_ci95"] or ()) or "–"
        precision, recall, f1 = (_share(scores[key]) for key in ("precision", "recall", "f1"))
        rows.append(
            [f"{number}", label, precision, recall, interval, f1, f"{scores['support']:,}"]
        )
    heads = ["no.", "class", "precision", "recall", "its 95% interval", "F1", "texts"]
    html = "<h3>Each class</h3>" + table(heads, rows, names=(1,))
    if any("undefined" in scores for scores in model["per_class"].values()):
        html += (
            '<p class="how">– means undefined: no text was predicted as this class, or no tested '
            "text has it.</p>"
        )
    return html


def _slices(metrics: dict) -> str:
    """The accuracy on parts of the texts."""
    everywhere = metrics["model"]["accuracy"]
    how = (
        "The accuracy on one class is its recall, above. “Lower” and “higher” mean that the whole "
        f"interval lies on that side of the accuracy on all texts, {everywhere:.1%}; by chance "
        "alone this happens to about one part in twenty."
    )
    html = f'<p class="how">{how}</p>' + listed(metrics["not_sliced"])
    for slicing in metrics["slices"]:
        rows = []
        for part in slicing["parts"]:
            low, high = part["accuracy_ci95"]
            against = "lower" if high < everywhere else "higher" if low > everywhere else ""
            accuracy = f"{part['accuracy']:.1%}"
            rows.append([part["part"], f"{part['n']:,}", accuracy, interval(part), against])
        by = text(cut(slicing["by"].replace("_", " "), MAX_NAME))
        heads = ["", "texts", "accuracy", "95% interval", "against all"]
        html += f"<h3>By {by}</h3>" + table(heads, rows, names=(0, 4))
    return html


def _confusions(model: dict) -> str:
    """The largest counts beside the diagonal, as a table."""
    matrix = np.array(model["confusion_matrix"])
    support = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    labels = list(model["per_class"])
    cells = np.argsort(-matrix, axis=None, kind="stable")[:N_CONFUSIONS]
    rows = [
        [
            labels[true],
            labels[predicted],
            f"{matrix[true, predicted]:,}",
            f"{matrix[true, predicted] / support[true]:.1%}",
        ]
        for true, predicted in zip(*np.unravel_index(cells, matrix.shape), strict=True)
        if matrix[true, predicted]
    ]
    if not rows:
        return "<p>No text was given a wrong class.</p>"
    heads = ["true class", "predicted class", "texts", "share of the true class"]
    return "<h3>Most frequent confusions</h3>" + table(heads, rows, names=(0, 1))


def _run(facts: dict) -> str:
    known = {key: value for key, value in facts.items() if key not in OF_THE_HEADING}
    html = f"<h2>The run</h2>{_facts(known)}" if known else ""
    if facts.get("durations"):
        html += "<h3>Minutes per stage</h3>" + _facts(facts["durations"])
    return html


def _facts(value) -> str:
    """Nested facts as nested tables."""
    if isinstance(value, dict):
        rows = (
            f"<tr><th>{text(str(key).replace('_', ' '))}</th><td>{_facts(one)}</td></tr>"
            for key, one in value.items()
        )
        return f'<div class="wide"><table>{"".join(rows)}</table></div>'
    if isinstance(value, (list, tuple)):
        return "<br>".join(_facts(one) for one in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return text(f"{value:,.6g}" if isinstance(value, float) else str(value))


def _sentence(begun: str) -> str:
    return begun[:1].upper() + begun[1:]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
