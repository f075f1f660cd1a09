"""Labels stay as their file spells them, and what is odd about them is said."""

import csv
import random
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from ulmfit_app.config import DataSettings, TokenSettings
from ulmfit_app.data.characters import HIDDEN, escape
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.inspection import inspect
from ulmfit_app.data.labels import find_alike, find_combined, find_hidden, label_order
from ulmfit_app.errors import DataError


def csv_file(path: Path, rows, header=("text", "label")) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def labelled(tmp_path: Path, labels: list[str], n: int = 60, **settings) -> Corpus:
    """A corpus whose labels take turns."""
    rows = [(f"text number {i}", labels[i % len(labels)]) for i in range(n)]
    return load_corpus(DataSettings(str(csv_file(tmp_path / "a.csv", rows)), **settings), seed=0)


def said(corpus: Corpus, word: str) -> str:
    """The one note with this word."""
    (note,) = [note for note in corpus.notes if word in note]
    return note


@pytest.mark.parametrize(
    "labels",
    [
        ["1.0", "2.0"],
        ["FALSE", "TRUE"],
        ["1", "1.0", "2", "2.00"],
        ["Complaint", "None"],
        ["False", "false"],
        ["01", "1"],
        ["NA", "null"],
        ["pos", "pos\u200b"],
    ],
)
def test_a_label_is_as_its_file_spells_it(tmp_path, labels):
    corpus = labelled(tmp_path, labels[::-1])
    assert corpus.labels == labels
    assert set(corpus.table["label"]) == set(labels)
    assert corpus.truth(pd.Series(labels)).tolist() == list(range(len(labels)))


def test_white_space_around_labels_is_taken_off_counted_and_said(tmp_path):
    corpus = labelled(tmp_path, [" pos", "neg", "pos", "neg\u00a0", "\tpos"])
    assert corpus.labels == ["neg", "pos"]
    note = "Took white space off the labels of 36 rows: ' pos' is 'pos'."
    assert said(corpus, "white space") == note
    assert not any("white space" in note for note in labelled(tmp_path, ["a", "b"]).notes)


def test_a_surrogate_in_a_label_is_replaced_and_said(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [f'{{"text": "text {i}", "label": "{("a", "b" + chr(92) + "ud800")[i % 2]}"}}'
             for i in range(40)]  # fmt: skip
    path.write_text("\n".join(lines))
    corpus = load_corpus(DataSettings(str(path)), seed=0)
    assert corpus.labels == ["a", "b\ufffd"]
    assert said(corpus, "surrogate").endswith("U+FFFD: 20 in labels.")


def test_missing_labels_of_unlabelled_rows_are_neither_dropped_nor_counted(tmp_path):
    rows = [(f"text number {i}", "ab"[i % 2], "train") for i in range(40)]
    rows += [(f"only read {i}", ("", " ", "nan")[i % 3], "unlabelled") for i in range(6)]
    path = csv_file(tmp_path / "a.csv", rows, ("text", "label", "split"))
    corpus = load_corpus(DataSettings(str(path)), seed=0)
    assert len(corpus.texts("unlabelled")) == 6 and corpus.labels == ["a", "b"]
    assert not any("Dropped" in note or "white space" in note for note in corpus.notes)


def test_numbers_are_in_order_of_value_however_they_are_written():
    labels = ["b", "10", "9.5", "-1", "2.00", "2", "a", "1e3", ".5"]
    expected = ["-1", ".5", "2", "2.00", "9.5", "10", "1e3", "a", "b"]
    assert sorted(labels, key=label_order) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("2.00", "2"),
        ("007", "7"),
        ("TRUE", "true"),
        ("Straße", "STRASSE"),
        ("so so", "soso"),
        ("so\u00a0so", "so so"),
        ("pos", "pos\u200b"),
        ("po\u00ads", "pos"),
        ("\ufeffpos", "pos"),
        ("ｐｏｓ", "pos"),
        ("cafe\u0301", "café"),
        ("a\u200db", "ab"),
        ("می\u200cخواهم", "میخواهم"),
    ],
)
def test_one_label_in_two_spellings_is_found_and_said_with_counts(tmp_path, one, other):
    assert find_alike([one, "x", other]) == [[one, other]]
    corpus = labelled(tmp_path, [one, "x", other])
    note = said(corpus, "Each spelling is a class of its own")
    assert f"'{escape(one)}' (20 rows) and '{escape(other)}' (20 rows)" in note
    assert set(corpus.labels) == {one, "x", other}


