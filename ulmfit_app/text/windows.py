"""Windows of texts to batches for a transformer's language model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ulmfit_app.errors import DataError
from ulmfit_app.text.batches import Batches
from ulmfit_app.text.store import TokenStore

MASKED = 0.15  # of the tokens; Devlin et al. 2019, section 3.1, as the shares below
REPLACED_BY_MASK, REPLACED_BY_ANY = 0.8, 0.1


@dataclass(frozen=True)
class Objective:
    """What a language model learns to predict.

    Args:
        mask: id of the mask token; None: the next token.
        specials: ids that are never predicted, nor put in the place of others.
        unknown: id of what the vocabulary has no piece for; a special, but predicted in texts that
            have nothing else.
    """

    mask: int | None
    specials: frozenset[int] = frozenset()
    unknown: int | None = None


class WindowBatches(Batches):
    """Windows of texts, to predict masked tokens or the next ones.

    A text is cut into windows of nearly equal length; each begins with the token that begins the
    text. Windows of like length stand together.

    Yields (x, where, y): int64 [n, longest], padded with the store's padding; bool [n, longest],
    true where something is predicted; and int64 [predicted], what. Since y is one row per
    prediction, fastai weighs a batch's loss by its predictions.

    Which tokens are masked follows from seed and epoch: in training others each epoch, in
    validation always the same.
    """

    def __init__(
        self,
        store: TokenStore,
        texts: Sequence[int],
        batch_size: int,
        window: int,
        objective: Objective,
        seed: int = 0,
        shuffle: bool = False,
    ) -> None:
        """Batches of the windows of some texts.

        Args:
            store: token ids, each text with the token that begins it.
            texts: which of its texts, by number.
            batch_size: windows of a batch.
            window: tokens at most, the one that begins a text aside.
            objective: what is predicted.
            seed: of the order and of what is masked, together with the epoch.
            shuffle: for training.

        Raises:
            DataError: there is nothing to predict.
        """
        super().__init__(store, texts, batch_size, seed, shuffle)
        self.objective = objective
        windows = cut_into_windows(store.lengths()[self.texts] - 1, window)
        self.windows = windows[windows[:, 2] > windows[:, 1]]
        if not len(self.windows):
            raise DataError(
                "The language model needs texts of at least one token in training and in "
                "validation."
            )

    def __len__(self) -> int:
        return -(-len(self.windows) // self.batch_size)

    def _batches(self, generator: np.random.Generator) -> list[np.ndarray]:
        lengths = self.windows[:, 2] - self.windows[:, 1]
        jitter = generator.uniform(0.98, 1.02, len(lengths)) if self.shuffle else 1
        order = np.argsort(-lengths * jitter, kind="stable")
        batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        if self.shuffle:
            # The longest first: a batch too large for memory fails at once.
            batches[1:] = [batches[1 + i] for i in generator.permutation(len(batches) - 1)]
        return batches

    def __iter__(self) -> Iterator[tuple]:
        import torch

        generator = self._generator(self.epoch if self.shuffle else 0)
        batches = self._batches(generator)
        # A generator for each batch: what is masked does not depend on where the epoch began.
        seeds = generator.integers(2**63, size=len(batches))
        for rows, seed in list(zip(batches, seeds, strict=True))[self.start :]:
            x = self._padded(self.windows[rows])
            if self.objective.mask is None:
                where = np.zeros(x.shape, bool)
                where[:, :-1] = x[:, 1:] >= 0
                y = x[:, 1:][where[:, :-1]]
            else:
                x, where, y = mask_tokens(x, self.objective, len(self.vocab), int(seed))
            if self.shard != (0, 1):
                # Of what is masked in the whole batch, whoever reads it.
                own, owner = self._own(np.arange(len(x))), np.nonzero(where)[0]
                if not len(own):
                    continue
                is_own = np.isin(owner, own)
                self.share = float(is_own.sum() / len(y)) if self.share else 0.0
                x, where, y = x[own], where[own], y[is_own]
            yield torch.from_numpy(x), torch.from_numpy(where), torch.from_numpy(y)

    def _padded(self, windows: np.ndarray) -> np.ndarray:
        longest = int((windows[:, 2] - windows[:, 1]).max()) + 1
        x = np.full((len(windows), longest), self.store.padding, np.int64)
        for row, (text, first, end) in enumerate(windows):
            ids = self.store[self.texts[text]]
            x[row, 0] = ids[0]
            x[row, 1 : 1 + end - first] = ids[first:end]
        return x


def cut_into_windows(lengths: np.ndarray, window: int) -> np.ndarray:
    """Windows of texts, as few as can be, those of a text of nearly equal length.

    Args:
        lengths: tokens of each text, int64 [n_texts], the one that begins it aside.
        window: tokens at most, that one aside.

    Returns:
        int64 [n_windows, 3]: the text; its first token, which token 0 begins; and behind the last
        one. A text of no tokens has a window of none.

    >>> cut_into_windows(np.array([5, 0]), window=3).tolist()
    [[0, 1, 3], [0, 3, 6], [1, 1, 1]]
    """
    counts = np.maximum(-(-lengths // window), 1)
    owner = np.repeat(np.arange(len(lengths)), counts)
    which = np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)
    cuts = [1 + (which + i) * lengths[owner] // counts[owner] for i in (0, 1)]
    return np.stack([owner, *cuts], 1)


def mask_tokens(
    x: np.ndarray, objective: Objective, n_words: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose tokens to be predicted, and replace most of them (Devlin et al. 2019, section 3.1).

    Of all tokens, 15 % are chosen, and at least one of each window; of those, 80 % become the mask
    token, 10 % any token, and 10 % stay.

    Args:
        x: int64 [n, length], negative at padding; column 0, which begins each window, is never
            chosen.
        objective: the mask, and ids that are neither chosen nor put in.
        n_words: of the vocabulary.
        seed: of the choice.

    Returns:
        x with tokens replaced; where they were chosen, bool [n, length]; and what stood there,
        int64 [chosen].
    """
    generator = np.random.default_rng(seed)
    specials = np.array(sorted(objective.specials), np.int64)
    eligible = (x >= 0) & ~np.isin(x, specials)
    # A text of unknown pieces alone, such as emoji, has these to predict.
    bare = ~eligible[:, 1:].any(1)
    eligible[bare] = x[bare] == (-2 if objective.unknown is None else objective.unknown)
    eligible[:, 0] = False
    draws = np.where(eligible, generator.random(x.shape), 2.0)
    where = draws < MASKED
    # A short question would otherwise teach nothing in most epochs.
    without = ~where.any(1) & eligible.any(1)
    where[without, draws[without].argmin(1)] = True
    y = x[where]
    fate = generator.random(len(y))
    others = np.setdiff1d(np.arange(n_words), specials)
    put = np.where(fate < REPLACED_BY_MASK, objective.mask, y)
    by_any = fate >= 1 - REPLACED_BY_ANY
    put[by_any] = generator.choice(others, int(by_any.sum()))
    masked = x.copy()
    masked[where] = put
    return masked, where, y
