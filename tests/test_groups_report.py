"""Groups and time in the report: on the page, in its figures, in metrics.json, and on the command
line, whoever's predictions they are."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from tests.test_chinese_report import Words
from tests.test_multilabel_report import predictions as sets_of_labels
from tests.test_predictions import report
from tests.test_report import Page, table
from ulmfit_app import __main__ as cli
from ulmfit_app.evaluation import multilabel_report
from ulmfit_app.evaluation import report as report_module
from ulmfit_app.evaluation.calibrated import Calibration
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.group_thresholds import ByGroup
from ulmfit_app.evaluation.multilabel_report import write_multilabel_report
from ulmfit_app.evaluation.report import write_report
from ulmfit_app.evaluation.tables import probability_columns

EVIL = "<b>$x$</b>"


def with_columns(predictions: pd.DataFrame) -> pd.DataFrame:
    """With whom texts are from, about what, and when they were written."""
    n = len(predictions)
    generator = np.random.default_rng(4)
    days = pd.to_timedelta(generator.integers(0, 200, n), unit="D")
    return predictions.assign(
        sender=generator.choice(["web", "mail", EVIL, ""], n, p=[0.5, 0.3, 0.15, 0.05]),
        topic=generator.choice(["price", "taste"], n),
        date=(pd.Timestamp("2025-03-01") + days).strftime("%Y-%m-%d"),
        shop=generator.choice(["north", "south"], n),
    )


@pytest.fixture
def without_figures(monkeypatch) -> None:
    """Figures take longer than all else."""
    blank = b"\x89PNG" + bytes(20)
    for module in (report_module, multilabel_report):
        monkeypatch.setattr(module, "write_figures", lambda _, drawn: dict.fromkeys(drawn, blank))


COMPARED = {"groups": ["sender", "topic"], "time": "date"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a whole report, and its metrics."""
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(folder, with_columns(table(n=400)), {}, {}, {}, **COMPARED)


def test_metrics_have_each_column_of_groups_and_the_time_and_are_read_back(written):
    folder, metrics = written
    assert [found["column"] for found in metrics["groups"]] == ["sender", "topic"]
    assert metrics["over_time"]["column"] == "date"
    assert json.loads((folder / "metrics.json").read_text("utf-8")) == metrics
    by_group = metrics["groups"][1]["groups"]
    right = sum(group["n"] * group["accuracy"]["value"] for group in by_group)
    assert right / 400 == pytest.approx(metrics["model"]["accuracy"])


def test_columns_of_groups_and_time_are_no_parts_of_the_texts_too(written):
    _, metrics = written
    assert [one["by"] for one in metrics["slices"]][2:] == ["shop"]
    assert metrics["not_sliced"] == []


def test_the_page_has_what_was_found_the_tables_and_the_figures(written):
    folder, metrics = written
    html = (folder / "report.html").read_text("utf-8")
    page = Page(html)
    for found in (*metrics["groups"], metrics["over_time"]):
        assert all(one in page.text for one in found["said"])
    for words in (
        "By sender",
        "By topic",
        "Over time",
        "Recall of each label",
        "2025-03",
        "(none)",
    ):
        assert words in page.text
    assert EVIL not in html and page.text.count("Largest differences between two groups") == 2
    web = next(one for one in metrics["groups"][0]["groups"] if one["group"] == "web")
    share, low, high = web["accuracy"]["value"], *web["accuracy"]["ci95"]
    assert f"{share:.1%} ({low:.1%} to {high:.1%})" in page.text
    figures = {path.stem for path in (folder / "figures").iterdir()}
    assert {"groups_1", "groups_2", "over_time"} <= figures
    assert html.count("<img") == len(figures)


def test_a_page_without_groups_or_time_has_no_section_of_them(tmp_path, without_figures):
    metrics = write_report(tmp_path, table(), {}, {}, {})
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert "groups" not in metrics and "over_time" not in metrics
    assert "Over time" not in page and "Largest differences" not in page


def test_a_report_of_several_labels_has_groups_and_time_too(tmp_path, without_figures):
    predictions, calibration, _ = sets_of_labels()
    predictions = with_columns(predictions)
    metrics = write_multilabel_report(
        tmp_path, predictions, {}, {}, {}, None, calibration, **COMPARED
    )
    sender = metrics["groups"][0]
    assert sender["labels"] == sender["selected"] == list(metrics["model"]["per_label"])
    right = sum(group["n"] * group["accuracy"]["value"] for group in sender["groups"])
    assert right / len(predictions) == pytest.approx(metrics["model"]["subset_accuracy"])
    assert "confidence" not in metrics["over_time"]["periods"][0]
    assert [one["by"] for one in metrics["slices"]][2:] == ["shop"]
    page = Page((tmp_path / "report.html").read_text("utf-8")).text
    assert "By sender" in page and "Over time" in page


