"""What goes in, what comes out, and what is refused when texts are read and split."""

import csv
import json
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest

from data_scripts.fetch import Source
from ulmfit_app.config import DataSettings
from ulmfit_app.data import known_sets
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.reading import read_table
from ulmfit_app.errors import DataError, SettingError
from ulmfit_app.files import sha256_of_path, write_table

REVIEWS = [
    (f"Review number {i}, long enough to be prose.", ("pos", "neg")[i % 2]) for i in range(100)
]


def csv_file(path: Path, rows, header=("text", "label"), delimiter=",", encoding="utf-8") -> Path:
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def load(path: Path, seed: int = 0, **settings) -> Corpus:
    return load_corpus(DataSettings(source=str(path), **settings), seed)


def refused(path: Path, error=DataError, **settings) -> str:
    with pytest.raises(error) as caught:
        load(path, **settings)
    return str(caught.value)


def sizes(corpus: Corpus) -> dict[tuple[str, str], int]:
    return Counter(zip(corpus.table["split"], corpus.table["label"], strict=True))


# Names of data sets


def test_a_name_that_is_neither_data_set_nor_path_is_refused():
    message = refused(Path("no-such-data"))
    assert message.startswith("no-such-data is neither imdb, trec6, banking77, ")
    assert message.endswith(", hotel, shopping, nor a file or folder that exists.")


@pytest.mark.parametrize("data", ["trec6", "reviews.csv"])
def test_a_data_set_given_as_the_place_of_another_is_told_where_it_belongs(data):
    with pytest.raises(
        SettingError, match=rf"says where imdb lies.*Name it in the place of imdb: .*run .*{data}$"
    ):
        load_corpus(DataSettings("imdb", data=Path(data).absolute()), seed=0)


# Columns


@pytest.mark.parametrize(
    "header", [("Text", "LABEL"), ("review", "sentiment"), ("comment", "class"), ("body", "mark")]
)
def test_columns_are_guessed_where_there_is_no_doubt(tmp_path, header):
    path = csv_file(tmp_path / "reviews.csv", [row[::-1] for row in REVIEWS], header=header[::-1])
    assert sorted(load(path).table["text"]) == sorted(text for text, _ in REVIEWS)


def test_names_tell_the_columns_among_many(tmp_path):
    rows = [(i, label, text, "x" * 200) for i, (text, label) in enumerate(REVIEWS)]
    path = csv_file(tmp_path / "reviews.csv", rows, header=("id", "label", "text", "html"))
    corpus = load(path)
    assert corpus.labels == ["neg", "pos"]
    assert (
        "Took column 'text' of reviews.csv for the texts and 'label' for the labels."
        in corpus.notes
    )


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (("id", "body", "stars"), [(i, text, "5") for i, (text, _) in enumerate(REVIEWS)]),
        (("text", "review", "label"), [(text, text[::-1], label) for text, label in REVIEWS]),
        (("left", "right"), [(text, text[::-1]) for text, _ in REVIEWS]),
    ],
)
def test_columns_in_doubt_are_refused_with_the_command(tmp_path, header, rows):
    message = refused(csv_file(tmp_path / "reviews.csv", rows, header=header))
    assert all(f"'{name}'" in message for name in header)
    assert "--text COLUMN --label COLUMN" in message


def test_a_first_line_that_is_data_is_refused(tmp_path):
    message = refused(csv_file(tmp_path / "reviews.csv", REVIEWS[1:], header=REVIEWS[0]))
    assert "should name the columns, but 'pos'" in message


def test_a_missing_column_is_refused_with_the_nearest(tmp_path):
    message = refused(
        csv_file(tmp_path / "reviews.csv", REVIEWS, header=("review", "stars")), text="reveiw"
    )
    assert (
        "no column 'reveiw'" in message
        and "'review', 'stars'" in message
        and "--text review?" in message
    )


def test_column_names_for_a_folder_are_refused(tmp_path):
    assert "--text and --split name columns" in refused(
        tmp_path, SettingError, text="review", split="part"
    )


# Labels and cleaning


def test_labels_are_in_order_of_value_and_then_of_the_alphabet(tmp_path):
    labels = ["10", "9", "-1", "b", "a", "2.5"]
    path = csv_file(tmp_path / "reviews.csv", [(f"text {i}", labels[i % 6]) for i in range(60)])
    assert load(path).labels == ["-1", "2.5", "9", "10", "a", "b"]


