"""The report: true to the predictions, the same twice, safe to open, honest about baselines."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, log_loss

from ulmfit_app.evaluation.calibrated import Calibration
from ulmfit_app.evaluation.calibration import fit_temperature, tempered
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.page import verdict
from ulmfit_app.evaluation.report import N_WORST_ERRORS, compare, write_report

SCRIPT = "<script>alert(1)</script>"
FACTS = {
    "data_set": "reviews.csv",
    "test_name": "a tenth, held out",
    "notes": ["The test split was made here & with seed 7."],
    "seed": 7,
    "language_model": {"start": "random weights", "perplexity": float("inf")},
    "durations": {"classifier": 8.125},
}


def table(
    n: int = 300, labels: tuple[str, ...] = ("neg", "pos"), seed: int = 0, text: str = "a text"
) -> pd.DataFrame:
    """Predictions as the pipeline hands them over."""
    generator = np.random.default_rng(seed)
    truth = np.r_[np.arange(len(labels)), generator.integers(len(labels), size=n - len(labels))]
    raw = generator.random((n, len(labels)))
    raw[np.arange(n), truth] += 0.4
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    names = np.array(labels)
    known = pd.DataFrame(
        {
            "text": [f"{text} {index}" for index in range(n)],
            "label": names[truth],
            "predicted": names[probabilities.argmax(axis=1)],
            "confidence": probabilities.max(axis=1),
        }
    )
    return known.join(pd.DataFrame(probabilities, columns=[f"p_{label}" for label in labels]))


def histories() -> dict[str, pd.DataFrame]:
    classifier = pd.DataFrame(
        {
            "phase": ["last group", "all"],
            "epoch": [0, 0],
            "train_loss": [0.6, 0.5],
            "valid_loss": [0.5, 0.4],
            "accuracy": [0.7, 0.8],
            "seconds": [1.0, 2.0],
        }
    )
    return {"language model": classifier.assign(perplexity=[90.0, 80.0]), "classifier": classifier}


def baselines(predictions: pd.DataFrame) -> dict[str, np.ndarray]:
    n_classes = sum(column.startswith("p_") for column in predictions)
    return {"majority class": np.full((len(predictions), n_classes), 1 / n_classes)}


def write(folder, predictions: pd.DataFrame, facts: dict = FACTS) -> dict:
    return write_report(folder, predictions, baselines(predictions), histories(), facts)


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_report_is_whole_and_says_what_it_measured(tmp_path):
    predictions = table()
    metrics = write(tmp_path, predictions)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "metrics.json",
        "classification_report.txt",
        "worst_errors.csv",
        "report.html",
        "figures/accuracy.png",
        "figures/confusion_matrix.png",
        "figures/confidence.png",
        "figures/reliability.png",
        "figures/risk_coverage.png",
        "figures/training_language_model.png",
        "figures/training_classifier.png",
    }
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8")) == metrics
    assert metrics["model"]["accuracy"] == accuracy_score(
        predictions["label"], predictions["predicted"]
    )
    expected = log_loss(predictions["label"], predictions[["p_neg", "p_pos"]].to_numpy())
    assert metrics["model"]["log_loss"] == pytest.approx(expected, abs=1e-6)
    assert {"accuracy", "accuracy_ci95", "n", "model_against_it"} <= set(
        metrics["baselines"]["majority class"]
    )
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert f"{metrics['model']['accuracy']:.1%}" in page and "n = 300 texts, 2 classes" in page
    assert (
        "ULMFiT on reviews.csv" in page
        and "a tenth, held out" in page
        and FACTS["notes"][0] in page
    )


def test_both_directions_are_reported_with_their_intervals_below_their_mean(tmp_path):
    predictions = table()
    mean = predictions[["p_neg", "p_pos"]].to_numpy()
    # As far from the mean to one side as to the other, and within 0 and 1.
    off = (
        np.random.default_rng(1).uniform(-1, 1, len(mean))[:, None]
        * mean.min(axis=1, keepdims=True)
        * [1, -1]
    )
    directions = {"forward": mean + off, "backward": mean - off}
    metrics = write_report(
        tmp_path, predictions, baselines(predictions), histories(), FACTS, directions
    )
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8")) == metrics
    truth = (predictions["label"] == "pos").to_numpy(int)
    assert metrics["model"]["accuracy"] == accuracy_score(truth, mean.argmax(axis=1))
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    for name, probabilities in directions.items():
        found = metrics["directions"][name]
        assert found["accuracy"] == accuracy_score(truth, probabilities.argmax(axis=1))
        assert found["accuracy_ci95"][0] < found["accuracy"] < found["accuracy_ci95"][1]
        low, high = found["accuracy_ci95"]
        assert f"ULMFiT, {name} alone{found['accuracy']:.1%}{low:.1%} to {high:.1%}" in page
        assert f"the {name} one alone has {found['accuracy']:.1%}" in page


def test_a_run_in_one_direction_does_not_speak_of_directions(tmp_path):
    assert "directions" not in write(tmp_path, table())
    assert "alone has" not in Page((tmp_path / "report.html").read_text("utf-8")).text


def calibrated(
    n: int, n_validation: int, labels: tuple[str, ...] = ("neg", "pos")
) -> tuple[pd.DataFrame, Calibration]:
    """Predictions of a model that was too sure of itself, calibrated on other texts, and how."""
    columns = [f"p_{label}" for label in labels]
    predictions, validation = table(n, labels), table(n_validation, labels, seed=1)
    before, known = (tempered(of[columns].to_numpy(), 0.2) for of in (predictions, validation))
    truth = pd.Index(labels).get_indexer(validation["label"])
    temperature, _ = fit_temperature(known, truth)
    predictions[columns] = tempered(before, temperature)
    return predictions, Calibration(Decision(temperatures=(temperature,)), before, known, truth)


def test_the_report_shows_before_and_after_calibration_and_what_thresholds_give(tmp_path):
    predictions, calibration = calibrated(2000, 1000)
    metrics = write_report(
        tmp_path, predictions, baselines(predictions), histories(), FACTS, calibration=calibration
    )
    assert json.loads((tmp_path / "metrics.json").read_text("utf-8")) == metrics
    found, columns = metrics["calibration"], ["p_neg", "p_pos"]
    for when, probabilities in (
        ("before", calibration.before),
        ("after", predictions[columns].to_numpy()),
    ):
        expected = log_loss(predictions["label"], probabilities)
        assert found[when]["log_loss"] == pytest.approx(expected, abs=1e-6)
        assert found[when]["accuracy"] == metrics["model"]["accuracy"]
    assert {key: metrics["model"][key] for key in found["after"]} == found["after"]
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    both = [f"{found[when]['expected_calibration_error']:.2%}" for when in ("before", "after")]
    assert f"expected calibration error, equal width{''.join(both)}" in page
    assert (
        f"the temperature, {calibration.decision.temperatures[0]:.3g};" in page
        and "(n = 1,000)" in page
    )
    sure = found["thresholds"][-1]
    (low, high), error = sure["test"]["error_ci95"], sure["test"]["error"]
    assert (
        f"10%{sure['threshold']:.5g}" in page and f"{error:.1%} ({low:.1%} to {high:.1%})" in page
    )


def test_predictions_that_nothing_is_known_of_but_themselves_have_no_thresholds(tmp_path):
    assert "calibration" not in write(tmp_path, table())
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert "temperature" not in page and "wanted error" not in page


@pytest.mark.parametrize(("n", "n_validation"), [(3, 3), (30, 3)])
def test_what_calibration_cannot_tell_is_said_beside_its_numbers(tmp_path, n, n_validation):
    labels = ("a", "b", SCRIPT)
    predictions, calibration = calibrated(n, n_validation, labels)
    predictions["label"] = "a"
    metrics = write_report(
        tmp_path, predictions, baselines(predictions), {}, {}, calibration=calibration
    )
    json.dumps(metrics, allow_nan=False)
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert "All tested texts are of the class “a”" in page
    assert ("fewer than bins" in page) == (n == 3)
    assert "1%: no confidence kept it on validation, which takes 99 answers" in page
    assert "nan" not in re.sub("[a-z]+nan|nan[a-z]+", "", page.lower())


def test_metrics_are_byte_identical_for_two_runs_whatever_they_took(tmp_path):
    write(tmp_path / "first", table(), FACTS)
    write(tmp_path / "second", table(), FACTS | {"durations": {"classifier": 99.0}})
    first, second = ((tmp_path / run / "metrics.json").read_bytes() for run in ("first", "second"))
    assert first == second and b"durations" not in first
    assert "8.125" in (tmp_path / "first" / "report.html").read_text("utf-8")


def test_metrics_hold_no_nan_even_where_classes_are_missing_and_facts_are_infinite(tmp_path):
    predictions = table(labels=("neg", "pos", "never")).drop(columns="predicted")
    predictions.loc[predictions["label"] == "never", "label"] = "pos"
    predictions["p_never"] = 0.0
    probabilities = predictions[["p_neg", "p_pos"]].to_numpy()
    predictions[["p_neg", "p_pos"]] = probabilities / probabilities.sum(axis=1, keepdims=True)
    metrics = write(tmp_path, predictions)
    json.dumps(metrics, allow_nan=False)
    assert not re.search(r"\b(NaN|Infinity)\b", (tmp_path / "metrics.json").read_text("utf-8"))
    assert metrics["model"]["per_class"]["never"]["recall"] is None
    assert metrics["facts"]["language_model"]["perplexity"] == "not a finite number (inf)"
    assert re.search(
        r"never +- +- +- +- +0\n", (tmp_path / "classification_report.txt").read_text("utf-8")
    )


def test_every_text_label_and_fact_is_shown_and_never_run(tmp_path):
    predictions = table(labels=(SCRIPT, "<b>bold</b>"), text=SCRIPT)
    write_report(
        tmp_path,
        predictions,
        {SCRIPT: np.full((300, 2), 0.5)},
        {SCRIPT: histories()["classifier"]},
        {SCRIPT: SCRIPT},
    )
    html = (tmp_path / "report.html").read_text("utf-8")
    page = Page(html)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1 and "b" not in tags
    assert SCRIPT not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert SCRIPT in page.text


def test_the_page_loads_nothing_and_is_small(tmp_path):
    write(tmp_path, table(text="see https://example.org/picture.png"))
    html = (tmp_path / "report.html").read_text("utf-8")
    loading = [
        value
        for _, attributes in Page(html).tags
        for key, value in attributes.items()
        if key in ("src", "href")
    ]
    assert len(loading) == 7 and all(
        value.startswith("data:image/png;base64,") for value in loading
    )
    assert "url(" not in html and "@import" not in html and "default-src 'none'" in html
    assert len(html) < 3_000_000


def test_the_policy_allows_the_pages_own_script_and_no_other(tmp_path):
    write(tmp_path, table(text=SCRIPT))
    html = (tmp_path / "report.html").read_text("utf-8")
    (script,) = re.findall("<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (
        attrs["content"]
        for _, attrs in Page(html).tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert (
        policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    assert not re.search(r"\son\w+=", re.sub("<script>.*?</script>", "", html, flags=re.DOTALL))


def test_without_the_script_all_errors_are_there_and_the_controls_are_hidden(tmp_path):
    predictions = table(n=1000)
    write(tmp_path, predictions)
    tags = Page((tmp_path / "report.html").read_text("utf-8")).tags
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    articles = [attrs for tag, attrs in tags if tag == "article"]
    assert len(articles) == len(wrong) and not any("hidden" in attrs for attrs in articles)
    assert {int(attrs["data-row"]) for attrs in articles} == set(wrong.index)
    hidden = [tag for tag, attrs in tags if "hidden" in attrs]
    assert hidden == ["div", "button"] and [tag for tag, _ in tags].count("select") == 3


def test_five_hundred_long_errors_of_any_script_fit_into_three_megabytes(tmp_path):
    for text in ("这部电影" * 200, "<" * 900):
        predictions = table(n=3000, labels=tuple("abcdef"), text=text)
        predictions["label"] = [label for label in "bcdefa" for _ in range(500)]
        write(tmp_path, predictions)
        assert (tmp_path / "report.html").stat().st_size < 3_000_000
        assert len(pd.read_csv(tmp_path / "worst_errors.csv")) == N_WORST_ERRORS


def test_an_explanation_stands_in_place_of_its_text(tmp_path):
    predictions = table()
    wrong = predictions.index[predictions["label"] != predictions["predicted"]]
    explanations = {int(row): f"<p>because of <b>{row}</b></p>" for row in wrong[:3]}
    for folder, given in (("plain", None), ("explained", explanations)):
        write_report(
            tmp_path / folder, predictions, baselines(predictions), {}, {}, explanations=given
        )
    plain, explained = (
        (tmp_path / folder / "report.html").read_text("utf-8") for folder in ("plain", "explained")
    )
    assert "(occlusion)" not in plain and "In 3 of the most confident, the words" in explained
    for row in wrong:
        assert (f"because of <b>{row}</b>" in explained) == (row in explanations)
        assert (f'<p dir="auto">a text {row}</p>' in explained) == (row not in explanations)
    first, second = (
        (tmp_path / folder / "metrics.json").read_bytes() for folder in ("plain", "explained")
    )
    assert first == second


def test_columns_that_say_more_of_a_text_are_sliced_by_on_the_page(tmp_path):
    predictions = table().assign(copy_in_train=["no", "no", "nearly"] * 100)
    metrics = write(tmp_path, predictions)
    (part, *_), by = metrics["slices"][-1]["parts"], metrics["slices"][-1]["by"]
    low, high = part["accuracy_ci95"]
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert by == "copy_in_train" and part["n"] == 200
    assert (
        "By copy in train" in page
        and f"no200{part['accuracy']:.1%}{low:.1%} to {high:.1%}" in page
    )


def test_class_names_that_no_font_has_are_told_in_one_sentence_of_the_page_alone(tmp_path):
    metrics = write(tmp_path, table(labels=("a", "\U000f1234")))
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert (
        "No font on this machine can draw the names of 1 of the 2 classes: figures show their "
        "numbers" in page
    )
    assert "font" not in json.dumps(metrics)
    write(tmp_path, table())
    assert (
        "font"
        not in Page((tmp_path / "report.html").read_text("utf-8").partition("</style>")[2]).text
    )


def test_two_hundred_classes_fit_into_three_megabytes(tmp_path):
    labels = tuple(f"category {index:03d} of a rather long list of names" for index in range(200))
    metrics = write(tmp_path, table(n=2000, labels=labels, text="word " * 500))
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert len(metrics["model"]["per_class"]) == 200


def test_worst_errors_are_the_most_confident_ones_with_their_whole_texts(tmp_path):
    predictions = table(n=1000, text="long " * 300)
    write(tmp_path, predictions)
    found = pd.read_csv(tmp_path / "worst_errors.csv")
    wrong = predictions[predictions["label"] != predictions["predicted"]]
    expected = wrong.sort_values("confidence", ascending=False, kind="stable").head(N_WORST_ERRORS)
    assert found["row"].tolist() == expected.index.tolist()
    assert found["text"].tolist() == expected["text"].tolist()
    assert found["predicted"].tolist() == expected["predicted"].tolist()
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "characters in all)" in page and "long " * 150 not in page


def test_a_model_without_errors_and_a_run_without_histories_still_get_a_report(tmp_path):
    predictions = pd.DataFrame(
        {"text": ["a", "b"], "label": ["x", "y"], "p_x": [0.9, 0.2], "p_y": [0.1, 0.8]}
    )
    write_report(
        tmp_path,
        predictions,
        baselines(predictions),
        {"language model": histories()["classifier"].head(0)},
        {},
    )
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert "None: all 2 texts were classified correctly." in page and "Training" not in page
    assert len(pd.read_csv(tmp_path / "worst_errors.csv")) == 0


def test_lone_surrogates_and_other_scripts_are_written(tmp_path):
    predictions = table(labels=("плохо", "好"))
    predictions["text"] = pd.Series(["broken \udc80 text"] * len(predictions), dtype=object)
    write(tmp_path, predictions)
    assert "плохо" in (tmp_path / "metrics.json").read_text("utf-8")
    assert "broken \\udc80 text" in Page((tmp_path / "report.html").read_text("utf-8")).text
    assert "broken \ufffd text" in (tmp_path / "worst_errors.csv").read_text("utf-8")


def test_a_label_without_probabilities_is_refused(tmp_path):
    predictions = table()
    predictions.loc[5, "label"] = "neutral"
    with pytest.raises(ValueError, match="none named 'p_neutral'"):
        write(tmp_path, predictions)
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("n", "model_right", "baseline_right", "expected"),
    [
        (1000, 900, 800, "ULMFiT beats the baseline “words” by 10.0 points"),
        (1000, 800, 900, "ULMFiT is beaten by the baseline “words” by 10.0 points"),
        (
            50,
            40,
            39,
            "ULMFiT is 2.0 points above the baseline “words”, too little to tell from chance on "
            "these texts",
        ),
        (
            50,
            39,
            40,
            "ULMFiT does not beat the baseline “words”: it is 2.0 points below, too little to "
            "tell from chance",
        ),
        (50, 40, 40, "ULMFiT does not beat the baseline “words”: both are right equally often"),
    ],
)
def test_the_verdict_says_whether_a_baseline_is_beaten(n, model_right, baseline_right, expected):
    truth = np.zeros(n, dtype=int)
    right_first = [
        np.where(np.arange(n)[:, None] < right, [0.9, 0.1], [0.1, 0.9])
        for right in (model_right, baseline_right)
    ]
    found = verdict(compare(right_first[0], {"words": right_first[1]}, truth, ["a", "b"]), "words")
    assert found.startswith(expected)
    assert ("intervals overlap" in found) == (n == 50)