def test_thresholds_by_group_stand_beside_the_groups(tmp_path, without_figures):
    predictions = with_columns(table(n=400))
    probabilities = predictions[probability_columns(predictions)].to_numpy()
    by = ByGroup("sender", 1, (("web", 0.3), ("", 0.6)))
    truth = (predictions["label"] == "pos").to_numpy(int)
    senders = predictions["sender"].tolist()
    calibration = Calibration(
        Decision(by_group=by), probabilities, probabilities, truth, senders, senders
    )
    metrics = write_report(tmp_path, predictions, {}, {}, {}, None, calibration, **COMPARED)
    sender, topic = metrics["groups"]
    found = {group["group"]: group.get("threshold") for group in sender["groups"]}
    assert found == {"web": 0.3, "(none)": 0.6, "mail": None, EVIL: None}
    assert not any("threshold" in group for group in topic["groups"])
    assert "0.3000" in Page((tmp_path / "report.html").read_text("utf-8")).text


def test_a_chinese_page_has_no_english_sentence_on_groups_or_time(tmp_path, without_figures):
    predictions = with_columns(table(n=400, labels=("好評", "負評"), text="這部電影"))
    predictions = predictions.rename(columns={"sender": "來源", "topic": "主題", "date": "日期"})
    names = {EVIL: "電話", "web": "網路", "mail": "郵件"}
    predictions["來源"] = predictions["來源"].replace(names)
    # One group is far too small, another one worse, and the accuracy falls.
    predictions.loc[:9, "來源"] = "少數"
    wrong = predictions["主題"].eq("price") & (predictions.index % 2 == 0)
    probabilities = probability_columns(predictions)
    predictions.loc[wrong, probabilities] = predictions.loc[wrong, probabilities[::-1]].to_numpy()
    predictions["主題"] = predictions["主題"].replace({"price": "價格", "taste": "口味"})
    compared = {"groups": ["來源", "主題"], "time": "日期"}
    found = {}
    for language in ("en", "zh-tw"):
        write_report(
            tmp_path / language, predictions.drop(columns=["predicted", "shop"]), {}, {},
            {"model": "模型"}, report_language=language, **compared,
        )  # fmt: skip
        html = (tmp_path / language / "report.html").read_text("utf-8")
        section = html[html.index("<h2>群組" if language == "zh-tw" else "<h2>Groups") :]
        found[language] = Words(section[: section.rindex("<h2>")]).found
    english = {word for one in found["zh-tw"] for word in re.findall("[A-Za-z][A-Za-z-]+", one)}
    # Tests, measures and files have names of their own.
    assert english <= set(
        "Holm Cochran-Armitage demographic parity equalized odds difference metrics json Brier "
        "csv worst errors logit".split()
    )
    texts = {name: json.loads((tmp_path / name / "metrics.json").read_text()) for name in found}
    assert texts["en"] == texts["zh-tw"]


# ---------------------------------------------------------------------------- on the command line
def test_anybodys_predictions_are_compared_by_the_columns_that_are_named(
    tmp_path, without_figures
):
    predictions = with_columns(table(n=400))
    more = ["--groups", "sender", "topic", "--time", "date"]
    metrics, page = report(tmp_path, predictions, *more)
    expected = write_report(tmp_path / "other", predictions, {}, {}, {}, **COMPARED)
    assert len(metrics["groups"]) == 2
    for found, other in zip(metrics["groups"], expected["groups"], strict=True):
        assert found["said"] == other["said"] and found["column"] == other["column"]
        for one, same in zip(found["groups"], other["groups"], strict=True):
            assert one["recall"] == same["recall"] and one["accuracy"] == same["accuracy"]
    assert metrics["over_time"]["said"] == expected["over_time"]["said"]
    assert "By sender" in page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--groups", "sendr"], "no column 'sendr'. .* Did you mean --groups sender?"),
        (["--time", "dates"], "no column 'dates'. .* Did you mean --time date?"),
        (
            ["--groups", "p_neg"],
            "--groups p_neg: this column holds texts, labels, answers or prob",
        ),
        (["--time", "label"], "--time label: this column holds texts, labels"),
        (["--groups", "topic", "topic"], "name a column twice: 'topic', 'topic'. Name each once"),
        (["--groups", "date", "--time", "date"], "name a column twice: 'date', 'date'"),
        (["--groups", "same"], "'same', which --groups names, has the one value 'x' in all 400"),
        (["--groups", "text2"], "nearly every text would be a group of its own"),
        (["--time", "topic"], "Column 'topic' holds no dates"),
        (["--time", "when"], "'when', which --time names, has the one value '2025-01-01'"),
    ],
)
def test_a_column_that_nothing_can_be_compared_by_is_refused(tmp_path, capsys, more, message):
    predictions = with_columns(table(n=400))
    predictions = predictions.assign(same="x", text2=predictions["text"], when="2025-01-01")
    path = tmp_path / "mine.csv"
    predictions.to_csv(path, index=False)
    assert cli.main(["report", str(path), "--out", str(tmp_path / "out"), *more]) > 0
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said
    assert not (tmp_path / "out").exists()


def test_the_report_of_a_run_takes_no_groups_since_the_run_says_them(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path), "--groups", "sender"]) > 0
    assert "is a run folder, whose report has its place and its data" in capsys.readouterr().err
