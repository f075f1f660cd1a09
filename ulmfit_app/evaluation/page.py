"""The report of a run, or of anybody's predictions, as one HTML page.

Most sections have files of their own, page_classes to page_slices.
"""

from collections.abc import Iterable

import pandas as pd

from ulmfit_app.evaluation import headline
from ulmfit_app.evaluation.markup import (
    document,
    interval,
    listed,
    page_file,
    picture,
    table,
    text,
)
from ulmfit_app.evaluation.messages import TAGS, Message, known, say, spoken, translated
from ulmfit_app.evaluation.metrics import SIGNIFICANT, spell_p
from ulmfit_app.evaluation.page_classes import classes_section
from ulmfit_app.evaluation.page_confidence import confidence_section
from ulmfit_app.evaluation.page_decision import decision_section
from ulmfit_app.evaluation.page_errors import count_wrong, errors_section
from ulmfit_app.evaluation.page_groups import caption_groups, groups_section
from ulmfit_app.evaluation.page_run import run_section, training_section
from ulmfit_app.evaluation.page_slices import slices_section
from ulmfit_app.evaluation.page_time import caption_time, time_section
from ulmfit_app.evaluation.page_update import update_section

MODEL = "ULMFiT"


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
    model = metrics["model"]
    about = say(
        "Tested on {test}: n = {n:,} texts, {n_classes} classes.",
        test=name_test(facts),
        n=model["n"],
        n_classes=len(model["per_class"]),
    )
    captions = _captions("calibration" in metrics)
    captions |= caption_groups(metrics) | caption_time()
    pictures = {key: picture(key, png, captions.get(key, "")) for key, png in pngs.items()}
    training = [one for key, one in pictures.items() if key.startswith("training")]
    compared = "".join(pictures[of] for of in headline.measures(metrics))
    sections = [
        _summary(metrics, facts.get("notes", [])),
        f'<h2>{say("Results")}</h2><div class="results">{_results(metrics)}</div>{compared}',
        update_section(metrics, facts),
        f"<h2>{say('Classes')}</h2>{pictures['confusion_matrix']}{classes_section(model)}",
        decision_section(metrics),
        f"<h2>{say('Parts of the texts')}</h2>{_slices(metrics)}",
        groups_section(metrics, pictures),
        time_section(metrics, pictures),
        f"<h2>{say('Confidence')}</h2>"
        f"{pictures['confidence']}{confidence_section(metrics, pictures)}",
        training_section(training),
        run_section(facts),
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
    return document(make_title(metrics, facts), about, sections, script, language)


def make_title(metrics: dict, facts: dict) -> str:
    """The heading of a report. metrics, facts: as `page` takes them."""
    name, data_set = sentence(model_name(metrics)), facts.get("data_set")
    if data_set:
        return say("{model} on {data_set}", model=name, data_set=data_set)
    return say("{model}: report", model=name)


def name_test(facts: dict) -> str:
    """What the tested texts are. facts: as `page` takes them."""
    test = facts.get("test_name")
    return known(test) if test else say("texts it was not trained on")


def _captions(calibrated: bool) -> dict[str, str]:
    """What stands below each figure."""
    captions = headline.captions() | {
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
    p_value = spell_p(paired["p_value"])
    overlap = low <= other_high and other_low <= high
    return sentence(
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
        name=sentence(model_name(metrics)),
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
    *first, _ = headline.measures(metrics)
    name = sentence(model_name(metrics))
    sentences = [*(headline.introduce(name, model, of) for of in first), found]
    for baseline, scores in metrics["baselines"].items():
        paired = scores["model_against_it"]
        sentences += [headline.against(name, baseline, paired, of) for of in first]
        # Whoever gives costs is after them, and not after few mistakes.
        if "mean_cost" not in first:
            sentences.append(verdict(metrics, baseline))
    return "".join(f"<p>{text(sentence)}</p>" for sentence in sentences) + listed(
        notes, say("Notes")
    )


def _slices(metrics: dict) -> str:
    everywhere = metrics["model"]["accuracy"]
    how = say(
        "The accuracy on one class is its recall, above. “Lower” and “higher” mean that the whole "
        "interval lies on that side of the accuracy on all texts, {everywhere:.1%}; by chance "
        "alone this happens to about one part in twenty.",
        everywhere=everywhere,
    )
    return slices_section(metrics, everywhere, how)


def _results(metrics: dict) -> str:
    scores, first = named_scores(metrics), headline.measures(metrics)
    first_heads, first_rows = headline.columns(scores, first)
    heads = [say("macro F1"), say("balanced accuracy"), say("mean average precision")]
    heads += [say("log loss"), say("calibration error"), "n"]
    rows = [
        [
            f"{numbers['macro_f1']:.3f}",
            f"{numbers['balanced_accuracy']:.1%}",
            f"{numbers['mean_average_precision']:.3f}",
            f"{numbers['log_loss']:.3f}",
            f"{numbers['expected_calibration_error']:.1%}",
            f"{numbers['n']:,}",
        ]
        for numbers in scores.values()
    ]
    tables = [(first_heads, first_rows), (heads, rows)]
    if len(first) == 1:
        both = [one + other for one, other in zip(first_rows, rows, strict=True)]
        tables = [(first_heads + heads, both)]
    classes = metrics["model"]["per_class"]
    absent = sum(not scores["support"] for scores in classes.values())
    over = say(
        " (F1 is undefined or 0 for {absent} of {n_classes} classes, which no tested text has)",
        absent=absent,
        n_classes=len(classes),
    )
    how = say(
        "Macro F1 is the mean of the classes’ F1; small classes count as much as large ones"
        "{over}. Balanced accuracy is the mean of their recall; mean average precision says how "
        "well the probability of a class ranks its texts before all others. Log loss is in nats "
        "per text, lower is better; it punishes confident errors. "
        "Calibration error is how far confidence and accuracy lie apart on average (15 bins). The "
        "interval (Wilson) covers the chance in which texts were tested, not the chance in which "
        "another seed would train another model.",
        over=over if absent else "",
    )
    if len(first) > 1:
        how += say(" The first interval is a bootstrap’s over the tested texts.")
    return "".join(named_table(*one, scores) for one in tables) + f'<p class="how">{how}</p>'


def named_table(heads: list[str], rows: list[list[str]], names: Iterable[str]) -> str:
    """A table whose rows have names. heads, rows: of the other columns."""
    named = [[name, *row] for name, row in zip(names, rows, strict=True)]
    return table(["", *heads], named)


def sentence(begun: str) -> str:
    """It with a capital letter, in the language that is spoken."""
    begun = translated(begun)
    return begun[:1].upper() + begun[1:]
