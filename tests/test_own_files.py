"""What a run writes it reads back as it was, and what is lost of it is made again."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tests.conftest import reviews
from ulmfit_app import __main__ as cli
from ulmfit_app.config import DataSettings, ModelSettings
from ulmfit_app.data.reading import read_own_table, read_table
from ulmfit_app.errors import BundleError, RunFolderError
from ulmfit_app.files import write_table
from ulmfit_app.inference.explanation import explain
from ulmfit_app.inference.predicted_file import predict_file
from ulmfit_app.inference.predictor import load_predictor, read_validation
from ulmfit_app.models.pretrained import find_start, has_changed
from ulmfit_app.pipeline import stages
from ulmfit_app.pipeline.histories import read_history
from ulmfit_app.pipeline.run import Run, begin
from ulmfit_app.presets import TINY
from ulmfit_app.run_folder import STAGES, working_in

pytestmark = pytest.mark.usefixtures("undrawn")

ODD = ["\r", "\n", "\r\n", '"', "\x00", ",;\t", "\U0001f600", "שלום", "\u2028", "NA", "\x85", ""]
LABELS = ["01", "true", 'a "label", of; two\tlines\r\n\u2028\U0001f600 \x00 שלום']
COLUMN = 'the "texts", of; two\tlines\r\n\u2028\U0001f600 \x00 שלום'


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run on texts, labels and a column name as odd as they come."""
    folder = tmp_path_factory.mktemp("own")
    texts = [f"{text}{ODD[i % len(ODD)]}." for i, text in enumerate(reviews(120)["review"])]
    table = pd.DataFrame({COLUMN: texts, "class": [LABELS[i % 3] for i in range(120)], "id": "05"})
    # Not by pandas, which ends a name at NUL.
    lines = "".join(json.dumps(row) + "\n" for row in table.to_dict("records"))
    (folder / "odd.jsonl").write_text(lines, encoding="utf-8")
    settings = replace(
        TINY,
        data=DataSettings(str(folder / "odd.jsonl"), text=COLUMN, label="class"),
        model=ModelSettings(emb_sz=8, n_hid=8, n_layers=2),
        lm=replace(TINY.lm, epochs=0, batch_size=4, bptt=20),
        classifier=replace(TINY.classifier, plan="full", epochs=1),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        begin(folder / "run", settings).carry_out()
    return settings, folder / "run", table


@pytest.fixture
def run(made, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(made[1], tmp_path / "run")
    return made[0], tmp_path / "run"


def marks(folder):
    return {name: (folder / name / "stage.json").stat().st_mtime_ns for name in STAGES}


# ------------------------------------------------------------------------------ written, read back
def test_texts_and_labels_stand_in_every_file_of_a_run_as_they_were(made):
    _, folder, table = made
    text_of = dict(zip(table[COLUMN], table["class"], strict=True))
    kept = read_own_table(folder / "data" / "table.csv", 120)
    assert dict(zip(kept["text"], kept["label"], strict=True)) == text_of
    job = Run.open(folder)
    assert sorted(job.record.data.labels) == sorted(LABELS)
    assert job.record.data.text_column == COLUMN == job.corpus.text_column
    n_test = job.record.counts["test"]
    predictions = read_own_table(folder / "report" / "predictions.csv", n_test)
    assert {text_of[text] for text in predictions["text"]} == set(LABELS)
    assert [text_of[text] for text in predictions["text"]] == predictions["label"].tolist()
    assert {f"p_{label}" for label in LABELS} <= set(predictions)
    errors = read_table(folder / "report" / "worst_errors.csv")
    wrong = predictions[predictions["predicted"] != predictions["label"]]
    assert len(errors) == len(wrong) > 0
    assert [text_of[text] for text in errors["text"]] == errors["label"].tolist()
    rows = wrong.loc[errors["row"].astype(int)]
    assert errors["text"].tolist() == rows["text"].tolist()
    assert errors["confidence"].tolist() == rows["confidence"].tolist()


def test_labels_that_look_like_numbers_stay_words_in_the_validation_file(made):
    _, folder, _ = made
    job = Run.open(folder)
    rows = job.rows[job.rows["split"] == "valid"]
    found = read_own_table(folder / "classifier" / "validation.csv", len(rows))
    assert found["label"].tolist() == rows["label"].tolist()
    assert set(found["label"]) == set(LABELS)
    probabilities, truth = read_validation([folder / "classifier"], len(rows))
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert [job.record.data.labels[i] for i in truth] == rows["label"].tolist()


def test_numbers_are_read_back_to_the_last_bit(tmp_path):
    row = {"phase": "NA", "epoch": 3, "train_loss": 0.1 + 0.2, "perplexity": 1 / 3, "seconds": 2.5}
    table = pd.DataFrame([row, row | {"epoch": 4, "train_loss": float("nan")}])
    write_table(tmp_path / "history.csv", table)
    pd.testing.assert_frame_equal(read_history(tmp_path), table, check_dtype=False)
    assert read_history(tmp_path)["train_loss"][0] == 0.1 + 0.2


def test_a_predicted_file_keeps_every_cell_of_every_column(made, tmp_path):
    _, folder, table = made
    predictor = load_predictor(folder)
    n = predict_file(predictor, folder.parent / "odd.jsonl", tmp_path / "p.csv", COLUMN, "utf-8")
    found = read_own_table(tmp_path / "p.csv", n)
    pd.testing.assert_frame_equal(found[list(table)], table, check_dtype=False)
    ours = ["predicted", "confidence", *(f"p_{label}" for label in predictor.labels)]
    assert list(found) == [*table, *ours]
    assert set(found["predicted"]) <= set(LABELS)
    direct = predictor.predict(table[COLUMN])
    assert np.allclose(found[ours[2:]].astype(float), direct[ours[2:]], atol=1e-6)


def test_every_label_of_a_run_can_be_explained_as_it_is_spelled(made):
    _, folder, _ = made
    predictor = load_predictor(folder)
    for label in LABELS:
        assert explain(predictor, "a great film", label=label).label == label


def test_validation_files_with_a_row_too_few_are_refused(run):
    _, folder = run
    path = folder / "classifier" / "validation.csv"
    n = Run.open(folder).record.counts["valid"]
    table = read_own_table(path, n)
    write_table(path, table[1:])
    with pytest.raises(RunFolderError, match=f"has {n - 1} rows, and {n} were written.*report "):
        Run.open(folder).repeat("report")


def test_a_run_can_be_started_from_by_the_name_of_its_folder(made, run):
    settings, folder = run
    start = find_start(str(folder), settings.model)
    assert start.fingerprint == find_start(str(folder / "lm"), settings.model).fingerprint
    assert start.is_pretrained and not has_changed(start, str(folder))
    shutil.copytree(folder / "lm", folder / "lm-backward")
    with pytest.raises(BundleError, match="lm-backward learned to read forward"):
        find_start(str(folder), settings.model, "backward")


# ------------------------------------------------------------------------------ what is lost of it
@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("report", "metrics.json"),
        ("report", "figures/accuracy.png"),
        ("lm", "history.csv"),
        ("lm", "bundle.json"),
        ("classifier", "weights"),
        ("tokens", "offsets.npy"),
    ],
)
def test_the_same_command_makes_a_stage_again_that_lost_a_file(run, stage, name, caplog):
    settings, folder = run
    before = marks(folder)
    path = next((folder / stage).glob(f"{name}*"))
    content = path.read_bytes()
    path.unlink()
    caplog.set_level("INFO")
    begin(folder, settings).carry_out()
    after = marks(folder)
    assert {each for each in before if before[each] != after[each]} == {stage}
    assert f"Stage {stage}: not as it was written ('{path.relative_to(folder / stage)}')" in (
        caplog.text
    )
    assert path.is_file() and (path.read_bytes() == content or stage in ("report", "lm"))
    assert Run.open(folder).is_finished(stage)


