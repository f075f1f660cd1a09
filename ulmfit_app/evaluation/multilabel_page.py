"""The report of several labels a text as one HTML page, of the parts of that of one."""

import json
from typing import Any

import pandas as pd

from ulmfit_app.evaluation import headline
from ulmfit_app.evaluation.markup import (
    class_name,
    document,
    interval,
    listed,
    page_file,
    percent,
    picture,
    table,
    text,
)
from ulmfit_app.evaluation.messages import TAGS, say, spoken, translated
from ulmfit_app.evaluation.page import (
    make_title,
    model_name,
    name_test,
    named_scores,
    named_table,
    sentence,
)
from ulmfit_app.evaluation.page_classes import share
from ulmfit_app.evaluation.page_decision import decision_section
from ulmfit_app.evaluation.page_errors import controls, explained, show_error, show_errors
from ulmfit_app.evaluation.page_groups import caption_groups, groups_section
from ulmfit_app.evaluation.page_run import run_section, training_section
from ulmfit_app.evaluation.page_slices import slices_section
from ulmfit_app.evaluation.page_time import caption_time, time_section
from ulmfit_app.evaluation.page_update import update_section


def multilabel_page(
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
        errors: what multilabel_report.worst_sets returns.
        pngs, facts, explanations, language: as page.page takes them.
    """
    model = metrics["model"]
    about = say(
        "Tested on {test}: n = {n:,} texts, {n_labels} labels, {per_text:.2f} labels per text.",
        test=name_test(facts),
        n=model["n"],
        n_labels=len(model["per_label"]),
        per_text=sum(one["support"] for one in model["per_label"].values()) / model["n"],
    )
    captions = _captions()
    captions |= caption_groups(metrics) | caption_time()
    pictures = {key: picture(key, png, captions.get(key, "")) for key, png in pngs.items()}
    training = [one for key, one in pictures.items() if key.startswith("training")]
    of_texts = "" if language == TAGS[spoken()] else language
    sections = [
        _summary(metrics, facts.get("notes", [])),
        f"<h2>{say('Results')}</h2>"
        f'<div class="results">{_results(metrics)}</div>{pictures["macro_f1"]}',
        update_section(metrics, facts),
        f"<h2>{say('Labels')}</h2>{pictures['labels']}{_labels(metrics)}"
        f"{pictures['labels_together']}{pictures['labels_given']}",
        decision_section(metrics, several=True),
        f"<h2>{say('Parts of the texts')}</h2>{_slices(metrics)}",
        groups_section(metrics, pictures),
        time_section(metrics, pictures),
        f"<h2>{say('Probabilities')}</h2>{_calibration(metrics)}{pictures['reliability']}",
        training_section(training),
        run_section(facts),
        f"<h2>{say('The worst errors')}</h2>"
        + _errors(errors, metrics, explanations or {}, of_texts),
    ]
    script = page_file("page.js") if len(errors) else ""
    return document(make_title(metrics, facts), about, sections, script, language)


def _captions() -> dict[str, str]:
    """What stands below each figure."""
    return headline.captions() | {
        "labels": say(
            "The commonest label is on top; behind its name stands how many texts have it. Where "
            "precision lies right of recall, a label is given too seldom; where left of it, too "
            "often. What is undefined is not drawn."
        ),
        "labels_together": say(
            "How often labels stand together in the truth: of the texts with the label of a row, "
            "the share that have that of a column too."
        ),
        "labels_given": say(
            "The same for the answers: of the texts with the label of a row, the share that are "
            "given that of a column. The diagonal is recall. A cell beside it that is darker than "
            "in the figure above is given too often to such texts."
        ),
        "reliability": say(
            "All labels of all texts together. Where points lie on the dashed line, 80% of the "
            "labels that were said to be 80% probable are true. Vertical lines are 95% intervals, "
            "as if the labels of a text were independent; the bars count texts times labels, on a "
            "logarithmic scale."
        ),
    }


def _summary(metrics: dict, notes: list[str]) -> str:
    """What came out, whether it beats the baselines, and what else to know before believing it."""
    model = metrics["model"]
    found = say(
        "{name} has a macro F1 of {macro} (95% interval {low:.3f} to {high:.3f}) and a micro F1 "
        "of {micro}. It gives exactly the labels of {right:,} of {n:,} texts: subset accuracy "
        "{accuracy:.1%}, 95% interval {interval}.",
        name=sentence(model_name(metrics)),
        macro=share(model["macro_f1"]),
        low=model["macro_f1_ci95"][0],
        high=model["macro_f1_ci95"][1],
        micro=share(model["micro_f1"]),
        right=round(model["subset_accuracy"] * model["n"]),
        n=model["n"],
        accuracy=model["subset_accuracy"],
        interval=interval(model, "subset_accuracy"),
    )
    sentences = [found, *(_verdict(metrics, baseline) for baseline in metrics["baselines"])]
    return "".join(f"<p>{text(one)}</p>" for one in sentences) + listed(notes, say("Notes"))


def _verdict(metrics: dict, baseline: str) -> str:
    """Does the model beat this baseline by macro F1, beyond chance?"""
    paired = metrics["baselines"][baseline]["model_against_it"]
    low, high = paired["macro_f1_difference_ci95"]
    values = {
        "name": model_name(metrics),
        "rival": baseline,
        "difference": paired["macro_f1_difference"],
        "low": low,
        "high": high,
        "micro": paired["micro_f1_difference"],
    }
    if low > 0:
        found = say(
            "{name} beats the baseline “{rival}” in macro F1 by {difference:.3f} (95% interval of "
            "the difference {low:+.3f} to {high:+.3f}; in micro F1 {micro:+.3f}).",
            **values,
        )
    elif high < 0:
        values["difference"] = -values["difference"]
        found = say(
            "{name} is beaten by the baseline “{rival}” in macro F1 by {difference:.3f} (95% "
            "interval of the difference {low:+.3f} to {high:+.3f}; in micro F1 {micro:+.3f}).",
            **values,
        )
    else:
        found = say(
            "{name} and the baseline “{rival}” cannot be told apart by macro F1 on these texts "
            "(difference {difference:+.3f}, 95% interval {low:+.3f} to {high:+.3f}; in micro F1 "
            "{micro:+.3f}).",
            **values,
        )
    return sentence(found)


def _results(metrics: dict) -> str:
    scores = named_scores(metrics)
    heads, rows = headline.columns(scores, headline.measures(metrics))
    heads += [say("micro F1"), say("mean average precision"), say("all labels right")]
    more_heads = [say("Hamming loss"), say("coverage error"), say("ranking precision")]
    more_heads += [say("log loss"), say("calibration error")]
    more = []
    for row, numbers in zip(rows, scores.values(), strict=True):
        row += [share(numbers["micro_f1"]), share(numbers["mean_average_precision"])]
        row.append(f"{numbers['subset_accuracy']:.1%}")
        more.append(
            [
                f"{numbers['hamming_loss']:.2%}",
                f"{numbers['coverage_error']:.2f}",
                f"{numbers['label_ranking_average_precision']:.3f}",
                f"{numbers['log_loss']:.3f}",
                f"{numbers['expected_calibration_error']:.1%}",
            ]
        )
    how = say(
        "Macro F1 is the mean of the labels’ F1; rare labels count as much as common ones. Micro "
        "F1 is that of all answers together. Labels of which a number is undefined are left out "
        "of its mean. Hamming loss is the share of wrong ones among all answers to text and "
        "label. Coverage error is how many of the likeliest labels one has to take to have all of "
        "a text’s; ranking precision (label ranking average precision) is how many of those "
        "ranked as high as one of its labels are its own. Log loss (nats) and calibration error "
        "(15 bins) are means over the labels."
    )
    tables = named_table(heads, rows, scores) + named_table(more_heads, more, scores)
    return tables + f'<p class="how">{how}</p>'


def _labels(metrics: dict) -> str:
    model = metrics["model"]
    temperatures = metrics.get("calibration", {}).get("temperatures", {})
    rows = []
    for number, (label, scores) in enumerate(model["per_label"].items(), start=1):
        keys = "precision", "recall", "f1", "average_precision"
        row = [f"{number}", label, *(share(scores[key]) for key in keys)]
        row.append(f"{scores['threshold']:.3f}" if "threshold" in scores else "–")
        row.append(f"{temperatures[label]:.3g}" if temperatures else "–")
        row.append(f"{scores['expected_calibration_error']:.1%}")
        rows.append([*row, f"{scores['predicted']:,}", f"{scores['support']:,}"])
    heads = [say("no."), say("label"), say("precision"), say("recall"), "F1"]
    heads += [say("average precision"), say("threshold"), say("temperature")]
    heads += [say("calibration error"), say("texts given it"), say("texts that have it")]
    html = f"<h3>{say('Each label')}</h3>" + table(heads, rows, names=(1,))
    if any("undefined" in scores for scores in model["per_label"].values()):
        undefined = say(
            "– means undefined: no text was given this label, or no tested text has it."
        )
        html += f'<p class="how">{undefined}</p>'
    return html


def _slices(metrics: dict) -> str:
    everywhere = metrics["model"]["subset_accuracy"]
    how = say(
        "The accuracy is the share of texts that are given exactly their labels. “Lower” and "
        "“higher” mean that the whole interval lies on that side of the accuracy on all texts, "
        "{everywhere:.1%}; by chance alone this happens to about one part in twenty.",
        everywhere=everywhere,
    )
    return slices_section(metrics, everywhere, how)


def _calibration(metrics: dict) -> str:
    """What the temperatures changed."""
    found, notes = metrics.get("calibration"), listed(metrics["undefined"])
    if found is None:
        return notes
    named = (
        (say("log loss"), "log_loss", ".4f"),
        (say("Brier score"), "brier_score", ".4f"),
        (say("expected calibration error"), "expected_calibration_error", ".2%"),
        (say("that of all labels pooled"), "pooled_calibration_error", ".2%"),
    )
    rows = [
        [name, f"{found['before'][key]:{form}}", f"{found['after'][key]:{form}}"]
        for name, key, form in named
    ]
    how = say(
        "The logits of each label were divided by a number of its own, its temperature, that of "
        "the lowest log loss on the validation texts (n = {n:,}); the table shows the tested "
        "texts, which it was not fitted on, as means over the labels. {n_undefined} of {n_labels} "
        "labels kept a temperature of 1, since those texts are too few to show that another is "
        "better, or have no best one.",
        n=found["n_validation"],
        n_undefined=len(found["temperatures_undefined"]),
        n_labels=len(found["temperatures"]),
    )
    heads = ["", say("before"), say("after")]
    title = f"<h3>{say('Before and after calibration')}</h3>"
    return title + table(heads, rows) + f'<p class="how">{text(how)}</p>' + notes


# ------------------------------------------------------------------------------------- the errors
def _errors(
    errors: pd.DataFrame, metrics: dict, explanations: dict[int, str], language: str
) -> str:
    """The texts with the least probable labels, to be sorted and filtered."""
    model = metrics["model"]
    if errors.empty:
        return (
            f"<p>{say('None: all {n:,} texts were given exactly their labels.', n=model['n'])}</p>"
        )
    n_wrong = model["n"] - round(model["subset_accuracy"] * model["n"])
    how = say(
        "{n:,} of {n_wrong:,} texts that {model} does not give exactly their labels, those first "
        "whose labels it thought least probable, taken together (log loss). Some may be errors in "
        "the labels. Rows are those of the predictions, counted from 0; worst_errors.csv has the "
        "whole texts.",
        n=len(errors),
        n_wrong=n_wrong,
        model=translated(model_name(metrics)),
    ) + explained(errors, explanations)
    numbers = {label: number for number, label in enumerate(model["per_label"])}
    articles = [
        _article(error, numbers, explanations.get(error.row), language)
        for error in errors.itertuples()
    ]
    fields = [
        ("label", say("missed"), _count(errors["missed"])),
        ("predicted", say("given in vain"), _count(errors["in_vain"])),
    ]
    first = say("least probable labels first"), say("most probable labels first")
    return show_errors(how, articles, controls(fields, numbers, first))


def _count(cells: pd.Series) -> dict[str, int]:
    """How many of the cells have each label."""
    return cells.map(json.loads).map(list).explode().dropna().value_counts().to_dict()


def _article(error: Any, numbers: dict[str, int], explanation: str | None, language: str) -> str:
    """One error. error: a row of the errors."""
    given, true = json.loads(error.predicted), json.loads(error.label)
    missed, in_vain = json.loads(error.missed), json.loads(error.in_vain)
    what = say(
        "predicted {predicted}, labelled {label}, row {row}",
        predicted=_names(given),
        label=_names(true),
        row=error.row,
    )
    if missed:
        what += say("; missed {labels}", labels=_at(missed))
    if in_vain:
        what += say("; in vain {labels}", labels=_at(in_vain))
    found = (" ".join(str(numbers[label]) for label in of) for of in (missed, in_vain))
    return show_error(error, what, *found, explanation, language)


def _names(labels: list[str]) -> str:
    return ", ".join(map(class_name, labels)) or say("none")


def _at(probabilities: dict[str, float]) -> str:
    return ", ".join(
        say("{label} at {p}", label=class_name(label), p=percent(p))
        for label, p in probabilities.items()
    )
