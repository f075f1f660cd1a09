"""`predict --files`: one file for each, each once, and what is trusted after an interruption."""

import json
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import reviews
from tests.test_predictor import run_with_classifier
from ulmfit_app import __main__ as cli
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, JobKilled, RunFolderError, SettingError, WorkerError
from ulmfit_app.files import write_table
from ulmfit_app.inference import predicted_parquet, predicted_parts
from ulmfit_app.inference.predicted_file import predict_file
from ulmfit_app.inference.predicted_parts import MANIFEST, Parts, find_parts, predict_parts
from ulmfit_app.inference.predictor import load_predictor
from ulmfit_app.inference.spread import SharedPredictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_with_classifier(tmp_path_factory)


@pytest.fixture(scope="module")
def predictor(folder):
    return load_predictor(folder, "fp32")


@pytest.fixture
def parts(folder, predictor, tmp_path):
    """Three parts of 12 rows, not predicted yet."""
    texts = reviews(36)["review"]
    for i in range(3):
        rows = {"id": [f"{i}-{j}" for j in range(12)], "body": texts[12 * i : 12 * i + 12]}
        write_table(tmp_path / "in" / f"part-{i}.csv", pd.DataFrame(rows, dtype=object))
    sources = find_parts([tmp_path / "in"])
    shared = SharedPredictor.of(predictor, folder)
    return Parts(sources, tmp_path / "out", shared, own="body")


def manifest(parts):
    return json.loads((parts.out / MANIFEST).read_text("utf-8"))


def predicted(parts, monkeypatch):
    """The names of the parts that are predicted when it is asked for."""
    seen, whole = [], predicted_parts.predict_file

    def predict(predictor, source, *how):
        seen.append(source.name)
        return whole(predictor, source, *how)

    monkeypatch.setattr(predicted_parts, "predict_file", predict)
    predict_parts(parts)
    return seen


def test_each_part_is_the_file_that_predict_file_writes_of_it(parts, predictor, tmp_path):
    assert predict_parts(parts) == 36
    for source in parts.sources:
        predict_file(predictor, source, tmp_path / "one.csv", "body", "utf-8")
        assert parts.target(source).read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert sorted(path.name for path in parts.out.iterdir()) == [
        *(MANIFEST, "part-0.csv", "part-1.csv", "part-2.csv")
    ]


def test_the_manifest_has_the_parts_in_order_with_rows_and_hashes(parts):
    backwards = replace(parts, sources=parts.sources[::-1])
    predict_parts(backwards)
    said = manifest(parts)
    assert [part["file"] for part in said["parts"]] == ["part-2.csv", "part-1.csv", "part-0.csv"]
    assert said["rows"] == 36 and [part["rows"] for part in said["parts"]] == [12] * 3
    for part, source in zip(said["parts"], backwards.sources, strict=True):
        assert part["source"] == str(source)
        assert part["source_sha256"] == predicted_parts.sha256_of(source)
        assert part["sha256"] == predicted_parts.sha256_of(parts.target(source))
    assert said["made_with"]["fingerprint"] == parts.shared.fingerprint


def test_the_same_command_predicts_what_is_missing_or_was_altered_alone(parts, monkeypatch):
    predict_parts(parts)
    before = (parts.out / MANIFEST).read_bytes()
    parts.target(parts.sources[0]).unlink()
    with open(parts.target(parts.sources[2]), "a", encoding="utf-8") as file:
        file.write("more\n")
    assert predicted(parts, monkeypatch) == ["part-0.csv", "part-2.csv"]
    assert (parts.out / MANIFEST).read_bytes() == before
    assert predicted(parts, monkeypatch) == []


def test_a_part_without_a_note_is_predicted_again_and_one_with_a_note_is_not(parts, monkeypatch):
    """As a kill leaves them: between the part and its note, and between the note and the end."""
    for source in parts.sources[:2]:
        predicted_parts._predict_part(parts, source)
    parts.note(parts.sources[1]).unlink()
    draft = parts.out / ".part-2.csv.abcd"
    draft.mkdir()
    (draft / "part-2.csv").write_text("half")
    assert predicted(parts, monkeypatch) == ["part-1.csv", "part-2.csv"]
    assert not draft.exists() and not parts.note(parts.sources[0]).parent.exists()
    assert manifest(parts)["rows"] == 36