def test_tokens_that_were_cut_are_made_again_and_not_from_the_cut_ones(run, monkeypatch, tmp_path):
    settings, folder = run
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.rmtree(folder / "tokens")
    begin(folder, settings).carry_out()
    path, before = folder / "tokens" / "ids.bin", marks(folder)
    content = path.read_bytes()
    os.truncate(path, 10)  # of the cache's own file, which this one is
    begin(folder, settings).carry_out()
    assert path.read_bytes() == content
    assert {name for name in before if before[name] != marks(folder)[name]} == {"tokens"}


@pytest.mark.parametrize("size", [None, 0, 10, 40])
def test_tokens_that_were_cut_are_an_error_of_the_run_folder_for_who_needs_them(run, size, capsys):
    settings, folder = run
    command = f"python -m ulmfit_app.run {settings.data.source} --out {folder}\n"
    path = folder / "tokens" / "ids.bin"
    path.unlink() if size is None else os.truncate(path, size)
    assert cli.main(["report", str(folder)]) == 5
    said = capsys.readouterr().err
    assert "The stage 'tokens'" in said and "is not as it was written: 'ids.bin'" in said
    assert said.endswith(command)
    mark = folder / "tokens" / "stage.json"
    mark.write_text(json.dumps({"key": json.loads(mark.read_text())["key"], "seconds": 1}))
    assert cli.main(["report", str(folder)]) == 5, "as folders were marked before"
    said = capsys.readouterr().err
    assert f"The tokens in {folder / 'tokens'} are missing or damaged" in said
    assert said.endswith(command)


