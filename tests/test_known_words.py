import gc
import pkgutil
import re
import subprocess
import sys
import threading
from functools import cache

import numpy as np
import pytest
import spacy.lang
from spacy.util import get_lang_class

from tests.test_tokenizer import ACROSS_WORDS, NASTY, SENTENCES, whole
from ulmfit_app.text.known_words import KnownWords
from ulmfit_app.text.tokenizer import Tokenizer, tokenize_chunk

parser = getattr(re, "_parser", None) or sys.modules["sre_parse"]  # Python 3.10 has no re._parser
LETTERS = {chr(i) for i in range(sys.maxunicode + 1) if chr(i).isalpha()}
LETTERS = frozenset(letter for letter in LETTERS if letter == letter.lower())


# ---------------------------------------------------------- what spaCy does not search
@cache
def can_match_letters(pattern: str) -> bool:
    """Whether a match might see nothing but lower-case letters; True where in doubt."""
    return not sees_others(parser.parse(pattern))


def sees_others(items) -> bool:
    """Whether a match of a parsed expression has to see a character that is none of LETTERS."""
    return any(item_sees_others(str(what), given) for what, given in items)


def item_sees_others(what: str, given) -> bool:
    if what == "LITERAL":
        return chr(given) not in LETTERS
    if what == "IN":
        # Only what names its characters is looked at.
        ranges = [given for what, given in given if str(what) == "RANGE"]
        ranges += [(given, given) for what, given in given if str(what) == "LITERAL"]
        known = len(ranges) == len(given) or all(part == DIGIT for part in given)
        return known and not any(chr(i) in LETTERS for a, b in ranges for i in range(a, b + 1))
    if what == "BRANCH":
        return all(map(sees_others, given[1]))
    if what in ("MAX_REPEAT", "MIN_REPEAT"):
        return given[0] > 0 and sees_others(given[2])
    return what in ("SUBPATTERN", "ASSERT") and sees_others(given[-1])


DIGIT = parser.parse(r"[\d]")[0][1][0]


def affixes(language: str) -> list[str]:
    defaults = get_lang_class(language).Defaults
    url = defaults.url_match
    found = [*(defaults.prefixes or ()), *(defaults.suffixes or ()), *(defaults.infixes or ())]
    return [*(part for part in found if part.strip()), *([url.__self__.pattern] if url else [])]


LANGUAGES = [found.name for found in pkgutil.iter_modules(spacy.lang.__path__) if found.ispkg]


def test_spacy_splits_no_language_at_lower_case_letters_alone():
    """Else the tokenizer could not spare itself the search."""
    assert len(LANGUAGES) > 50
    # Korean has a letter that stands between words, and a tokenizer that is refused.
    for language in {*LANGUAGES} - {"ko"}:
        doubtful = [part for part in affixes(language) if can_match_letters(part)]
        # Indonesian's and Malay's currencies, as Rp, which are never lower-case.
        assert all(re.search("[A-Z]", part) for part in doubtful), (language, doubtful)


@pytest.mark.parametrize(
    ("pattern", "possible"),
    [
        ("a", True), (r"\.", False), (r"a\.", False), (r"[a-c,]", True), (r"[A-Z,.]", False),
        (r"(?<=[0-9])(?:km|m)", False), (r"(?<=\d)km", False), (r"(?<=[a-z])(?:s|m)", True),
        (r"\.?ed", True), (r"\.+", False), (r",|\.\.", False), (r",|ed", True), (r"\w", True),
        (r"[^.]", True), ("ß", True), ("É", False), ("Σ", False),
    ],
)  # fmt: skip
def test_so_it_is_told_of_an_expression(pattern, possible):
    assert can_match_letters(pattern) == possible


# ---------------------------------------------------------- numbers of words
def test_a_word_gets_the_next_number_when_it_is_first_looked_up():
    known = KnownWords(longest=4)
    assert [known[word] for word in ("good", "film", "good", "long-winded", "bad")] == [
        *(1, 2, 1, 0, 3)
    ]
    assert known.unlearned() == ["good", "film", "bad"]
    known.learn([("good",), None, ("b", "ad")])
    assert known.unlearned() == [] and "long-winded" not in known
    assert known.tokens == [None, ("good",), None, ("b", "ad")]
    assert known.unsure == {0, 2}
    assert (known["so"], known.unlearned()) == (4, ["so"])


