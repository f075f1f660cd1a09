"""Checks of the texts: their lengths, words, scripts and characters. Each returns a finding."""

import codecs
import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ulmfit_app.config import LanguageModelSettings, TokenSettings
from ulmfit_app.data.characters import INVISIBLE
from ulmfit_app.data.described import NO_LETTERS, NOTABLE, Described, command_options, count_share
from ulmfit_app.data.guessing import advise_encoding, describe_misread
from ulmfit_app.data.language import name_language
from ulmfit_app.data.mojibake import (
    MISREAD_UTF8,
    find_misread_alphabet,
    find_misread_chinese,
    original_bytes,
)
from ulmfit_app.data.splits import SPLITS
from ulmfit_app.evaluation.findings import Finding
from ulmfit_app.languages import has_subwords, is_chinese
from ulmfit_app.text.chinese import simplified_share
from ulmfit_app.text.rules import FAKE, repair_html
from ulmfit_app.text.unigram import BYTES
from ulmfit_app.text.vocabulary import make_vocab

# From where on a finding counts as trouble.
LONG = 0.05  # of the texts have more tokens than carry gradients
UNKNOWN = 0.05  # of the tokens of test
N_UNKNOWN = 15  # words shown
MIXED = 0.1  # of the characters that tell Simplified from Traditional

_TAG = (
    r"</?(?:a|b|i|u|p|br|div|span|em|strong|font|img|h[1-6]|hr|ul|ol|li|table|tr|td|th|pre|code|"
    r"blockquote|script|style|iframe|center|html|head|body)(?:\s[^<>]*)?/?>|<!--"
)
UTF8, ALPHABET, CHINESE = (
    "UTF-8 read as another encoding, such as Ã©",
    "another alphabet read as Western letters, such as Ïðèâåò",
    "UTF-8 read as GBK, such as 寰堝ソ鐪",
)
ODD = {
    UTF8: MISREAD_UTF8,
    "the replacement character U+FFFD": re.compile("\ufffd"),
    "private-use characters, U+E000 to U+F8FF": re.compile("[\ue000-\uf8ff]"),
    "control or invisible characters": INVISIBLE,
    "HTML tags": re.compile(_TAG, re.IGNORECASE),
}
_LANGUAGES = {
    "Cyrillic": "ru",
    "Greek": "el",
    "Arabic": "ar",
    "Hebrew": "he",
    "Hangul": "xx",  # spaCy's own for ko takes no special cases
    "Devanagari": "hi",
}
# The first three are not worth a search in most English texts.
_ODD_IN_ASCII = dict(list(ODD.items())[3:])


