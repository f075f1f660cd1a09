"""Class folders: which files are texts, and what is said of the others."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.test_corpus import load, refused, sizes, write_texts
from ulmfit_app.data.folders import read_class_folders
from ulmfit_app.data.reading import read_table


def made(root: Path, name: str = "{}.txt", odd: str = "{}.txt", n: int = 12) -> Path:
    """Two classes of n texts, every third of another name."""
    for label in ("neg", "pos"):
        for i in range(n):
            path = root / label / (odd if i % 3 == 2 else name).format(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{label} {i}", encoding="utf-8")
    return root


def read(root: Path) -> tuple[set[str], list[str]]:
    """The texts of a folder, and what was said."""
    table, notes = read_class_folders(root, "utf-8")
    return set(table["text"]), notes


ALL = {f"{label} {i}" for label in ("neg", "pos") for i in range(12)}


def test_class_folders_are_read(tmp_path):
    for label in ("good", "bad"):
        write_texts(tmp_path / label, {f"{i}.txt": f"{label} {i}" for i in range(20)})
        write_texts(tmp_path / label, {"notes.md": "no text"})
    (tmp_path / "figures").mkdir()
    corpus = load(tmp_path)
    assert corpus.labels == ["bad", "good"]
    assert len(corpus.table) == 40
    assert f"Left out {tmp_path / 'figures'}, which has no files." in corpus.notes


def test_class_folders_in_split_folders_are_read(tmp_path):
    for split, n in (("train", 10), ("val", 4), ("test", 3)):
        for label in ("good", "bad"):
            write_texts(
                tmp_path / split / label, {f"{i}.txt": f"{split} {label} {i}" for i in range(n)}
            )
    write_texts(tmp_path / "unsup", {"0.txt": "no label"})
    assert sizes(load(tmp_path)) == {
        ("train", "good"): 10,
        ("train", "bad"): 10,
        ("valid", "good"): 4,
        ("valid", "bad"): 4,
        ("test", "good"): 3,
        ("test", "bad"): 3,
        ("unlabelled", ""): 1,
    }


def test_a_folder_without_class_folders_is_refused_with_what_it_holds(tmp_path):
    write_texts(tmp_path, {"review.txt": "fine"})
    message = refused(tmp_path)
    assert "has no class folders" in message and "'review.txt'" in message


@pytest.mark.parametrize("odd", ["{}.TXT", "{}.Txt", "{}", "{}.0", "{}.3a7f21bc9d0e"])
def test_text_files_are_read_however_they_are_named(tmp_path, odd):
    assert read(made(tmp_path, odd=odd)) == (ALL, [])


def test_texts_in_folders_of_a_class_are_read_and_that_is_said(tmp_path):
    texts, notes = read(made(tmp_path, odd="2021/may/{}.txt"))
    assert texts == ALL
    assert notes == [
        "Read 8 texts of 24 from folders inside of the classes' own: '2021'.",
    ]


def test_files_of_systems_are_left_out_and_counted(tmp_path):
    made(tmp_path)
    for name in ("._1.txt", ".DS_Store", "Thumbs.db", "desktop.ini", ".git/x.txt"):
        (tmp_path / "pos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "pos" / name).write_bytes(b"\0\5\x16\7\0")
    write_texts(tmp_path / "__MACOSX" / "pos", {"1.txt": "no"})
    write_texts(tmp_path, {".hidden": "no"})
    texts, notes = read(tmp_path)
    assert texts == ALL and len(notes) == 1 and "Left out 7 hidden files" in notes[0]


def test_other_kinds_are_counted_by_extension_with_what_converts_them(tmp_path):
    made(tmp_path, odd="{}.html")
    write_texts(tmp_path / "pos", {"a.pdf": ""})
    (tmp_path / "pos" / "scan").write_bytes(b"\x89PNG\0\0")
    texts, notes = read(tmp_path)
    assert len(texts) == 16 and len(notes) == 1
    assert "Left out 10 files (8 .html, 1 .pdf, 1 without extension)" in notes[0]
    assert "-iname '*.html' -exec sh -c 'pandoc" in notes[0]


def test_the_command_that_copies_plain_text_makes_it_readable(tmp_path):
    _, notes = read(made(tmp_path / "two words", odd="{}.md"))
    subprocess.run(notes[0][notes[0].index("find ") :], shell=True, check=True)
    assert read(tmp_path / "two words")[0] == ALL


def test_a_class_without_text_files_is_refused_with_kinds_and_counts(tmp_path):
    made(tmp_path)
    write_texts(tmp_path / "odd", {"1.docx": "", "2.docx": "", "3.pdf": ""})
    message = refused(tmp_path)
    assert f"{tmp_path / 'odd'} has no text files, but 3 files (2 .docx, 1 .pdf)" in message
    assert "'*.docx'" in message


def test_texts_beside_class_folders_are_counted_with_what_to_do(tmp_path):
    made(tmp_path)
    write_texts(tmp_path, {"1.txt": "loose", "2.TXT": "loose too", "readme.md": "about"})
    texts, notes = read(tmp_path)
    assert texts == ALL
    assert f"Left out 3 files (2 .txt, 1 .md) in {tmp_path} itself, in no class folder" in notes[0]
    assert str(tmp_path / "unlabelled") in notes[0] and "predict --file" in notes[0]


def test_a_test_folder_of_loose_texts_is_said_and_its_command_makes_a_table(tmp_path):
    made(tmp_path / "data" / "train")
    write_texts(tmp_path / "data" / "test", {"b.txt": "second", "a.txt": "first, one"})
    write_texts(tmp_path / "data", {"stray.txt": "of no split"})
    corpus = load(tmp_path / "data")
    stray = f"Left out 1 file (1 .txt) in {tmp_path / 'data'} itself, in no class folder"
    assert any(stray in note for note in corpus.notes)
    assert corpus.test_name == "held-out part of data"
    note = next(note for note in corpus.notes if "Left out 2 files (2 .txt)" in note)
    assert any("so that part is held out of train instead" in note for note in corpus.notes)
    command = note[note.index("python -c") :].replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    table = read_table(tmp_path / "test.csv")
    assert table.to_numpy().tolist() == [["a.txt", "first, one"], ["b.txt", "second"]]


def test_blank_files_of_a_test_folder_are_rows_and_no_test_split_is_made(tmp_path):
    made(tmp_path / "train")
    for label in ("neg", "pos"):
        write_texts(tmp_path / "test" / label, {"1.txt": " \n", "2.txt": ""})
    table, _ = read_class_folders(tmp_path, "utf-8")
    assert table["split"].eq("test").sum() == 4
    assert "split test" in refused(tmp_path)


@pytest.mark.parametrize("split", ["test", "valid", "train"])
def test_a_split_folder_without_texts_is_refused(tmp_path, split):
    made(tmp_path / "train")
    if split == "train":
        (tmp_path / "train").rename(tmp_path / "test")
    (tmp_path / split / "pos").mkdir(parents=True)
    message = refused(tmp_path)
    assert f"{tmp_path / split} has no class folders with texts" in message
    assert ("rm -r" in message) == (split != "train")


def test_classes_one_folder_too_deep_are_refused_with_their_place(tmp_path):
    made(tmp_path / "reviews")
    message = refused(tmp_path)
    assert "has one class folder, reviews" in message and "'neg', 'pos'" in message
    assert message.endswith(str(tmp_path / "reviews"))


def test_a_test_folder_without_a_train_folder_is_no_class(tmp_path):
    made(tmp_path / "test")
    made(tmp_path / "learn")
    message = refused(tmp_path)
    assert "no folder train" in message and "'learn', 'test'" in message
    made(tmp_path / "flat")
    write_texts(tmp_path / "flat" / "test", {"1.txt": "unclear"})
    assert (
        "Took" in read(tmp_path / "flat")[1][0] and "called test" in read(tmp_path / "flat")[1][0]
    )


def test_a_folder_with_a_table_in_it_names_the_command_for_the_table(tmp_path):
    pd.DataFrame({"text": ["a"], "label": ["b"]}).to_csv(tmp_path / "all.csv", index=False)
    assert f"ulmfit_app.run {tmp_path / 'all.csv'}" in refused(tmp_path)


def test_links_to_folders_are_not_followed_and_said(tmp_path):
    made(tmp_path)
    os.symlink(tmp_path, tmp_path / "pos" / "again", target_is_directory=True)
    texts, notes = read(tmp_path)
    assert texts == ALL and "Left out links to folders" in notes[0] and "'again'" in notes[0]


def test_unlabelled_texts_may_lie_in_folders_and_in_train(tmp_path):
    made(tmp_path / "train")
    write_texts(tmp_path / "unsup" / "more", {"1.TXT": "a"})
    write_texts(tmp_path / "train" / "unsup", {"2": "b"})
    table, _ = read_class_folders(tmp_path, "utf-8")
    unlabelled = table[table["split"] == "unlabelled"]
    assert set(unlabelled["text"]) == {"a", "b"} and set(unlabelled["label"]) == {""}


def test_utf_16_files_without_extension_are_text(tmp_path):
    for label in ("neg", "pos"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1").write_text(f"fine {label}", encoding="utf-16")
    table, _ = read_class_folders(tmp_path, "utf-16")
    assert set(table["text"]) == {"fine neg", "fine pos"}
    assert "--encoding utf-16" in refused(tmp_path)


@pytest.mark.parametrize("place", ["pos/broken.txt", "pos/deep/broken", "broken.txt", "third"])
def test_a_link_to_nothing_is_refused_as_an_error_of_the_data(tmp_path, place):
    root = made(tmp_path / "reviews")
    link = root / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "gone")
    message = refused(root)
    assert f"{link} is a link to {tmp_path / 'gone'}, which does not exist." in message
    subprocess.run(message[message.index("rm ") :], shell=True, check=True)
    assert read(root) == (ALL, [])


def test_a_systems_link_to_nothing_is_no_text(tmp_path):
    made(tmp_path)
    for folder in (tmp_path, tmp_path / "pos"):
        (folder / ".#lock.txt").symlink_to("me@host.1234")
    assert read(tmp_path)[0] == ALL