def test_different_labels_are_not_alike():
    far = [
        "1",
        "10",
        "1.1",
        "-1",
        "pos",
        "neg",
        "12345678901234567",
        "12345678901234568",
        "c",
        "ç",
    ]
    assert find_alike(far) == []


def test_hidden_characters_stay_in_a_label_and_are_shown_as_codes(tmp_path):
    corpus = labelled(tmp_path, ["pos\u200b", "neg", "so\rso", "a\u00a0b"])
    assert "pos\u200b" in corpus.labels
    note = said(corpus, "cannot be seen")
    for label in ("'pos\\u200b' (15 rows)", "'so\\u000dso' (15 rows)", "'a\\u00a0b' (15 rows)"):
        assert label in note
    assert HIDDEN.search(note) is None


def test_hidden_are_unicodes_controls_formats_and_separators_but_for_joiners():
    """By the categories of Unicode itself; tag characters stand in emoji flags."""
    kinds = {"Cc", "Cf", "Zs", "Zl", "Zp"}
    plain = {" ", "\u200c", "\u200d"}
    for code in (*range(0x3100), *range(0xFE00, 0x10000)):
        one = chr(code)
        if unicodedata.category(one) in kinds and one not in plain:
            # Arabic and Syriac number signs are of the category Cf, and can be seen.
            visible = 0x600 <= code <= 0x605 or code in (0x6DD, 0x70F, 0x890, 0x891, 0x8E2)
            assert bool(find_hidden([f"x{one}y"])) != visible, hex(code)
    assert (
        find_hidden(["👩\u200d👩\u200d👧", "می\u200cخواهم", "क\u094d\u200dष", "❤\ufe0f", "a b"])
        == []
    )
    assert len(find_hidden(["a\u200db", "pos\u200d", "\u200cpos", "می\u200c"])) == 4


@pytest.mark.parametrize("separator", [",", ", ", ";", "|"])
def test_labels_that_look_like_several_in_one_are_said(tmp_path, separator):
    labels = [separator.join(parts) for parts in ("a", "b", "ab", "bc", "ac", "abc")]
    assert find_combined(labels) == labels[2:]
    note = said(labelled(tmp_path, labels), "each combination is a class of its own")
    assert note.startswith(f"4 of 6 labels, such as '{labels[2]}', '{labels[3]}', ")
    assert "(40 rows)" in note and "--multilabel" in note


@pytest.mark.parametrize(
    "labels",
    [
        ["pos", "neg"],
        ["Austin, Texas", "Dallas, Texas", "Reno, Nevada"],
        ["Food, drink and tobacco", "Health"],
        ["a,", "a", ",b"],
        ["1,000", "2,500"],
    ],
)
def test_a_comma_alone_makes_no_label_several(labels):
    assert find_combined(labels) == []


def test_lists_that_became_strings_are_several_labels():
    labels = ['["a", "b"]', '["a"]', "['b']", "c"]
    assert find_combined(labels) == labels[:1]


def test_a_label_spelled_otherwise_in_test_than_in_train_is_told_so(tmp_path):
    rows = [(f"text number {i}", "ab"[i % 2], "train") for i in range(40)]
    rows += [("one", "A", "test"), ("two", "b", "test")]
    path = csv_file(tmp_path / "a.csv", rows, ("text", "label", "split"))
    with pytest.raises(DataError, match="never in train: 'A'.*Spelled in several ways: 'A', 'a'"):
        load_corpus(DataSettings(str(path)), seed=0)


def test_a_class_too_small_because_of_its_spelling_is_told_so(tmp_path):
    rows = [(f"text number {i}", "ab"[i % 2]) for i in range(40)] + [("one more", "b\u200b")]
    with pytest.raises(
        DataError, match=r"'b\\u200b' \(1\).*their spelling alone: 'b', 'b\\u200b'"
    ):
        load_corpus(DataSettings(str(csv_file(tmp_path / "a.csv", rows))), seed=0)


