"""Notebook 08, your own data: what a run's files hold, tables to prepare; exercise checks."""

import csv
import io
import json
import shutil
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import EllipsisType

import numpy as np
import pandas as pd

from ulmfit_app.config import DataSettings
from ulmfit_app.course import Verdict, check_answered, judge
from ulmfit_app.data.corpus import Corpus, load_corpus
from ulmfit_app.data.split_column import SPLIT_WORDS
from ulmfit_app.errors import UserError
from ulmfit_app.run_folder import STAGES

# What a file of a run's folder holds, by its name; the first pattern that fits counts.
WHAT = {
    "run.json": "every setting, what was decided before the run began, and with which versions",
    "data/table.csv": "the texts as they were read: label, part, and the file's other columns",
    "data/selection.csv": "what each text is used as, and whether the language model reads it",
    "*/stage.json": "a hash of all that this stage's result depends on; while it holds, the stage "
    "is not repeated",
    "tokens/ids.bin": "the texts as token ids, one after the other",
    "tokens/offsets.npy": "where each text begins among them",
    "tokens/vocab.json": "the word of each id",
    "*/bundle.json": "what the model is, and the hashes of its two other files",
    "*/weights-*.safetensors": "its weights: names, shapes and numbers, nothing that runs",
    "*/vocab-*.json": "the word of each row of its embeddings",
    "*/history.csv": "losses and scores, one row per epoch",
    "*/validation.csv": "its probabilities of the validation texts, by which they were calibrated",
    "report/report.html": "the page to read: one file that loads nothing else",
    "report/metrics.json": "every number of the page, for programs",
    "report/predictions.csv": "each test text with its label and its probabilities",
    "report/worst_errors.csv": "the wrong predictions, the most confident first",
    "report/classification_report.txt": "precision and recall of each class",
    "report/figures/*": "a figure of the page",
}


def list_contents(folder: Path) -> pd.DataFrame:
    """What a run's folder holds, one row per file, and one for all figures together.

    Args:
        folder: of the run.

    Returns:
        Columns file, kB (thousands of bytes) and what (in words), in the order of the stages.
    """
    rows = []
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            pattern = next((pattern for pattern in WHAT if fnmatch(name, pattern)), name)
            shown = pattern if pattern.endswith("/*") else name
            rows.append((shown, path.stat().st_size / 1e3, WHAT.get(pattern, "")))
    table = pd.DataFrame(rows, columns=["file", "kB", "what"])
    table = table.groupby(["file", "what"], as_index=False)["kB"].sum()
    order = {name: place for place, name in enumerate(("run.json", "data", *STAGES))}
    place = table["file"].map(lambda name: order.get(name.split("/")[0], len(order)))
    table = table.assign(place=place).sort_values(["place", "file"], ignore_index=True)
    return table[["file", "kB", "what"]].round(1)


def swap_labels(bundle: Path, copy: Path) -> Path:
    """Copy a classifier's bundle, with the last label first, as a slip could do it.

    Args:
        bundle: its folder.
        copy: the folder to write.

    Returns:
        The copy.
    """
    shutil.copytree(bundle, copy, dirs_exist_ok=True)
    description = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    description["labels"].reverse()
    written = json.dumps(description, indent=1, ensure_ascii=False)
    (copy / "bundle.json").write_text(written, encoding="utf-8")
    return copy


# ------------------------------------------------------------------------ exercise 1: the settings
_SUBJECTS = ("Der Film", "Die Geschichte", "Das Ende", "Die Musik", "Das Drehbuch", "Der Schnitt")
_JUDGEMENTS = {
    "ist großartig": ("5", "gut"),
    "hat mich berührt": ("4", "gut"),
    "ist öde; ich ging früher": ("2", "schlecht"),
    "ist überflüssig": ("1", "schlecht"),
}


def write_german_file(folder: Path) -> Path:
    """Write German reviews as a spreadsheet exports them, and return the file's path.

    Semicolons, Latin-1, five columns.
    """
    rows = []
    for number, (subject, (judgement, (stars, verdict))) in enumerate(
        product(_SUBJECTS, _JUDGEMENTS.items()), start=1
    ):
        part = "Test" if subject == _SUBJECTS[-1] else "Training"
        rows.append((number, f"{subject} {judgement}.", stars, verdict, part))
    table = pd.DataFrame(rows, columns=["Nr", "Rezension", "Sterne", "Urteil", "Teil"])
    path = folder / "rezensionen.csv"
    table.to_csv(path, sep=";", index=False, encoding="latin-1")
    return path


def _said(error: UserError, path: Path) -> str:
    """What the loader says, without the folder of the file."""
    return str(error).replace(f"{path.parent}/", "").replace(str(path.parent), "")


def check_settings(answer: DataSettings | EllipsisType, path: Path) -> Verdict:
    """Exercise 1: the settings that read the file of `write_german_file` as it is meant."""
    if verdict := check_answered(answer):
        return verdict
    if not isinstance(answer, DataSettings):
        return Verdict(
            False, "expected DataSettings(source=…, …), with the file's path as a string."
        )
    wanted = DataSettings(
        str(path), text="Rezension", label="Urteil", split="Teil", encoding="latin-1"
    )
    try:
        found = load_corpus(answer, seed=0)
    except UserError as error:
        return Verdict(False, f"the loader refuses it. {_said(error, path)}")
    meant = load_corpus(wanted, seed=0)
    own, right = (set(corpus.table["text"]) for corpus in (found, meant))
    parts, right_parts = (set(corpus.texts("test")) for corpus in (found, meant))
    odd = next(iter(sorted(own - right)), "")
    n_train, n_valid = (len(found.texts(split)) for split in ("train", "valid"))
    other_labels, other_column = found.labels != meant.labels, answer.text != wanted.text
    return judge(
        {
            f"the labels are {found.labels}. The verdicts of the people who wrote are in another "
            "column.": other_labels,
            f"{odd!r} is read as a text. Which column has the reviews?": other_column,
            f"{odd!r} is not how the text was written: the file has another encoding than "
            f"{answer.encoding}.": own != right,
            f"{len(parts)} texts for testing were drawn by chance. The file itself says which "
            "ones those are.": parts != right_parts,
        },
        f"{n_train} reviews to train on, {n_valid} of those in the file held out to validate, and "
        f"{len(parts)} to test, as the file says; labels {found.labels}.",
    )


