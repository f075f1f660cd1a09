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
from ulmfit_app.evaluation.messages import TAGS, Message, known, say, spoken, translated
from ulmfit_app.evaluation.metrics import SIGNIFICANT
from ulmfit_app.evaluation.page_confidence import confidence_section
from ulmfit_app.evaluation.page_errors import count_wrong, errors_section

MODEL = "ULMFiT"
N_CONFUSIONS = 15
# Facts that have a place of their own.
OWN_COLUMN = "copy_in_train"  # of a run's predictions, whose values are ours, not the user's
OF_THE_HEADING = ("model", "data_set", "test_name", "notes", "durations")


def page(
    metrics: dict,
    errors: pd.DataFrame,
    pngs: dict[str, bytes],
    facts: dict,
    explanations: dict[int, str] | None = None,
    language: str = "",
) -> str:
    """The whole page as HTML, in the language that is spoken.

    Args:
        metrics: what metrics.json holds.
        errors: what report.worst_errors returns.
        pngs: the figures by name, those of the training under names that begin with "training".
        facts: as in report.write_report.
        explanations: as in report.write_report.
        language: of the texts, as `lang` has it; "": that of the report.
    """
    model, name = metrics["model"], _sentence(model_name(metrics))
    data_set, test = facts.get("data_set"), facts.get("test_name")
    title = (
        say("{model} on {data_set}", model=name, data_set=data_set)
        if data_set
        else say("{model}: report", model=name)
    )
    about = say(
        "Tested on {test}: n = {n:,} texts, {n_classes} classes.",
        test=known(test) if test else say("texts it was not trained on"),
        n=model["n"],
        n_classes=len(model["per_class"]),
    )
    captions = _captions("calibration" in metrics)
    pictures = {key: picture(key, png, captions.get(key, "")) for key, png in pngs.items()}
    training = [one for key, one in pictures.items() if key.startswith("training")]
    sections = [
        _summary(metrics, facts.get("notes", [])),
        f"<h2>{say('Results')}</h2>"
        f'<div class="results">{_results(metrics)}</div>{pictures["accuracy"]}',
        f"<h2>{say('Classes')}</h2>"
        f"{pictures['confusion_matrix']}{_confusions(model)}{_classes(model)}",
        f"<h2>{say('Parts of the texts')}</h2>{_slices(metrics)}",
        f"<h2>{say('Confidence')}</h2>"
        f"{pictures['confidence']}{confidence_section(metrics, pictures)}",
        _training(training),
        _run(facts),
        f"<h2>{say('The most confident errors')}</h2>"
        + errors_section(
            errors,
            model,
            translated(model_name(metrics)),
            explanations or {},
            "" if language == TAGS[spoken()] else language,
        ),
    ]
    script = page_file("page.js") if len(errors) else ""
    return document(title, about, sections, script, language)


def _captions(calibrated: bool) -> dict[str, str]:
    """What stands below each figure."""
    captions = {
        "accuracy": say(
            "Each dot is an accuracy, each line its 95% interval: where the accuracy on unlimited "
            "texts of the same kind is likely to lie. All were scored on the same texts."
        ),
        "confusion_matrix": say(
            "One row holds the texts of one true class, spread over the columns by predicted "
            "class. The diagonal is right; a dark cell elsewhere is a frequent mistake. Colours "
            "are shares of the row, so that small classes show as well as large ones."
        ),
        "confidence": say(
            "Each group is drawn in % of its own size. The further apart they lie, the better "
            "confidence tells which predictions to check by hand."
        ),
        "reliability": say(
            "A well calibrated model lies on the dashed line: of the texts it is 80% sure of, 80% "
            "are right. Points below the line mean that it is too sure of itself. Vertical lines "
            "are 95% intervals; the bars count the texts."
        ),
        "risk_coverage": say(
            "From left to right more of the tested texts are answered, the most confident first; "
            "the line is how often the answers are wrong. Where it rises steadily, confidence "
            "tells which texts to leave to people."
        ),
    }
    if calibrated:
        captions["reliability"] += say(" Orange shows the model before calibration.")
        captions["risk_coverage"] += say(
            " Marks show what the thresholds of the table give here; the dotted line of the same "
            "colour is the error that was wanted."
        )
    return captions


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
        Message("{model}, {which} alone", model=model, which=_direction(which)): scores
        for which, scores in metrics.get("directions", {}).items()
    }
    return {model: metrics["model"], **directions, **metrics["baselines"]}


