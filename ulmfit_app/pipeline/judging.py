"""How an updated run does beside its parent, and beside a run that was trained from the start."""

from dataclasses import replace

import numpy as np
import pandas as pd

from ulmfit_app.data.extending import UPDATE
from ulmfit_app.data.near_copies import find_copies
from ulmfit_app.data.reading import read_own_table
from ulmfit_app.errors import DataError, RunFolderError
from ulmfit_app.evaluation import updates
from ulmfit_app.evaluation.tables import prediction_table
from ulmfit_app.inference.predictor import load_classifiers
from ulmfit_app.models.architectures import subwords_of
from ulmfit_app.models.bundle import load_bundle
from ulmfit_app.pipeline.parents import PARENT, parent_folders, seconds_to_train
from ulmfit_app.pipeline.record import RunRecord
from ulmfit_app.pipeline.run_files import RunFiles
from ulmfit_app.pipeline.updated import is_new
from ulmfit_app.run_folder import ROW, read_record
from ulmfit_app.text.rules import FAKE, UNK_ID
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.subword_store import subwords_in_memory
from ulmfit_app.text.tokenizing import tokenize

RETRAINED = "retrained"  # folder in that of an updated run: the same, trained from the start


def judge_update(run: RunFiles, predictions: pd.DataFrame) -> tuple[dict, dict[str, float]]:
    """What an updated run gained on new texts and lost on old ones.

    Args:
        run: the updated one.
        predictions: of its tested texts, with columns label and predicted.

    Returns:
        What metrics.json says of it; and seconds of training, by name as `updates` has them.

    Raises:
        BundleError, RunFolderError: what is kept of the parent is gone or was altered.
    """
    record, rows = run.record, run.rows
    table = run.corpus.table
    newest = is_new(table)
    tested = rows["split"] == "test"
    answers = {updates.UPDATED: predictions, updates.PARENT: _ask_parent(run, tested)}
    seconds = {updates.UPDATED: seconds_to_train(run), updates.PARENT: record.parent.seconds}
    retrained = _open_retrained(run, predictions)
    if retrained is not None:
        answers[updates.RETRAINED], seconds[updates.RETRAINED] = retrained
    of_new = newest.to_numpy()[rows[ROW]]
    labels = load_bundle(parent_folders(run)[0], "classifier").labels
    learned = (rows["split"] == "train").to_numpy()
    found = {
        "parent": record.parent.run.rpartition("/")[2],
        "number": int(table[UPDATE].astype(int).max()),
        "learned": {"new": int((learned & of_new).sum()), "old": int((learned & ~of_new).sum())},
        "old_training_texts": int(((table["split"] == "train") & ~newest).sum()),
        "new_labels": [label for label in record.data.labels if label not in labels],
        "new_words": _count_new_words(run),
    }
    compared = updates.compare_update(answers, of_new[tested], record.data.multilabel)
    return found | compared, seconds


def find_learned(run: RunFiles) -> np.ndarray:
    """Of each tested text of an updated run, whether it or its parent learned from a copy, as
    `find_copies` says it: of old training texts, the run itself reads some again."""
    table, tested = run.corpus.table, run.rows.loc[run.rows["split"] == "test", "text"].tolist()
    texts = [*tested, *table.loc[table["split"] == "train", "text"]]
    is_tested = np.arange(len(texts)) < len(tested)
    if run.read_tokenizer():
        bundle = load_bundle(run.place("lm"), "language model")
        store = subwords_in_memory(texts, subwords_of(bundle, bundle.opencc))
    else:
        store = TokenStore.open(tokenize(texts, run.record.settings.tokens.language))
    return find_copies(store, texts, is_tested, ~is_tested)


def _count_new_words(run: RunFiles) -> int:
    lm = load_bundle(run.folder / PARENT / run.record.directions[0].named("lm"), "language model")
    before, now = ({*each} - {FAKE} for each in (lm.vocab, run.open_tokens().words))
    return len(now - before)


def _ask_parent(run: RunFiles, tested: pd.Series) -> pd.DataFrame:
    """The parent's answers to the tested texts."""
    n_valid, precision = run.record.parent.n_valid, run.record.settings.precision
    predictor = load_classifiers(parent_folders(run), n_valid, precision)
    store = read_as(run.open_tokens(), predictor.bundle.vocab)
    texts = np.flatnonzero(tested)
    found = predictor.probabilities(store, texts, "The parent, on the test split")
    groups = run.groups_for(predictor.decision, tested)
    table = run.rows[tested]
    said = prediction_table(table["text"], found, predictor.labels, predictor.decision, groups)
    return said.assign(label=table["label"].to_numpy())


def read_as(store: TokenStore, words: list[str]) -> TokenStore:
    """Texts as they were read before their vocabulary grew.

    Args:
        store: texts as ids of the grown vocabulary.
        words: the vocabulary before, whose words have kept their ids.
    """
    if store.words == words:
        return store
    n_known = len(words) - words.count(FAKE)
    ids = np.where(store.ids < n_known, store.ids, UNK_ID).astype(np.int32)
    return replace(store, ids=ids, words=words)


def _open_retrained(run: RunFiles, predictions: pd.DataFrame) -> tuple[pd.DataFrame, float] | None:
    """The answers of the run that was trained from the start on the same table, and its seconds;
    None where there is none, or it is not finished."""
    folder = run.folder / RETRAINED
    values = read_record(folder) if folder.is_dir() else None
    if values is None:
        return None
    other = RunFiles(folder, RunRecord.understand(values, folder), folder)
    if other.record.data.source_sha256 != run.record.data.table_sha256:
        return None  # of an earlier table
    if not other.is_finished("report"):
        return None
    try:
        table = read_own_table(folder / "report" / "predictions.csv", len(predictions))
    except DataError as error:
        raise RunFolderError(
            f"The report of {folder} is damaged: {error} Remove {folder / 'report'}, and give the "
            "command again that made it."
        ) from None
    if any(table[name].tolist() != predictions[name].tolist() for name in ("text", "label")):
        return None
    return table, seconds_to_train(other)
