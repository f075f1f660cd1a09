"""The stage `augment`: more texts for the classifier to learn from, made of its labelled ones.

It lies behind the language models, which some methods ask, and which read none of what is made.
augmented.csv has what was made, and beside it lie its tokens, in the run's own vocabulary. The
method `mix` has no texts, and no such stage: it belongs to the training.
"""

import logging
import shlex
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ulmfit_app.config import GENERAL, AugmentationSettings, Settings
from ulmfit_app.data.augmentation import EDA, WORD, make_copies, nearest_words, stop_words
from ulmfit_app.data.back_translation import EXAMPLE, count_lines_joined, translate, try_out
from ulmfit_app.data.characters import escape
from ulmfit_app.data.near_copies import find_copies
from ulmfit_app.data.reading import read_table
from ulmfit_app.data.wordnet import find_wordnet, load_wordnet
from ulmfit_app.errors import DataError, RunFolderError, SettingError, count_texts
from ulmfit_app.files import write_table
from ulmfit_app.inference.replacing import Replacer
from ulmfit_app.languages import has_subwords
from ulmfit_app.models.architectures import subwords_of
from ulmfit_app.models.bundle import Bundle, load_bundle
from ulmfit_app.models.hub import is_transformer
from ulmfit_app.models.pretrained import locate
from ulmfit_app.models.reader import read_language_model
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.transformer import load_language_model
from ulmfit_app.pipeline.run_files import RunFiles, open_tokens
from ulmfit_app.run_folder import (
    AUGMENT,
    MARK,
    ROW,
    read_mark,
)
from ulmfit_app.text.rules import FAKE, SPECIALS
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.subword_store import subwords_in_memory
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.tokenizing import in_memory, tokenize

log = logging.getLogger(__name__)

AUGMENTED = "augmented.csv"
COLUMNS = [ROW, "text", "method", "label"]
NOTES = "notes"  # what the mark of the stage calls what it did, in sentences
SAMPLES, SHOWN = 3, 160  # of what was made; characters of each
BACKWARD = f"{GENERAL}-bwd"
WHAT = {
    "eda": "synonyms, insertion, swap and deletion of words",
    "lm": "words that a forward and a backward language model agree on",
    "translate": "a translation there and back",
    "mix": "means of two texts' states and targets, in each batch",
}


# -------------------------------------------------------------------------------------- before it
def growth_by(how: AugmentationSettings) -> int:
    """How many times as many texts there are to learn from."""
    return 1 + how.copies if how.makes_texts else 1


def has_own_pair(settings: Settings) -> bool:
    """Whether a run has a forward and a backward language model of words itself."""
    return settings.bidirectional and not is_transformer(settings.lm.pretrained)


def check_augmentation(settings: Settings) -> None:
    """Refuse an augmentation that cannot be carried out.

    Args:
        settings: of a run, which name the language of its texts.

    Raises:
        SettingError: it cannot, and what to do instead.
    """
    how, language = settings.augment, settings.tokens.language
    option = f"--augment.method {how.method}"
    if how.method == "none":
        return
    if settings.distillation.teachers:
        raise SettingError(
            f"{option} makes texts of labelled ones, and this run learns from a teacher's "
            "answers, which it can give to unlabelled texts too. Leave it out."
        )
    if how.share > 1:
        raise SettingError(f"--augment.share must be from 0 to 1, not {how.share:g}.")
    if how.method == "translate" and not (how.command or "").strip():
        raise SettingError(
            f"{option} needs a command that translates there and back, such as: --augment.command "
            f"{shlex.quote(EXAMPLE)}"
        )
    if how.method not in ("eda", "lm"):
        return
    if has_subwords(language):
        raise SettingError(
            f"{option} changes words, and texts in {language} are written without spaces between "
            "them. Use: --augment.method translate, or --augment.method mix"
        )
    is_english = language.partition("-")[0] == "en"
    if how.method == "lm" and not is_english and not has_own_pair(settings):
        raise SettingError(
            f"{option} asks a forward and a backward language model, and those of the package "
            f"know English, not {language}. With --bidirectional the run's own are asked; or use: "
            "--augment.method eda --augment.synonyms embedding"
        )
    if how.method == "eda" and how.synonyms == "wordnet":
        if not is_english:
            raise SettingError(
                f"{option} takes synonyms from WordNet, which knows English, not {language}. Take "
                "the nearest words in the language model's embedding: --augment.synonyms embedding"
            )
        find_wordnet()


def read_by_augmentation(settings: Settings) -> tuple[str, ...]:
    """The stages whose results it reads, beside tokens: forward and backward language models."""
    how = settings.augment
    if how.method == "lm" and has_own_pair(settings):
        return ("lm", "lm-backward")
    return ("lm",) if how.method == "eda" and how.synonyms == "embedding" else ()


