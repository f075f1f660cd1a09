"""What each part of a run gets to see, watched while whole small runs are carried out.

A text here is a code of three common words, which every split holds, so that it is known again in
the ids that a model is given; and one word of its own, which shows whom a vocabulary was made of.
"""

import csv
import json
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastai.learner import Learner
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from data_scripts.fetch import Source
from ulmfit_app.config import DataSettings, ModelSettings, Settings, TokenSettings
from ulmfit_app.data import known_sets
from ulmfit_app.evaluation import decisions
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.pipeline import baselines, report, stages
from ulmfit_app.pipeline.run import begin
from ulmfit_app.presets import TINY
from ulmfit_app.text.batches import ClassifierBatches
from ulmfit_app.text.rules import PAD_ID
from ulmfit_app.text.store import TokenStore

pytestmark = pytest.mark.usefixtures("undrawn")

LABELS = ["neg", "pos"]
COLOURS = "red blue green black white brown".split()
ANIMALS = "fox owl hare mole toad newt".split()
PLACES = "meadow river forest garden harbour village".split()
CODES = random.Random(0).sample(list(product(COLOURS, ANIMALS, PLACES)), 216)
NUMBERS = {code: number for number, code in enumerate(CODES)}
SYLLABLES = "ba ke di mo lu ra".split()


def own_word(number: int) -> str:
    """A word that no other text holds."""
    return "zy" + "".join(SYLLABLES[number // 6**i % 6] for i in range(3))


def label_of(number: int) -> str:
    return LABELS[number % 2]


def text_of(number: int) -> str:
    opinion = ("awful", "superb")[number % 2]
    return f"{' '.join(CODES[number])} makes the film {opinion} and {own_word(number)}"


def number_of(text: str) -> int:
    return NUMBERS[tuple(text.split()[:3])]


# ----------------------------------------------------------------------------------- four sources
SIZES = {
    "train": range(80),
    "valid": range(80, 100),
    "test": range(100, 124),
    "unlabelled": range(124, 154),
}


def settings_of(data: DataSettings, **changes) -> Settings:
    return replace(
        TINY,
        data=data,
        tokens=TokenSettings(min_freq=1),
        model=ModelSettings(emb_sz=12, n_hid=16, n_layers=2),
        lm=replace(TINY.lm, epochs=2, batch_size=4, bptt=20, max_tokens=None),
        classifier=replace(TINY.classifier, epochs=3, batch_size=16, max_tokens=None),
        precision="fp32",
        **changes,
    )


def csv_with_splits(folder: Path, test_texts: bool = False):
    """Every split is given; some unlabelled texts are copies of held-out ones."""
    rows = [
        (text_of(n), label_of(n) if split != "unlabelled" else "", split)
        for split, numbers in SIZES.items()
        for n in numbers
    ]
    rows += [(text_of(n), "", "unlabelled") for n in (80, 81, 100, 101, 102)]
    random.Random(1).shuffle(rows)
    path = folder / "reviews.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label", "split"), *rows])
    settings = settings_of(DataSettings(str(path)))
    settings = replace(settings, lm=replace(settings.lm, test_texts=test_texts))
    return settings, {n: split for split, numbers in SIZES.items() for n in numbers}


def class_folder(folder: Path):
    """No split is given, and subsets are taken."""
    _write_texts(folder / "films", {label: range(i, 150, 2) for i, label in enumerate(LABELS)})
    data = DataSettings(str(folder / "films"), max_train=70, max_valid=12, max_test=18)
    return settings_of(data), None


def registry_table(folder: Path):
    """No split is given; other rows are no reviews of IMDb, and not all labels are used."""
    path = folder / "reviews.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label", "source"))
        writer.writerows((text_of(n), n % 2, "imdb") for n in range(170))
        writer.writerows((text_of(n), n % 2, "rotten_tomatoes") for n in range(170, 200))
    settings = settings_of(DataSettings("imdb"))
    few = dict(lm=replace(settings.lm, max_tokens=1_100))
    few |= dict(classifier=replace(settings.classifier, max_tokens=3 * 700))
    return replace(settings, **few), None


