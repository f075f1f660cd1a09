"""The report, or what an inspection found, as one HTML page: pictures and style inside it.

It loads nothing, runs nothing and opens offline.
"""

import base64
from dataclasses import dataclass
from html import escape
from string import Template

import numpy as np
import pandas as pd

MODEL = "ULMFiT"
N_SHOWN_ERRORS = 20
N_SHOWN_SUSPECTS = 10
MAX_TEXT = 600  # characters of an error's text
MAX_NAME = 80  # characters of a class name
N_CONFUSIONS = 15
SIGNIFICANT = 0.05  # p-value below which two models count as told apart
OF_THE_HEADING = ("data_set", "test_name", "notes", "durations")  # facts that have a place of their own

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
    "texts. What is orange is from before calibration.",
    "risk_coverage": "From left to right more and more of the tested texts are answered, the most confident first; the line "
    "is how often the answers are wrong. Where it rises steadily, confidence tells which texts to leave to people. Marks "
    "show what the thresholds of the table give here; the dotted line of the same colour is the error that was wanted.",
}

# The policy in the second line keeps the page from loading or running anything, whatever stands in a text.
PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { margin: 0 auto; max-width: 58rem; padding: 1.5rem 1rem 4rem; color: #1a1a1a; background: #fff;
  font: 1.0625rem/1.55 Charter, "Bitstream Charter", Cambria, Georgia, serif; }