def _direction(which: str) -> str:
    """A direction's name as a Message. which: forward or backward."""
    return Message("forward") if which == "forward" else Message("backward")


def verdict(metrics: dict, baseline: str) -> str:
    """Two sentences: does the model beat this baseline here, and do their intervals overlap?

    Args:
        metrics: what report.compare returns.
        baseline: its name.
    """
    model, other = metrics["model"], metrics["baselines"][baseline]
    paired = other["model_against_it"]
    gain = 100 * paired["accuracy_difference"]
    name = model_name(metrics)
    values = {"name": name, "rival": baseline, "points": abs(gain)}
    if gain == 0:
        found = say(
            "{name} does not beat the baseline “{rival}”: both are right equally often", **values
        )
    elif paired["p_value"] < SIGNIFICANT:
        found = (
            say("{name} beats the baseline “{rival}” by {points:.1f} points", **values)
            if gain > 0
            else say("{name} is beaten by the baseline “{rival}” by {points:.1f} points", **values)
        )
    elif gain > 0:
        found = say(
            "{name} is {points:.1f} points above the baseline “{rival}”, too little to tell from "
            "chance on these texts",
            **values,
        )
    else:
        found = say(
            "{name} does not beat the baseline “{rival}”: it is {points:.1f} points below, too "
            "little to tell from chance on these texts",
            **values,
        )
    (low, high), (other_low, other_high) = model["accuracy_ci95"], other["accuracy_ci95"]
    p_value = "p < 0.0001" if paired["p_value"] < 0.0001 else f"p = {paired['p_value']:.2g}"
    overlap = low <= other_high and other_low <= high
    return _sentence(
        say(
            "{found} ({name} alone is right on {n:,} texts, the baseline alone on {n_other:,}; "
            "exact McNemar test, {p_value}). ",
            found=found,
            name=name,
            n=paired["only_first_right"],
            n_other=paired["only_other_right"],
            p_value=p_value,
        )
        + (
            say("Their 95% intervals overlap.")
            if overlap
            else say("Their 95% intervals do not overlap.")
        )
    )


def _summary(metrics: dict, notes: list[str]) -> str:
    """What came out, whether it beats the baselines, and what else to know before believing it."""
    model = metrics["model"]
    right = model["n"] - count_wrong(model)
    found = say(
        "{name} is right on {right:,} of {n:,} texts: accuracy {accuracy:.1%}, 95% interval "
        "{interval}.",
        name=_sentence(model_name(metrics)),
        right=right,
        n=model["n"],
        accuracy=model["accuracy"],
        interval=interval(model),
    )
    if "directions" in metrics:
        forward, backward = metrics["directions"].values()
        found += say(
            " Its probabilities are the mean of two classifiers’: the forward one alone has "
            "{accuracy:.1%} ({interval}), the backward one alone has {accuracy_backward:.1%} "
            "({interval_backward}).",
            accuracy=forward["accuracy"],
            interval=interval(forward),
            accuracy_backward=backward["accuracy"],
            interval_backward=interval(backward),
        )
    sentences = [found, *(verdict(metrics, baseline) for baseline in metrics["baselines"])]
    return "".join(f"<p>{text(sentence)}</p>" for sentence in sentences) + listed(
        notes, say("Notes")
    )


def _training(pictures: list[str]) -> str:
    how = say(
        "Epochs are counted over all phases; dotted lines separate the phases, which are named "
        "above the axes. A validation loss that rises while the training loss falls is "
        "overfitting. The training loss is measured with dropout on, so that it may lie above the "
        "validation loss."
    )
    if not pictures:
        return ""
    return f'<h2>{say("Training")}</h2><p class="how">{how}</p>{"".join(pictures)}'


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
    heads = ["", say("accuracy"), say("95% interval"), say("macro F1"), say("log loss")]
    heads += [say("calibration error"), "n"]
    classes = metrics["model"]["per_class"]
    absent = sum(not scores["support"] for scores in classes.values())
    over = say(
        " (F1 is undefined or 0 for {absent} of {n_classes} classes, which no tested text has)",
        absent=absent,
        n_classes=len(classes),
    )
    how = say(
        "Macro F1 is the mean of the classes’ F1; small classes count as much as large ones"
        "{over}. Log loss is in nats per text, lower is better; it punishes confident errors. "
        "Calibration error is how far confidence and accuracy lie apart on average (15 bins). The "
        "interval (Wilson) covers the chance in which texts were tested, not the chance in which "
        "another seed would train another model.",
        over=over if absent else "",
    )
    return table(heads, rows) + f'<p class="how">{how}</p>'


