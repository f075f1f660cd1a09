"""Where commands write, and what they print, on machines that are not like ours."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import reviews
from tests.test_predictor import saved_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.cli import experiments
from ulmfit_app.cli.outputs import find_outside
from ulmfit_app.files import write_table
from ulmfit_app.inference import predictor as predictor_module
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.text import tokenizing
from ulmfit_app.text.store import TokenStore


# -------------------------------------------------------------------- never into the data's folder
@pytest.fixture
def classes(tmp_path):
    """A folder of two classes, whose name needs quotes."""
    folder = tmp_path / "my reviews"
    for label, texts in reviews(40).groupby("sentiment")["review"]:
        (folder / label).mkdir(parents=True)
        for i, text in enumerate(texts):
            (folder / label / f"{i}.txt").write_text(text)
    return folder


def files_in(folder):
    return sorted(folder.rglob("*"))


def refused(capsys, *argv):
    """The folder that the message of a refused command proposes."""
    assert cli.main([str(word) for word in argv]) == 2
    said = capsys.readouterr().err
    assert "which holds the data" in said
    option, proposed = shlex.split(said.partition("Name a folder outside: ")[2])
    assert option == "--out"
    return Path(proposed)


@pytest.mark.parametrize(
    ("argv", "default"),
    [
        (["run", ".", "--preset", "tiny"], "runs/my reviews-tiny"),
        (["inspect", "."], "inspection/my reviews"),
        (["experiment", "folds", ".", "--preset", "tiny"], "experiments/folds-my reviews-tiny"),
        (["pretrain", "."], "models"),
    ],
    ids=["run", "inspect", "experiment", "pretrain"],
)
def test_results_never_lie_in_the_folder_of_the_data(classes, monkeypatch, capsys, argv, default):
    before = files_in(classes)
    monkeypatch.chdir(classes)
    assert refused(capsys, *argv) == Path("..") / default, "by default"
    monkeypatch.chdir(classes.parent)
    argv = [str(classes) if word == "." else word for word in argv]
    inside = Path(classes.name) / "pos" / "new"
    assert refused(capsys, *argv, "--out", inside) == Path(default)
    (classes.parent / "link").symlink_to(classes)
    assert refused(capsys, *argv, "--out", classes.parent / "link" / "new").is_absolute()
    assert files_in(classes) == before


def test_the_folder_of_the_data_itself_is_refused_too_and_every_other_is_free(classes):
    default = Path("runs/x")
    assert find_outside(classes, classes, default) == classes.parent / default
    for free in (classes.parent, classes.parent / "my reviews-2", Path(f"{classes}/../r")):
        assert find_outside(free, classes, default) is None
    (file := classes.parent / "r.csv").write_text("text,label\n")
    assert find_outside(file.parent / "run", file, default) is None


def test_a_corpus_is_no_place_for_its_model(tmp_path, monkeypatch, capsys):
    (tmp_path / "wiki").mkdir()
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "pretrain", "wiki", "--out", ".") == Path("models")


def test_the_command_that_an_inspection_advises_writes_outside(classes, monkeypatch, capsys):
    monkeypatch.chdir(classes)
    assert cli.main(["inspect", ".", "--out", "../page"]) == 0
    assert "python -m ulmfit_app.run . --out '../runs/my reviews'\n" in capsys.readouterr().out
    monkeypatch.chdir(classes.parent)
    assert cli.main(["inspect", str(classes), "--out", "page"]) == 0
    assert "--out" not in capsys.readouterr().out


# -------------------------------------------------------------------- a cache that is not writable
def test_without_a_cache_texts_are_tokenized_all_the_same_and_it_is_said_once(
    tmp_path, monkeypatch, caplog
):
    (file := tmp_path / "file").write_text("no folder")
    kept = TokenStore.open(tokenizing.tokenize(["A good film.", "Bad."]))
    monkeypatch.setattr(tokenizing, "cache_folder", lambda: file / "cache")
    caplog.set_level("INFO")
    made = tokenizing.tokenize(["A good film.", "Bad."])
    assert np.array_equal(TokenStore.open(made).ids, kept.ids)
    assert tokenizing.tokenize(["A good film.", "Bad."]) == made
    assert len(TokenStore.open(tokenizing.numericalize(made, kept.words))) == 2
    said = [text for text in caplog.messages if "cannot be written" in text]
    assert len(said) == 1 and "export XDG_CACHE_HOME=FOLDER" in said[0]
    assert str(file / "cache") in said[0]


def test_a_process_without_a_cache_leaves_nothing_behind(tmp_path):
    (home := tmp_path / "home").write_text("no folder")
    (temporary := tmp_path / "tmp").mkdir()
    code = (
        "from ulmfit_app.text.tokenizing import tokenize; folder = tokenize(['A good film.']);"
        "print(folder, folder.is_dir())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"XDG_CACHE_HOME": str(home), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"{temporary}/ulmfit-app-"), done.stderr
    assert done.stdout.endswith(" True\n") and not list(temporary.iterdir())


# ---------------------------------------------------------------------------------------- printing
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_terminal_cannot_show_is_printed_as_a_code(encoding):
    code = "from ulmfit_app.__main__ import main; main(['👎']); print('schön 👍')"
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        encoding="cp1252",
    )
    assert done.returncode == 0, done.stderr
    assert "There is no verb '\\U0001f44e'" in done.stderr
    assert done.stdout == ("sch\\xf6n" if encoding == "ascii" else "schön") + " \\U0001f44d\n"


def test_labels_and_texts_are_printed_on_a_line_each(tmp_path, monkeypatch, capsys):
    labels = ["bad\nnews", "fair\u200b", "good"]
    made = Predictor(saved_classifier(tmp_path, labels=labels), "fp32")
    monkeypatch.setattr(predictor_module, "load_predictor", lambda *_: made)
    assert cli.main(["predict", "runs/x", "a\tgreat\r\nfilm\u2028\x1b[2J", "fine\u3000film"]) == 0
    said = capsys.readouterr().out
    lines = said.split("\n")[:-1]
    assert len(lines) == 2 and all(len(line.split("\t")) == 3 for line in lines)
    assert lines[0].endswith("\ta\\u0009great\\u000d\\u000afilm\\u2028\\u001b[2J")
    assert lines[1].endswith("\tfine\u3000film")
    assert all(r"bad\u000anews 0." in line and r"fair\u200b 0." in line for line in lines)


def test_an_explanation_names_what_cannot_be_seen(tmp_path):
    made = Predictor(saved_classifier(tmp_path, labels=["bad\nnews", "fair", "good"]), "fp32")
    found = explain(made, "a great \u200d film \x1b[2J", label="bad\nnews").terminal(50)
    assert found.startswith(r"bad\u000anews ")
    rows = found.split("\n\n")[1].split("\n")[1:]
    assert any(row.endswith(r"  \u200d") for row in rows)
    assert all(row.split()[-1].isprintable() for row in rows) and "\x1b" not in found


def test_an_experiment_says_what_was_done_to_the_data(tmp_path, monkeypatch, capsys):
    table = reviews(60)
    table.loc[:9, "sentiment"] = ""
    write_table(tmp_path / "a.csv", table)
    done = []
    folds = (experiments.KINDS["folds"][0], lambda _, settings, *more: done.append(settings) or "")
    monkeypatch.setitem(experiments.KINDS, "folds", folds)
    argv = ["experiment", "folds", str(tmp_path / "a.csv"), "--preset", "tiny"]
    assert cli.main([*argv, "--out", str(tmp_path / "out"), "--folds", "4"]) == 0
    said = capsys.readouterr().out
    assert "Took column 'review' of a.csv for the texts" in said
    assert "Dropped 10 of 60 rows, whose label is empty or NaN" in said
    assert done[0].data.folds == 4
