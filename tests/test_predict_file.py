"""The rows of a file into a CSV: which column is read, what is refused, what is said."""

import json
import os
import shlex

import pandas as pd
import pytest

from tests.conftest import reviews
from tests.test_predictor import made_run, run_with_classifier, saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.files import write_table
from ulmfit_app.inference import predicted_file as module
from ulmfit_app.inference.predicted_file import predict_file
from ulmfit_app.inference.predictor import Predictor, load_predictor

OURS = ["predicted", "confidence", "p_bad", "p_fair", "p_good"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_with_classifier(tmp_path_factory)


@pytest.fixture(scope="module")
def predictor(folder):
    return load_predictor(folder, "fp32")


def predict(folder, path, out, *more):
    return cli.main(["predict", str(folder), "--file", str(path), "--out", str(out), *more])


def written(path, **columns):
    write_table(path, pd.DataFrame(columns, dtype=object))
    return path


# ------------------------------------------------------------------------------------ which column
def test_the_runs_own_column_is_read_where_another_would_be_guessed(folder, tmp_path, capsys):
    texts = reviews(30)["review"].tolist()
    path = written(tmp_path / "t.csv", text=["dull"] * 30, body=texts, id=["7"] * 30)
    assert predict(folder, path, tmp_path / "p.csv") == 0
    said = capsys.readouterr().out
    assert f"Texts: column 'body' of {path}." in said
    assert f"30 rows read, 30 predicted in {load_predictor(folder).precision}: " in said
    direct = load_predictor(folder).predict(texts)
    assert read_table(tmp_path / "p.csv")["predicted"].tolist() == direct["predicted"].tolist()
    assert predict(folder, path, tmp_path / "p.csv", "--text", "text") == 0
    assert f"Texts: column 'text' of {path}." in capsys.readouterr().out
    assert read_table(tmp_path / "p.csv")["predicted"].nunique() == 1


@pytest.mark.parametrize("name", ["Text", "review", "tweet"])
def test_a_files_only_column_is_read_and_said(folder, tmp_path, capsys, name):
    path = written(tmp_path / "one.csv", **{name: ["good", "bad"]})
    assert predict(folder, path, tmp_path / "p.csv") == 0
    said = capsys.readouterr().out
    assert f"The run's column of texts was 'body'; {path} has only one." in said
    assert f"Texts: column '{name}' of {path}." in said


@pytest.mark.parametrize("first", ["Great film says me", "Great", "'tis dull"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz"])
def test_the_first_text_of_a_file_without_column_names_is_not_lost(
    folder, tmp_path, capsys, first, kind
):
    path, out = tmp_path / f"lines.{kind}", tmp_path / "p.csv"
    pd.DataFrame([first, "bad", "good"]).to_csv(path, index=False, header=False)
    assert predict(folder, path, out) == 3 and not out.exists()
    said = capsys.readouterr().err
    assert f"'{first}' was read as the name of the only column" in said
    assert "put the line body before it" in said
    assert predict(folder, path, out, *shlex.split(said[said.index("--text") :])) == 0
    assert len(read_table(out)) == 2
    pd.DataFrame(["body", first, "bad", "good"]).to_csv(path, index=False, header=False)
    assert predict(folder, path, out) == 0 and read_table(out)["body"].iloc[0] == first


def test_a_key_of_json_is_a_name_whatever_it_is(folder, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"what they said": "good"}), encoding="utf-8")
    assert predict(folder, path, tmp_path / "p.csv") == 0


def test_the_only_column_with_another_separator_is_told(folder, tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("title|body\na|good\n", encoding="utf-8")
    assert predict(folder, path, tmp_path / "p.csv") == 3
    assert "put the line sep=| before all others" in capsys.readouterr().err
    path.write_text(f"sep=|\n{path.read_text('utf-8')}", encoding="utf-8")
    assert predict(folder, path, tmp_path / "p.csv") == 0
    assert read_table(tmp_path / "p.csv")["body"].tolist() == ["good"]


def test_a_file_without_the_runs_column_is_refused_with_both_names(folder, tmp_path, capsys):
    path = written(tmp_path / "t.csv", text=["good"], title=["bad"])
    assert predict(folder, path, tmp_path / "p.csv") == 3
    said = capsys.readouterr().err
    assert "has no column 'body', which held the texts that the run was made from" in said
    assert "Its columns are 'text', 'title'" in said and "--text COLUMN" in said
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("older", [False, True])
def test_a_run_of_no_file_takes_a_column_beyond_doubt_and_says_which(tmp_path, capsys, older):
    run = made_run(tmp_path / "run", "forward")
    saved_classifier(run / "classifier")
    if older:
        record = json.loads((run / "run.json").read_text())
        del record["data"]["text_column"]
        (run / "run.json").write_text(json.dumps(record))
    path = written(tmp_path / "t.csv", id=["1"], review=["good"], body=["bad"])
    assert predict(run, path, tmp_path / "p.csv") == 0
    assert f"Texts: column 'review' of {path}." in capsys.readouterr().out
    path = written(tmp_path / "t.csv", id=["1"], title=["good"], body=["bad"])
    assert predict(run, path, tmp_path / "p.csv") == 3
    assert "is not clear. Add --text COLUMN" in capsys.readouterr().err


def test_a_column_called_none_can_be_named(folder, tmp_path, capsys):
    path = written(tmp_path / "t.csv", body=["good"], **{"None": ["dull"]})
    assert predict(folder, path, tmp_path / "p.csv", "--text", "None") == 0
    assert "Texts: column 'None' of" in capsys.readouterr().out


# --------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("name", ["predicted", "confidence", "p_fair"])
def test_a_column_that_would_be_there_twice_is_refused_before_anything_is_predicted(
    predictor, tmp_path, monkeypatch, name
):
    path = written(tmp_path / "t.csv", body=["good"], **{name: ["x"]})
    monkeypatch.setattr(predictor, "each", None)
    with pytest.raises(DataError, match=f"'{name}' already.*would be there twice. Rename or drop"):
        predict_file(predictor, path, tmp_path / "p.csv", "body", "utf-8")
    assert not (tmp_path / "p.csv").exists()


def test_other_columns_of_probabilities_may_stay(predictor, tmp_path):
    path = written(tmp_path / "t.csv", body=["good"], p_other=["0.5"])
    assert predict_file(predictor, path, tmp_path / "p.csv", "body", "utf-8") == 1
    assert list(read_table(tmp_path / "p.csv")) == ["body", "p_other", *OURS]


@pytest.mark.parametrize("name", ["p.zip", "p.csv.gz", "p.parquet", "p.tsv", "p"])
def test_predictions_go_to_no_file_that_is_not_named_csv(predictor, tmp_path, name):
    path = written(tmp_path / "t.csv", body=["good"])
    with pytest.raises(SettingError, match=r"written as CSV, and .* --out .*\.csv$"):
        predict_file(predictor, path, tmp_path / name, "body", "utf-8")
    assert os.listdir(tmp_path) == ["t.csv"]


def test_the_file_itself_and_folders_are_not_overwritten(predictor, tmp_path):
    path = written(tmp_path / "t.csv", body=["good"])
    (tmp_path / "d.csv").mkdir()
    for out in (path, tmp_path / "d.csv"):
        with pytest.raises(SettingError, match="which is a folder or the file itself"):
            predict_file(predictor, path, out, "body", "utf-8")
    assert read_table(path)["body"].tolist() == ["good"]


def test_options_of_a_file_are_refused_where_texts_are_given(folder, capsys):
    for option in (["--out", "p.csv"], ["--text", "body"], ["--quotes", "literal"]):
        assert cli.main(["predict", str(folder), "a text", *option]) == 2
        assert "are about a --file, and texts are given" in capsys.readouterr().err


# ------------------------------------------------------------------------------ every row, counted
def test_rows_are_counted_in_what_was_written(predictor, tmp_path, monkeypatch):
    path = written(tmp_path / "t.csv", body=["good", 'two\nlines, a "quote\n"'] * 20)
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 16)
    assert predict_file(predictor, path, tmp_path / "p.csv", "body", "utf-8") == 40
    assert len(read_table(tmp_path / "p.csv")) == 40
    whole = module.csv_rows_of
    losing = lambda table, header=False: whole(table if header else table[1:], header)  # noqa: E731
    monkeypatch.setattr(module, "csv_rows_of", losing)
    with pytest.raises(DataError, match="15 rows would be written, and 16 were predicted"):
        predict_file(predictor, path, tmp_path / "q.csv", "body", "utf-8")
    assert not (tmp_path / "q.csv").exists()


def test_blank_lines_are_said_and_quotes_may_be_characters(folder, tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("id,body\n1,good\n\n2,bad\n", encoding="utf-8")
    assert predict(folder, path, tmp_path / "p.csv") == 0
    said = capsys.readouterr().out
    assert "2 rows read, 2 predicted" in said and "blank" in said
    path = tmp_path / "t.tsv"
    path.write_text('id\tbody\n1\t"good\n2\tbad "\n', encoding="utf-8")
    assert predict(folder, path, tmp_path / "p.csv") == 3
    assert predict(folder, path, tmp_path / "p.csv", "--quotes", "literal") == 0
    assert read_table(tmp_path / "p.csv")["body"].tolist() == ['"good', 'bad "']


def test_memory_does_not_grow_with_the_file(predictor, tmp_path, monkeypatch):
    """At most one piece's rows are held between reading and writing."""
    monkeypatch.setattr(module, "ROWS_AT_A_TIME", 8)
    seen = []
    whole = Predictor.predict
    monkeypatch.setattr(
        Predictor, "predict", lambda self, texts, _: seen.append(len(texts)) or whole(self, texts)
    )
    path = written(tmp_path / "t.csv", body=["good"] * 50)
    predict_file(predictor, path, tmp_path / "p.csv", "body", "utf-8")
    assert max(seen) == 8 and sum(seen) == 50


# ----------------------------------------------------------------------- names on the command line
@pytest.mark.parametrize("option", ["--text", "--label", "--split"])
def test_none_is_a_name_of_a_column_in_a_run(tmp_path, capsys, option):
    texts = reviews(40)
    columns = {"--text": "review", "--label": "sentiment", "--split": "split"}
    texts["split"] = (["train"] * 3 + ["test"]) * 10
    texts.rename(columns={columns[option]: "None"}).to_csv(tmp_path / "t.csv", index=False)
    named = columns | {option: "None"}
    words = [word for flag, name in named.items() for word in (flag, name)]
    assert (
        cli.main(["inspect", str(tmp_path / "t.csv"), *words, "--out", str(tmp_path / "o")]) == 0
    )
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["run", "x.csv", "--preset", "tiny", "--help"])
    help_text = capsys.readouterr().out
    assert f"{option} STR" in help_text and "None; None" not in help_text


def test_none_is_a_name_of_a_label_to_explain(folder, capsys):
    assert cli.main(["explain", str(folder), "a great film", "--label", "None"]) == 2
    assert "There is no label 'None'. There are 'bad', 'fair', 'good'." in capsys.readouterr().err