def _classes(model: dict) -> str:
    rows = []
    for number, (label, scores) in enumerate(model["per_class"].items(), start=1):
        interval = "–"
        if scores["recall_ci95"]:
            low, high = scores["recall_ci95"]
            interval = say("{low:.3f} to {high:.3f}", low=low, high=high)
        precision, recall, f1 = (_share(scores[key]) for key in ("precision", "recall", "f1"))
        rows.append(
            [f"{number}", label, precision, recall, interval, f1, f"{scores['support']:,}"]
        )
    heads = [say("no."), say("class"), say("precision"), say("recall"), say("its 95% interval")]
    heads += ["F1", say("texts")]
    html = f"<h3>{say('Each class')}</h3>" + table(heads, rows, names=(1,))
    if any("undefined" in scores for scores in model["per_class"].values()):
        undefined = say(
            "– means undefined: no text was predicted as this class, or no tested text has it."
        )
        html += f'<p class="how">{undefined}</p>'
    return html


def _slices(metrics: dict) -> str:
    """The accuracy on parts of the texts."""
    everywhere = metrics["model"]["accuracy"]
    how = say(
        "The accuracy on one class is its recall, above. “Lower” and “higher” mean that the whole "
        "interval lies on that side of the accuracy on all texts, {everywhere:.1%}; by chance "
        "alone this happens to about one part in twenty.",
        everywhere=everywhere,
    )
    html = f'<p class="how">{how}</p>' + listed(metrics["not_sliced"])
    for slicing in metrics["slices"]:
        by, is_ours = slicing["by"], slicing["by"] == OWN_COLUMN
        rows = []
        for part in slicing["parts"]:
            low, high = part["accuracy_ci95"]
            against = ""
            if high < everywhere or low > everywhere:
                against = say("lower") if high < everywhere else say("higher")
            accuracy = f"{part['accuracy']:.1%}"
            name = known(part["part"]) if is_ours else part["part"]
            rows.append([name, f"{part['n']:,}", accuracy, interval(part), against])
        by = translated(by).replace("_", " ")
        by = text(cut(known(by) if is_ours else by, MAX_NAME))
        heads = ["", say("texts"), say("accuracy"), say("95% interval"), say("against all")]
        html += f"<h3>{say('By {what}', what=by)}</h3>" + table(heads, rows, names=(0, 4))
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
        return f"<p>{say('No text was given a wrong class.')}</p>"
    heads = [say("true class"), say("predicted class"), say("texts")]
    heads.append(say("share of the true class"))
    return f"<h3>{say('Most frequent confusions')}</h3>" + table(heads, rows, names=(0, 1))


def _run(facts: dict) -> str:
    others = {key: value for key, value in facts.items() if key not in OF_THE_HEADING}
    html = f"<h2>{say('The run')}</h2>{_facts(others)}" if others else ""
    if facts.get("durations"):
        html += f"<h3>{say('Minutes per stage')}</h3>" + _facts(facts["durations"])
    return html


def _facts(value) -> str:
    """Nested facts as nested tables."""
    if isinstance(value, dict):
        rows = (
            f"<tr><th>{text(known(str(key).replace('_', ' ')))}</th><td>{_facts(one)}</td></tr>"
            for key, one in value.items()
        )
        return f'<div class="wide"><table>{"".join(rows)}</table></div>'
    if isinstance(value, (list, tuple)):
        return "<br>".join(_facts(one) for one in value) or say("none")
    if isinstance(value, bool) or value is None:
        return {True: say("yes"), False: say("no"), None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    # str() would make a plain string of a Message.
    return text(known(value) if isinstance(value, str) else f"{value:,.6g}")


def _sentence(begun: str) -> str:
    begun = translated(begun)
    return begun[:1].upper() + begun[1:]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
