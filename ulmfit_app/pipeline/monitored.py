"""What a run makes of texts, its own and new ones, for a comparison."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import DataError, RunFolderError, count_texts, quoted
from ulmfit_app.evaluation.drift import Sample
from ulmfit_app.evaluation.tables import probability_columns, read_set
from ulmfit_app.evaluation.writing import name_writing
from ulmfit_app.inference.predictor import Predictor
from ulmfit_app.pipeline.run import Run
from ulmfit_app.text.rules import SPECIALS, UNK_ID
from ulmfit_app.text.store import TokenStore

log = logging.getLogger(__name__)

FEWEST_TESTED = 500  # texts of the test split; of fewer, those of validation are taken too
MOST_OLD, MOST_NEW = 10_000, 5_000  # texts that are compared
MOST_STATES = 1_000  # of each, whose states are: they take the encoder a second time
SEED = 0


# ----------------------------------------------------------------------------- the run's own texts
def sample_run(
    run: Run, predictor: Predictor, most_states: int, most: int = MOST_OLD
) -> tuple[Sample, np.ndarray, str]:
    """The texts that a run was tested on, in random order; of few, with those of validation.

    Args:
        run: with a trained classifier.
        predictor: of it.
        most_states: of how many of them states are made.
        most: texts.

    Returns:
        The sample; which share of each answer is right, [n]; and what the texts are.

    Raises:
        RunFolderError: it has neither kind of texts.
    """
    rows, truth = run.labelled("test")
    name, tested = run.record.data.test_name, len(rows)
    probabilities = _reported(run) if tested >= FEWEST_TESTED else None
    if tested < FEWEST_TESTED:
        more, its = run.labelled("valid")
        rows, truth = np.concatenate([rows, more]), np.concatenate([truth, its])
        name = f"{name} and the validation split" if tested else "the validation split"
    if not len(rows):
        raise RunFolderError(
            f"The run in {run.folder} has no test and no validation texts: there is nothing to "
            f"compare with. Make one that has: {run.again()}"
        )
    order = np.random.default_rng(SEED).permutation(len(rows))[:most]
    rows, truth = rows[order], truth[order]
    texts, store = run.rows["text"].iloc[rows].tolist(), _some(run.open_tokens(), rows)
    if probabilities is None:
        probabilities = predictor.probabilities(store, description="Reading the run's own texts")
    else:
        probabilities = probabilities[order]
    sample = _sample(predictor, store, probabilities, texts, most_states)
    same = sample.answers == truth
    return sample, (same.mean(axis=1) if same.ndim == 2 else same.astype(float)), name


def _reported(run: Run) -> np.ndarray | None:
    """The probabilities of the test split as the report has them; None without one."""
    if not run.is_finished("report"):
        return None
    path = run.place("report") / "predictions.csv"
    table = read_own_table(path, run.record.counts["test"])
    return table[probability_columns(table)].to_numpy(float)


def _some(store: TokenStore, rows: Iterable[int]) -> TokenStore:
    """Some texts of a store, in memory."""
    texts = [store.ids[:0], *(store[int(row)] for row in rows)]
    offsets = np.cumsum([0, *map(len, texts[1:])]).astype(np.int64)
    return replace(store, ids=np.concatenate(texts), offsets=offsets)


# --------------------------------------------------------------------------------------- new texts
def sample_answers(table: pd.DataFrame, predictor: Predictor, source: str) -> Sample:
    """Answers and confidence of a log.

    Args:
        table: as `read_answers` has it.
        predictor: of the model that answered.
        source: the name of the log, for the message.

    Raises:
        DataError: an answer is none of the run's labels.
    """
    index = {label: i for i, label in enumerate(predictor.labels)}
    try:
        if predictor.decision.multilabel:
            answers = np.zeros((len(table), len(index)), bool)
            for row, cell in enumerate(table["label"].astype(str)):
                answers[row, [index[label] for label in read_set(cell)]] = True
            return Sample(answers)
        return Sample(
            table["label"].astype(str).map(index.__getitem__).to_numpy(int),
            table["confidence"].to_numpy(float),
        )
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{source} has an answer that the run does not give: {error}. Its labels are "
            f"{quoted(predictor.labels)}."
        ) from None


def sample_texts(
    texts: Sequence[str], predictor: Predictor, most_states: int
) -> tuple[Sample, Counter[str]]:
    """What a run makes of texts, in their order; and in how many of them each unknown word is.

    Args:
        texts: at least one.
        predictor: of the run.
        most_states: of how many of them states are made.
    """
    known, unknown, tokens = set(predictor.bundle.vocab), Counter(), []
    for words in predictor.tokenizer.each(texts):
        tokens.append(words)
        unknown.update({word for word in words if word not in known})
    store = predictor.store_of(tokens)
    probabilities = predictor.probabilities(store, description="Reading the new texts")
    return _sample(predictor, store, probabilities, texts, most_states), unknown


def _sample(
    predictor: Predictor,
    store: TokenStore,
    probabilities: np.ndarray,
    texts: Sequence[str],
    most_states: int,
) -> Sample:
    from scipy.sparse import csr_matrix

    answers = predictor.decision.answer(probabilities)
    if answers.ndim == 2:
        confidence = np.where(answers, probabilities, 1 - probabilities).mean(axis=1)
    else:
        confidence = probabilities[np.arange(len(answers)), answers]
    row_of = np.repeat(np.arange(len(store)), store.lengths())
    has_specials = store.words[: len(SPECIALS)] == SPECIALS
    is_word = store.ids >= len(SPECIALS) if has_specials else np.ones(len(store.ids), bool)
    shape = (len(store), len(store.words))
    ones = np.ones(int(is_word.sum()), np.float32)
    words = csr_matrix((ones, (row_of[is_word], store.ids[is_word])), shape)
    words.sum_duplicates()
    few = _some(store, range(min(len(store), most_states)))
    if len(few):
        log.info("Reading the states of %s.", count_texts(len(few)))
    return Sample(
        answers,
        confidence,
        store.lengths(),
        None if predictor.bundle.tokenizer else _unknown_shares(store, row_of, is_word),
        np.array(list(map(name_writing, texts))),
        words,
        predictor.states(few) if len(few) else None,
    )


def _unknown_shares(store: TokenStore, row_of: np.ndarray, is_word: np.ndarray) -> np.ndarray:
    """The share of each text's words that the vocabulary lacks; 0 of a text without words."""
    is_unknown = store.ids == UNK_ID
    n_unknown, n_known = (
        np.bincount(row_of[of], minlength=len(store)) for of in (is_unknown, is_word)
    )
    return n_unknown / np.maximum(n_unknown + n_known, 1)


def draw(texts: Sequence[str], most: int, notes: list[str]) -> list[str]:
    """At most so many texts, in random order; a note where some are left out."""
    if len(texts) > most:
        notes.append(f"{most:,} of the {len(texts):,} texts were drawn at random.")
    order = np.random.default_rng(SEED).permutation(len(texts))[:most]
    return [texts[row] for row in order]
