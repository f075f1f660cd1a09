"""A report of anybody's predictions: scikit-learn's numbers, and one clear error per bad input."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
)

from tests.test_report import Page, table
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.predictions import read_predictions
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.evaluation import figures
from ulmfit_app.evaluation.decisions import Decision
from ulmfit_app.evaluation.figures import confidence_figure
from ulmfit_app.evaluation.metrics import calibration_scores
from ulmfit_app.evaluation.report import write_report
from ulmfit_app.evaluation.tables import prediction_table
from ulmfit_app.files import write_table
from ulmfit_app.inference.predicted_file import predict_file

GOOD = "text,label,p_neg,p_pos\nfine,pos,0.2,0.8\ndull,neg,0.9,0.1\nfair,neg,0.4,0.6\n"


def report(tmp_path, predictions, *more) -> tuple[dict, str]:
    """The metrics and the text of the page."""
    path = tmp_path / "mine.csv"
    predictions.to_csv(path, index=False)
    assert cli.main(["report", str(path), "--out", str(tmp_path / "out"), *more]) == 0
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    return json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8")), Page(html).text


def test_a_file_of_predictions_gives_the_whole_report_with_scikit_learns_numbers(tmp_path):
    predictions = table(labels=("neg", "so so", "1"))
    predictions["source"] = ["mail", "web"] * 150
    metrics, page = report(tmp_path, predictions)
    columns = ["p_neg", "p_so so", "p_1"]
    named = dict(zip(["neg", "so so", "1"], range(3), strict=True))
    truth = predictions["label"].map(named)
    assert metrics["model"]["accuracy"] == accuracy_score(
        predictions["label"], predictions["predicted"]
    )
    expected = f1_score(predictions["label"], predictions["predicted"], average="macro")
    assert metrics["model"]["macro_f1"] == pytest.approx(expected, abs=1e-6)
    assert metrics["model"]["log_loss"] == pytest.approx(
        log_loss(truth, predictions[columns].to_numpy()), abs=1e-6
    )
    assert [part["part"] for part in metrics["slices"][-1]["parts"]] == ["mail", "web"]
    assert (
        "The model on mine.csv" in page
        and "ULMFiT" not in page
        and "the commonest class of these texts" in page
    )
    figures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert figures == {
        "accuracy",
        "confusion_matrix",
        "confidence",
        "reliability",
        "risk_coverage",
    }


def test_columns_of_other_names_are_named(tmp_path):
    predictions = (
        table()
        .rename(columns={"text": "review", "label": "mood"})
        .assign(label=["web", "mail"] * 150)
    )
    metrics, _ = report(tmp_path, predictions, "--text", "review", "--label", "mood")
    assert metrics["model"]["n"] == 300
    assert metrics["slices"][-1]["by"] == "column label"


def test_chinese_texts_and_labels_are_read_and_shown(tmp_path):
    metrics, page = report(tmp_path, table(labels=("好评", "差评"), text="这部电影"))
    assert (
        list(metrics["model"]["per_class"]) == ["好评", "差评"]
        and "这部电影" in page
        and "labelled 差评" in page
    )


def test_rounded_probabilities_are_divided_by_their_sum_and_it_is_said(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,label,p_a,p_b,p_c\nx,a,0.33,0.33,0.33\ny,b,0.25,0.5,0.25\n")
    found, notes = read_predictions(path)
    assert found[["p_a", "p_b", "p_c"]].to_numpy() == pytest.approx(
        np.array([[1 / 3] * 3, [0.25, 0.5, 0.25]])
    )
    assert notes[0].startswith("The probabilities of 1 rows sum to nearly 1")


def test_what_the_texts_cannot_tell_is_said_beside_the_figures(tmp_path):
    predictions = table(labels=("neg", "pos", "never"))
    predictions.loc[predictions["label"] == "never", "label"] = "pos"
    metrics, page = report(tmp_path, predictions)
    assert metrics["model"]["per_class"]["never"]["recall"] is None
    assert "No tested text is of 1 of the 3 classes (never)" in page
    assert "– means undefined" in page
    assert "F1 is undefined or 0 for 1 of 3 classes, which no tested text has" in page
    predictions["label"] = "neg"
    assert "All tested texts are of the class “neg”" in report(tmp_path, predictions)[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("text,label,p_neg,p_pos\n", "has no rows"),
        (GOOD.replace("label", "truth"), "no column 'label'. Its columns are 'text', 'truth', "
                                         "'p_neg', 'p_pos'"),
        (GOOD.replace("text", "review"), "no column 'text'"),
        ("text,label\na,b\n", "such as p_neg and p_pos; found 0."),
        ("text,label,p_b\na,b,1\n", "two or more, named p_ and the label, such as p_neg and "
                                    "p_pos; found 1."),
        (GOOD.replace("p_pos", "p_neg"), "more than one column named 'p_neg'"),
        (GOOD.replace(",neg,0.4", ",mixed,0.4"), "row 2 (counted from 0): the label 'mixed', and "
                                                 "no column 'p_mixed'"),
        (GOOD.replace(",neg,0.4", ",,0.4"), "row 2 (counted from 0): no label"),
        (GOOD.replace("0.9", "high"), "expected a number from 0 to 1 in the column 'p_neg', found "
                                      "'high'"),
        (GOOD.replace("0.9", ""), "row 1 (counted from 0): expected a number from 0 to 1 in the "
                                  "column 'p_neg', found ''"),
        (GOOD.replace("0.9", "inf"), "found 'inf'. So it is in 1 of 3 rows."),
        (GOOD.replace("0.9,0.1", "1.1,-0.1"), "in the column 'p_pos', found '-0.1'"),
        (GOOD.replace("0.9", "0.7"), "row 1 (counted from 0): expected probabilities that sum to "
                                     "1 over"),
        (GOOD.replace("0.9,0.1", "90,10"), "found 100."),
        (GOOD.encode("utf-16"), "--encoding utf-16"),
    ],
)  # fmt: skip
def test_what_are_no_predictions_is_told_in_one_message(tmp_path, capsys, content, words):
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError):
        read_predictions(path)
    assert cli.main(["report", str(path), "--out", str(tmp_path / "out")]) == 3
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_report_never_replaces_the_predictions_or_a_runs_report(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stage.json").write_text("{}")
    path = tmp_path / "worst_errors.csv"
    path.write_text(GOOD)
    for out in (tmp_path, tmp_path / "run", path):
        assert cli.main(["report", str(path), "--out", str(out)]) == 2
        assert "a folder of its own" in capsys.readouterr().err
    assert path.read_text() == GOOD


def test_a_run_has_its_own_place_for_its_report(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "whose report has its place" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "none.csv")]) == 3
    assert "There is no file" in capsys.readouterr().err


def test_labels_are_matched_whatever_spaces_stand_around_them(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(GOOD.replace(",pos,", ", pos ,"))
    assert read_predictions(path)[0]["label"].tolist() == ["pos", "neg", "neg"]


def test_the_numbers_are_those_of_the_files_columns_in_their_order(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [
        {"text": "a", "label": 1, "p_1": 0.75, "p_0": 0.25},
        {"text": "b", "label": 0, "p_1": 0.5, "p_0": 0.5},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    found, _ = read_predictions(path)
    expected = pd.DataFrame({"p_1": [0.75, 0.5], "p_0": [0.25, 0.5]})
    pd.testing.assert_frame_equal(found[["p_1", "p_0"]], expected)
    assert found["label"].tolist() == ["1", "0"]


def at_threshold(n: int = 40) -> pd.DataFrame:
    """Mail of which a third is enough to be called spam, with every third answer wrong."""
    label = np.array(["spam", "ham"] * (n // 2))
    p_spam = np.where(np.arange(n) % 2, 0.1, 0.4)
    predicted = np.where(p_spam > 0.3, "spam", "ham")
    label[::6] = "ham"
    return pd.DataFrame(
        {
            "text": [f"mail {i} about the chair" for i in range(n)],
            "label": label,
            "predicted": predicted,
            "p_spam": p_spam,
            "p_ham": 1 - p_spam,
        }
    )


def test_answers_decided_at_a_threshold_are_scored_and_said(tmp_path):
    table = at_threshold()
    metrics, page = report(tmp_path, table)
    model = metrics["model"]
    assert model["accuracy"] == accuracy_score(table["label"], table["predicted"])
    assert (
        model["confusion_matrix"]
        == confusion_matrix(table["label"], table["predicted"], labels=["spam", "ham"]).tolist()
    )
    expected = f1_score(table["label"], table["predicted"], average="macro")
    assert model["macro_f1"] == pytest.approx(expected)
    truth = (table["label"] == "ham").to_numpy(int)
    probabilities = table[["p_spam", "p_ham"]].to_numpy()
    assert model["log_loss"] == pytest.approx(log_loss(truth, probabilities))
    expected = brier_score_loss(truth, probabilities[:, 1])
    assert model["brier_score"] == pytest.approx(expected)
    most_probable = calibration_scores(probabilities, truth)
    assert {key: model[key] for key in most_probable} == most_probable
    assert "In 20 of 40 rows the column 'predicted' gives another class" in page
    wrong = table.index[table["label"] != table["predicted"]].tolist()
    errors = read_table(tmp_path / "out" / "worst_errors.csv")
    assert sorted(map(int, errors["row"])) == wrong and set(errors["predicted"]) == {"spam"}
    assert set(errors["confidence"]) == {"0.4"}, "the probability of the answer"
    right = [part["accuracy"] * part["n"] for part in metrics["slices"][0]["parts"]]
    assert sum(right) == pytest.approx(40 - len(wrong))
    against = metrics["baselines"]["the commonest class of these texts"]["model_against_it"]
    assert against["only_first_right"] == (table.query("label == 'spam'").shape[0])


def test_the_figure_of_confidence_is_of_the_answers(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        figures, "confidence_figure", lambda *of: drawn.append(of) or confidence_figure(*of)
    )
    table = at_threshold()
    report(tmp_path, table)
    (legend,) = [text.get_texts() for text in confidence_figure(*drawn[0]).axes[0].get_children()
                 if hasattr(text, "get_texts")]  # fmt: skip
    n_wrong = (table["label"] != table["predicted"]).sum()
    assert legend[1].get_text() == f"wrong: n = {n_wrong}, median confidence 40.0%"


def test_answers_that_are_the_most_probable_class_are_not_spoken_of(tmp_path):
    tied = GOOD.replace("label,", "label,predicted,").replace(",pos,", ",pos,pos,")
    tied = tied.replace(",neg,", ",neg,neg,", 1).replace(",neg,0.4,0.6", ",neg,neg,0.5,0.5")
    path = tmp_path / "mine.csv"
    path.write_text(tied.replace("0.2,0.8", "0.5,0.5"))
    found, notes = read_predictions(path)
    assert notes == [] and found["predicted"].tolist() == ["pos", "neg", "neg"]
    write_report(tmp_path / "out", found, {}, {}, {})
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert metrics["model"]["accuracy"] == 1


@pytest.mark.parametrize(
    ("answer", "words"), [("maybe", "the prediction 'maybe'"), ("", "no prediction")]
)
def test_an_answer_that_is_no_class_is_refused(tmp_path, answer, words):
    table = at_threshold()
    table.loc[7, "predicted"] = answer
    table.to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(DataError, match=rf"row 7 \(counted from 0\): {words}, and no column 'p_"):
        read_predictions(tmp_path / "mine.csv")


def test_white_space_around_labels_is_said(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(GOOD.replace(",pos,", ", pos ,"))
    note = "Took white space off the labels of 1 rows: ' pos ' is 'pos'."
    assert read_predictions(path)[1] == [note]


class Guesser:
    """A predictor of labels, which reads nothing."""

    def __init__(self, labels: list[str]) -> None:
        self.labels, self.decision = labels, Decision()

    def predict(self, texts, groups=None) -> pd.DataFrame:
        n = len(self.labels)
        raw = np.ones((len(texts), n)) + np.arange(len(texts) * n).reshape(-1, n) % 3
        return prediction_table(list(texts), raw / raw.sum(axis=1, keepdims=True), self.labels)


@pytest.mark.parametrize(
    "labels",
    [
        ["1.0", "2.0"],
        ["TRUE", "FALSE"],
        ["1", "1.0"],
        ["None", "Complaint"],
        [" pos", "neg "],
        ["a,b", 'say "no"'],
        ["two\rlines", "x\u200b"],
        ["好评", "差评"],
    ],
)
def test_what_predict_wrote_of_a_file_with_labels_is_accepted(tmp_path, labels):
    path = tmp_path / "mail.csv"
    rows = {"text": [f"mail {i}" for i in range(40)], "label": labels * 20}
    write_table(path, pd.DataFrame(rows))
    corpus = load_corpus(DataSettings(str(path)), seed=0)
    predict_file(Guesser(corpus.labels), path, tmp_path / "predicted.csv", None, "utf-8")
    found, notes = read_predictions(tmp_path / "predicted.csv")
    assert len(found) == 40 and not any("predicted" in note for note in notes)
    assert found["label"].tolist() == [label.strip() for label in labels] * 20
    assert [name for name in found if name.startswith("p_")] == [f"p_{x}" for x in corpus.labels]
    assert cli.main(["report", str(tmp_path / "predicted.csv"), "--out", str(tmp_path / "o")]) == 0


def test_texts_and_labels_in_one_column_are_refused(tmp_path):
    with pytest.raises(SettingError, match="--text and --label are both 'text'"):
        read_predictions(tmp_path / "a.csv", text="text", label="text")


SETS = """text,label,predicted,p_joy,p_love
one,"[""joy"", ""love""]","[""love"", ""joy""]",0.9,0.8
two,"[""love""]",[],0.3,0.4
three,[],"[""joy""]",0.7,0.1
"""


def test_labels_that_are_json_lists_give_the_report_of_several_labels(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(SETS)
    metrics, page = report(tmp_path, pd.read_csv(path))
    model = metrics["model"]
    truth, said = np.array([[1, 1], [0, 1], [0, 0]]), np.array([[1, 1], [0, 0], [1, 0]])
    assert metrics["multilabel"] and model["subset_accuracy"] == pytest.approx(1 / 3)
    assert model["micro_f1"] == pytest.approx(f1_score(truth, said, average="micro"))
    assert "a text has several of them, one or none; the column 'predicted' has" in page
    assert "label shares" in metrics["baselines"] and "calibration" not in metrics
    without, page = report(tmp_path, pd.read_csv(path).drop(columns="predicted"))
    assert "labels whose probability reaches 0.5 are the answers" in page
    assert without["model"]["subset_accuracy"] == pytest.approx(1 / 3)


IN_LISTS = ['["joy", "love"]', '["love"]', "[]"]


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        ({"label": ["joy; love", "love", "[]"]}, "several a text, separated by ';'"),
        ({"label": ["joy|love", " love ", "[]"]}, "several a text, separated by '|'"),
        ({"label": ["['joy', 'love']", "['love']", "[]"]}, "several a text, as lists"),
        ({"joy": ["1", "0", "0"], "love": ["1", "1", "0"]}, "Took 2 columns of mine.csv for a"),
    ],
)
def test_labels_may_be_as_a_file_of_several_has_them_where_the_answers_are_lists(
    tmp_path, labels, note
):
    path = tmp_path / "mine.csv"
    path.write_text(SETS)
    pd.read_csv(path).drop(columns="label").assign(**labels).to_csv(path, index=False)
    found, notes = read_predictions(path)
    assert found["label"].tolist() == IN_LISTS
    assert set(found) == {"text", "label", "predicted", "p_joy", "p_love"}
    assert any(note in one for one in notes) and "Labels are sets: a text has" in notes[-1]
    assert cli.main(["report", str(path), "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(("name", "between"), [("late, lost", ";"), ("late; lost", ",")])
def test_of_separators_the_one_between_names_of_columns_is_taken(tmp_path, name, between):
    path = tmp_path / "mine.csv"
    rows = {"label": [f"{name}{between} dear", "dear", name], "predicted": "[]"}
    shares = {f"p_{name}": 0.5, "p_dear": 0.5}
    pd.DataFrame({"text": list("abc"), **rows, **shares}).to_csv(path, index=False)
    found = read_predictions(path)[0]["label"].map(json.loads).tolist()
    assert found == [[name, "dear"], ["dear"], [name]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (SETS.replace("three,[]", "three,"), "row 2 (counted from 0): no label. So it is in 1 of"),
        (SETS.replace("three,[]", "three,joy;hate"), "row 2 (counted from 0): the label 'hate'"),
        (SETS.replace("three,[]", "three,hate"), "row 2 (counted from 0): the label 'hate'"),
        (SETS.replace("text,label", "text,mine"), "has no column 'label'"),
        (SETS.replace('""love""]"\n', '""hate""]"\n').replace('""love""]",[]', '""hate""]",[]'),
         "row 1 (counted from 0): the label 'hate'"),
        (SETS.replace("0.7,0.1", "1.7,0.1"), "row 2 (counted from 0): expected a number from 0"),
        (SETS.replace('three,[],"[""joy""]"', "three,[],joy"), "the column 'predicted' has cells"),
        (SETS.replace('three,[],"[""joy""]"', 'three,[],"[""x""]"'), "the prediction 'x'"),
    ],
)  # fmt: skip
def test_sets_that_are_no_predictions_are_told_in_one_message(tmp_path, content, words):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        read_predictions(path)
    assert words in str(error.value)


def test_the_curve_of_errors_ends_at_the_error_of_the_answers(tmp_path, monkeypatch):
    drawn = []
    original = figures.risk_coverage_figure
    monkeypatch.setattr(
        figures, "risk_coverage_figure", lambda *of: drawn.append(original(*of)) or drawn[0]
    )
    metrics, _ = report(tmp_path, at_threshold())
    curve = next(line for line in drawn[0].axes[0].lines if "error" in str(line.get_label()))
    assert curve.get_ydata()[-1] == pytest.approx(1 - metrics["model"]["accuracy"])