def test_a_part_that_was_changed_since_it_was_predicted_is_refused(parts):
    predict_parts(parts)
    write_table(parts.sources[1], pd.DataFrame({"body": ["another"]}, dtype=object))
    with pytest.raises(DataError, match=r"Changed since predicted: 'part-1\.csv'.* rm .*out"):
        predict_parts(parts)
    parts.target(parts.sources[1]).unlink()
    assert predict_parts(parts) == 25


def test_a_part_that_changes_while_it_is_read_leaves_nothing(parts, monkeypatch):
    def grow(predictor, source, target, *more):
        rows = predict_file(predictor, source, target, *more)
        with open(source, "a", encoding="utf-8") as file:
            file.write('"x","more"\n')
        return rows

    monkeypatch.setattr(predicted_parts, "predict_file", grow)
    with pytest.raises(DataError, match=r"part-0\.csv was changed while it was read"):
        predicted_parts._predict_part(parts, parts.sources[0])
    assert not parts.target(parts.sources[0]).exists()
    assert not parts.note(parts.sources[0]).exists()


def test_parts_of_another_run_and_of_other_settings_are_not_mixed(parts):
    predicted_parts._predict_part(parts, parts.sources[0])
    other = replace(parts, shared=replace(parts.shared, fingerprint="f00"))
    with pytest.raises(RunFolderError, match="made with another fingerprint: .* there, f00 here"):
        predict_parts(other)
    with pytest.raises(RunFolderError, match="made with another text: body there, id here"):
        predict_parts(replace(parts, text="id"))


def test_parts_that_are_not_named_any_more_are_said(parts):
    predict_parts(parts)
    with pytest.raises(RunFolderError, match=r"not among those named: 'part-0\.csv'"):
        predict_parts(replace(parts, sources=parts.sources[1:]))


def test_a_manifest_of_another_program_is_left_alone(parts):
    parts.out.mkdir()
    (parts.out / MANIFEST).write_text('{"name": "an app"}')
    with pytest.raises(RunFolderError, match=r"manifest\.json is damaged or of another program"):
        predict_parts(parts)


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_predicted(
    parts, folder, tmp_path, capsys
):
    whole = parts.sources[0].read_bytes()
    parts.sources[0].write_bytes(b'"id","body"\n"1"\n')
    command = ["predict", str(folder), "--files", str(tmp_path / "in"), "--out", str(parts.out)]
    assert cli.main(command) == 3
    said = capsys.readouterr().err
    assert "1 of 3 files could not be predicted; the other 2 are done" in said
    assert str(parts.sources[0]) in said and not (parts.out / MANIFEST).exists()
    parts.sources[0].write_bytes(whole)
    assert cli.main(command) == 0
    assert "36 rows read, 36 predicted" in capsys.readouterr().out
    assert manifest(parts)["rows"] == 36


def test_a_killed_job_is_one_parts_failure_and_a_lost_cluster_ends_all(parts):
    def raising(error):
        def work():
            raise error

        return work

    killed = JobKilled("killed")
    assert predicted_parts._outcome(raising(killed)) is killed
    with pytest.raises(WorkerError, match="gone"):
        predicted_parts._outcome(raising(WorkerError("gone")))


def test_two_parts_that_would_be_one_and_a_part_that_would_be_overwritten_are_refused(parts):
    more = parts.out.parent / "more" / "part-1.jsonl"
    more.parent.mkdir()
    more.write_text('{"body": "good"}\n')
    with pytest.raises(SettingError, match=r"in/part-1\.csv and .*part-1\.jsonl would both"):
        predict_parts(replace(parts, sources=(*parts.sources, more)))
    with pytest.raises(SettingError, match=r"cannot go to .*in, where part-0\.csv lies itself"):
        predict_parts(replace(parts, out=parts.sources[0].parent))
    with pytest.raises(SettingError, match="is a file, and the parts go to a folder"):
        predict_parts(replace(parts, out=parts.sources[0]))


def test_files_that_no_such_command_wrote_are_not_written_over(parts, monkeypatch):
    parts.out.mkdir()
    (parts.out / "part-1.csv").write_text("mine", "utf-8")
    with pytest.raises(
        RunFolderError, match=r"holds 'part-1\.csv', which predict --files did not"
    ):
        predict_parts(parts)
    assert [path.name for path in parts.out.iterdir()] == ["part-1.csv"]
    assert (parts.out / "part-1.csv").read_text("utf-8") == "mine"
    # A kill between a part and its note leaves such a file, too, beside the folder of notes.
    (parts.out / ".done").mkdir()
    assert predicted(parts, monkeypatch) == ["part-0.csv", "part-1.csv", "part-2.csv"]