def test_empty_texts_and_labels_are_dropped_and_counted(tmp_path):
    rows = [
        *REVIEWS,
        ("", "pos"),
        (" \t", "neg"),
        ("no label", ""),
        ("pandas' label", "nan"),
        ("kept", " pos "),
    ]
    corpus = load(csv_file(tmp_path / "reviews.csv", rows))
    assert len(corpus.table) == 101
    assert corpus.labels == ["neg", "pos"]
    assert "Dropped 2 of 105 rows, whose text is empty." in corpus.notes
    assert "Dropped 2 of 105 rows, whose label is empty or NaN." in corpus.notes


def test_null_in_json_is_missing_and_never_the_word(tmp_path):
    rows = [{"text": text, "label": label} for text, label in REVIEWS]
    rows += [
        {"text": None, "label": "pos"},
        {"text": "a", "label": None},
        {"text": "b"},
        {"text": "c", "label": float("nan")},
    ]
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    corpus = load(path)
    assert corpus.labels == ["neg", "pos"]
    assert set(corpus.table["text"]) == {text for text, _ in REVIEWS}


def test_nan_in_parquet_is_missing_and_its_numbers_are_whole(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "reviews.parquet"
    labels = [float(i % 2) for i in range(99)] + [float("nan")]
    pd.DataFrame({"text": [text for text, _ in REVIEWS], "label": labels}).to_parquet(path)
    corpus = load(path)
    assert corpus.labels == ["0", "1"]
    assert len(corpus.table) == 99


def test_a_lone_surrogate_is_replaced_and_counted_and_a_pair_is_kept(tmp_path):
    path = tmp_path / "reviews.jsonl"
    rows = [*REVIEWS, ("broken \ud83d smile", "pos"), ("whole \U0001f600 smile", "neg")]
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    corpus = load(path)
    assert {"broken \ufffd smile", "whole \U0001f600 smile"} <= set(corpus.table["text"])
    assert (
        "Replaced every lone surrogate, which is no character, by U+FFFD: 1 in 1 text."
        in corpus.notes
    )


def test_no_row_with_text_and_label_is_refused(tmp_path):
    path = csv_file(tmp_path / "reviews.csv", [("", "pos"), ("good", "")])
    assert "None of the 2 rows has both a text and a label" in refused(path)


# Splits


def test_made_splits_have_their_shares_in_every_class(tmp_path):
    rows = [(f"text {i}", "rare" if i % 10 == 0 else "common") for i in range(1000)]
    corpus = load(csv_file(tmp_path / "reviews.csv", rows))
    assert sizes(corpus) == {
        ("train", "common"): 648,
        ("valid", "common"): 72,
        ("test", "common"): 180,
        ("train", "rare"): 72,
        ("valid", "rare"): 8,
        ("test", "rare"): 20,
    }
    assert corpus.test_name == "held-out part of reviews.csv"


def test_made_splits_depend_on_the_seed_alone(tmp_path):
    path = csv_file(tmp_path / "reviews.csv", REVIEWS)
    assert load(path, seed=3).table.equals(load(path, seed=3).table)
    assert not load(path, seed=3).table.equals(load(path, seed=4).table)


def test_copies_of_a_text_never_part(tmp_path):
    rows = [(f"text {i % 60}", ("pos", "neg")[i % 2]) for i in range(600)] + [("ok", "pos")] * 300
    corpus = load(csv_file(tmp_path / "reviews.csv", rows))
    assert corpus.table.groupby("text")["split"].nunique().eq(1).all()
    assert {split for split, _ in sizes(corpus)} == {"train", "valid", "test"}


def test_two_hundred_classes_are_in_every_split(tmp_path):
    corpus = load(
        csv_file(tmp_path / "reviews.csv", [(f"text {i}", f"class {i % 200}") for i in range(800)])
    )
    assert corpus.table.groupby("split")["label"].nunique().to_dict() == {
        "train": 200,
        "valid": 200,
        "test": 200,
    }


def test_given_splits_are_kept_whatever_they_are_called(tmp_path):
    words = ["Training", "dev", " TEST ", "train"]
    rows = [(*row, words[i // 2 % 4]) for i, row in enumerate(REVIEWS)]
    corpus = load(
        csv_file(tmp_path / "reviews.csv", rows, header=("text", "label", "part")), split="part"
    )
    expected = ["train", "valid", "test", "train"]
    assert corpus.table["split"].tolist() == [expected[i // 2 % 4] for i in range(100)]
    assert corpus.test_name == "test split of reviews.csv"


def test_a_column_called_split_is_used_only_when_it_is_one(tmp_path):
    rows = [(*row, ("train", "test")[i // 2 % 2]) for i, row in enumerate(REVIEWS)]
    corpus = load(csv_file(tmp_path / "reviews.csv", rows, header=("body", "mark", "Split")))
    assert "Took the splits from column 'Split'." in corpus.notes
    assert corpus.table["split"].eq("test").sum() == 50
    rows = [(*row, ("top", "bottom")[i % 2]) for i, row in enumerate(REVIEWS)]
    corpus = load(csv_file(tmp_path / "other.csv", rows, header=("text", "label", "split")))
    unused = "Column 'split' holds 'top', 'bottom' instead of train, valid and test, so it was not"
    assert f"{unused} used for the splits." in corpus.notes


def test_valid_and_test_are_carved_from_train_when_not_given(tmp_path):
    rows = [(*row, "test" if i < 20 else "train") for i, row in enumerate(REVIEWS)]
    corpus = load(
        csv_file(tmp_path / "a.csv", rows, header=("text", "label", "split")), split="split"
    )
    assert corpus.table["split"].tolist()[:20] == ["test"] * 20
    assert Counter(corpus.table["split"]) == {"train": 72, "valid": 8, "test": 20}
    rows = [(*row, "valid" if i < 20 else "train") for i, row in enumerate(REVIEWS)]
    corpus = load(
        csv_file(tmp_path / "b.csv", rows, header=("text", "label", "split")), split="split"
    )
    assert Counter(corpus.table["split"]) == {"train": 64, "valid": 20, "test": 16}
    assert "Split test is made of 16 texts, 20.0% of the 80 in train" in corpus.notes[-1]


def test_a_made_test_split_holds_no_copy_of_a_given_validation_text(tmp_path):
    rows = [(text, label, "train") for text, label in REVIEWS] + [
        (*row, "valid") for row in REVIEWS[:60]
    ]
    table = load(
        csv_file(tmp_path / "a.csv", rows, header=("text", "label", "split")), split="split"
    ).table
    assert not set(table.loc[table["split"] == "test", "text"]) & {
        text for text, _ in REVIEWS[:60]
    }


def test_unlabelled_rows_need_no_label_and_none_is_a_copy_of_a_test_text(tmp_path):
    rows = [(*row, "test" if i < 20 else "train") for i, row in enumerate(REVIEWS)]
    rows += [
        ("only read", "", "unsup"),
        ("only read too", "?", "unlabeled"),
        (REVIEWS[0][0], "", "unsup"),
    ]
    corpus = load(
        csv_file(tmp_path / "a.csv", rows, header=("text", "label", "split")), split="split"
    )
    assert corpus.texts("unlabelled") == ["only read", "only read too"]
    assert corpus.labels == ["neg", "pos"]
    assert "Dropped 1 unlabelled text found in valid or test too." in corpus.notes


def test_overlap_of_given_splits_is_counted(tmp_path):
    rows = [(*row, ("train", "valid", "test")[i // 2 % 3]) for i, row in enumerate(REVIEWS)]
    test_text = next(row[0] for row in rows if row[2] == "test")
    rows.append((test_text, "pos", "train"))
    corpus = load(
        csv_file(tmp_path / "a.csv", rows, header=("text", "label", "split")), split="split"
    )
    assert "Split test shares 1 of its 32 texts, word for word, with train." in corpus.notes


def test_given_splits_stay_even_where_all_texts_of_a_class_are_shared(tmp_path):
    rows = [(*row, split) for row in REVIEWS[:10] for split in ("train", "valid", "test")]
    corpus = load(
        csv_file(tmp_path / "a.csv", rows, header=("text", "label", "split")), split="split"
    )
    assert Counter(corpus.table["split"]) == {"train": 10, "valid": 10, "test": 10}


def test_an_unknown_split_is_refused_by_name(tmp_path):
    rows = [(*row, "trian" if i else "test") for i, row in enumerate(REVIEWS)]
    message = refused(
        csv_file(tmp_path / "a.csv", rows, header=("text", "label", "part")), split="part"
    )
    assert "Column 'part'" in message and "'trian' in 99 of 100 rows, first in row 1 " in message


def test_data_without_training_rows_are_refused(tmp_path):
    rows = [(*row, "test") for row in REVIEWS]
    message = refused(
        csv_file(tmp_path / "a.csv", rows, header=("text", "label", "split")), split="split"
    )
    assert "belongs to train" in message


@pytest.mark.parametrize("n", [1, 2, 50])
def test_a_single_class_is_refused(tmp_path, n):
    path = csv_file(tmp_path / "a.csv", [(f"text {i}", "pos") for i in range(n)])
    assert "All texts have the one label 'pos'" in refused(path)


@pytest.mark.parametrize("split", ["test", "valid"])
def test_a_label_seen_only_outside_train_is_refused(tmp_path, split):
    rows = [(*row, ("train", "valid", "test")[i // 2 % 3]) for i, row in enumerate(REVIEWS)]
    rows.append(("a surprise", "neutral", split))
    message = refused(
        csv_file(tmp_path / "a.csv", rows, header=("text", "label", "split")), split="split"
    )
    assert f"only in split {split}, never in train: 'neutral'" in message


def test_a_class_too_small_for_every_split_is_refused_with_its_count(tmp_path):
    rows = [*REVIEWS, ("a", "rare"), ("b", "rare"), ("b", "rare")]
    message = refused(csv_file(tmp_path / "a.csv", rows))
    assert (
        "Too few different texts in 1 of 3 classes: 'rare' (2)" in message
        and "at least 3" in message
    )


def test_a_share_outside_zero_and_one_is_refused(tmp_path):
    path = csv_file(tmp_path / "a.csv", REVIEWS)
    assert "--valid-share 1.0" in refused(path, SettingError, valid_share=1.0)


# Subsets


def test_subsets_are_stratified_in_order_and_said(tmp_path):
    rows = [(f"text {i}", "rare" if i % 10 == 0 else "common") for i in range(1000)]
    path = csv_file(tmp_path / "a.csv", rows)
    whole, part = load(path), load(path, max_train=100, max_valid=20, max_test=50)
    assert sizes(part) == {
        ("train", "common"): 90,
        ("train", "rare"): 10,
        ("valid", "common"): 18,
        ("valid", "rare"): 2,
        ("test", "common"): 45,
        ("test", "rare"): 5,
    }
    order = {text: i for i, text in enumerate(whole.table["text"])}
    assert part.table["text"].map(order).is_monotonic_increasing
    assert set(part.texts("test")) <= set(whole.texts("test"))
    assert "Took a stratified subset of 100 of 720 texts in train, with seed 0." in part.notes


def test_a_subset_of_one_split_leaves_the_others_as_they_are(tmp_path):
    path = csv_file(tmp_path / "a.csv", REVIEWS)
    assert load(path, max_test=5).texts("test") == load(path, max_test=5, max_train=10).texts(
        "test"
    )


def test_every_class_is_in_a_training_subset_that_can_hold_them(tmp_path):
    rows = [(f"text {i}", "common") for i in range(900)] + [
        (f"rare {i}", f"class {i % 9}") for i in range(36)
    ]
    path = csv_file(tmp_path / "a.csv", rows)
    assert len(set(load(path, max_train=10).table.query("split == 'train'")["label"])) == 10
    assert "--max-train 9 cannot hold one text of each of 10 classes" in refused(
        path, SettingError, max_train=9
    )


# IMDb and TREC


def write_texts(folder: Path, texts: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def imdb_folder(root: Path, n: int = 40) -> Path:
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            write_texts(
                root / split / label, {f"{i}_1.txt": f"{split} {label} {i}" for i in range(n)}
            )
    write_texts(root / "unsup", {f"{i}_0.txt": f"unsup {i}" for i in range(30)})
    return root


def test_imdb_is_read_in_the_order_of_its_numbers_with_its_own_test_split(tmp_path):
    corpus = load(Path("imdb"), data=imdb_folder(tmp_path / "imdb"))
    assert corpus.labels == ["neg", "pos"]
    assert corpus.texts("test") == [
        f"test {label} {i}" for label in ("neg", "pos") for i in range(40)
    ]
    assert corpus.texts("unlabelled") == [f"unsup {i}" for i in range(30)]
    assert corpus.test_name == "IMDb test split"
    assert corpus.origin == "--data imdb"


def test_unlabelled_reviews_of_the_original_archive_are_found(tmp_path):
    root = imdb_folder(tmp_path / "imdb")
    (root / "unsup").rename(root / "train" / "unsup")
    assert len(load(Path("imdb"), data=root).texts("unlabelled")) == 30


def test_validation_on_imdb_is_made_of_whole_blocks_of_neighbours(tmp_path):
    corpus = load(Path("imdb"), data=imdb_folder(tmp_path / "imdb", n=60), valid_share=0.2)
    for label in ("neg", "pos"):
        # 60 reviews per class make 20 blocks of 3, of which a fifth is 4.
        numbers = [int(text.split()[-1]) for text in corpus.texts("valid") if f" {label} " in text]
        blocks = Counter(number // 3 for number in numbers)
        assert len(blocks) == 4 and set(blocks.values()) == {3}


def test_validation_is_film_by_film_where_the_archive_has_the_urls(tmp_path):
    root = imdb_folder(tmp_path / "imdb")
    film = {"neg": lambda i: i // 3, "pos": lambda i: i // 2 + 5}
    for label, of in film.items():
        lines = (f"http://www.imdb.com/title/tt{of(i):07}/usercomments\n" for i in range(40))
        (root / "train" / f"urls_{label}.txt").write_text("".join(lines))
    corpus = load(Path("imdb"), data=root)
    films = {
        split: {film[label](int(i)) for _, label, i in map(str.split, corpus.texts(split))}
        for split in ("train", "valid")
    }
    assert films["valid"] and not films["valid"] & films["train"]
    assert any("film by film" in note for note in corpus.notes)


def test_a_review_that_the_urls_lack_is_refused(tmp_path):
    root = imdb_folder(tmp_path / "imdb")
    for label in ("neg", "pos"):
        (root / "train" / f"urls_{label}.txt").write_text(
            "http://www.imdb.com/title/tt0000001/usercomments\n" * 39
        )
    with pytest.raises(DataError, match="has 39 films; review 39_1.txt needs one more"):
        load(Path("imdb"), data=root)


def test_an_imdb_file_that_is_not_utf_8_is_refused_by_name(tmp_path):
    root = imdb_folder(tmp_path / "imdb")
    (root / "train" / "pos" / "7_1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"7_1\.txt is not utf-8: byte 3"):
        load(Path("imdb"), data=root)


def test_the_registry_copy_of_imdb_holds_out_whole_blocks_and_says_so(tmp_path, monkeypatch):
    rows = [(f"review {label} {i}", label, "imdb") for label in (0, 1) for i in range(100)]
    rows += [(f"snippet {i}", i % 2, "rotten_tomatoes") for i in range(30)]
    path = csv_file(tmp_path / "combined.csv", rows, header=("text", "label", "source"))
    source = Source(path, "the registry package")
    monkeypatch.setattr(known_sets.imdb, "fetch", lambda data: source)
    corpus = load(Path("imdb"))
    assert corpus.labels == ["neg", "pos"]
    assert sizes(corpus)["test", "neg"] == sizes(corpus)["test", "pos"] == 20
    assert not corpus.table["text"].str.startswith("snippet").any()
    # 100 reviews per class make 20 blocks of 5.
    blocks = corpus.table.groupby(
        [corpus.table["label"], corpus.table["text"].str.split().str[2].astype(int) // 5]
    )
    assert blocks["split"].nunique().eq(1).all()
    assert "the registry copy has no test split" in corpus.test_name
    assert "Left out 30 of 230 rows, which are not from IMDb." in corpus.notes


def trec_folder(root: Path, train: str, test: str) -> Path:
    root.mkdir()
    (root / "train_5500.label").write_text(train, encoding="latin-1")
    (root / "TREC_10.label").write_text(test, encoding="latin-1")
    return root


def test_trec_is_read_as_latin_1_with_its_coarse_classes(tmp_path):
    train = "".join(
        f"NUM:date When did {i} become a café\x85 ?\nHUM:ind Who was number {i} ?\n"
        for i in range(20)
    )
    corpus = load(
        Path("trec6"), data=trec_folder(tmp_path / "trec", train, "NUM:dist How far is it ?\n")
    )
    assert corpus.labels == ["HUM", "NUM"]
    assert corpus.texts("test") == ["How far is it ?"]
    assert sizes(corpus)["valid", "NUM"] == sizes(corpus)["valid", "HUM"] == 2
    assert all("café\x85" in text for text in corpus.texts("train") if text.startswith("When"))


def test_a_trec_line_without_a_class_is_refused(tmp_path):
    folder = trec_folder(
        tmp_path / "trec", "NUM:date When ?\nWho was she ?\n", "NUM:date When ?\n"
    )
    with pytest.raises(DataError, match="line 2: expected 'COARSE:fine question'"):
        load(Path("trec6"), data=folder)


# Other columns


def test_one_column_cannot_have_two_meanings(tmp_path):
    path = csv_file(tmp_path / "a.csv", [(*row, "x") for row in REVIEWS], ("a", "label", "class"))
    message = "--label and --split are both 'label'. Name two different columns."
    assert message in refused(path, SettingError, text="a", label="label", split="label")
    swapped = csv_file(
        tmp_path / "b.csv", [(*row, "x") for row in REVIEWS], ("label", "class", "a")
    )
    assert load(swapped, text="label").table["text"][0] == REVIEWS[0][0]


def test_other_columns_are_kept_behind_in_the_order_of_the_file(tmp_path):
    rows = [(str(i), *row, f"film {i // 2}") for i, row in enumerate(REVIEWS)]
    rows.insert(50, ("dropped", "", "pos", ""))
    path = csv_file(tmp_path / "a.csv", rows, header=("group", "text", "label", "film"))
    corpus = load(path, text="text", label="label", max_train=30)
    assert corpus.table.columns.tolist() == ["text", "label", "split", "group", "film"]
    whole = {text: (label, group, film) for group, text, label, film in rows}
    kept = corpus.table.drop(columns="split").itertuples(index=False, name=None)
    assert [(label, group, film) for _, label, group, film in kept] == [
        whole[text] for text in corpus.table["text"]
    ]
    alone = load(csv_file(tmp_path / "b.csv", [row[1:3] for row in rows]), max_train=30)
    assert corpus.table[["text", "label", "split"]].equals(alone.table)
    assert [note for note in corpus.notes if note not in alone.notes] == []


def test_a_column_that_has_the_name_of_another_meaning_gets_its_own_and_a_note(tmp_path):
    rows = [(f"id {i}", text, label, "odd", "x") for i, (text, label) in enumerate(REVIEWS)]
    header = ("text", "review", "label", "split", "column text")
    corpus = load(csv_file(tmp_path / "a.csv", rows, header=header), text="review", label="label")
    assert corpus.table.columns.tolist() == [
        *("text", "label", "split"),
        *("column column text", "column split", "column text"),
    ]
    assert corpus.table["column column text"][3] == "id 3"
    assert corpus.table["text"][3] == REVIEWS[3][0] and set(corpus.table["column split"]) == {
        "odd"
    }
    unused = "Column 'split' holds 'odd' instead of train, valid and test, so it was not used "
    assert f"{unused}for the splits." in corpus.notes
    kept = "Kept column 'split' as 'column split', since split has another meaning here."
    assert kept in corpus.notes


def test_texts_and_labels_may_have_each_others_names(tmp_path):
    path = csv_file(tmp_path / "a.csv", [row[::-1] for row in REVIEWS])
    corpus = load(path, text="label", label="text")
    assert corpus.table.columns.tolist() == ["text", "label", "split"]
    assert corpus.table["text"][0] == REVIEWS[0][0]


def test_surrogates_in_other_columns_are_replaced_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    records = [{"text": text, "label": label, "who": "a\ud800"} for text, label in REVIEWS]
    records += [{"text": "odd \ud800", "label": "pos", "who\ud800": "b"}]
    path.write_text("\n".join(map(json.dumps, records)))
    corpus = load(path, text="text", label="label")
    assert (
        set(corpus.table["who"]) == {"a\ufffd", ""} and corpus.table["who\ufffd"].iloc[-1] == "b"
    )
    counts = [note.rpartition(": ")[2] for note in corpus.notes if "surrogate" in note]
    assert counts == ["100 in other columns than the texts'.", "1 in 1 text."]


# What is written is read back

HARD = ["a\rb", "\r", "two\nlines\r\n", 'say "no"', ",;\t", "a\u2028b\u0085", "a\0b", "", "NA"]


@pytest.mark.parametrize("odd", [text for text in HARD if text.strip()])
def test_any_text_label_and_column_name_is_read_back_as_it_was_written(tmp_path, odd):
    columns = ["text", "label", f"x{odd}x", f"{odd};;y"]
    rows = [[text, f"label {text}", text, odd] for text in HARD]
    write_table(tmp_path / "new" / "a.csv", pd.DataFrame(rows, columns=columns))
    found = read_table(tmp_path / "new" / "a.csv")
    assert found.columns.tolist() == columns
    assert found.to_numpy().tolist() == rows


def test_a_written_table_keeps_numbers_bare_and_has_no_word_for_what_is_missing(tmp_path):
    table = pd.DataFrame({"n": [1, 2], "p": [0.1, None], "who": ["a", None]})
    write_table(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_bytes() == b'"n","p","who"\n1,0.1,"a"\n2,"",""\n'


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path):
    write_table(tmp_path / "a.csv", pd.DataFrame({"text": ["old"]}))
    with pytest.raises(UnicodeEncodeError):
        write_table(tmp_path / "a.csv", pd.DataFrame({"text": ["new", "\ud800"]}))
    assert read_table(tmp_path / "a.csv")["text"].tolist() == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_hash_of_a_path_is_its_files_and_their_names(tmp_path):
    (tmp_path / "a" / "in").mkdir(parents=True)
    (tmp_path / "a" / "in" / "x.txt").write_text("text")
    known = sha256_of_path(tmp_path / "a")
    assert sha256_of_path(tmp_path / "a" / "in" / "x.txt") == sha256(b"text").hexdigest()
    assert sha256_of_path((tmp_path / "a").rename(tmp_path / "b")) == known
    (tmp_path / "b" / "in" / "x.txt").rename(tmp_path / "b" / "in" / "y.txt")
    assert sha256_of_path(tmp_path / "b") != known


def test_folds_part_the_training_rows_and_keep_copies_together(tmp_path):
    rows = [(f"text {i // 2}", "ab"[i // 2 % 2]) for i in range(80)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "twice.csv", index=False)
    held_out = [
        load(tmp_path / "twice.csv", folds=4, fold=fold).texts("valid") for fold in (1, 2, 3, 4)
    ]
    train = load(tmp_path / "twice.csv", folds=4, fold=1).texts("train")
    assert sorted(text for fold in held_out for text in fold) == sorted(train + held_out[0])
    assert all(not set(a) & set(b) for a in held_out for b in held_out if a is not b)


@pytest.mark.parametrize(
    "asked, message",
    [
        (dict(folds=1), "--folds 1: expected 2 or more"),
        (dict(folds=3, fold=4), "--fold 4: expected a number from 1 to --folds, which is 3"),
        (dict(fold=2), "--fold 2: expected a number from 1 to --folds, which is 1"),
    ],
)
def test_folds_that_cannot_be_are_refused(tmp_path, asked, message):
    pd.DataFrame({"text": list("abcdefgh"), "label": list("xyxyxyxy")}).to_csv(
        tmp_path / "few.csv", index=False
    )
    assert message in refused(tmp_path / "few.csv", SettingError, **asked)


def test_a_class_with_fewer_texts_than_folds_is_told(tmp_path):
    pd.DataFrame(
        {"text": [f"text {i}" for i in range(40)], "label": ["x"] * 34 + ["y"] * 6}
    ).to_csv(tmp_path / "a.csv")
    assert "The label 'y' has" in refused(
        tmp_path / "a.csv", DataError, text="text", label="label", folds=9
    )