def _lengths(data: Described) -> Finding:
    lengths = data.table["tokens"]
    over = lengths > data.reach
    by_split = lengths.groupby(data.table["split"])
    table = (
        by_split.quantile([0.05, 0.5, 0.95])
        .unstack()
        .assign(longest=by_split.max(), over=over.groupby(data.table["split"]).sum())
    )
    table = (
        table.reindex([split for split in SPLITS if split in table.index])
        .map("{:,.0f}".format)
        .reset_index()
    )
    unit, marks = ("subwords", "repetitions") if data.in_subwords else ("tokens", "capitals")
    # So many that they reach through 99 texts of 100, in whole steps of the language model.
    enough = (
        -(-int(lengths.quantile(0.99)) // LanguageModelSettings.bptt) * LanguageModelSettings.bptt
    )
    return Finding(
        "Lengths",
        f"Median {lengths.median():,.0f} {unit} per text, at most {lengths.max():,}, with the "
        f"marks of {marks}; {count_share(over.sum(), len(lengths))} are longer than "
        f"{data.reach:,}.",
        "Of a longer text all tokens are read and pooled, but gradients reach the last "
        f"{data.reach:,} alone.",
        f"Let gradients reach further where memory allows it: {data.go_on} "
        f"--classifier.grad-tokens {enough}",
        over.mean() >= LONG,
        table.set_axis(
            ["split", "5%", "median", "95%", "longest", f"over {data.reach:,}"], axis=1
        ),
    )


def _unknown(data: Described) -> Finding:
    return (_unknown_characters if data.in_subwords else _unknown_words)(data)


def _unknown_characters(data: Described) -> Finding:
    value_of = {token: value for value, token in enumerate(BYTES)}
    values = np.array([value_of.get(token, -1) for token in data.store.words])
    shares, seen = {}, {}
    for split in ("train", "test"):
        rows = np.flatnonzero(data.table["split"] == split)
        read = values[np.concatenate([data.store[row] for row in rows])]
        seen[split], shares[split] = read[read >= 0], (read >= 0).mean()
    characters = Counter(bytes(seen["test"].tolist()).decode("utf-8", "replace"))
    return Finding(
        "Unknown characters",
        f"{shares['test']:.1%} of test's tokens and {shares['train']:.1%} of train's are bytes, "
        f"for characters that the vocabulary of {len(values):,} subwords has no piece for.",
        "One takes two to four tokens, which say less than a piece does. A text that was read in "
        "a wrong encoding is full of them.",
        "See that these characters are those that were written. If they are, add texts, with or "
        "without labels: from more text more of them are learned.",
        shares["test"] >= UNKNOWN,
        pd.DataFrame(
            [[one, f"{n:,}"] for one, n in characters.most_common(N_UNKNOWN)],
            columns=["unknown character", "times in test"],
        ),
    )


def _unknown_words(data: Described) -> Finding:
    learned = np.flatnonzero(data.table["split"].isin(LanguageModelSettings().splits))
    vocab = set(make_vocab(data.store, learned, data.tokens)) - {FAKE}
    unknown = np.array([word not in vocab for word in data.store.words])
    train, test = (
        data.store.counts(np.flatnonzero(data.table["split"] == split))
        for split in ("train", "test")
    )
    share = test[unknown].sum() / test.sum()
    start = (
        "en-small"
        if data.tokens.language == "en"
        else "FOLDER, from python -m ulmfit_app pretrain CORPUS"
    )
    top = [
        i for i in np.argsort(-test * unknown, kind="stable")[:N_UNKNOWN] if unknown[i] and test[i]
    ]
    return Finding(
        "Unknown words",
        f"{share:.1%} of test's tokens and {train[unknown].sum() / train.sum():.1%} of train's "
        f"are not in the vocabulary of {len(vocab):,} words, the commonest that occur "
        f"{data.tokens.min_freq} times in train and unlabelled.",
        "They are all read as one word, xxunk; a pretrained start adds those that it knows.",
        _name_language(data)
        or f"Start from a model that knows more words: {data.go_on} --pretrained {start}",
        share >= UNKNOWN,
        pd.DataFrame(
            [[data.store.words[i], f"{test[i]:,}"] for i in top],
            columns=["unknown word", "times in test"],
        ),
    )


def _scripts(data: Described) -> Finding:
    shares = data.table["script"].value_counts(normalize=True)
    other = data.table["script"] != shares.index[0]
    chinese, convert = _describe_chinese(data)
    named = _name_language(data) or convert
    return Finding(
        "Scripts",
        "By most of its words a text is "
        f"{', '.join(f'{name} ({share:.1%})' for name, share in shares.head(5).items())}."
        f"{chinese}",
        "A model knows the words of the script that it read most of, and next to nothing of "
        "others or of signs alone.",
        named or data.mend("Drop them, unless they belong there"),
        bool(named) or other.mean() >= NOTABLE,
        suspects=data.suspects(data.table.index[other], data.table["script"][other]),
    )


def _name_language(data: Described) -> str:
    """Advice to name the language of the texts, where theirs is plainly another; else ""."""
    main = data.table["script"].value_counts().index[0]
    language = _LANGUAGES.get(main)
    if not data.in_subwords:
        language = name_language(data.tokens, data.table["text"]) or language
    asked = data.tokens.language == TokenSettings.language or has_subwords(language or "")
    if main in ("Latin", NO_LETTERS) or not asked or language == data.tokens.language:
        return ""
    tokens = replace(data.tokens, language=language or "CODE")
    such = f", such as {language}" if language else ""
    options = command_options(data.settings, tokens, data.seed)
    return f"Name the language that they are in{such}: python -m ulmfit_app inspect {options}"


def _describe_chinese(data: Described) -> tuple[str, str]:
    """How much of Chinese texts is Simplified, a sentence; and advice where it is to be converted,
    or "" where none is."""
    if not is_chinese(data.tokens.language):
        return "", ""
    share = simplified_share(data.table["text"])
    if share is None:
        return " No character tells Simplified from Traditional.", ""
    found = f" Of the characters that tell, {share:.1%} are Simplified."
    if data.tokens.opencc is not None:
        return f"{found} They are read as OpenCC's {data.tokens.opencc} converts them.", ""
    if share < MIXED:
        return found, ""
    options = command_options(data.settings, replace(data.tokens, opencc="s2twp"), data.seed)
    return found, (
        "Read all as Traditional, which the model that comes with the package knows: python -m "
        f"ulmfit_app inspect {options}"
    )


def _encoding(data: Described) -> Finding:
    found, n_beyond = [], 0
    for row, text in enumerate(data.table["text"]):
        # What the tokenizer mends, <br /> and escaped characters, is no trouble.
        text = repair_html(text) if "<" in text or "&" in text else text
        patterns = _ODD_IN_ASCII
        if not text.isascii():
            n_beyond += 1
            place = find_misread_alphabet(text)
            found += [(ALPHABET, row, _around(place))] if place else []
            gbk = find_misread_chinese(text)
            found += [(CHINESE, row, _around(gbk))] if gbk else []
            patterns = {kind: odd for kind, odd in ODD.items() if not place or kind != UTF8}
        for kind, pattern in patterns.items():
            if odd := pattern.search(text):
                found.append((kind, row, _around(odd)))
    counts = Counter(kind for kind, *_ in found)
    # The rarest kind first, or the commonest would be all that is seen.
    found.sort(key=lambda one: (counts[one[0]], *one))
    kinds, rows, excerpts = zip(*found, strict=True) if found else ((), (), ())
    n = len(set(rows))
    misread = describe_misread(data.table["text"], data.settings.encoding)
    return Finding(
        "Encoding and markup",
        f"{count_share(n, len(data.table))} hold broken characters or tags.",
        "They say nothing of the text; tags are read as text."
        if data.in_subwords
        else "A word with one of them is another word than without it, mostly an unknown one; "
        "tags are read as words.",
        misread or _mend_encoding(data, found, n_beyond),
        bool(misread) or n >= NOTABLE * len(data.table),
        pd.DataFrame(
            [[kind, f"{counts[kind]:,}"] for kind in (*ODD, ALPHABET, CHINESE)],
            columns=["what", "texts"],
        ),
        data.suspects(rows, kinds, excerpts),
    )


def _around(odd: re.Match[str]) -> str:
    return odd.string[max(odd.start() - 30, 0) : odd.end() + 30]


def _mend_encoding(data: Described, found: list[tuple[str, int, str]], n_beyond: int) -> str:
    """Advice on what `_encoding` found. n_beyond: texts with characters beyond ASCII."""
    n_utf8 = sum(kind == UTF8 for kind, *_ in found)
    alphabets = data.table["text"].iloc[[row for kind, row, _ in found if kind == ALPHABET]]
    was_named = not codecs.lookup(data.settings.encoding).name.startswith("utf")
    if was_named and not data.is_published and max(n_utf8, len(alphabets)) > n_beyond / 2:
        if n_utf8 >= len(alphabets):
            return f"Read the file as UTF-8, which it seems to be: {data.inspect_as('utf-8')}"
        content = original_bytes(alphabets)
        advice = advise_encoding(lambda: io.BytesIO(content), "cp1252", Path(data.settings.source))
        return f"Read the file in its own encoding instead of {data.settings.encoding}. {advice}"
    how = "as ftfy.fix_text does after pip install ftfy"
    if n_utf8 < len(alphabets):
        how = "as text.encode('cp1252').decode('cp1251') does with Cyrillic"
    if sum(kind == CHINESE for kind, *_ in found) > max(n_utf8, len(alphabets)):
        how = "as text.encode('gb18030').decode('utf-8', 'replace') does"
    return data.mend(
        "Take the file from where it is whole, read it with its own --encoding, or mend each "
        f"text, {how}"
    )


TEXT_CHECKS = (_lengths, _unknown, _scripts, _encoding)