def imdb_folder(folder: Path):
    """The test split is given, and forward and backward models are trained."""
    root = folder / "imdb"
    for split in ("train", "test"):
        numbers = SIZES[split]
        parts = {label: numbers[i::2] for i, label in enumerate(LABELS)}
        _write_texts(root / split, parts)
    _write_texts(root, {"unsup": [*SIZES["unlabelled"], 100, 101, 102]})
    settings = settings_of(DataSettings("imdb", data=root), bidirectional=True)
    given = {n: split for split in ("test", "unlabelled") for n in SIZES[split]}
    return settings, given


def _write_texts(root: Path, parts: dict[str, range | list[int]]) -> None:
    for name, numbers in parts.items():
        (root / name).mkdir(parents=True)
        for n in numbers:
            (root / name / f"{n}_1.txt").write_text(text_of(n), encoding="utf-8")


SOURCES = {make.__name__: make for make in (csv_with_splits, class_folder, registry_table)}
SOURCES |= {"imdb_folder": imdb_folder}
SOURCES |= {"csv_with_test_texts": lambda folder: csv_with_splits(folder, test_texts=True)}
DIRECTIONS = [
    *((name, "") for name in SOURCES),
    ("imdb_folder", "-backward"),
]


# ---------------------------------------------------------------------------------------- watching
@dataclass
class Watched:
    """A run that was carried out, and what its stages were given, by the name of the stage.

    trained, validated: a list of batches per epoch, each the arrays that fastai's Learner took.
    scored: the batches of each reading of texts without labels.
    counted: the rows of the tokens whose words were counted.
    """

    run: object = None
    given: dict[int, str] | None = None
    stage: str = ""
    trained: dict = field(default_factory=lambda: defaultdict(list))
    validated: dict = field(default_factory=lambda: defaultdict(list))
    scored: dict = field(default_factory=lambda: defaultdict(list))
    counted: dict = field(default_factory=lambda: defaultdict(list))
    temperatures: dict = field(default_factory=lambda: defaultdict(list))
    baselines: list = field(default_factory=list)

    def read(self) -> None:
        """The run's own files, by pandas alone."""
        folder = self.run.folder
        self.vocab = json.loads((folder / "tokens" / "vocab.json").read_text("utf-8"))
        table = pd.read_csv(folder / "data" / "table.csv", keep_default_na=False)
        uses = pd.read_csv(folder / "data" / "selection.csv")
        table["number"] = table["text"].map(number_of)
        self.table, self.uses = table, uses.merge(table, on="row", validate="one_to_one")

    def numbers(self, *uses: str) -> list[int]:
        """Of the texts that are used as these, in the order of the run's tokens."""
        return self.uses.loc[self.uses["use"].isin(uses), "number"].tolist()

    def in_stream(self, batches: list, backward: bool) -> list[int]:
        """The texts of a language model's epoch. The last one may be cut off."""
        stream = np.concatenate([x for x, _ in batches], axis=1).ravel()
        return self._texts(stream[::-1] if backward else stream)

    def in_rows(self, rows: np.ndarray, backward: bool) -> list[int]:
        """The text of each row of a classifier's batch."""
        rows = (row[row != PAD_ID] for row in rows)
        return [number for row in rows for number in self._texts(row[::-1] if backward else row)]

    def _texts(self, ids: np.ndarray) -> list[int]:
        words = [self.vocab[i] for i in ids]
        begins = [i for i, word in enumerate(words) if word == "xxbos" and i + 4 <= len(words)]
        return [NUMBERS[tuple(words[i + 1 : i + 4])] for i in begins]


