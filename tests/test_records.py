"""Files that a server appends to: whole lines, whoever else writes, however full the disk is."""

import fcntl
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from ulmfit_app.config import DataSettings
from ulmfit_app.data.corpus import load_corpus
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.serving.reading import read_answers, read_feedback
from ulmfit_app.serving.records import (
    ANSWERS,
    FEEDBACK,
    Full,
    JsonLines,
    answer_records,
    feedback_record,
    hash_text,
)

MOST = 1_000_000
HOSTILE = [
    'He said "no", then\n{"label": "pos"}\r\n\ttwice\\',
    "line\u2028paragraph\u2029next\x85end\x0b\x0c\x1c\x1d\x1e",
    "\U0001f469\u200d\U0001f4bb good \U0001f600, e\u0301 and \u00e9",
    "\u202e\u05e9\u05dc\u05d5\u05dd\u202c \u0645\u0631\u062d\u0628\u0627\u200f",
    "\ufeffa mark first, \u200b\u00ad\x7f\x01 inside",
    "'; DROP TABLE texts; -- <script>alert(1)</script> =cmd|'/c calc'!A1",
    " blanks around \u3000",
    "NaN",
]


def feedback(text: str, label: str = "neg") -> dict:
    return feedback_record(text, label, "pos", 0.75, "imdb@3fa9c1d2e4b5")


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_feedback_with_hostile_texts_is_a_table_for_training_whose_texts_are_the_same(tmp_path):
    path = tmp_path / "feedback.jsonl"
    file = JsonLines(path, MOST, FEEDBACK)
    labels = ["neg", "pos"] * (len(HOSTILE) // 2)
    for text, label in zip(HOSTILE, labels, strict=True):
        file.append([feedback(text, label)], durable=True)
    table = read_table(path)
    assert list(table.columns) == list(FEEDBACK)
    assert table["text"].tolist() == HOSTILE
    # As `python -m ulmfit_app.run feedback.jsonl --text text --label label` does.
    settings = DataSettings(source=str(path), text="text", label="label")
    settings = replace(settings, valid_share=0.3, test_share=0.3)
    corpus = load_corpus(settings, seed=0)
    assert sorted(corpus.table["text"]) == sorted(HOSTILE)
    assert dict(zip(corpus.table["text"], corpus.table["label"], strict=True)) == dict(
        zip(HOSTILE, labels, strict=True)
    )


def test_no_reader_of_lines_breaks_one_in_two(tmp_path):
    path = tmp_path / "feedback.jsonl"
    JsonLines(path, MOST, FEEDBACK).append([feedback(text) for text in HOSTILE])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == HOSTILE


def test_half_of_a_surrogate_pair_is_kept_as_its_escape(tmp_path):
    path = tmp_path / "feedback.jsonl"
    JsonLines(path, MOST, FEEDBACK).append([feedback("a\ud800b")])
    assert lines_of(path)[0]["text"] == "a\ud800b"
    assert read_table(path)["text"].tolist() == ["a\ud800b"]
    assert read_feedback(path).table["hash"][0] == int(hash_text("a\ud800b"), 16)


def test_a_new_file_is_readable_for_its_owner_alone(tmp_path):
    path = tmp_path / "feedback.jsonl"
    JsonLines(path, MOST, FEEDBACK)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_start_keeps_what_the_first_wrote_and_the_rights_of_the_file(tmp_path):
    path = tmp_path / "feedback.jsonl"
    for text in ("first", "second"):
        JsonLines(path, MOST, FEEDBACK).append([feedback(text)])
        path.chmod(0o640)
    assert [record["text"] for record in lines_of(path)] == ["first", "second"]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_was_moved_away_meanwhile_begins_again(tmp_path):
    path, moved = tmp_path / "answers.log", tmp_path / "answers.log.1"
    file = JsonLines(path, MOST, FEEDBACK)
    file.append([feedback("first")])
    path.rename(moved)
    file.append([feedback("second")])
    assert [lines_of(each)[0]["text"] for each in (moved, path)] == ["first", "second"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_stays_a_link_and_its_file_grows(tmp_path):
    target, link = tmp_path / "kept.jsonl", tmp_path / "feedback.jsonl"
    JsonLines(target, MOST, FEEDBACK).append([feedback("first")])
    link.symlink_to(target)
    JsonLines(link, MOST, FEEDBACK).append([feedback("second")])
    assert link.is_symlink() and len(lines_of(target)) == 2


def append_many(path: Path, writer: int) -> None:
    file = JsonLines(path, 10 * MOST, FEEDBACK)
    for turn in range(100):
        text = f"{writer} {turn} " + "x" * (997 * (turn % 7))
        file.append([feedback(f"{text} {place}") for place in range(3)])


def test_lines_of_several_processes_and_threads_stay_whole_and_those_of_an_append_together(
    tmp_path,
):
    path = tmp_path / "feedback.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_many, args=(path, writer)) for writer in (0, 1)]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(append_many, [path] * 3, (2, 3, 4)))
    for process in processes:
        process.join()
    assert all(process.exitcode == 0 for process in processes)
    texts = [record["text"] for record in lines_of(path)]
    assert len(set(texts)) == len(texts) == 5 * 100 * 3
    assert [text[-1] for text in texts] == ["0", "1", "2"] * 500


def test_an_append_waits_while_another_process_holds_the_file(tmp_path):
    """Else the part of a line could be cut off with another's lines behind it."""
    path = tmp_path / "feedback.jsonl"
    file = JsonLines(path, MOST, FEEDBACK)
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        append = Thread(target=file.append, args=[[feedback("waits")]])
        append.start()
        append.join(0.05)
        assert append.is_alive() and not path.read_bytes()
    append.join()
    assert len(lines_of(path)) == 1


def test_a_line_that_a_crash_tore_ends_before_the_next_begins(tmp_path):
    path = tmp_path / "feedback.jsonl"
    JsonLines(path, MOST, FEEDBACK).append([feedback("whole")])
    with path.open("ab") as file:
        file.write(b'{"text": "to')
    JsonLines(path, MOST, FEEDBACK).append([feedback("next")])
    lines = path.read_bytes().split(b"\n")
    assert lines[1] == b'{"text": "to' and json.loads(lines[2])["text"] == "next"
    written = read_feedback(path)
    assert len(written.table) == 2
    assert written.notes == [
        f"Left out of {path}: line 2, no whole record, as a loss of power leaves one."
    ]
    with pytest.raises(DataError, match="feedback.jsonl, line 2: expected one JSON object"):
        read_table(path)


def test_the_last_line_of_an_editor_without_a_line_feed_is_kept(tmp_path):
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps(feedback("typed")), encoding="utf-8")
    JsonLines(path, MOST, FEEDBACK).append([feedback("next")])
    assert [record["text"] for record in lines_of(path)] == ["typed", "next"]


FILL = """
import resource, sys
from pathlib import Path
from ulmfit_app.serving import records
from ulmfit_app.serving.records import FEEDBACK, JsonLines, feedback_record
if sys.argv[2] == "without a lock":
    records.fcntl = None
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 10_000))
file = JsonLines(Path(sys.argv[1]), 1_000_000, FEEDBACK)
record = feedback_record("x" * 300, "neg", "pos", 0.75, "m@1")
kept = 0
for turn in range(5):
    try:
        file.append([record])
        kept += 1
    except OSError as error:
        assert error.errno == 27, error  # EFBIG: the system wrote a part, then no more
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
file.append([record])
print(kept + 1)
"""


def fill(path: Path, how: str) -> int:
    """Append until the system takes no more, and once again when it does. How often it did."""
    command = [sys.executable, "-c", FILL, path, how]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


def test_a_write_that_the_disk_takes_in_part_leaves_nothing_behind(tmp_path):
    path = tmp_path / "feedback.jsonl"
    assert fill(path, "with a lock") == 3
    assert len(lines_of(path)) == 3


def test_without_a_lock_the_part_stays_and_the_next_line_is_whole(tmp_path):
    """Else another process's lines, which may stand behind the part, would be cut off."""
    path = tmp_path / "feedback.jsonl"
    assert fill(path, "without a lock") == 3
    lines = path.read_bytes().splitlines()
    assert lines[0].startswith(lines[2]) and len(lines[2]) < len(lines[0])
    assert [line["text"] for line in map(json.loads, (*lines[:2], lines[-1]))] == ["x" * 300] * 3


def test_a_full_file_takes_no_part_of_an_append_and_says_so(tmp_path):
    path = tmp_path / "feedback.jsonl"
    one = len(json.dumps(feedback("one"))) + 1
    file = JsonLines(path, 2 * one, FEEDBACK)
    file.append([feedback("one")])
    with pytest.raises(Full, match=f"feedback.jsonl has {one} bytes and takes at most {2 * one}."):
        file.append([feedback("two"), feedback("six")])
    assert len(lines_of(path)) == 1
    file.append([feedback("two")])
    assert path.stat().st_size == 2 * one


def test_what_json_cannot_hold_is_not_written(tmp_path):
    path = tmp_path / "feedback.jsonl"
    file = JsonLines(path, MOST, FEEDBACK)
    with pytest.raises(ValueError, match="JSON"):
        file.append([feedback("a"), feedback("b") | {"confidence": float("nan")}])
    file.append([])
    assert path.read_bytes() == b""


OTHERS = {
    "texts for training": (b'{"text": "good", "label": "pos"}\n', "found '{.text.: .good."),
    "a CSV": (b"text,label\ngood,pos\n", "found 'text,label'"),
    "a log of answers": (
        (json.dumps(answer_records("r", 1, ["a"], ["pos"], [1], ["m"], False)[0]) + "\n").encode(),
        "found '{.time",
    ),
    "a list": (b"[1, 2]\n", r"found '\[1, 2\]'"),
    "binary": (b"\x1f\x8b\x08\x00\xff\xfe\x00", r"found '\\u001f"),
    "one endless line": (b"x" * 5_000_000, "found 'xxx"),
    "deeply nested": (b"[" * 200_000, r"found '\[\[\["),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path, name):
    content, found = OTHERS[name]
    path = tmp_path / "my data.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=found) as caught:
        JsonLines(path, 10 * MOST, FEEDBACK)
    assert "nothing is added to it. Expected a first line that is a JSON object" in str(
        caught.value
    )
    assert path.read_bytes() == content
    command = str(caught.value).rpartition("move this one away: ")[2]
    subprocess.run(shlex.split(command), check=True)
    JsonLines(path, MOST, FEEDBACK)
    assert (tmp_path / "my data.jsonl.old").read_bytes() == content


def test_places_that_are_no_file_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(SettingError, match=r"is a folder. Expected a file, such as .*lines.jsonl"):
        JsonLines(tmp_path, MOST, FEEDBACK)
    with pytest.raises(SettingError, match=r"there is no folder .*Make it: mkdir -p '.*no such'"):
        JsonLines(tmp_path / "no such" / "feedback.jsonl", MOST, FEEDBACK)
    assert not (tmp_path / "no such").exists()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(SettingError, match="is a device or a pipe. Expected a file"):
            JsonLines(path, MOST, FEEDBACK)
    with pytest.raises(SettingError, match="cannot be written: File name too long. Name another"):
        JsonLines(tmp_path / ("x" * 300), MOST, FEEDBACK)
    (tmp_path / "dangling").symlink_to(tmp_path / "gone" / "feedback.jsonl")
    with pytest.raises(SettingError, match="dangling cannot be written: No such file"):
        JsonLines(tmp_path / "dangling", MOST, FEEDBACK)


def test_a_file_that_may_not_be_written_is_refused_at_the_start(tmp_path, monkeypatch):
    def refuse(path, flags, mode):
        raise PermissionError(13, "Permission denied", path)

    path = tmp_path / "feedback.jsonl"
    monkeypatch.setattr("ulmfit_app.serving.records.os.open", refuse)
    with pytest.raises(SettingError, match="cannot be written: Permission denied. Name another"):
        JsonLines(path, MOST, FEEDBACK)


def test_the_log_has_a_line_per_text_and_no_text_unless_asked_for(tmp_path):
    path = tmp_path / "answers.log"
    file = JsonLines(path, MOST, ANSWERS)
    texts, models = ["so good", "so bad"], ["a@1", "b@2"]
    about = ("r-1", 0.0123456789, texts, ["pos", "neg"], [0.9, 0.8000000001], models)
    file.append(answer_records(*about, with_texts=False))
    assert b"so good" not in path.read_bytes()
    file.append(answer_records(*about, with_texts=True))
    plain, full = lines_of(path)[0], lines_of(path)[2]
    assert list(plain) == list(ANSWERS)
    assert full.pop("text") == "so good"
    assert plain | {"time": ""} == full | {"time": ""}
    assert plain["hash"] == hash_text("so good") and plain["seconds"] == 0.012346
    table = read_answers(path).table
    assert table["model"].tolist() == models * 2
    assert table["hash"].tolist() == [int(hash_text(text), 16) for text in texts] * 2
    assert table["confidence"].tolist() == [0.9, 0.8] * 2
    # Two requests of the same id, which stand together, are one.
    assert table["alone"].tolist() == [False] * 4
    assert str(table["time"][0])[:19] == plain["time"][:19].replace("T", " ")
