"""Words that were met before, and what became of each.

A corpus has far fewer different words than words, so the tokens of each are found once. A text is
then the numbers of its words, and the token ids of many texts are gathered by numpy.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np


class KnownWords(dict[str, int]):
    """The number of each word; one that is looked up for the first time gets the next.

    Attributes:
        tokens: of each number, as far as they were learned; None where they depend on the words
            beside it.
        unsure: the numbers of these. Words that are too long to be remembered share number 0, and
            are among them.
    """

    def __init__(self, longest: int) -> None:
        """Begin with no word.

        Args:
            longest: so many characters of a word are remembered, but no more.
        """
        super().__init__({"": 0})
        self.tokens: list[tuple[str, ...] | None] = [None]
        self.unsure = {0}
        self._longest = longest
        # Of each token; there are no more than spaCy holds words.
        self._id_of = defaultdict(itertools.count().__next__)
        self._token_of: list[str] = []  # of each id
        self._ids = np.zeros(0, np.int32)  # of the tokens of each number, one behind the other
        self._counts = np.zeros(0, np.int64)  # of tokens of each number

    def __missing__(self, word: str) -> int:
        if len(word) > self._longest:
            return 0
        self[word] = number = len(self)
        return number

    def unlearned(self) -> list[str]:
        """The words that have a number and no tokens yet, in their order."""
        new = list(itertools.islice(reversed(self), len(self) - len(self.tokens)))
        return new[::-1]

    def learn(self, tokens: list[tuple[str, ...] | None]) -> None:
        """Keep the tokens of the words that had none."""
        begin = len(self.tokens)
        self.unsure |= {begin + i for i, its_tokens in enumerate(tokens) if its_tokens is None}
        self.tokens += tokens

    def ids(
        self, numbers: Sequence[Sequence[int]], others: Mapping[int, Sequence[str]]
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The tokens of many texts.

        Args:
            numbers: of the words of each text.
            others: tokens of the texts, by their place, that are not those of their words.

        Returns:
            The different tokens in the order in which they appear; ids into them, int32
            [n_tokens]; and tokens per text, int64 [n_texts].
        """
        new = [its_tokens or () for its_tokens in self.tokens[len(self._counts) :]]
        self._ids, self._counts = self._with(new)
        ids, counts = self._with(others.values())
        # Such a text is read as one more word.
        place = dict(zip(others, itertools.count(len(self.tokens))))
        numbers = [[place[i]] if i in place else words for i, words in enumerate(numbers)]
        read = np.fromiter(itertools.chain.from_iterable(numbers), np.int64)
        # Where the tokens of each word that was read begin in `ids`, and where they go to.
        starts, counts = (counts.cumsum() - counts)[read], counts[read]
        stops = counts.cumsum()
        ids = ids[np.arange(counts.sum()) + np.repeat(starts - (stops - counts), counts)]
        lengths = np.diff(np.append(0, stops)[np.cumsum([0, *map(len, numbers)])])
        return *self._renumbered(ids), lengths

    def _with(self, tokens: Collection[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and counts of the tokens of each number, with some more."""
        ids = np.fromiter(
            map(self._id_of.__getitem__, itertools.chain.from_iterable(tokens)), np.int32
        )
        self._token_of += itertools.islice(self._id_of, len(self._token_of), None)
        counts = np.array([len(its_tokens) for its_tokens in tokens], np.int64)
        return np.append(self._ids, ids), np.append(self._counts, counts)

    def _renumbered(self, ids: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Tokens in the order in which they appear, and ids into them."""
        places = np.arange(len(ids))
        first = np.empty(len(self._token_of), np.int64)
        first[ids[::-1]] = places[::-1]  # the last that is written stays
        appearing = ids[first[ids] == places]
        new_id = np.empty(len(first), np.int32)
        new_id[appearing] = np.arange(len(appearing))
        return [self._token_of[i] for i in appearing.tolist()], new_id[ids]