def test_notes_are_there_before_the_first_part_and_go_when_all_failed(parts, monkeypatch):
    def fail(predictor, source, *how):
        seen.append((parts.out / ".done").is_dir())
        raise DataError("unreadable")

    seen = []
    monkeypatch.setattr(predicted_parts, "predict_file", fail)
    with pytest.raises(DataError, match="3 of 3 files"):
        predict_parts(parts)
    assert seen == [True] * 3
    assert not parts.out.exists()


def test_parquet_becomes_parquet_and_keeps_its_types(parts, predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(predicted_parquet, "ROWS_AT_A_TIME", 5)
    monkeypatch.setattr("ulmfit_app.inference.predicted_file.ROWS_AT_A_TIME", 8)
    texts = reviews(30)["review"].tolist()
    table = pa.table({"id": pa.array(range(30), pa.int32()), "body": texts, "x": [None, 0.5] * 15})
    source = tmp_path / "in" / "whole.parquet"
    pq.write_table(table, source, row_group_size=7)
    assert predict_parts(replace(parts, sources=(source,))) == 30
    written = pq.read_table(parts.out / "whole.parquet")
    assert written.select(["id", "body", "x"]).equals(table)
    direct = predictor.predict(texts)
    for name in written.column_names[3:]:
        if name == "predicted":
            assert written[name].to_pylist() == direct[name].tolist()
        else:
            assert written[name].to_pylist() == pytest.approx(direct[name].tolist(), abs=1e-6)
    assert written.column_names[3:] == direct.columns.drop("text").tolist()


def test_rows_are_counted_in_parquet_too(parts, tmp_path, monkeypatch):
    source = tmp_path / "in" / "whole.parquet"
    pq.write_table(pa.table({"body": ["good", "bad", "dull"]}), source)
    whole = pq.ParquetWriter.write_table
    losing = lambda self, table: whole(self, table[1:])  # noqa: E731
    monkeypatch.setattr(pq.ParquetWriter, "write_table", losing)
    with pytest.raises(DataError, match="2 rows were written, and 3 were predicted"):
        predict_parts(replace(parts, sources=(source,)))


def test_folders_and_patterns_name_their_tables(tmp_path):
    for name in ("b.csv", "a.jsonl.gz", "_x.csv", ".y.csv", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_parts([tmp_path])] == ["a.jsonl.gz", "b.csv"]
    assert [path.name for path in find_parts([tmp_path / "*.csv"])] == ["b.csv"]
    assert find_parts([tmp_path / "notes.txt"]) == (tmp_path / "notes.txt",), (
        "which is read, or not"
    )
    for nothing in ("*.tsv", "gone.csv"):
        with pytest.raises(DataError, match="There is no table at"):
            find_parts([tmp_path / nothing])


def test_files_need_a_folder_and_stand_alone(folder, capsys):
    assert cli.main(["predict", str(folder), "--files", "a.csv"]) == 2
    assert "--out FOLDER" in capsys.readouterr().err
    assert cli.main(["predict", str(folder), "--files", "a.csv", "--file", "b.csv"]) == 2
    assert "Expected texts, a file or files" in capsys.readouterr().err


def test_a_second_command_for_the_same_folder_is_told(parts):
    with predicted_parts.working_in(parts.out):
        # The lock is the process's own: another one asks.
        import subprocess
        import sys

        code = (
            "import sys; from pathlib import Path; from ulmfit_app.run_folder import working_in\n"
            f"with working_in(Path({str(parts.out)!r}), 'name another folder: --out FOLDER'): pass"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "again, or name another folder: --out FOLDER" in ended.stderr


def test_a_run_that_was_trained_again_meanwhile_is_told(parts):
    stale = replace(parts.shared, fingerprint="f00")
    with pytest.raises(RunFolderError, match="is another one than when the command began"):
        stale.load()


def test_predictions_of_parts_have_every_row_once(parts):
    predict_parts(parts)
    tables = [read_table(parts.target(source)) for source in parts.sources]
    assert pd.concat(tables)["id"].tolist() == [f"{i}-{j}" for i in range(3) for j in range(12)]
