"""Files that cannot be read are told for what they are, and what JSON holds is kept as spelled."""

import json
import os

import pytest

from tests.test_corpus import csv_file, load, refused
from tests.test_encodings import FRENCH
from tests.test_reading import flattened, noted, unreadable, written
from ulmfit_app.data.reading import read_table

# What is no file


def test_a_link_to_nothing_is_told_with_its_target(tmp_path):
    path = tmp_path / "broken.csv"
    path.symlink_to("gone.csv")
    message = unreadable(path)
    assert "is a link to gone.csv, which does not exist" in message
    assert "Did you mean" not in message and refused(path) == message


def test_a_link_without_a_suffix_is_told_too(tmp_path):
    (tmp_path / "broken").symlink_to("gone")
    assert "is a link to gone" in refused(tmp_path / "broken")


def test_a_folder_in_the_place_of_a_file_is_told_with_its_tables(tmp_path):
    (tmp_path / "b.csv").touch()
    (tmp_path / "notes.md").touch()
    message = unreadable(tmp_path)
    assert message.endswith(
        "is a folder, and a file is expected here. Name a table in it: 'b.csv'."
    )
    (tmp_path / "b.csv").unlink()
    assert unreadable(tmp_path).endswith("It has no table in it.")


def test_a_pipe_is_told_to_be_saved_first(tmp_path):
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    message = unreadable(path)
    assert "is no regular file" in message and message.endswith(
        "COMMAND > texts.csv, and name that."
    )


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="this system has no /dev/fd")
def test_a_stream_of_the_shell_is_told_to_be_saved_first(tmp_path):
    file = csv_file(tmp_path / "a.csv", [("a", "b")])
    for end in (os.pipe()[0], os.open(file, os.O_RDONLY)):
        assert "is no regular file" in unreadable(type(tmp_path)(f"/dev/fd/{end}"))
        os.close(end)


# JSON


@pytest.mark.parametrize("number", ["1", "1.0", "1.50", "1e20", "-0", "7e1", "9" * 5000])
def test_a_number_of_json_is_as_its_file_spells_it(tmp_path, number):
    path = written(tmp_path / "a.jsonl", f'{{"text": "a", "label": {number}}}')
    assert noted(path) == ([["a", number]], [])
    assert type(read_table(path)["label"][0]) is str


def test_infinity_is_spelled_and_nan_is_missing(tmp_path):
    words = ("Infinity", "-Infinity", "NaN", "null")
    path = written(tmp_path / "a.jsonl", "\n".join(f'{{"label": {word}}}' for word in words))
    assert read_table(path)["label"].tolist() == ["Infinity", "-Infinity", "", ""]


def test_numbers_that_differ_in_spelling_are_different_labels_and_that_is_said(tmp_path):
    lines = [f'{{"text": "text {i}", "label": {("1", "1.0", "2")[i % 3]}}}' for i in range(60)]
    corpus = load(written(tmp_path / "a.jsonl", "\n".join(lines)))
    assert corpus.labels == ["1", "1.0", "2"]
    assert any("'1' (20 rows) and '1.0' (20 rows)" in note for note in corpus.notes)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_values_of_several_types_that_become_one_are_said(tmp_path, name):
    values = [1, "1", "1", True, None]
    records = [{"text": "a", "label": value} for value in values]
    whole = json.dumps(records) if name == "a.json" else "\n".join(map(json.dumps, records))
    rows, notes = noted(written(tmp_path / name, whole))
    assert [label for _, label in rows] == ["1", "1", "1", "true", ""]
    assert notes == [
        f"Column 'label' of {name} holds numbers (1), strings (2), booleans (1): each is taken as "
        'it is spelled, so that 1 and "1" are the same, and so are true and "true".'
    ]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"label": 1, "text": "b", "label": 2}', "a.jsonl, line 3: "),
        ("a.json", '\n[{"label": 1, "text": "b", "label": 2}]', "a.json, line 2: "),
        ("a.json", '[\n{"label": 1, "text": "b", "label": 2}\n]', "a.json: "),
    ],
)
def test_a_key_twice_in_an_object_is_refused(tmp_path, name, content, place):
    message = unreadable(written(tmp_path / name, content))
    assert f"{place}more than one key 'label' in the object that begins {{" in message


def test_rows_below_a_key_beside_others_are_what_the_command_flattens(tmp_path):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    path = written(tmp_path / "a.json", json.dumps({"data": rows, "version": 1}))
    assert flattened(path) == {"text": ["a", "b"], "label": ["x", "y"]}


# CSV


def test_columns_in_doubt_are_told_the_options_of_the_same_command(tmp_path):
    rows = [("a", "b", "c"), ("d", "e", "f")]
    message = refused(csv_file(tmp_path / "a.csv", rows, header=("left", "right", "third")))
    assert message.endswith("Add --text COLUMN --label COLUMN to the command.")


@pytest.mark.parametrize("separator", ["|", "^", "~"])
def test_a_separator_that_is_none_of_the_three_is_told_how_to_be_named(tmp_path, separator):
    lines = [f"text{separator}label", f"fine, really{separator}pos", f"dull{separator}neg"]
    path = written(tmp_path / "a.csv", "\n".join(lines))
    line = f"sep={separator}"
    assert unreadable(path).endswith(f"put the line {line} before all others.")
    plain = written(tmp_path / "b.csv", "\n".join(lines).replace(",", ""))
    assert refused(plain).endswith(f"put the line {line} before all others.")
    path.write_text("\n".join([line, *lines]))
    assert noted(path)[0] == [["fine, really", "pos"], ["dull", "neg"]]


def test_a_comment_before_the_column_names_is_told(tmp_path):
    path = written(tmp_path / "a.csv", "# exported 2024-01-01\ntext,label\na,x\n")
    assert "If '# exported 2024-01-01' is a comment and no line of column" in unreadable(path)
    path = written(tmp_path / "b.csv", "text\na, b\n")
    assert unreadable(path).endswith("must stand in quotes.")


def test_a_comma_at_the_end_of_a_line_is_told(tmp_path):
    path = written(tmp_path / "a.csv", "text,label\na,x,\n")
    assert "This line ends in a comma, and the line of column names does not" in unreadable(path)
    path = written(tmp_path / "b.csv", "text,label\na,b,x\n")
    assert "must stand in quotes" in unreadable(path)


# Encodings


def test_a_mixture_of_encodings_is_told(tmp_path):
    rows = [(f"{FRENCH} {i}", "pos") for i in range(8)]
    path = csv_file(tmp_path / "a.csv", rows)
    whole = path.read_bytes()
    old = whole.decode("utf-8").split("\n", 1)[1].encode("cp1252")
    path.write_bytes(whole + old)
    message = unreadable(path)
    assert "mixes encodings: of its first 16 lines that are not ASCII 8 are UTF-8" in message
    assert "probably" not in message and "--encoding cp1252" not in message
    path.write_bytes(whole.split(b"\n", 1)[0] + b"\n" + old)
    assert "mixes" not in unreadable(path)