def test_a_report_writes_lost_validation_probabilities_again_and_trains_nothing(run):
    settings, folder = run
    before = marks(folder)
    path = folder / "classifier" / "validation.csv"
    content = path.read_bytes()
    path.unlink()
    Run.open(folder).repeat("report")
    assert path.read_bytes() == content
    after = marks(folder)
    begin(folder, settings).carry_out()
    assert marks(folder) == after and before["lm"] == after["lm"]


def test_what_is_left_of_a_result_predicts_until_it_is_made_again(run, monkeypatch):
    settings, folder = run
    before = load_predictor(folder).predict(["a great film"])
    (folder / "classifier" / "history.csv").unlink()

    def fail(*_, **__):
        pd.testing.assert_frame_equal(load_predictor(folder).predict(["a great film"]), before)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "train", fail)
        with pytest.raises(KeyboardInterrupt):
            begin(folder, settings).carry_out()
    pd.testing.assert_frame_equal(load_predictor(folder).predict(["a great film"]), before)
    begin(folder, settings).carry_out()
    assert Run.open(folder).is_finished("classifier") and not (folder / "again").exists()


def test_folders_marked_before_sizes_were_noted_are_finished(run):
    settings, folder = run
    for stage in STAGES:
        path = folder / stage / "stage.json"
        facts = json.loads(path.read_text())
        assert facts.pop("files")
        path.write_text(json.dumps(facts))
    before = marks(folder)
    begin(folder, settings).carry_out()
    assert marks(folder) == before


# --------------------------------------------------------------------------- one process at a time
WORKER = """
import sys
from pathlib import Path
from ulmfit_app.run_folder import working_in
with working_in(Path(sys.argv[1])):
    print("working", flush=True)
    sys.stdin.read()
"""


def start_worker(folder):
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout.readline() == "working\n"
    return worker


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such lock")
def test_a_second_process_is_told_that_the_folder_is_in_use_and_predict_is_not(run, capsys):
    settings, folder = run
    worker = start_worker(folder)
    try:
        command = ["run", settings.data.source, "--out", str(folder), "--preset", "tiny"]
        for argv in ([*command, "--text", COLUMN], ["report", str(folder)]):
            assert cli.main(argv) == 5
            said = capsys.readouterr().err
            assert f"Another process is working in {folder}. Wait until" in said
        with pytest.raises(RunFolderError, match="Another process is working"):
            begin(folder, settings)
        assert cli.main(["predict", str(folder), "a great film"]) == 0
        assert cli.main(["explain", str(folder), "a great film"]) == 0
    finally:
        worker.kill()
        worker.wait()
    before = marks(folder)
    begin(folder, settings).carry_out()
    assert marks(folder) == before, "a dead process keeps nobody away"


def test_a_process_may_ask_again_for_the_folder_that_it_works_in(tmp_path):
    for _ in range(2):
        with working_in(tmp_path / "new" / "run"), working_in(tmp_path / "new" / "run"):
            (tmp_path / "new" / "run" / "file").touch()
    assert [path.name for path in (tmp_path / "new" / "run").iterdir()] == ["file"]


def test_a_command_that_fails_leaves_no_empty_folder(tmp_path, capsys):
    out = tmp_path / "runs" / "one"
    assert cli.main(["run", str(tmp_path / "no.csv"), "--preset", "tiny", "--out", str(out)]) == 3
    assert "There is no file" in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_a_file_system_without_locks_is_told_and_works(tmp_path, monkeypatch, caplog):
    from ulmfit_app import run_folder

    def refuse(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    caplog.set_level("INFO")
    with working_in(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert "cannot be locked (no locks available)" in caplog.text


@pytest.mark.parametrize("name", ["table.csv", "selection.csv"])
def test_a_run_that_lost_its_texts_takes_them_from_the_source_again(run, name):
    settings, folder = run
    whole = (folder / "data" / name).read_bytes()
    (folder / "data" / name).unlink()
    begin(folder, settings).carry_out()
    assert (folder / "data" / name).read_bytes() == whole
