"""Token ids to batches for training and scoring."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ulmfit_app.errors import DataError
from ulmfit_app.text.store import TokenStore

if TYPE_CHECKING:
    import torch


class Batches:
    """What fastai's Learner asks of a loader, plus a place to go on from.

    Ours, because the order of fastai's loaders depends on the process's random state and on all
    epochs before, and they begin at the first batch only: a resumed run could not see what the
    uninterrupted one saw (test_plain_fastais_loaders_order_depends_on_what_ran_before).

    Attributes:
        epoch: which order comes next; epochs count from 0.
        start: batches to leave out at its beginning.
        shard: which of how many processes reads these batches: each its share of their rows.
        share: how much of the batch that came last that was, from 0 to 1. In training, a process
            without a row of a batch reads one in step with the others, and has a share of 0.
    """

    def __init__(
        self, store: TokenStore, texts: Sequence[int], batch_size: int, seed: int, shuffle: bool
    ) -> None:
        """Batches of some texts.

        Args:
            store: token ids.
            texts: which of its texts, by number.
            batch_size: rows of a batch.
            seed: of the order, together with the epoch.
            shuffle: another order each epoch; otherwise the same.
        """
        self.store, self.texts = store, np.asarray(texts, np.int64)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.epoch = self.start = 0
        self.shard, self.share = (0, 1), 1.0

    @property
    def vocab(self) -> list[str]:
        return self.store.words

    @property
    def device(self) -> "torch.device":
        from ulmfit_app.hardware import choose_device

        return choose_device()

    def _generator(self, epoch: int) -> np.random.Generator:
        """The same numbers for the same epoch, whatever ran before: a resumed run is equal."""
        return np.random.default_rng([self.seed, epoch])

    def _own(self, rows: np.ndarray) -> np.ndarray:
        """Which rows of a batch this process reads; rows of like length lie beside each other."""
        place, processes = self.shard
        own = rows[place::processes]
        self.share = len(own) / len(rows)
        return rows[:1] if self.shuffle and not len(own) else own


class LanguageModelBatches(Batches):
    """The texts as one stream, read in `batch_size` places at once (Merity et al. 2017).

    Yields (x, y): int64 [batch_size, bptt], y one token later than x; the last batch may be
    shorter. Each time that the texts have been read, they come in another order when `shuffle`. A
    corpus too short for `batch_size` places is read in fewer.

    Ours, because fastai's LMDataLoader cannot go on from the middle of an epoch (see `Batches`)
    and gives no batches at all, silently, of a corpus too short for its batch size
    (test_plain_fastai_gives_no_batches_of_a_corpus_too_short_for_its_batch_size).
    """

    def __init__(
        self,
        store: TokenStore,
        texts: Sequence[int],
        batch_size: int,
        bptt: int,
        seed: int = 0,
        shuffle: bool = False,
        tokens_per_epoch: int | None = None,
    ) -> None:
        """Batches of a stream of texts.

        Args:
            store: token ids.
            texts: which of its texts, by number.
            batch_size: places that are read at once.
            bptt: tokens per place and batch.
            seed: of the order of texts, together with how often they were read.
            shuffle: another order each time that all texts have been read.
            tokens_per_epoch: an epoch is so many tokens of the stream, and the next one goes on
                behind them; None for all of it.

        Raises:
            DataError: there is no second token to predict.
        """
        super().__init__(store, texts, batch_size, seed, shuffle)
        # The last token has no successor, so it is only ever a target.
        tokens = int(store.lengths()[self.texts].sum()) - 1
        if tokens < 1:
            raise DataError(
                "The language model needs texts of at least two tokens in training and in "
                "validation."
            )
        self.bptt = bptt
        self.parts = max(1, tokens // (tokens_per_epoch or tokens))
        tokens //= self.parts
        self.batch_size = max(1, min(batch_size, tokens // bptt))
        self.row = tokens // self.batch_size

    def __len__(self) -> int:
        return -(-self.row // self.bptt)

    def __iter__(self):
        import torch

        times_read, part = divmod(self.epoch, self.parts)
        texts = self._generator(times_read).permutation(self.texts) if self.shuffle else self.texts
        begin = part * self.row * self.batch_size
        ends = self.store.lengths()[texts].cumsum()

        def read(start: int, stop: int) -> np.ndarray:
            """Tokens start to stop of the stream."""
            first, last = np.searchsorted(ends, [start, stop - 1], side="right")
            tokens = np.concatenate([self.store[t] for t in texts[first : last + 1]])
            skipped = start - (ends[first - 1] if first else 0)
            return tokens[skipped : skipped + stop - start]

        # In blocks, so that what is carried from batch to batch is, process by process, in order.
        place, processes = self.shard
        first, last = (self.batch_size * each // processes for each in (place, place + 1))
        self.share = (last - first) / self.batch_size
        if first == last:
            if not self.shuffle:
                return
            last += 1
        own = slice(first, last)
        for batch in range(self.start, len(self)):
            left = batch * self.bptt
            right = min(left + self.bptt, self.row)
            places = range(begin, begin + self.row * self.batch_size, self.row)[own]
            rows = [read(place + left, place + right + 1) for place in places]
            block = torch.from_numpy(np.stack(rows).astype(np.int64))
            yield block[:, :-1], block[:, 1:]


class ClassifierBatches(Batches):
    """Texts of like length together, padded on the right.

    Yields (x, y): int64 [n, longest] padded with the store's padding, and the labels, int64 [n],
    or float32 [n, ...] where they are soft; without labels, (x,). When `shuffle`, batches and what
    is in them change each epoch, and the longest comes first, so that a batch too large for memory
    fails at once; otherwise the longest texts come first, and `order` says which text a row is.

    Ours, because fastai's SortedDL cannot go on from the middle of an epoch either, and pads two
    to three times as much where lengths differ as those of reviews do
    (test_plain_fastai_pads_more); its Pad_Chunk puts padding first, which makes a prediction
    depend on the texts that share the batch (test_plain_fastai_puts_padding_first).

    Attributes:
        mixed: texts of any length together, for a loss that compares them; much more padding.
    """

    mixed = False

    def __init__(
        self,
        store: TokenStore,
        texts: Sequence[int],
        labels: Sequence[int] | np.ndarray | None,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        passes: int = 1,
    ) -> None:
        """Batches of texts with their labels.

        Args:
            store: token ids.
            texts: which of its texts, by number.
            labels: class of each of these texts, [n], or what a teacher says of it, float
                [n, ...]; None where there are none.
            batch_size: rows of a batch; one more in the last where a row would be left alone.
            seed: of the order, together with the epoch.
            shuffle: for training.
            passes: over all texts, in another order each, that make an epoch.
        """
        super().__init__(store, texts, batch_size, seed, shuffle)
        self.passes = passes
        self.labels = None if labels is None else _as_labels(np.asarray(labels))
        self.lengths = store.lengths()[self.texts]

    def __len__(self) -> int:
        return self.passes * self._batches_per_pass()

    def _batches_per_pass(self) -> int:
        whole, rest = divmod(len(self.texts), self.batch_size)
        # Batch normalisation cannot train on a single row: it joins the batch before.
        return max(whole + (rest > (1 if self.shuffle and whole else 0)), 1)

    @property
    def order(self) -> np.ndarray:
        """Positions in `texts`, int64 [n_texts], in the order of rows when not shuffled."""
        return np.argsort(-self.lengths, kind="stable")

    def _batches(self) -> list[np.ndarray]:
        if not self.shuffle:
            return self._cut(self.order)
        numbers = range(self.epoch * self.passes, (self.epoch + 1) * self.passes)
        return [rows for number in numbers for rows in self._shuffled(number)]

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        cuts = np.arange(1, self._batches_per_pass()) * self.batch_size
        return np.split(order, cuts)

    def _shuffled(self, number: int) -> list[np.ndarray]:
        """The batches of a pass, by its number."""
        if self.mixed:
            return self._cut(self._generator(number).permutation(len(self.texts)))
        # Sorted by lengths that are off by up to 2 %: little padding, and another mixture each
        # epoch. fastai sorts within blocks of 50 batches.
        jitter = self._generator(number).uniform(0.98, 1.02, len(self.lengths))
        batches = self._cut(np.argsort(-self.lengths * jitter, kind="stable"))
        longest = max(range(len(batches)), key=lambda i: self.lengths[batches[i]].max())
        order = self._generator(number).permutation(len(batches))
        return [batches[longest], *(batches[i] for i in order if i != longest)]

    def __iter__(self):
        import torch

        for batch in self._batches()[self.start :]:
            # As long as the longest text of the whole batch, in each process.
            longest, rows = self.lengths[batch].max(), self._own(batch)
            if not len(rows):
                continue
            x = np.full((len(rows), longest), self.store.padding, np.int64)
            for i, row in enumerate(rows):
                x[i, : self.lengths[row]] = self.store[self.texts[row]]
            ids = (torch.from_numpy(x),)
            yield ids if self.labels is None else (*ids, torch.from_numpy(self.labels[rows]))


def _as_labels(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64, copy=False)
