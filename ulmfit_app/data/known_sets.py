"""Readers of the data sets that are known by name, each in its publisher's own format."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pandas as pd

from data_scripts import chinese, english, imdb, trec
from data_scripts.fetch import Source
from ulmfit_app.config import DataSettings
from ulmfit_app.data.draft import Draft
from ulmfit_app.data.reading import (
    read_folder,
    read_labelled_lines,
    read_lines,
    read_table,
)
from ulmfit_app.errors import DataError, quoted
from ulmfit_app.evaluation.tables import spell_set

_PUBLISHED = english.SETS | chinese.SETS
DATA_SETS = ("imdb", "trec6", *_PUBLISHED)  # that are known by name

# Maas et al. let a film have at most 30 reviews, so a block this long parts two films at its ends
# and keeps the rest whole. A multiple of 128: the registry copy holds the reviews in runs of 128,
# each from its highest number down.
REVIEWS_PER_BLOCK = 256

# Of HateCheck's cases: whom one is about, what it tests, and whether it speaks to or of them.
HATECHECK_GROUPS = ("target", "functionality", "direction")


@dataclass(frozen=True)
class OneTable:
    """A data set that is one table without splits.

    Attributes:
        text: the column of the texts.
        label: the column of the labels.
        names: what stands for each of its values.
        before: a column whose words stand before them.
    """

    text: str
    label: str
    names: dict[str, str]
    before: str | None = None


ONE_TABLE = {
    "hatespeech": OneTable(
        "tweet", "class", {"0": "hate speech", "1": "offensive", "2": "neither"}
    ),
    "hotel": OneTable("review", "label", {"1": "positive", "0": "negative"}),
    "shopping": OneTable("review", "label", {"1": "正面", "0": "负面"}, before="cat"),
}


def language_of(source: str) -> str | None:
    """The language of a data set known by name, as languages.py has it; None of all else.

    >>> language_of("trec6"), language_of("joke"), language_of("reviews.csv")
    ('en', 'zh-tw', None)
    """
    if source in _PUBLISHED:
        return _PUBLISHED[source].language
    return "en" if source in DATA_SETS else None


def read_known(settings: DataSettings) -> Draft:
    """A data set known by name, as its publisher has it.

    Args:
        settings: whose source is one of DATA_SETS.

    Raises:
        DataError: it is broken, or another one.
        data_scripts.fetch.FetchError: it cannot be had.
    """
    name, data = settings.source, settings.data
    if name == "imdb":
        source = imdb.fetch(data)
        return _imdb_table(source) if source.path.is_file() else _imdb_folder(source)
    if name == "trec6":
        return _trec6(trec.fetch(data))
    source = (chinese if name in chinese.SETS else english).fetch(name, data)
    if name in ONE_TABLE:
        return _one_table(name, source)
    readers = {"banking77": _banking77, "goemotions": _goemotions, "hatecheck": _hatecheck}
    return readers.get(name, _two_files)(name, source)


def _imdb_folder(source: Source) -> Draft:
    parts, groups = [], []
    titles = _film_titles(source.path / "train")
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            names, texts = read_folder(source.path / split / label, order=_review_number)
            if split == "train" and titles is not None:
                groups += [_title_of(name, titles[label]) for name in names]
            else:
                groups += _blocks(len(texts), label)
            parts.append(_rows(texts, label, split))
    for folder in (source.path / "unsup", source.path / "train" / "unsup"):
        if folder.is_dir():
            parts.append(_rows(read_folder(folder, order=_review_number)[1], "", "unlabelled"))
    carved = (
        _in_blocks(parts[0], parts[1])
        if titles is None
        else "film by film, all reviews of a film together"
    )
    table = pd.concat(parts, ignore_index=True)
    groups += [""] * (len(table) - len(groups))
    return Draft(table, source.origin, "IMDb test split", carved, [], groups)


def _imdb_table(source: Source) -> Draft:
    """The registry copy: the training reviews, in the order of their file names, then others."""
    found = read_table(source.path)
    if not {"text", "label", "source"} <= set(found.columns):
        raise DataError(
            f"{source.path} is not the registry's table of reviews. Expected the columns 'text', "
            f"'label' and 'source', found {quoted(found.columns)}."
        )
    reviews = found[found["source"] == "imdb"]
    parts, groups = [], []
    for number, label in (("0", "neg"), ("1", "pos")):
        texts = reviews.loc[reviews["label"] == number, "text"].tolist()
        parts.append(_rows(texts, label, "train"))
        groups += _blocks(len(texts), label)
    return Draft(
        pd.concat(parts, ignore_index=True),
        source.origin,
        "held-out blocks of IMDb's training reviews (the registry copy has no test split)",
        _in_blocks(*parts),
        [
            f"Left out {len(found) - len(reviews):,} of {len(found):,} rows, which are not from "
            "IMDb."
        ],
        groups,
    )


def _review_number(name: str) -> int:
    """12 from 12_9.txt, which is review 12 with 9 of 10 stars."""
    number = name.split("_")[0]
    if not number.isdecimal():
        raise DataError(
            f"{name} is not named as IMDb's reviews are. Expected number_stars.txt, such as "
            "12_9.txt."
        )
    return int(number)


def _film_titles(train: Path) -> dict[str, list[str]] | None:
    """The films of train/neg and train/pos by number of the review, where there are their URLs."""
    lists = {label: train / f"urls_{label}.txt" for label in ("neg", "pos")}
    if not all(path.is_file() for path in lists.values()):
        return None
    return {
        label: re.findall(r"/title/(tt\d+)", path.read_text("utf-8"))
        for label, path in lists.items()
    }


def _title_of(name: str, titles: Sequence[str]) -> str:
    number = _review_number(name)
    if number >= len(titles):
        raise DataError(
            f"IMDb's urls_neg.txt or urls_pos.txt has {len(titles):,} films; review {name} needs "
            "one more."
        )
    return titles[number]


def _block_size(n: int) -> int:
    """Reviews per block: fewer in a small copy, so that a class has 20 blocks to hold out."""
    return min(REVIEWS_PER_BLOCK, max(1, n // 20))


def _blocks(n: int, label: str) -> list[str]:
    return [f"{label} {row // _block_size(n)}" for row in range(n)]


def _in_blocks(*parts: pd.DataFrame) -> str:
    size = _block_size(max(map(len, parts)))
    return (
        f"in blocks of {size} reviews of a class that follow each other in the source's order, "
        "where reviews of one film are neighbours (reviews of the other class may remain in train)"
    )


def _rows(texts: list[str], label: str, split: str) -> pd.DataFrame:
    return pd.DataFrame({"text": pd.Series(texts, dtype=object)}).assign(label=label, split=split)


def _trec6(source: Source) -> Draft:
    parts = []
    for split, name in (("train", "train_5500.label"), ("test", "TREC_10.label")):
        for number, line in enumerate(
            (source.path / name).read_text("latin-1").split("\n"), start=1
        ):
            label, question = re.match(r"(?:([A-Z]+):\S+ )?(.*)", line.strip()).groups()
            if label:
                parts.append((question, label, split))
            elif question:
                raise DataError(
                    f"{source.path / name}, line {number}: expected 'COARSE:fine question', found "
                    f"'{question[:60]}'."
                )
    table = pd.DataFrame(parts, columns=["text", "label", "split"], dtype=object)
    return Draft(table, source.origin, "TREC test split", "stratified by label", [])


def _two_files(name: str, source: Source) -> Draft:
    """A Chinese set of two files, train and test."""
    parts = [
        read_labelled_lines(source.path / file, split)
        for split, file in zip(("train", "test"), chinese.SETS[name].files, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    return Draft(table, source.origin, f"{name} test split", "stratified by label", [])


def _banking77(name: str, source: Source) -> Draft:
    parts = []
    for split in ("train", "test"):
        path = source.path / f"{split}.csv"
        found = read_table(path)
        if not {"text", "category"} <= set(found.columns):
            raise DataError(
                f"{path} is not a table of {name}. Expected the columns 'text' and 'category', "
                f"found {quoted(found.columns)}."
            )
        parts.append(found[["text", "category"]].set_axis(["text", "label"], axis=1))
        parts[-1]["split"] = split
    table = pd.concat(parts, ignore_index=True)
    return Draft(table, source.origin, f"{name} test split", "stratified by label", [])


def _goemotions(name: str, source: Source) -> Draft:
    known = english.SETS[name]
    emotions = read_lines(known.find("emotions.txt", source.path))
    emotions = [emotion.strip() for emotion in emotions if emotion.strip()]
    rows = []
    for split, file in (("train", "train.tsv"), ("valid", "dev.tsv"), ("test", "test.tsv")):
        path = known.find(file, source.path)
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            found = re.fullmatch(r"(.*)\t(\d+(?:,\d+)*)\t[^\t]*", line, re.DOTALL)
            numbers = [int(place) for place in found[2].split(",")] if found else [len(emotions)]
            if max(numbers) >= len(emotions):
                raise DataError(
                    f"{path}, line {number}: expected 'text<TAB>numbers<TAB>id', with numbers "
                    f"below {len(emotions)} as in 1,5, found '{line[:60]}'."
                )
            labels = spell_set(sorted(emotions[place] for place in numbers))
            rows.append((found[1], labels, split))
    table = pd.DataFrame(rows, columns=["text", "label", "split"], dtype=object)
    test_name, carved = f"{name} test split", "stratified by label"
    return Draft(table, source.origin, test_name, carved, [], multilabel=True)


def _hatecheck(name: str, source: Source) -> Draft:
    """Tweets, hateful or not, to learn from, and HateCheck's cases with their groups as test."""
    known = english.SETS[name]
    tweets = read_table(known.find("labeled_data.csv", source.path))
    cases = read_table(known.find("hatecheck.csv", source.path))
    of_cases = ["test_case", "label_gold", "target_ident", "functionality", "direction"]
    for file, found, columns in (
        ("labeled_data.csv", tweets, ["tweet", "class"]),
        ("hatecheck.csv", cases, of_cases),
    ):
        if not set(columns) <= set(found.columns):
            raise DataError(
                f"{known.find(file, source.path)} is not {file} of {name}. Expected the columns "
                f"{quoted(columns)}, found {quoted(found.columns)}."
            )
    is_hate = tweets["class"] == "0"
    train = pd.DataFrame({"text": tweets["tweet"], "split": "train"})
    train["label"] = is_hate.map({True: "hateful", False: "non-hateful"})
    test = cases[of_cases].set_axis(["text", "label", *HATECHECK_GROUPS], axis=1)
    test = test.replace(dict.fromkeys(HATECHECK_GROUPS, {"": "none", "-": "none"}))
    table = pd.concat([train, test.assign(split="test")], ignore_index=True).fillna("")
    note = (
        f"Train are the {len(tweets):,} tweets of hatespeech: {is_hate.sum():,} of hate speech as "
        "hateful, offensive ones and all others as non-hateful. Test are the cases of HateCheck."
    )
    return Draft(table, source.origin, "HateCheck", "stratified by label", [note])