def refused(source: Path, **settings) -> str:
    with pytest.raises(DataError) as caught:
        load_corpus(DataSettings(str(source), **settings), seed=0)
    return str(caught.value)


def test_the_reason_for_one_label_fits_what_was_given(tmp_path):
    rows = [(f"text number {i}", "pos") for i in range(9)]
    table = csv_file(tmp_path / "a.csv", rows)
    assert refused(table).endswith("Check which column --label names.")
    (tmp_path / "f" / "pos").mkdir(parents=True)
    (tmp_path / "f" / "pos" / "1.txt").write_text("fine")
    message = refused(tmp_path / "f")
    assert message.endswith(f"Expected a folder with texts for each class in {tmp_path / 'f'}.")
    assert "--label" not in message


def test_one_label_that_is_left_of_several_is_told_with_the_rows_that_were_dropped(tmp_path):
    rows = [(f"text number {i}", "neg") for i in range(9)]
    rows += [("", " pos")] * 4 + [("", "so so"), ("fine", ""), ("good", "nan")]
    assert refused(csv_file(tmp_path / "a.csv", rows)).endswith(
        "Of 16 rows 7 were dropped, whose text or label is empty: 4 of 'pos', 2 without a label, "
        "1 of 'so so'."
    )


def test_dropped_rows_are_said_by_split_where_the_source_gives_splits(tmp_path):
    rows = [(f"text number {i}", "ab"[i % 2], "train") for i in range(40)]
    rows += [("", "a", "train"), ("one", "a", "test"), ("", "b", "test"), (" ", "b", "test")]
    path = csv_file(tmp_path / "a.csv", rows, ("text", "label", "split"))
    corpus = load_corpus(DataSettings(str(path)), seed=0)
    assert said(corpus, "text is empty") == (
        "Dropped 3 of 44 rows, whose text is empty: 2 in test, 1 in train."
    )


# ------------------------------------------------------------------------------- in an inspection
def inspected(tmp_path, labels: list[str], **settings):
    """The findings of made texts, by name."""
    rng = random.Random(0)
    words = "kettle chair train lamp soup garden phone ticket".split()
    rows = [(" ".join(rng.choices(words, k=6)), labels[i % len(labels)]) for i in range(120)]
    data = DataSettings(str(csv_file(tmp_path / "a.csv", rows)))
    found = inspect(data, TokenSettings(min_freq=1), 42, **settings)
    return {one.name: one for one in found.findings}, found


def test_an_inspection_finds_numbers_in_two_spellings_and_hidden_characters(tmp_path):
    findings, whole = inspected(tmp_path, ["1", "1.0", "good\u200b", "bad"])
    spelling = findings["Spelling of labels"]
    assert spelling.trouble and "number: '1', '1.0'." in spelling.found
    assert "Labels with hidden characters: 'good\\u200b'." in spelling.found
    assert set(spelling.table["label"]) == {"1", "1.0", "good\\u200b"}
    assert set(spelling.suspects["label"]) <= {"1", "1.0", "good\u200b"}
    assert HIDDEN.search(whole.as_text().replace("\n", "")) is None
    assert not inspected(tmp_path, ["good", "bad"])[0]["Spelling of labels"].trouble


def test_an_inspection_finds_several_labels_in_one(tmp_path):
    several = inspected(tmp_path, ["a", "b", "a,b"])[0]["Several labels in one"]
    assert several.trouble and "1 of 3 labels, such as 'a,b'" in several.found
    assert "--multilabel" in several.advice and set(several.suspects["label"]) == {"a,b"}
    assert not inspected(tmp_path, ["a", "b"])[0]["Several labels in one"].trouble


def test_label_errors_of_classes_too_small_to_judge_are_said_and_no_failure(tmp_path):
    pytest.importorskip("cleanlab", reason="label errors need cleanlab, which is not installed")
    rows = [(f"{('red kettle', 'blue train')[i % 2]} number {i}", "ab"[i % 2]) for i in range(8)]
    data = DataSettings(str(csv_file(tmp_path / "a.csv", rows)))
    found = inspect(data, TokenSettings(min_freq=1), 42, label_errors=True)
    errors = found.findings[-1]
    assert errors.name == "Suspected label errors" and not errors.trouble
    assert errors.found.startswith("No label could be judged")
    assert "under 5 different texts: 'a', 'b'" in errors.found
