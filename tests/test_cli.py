"""What a mistake costs the user: one message with the next command, an exit code of its class, no traceback."""

import json
import subprocess
import sys

import pytest

from tests.conftest import reviews
from ulmfit_app import __main__ as cli


def fails(capsys, *argv):
    """The exit code and the message of a command that must fail."""
    try:
        code = cli.main([str(word) for word in argv])
    except SystemExit as stop:  # the command line's own parser
        code = stop.code
    captured = capsys.readouterr()
    assert code
    assert "Traceback" not in captured.err + captured.out
    return code, " ".join(captured.err.split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "There is no file"),
        (b"", "empty"),
        (b"review,sentiment\n", "no rows"),
        (b"review\ngood\nbad\n", "Its columns are 'review'"),
        (b'review,sentiment\n"good,pos\nbad,neg\n', "line 2"),
        ("review,sentiment\nschön,pos\n".encode("latin-1"), "--encoding cp1252"),
        ("review,sentiment\ngood,pos\n".encode("utf-16"), "--encoding utf-16"),
        (b"review,sentiment\ngood,pos\nfine,pos\nwell,pos\n", "class"),
        (b"text;mood\ngood;pos\nbad;neg\n", "--text"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_message(tmp_path, capsys, content, words):
    path = tmp_path / "reviews.csv"
    if content is not None:
        path.write_bytes(content)
    code, message = fails(
        capsys,
        "run",
        path,
        "--preset",
        "tiny",
        "--text",
        "review",
        "--label",
        "sentiment",
        "--out",
        tmp_path / "r",
    )
    assert code == 3
    assert words in message


def test_an_unknown_setting_names_the_nearest(tmp_path, capsys):
    code, message = fails(capsys, "run", "imdb", "--preset", "tiny", "--lm.epoch", "3")
    assert code == 2
    assert "--lm.epochs" in message


def test_a_number_that_cannot_be_is_refused_by_its_flag(capsys):
    code, message = fails(capsys, "run", "imdb", "--preset", "tiny", "--lm.batch-size", "0")
    assert code == 2 and "--lm.batch-size must be more than 0, not 0" in message


def test_an_unknown_preset_and_an_unknown_verb_name_those_there_are(capsys):
    code, message = fails(capsys, "run", "imdb", "--preset", "huge")
    assert code == 2 and "laptop" in message
    code, message = fails(capsys, "train")
    assert code == 2 and "finetune" in message


def test_a_run_folder_of_another_format_is_left_alone(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"format": 0}))
    reviews(60).to_csv(tmp_path / "r.csv", index=False)
    code, message = fails(capsys, "run", tmp_path / "r.csv", "--preset", "tiny", "--out", tmp_path)
    assert code == 5 and "format 0" in message and "--out" in message
    assert fails(capsys, "predict", tmp_path, "a text")[0] == 5
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path, capsys):
    for verb in ("finetune", "classify", "report"):
        code, message = fails(capsys, verb, tmp_path)
        assert code == 5 and "python -m ulmfit_app.run" in message
    assert fails(capsys, "predict", tmp_path, "a text")[0] == 5


def test_predict_wants_texts_or_a_file(tmp_path, capsys):
    code, message = fails(capsys, "predict", tmp_path)
    assert code == 2 and "--file" in message


def test_a_pretrained_folder_that_is_not_there_is_a_model_error(tmp_path, capsys):
    reviews(60).to_csv(tmp_path / "r.csv", index=False)
    code, message = fails(
        capsys,
        "run",
        tmp_path / "r.csv",
        "--preset",
        "tiny",
        "--pretrained",
        tmp_path / "none",
        "--out",
        tmp_path / "o",
    )
    assert code == 4 and "wt103, none, or a folder" in message


def test_a_language_without_a_tokenizer_is_a_setting_error(tmp_path, capsys):
    reviews(60).to_csv(tmp_path / "r.csv", index=False)
    code, message = fails(
        capsys,
        "run",
        tmp_path / "r.csv",
        "--preset",
        "tiny",
        "--tokens.language",
        "qq",
        "--out",
        tmp_path / "o",
    )
    assert code == 2 and "--tokens.language" in message


def test_an_archive_that_is_none_has_an_exit_code_of_its_own(tmp_path, capsys):
    (tmp_path / "imdb.tgz").write_bytes(b"\x1f\x8b broken")
    code, _ = fails(
        capsys,
        "run",
        "imdb",
        "--data",
        tmp_path / "imdb.tgz",
        "--preset",
        "tiny",
        "--out",
        tmp_path / "o",
    )
    assert code == 9


def test_an_interruption_exits_with_130_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "run", interrupt)
    code, message = fails(capsys, "run", "imdb")
    assert code == 130 and "same command goes on" in message


def test_a_reader_that_has_read_enough_costs_no_traceback():
    found = subprocess.Popen(
        [sys.executable, "-u", "-m", "ulmfit_app", "run", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    found.stdout.close()
    errors = found.stderr.read()
    assert found.wait() == cli.BROKEN_PIPE and not errors


def test_the_kinds_of_experiments_are_listed_when_asked_for(capsys):
    assert cli.main(["experiment", "--help"]) == 0
    assert capsys.readouterr().out.split() == [
        word for kind in ("ablation", "labels", "starts", "folds")
        for word in ("python", "-m", "ulmfit_app", "experiment", kind, "--help")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "option", "name"),
    [
        ("starts", ["--pretrained", "wt103"], "lm.pretrained"),
        ("ablation", ["--classifier.plan", "full"], "classifier.plan"),
        ("ablation", ["--lm.lr", "0.1"], "lm.lr"),
    ],
)
def test_what_an_experiment_compares_cannot_be_set(capsys, kind, option, name):
    assert cli.main(["experiment", kind, "trec6", "--preset", "laptop", *option]) == 2
    assert f"{name} is what {kind} compares" in capsys.readouterr().err


def test_an_empty_text_is_not_explained(tmp_path, capsys):
    assert cli.main(["explain", str(tmp_path), " "]) == 2
    assert "The text is empty" in capsys.readouterr().err


def test_the_module_of_the_pipeline_is_a_command(tmp_path):
    """`python -m ulmfit_app.run` reports a wrong option before it imports torch, and without a traceback."""
    found = subprocess.run(
        [sys.executable, "-m", "ulmfit_app.run", "imdb", "--presett", "tiny"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert "--preset" in found.stderr and "Traceback" not in found.stderr
