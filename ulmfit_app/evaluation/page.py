"""The report of a run, or of anybody's predictions, as one HTML page."""

import numpy as np
import pandas as pd

from ulmfit_app.evaluation.markup import (
    MAX_NAME,
    class_name,
    cut,
    document,
    listed,
    page_file,
    picture,
    table,
    text,
)
from ulmfit_app.evaluation.metrics import SIGNIFICANT

MODEL = "ULMFiT"
MAX_TEXT = 300  # characters of an error's text
N_CONFUSIONS = 15
OF_THE_HEADING = (
    "model",
    "data_set",
    "test_name",
    "notes",
    "durations",
)  # facts that have a place of their own

CAPTIONS = {
    "accuracy": "Each dot is an accuracy, each line its 95% interval: where the accuracy on endlessly many texts of "
    "the same kind may well lie. All were scored on the same texts.",
    "confusion_matrix": "A row holds the texts of one true class, spread over the columns by the class they were "
    "given. The diagonal is right; a dark cell elsewhere is a habit of the model. Colours are shares of the row, so "
    "that small classes show as well as large ones.",
    "confidence": "Both groups are drawn to their own size. The further apart they lie, the better confidence tells "
    "which predictions to check by hand.",
    "reliability": "A well calibrated model lies on the dashed line: of the texts it is 80% sure of, 80% are right. "
    "Points below the line mean that it is too sure of itself. Vertical lines are 95% intervals; the bars count the "
    "texts.",
    "risk_coverage": "From left to right more and more of the tested texts are answered, the most confident first; the line "
    "is how often the answers are wrong. Where it rises steadily, confidence tells which texts to leave to people.",
}
CAPTIONS_CALIBRATED = {
    "reliability": " What is orange is from before calibration.",
    "risk_coverage": " Marks show what the thresholds of the table give here; the dotted line of the same colour is the "
    "error that was wanted.",
}
# The first is the order in which they stand.
ORDERS = {
    "surest": "surest first",
    "unsure": "least sure first",
    "shortest": "shortest text first",
    "longest": "longest text first",
    "row": "row of the predictions",
}


def page(
    metrics: dict,
    errors: pd.DataFrame,
    pngs: dict[str, bytes],
    facts: dict,
    explanations: dict[int, str] | None = None,
) -> str:
    """The whole page.

    metrics: what metrics.json holds. errors: what report.worst_errors returns. pngs: the figures by name, those of
    the training under names that begin with "training". facts, explanations: as in report.write_report.
    """
    model, title = metrics["model"], _sentence(model_name(metrics))
    title += f" on {facts['data_set']}" if "data_set" in facts else ": report"
    test = f"Tested on {facts.get('test_name', 'texts it was not trained on')}: n = {model['n']:,} texts, "
    captions = CAPTIONS
    if "calibration" in metrics:
        captions = {
            key: caption + CAPTIONS_CALIBRATED.get(key, "") for key, caption in CAPTIONS.items()
        }
    pictures = {key: picture(key, png, captions.get(key, "")) for key, png in pngs.items()}
    sections = [
        _summary(metrics, facts.get("notes", [])),
        f'<h2>Results</h2><div class="results">{_results(metrics)}</div>' + pictures["accuracy"],
        "<h2>Classes</h2>" + pictures["confusion_matrix"] + _confusions(model) + _classes(model),
        "<h2>Parts of the texts</h2>" + _slices(metrics),
        "<h2>Confidence</h2>" + pictures["confidence"] + _confidence(metrics, pictures),
        _training([one for key, one in pictures.items() if key.startswith("training")]),
        _run(facts),
        "<h2>The most confident errors</h2>" + _errors(errors, metrics, explanations or {}),
    ]
    script = page_file("page.js") if len(errors) else ""
    return document(title, f"{test}{len(model['per_class'])} classes.", sections, script)


def model_name(metrics: dict) -> str:
    """What the model is called: the fact `model`, or ULMFiT without one. metrics: what metrics.json holds."""
    return metrics.get("facts", {}).get("model", MODEL)


