"""Changes of texts that a classifier should bear: by senders, by machines and by tricksters.

Each changes a share of what it can change in a text, its strength, from 0 to 1. What is changed at
a small strength is changed in the same way at a larger one, so that accuracies at several
strengths differ by the added changes alone. All but one keep a text's label for a reader, as far
as can be told without knowing what the labels mean; `Perturbation.about` says why.

Kinds of changes as in Ribeiro et al. 2020 ("Beyond Accuracy: Behavioral Testing of NLP Models with
CheckList", section 2) and Pruthi et al. 2019 ("Combating Adversarial Misspellings with Robust Word
Recognition", section 3).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ulmfit_app.data.augmentation import WORD
from ulmfit_app.data.neutral_sentences import (
    ENGLISH,
    IRRELEVANT,
    NEGATED,
    SIMPLIFIED,
    TRADITIONAL,
)
from ulmfit_app.errors import SettingError
from ulmfit_app.languages import has_character, has_subwords, is_chinese

SHORTEST = 4  # letters of a word that is mistyped; Pruthi et al. 2019
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
LOOK_ALIKES = dict(zip("aceopxyijsABCEHIJKMOPSTXY", "асеорхуіјѕАВСЕНІЈКМОРЅТХУ", strict=True))
EMOJI = "🔹🔸🔷🔶◽◾📌📎"  # that say nothing of a mood or a topic
MARKUP = ("<br>", "<br/>", "&nbsp;", "</p><p>", "<span>", "</span>")

# Not to be changed inside: tags, addresses, names of users, escaped characters.
_KEPT = r"<[^<>\n]*>|https?://\S+|www\.\S+|@\w+|&#?\w+;"
_word = re.compile(rf"(?:{_KEPT})|(?P<word>{WORD.pattern})")
_letter = "[^\\W\\d_]"
# Marks of a sentence, also those set off by a space, and those within a word. Not those of 8.5,
# of 7/10, or of a :-) face.
_mark = re.compile(
    rf"(?:{_KEPT})|(?P<mark>(?<={_letter}|[.,!?)\"”])(?:(?:[.,!?…]+|[)\"”])(?=[\s\"”)<.,!?]|$)"
    r"|[;:](?=\s|$))"
    rf"|(?<={_letter})\s+[.,!?…]+(?=\s|$)|(?<={_letter})['’](?={_letter})|(?:(?<=\s)|^)[\"“(](?={_letter})"
    r"|[。，、；：！？「」『』（）《》…]+)"
)
_gap = re.compile(rf"(?:{_KEPT})|(?P<gap>\s+(?=\S)|(?<=[。，、；：！？])(?=\S))")
_end = re.compile(
    r"(?<=[.!?…])[\"”')\]]*\s+(?=[\"“'(\[]?[A-Z0-9])|(?<=[。！？])(?=[^」』）。！？\s])"
)
_statement = re.compile(
    r"\b(?P<irregular>can['’]t|cannot|won['’]t)\b"
    r"|\b(?P<verb>is|are|was|were|can|could|will|would|should|(?:it|that|he|she|there|what)['’]s)"
    r"(?:(?P<no>n['’]t| not)\b|\b(?! (?:I|you|he|she|it|we|they|this|that|there|these|those)\b))",
    re.IGNORECASE,
)

Change = Callable[[str, float, np.random.Generator], str]


@dataclass(frozen=True)
class Perturbation:
    """A kind of change.

    Attributes:
        name: in tables.
        change: a text, the strength and where chance comes from -> another text.
        of: what the strength is a share of.
        about: what is done, and why a reader gives the same label; or does not.
        keeps_label: whether a reader does.
        fits: the code of a language -> whether texts of it can be changed so.
    """

    name: str
    change: Change
    of: str
    about: str
    keeps_label: bool = True
    fits: Callable[[str], bool] = lambda language: True


# ------------------------------------------------------------------------------------ what changes
def count_drawn(strength: float, n: int, generator: np.random.Generator) -> int:
    """How many of n places change: the share, rounded up as often as it takes to be right in the
    mean, so that ten words at 5 % have half a change each."""
    return int(strength * n + generator.random())


def _replace(
    text: str,
    places: Sequence[tuple[int, int]],
    strength: float,
    generator: np.random.Generator,
    new: Callable[[str], str],
) -> str:
    """The text with a share of its places, each start and stop, in other words."""
    n = count_drawn(strength, len(places), generator)
    # Drawn in one order at all strengths: the first ones change at each of them alike.
    changed = {i: new(text[slice(*places[i])]) for i in generator.permutation(len(places))[:n]}
    pieces, done = [], 0
    for i in sorted(changed):
        start, stop = places[i]
        pieces += [text[done:start], changed[i]]
        done = stop
    return "".join([*pieces, text[done:]])


def _places(pattern: re.Pattern[str], group: str, text: str) -> list[tuple[int, int]]:
    return [match.span(group) for match in pattern.finditer(text) if match[group] is not None]


def _words(text: str, may: Callable[[str], bool]) -> list[tuple[int, int]]:
    return [place for place in _places(_word, "word", text) if may(text[slice(*place)])]


def _is_typed(word: str) -> bool:
    return len(word) >= SHORTEST and word.isascii() and word.isalpha()


def make_typos(text: str, strength: float, generator: np.random.Generator) -> str:
    """One slip in each of some words: letters swapped, one missing, one twice, or a key beside.

    First and last letters stay, as do words under SHORTEST letters: readers read such words.
    """

    def mistype(word: str) -> str:
        i, kind = generator.integers(1, len(word) - 1), generator.integers(4)
        near = _keys_beside(word[i])
        if kind == 0 and i + 2 < len(word) and word[i] != word[i + 1]:
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        if kind == 1 and near:
            return word[:i] + near[generator.integers(len(near))] + word[i + 1 :]
        if kind == 2:
            return word[: i + 1] + word[i:]
        return word[:i] + word[i + 1 :]

    return _replace(text, _words(text, _is_typed), strength, generator, mistype)


def _keys_beside(letter: str) -> str:
    row = next((row for row in KEYS if letter in row), "")
    i = row.find(letter)
    return row[max(i - 1, 0) : i] + row[i + 1 : i + 2]


def write_capitals(text: str, strength: float, generator: np.random.Generator) -> str:
    """Words in capitals."""
    places = _words(text, lambda word: len(word) > 1 and word.upper() != word)
    return _replace(text, places, strength, generator, str.upper)


def drop_capitals(text: str, strength: float, generator: np.random.Generator) -> str:
    """Words that have capitals without them."""
    places = _words(text, lambda word: word.lower() != word)
    return _replace(text, places, strength, generator, str.lower)


def drop_punctuation(text: str, strength: float, generator: np.random.Generator) -> str:
    """Without marks of sentences and apostrophes; faces and numbers keep theirs."""
    return _replace(text, _places(_mark, "mark", text), strength, generator, lambda mark: "")


def add_emoji(text: str, strength: float, generator: np.random.Generator) -> str:
    """Emoji in the gaps between words, that express no feeling."""

    def add(gap: str) -> str:
        emoji = EMOJI[generator.integers(len(EMOJI))]
        return f" {emoji}{gap}" if gap else emoji

    return _replace(text, _places(_gap, "gap", text), strength, generator, add)


def add_markup(text: str, strength: float, generator: np.random.Generator) -> str:
    """What a careless scraper leaves between words: tags and escaped characters."""

    def add(gap: str) -> str:
        return MARKUP[generator.integers(len(MARKUP))] + gap

    return _replace(text, _places(_gap, "gap", text), strength, generator, add)


def put_look_alikes(text: str, strength: float, generator: np.random.Generator) -> str:
    """A Cyrillic letter that looks the same in the place of a Latin one, in each of some words."""

    def disguise(word: str) -> str:
        places = [i for i, letter in enumerate(word) if letter in LOOK_ALIKES]
        i = places[generator.integers(len(places))]
        return word[:i] + LOOK_ALIKES[word[i]] + word[i + 1 :]

    places = _words(text, lambda word: not LOOK_ALIKES.keys().isdisjoint(word))
    return _replace(text, places, strength, generator, disguise)


def _adder_of(sentences: dict[str, tuple[str, ...]]) -> Change:
    """What adds sentences at the beginning, between sentences, and at the end."""

    def add(text: str, strength: float, generator: np.random.Generator) -> str:
        own, language = [match.end() for match in _end.finditer(text)], _language_of(text)
        n = count_drawn(strength, len(own) + 1, generator)
        said, places = sentences[language], [0, *own, len(text)]
        order, new = generator.permutation(len(said)), {}
        for i in range(n):
            place = places[generator.integers(len(places))]
            new.setdefault(place, []).append(said[order[i % len(said)]])
        if not new:
            return text
        pieces, done, space = [], 0, " " if language == ENGLISH else ""
        for place in sorted(new):
            pieces += [text[done:place], *new[place]]
            done = place
        return space.join(piece.strip() for piece in [*pieces, text[done:]] if piece.strip())

    return add


def _language_of(text: str) -> str:
    """The key of the sentences that fit a text: of Chinese, those in its script."""
    chinese = {letter for letter in text if "\u4e00" <= letter <= "\u9fff"}
    if not chinese:
        return ENGLISH
    of_one = [has_character("gb2312", one) - has_character("big5", one) for one in chinese]
    return SIMPLIFIED if sum(of_one) > 0 else TRADITIONAL


def negate(text: str, strength: float, generator: np.random.Generator) -> str:
    """Statements that say the opposite: "is" becomes "is not", and "isn't" becomes "is"."""

    def turn(said: str) -> str:
        match = _statement.fullmatch(said)
        if irregular := match["irregular"]:
            return "will" if irregular[0] in "wW" else "can"
        return match["verb"] if match["no"] else f"{said} not"

    places = [match.span() for match in _statement.finditer(text)]
    return _replace(text, places, strength, generator, turn)


# ----------------------------------------------------------------------------------- all of them
def _has_spaces(language: str) -> bool:
    return not has_subwords(language)


def _has_sentences(language: str) -> bool:
    return language.partition("-")[0] == ENGLISH or is_chinese(language)


PERTURBATIONS = (
    Perturbation(
        "typos",
        make_typos,
        f"words of {SHORTEST} letters or more",
        "one slip inside a word: two letters swapped, one missing, one typed twice, or the key "
        "beside it. Readers read words whose first and last letters are right.",
        fits=_has_spaces,
    ),
    Perturbation(
        "capitals",
        write_capitals,
        "words",
        "words written in capitals. It adds stress, and says nothing else.",
        fits=_has_spaces,
    ),
    Perturbation(
        "lower case",
        drop_capitals,
        "words with capitals",
        "words without their capitals, as on a phone.",
        fits=_has_spaces,
    ),
    Perturbation(
        "punctuation",
        drop_punctuation,
        "marks",
        "marks of sentences and apostrophes left out. Those of numbers and of faces such as :-) "
        "stay, since they say something.",
    ),
    Perturbation(
        "emoji",
        add_emoji,
        "gaps between words",
        "squares, diamonds and pins between words. Faces and hearts, which can change a label, "
        "are not among them.",
    ),
    Perturbation(
        "HTML",
        add_markup,
        "gaps between words",
        "tags and escaped spaces between words, as careless scrapers leave them.",
    ),
    Perturbation(
        "look-alike letters",
        put_look_alikes,
        "words",
        "one Latin letter of a word replaced by a Cyrillic one of the same shape, as is done to "
        "get past filters. Readers see the same text.",
        fits=_has_spaces,
    ),
    Perturbation(
        "irrelevant sentences",
        _adder_of(IRRELEVANT),
        "the text's own sentences, so many more",
        "sentences about doors, chairs and buses before, between and behind the text's own. They "
        "give no opinion; where labels are topics, check that none of yours is theirs.",
        fits=_has_sentences,
    ),
    Perturbation(
        "irrelevant negations",
        _adder_of(NEGATED),
        "the text's own sentences, so many more",
        "the same with a not in each: the word is there, and denies nothing of the text.",
        fits=_has_sentences,
    ),
    Perturbation(
        "negated statements",
        negate,
        "is, are, was, were, can, could, will, would and should",
        "statements turned into their opposites: is becomes is not, and isn't becomes is. This "
        "does not keep what a text says: where labels are opinions, many should change.",
        keeps_label=False,
        fits=lambda language: language.partition("-")[0] == ENGLISH,
    ),
)


def perturbations_of(language: str) -> tuple[list[Perturbation], list[str]]:
    """What texts of a language can be changed by, and the names of what they cannot.

    Args:
        language: its code, as en or zh-tw.
    """
    fitting = [one for one in PERTURBATIONS if one.fits(language)]
    return fitting, [one.name for one in PERTURBATIONS if one not in fitting]


def perturb(
    texts: Sequence[str], rows: Sequence[int], by: Perturbation, strength: float, seed: int
) -> list[str]:
    """Texts, changed.

    Args:
        texts: as they were typed, [n].
        rows: of them in their table, [n]: what a text becomes does not depend on the others.
        by: the kind of change.
        strength: the share that changes, from 0 to 1; at 0 the texts stay as they are.
        seed: where chance comes from.

    Returns:
        As many texts, [n]; one that has nothing to change stays as it is.

    Raises:
        SettingError: the strength is no share.
    """
    if not 0 <= strength <= 1:
        raise SettingError(f"--strengths must be from 0 to 1, not {strength:g}.")
    if not strength:
        return list(texts)
    return [
        by.change(text, strength, np.random.default_rng([seed, 7, row]))
        for text, row in zip(texts, rows, strict=True)
    ]