def test_tokens_are_numbered_in_the_order_in_which_the_texts_have_them():
    known = KnownWords(9)
    for word in ("a", "b", "ab", "c"):
        known[word]
    known.learn([("a",), ("b",), ("a", "b"), None])
    words, ids, lengths = known.ids([[3, 2], [4, 1], [], [2, 2]], {1: ["z", "b", "x"]})
    assert words == ["a", "b", "z", "x"]
    assert ids.tolist() == [0, 1, 1, 2, 1, 3, 1, 1]
    assert lengths.tolist() == [3, 3, 0, 2]
    assert (ids.dtype, lengths.dtype) == (np.int32, np.int64)
    # What was no word's is not taken for the next word's.
    known["d"]
    known.learn([("d", "z")])
    words, ids, lengths = known.ids([[5, 3]], {})
    assert (words, ids.tolist(), lengths.tolist()) == (["d", "z", "a", "b"], [0, 1, 2, 3], [4])
    assert [part.tolist() for part in known.ids([], {})[1:]] == [[], []]


@pytest.mark.parametrize("language", ["en", "ru", "fr"])
def test_a_chunks_tokens_are_those_of_its_texts(language):
    texts = [*NASTY, *ACROSS_WORDS, *SENTENCES.get(language, []), "x" * 200, *NASTY[::-1]]
    for chunk in (texts, texts[::-1], texts[:1], []):
        words, ids, lengths = tokenize_chunk(language, chunk)
        expected = [whole(text, language) for text in chunk]
        assert [words[i] for i in ids] == [token for tokens in expected for token in tokens]
        assert lengths.tolist() == [len(tokens) for tokens in expected]
        assert words == list(dict.fromkeys(token for tokens in expected for token in tokens))
        assert Tokenizer(language).each(chunk) == expected


def test_what_was_cut_short_is_learned_by_the_next_call(monkeypatch):
    tokenizer = Tokenizer()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tokenizer, "_learn", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        tokenizer("It isn't GOOD, fun:)")
    assert tokenizer("GOOD film, isn't it?") == whole("GOOD film, isn't it?")
    assert tokenizer("It isn't GOOD, fun:)") == whole("It isn't GOOD, fun:)")


def test_threads_that_learn_at_once_both_get_their_tokens(monkeypatch):
    tokenizer, others, started = Tokenizer(), [], []
    learn = Tokenizer._learn

    def meanwhile(self, words):
        if not started:
            other = threading.Thread(target=lambda: others.append(tokenizer("Isn't THAT so?")))
            started.append(other)
            other.start()
            other.join(0.3)  # it waits until these words are learned
        return learn(self, words)

    monkeypatch.setattr(Tokenizer, "_learn", meanwhile)
    assert tokenizer("A good film, can't say more") == whole("A good film, can't say more")
    started[0].join()
    assert others == [whole("Isn't THAT so?")]
    assert tokenizer("Nor was that all") == whole("Nor was that all")  # the numbers still fit


# ---------------------------------------------------------- worker processes
def test_a_worker_leaves_the_collector_off_and_spacys_command_line_out():
    program = (
        "import gc, sys\n"
        "from ulmfit_app.text.tokenizer import start_worker, tokenize_chunk\n"
        "start_worker()\n"
        "tokenize_chunk('en', ['good film'])\n"
        "print(gc.isenabled(), sys.modules['torch'], 'spacy.cli' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False None False\n", done.stderr


def test_a_chunk_leaves_nothing_that_only_the_collector_finds():
    texts = [*NASTY, *ACROSS_WORDS]
    tokenize_chunk("en", texts[::2])
    gc.collect()
    gc.disable()
    try:
        tokenize_chunk("en", texts)
        assert gc.collect() < 50
    finally:
        gc.enable()