def named_scores(metrics: dict) -> dict[str, dict]:
    """What was scored, by the name that people read: the model, each of its directions alone, the baselines.

    metrics: what report.compare returns.
    """
    model = model_name(metrics)
    directions = {
        f"{model}, {which} alone": scores
        for which, scores in metrics.get("directions", {}).items()
    }
    return {model: metrics["model"], **directions, **metrics["baselines"]}


def verdict(metrics: dict, baseline: str) -> str:
    """Two honest sentences: does the model beat this baseline on these texts, and do their intervals overlap?

    metrics: what report.compare returns.
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
    name = model_name(metrics)
    return _sentence(
        f"{name} {finding} ({name} alone is right on {paired['only_first_right']:,} texts, the baseline alone on "
        f"{paired['only_other_right']:,}; exact McNemar test, {p_value}). "
        f"Their 95% intervals {'overlap' if low <= other_high and other_low <= high else 'do not overlap'}."
    )


def _summary(metrics: dict, notes: list[str]) -> str:
    """What came out, whether it beats the baselines, and what else to know before believing it."""
    model = metrics["model"]
    right = model["n"] - _n_wrong(model)
    accuracy = f"accuracy {model['accuracy']:.1%}, 95% interval {_interval(model)}"
    found = f"{_sentence(model_name(metrics))} is right on {right:,} of {model['n']:,} texts: {accuracy}."
    if "directions" in metrics:
        alone = (
            f"the {which} one alone has {scores['accuracy']:.1%} ({_interval(scores)})"
            for which, scores in metrics["directions"].items()
        )
        found += f" Its probabilities are the mean of two classifiers’: {', '.join(alone)}."
    sentences = [found, *(verdict(metrics, baseline) for baseline in metrics["baselines"])]
    return "".join(f"<p>{text(sentence)}</p>" for sentence in sentences) + listed(notes, "Notes")


def _confidence(metrics: dict, pictures: dict[str, str]) -> str:
    """How far confidence can be believed, and what comes of answering only where it is high."""
    found, notes = metrics.get("calibration"), listed(metrics["undefined"])
    if found is None:
        return notes + pictures["reliability"] + pictures["risk_coverage"]
    return (
        "<h3>Before and after calibration</h3>"
        + _before_and_after(found)
        + notes
        + pictures["reliability"]
        + "<h3>Answering only when sure</h3>"
        + _thresholds(found)
        + pictures["risk_coverage"]
    )


def _before_and_after(found: dict) -> str:
    before, after = found["before"], found["after"]

    def largest(scores: dict, ending: str) -> str:
        error, n = (scores[f"maximum_calibration_error{part}"] for part in (ending, f"{ending}_n"))
        return f"{error:.1%} (n = {n:,})"

    rows = [[name, f"{before[key]:{form}}", f"{after[key]:{form}}"] for name, key, form in (
        ("accuracy", "accuracy", ".1%"),
        ("log loss", "log_loss", ".4f"),
        ("Brier score", "brier_score", ".4f"),
        ("expected calibration error, equal width", "expected_calibration_error", ".2%"),
        ("expected calibration error, equal mass", "expected_calibration_error_equal_mass", ".2%"),
    )]  # fmt: skip
    for name, ending in (("width", ""), ("mass", "_equal_mass")):
        rows.append(
            [
                f"maximum calibration error, equal {name}",
                largest(before, ending),
                largest(after, ending),
            ]
        )
    n = f"the validation texts (n = {found['n_validation']:,})"
    if "temperature_undefined" in found:
        what = f"No temperature could be fitted on {n}: {found['temperature_undefined']}. All is as it was. "
    else:
        what = (
            f"All logits were divided by one number, the temperature, {found['temperature']:.3g}; above 1 it makes the "
            f"classifier less sure, below 1 surer. It is the one of the lowest log loss on {n}; the table is of the tested "
            "ones, which it was not fitted on. Which class is the most probable does not change, and so neither does the "
            "accuracy. "
        )
    how = (
        f"{what}The Brier score is the mean squared distance to what is true. Calibration error is how far confidence and "
        "accuracy lie apart in 15 bins, of equal width or with equally many texts, on average or at most; the n is that of "
        "the worst bin, for few texts are often far off by chance. Were every confidence exactly right, the expected error "
        f"(equal width) would still be up to {found['expected_calibration_error_by_chance']:.2%} in 95 of 100 samples of so "
        "many texts (simulated): less than that is no sign of a fault."
    )
    return table(["", "before", "after"], rows) + f'<p class="how">{how}</p>'


def _thresholds(found: dict) -> str:
    """For each wanted error: the confidence that gave it on validation, and what it gives on the tested texts."""
    rows, missing = [], []
    for one in found["thresholds"]:
        wanted = f"{one['wanted_error']:.0%}"
        if one["threshold"] is None:
            rows.append([wanted, *"–––––"])
            missing.append(f"{wanted}: {one['undefined']}.")
            continue
        validation, test = one["validation"], one["test"]
        at = f"{one['threshold']:.5g}" if one["threshold"] else "any"
        shares = [f"{part['coverage']:.1%} (n = {part['n']:,})" for part in (validation, test)]
        error = (
            "–" if test["error"] is None else f"{test['error']:.1%} ({_interval(test, 'error')})"
        )
        rows.append([wanted, at, shares[0], f"{validation['error']:.1%}", shares[1], error])
        if test["error"] is None:
            missing.append(f"{wanted}, tested: {test['undefined']}.")
    heads = [
        "wanted error",
        "confidence from",
        "validation: answered",
        "wrong",
        "tested: answered",
        "wrong (95% interval)",
    ]
    how = (
        "Where people can take over what a classifier is unsure of, it need answer only from a confidence on. Each "
        "threshold is the lowest that kept the error of the answered validation texts within the wanted one, one wrong "
        "answer more being counted than there were, so that few texts cannot promise a small error. What it gives on the "
        "tested texts differs by the chance of both."
    )
    return table(heads, rows, names=()) + f'<p class="how">{text(" ".join([how, *missing]))}</p>'


def _training(pictures: list[str]) -> str:
    how = (
        "Epochs are counted over all phases; dotted lines part the phases, which are named above the axes. A "
        "validation loss that rises while the training loss falls is overfitting. The training loss is measured with "
        "dropout on, so that it may lie above the validation loss."
    )
    return f'<h2>Training</h2><p class="how">{how}</p>{"".join(pictures)}' if pictures else ""


def _results(metrics: dict) -> str:
    rows = [
        [
            name,
            f"{numbers['accuracy']:.1%}",
            _interval(numbers),
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
        f" (F1 is undefined or 0 for the {absent} of {len(classes)} classes that no text is of)"
        if absent
        else ""
    )
    how = (
        f"Macro F1 is the mean of the classes’ F1, small classes counting as much as large ones{over}. Log loss is in nats "
        "a text, lower is better; it punishes confident errors. Calibration error is how far confidence and accuracy lie "
        "apart on average (15 bins). The interval (Wilson) covers the chance in which texts were tested, not the "
        "chance in which another seed would train another model."
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
        html += '<p class="how">– : undefined, since no text was predicted as the class, or none is of it.</p>'
    return html


def _slices(metrics: dict) -> str:
    """The accuracy on parts of the texts."""
    everywhere = metrics["model"]["accuracy"]
    how = (
        "The accuracy on a class is its recall, above. Lower or higher: the interval lies wholly on that side of the "
        f"accuracy on all texts, {everywhere:.1%}; one part in twenty may by chance alone."
    )
    html = f'<p class="how">{how}</p>' + listed(metrics["not_sliced"])
    for slicing in metrics["slices"]:
        rows = []
        for part in slicing["parts"]:
            low, high = part["accuracy_ci95"]
            against = "lower" if high < everywhere else "higher" if low > everywhere else ""
            rows.append(
                [
                    part["part"],
                    f"{part['n']:,}",
                    f"{part['accuracy']:.1%}",
                    _interval(part),
                    against,
                ]
            )
        by = text(cut(slicing["by"].replace("_", " "), MAX_NAME))
        heads = ["", "texts", "accuracy", "95% interval", "against all"]
        html += f"<h3>By {by}</h3>" + table(heads, rows, names=(0, 4))
    return html


def _confusions(model: dict) -> str:
    """The cells beside the diagonal that hold most, as a table."""
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


def _errors(errors: pd.DataFrame, metrics: dict, explanations: dict[int, str]) -> str:
    """The errors, to be sorted and filtered."""
    model = metrics["model"]
    if errors.empty:
        return f"<p>None: all {model['n']:,} texts were given their class.</p>"
    shown = (
        f"{len(errors):,} of {_n_wrong(model):,}"
        if len(errors) < _n_wrong(model)
        else f"All {len(errors):,}"
    )
    how = (
        f"{shown} wrong predictions, those first that {model_name(metrics)} was surest of. Some "
        "may be errors of the labels. Rows are those of the predictions, counted from 0; worst_errors.csv has whole texts."
    )
    n_explained = int(errors["row"].isin(list(explanations)).sum())
    if n_explained:
        how += (
            f" In {n_explained} of the surest, the words that moved the prediction most are marked: without the bold "
            "ones it would have been less sure, without the underlined ones surer (occlusion)."
        )
    numbers = {label: number for number, label in enumerate(model["per_class"])}
    articles = []
    for error in errors.itertuples():
        what = (
            f"predicted {class_name(error.predicted)} at {_percent(error.confidence)}, labelled {class_name(error.label)} "
            f"at {_percent(error.probability_of_label)}, row {error.row}"
        )
        shown = (
            explanations.get(error.row) or f'<p dir="auto">{text(cut(error.text, MAX_TEXT))}</p>'
        )
        articles.append(
            f'<article data-label="{numbers[error.label]}" data-predicted="{numbers[error.predicted]}" '
            f'data-row="{error.row}" data-length="{len(error.text)}"><p class="what">{what}</p><div>{shown}</div></article>'
        )
    return (
        f'<p class="how">{text(how)}</p>{_controls(errors, numbers)}<div class="errors">{"".join(articles)}</div>'
        '<button class="more" type="button" hidden>Show more</button>'
    )


def _controls(errors: pd.DataFrame, numbers: dict[str, int]) -> str:
    """What sorts and filters the errors, hidden where no script runs. numbers: of the labels, in their order."""

    def select(field: str, heading: str, options: dict) -> str:
        shown = "".join(
            f'<option value="{value}">{text(cut(shown, 40))}</option>'
            for value, shown in options.items()
        )
        return f'<label>{heading} <select name="{field}">{shown}</select></label>'

    html = ""
    for field, heading in (("label", "labelled"), ("predicted", "predicted")):
        counts = errors[field].value_counts()
        there = {
            number: f"{label} ({counts[label]:,})"
            for label, number in numbers.items()
            if label in counts
        }
        html += select(field, heading, {"": "any", **there})
    html += (
        select("order", "sorted by", ORDERS)
        + '<label>with the words <input name="words" type="search"></label>'
    )
    return f'<div class="controls" hidden>{html}<output></output></div>'


def _run(facts: dict) -> str:
    known = {key: value for key, value in facts.items() if key not in OF_THE_HEADING}
    html = f"<h2>The run</h2>{_facts(known)}" if known else ""
    if facts.get("durations"):
        html += "<h3>Minutes a stage</h3>" + _facts(facts["durations"])
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
    return text(f"{value:,.6g}" if isinstance(value, float) else str(value))


def _sentence(begun: str) -> str:
    return begun[:1].upper() + begun[1:]


def _n_wrong(scores: dict) -> int:
    return scores["n"] - int(np.trace(np.array(scores["confusion_matrix"])))


def _interval(scores: dict, of: str = "accuracy") -> str:
    low, high = scores[f"{of}_ci95"]
    return f"{low:.1%} to {high:.1%}"


def _percent(probability: float) -> str:
    """One decimal; what is not quite certain is not shown as if it were."""
    if 0.9995 <= probability < 1:
        return "over 99.9%"
    return "under 0.1%" if 0 < probability < 0.0005 else f"{probability:.1%}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
