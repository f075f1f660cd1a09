"""Notebook 02, tokens and vocabulary: what a vocabulary knows, what another order of it does; checks of its exercises."""

from collections.abc import Sequence
from types import EllipsisType

import numpy as np
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config
from fastai.text.models.core import SequentialRNN, get_language_model

from ulmfit_app.course import Verdict, judged, unanswered
from ulmfit_app.inference.language_model import TrainedModel
from ulmfit_app.inference.perplexity import perplexity
from ulmfit_app.models.awd_lstm import shaped
from ulmfit_app.models.bundle import Bundle
from ulmfit_app.text.batches import LanguageModelBatches
from ulmfit_app.text.rules import FAKE, SPECIALS
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.tokenizer import Tokenizer
from ulmfit_app.text.tokenizing import in_memory

ROWS, BPTT = 16, 72


def coverage(store: TokenStore, learned: np.ndarray, read: np.ndarray) -> np.ndarray:
    """What share of the tokens of some texts is known to a vocabulary of the n commonest words of others, for n = 1, 2, ….

    learned, read: which texts of the store the words are counted in, and which are then read. Returns [n_words learned].
    """
    counts = store.counts(learned)
    commonest = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    of_read = store.counts(read)
    return of_read[commonest].cumsum() / of_read.sum()


def shuffled(vocab: Sequence[str], seed: int = 0) -> list[str]:
    """The same words in another order, the specials and what fills up the end in their places."""
    fixed = {i for i, word in enumerate(vocab) if word in SPECIALS or word == FAKE}
    moving = [i for i in range(len(vocab)) if i not in fixed]
    words = list(vocab)
    for i, j in zip(moving, np.random.default_rng(seed).permutation(moving), strict=True):
        words[i] = vocab[j]
    return words


def score(trained: TrainedModel, texts: Sequence[str], vocab: Sequence[str]) -> float:
    """The perplexity of a language model on texts whose words were numbered by `vocab`, whatever the model's own is."""
    store = in_memory(texts, trained.bundle.language, list(vocab))
    return perplexity(
        trained.model, LanguageModelBatches(store, np.arange(len(store)), ROWS, BPTT)
    ).perplexity


def plain_fastai(bundle: Bundle) -> SequentialRNN:
    """fastai's own language model of a bundle's size, with random weights: it is never told a vocabulary."""
    return get_language_model(
        AWD_LSTM, len(bundle.vocab), config=shaped(awd_lstm_lm_config, bundle.shape)
    )


# ----------------------------------------------------------------------------------------------------------- the exercises
def check_text(answer: str | EllipsisType, target: Sequence[str]) -> Verdict:
    """Exercise 1: a text whose tokens are `target`."""
    if verdict := unanswered(answer):
        return verdict
    tokens = Tokenizer()(answer)
    same = next(
        (i for i, (a, b) in enumerate(zip(tokens, target, strict=False)) if a != b),
        min(len(tokens), len(target)),
    )
    got, wanted = (
        part[same] if same < len(part) else "nothing more" for part in (tokens, list(target))
    )
    return judged(
        {
            "the specials are what the tokenizer adds; a text that holds them as words gets them broken up.": any(
                special in answer for special in SPECIALS
            ),
            f"the first {same} tokens are right; then comes {got!r} where {wanted!r} should.": tokens
            != list(target),
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
    """Exercise 2: the fewest words, commonest first, that know at least `share` of the tokens read."""
    if verdict := unanswered(answer):
        return verdict
    known, known_learned = coverage(store, learned, read), coverage(store, learned, learned)
    if not 1 <= answer <= len(known):
        return Verdict(
            False,
            f"expected a number of words between 1 and {len(known):,}, the words of the first texts.",
        )
    own = int(np.argmax(known_learned >= share)) + 1
    reached, before = known[answer - 1], known[answer - 2] if answer > 1 else 0.0
    return judged(
        {
            f"{answer:,} words know {share:.0%} of the texts that they were counted in, but {reached:.1%} of the "
            "others, which are what a model is going to meet.": answer == own and reached < share,
            f"{answer:,} words know {reached:.1%} of the tokens, less than {share:.0%}.": reached
            < share,
            f"{answer:,} words are enough; but {answer - 1:,} are, too. How few will do?": before
            >= share,
        },
        f"{answer:,} words know {reached:.2%} of the tokens, and one less would not reach {share:.0%}. "
        f"On their own texts {own:,} would.",
    )


def check_order(
    answer: Sequence[int] | EllipsisType, vocab: Sequence[str], other: Sequence[str]
) -> Verdict:
    """Exercise 3: the rows of an embedding of `vocab` in the order in which `other` needs them."""
    if verdict := unanswered(answer):
        return verdict
    answer = np.asarray(answer)
    if answer.shape != (len(other),) or not np.array_equal(np.sort(answer), np.arange(len(vocab))):
        return Verdict(
            False, f"expected each row from 0 to {len(vocab) - 1:,} once: {len(vocab):,} numbers."
        )
    # Words that fill up the end are all alike.
    right = [vocab[i] for i in answer] == list(other)
    first = next((i for i, row in enumerate(answer) if vocab[row] != other[i]), 0)
    inverse = [vocab[i] for i in np.argsort(answer)] == list(other)
    return judged(
        {
            "this is the way back: it says where each row of the old order goes. Asked is which row comes in each place.": (
                inverse and not right
            ),
            f"place {first:,} belongs to {other[first]!r}, and this order puts the row of {vocab[answer[first]]!r} there.": (
                not right
            ),
        },
        f"all {len(other):,} words get their own rows back.",
    )