def describe_augmentation(settings: Settings, n_train: int) -> list[str]:
    """What a run will learn from beside its texts, in sentences; nothing without augmentation.

    Args:
        settings: of it.
        n_train: texts that its classifier learns from.
    """
    how = settings.augment
    if how.method == "none":
        return []
    what = f"Augmentation, {how.method}: {WHAT[how.method]}"
    if not how.makes_texts:
        return [f"{what}, while the classifier learns."]
    share = how.copies / growth_by(how)
    return [
        f"{what}. The classifier learns from up to {how.copies * n_train:,} such texts, too, "
        f"{share:.0%} of all that it learns from; the language model, validation and test have "
        "none of them."
    ]


def check_translation(run: RunFiles) -> None:
    """Try the command that a run translates with, where it is still to do so.

    Language models are trained before it, and a program that is missing is told before them.

    Raises:
        SettingError: as `translate` does.
    """
    how = run.record.settings.augment
    if how.method == "translate" and not run.is_finished(AUGMENT):
        try_out(how.command)


# ------------------------------------------------------------------------------------ its texts
def augment(run: RunFiles, folder: Path) -> dict[str, Any]:
    """Make the texts, and write augmented.csv and their tokens.

    The columns are row (of the text that each was made of), text, method, and label, which is
    that text's. A copy of a validation or test text, or nearly one, is dropped.

    Returns:
        What was done, for the mark of the stage.
    """
    how = run.record.settings.augment
    rows = run.rows.iloc[run.labelled("train")[0]]
    texts = rows["text"].tolist()
    made = _make(run, texts, rows[ROW].tolist())
    places = np.repeat(np.arange(len(texts)), [len(each) for each in made])
    flat = [text for each in made for text in each]
    kept = ~_has_held_out_copy(run, flat)
    places, new = places[kept], [text for text, keep in zip(flat, kept, strict=True) if keep]
    sources = rows.iloc[places]
    table = pd.DataFrame({ROW: sources[ROW], "text": new, "method": how.method})
    table["label"] = sources["label"].to_numpy()
    write_table(folder / AUGMENTED, table)
    _write_tokens(run, new, folder)
    notes = [
        f"Augmentation, {how.method}: {len(new):,} of {len(texts) + len(new):,} texts that the "
        f"classifier learned from ({len(new) / (len(texts) + len(new)):.0%}) were made of the "
        f"others, by {WHAT[how.method]}; {AUGMENT}/{AUGMENTED} has them. None is in validation or "
        "test."
    ]
    if lacking := sum(len(each) < how.copies for each in made):
        notes.append(
            f"{count_texts(lacking)} got no copy, or fewer: nothing changed in them, or nothing "
            "else."
        )
    if dropped := int((~kept).sum()):
        notes.append(
            f"Dropped {count_texts(dropped, 'such text')} found in valid or test, or nearly so."
        )
    if how.method == "translate" and (joined := count_lines_joined(texts)):
        notes.append(f"Lines of {count_texts(joined)} were joined by spaces to be translated.")
    notes += _sample(sources["text"].tolist(), new, run.record.settings.seed)
    log.info("%s", "\n".join(notes))
    return {NOTES: notes}


def _sample(texts: list[str], new: list[str], seed: int) -> list[str]:
    """Some of what was made, to be looked at: no method knows what a text means."""
    order = np.random.default_rng([seed, 4]).permutation(len(new))
    # Of short texts, so that what changed can be seen.
    some = sorted(order, key=lambda i: max(len(texts[i]), SHOWN))[:SAMPLES]
    return [f"{_show(texts[i])} became {_show(new[i])}." for i in some]


def _show(text: str) -> str:
    return f"'{escape(text[:SHOWN])}{'…' if len(text) > SHOWN else ''}'"


def _make(run: RunFiles, texts: list[str], rows: list[int]) -> list[list[str]]:
    """Of each text its copies."""
    settings = run.record.settings
    how, seed, language = settings.augment, settings.seed, settings.tokens.language
    if how.method == "translate":
        back = translate(texts, how.command)
        pairs = zip(texts, back, strict=True)
        return [[new] if new.split() not in ([], text.split()) else [] for text, new in pairs]
    without = stop_words(language)
    if how.method == "lm":
        pair = locate(GENERAL), locate(BACKWARD)
        if names := read_by_augmentation(settings):
            pair = tuple(map(run.place, names))
        replacer = Replacer(*pair, without, settings.precision)
        return replacer.replace(texts, rows, how.copies, how.share, seed)
    if how.synonyms == "wordnet":
        synonyms = load_wordnet(find_wordnet()).synonyms
    else:
        near = _read_neighbours(run, texts, without)

        def synonyms(word: str) -> list[str]:
            return near.get(word.lower(), [])

    return make_copies(texts, rows, how.copies, seed, EDA(synonyms, without, how.share))


