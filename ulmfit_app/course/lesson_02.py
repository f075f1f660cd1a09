"""Notebook 02, tokens and vocabulary: what a vocabulary knows; checks of its exercises."""

from collections.abc import Sequence
from types import EllipsisType

import numpy as np
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.text.models.core import SequentialRNN, get_language_model

from ulmfit_app.course import Verdict, check_answered, check_number, judge
from ulmfit_app.data.corpus import Corpus
from ulmfit_app.inference.language_model import TrainedModel
from ulmfit_app.inference.perplexity import measure_perplexity
from ulmfit_app.models.awd_lstm import language_model_config
from ulmfit_app.models.bundle import Bundle
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.rules import FAKE, SPECIALS
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.tokenizing import in_memory, tokenize

ROWS, BPTT = 16, 72


def tokenize_corpus(corpus: Corpus) -> tuple[TokenStore, dict[str, np.ndarray]]:
    """The tokens of all texts of a corpus, and which of them are in "train" and in "valid"."""
    store = TokenStore.open(tokenize(corpus.table["text"].tolist()))
    split = corpus.table["split"].to_numpy()
    return store, {name: np.flatnonzero(split == name) for name in ("train", "valid")}


def measure_coverage(store: TokenStore, learned: np.ndarray, read: np.ndarray) -> np.ndarray:
    """The share of tokens known to a vocabulary of the n commonest words, for n = 1, 2, ….

    Args:
        store: all texts.
        learned: the texts whose words are counted, as indices.
        read: the texts whose tokens are looked up, as indices.

    Returns:
        Shares, [n_words learned].
    """
    counts = store.counts(learned)
    commonest = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    of_read = store.counts(read)
    return of_read[commonest].cumsum() / of_read.sum()


def shuffle_words(vocab: Sequence[str], seed: int = 0) -> list[str]:
    """The same words in another order; specials and the filler at the end keep their places."""
    fixed = {i for i, word in enumerate(vocab) if word in SPECIALS or word == FAKE}
    moving = [i for i in range(len(vocab)) if i not in fixed]
    words = list(vocab)
    for i, j in zip(moving, np.random.default_rng(seed).permutation(moving), strict=True):
        words[i] = vocab[j]
    return words


def measure_with_vocabulary(
    trained: TrainedModel, texts: Sequence[str], vocab: Sequence[str]
) -> float:
    """The perplexity of a language model on texts that are numbered by any vocabulary.

    Args:
        trained: the model.
        texts: what it reads.
        vocab: numbers the words, whatever vocabulary the model itself has.

    Returns:
        The perplexity.
    """
    store = in_memory(texts, trained.bundle.language, list(vocab))
    batches = LanguageModelBatches(store, np.arange(len(store)), ROWS, BPTT)
    return measure_perplexity(trained.model, batches).perplexity


def build_fastai_model(bundle: Bundle) -> SequentialRNN:
    """fastai's own language model in a bundle's size, with random weights and no vocabulary."""
    return get_language_model(
        AWD_LSTM, len(bundle.vocab), config=language_model_config(bundle.shape)
    )


# --------------------------------------------------------------------------------- the exercises
def check_text(answer: str | EllipsisType, target: Sequence[str]) -> Verdict:
    """Exercise 1: a text whose tokens are `target`."""
    if verdict := check_answered(answer):
        return verdict
    if not isinstance(answer, str):
        return Verdict(False, "expected a text, a string.")
    tokens, target = Tokenizer()(answer), list(target)
    shorter = min(len(tokens), len(target))
    same = next((i for i in range(shorter) if tokens[i] != target[i]), shorter)
    got, wanted = (part[same] if same < len(part) else "nothing more" for part in (tokens, target))
    typed = any(special in answer for special in SPECIALS)
    return judge(
        {
            "the tokenizer itself adds the specials; where a text contains one as a word, that "
            "word is broken up.": typed,
            f"the first {same} tokens are right; then comes {got!r} where {wanted!r} should "
            "be.": tokens != target,
        },
        f"{answer!r} has these {len(target)} tokens.",
    )


def check_size(
    answer: int | EllipsisType,
    store: TokenStore,
    learned: np.ndarray,
    read: np.ndarray,
    share: float,
) -> Verdict:
    """Exercise 2: the fewest words, commonest first, that know at least `share` of the tokens."""
    if verdict := check_number(answer, whole=True):
        return verdict
    known = measure_coverage(store, learned, read)
    known_learned = measure_coverage(store, learned, learned)
    if not 1 <= answer <= len(known):
        return Verdict(
            False,
            f"expected a number of words between 1 and {len(known):,}, the words of the texts in "
            "which they are counted.",
        )
    answer = int(answer)
    own = int(np.argmax(known_learned >= share)) + 1
    reached, before = known[answer - 1], known[answer - 2] if answer > 1 else 0.0
    too_few, too_many = reached < share, before >= share
    return judge(
        {
            f"{answer:,} words know {share:.0%} of the texts that they were counted in, but "
            f"{reached:.1%} of the others, which are what a model will have to "
            "read.": answer == own and too_few,
            f"{answer:,} words know {reached:.1%} of the tokens, less than {share:.0%}.": too_few,
            f"{answer:,} words are enough, but so are {answer - 1:,}. How few will do?": too_many,
        },
        f"{answer:,} words know {reached:.2%} of the tokens; one word less would not reach "
        f"{share:.0%}. On their own texts {own:,} would be enough.",
    )


def check_order(
    answer: Sequence[int] | EllipsisType, vocab: Sequence[str], other: Sequence[str]
) -> Verdict:
    """Exercise 3: the rows of an embedding of `vocab`, in the order that `other` needs."""
    if verdict := check_answered(answer):
        return verdict
    answer = np.asarray(answer)
    if answer.shape != (len(other),) or not np.array_equal(np.sort(answer), np.arange(len(vocab))):
        return Verdict(
            False, f"expected each row from 0 to {len(vocab) - 1:,} once: {len(vocab):,} numbers."
        )
    # The words that fill up the end are all the same.
    right = [vocab[i] for i in answer] == list(other)
    first = next((i for i, row in enumerate(answer) if vocab[row] != other[i]), 0)
    inverse = [vocab[i] for i in np.argsort(answer)] == list(other)
    return judge(
        {
            "this is the way back: it says where each row of the old order goes. The question is "
            "which row comes in each place.": inverse and not right,
            f"place {first:,} belongs to {other[first]!r}, and this order puts the row of "
            f"{vocab[answer[first]]!r} there.": not right,
        },
        f"all {len(other):,} words get their own rows back.",
    )
