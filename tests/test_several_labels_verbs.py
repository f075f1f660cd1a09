"""Verbs that are for one label a text refuse several, and options that would be ignored."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from ulmfit_app import __main__ as cli
from ulmfit_app.cli.runs import RunArguments
from ulmfit_app.cli.settings import read_settings
from ulmfit_app.pipeline.run import begin
from ulmfit_app.presets import PRESETS


@pytest.fixture
def of_several(tmp_path):
    """A file of texts with several labels each."""
    path = tmp_path / "several.csv"
    rows = [f'text {i},"[""{"ab"[i % 2]}"", ""c""]"' for i in range(40)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return path


def fails(capsys, *argv):
    code = cli.main(list(map(str, argv)))
    return code, capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folds", "labels", "augment"])
def test_experiments_on_several_labels_a_text_are_refused_with_the_run_instead(
    of_several, tmp_path, capsys, kind
):
    argv = ["experiment", kind, of_several, "--multilabel", "--preset", "tiny"]
    code, message = fails(capsys, *argv, "--out", tmp_path / "out")
    assert code == 2 and f"experiment {kind} is for texts with one label each" in message
    assert f"python -m ulmfit_app.run {shlex.quote(str(of_several))} --multilabel" in message


@pytest.mark.parametrize("option", [["--costs", "c.csv"], ["--classifier.thresholds", "f1"]])
@pytest.mark.parametrize("kind", ["ablation", "folds"])
def test_what_decides_is_refused_where_the_likeliest_labels_are_compared(capsys, kind, option):
    argv = ["experiment", kind, "trec6", "--preset", "laptop"]
    code, message = fails(capsys, *argv, *option)
    assert code == 2
    assert f"{option[0]} decides on answers, and {kind} compares the likeliest" in message


def test_a_table_of_costs_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["data.csv", "--preset", "tiny", "--costs", "costs.csv"]
    _, _, settings = read_settings(RunArguments, argv, "run", "run")
    assert settings.classifier.costs == Path(tmp_path / "costs.csv")
    _, _, without = read_settings(RunArguments, argv[:3], "run", "run")
    assert without.classifier.costs is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on texts with several labels each, as it is planned."""
    folder = tmp_path_factory.mktemp("planned")
    path = folder / "several.csv"
    rows = [f'text number {i},"[""{"ab"[i % 2]}"", ""c""]"' for i in range(60)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    tiny = PRESETS["tiny"]
    data = replace(tiny.data, source=str(path), multilabel=True)
    begin(folder / "run", replace(tiny, data=data), None, "tiny")
    return folder / "run"


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (["prune"], "prune learns from answers that share a text out"),
        (["experiment", "compress"], "experiment compress counts right labels"),
    ],
)
def test_verbs_that_need_one_label_a_text_refuse_a_run_of_several(
    run, tmp_path, capsys, verb, words
):
    code, message = fails(capsys, *verb, run, "--out", tmp_path / "out")
    assert code == 2 and f"Error: {words}, and the texts of {run} may have several." in message
    assert f"python -m ulmfit_app export {run} --int8" in message
    assert not (tmp_path / "out" / "run.json").exists()


def test_selftrain_advises_what_helps_where_texts_have_several_labels(run, tmp_path, capsys):
    code, message = fails(capsys, "selftrain", run, "--out", tmp_path / "out")
    assert code == 2 and "selftrain learns the one label that it is surest of" in message
    assert "Label more of its texts" in message and "--augment.method mix" in message
    assert "export" not in message


def test_distill_advises_to_train_on_the_labels_where_the_teacher_gives_several(
    run, of_several, tmp_path, capsys
):
    out = tmp_path / "out"
    argv = ["distill", of_several, "--teacher", run, "--preset", "tiny", "--out", out]
    code, message = fails(capsys, *argv)
    assert code == 2 and f"the texts of {run} may have several. Train a run on the" in message
    assert f"python -m ulmfit_app.run {shlex.quote(str(of_several))} --multilabel" in message
    assert not out.exists()