def _one_table(name: str, source: Source) -> Draft:
    """A set that is one table, of whose texts a third is for the test."""
    found = read_table(source.path)
    known = ONE_TABLE[name]
    columns = [*([known.before] if known.before else []), known.label, known.text]
    if not set(columns) <= set(found.columns) or not found[known.label].isin(known.names).all():
        raise DataError(
            f"{source.path} is not the table of {name}. Expected the columns {quoted(columns)}, "
            f"with {' or '.join(known.names)} in {known.label}, found {quoted(found.columns)}."
        )
    labels = found[known.label].map(known.names)
    if known.before:
        labels = found[known.before] + " " + labels
    table = pd.DataFrame({"text": found[known.text], "label": labels})
    note = (
        f"{name} has no test split: a third of each class is taken for it, chosen by a hash of "
        "each text, the same in every run whatever the seed; copies of a text stay together."
    )
    table = table.assign(split=_fixed_third(table))
    return Draft(table, source.origin, f"fixed third of {name}", "stratified by label", [note])


def _fixed_third(table: pd.DataFrame) -> pd.Series:
    """test for the third of each label's texts that has the least hashes, else train."""
    hashes = table["text"].map(lambda text: sha256(text.encode()).hexdigest())
    chosen = table["text"][hashes.groupby(table["label"]).rank(pct=True) <= 1 / 3]
    return table["text"].isin(chosen).map({True: "test", False: "train"})