p, ul, figcaption { max-width: 44rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 0.8rem; padding-top: 0.6rem; border-top: 1px solid #999; }
h3 { font-size: 1.0625rem; margin: 1.8rem 0 0.4rem; }
.test { color: #444; margin: 0 0 1.2rem; }
.wide { overflow-x: auto; }
.tall { max-height: 32rem; overflow-y: auto; }
table { border-collapse: collapse; font: 0.875rem/1.4 system-ui, "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 1rem 0.3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
thead th { border-bottom: 1px solid #555; vertical-align: bottom; }
td.number, th.number { text-align: right; white-space: nowrap; }
tbody th { font-weight: normal; min-width: 6rem; max-width: 20rem; overflow-wrap: break-word; }
.results tbody tr:first-child > * { font-weight: 600; }
table table th, table table td { border: 0; padding-top: 0; }
figure { margin: 1.6rem 0; }
img { display: block; max-width: 100%; min-width: calc(0.53 * var(--width)); height: auto; }
figcaption, .how { font-size: 0.9375rem; color: #444; }
article { margin: 1.2rem 0; }
article p { margin: 0.2rem 0; overflow-wrap: anywhere; }
article .what { font: 600 0.875rem/1.4 system-ui, "DejaVu Sans", sans-serif; }
@media print { body { max-width: none; font-size: 10pt; } .tall { max-height: none; overflow: visible; }
  img { min-width: 0; max-height: 22cm; width: auto; } figure, tr, article { break-inside: avoid; }
  h2, h3 { break-after: avoid; } }
</style></head><body>
<h1>$title</h1>
<p class="test">$about</p>
$body
</body></html>
""")


def page(metrics: dict, errors: pd.DataFrame, pngs: dict[str, bytes], facts: dict) -> str:
    """The whole page.

    metrics: what report.compare returns. errors: what report.worst_errors returns. pngs: the figures by name, those of
    the training under names that begin with "training". facts: as in report.write_report.
    """
    model = metrics["model"]
    title = f"{MODEL} on {facts['data_set']}" if "data_set" in facts else f"{MODEL}: report"
    test = f"Tested on {facts.get('test_name', 'texts it was not trained on')}: n = {model['n']:,} texts, "
    pictures = {name: _figure(name, png) for name, png in pngs.items()}
    sections = [
        _summary(metrics, facts.get("notes", [])),
        f'<h2>Results</h2><div class="results">{_results(metrics)}</div>' + pictures["accuracy"],
        "<h2>Classes</h2>" + pictures["confusion_matrix"] + _confusions(model) + _classes(model),
        "<h2>Confidence</h2>" + pictures["confidence"] + _confidence(metrics, pictures),
        _training([picture for name, picture in pictures.items() if name.startswith("training")]),
        "<h2>The most confident errors</h2>" + _errors(errors, model),
        "<h2>The run</h2>" + _run(facts),
    ]
    return _page(title, f"{test}{len(model['per_class'])} classes.", sections)


@dataclass(frozen=True)
class Finding:
    """What one check of a data set found, ready for people.

    name: of the check. found: what was counted, in sentences. meaning: for a run, in one sentence. trouble: whether it can
    change what a run is worth. advice: what to do then, with the command.
    table: numbers behind it, all cells strings, the first column names. suspects: the texts it is about, columns group (the
    same for texts that belong together), split, label, excerpt and text.
    """

    name: str
    found: str
    meaning: str
    advice: str
    trouble: bool
    table: pd.DataFrame | None = None
    suspects: pd.DataFrame | None = None


def findings_page(
    title: str, about: str, verdict: str, notes: list[str], findings: list[Finding], pngs: dict[str, bytes]
) -> str:
    """A page of findings. verdict, notes: sentences. pngs: figures by the name of their finding."""
    overview = [[one.name, "trouble" if one.trouble else "in order"] for one in findings]
    sections = [f"<p>{_text(verdict)}</p>", _table(["check", "found"], overview, names=(0, 1)), _notes(notes)]
    for one in findings:
        html = f"<h2>{_text(one.name)}</h2>" + "".join(f"<p>{_text(part)}</p>" for part in (one.found, one.meaning))
        if one.trouble:
            html += f"<p><strong>To do:</strong> {_text(one.advice)}</p>"
        if one.name in pngs:
            html += _figure(one.name, pngs[one.name])
        if one.table is not None and len(one.table):
            html += _table(list(one.table), one.table.to_numpy().tolist())
        if one.suspects is not None and len(one.suspects):
            shown = one.suspects.head(N_SHOWN_SUSPECTS)
            html += f'<p class="how">{len(shown):,} of {len(one.suspects):,} such texts; all are in suspects.csv.</p>'
            for suspect in shown.itertuples():
                label, group = (f"<bdi>{_text(_cut(str(name), MAX_NAME))}</bdi>" for name in (suspect.label, suspect.group))
                what = f"{group}: {suspect.split}{', labelled ' + label if suspect.label else ''}"
                html += f'<article><p class="what">{what}</p><p dir="auto">{_text(suspect.excerpt)}</p></article>'
        sections.append(html)
    return _page(title, about, sections)


def _page(title: str, about: str, sections: list[str]) -> str:
    return PAGE.substitute(title=_text(title), about=_text(about), body="\n".join(sections))


def named_scores(metrics: dict) -> dict[str, dict]:
    """What was scored, by the name that people read: the model, each of its directions alone, the baselines.

    metrics: what report.compare returns.
    """
    directions = {f"{MODEL}, {name} alone": scores for name, scores in metrics.get("directions", {}).items()}
    return {MODEL: metrics["model"], **directions, **metrics["baselines"]}


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
        finding = f"beats {rival} by {gain:.1f} points" if gain > 0 else f"is beaten by {rival} by {-gain:.1f} points"
    elif gain > 0:
        finding = f"is {gain:.1f} points above {rival}, {by_chance}"
    else:
        finding = f"does not beat {rival}: it is {-gain:.1f} points below, {by_chance}"
    (low, high), (other_low, other_high) = model["accuracy_ci95"], other["accuracy_ci95"]
    p_value = "p < 0.0001" if paired["p_value"] < 0.0001 else f"p = {paired['p_value']:.2g}"
    return (
        f"{MODEL} {finding} ({MODEL} alone is right on {paired['only_first_right']:,} texts, the baseline alone on "
        f"{paired['only_other_right']:,}; exact McNemar test, {p_value}). "
        f"Their 95% intervals {'overlap' if low <= other_high and other_low <= high else 'do not overlap'}."
    )


def _summary(metrics: dict, notes: list[str]) -> str:
    """What came out, whether it beats the baselines, and what else to know before believing it."""
    model = metrics["model"]
    right = model["n"] - _n_wrong(model)
    accuracy = f"accuracy {model['accuracy']:.1%}, 95% interval {_interval(model)}"
    found = f"{MODEL} is right on {right:,} of {model['n']:,} texts: {accuracy}."
    if "directions" in metrics:
        alone = (
            f"the {name} one alone has {scores['accuracy']:.1%} ({_interval(scores)})"
            for name, scores in metrics["directions"].items()
        )
        found += f" Its probabilities are the mean of two classifiers’: {', '.join(alone)}."
    sentences = [found, *(verdict(metrics, baseline) for baseline in metrics["baselines"])]
    return "".join(f"<p>{_text(sentence)}</p>" for sentence in sentences) + _notes(notes)


def _notes(notes: list[str]) -> str:
    return "<h3>Notes</h3><ul>" + "".join(f"<li>{_text(note)}</li>" for note in notes) + "</ul>" if notes else ""


def _confidence(metrics: dict, pictures: dict[str, str]) -> str:
    """How far confidence can be believed, and what comes of answering only where it is high."""
    found = metrics.get("calibration")
    if found is None:
        return pictures["reliability"] + pictures["risk_coverage"]
    notes = "".join(f"<li>{_text(note)}</li>" for note in found["notes"])
    return (
        "<h3>Before and after calibration</h3>"
        + _before_and_after(found)
        + (f"<ul>{notes}</ul>" if notes else "")
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
        rows.append([f"maximum calibration error, equal {name}", largest(before, ending), largest(after, ending)])
    n = f"the validation texts (n = {found['n_validation']:,})"
    if "temperature_undefined" in found:
        what = f"No temperature could be fitted on {n}: {found['temperature_undefined']}. All is as it was. "
    else:
        what = (
            f"All logits were divided by one number, the temperature, {found['temperature']:.3g}; above 1 it makes {MODEL} "
            f"less sure, below 1 surer. It is the one of the lowest log loss on {n}; the table is of the tested ones, which "
            "it was not fitted on. Which class is the most probable does not change, and so neither does the accuracy. "
        )
    how = (
        f"{what}The Brier score is the mean squared distance to what is true. Calibration error is how far confidence and "
        "accuracy lie apart in 15 bins, of equal width or with equally many texts, on average or at most; the n is that of "
        "the worst bin, for few texts are often far off by chance. Were every confidence exactly right, the expected error "
        f"(equal width) would still be up to {found['expected_calibration_error_by_chance']:.2%} in 95 of 100 samples of so "
        "many texts (simulated): less than that is no sign of a fault."
    )
    return _table(["", "before", "after"], rows) + f'<p class="how">{how}</p>'


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
        error = "–" if test["error"] is None else f"{test['error']:.1%} ({_interval(test, 'error')})"
        rows.append([wanted, at, shares[0], f"{validation['error']:.1%}", shares[1], error])
        if test["error"] is None:
            missing.append(f"{wanted}, tested: {test['undefined']}.")
    heads = ["wanted error", "confidence from", "validation: answered", "wrong", "tested: answered", "wrong (95% interval)"]
    how = (
        f"Where people can take over what {MODEL} is unsure of, it need answer only from a confidence on. Each threshold is "
        "the lowest that kept the error of the answered validation texts within the wanted one, one wrong answer more being "
        "counted than there were, so that few texts cannot promise a small error. What it gives on the tested texts differs "
        "by the chance of both."
    )
    return _table(heads, rows, names=()) + f'<p class="how">{_text(" ".join([how, *missing]))}</p>'


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
    how = (
        "Macro F1 is the mean of the classes’ F1, small classes counting as much as large ones. Log loss is in nats a "
        "text, lower is better; it punishes confident errors. Calibration error is how far confidence and accuracy lie "
        "apart on average (15 bins). The interval (Wilson) covers the chance in which texts were tested, not the "
        "chance in which another seed would train another model."
    )
    return _table(heads, rows) + f'<p class="how">{how}</p>'


def _classes(model: dict) -> str:
    rows = [
        [f"{number}", label, *(_share(scores[key]) for key in ("precision", "recall", "f1")), f"{scores['support']:,}"]
        for number, (label, scores) in enumerate(model["per_class"].items(), start=1)
    ]
    html = "<h3>Each class</h3>" + _table(["no.", "class", "precision", "recall", "F1", "texts"], rows, names=(1,))
    if any("undefined" in scores for scores in model["per_class"].values()):
        html += '<p class="how">– : undefined, since no text was predicted as the class, or none is of it.</p>'
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
    return "<h3>Most frequent confusions</h3>" + _table(heads, rows, names=(0, 1))


def _errors(errors: pd.DataFrame, model: dict) -> str:
    """The texts of the worst errors."""
    if errors.empty:
        return f"<p>None: all {model['n']:,} texts were given their class.</p>"
    shown = errors.head(N_SHOWN_ERRORS)
    html = (
        f'<p class="how">{len(shown)} of {_n_wrong(model):,} wrong predictions, those that {MODEL} was surest of. Some '
        "may be errors of the labels. More of them, and the whole texts, are in worst_errors.csv.</p>"
    )
    for error in shown.itertuples():
        predicted, label = (f"<bdi>{_text(_cut(name, MAX_NAME))}</bdi>" for name in (error.predicted, error.label))
        what = (
            f"predicted {predicted} at {_percent(error.confidence)}, "
            f"labelled {label} at {_percent(error.probability_of_label)}, row {error.row} of predictions.csv, counted from 0"
        )
        html += f'<article><p class="what">{what}</p><p dir="auto">{_text(_cut(error.text, MAX_TEXT))}</p></article>'
    return html


def _run(facts: dict) -> str:
    html = _facts({key: value for key, value in facts.items() if key not in OF_THE_HEADING})
    if facts.get("durations"):
        html += "<h3>Minutes a stage</h3>" + _facts(facts["durations"])
    return html


def _facts(value) -> str:
    """Nested facts as nested tables."""
    if isinstance(value, dict):
        rows = (f"<tr><th>{_text(str(key).replace('_', ' '))}</th><td>{_facts(one)}</td></tr>" for key, one in value.items())
        return f'<div class="wide"><table>{"".join(rows)}</table></div>'
    if isinstance(value, (list, tuple)):
        return "<br>".join(_facts(one) for one in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return _text(f"{value:,.6g}" if isinstance(value, float) else str(value))


def _table(heads: list[str], rows: list[list[str]], names: tuple[int, ...] = (0,)) -> str:
    """A table of texts; the columns `names` hold names, aligned left, all others numbers."""

    def cell(tag: str, column: int, content: str) -> str:
        number = "" if column in names else ' class="number"'
        return f'<{tag}{number} dir="auto">{_text(_cut(content, MAX_NAME))}</{tag}>'

    head = "".join(cell("th", column, content) for column, content in enumerate(heads))
    body = "".join(
        "<tr>"
        + "".join(cell("th" if column in names else "td", column, content) for column, content in enumerate(row))
        + "</tr>"
        for row in rows
    )
    box = "wide tall" if len(rows) > 25 else "wide"
    return f'<div class="{box}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(name: str, png: bytes) -> str:
    """A picture inside the page, at its size in inches (150 dots each in the file, 96 on the page)."""
    caption = f"<figcaption>{CAPTIONS[name]}</figcaption>" if name in CAPTIONS else ""
    width = int.from_bytes(png[16:20], "big") * 96 // 150
    alternative = _text(name.replace("_", " "))
    return (
        f'<figure><div class="wide"><img width="{width}" style="--width: {width}px" alt="{alternative}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}"></div>{caption}</figure>'
    )


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


def _cut(text: str, length: int) -> str:
    """The text on one line, and how long it was if it is cut."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[:length]} … ({len(text):,} characters in all)"


def _text(text: str) -> str:
    """A text that HTML shows as it is, a lone surrogate as its escape."""
    return escape(text.encode("utf-8", errors="backslashreplace").decode())
