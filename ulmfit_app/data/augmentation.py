"""Easy data augmentation: more texts by changing words (Wei and Zou 2019, "EDA", section 2).

Words are what stands between spaces and signs, which stay where they are; numbers are no words
here. The paper joins words with single spaces, without the signs between them.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

WORD = re.compile(r"[^\W\d_]+(?:['’.-][^\W\d_]+)*")
NEIGHBOURS = 5  # of a word in an embedding that may stand in its place
ASKED_AT_A_TIME = 256  # words, each of which is compared with all

Synonyms = Callable[[str], Sequence[str]]


def stop_words(language: str) -> frozenset[str]:
    """spaCy's stop words of a language, in lower case; none where it has none.

    language: spaCy's code of it, with or without a region.
    """
    from spacy.util import get_lang_class  # takes a second

    found = get_lang_class(language.partition("-")[0]).Defaults.stop_words
    return frozenset(word.lower() for word in found)


def in_case_of(word: str, old: str) -> str:
    """A word with the capitals of the one that it replaces.

    >>> in_case_of("film", "Movie"), in_case_of("film", "MOVIE"), in_case_of("Paris", "capital")
    ('Film', 'FILM', 'Paris')
    """
    if len(old) > 1 and old.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if old[:1].isupper() else word


def count_changes(share: float, n_words: int) -> int:
    """How many of a text's words change: the share, but one at least."""
    return max(1, int(share * n_words))


def generator_for(seed: int, row: int, copy: int) -> np.random.Generator:
    """What a copy of a text is drawn from, whichever other texts there are.

    Args:
        seed: of the run.
        row: of the text in its table.
        copy: its number.
    """
    return np.random.default_rng([seed, 3, row, copy])


def make_copies(
    texts: Sequence[str],
    rows: Sequence[int],
    copies: int,
    seed: int,
    change: Callable[[str, np.random.Generator], str | None],
) -> list[list[str]]:
    """Changed copies of texts, no two alike of a text, and none like it.

    Args:
        texts: as they were typed, [n].
        rows: of them in their table, [n].
        copies: of each text, at most.
        seed: of the run.
        change: a text -> another one; None where nothing can be changed.

    Returns:
        Of each text its copies, [n].
    """
    found = []
    for text, row in zip(texts, rows, strict=True):
        of_text = [change(text, generator_for(seed, row, copy)) for copy in range(copies)]
        found.append([new for new in dict.fromkeys(of_text) if new is not None])
    return found