def watch(seen: Watched, patch: pytest.MonkeyPatch) -> None:
    """Write down what the parts of a run get, and let them go on."""

    def watched(owner, name, note):
        real = getattr(owner, name)

        def function(*args, **kwargs):
            note(*args, **kwargs)
            return real(*args, **kwargs)

        patch.setattr(owner, name, function)

    def batch(learn, i, arrays):
        epochs = (seen.trained if learn.training else seen.validated)[seen.stage]
        if i == 0:
            epochs.append([])
        epochs[-1].append([array.cpu().numpy() for array in arrays])

    def texts(batches):
        if batches.labels is None:
            rows = [batches.store[text] for text in batches.texts]
            seen.scored[seen.stage].append(rows)

    def temperature(*arrays):
        seen.temperatures[seen.stage].append([np.array(array) for array in arrays])

    watched(stages.Stage, "carry_out", lambda stage, *_: setattr(seen, "stage", stage.name))
    watched(Learner, "one_batch", batch)
    watched(ClassifierBatches, "__iter__", texts)
    watched(TokenStore, "counts", lambda _, rows: seen.counted[seen.stage].append(list(rows)))
    watched(decisions, "fit_temperature", temperature)
    watched(TfidfVectorizer, "fit_transform", lambda _, texts, *__: seen.baselines.append([texts]))
    watched(LogisticRegression, "fit", lambda _, x, y, *__: seen.baselines[-1].append(list(y)))
    watched(baselines, "majority", lambda truth, *_: seen.baselines.append([None, list(truth)]))
    patch.setattr(report, "N_EXPLAINED", 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each source's run, carried out once when it is first asked for."""
    made: dict[str, Watched | None] = {}

    def run_on(name: str) -> Watched:
        if name not in made:
            made[name] = None
            folder, seen = tmp_path_factory.mktemp(name), Watched()
            settings, seen.given = SOURCES[name](folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
                if name == "registry_table":
                    source = Source(folder / "reviews.csv", "the registry")
                    patch.setattr(known_sets.imdb, "fetch", lambda _: source)
                watch(seen, patch)
                seen.run = begin(folder / "run", settings)
                seen.run.carry_out()
            seen.read()
            made[name] = seen
        return made[name] or pytest.fail(f"The run {name} has failed in an earlier test.")

    return run_on


@pytest.fixture(params=SOURCES)
def seen(request, runs) -> Watched:
    return runs(request.param)


@pytest.fixture(params=DIRECTIONS, ids="".join)
def directed(request, runs) -> tuple[Watched, str]:
    name, direction = request.param
    return runs(name), direction


# ------------------------------------------------------------------------------------- the splits
def test_the_splits_of_the_source_are_kept_and_no_text_is_in_two(seen):
    splits = seen.table.groupby("number")["split"].agg(set)
    assert (splits.map(len) == 1).all()
    sizes = seen.table["split"].value_counts()
    assert sizes[["train", "valid", "test"]].min() > 0
    for number, split in (seen.given or {}).items():
        assert splits[number] == {split}
    assert seen.table["number"].max() < 170, "a row of another source is among the reviews"


def test_a_text_is_used_as_what_its_split_says(seen):
    """A training text whose label is not used is read as one without a label."""
    for use, split in seen.uses[["use", "split"]].itertuples(index=False):
        assert use == split or (use, split) == ("unlabelled", "train")
    for split in ("valid", "test"):
        assert sorted(seen.numbers(split)) == sorted(
            seen.table.loc[seen.table["split"] == split, "number"]
        )


def test_each_text_keeps_its_own_label(seen):
    labelled = seen.table[seen.table["split"] != "unlabelled"]
    assert (labelled["label"] == labelled["number"].map(label_of)).all()
    assert (seen.table.loc[seen.table["split"] == "unlabelled", "label"] == "").all()


# ------------------------------------------------------------------------------ the language model
def allowed(seen: Watched) -> list[int]:
    """What the language model may learn from."""
    more = ["test"] if seen.run.record.settings.lm.test_texts else []
    return seen.numbers("train", "unlabelled", *more)


def test_the_language_model_learns_from_training_and_unlabelled_texts(directed):
    seen, direction = directed
    read = set(seen.uses.loc[seen.uses["read"] == "yes", "number"])
    assert read <= set(allowed(seen)) and not read & set(seen.numbers("valid"))
    epochs = seen.trained[f"lm{direction}"]
    assert len(epochs) == seen.run.record.lm_epochs
    for batches in epochs:
        texts = seen.in_stream(batches, bool(direction))
        # Each once; what is left over behind the last full row of tokens is not read.
        assert len(texts) == len(set(texts)) >= len(read) - 1
        assert set(texts) <= read


def test_bounds_apart_the_language_model_learns_from_all_of_them(runs):
    for name in ("csv_with_splits", "class_folder", "imdb_folder", "csv_with_test_texts"):
        seen = runs(name)
        epochs = [seen.in_stream(batches, backward=False) for batches in seen.trained["lm"]]
        assert set().union(*epochs) == set(allowed(seen))
    bounded = runs("registry_table")
    assert len(set(allowed(bounded))) > len(bounded.numbers("train"))


def test_the_language_model_reads_test_texts_where_asked_and_the_report_says_so(runs):
    seen = runs("csv_with_test_texts")
    texts = seen.in_stream(seen.trained["lm"][0], backward=False)
    assert len(set(texts) & set(SIZES["test"])) >= len(SIZES["test"]) - 1
    facts = json.loads((seen.run.folder / "report" / "metrics.json").read_text())["facts"]
    said = "The language model learns from the 24 texts of the test split too"
    assert any(note.startswith(said) for note in facts["notes"])
    without = json.loads(
        (runs("csv_with_splits").run.folder / "report" / "metrics.json").read_text()
    )
    assert not any("test split too" in note for note in without["facts"]["notes"])


def test_the_language_model_is_selected_on_the_validation_texts(directed):
    seen, direction = directed
    valid = set(seen.numbers("valid"))
    for batches in seen.validated[f"lm{direction}"]:
        texts = set(seen.in_stream(batches, bool(direction)))
        assert texts <= valid and len(texts) >= len(valid) - 1


def test_the_vocabulary_is_made_of_what_the_language_model_may_learn_from(seen):
    words = {own_word(number): number for number in range(len(CODES))}
    known = {words[word] for word in seen.vocab if word in words}
    assert known == set(allowed(seen))
    (rows,) = seen.counted["tokens"]
    assert sorted(seen.uses["number"].iloc[rows]) == sorted(allowed(seen))


def test_the_output_biases_start_at_the_frequencies_of_the_texts_that_are_read(directed):
    seen, direction = directed
    (rows,) = seen.counted[f"lm{direction}"]
    assert set(seen.uses["read"].iloc[rows]) == {"yes"}


# -------------------------------------------------------------------------------- the classifier
def pairs(seen: Watched, batches: list, direction: str) -> list[tuple[int, str]]:
    """The texts of a classifier's epoch with the labels that came with them."""
    return [
        (number, LABELS[y])
        for rows, labels in batches
        for number, y in zip(seen.in_rows(rows, bool(direction)), labels, strict=True)
    ]


def expect_own_labels(seen, direction, epochs, split):
    """Each of three epochs has the texts of a split, all of them, with their own labels."""
    expected = sorted((number, label_of(number)) for number in seen.numbers(split))
    assert len(epochs) == 3
    for batches in epochs:
        assert sorted(pairs(seen, batches, direction)) == expected


def test_the_classifier_learns_the_training_texts_with_their_own_labels(directed):
    seen, direction = directed
    expect_own_labels(seen, direction, seen.trained[f"classifier{direction}"], "train")


def test_the_classifier_is_selected_on_the_validation_texts_with_their_own_labels(directed):
    seen, direction = directed
    expect_own_labels(seen, direction, seen.validated[f"classifier{direction}"], "valid")


def test_the_classifier_that_is_kept_is_the_one_of_the_best_validation_epoch(directed):
    seen, direction = directed
    folder = seen.run.folder / f"classifier{direction}"
    history, valid = (pd.read_csv(folder / name) for name in ("history.csv", "validation.csv"))
    best = history.sort_values(["accuracy", "valid_loss"], ascending=[False, True]).iloc[0]
    right = valid[[f"p_{label}" for label in LABELS]].to_numpy()
    right = right[np.arange(len(valid)), valid["label"].map(LABELS.index)]
    assert (right > 0.5).mean() == pytest.approx(best["accuracy"])
    assert -np.log(right).mean() == pytest.approx(best["valid_loss"], rel=1e-3)


def test_the_temperature_is_fitted_on_the_validation_texts(directed):
    seen, direction = directed
    (found,) = seen.temperatures[f"classifier{direction}"]
    _expect_temperature(seen, found, [f"classifier{direction}"])


def test_the_temperature_of_both_directions_is_fitted_on_the_validation_texts(runs):
    seen = runs("imdb_folder")
    (found,) = seen.temperatures["report"]
    _expect_temperature(seen, found, ["classifier", "classifier-backward"])


def _expect_temperature(seen: Watched, found: list[np.ndarray], names: list[str]) -> None:
    numbers = seen.numbers("valid")
    assert [LABELS[i] for i in found[1]] == [label_of(number) for number in numbers]
    alone = []
    for name in names:
        classifier = Predictor(seen.run.folder / name, "fp32")
        store = classifier.store([text_of(number) for number in numbers])
        alone += classifier.each(store).values()
    np.testing.assert_allclose(found[0], np.mean(alone, axis=0), atol=1e-5)


# -------------------------------------------------------------------------------------- the report
def test_no_stage_before_the_report_sees_a_test_text(seen):
    test = set(seen.numbers("test"))
    for stage in seen.run.stages:
        backward = stage.endswith("-backward")
        for batches in [*seen.trained[stage], *seen.validated[stage]]:
            if not stage.startswith("lm"):
                assert not test & {n for x, _ in batches for n in seen.in_rows(x, backward)}
            elif not seen.run.record.settings.lm.test_texts:
                assert not test & set(seen.in_stream(batches, backward))
        if stage.startswith("classifier"):
            (rows,) = seen.scored[stage]
            assert seen.in_rows(rows, backward) == seen.numbers("valid")
        elif stage != "report":
            assert not seen.scored[stage]


def test_the_report_scores_each_test_text_once_in_each_direction_and_no_other(seen):
    n_directions = len(seen.run.record.directions)
    assert len(seen.scored["report"]) == n_directions
    for rows, backward in zip(seen.scored["report"], (False, True), strict=False):
        assert seen.in_rows(rows, backward) == seen.numbers("test")
    assert not seen.trained["report"] and not seen.validated["report"]


def test_the_predictions_of_the_report_are_of_the_test_texts_with_their_own_labels(seen):
    folder = seen.run.folder / "report"
    predictions = pd.read_csv(folder / "predictions.csv")
    numbers = predictions["text"].map(number_of)
    assert numbers.tolist() == seen.numbers("test")
    assert predictions["label"].tolist() == [label_of(number) for number in numbers]
    model = json.loads((folder / "metrics.json").read_text())["model"]
    assert model["n"] == len(numbers)
    right = predictions["label"] == predictions["predicted"]
    assert model["accuracy"] == pytest.approx(right.mean())


def test_the_baselines_learn_the_training_texts_with_their_own_labels(seen):
    train = seen.table.loc[seen.table["split"] == "train", "number"].tolist()
    used = seen.numbers("train")
    (_, shares), *tfidf = seen.baselines
    assert [LABELS[i] for i in shares] == [label_of(number) for number in used]
    expected = [used, train] if len(train) > len(used) else [used]
    assert len(tfidf) == len(expected)
    for (texts, labels), numbers in zip(tfidf, expected, strict=True):
        assert [number_of(text) for text in texts] == numbers
        assert [LABELS[i] for i in labels] == [label_of(number) for number in numbers]


def test_bounded_labels_make_two_baselines(runs):
    """Or the tests above would say nothing of the one on all labels."""
    assert len(runs("registry_table").baselines) == 3