def _read_neighbours(
    run: RunFiles, texts: list[str], without: Collection[str]
) -> dict[str, list[str]]:
    """The nearest words, in the language model's embedding, of those in some texts."""
    bundle = load_bundle(run.place("lm"), "language model")
    asked = _words_of(texts)
    if isinstance(bundle.shape, TransformerShape):
        read = run.rows.loc[run.rows["read"] | run.rows["learned"], "text"]
        words, ids = _whole_tokens(bundle, sorted(_words_of(read)))
        weight = load_language_model(bundle).encoder.get_input_embeddings().weight
    else:
        words, ids = bundle.vocab, range(len(bundle.vocab))
        weight = read_language_model(bundle)[0].encoder.weight
    left_out = {*SPECIALS, FAKE, *without}
    known = {w: i for w, i in zip(words, ids, strict=True) if len(w) > 1 and w.isalpha()}
    known = {word: i for word, i in known.items() if word not in left_out}
    vectors = weight.detach().numpy()[list(known.values())]
    return nearest_words(list(known), vectors, sorted(asked))


def _words_of(texts: Iterable[str]) -> set[str]:
    return {word.lower() for text in texts for word in WORD.findall(text)}


def _whole_tokens(bundle: Bundle, words: list[str]) -> tuple[list[str], list[int]]:
    """Those of some words that are a token of a transformer's, behind a space, and its ids."""
    tokenizer = subwords_of(bundle)
    left_out = {*tokenizer.specials, tokenizer.unknown}
    encoded = tokenizer.ids(f" {word}" for word in words)
    pairs = zip(words, encoded, strict=True)
    whole = [(w, int(ids[1])) for w, ids in pairs if len(ids) == 2 and ids[1] not in left_out]
    return [word for word, _ in whole], [i for _, i in whole]


def _has_held_out_copy(run: RunFiles, new: list[str]) -> np.ndarray:
    """Which of some texts have a copy in valid or test, or nearly one, bool [n]."""
    table = run.corpus.table
    held_out = table.loc[table["split"].isin(("valid", "test")), "text"].tolist()
    texts, is_new = [*new, *held_out], np.arange(len(new) + len(held_out)) < len(new)
    if run.read_tokenizer():
        store = subwords_in_memory(texts, _tokenizer_of(run))
    else:
        # As they were tokenized: among the numbers of a vocabulary, texts would agree in all words
        # that it lacks.
        store = TokenStore.open(tokenize(texts, run.record.settings.tokens.language))
    return find_copies(store, texts, is_new, ~is_new) != "no"


def _tokenizer_of(run: RunFiles) -> SubwordTokenizer:
    bundle = load_bundle(run.place("lm"), "language model")
    return subwords_of(bundle, bundle.opencc)


def _write_tokens(run: RunFiles, new: list[str], folder: Path) -> None:
    if run.read_tokenizer():
        made = subwords_in_memory(new, _tokenizer_of(run))
    else:
        made = in_memory(new, run.record.settings.tokens.language, run.open_tokens().words)
    made.write(folder)


# ------------------------------------------------------------------------------------ for training
def with_augmented(
    run: RunFiles, store: TokenStore, train: tuple[np.ndarray, np.ndarray]
) -> tuple[TokenStore, tuple[np.ndarray, np.ndarray]]:
    """The tokens of a run with those of its augmented texts, and what its classifier learns from.

    Args:
        run: with a stage `augment`, or without: then nothing is added.
        store: its tokens, to be read in a direction.
        train: which of them it learns from [n], and the labels of each, [n] or [n, n_labels].

    Raises:
        RunFolderError: the augmented texts are missing or damaged.
    """
    if not run.record.settings.augment.makes_texts:
        return store, train
    folder, (texts, truth) = run.place(AUGMENT), train
    more = open_tokens(folder, run.again())
    if not len(more):
        return store, train
    place_of = {row: place for place, row in enumerate(run.rows[ROW].iloc[texts])}
    try:
        rows = read_table(folder / AUGMENTED)[ROW].astype(int)
        sources = np.array([place_of[row] for row in rows], int)
        if len(sources) != len(more) or more.words != store.words:
            raise ValueError("their tokens are of other texts or words")
    except (DataError, KeyError, ValueError) as error:
        raise RunFolderError(
            f"The augmented texts in {folder} are missing or damaged: {error}. Remove "
            f"{shlex.quote(str(folder))} and {run.again()}"
        ) from None
    added = np.arange(len(store), len(store) + len(more))
    learned = np.concatenate([texts, added]), np.concatenate([truth, truth[sources]])
    return store.followed_by(more), learned


def describe_augmented(run: RunFiles) -> list[str]:
    """What a run learned from beside its texts, in sentences; nothing without augmentation."""
    if not run.record.settings.augment.makes_texts:
        return []
    return read_mark(run.place(AUGMENT) / MARK).get(NOTES, [])