# ------------------------------------------------------------------ exercise 2: a column of splits
REVIEWS_PER_FILM = 8  # on average


def add_films(corpus: Corpus, seed: int = 0) -> pd.DataFrame:
    """The training reviews with a film for each, as a site that collects them could export.

    The films are made up, since the package's reviews do not say which film they are about.

    Args:
        corpus: the reviews.
        seed: of the films.

    Returns:
        Columns text, label and film.
    """
    train = corpus.table.loc[corpus.table["split"] == "train", ["text", "label"]].reset_index(
        drop=True
    )
    generator = np.random.default_rng(seed)
    weights = generator.exponential(size=max(len(train) // REVIEWS_PER_FILM, 2))
    films = generator.choice(len(weights), size=len(train), p=weights / weights.sum())
    return train.assign(film=[f"film {number}" for number in films])


def check_split(answer: pd.DataFrame | EllipsisType, reviews: pd.DataFrame) -> Verdict:
    """Exercise 2: the table of `add_films` with a column split that parts no film."""
    if verdict := check_answered(answer):
        return verdict
    columns = {*reviews.columns, "split"}
    if not isinstance(answer, pd.DataFrame) or not columns <= set(answer.columns):
        return Verdict(
            False,
            "expected the table with its columns text, label and film, and a fourth one, split.",
        )
    words = {word for words in SPLIT_WORDS.values() for word in words}
    odd = sorted(set(answer["split"].astype(str)) - words)
    is_test = answer["split"] == "test"
    n_parted = answer.groupby("film")["split"].nunique().gt(1).sum()
    share, n_films = is_test.mean(), answer.loc[is_test, "film"].nunique()
    own, whole = (table[list(reviews.columns)].value_counts() for table in (answer, reviews))
    changed = len(answer) != len(reviews) or not own.equals(whole.reindex(own.index))
    missing = set(reviews["label"]) - set(answer["label"][is_test])
    return judge(
        {
            "rows are gone, or changed. Every review of the table belongs to a part.": changed,
            f"the loader knows no part {odd[:3]}. Call them train and test.": bool(odd),
            f"{n_parted} films are in more than one part: draw films, and let all reviews of a "
            "film follow.": n_parted > 0,
            f"{share:.0%} of the reviews are in test. It should be about a fifth, from 15 % to "
            "25 %.": not 0.15 <= share <= 0.25,
            f"test has no review of the class {', '.join(sorted(missing))}.": bool(missing),
        },
        f"{is_test.sum()} of {len(answer)} reviews are in test, those of {n_films} films, none "
        "of which is in train.",
    )


# ------------------------------------------------------------------ exercise 3: mend a broken file
_MEANT = [
    ("Warm, funny and over too soon.", "pos"),
    ("I left after an hour.", "neg"),
    ("A good cast, wasted on a bad script.", "neg"),
    ("The best thing I saw this year.", "pos"),
    ("So this is what they call a comedy?", "neg"),
    ("You will want to see it twice.", "pos"),
    ("Pretty pictures and nothing to say.", "neg"),
    ("Go and see it.", "pos"),
]
_DAMAGED = {
    2: "A good cast, wasted on a bad script.,neg",
    4: '"So this is what they call a comedy?,neg',
    7: "Go and see it.,pso",
}


def _line(*fields: str) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(fields)
    return written.getvalue()


_LINES = [_DAMAGED.get(number, _line(*one)) for number, one in enumerate(_MEANT)]
BROKEN = "\n".join([_line("review", "sentiment"), *_LINES, ""])


def check_mended(answer: str | EllipsisType) -> Verdict:
    """Exercise 3: the content of BROKEN, mended so that every review is read as it was meant."""
    if verdict := check_answered(answer):
        return verdict
    if not isinstance(answer, str):
        return Verdict(False, "expected the content of the file, a string.")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mended.csv"
        path.write_text(answer, encoding="utf-8")
        try:
            corpus = load_corpus(DataSettings(str(path)), seed=0)
        except UserError as error:
            return Verdict(False, f"the loader refuses it. {_said(error, path)}")
    found = dict(zip(corpus.table["text"], corpus.table["label"], strict=True))
    gone = [text for text, _ in _MEANT if text not in found]
    relabelled = [text for text, label in _MEANT if found.get(text) != label]
    more = len(corpus.table) - len(_MEANT)
    return judge(
        {
            f"{len(gone)} of {len(_MEANT)} reviews are gone, or read differently, such as "
            f"{gone[:1]}. Mend a line; do not delete or reword it.": bool(gone),
            f"the label of {relabelled[:1]} is not what was meant.": bool(relabelled),
            f"{more} more reviews are read than the file had.": more > 0,
        },
        f"all {len(_MEANT)} reviews are read as they were meant; labels {corpus.labels}.",
    )