class EDA:
    """Changes a text by one of four operations, drawn at random (Wei and Zou 2019, section 2).

    Replacement puts synonyms in the place of words that are no stop words; insertion puts a
    synonym of such a word at a random position; swap exchanges two words; these change a share of
    the words, but one at least. Deletion leaves each word out with a chance of that share. An
    operation that changes nothing, since no word has a synonym, say, gives way to another.

    Args:
        synonyms: a word -> words that may stand in its place.
        stop_words: in lower case.
        share: of a text's words that change, 0.1 in the paper for most sizes of data.
    """

    def __init__(
        self, synonyms: Synonyms, stop_words: Collection[str], share: float = 0.1
    ) -> None:
        self.synonyms, self.stop_words, self.share = synonyms, stop_words, share
        self.operations = (self.replace, self.insert, self.swap, self.delete)

    def __call__(self, text: str, generator: np.random.Generator) -> str | None:
        """Another text of the same meaning, as far as that can be hoped; None: nothing changes."""
        for number in generator.permutation(len(self.operations)):
            cut = CutText(text)
            if cut.words:
                self.operations[number](cut, generator)
            if (made := str(cut)) != text and made.strip():
                return made
        return None

    def replace(self, cut: "CutText", generator: np.random.Generator) -> None:
        """Synonym replacement, of different positions."""
        left = count_changes(self.share, len(cut.words))
        for i in generator.permutation(len(cut.words)):
            if left and (synonym := self._draw_synonym(cut.words[i], generator)):
                cut.words[i] = in_case_of(synonym, cut.words[i])
                left -= 1

    def insert(self, cut: "CutText", generator: np.random.Generator) -> None:
        """Random insertion of synonyms."""
        own = list(cut.words)
        for _ in range(count_changes(self.share, len(own))):
            of = (own[i] for i in generator.permutation(len(own)))
            synonym = next(filter(None, (self._draw_synonym(word, generator) for word in of)), "")
            if synonym:
                cut.insert(generator.integers(len(cut.words) + 1), synonym)

    def swap(self, cut: "CutText", generator: np.random.Generator) -> None:
        """Random swap of two words."""
        if len(cut.words) > 1:
            for _ in range(count_changes(self.share, len(cut.words))):
                i, j = generator.choice(len(cut.words), 2, replace=False)
                cut.words[i], cut.words[j] = cut.words[j], cut.words[i]

    def delete(self, cut: "CutText", generator: np.random.Generator) -> None:
        """Random deletion; one word stays."""
        gone = generator.random(len(cut.words)) < self.share
        gone[generator.integers(len(gone))] &= not gone.all()
        for i in np.flatnonzero(gone)[::-1]:
            cut.delete(i)

    def _draw_synonym(self, word: str, generator: np.random.Generator) -> str:
        # The s of "what 's" is no sulphur, as WordNet has it.
        if len(word) < 2 or word.lower() in self.stop_words:
            return ""
        found = self.synonyms(word)
        return found[generator.integers(len(found))] if len(found) else ""


class CutText:
    """A text as its words, and what stands before, between and behind them.

    Attributes:
        words: in order, [n].
        gaps: [n + 1].
    """

    def __init__(self, text: str) -> None:
        self.words, self.gaps, done = [], [], 0
        for match in WORD.finditer(text):
            self.words.append(match[0])
            self.gaps.append(text[done : match.start()])
            done = match.end()
        self.gaps.append(text[done:])

    def __str__(self) -> str:
        pairs = zip(self.gaps, [*self.words, ""], strict=True)
        return "".join(part for pair in pairs for part in pair)

    def insert(self, place: int, word: str) -> None:
        """Put a word before the one at a place; behind the last one where there is none."""
        self.gaps.insert(place + (place < len(self.words)), " ")
        self.words.insert(place, word)

    def delete(self, place: int) -> None:
        """Leave a word out, and one of the spaces beside it."""
        del self.words[place]
        before, behind = self.gaps[place], self.gaps.pop(place + 1)
        if before.endswith(" "):
            before = before[:-1]
        elif not before:
            behind = behind.removeprefix(" ")
        self.gaps[place] = before + behind


def nearest_words(
    words: Sequence[str], vectors: np.ndarray, asked: Iterable[str], n: int = NEIGHBOURS
) -> dict[str, list[str]]:
    """The words nearest to others in an embedding, by the cosine.

    Near are words that stand among the same words: "bad" is near to "good".

    Args:
        words: of the embedding, different ones, [n_words].
        vectors: of each, [n_words, d].
        asked: those that the embedding does not have are left out.
        n: how many of each.

    Returns:
        Of each asked word its nearest ones, the nearest first.

    >>> of = ["film", "movie", "tea"]
    >>> nearest_words(of, np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]), ["film"], 1)
    {'film': ['movie']}
    """
    places = {word: i for i, word in enumerate(words)}
    known = [word for word in dict.fromkeys(asked) if word in places]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    found = {}
    for start in range(0, len(known), ASKED_AT_A_TIME):
        some = known[start : start + ASKED_AT_A_TIME]
        rows = np.array([places[word] for word in some])
        cosines = unit[rows] @ unit.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(n, len(words) - 1)]
        found |= {word: [words[i] for i in near] for word, near in zip(some, order, strict=True)}
    return found
