"""Checks of the texts: their lengths, words, scripts and characters. Each returns a finding."""

import re
from collections import Counter

import numpy as np
import pandas as pd

from ulmfit_app.config import LanguageModelSettings, TokenSettings
from ulmfit_app.data.described import INVISIBLE, NO_LETTERS, NOTABLE, Described, count_share
from ulmfit_app.data.splits import SPLITS
from ulmfit_app.evaluation.findings import Finding
from ulmfit_app.text.rules import FAKE, repair_html
from ulmfit_app.text.vocabulary import make_vocab

# From where on a finding counts as trouble.
LONG = 0.05  # of the texts have more tokens than carry gradients
UNKNOWN = 0.05  # of the tokens of test
N_UNKNOWN = 15  # words shown

# UTF-8 read as Windows-1252 or Latin-1: a byte that begins a character, then those that go on with
# it. A letter that ends a quotation looks the same, so that most of them count only inside a word
# or twice in a row.
_ON = bytes(range(0x80, 0xC0)).decode("cp1252", "ignore")
_ON += bytes(range(0x80, 0xA0)).decode("latin-1")
_MOJIBAKE = (
    f"[ÂÃ][{_ON}]|[ÄÅÎÏÐÑ][{_ON}](?=\\w)|â[€‚„†˜œ\x80-\x9f][{_ON}]|(?:[ã-é][{_ON}]{{2}}){{2}}|"
    f"ð[Ÿ\x9f][{_ON}]{{2}}|ï»¿"
)
_TAG = (
    r"</?(?:a|b|i|u|p|br|div|span|em|strong|font|img|h[1-6]|hr|ul|ol|li|table|tr|td|th|pre|code|"
    r"blockquote|script|style|iframe|center|html|head|body)(?:\s[^<>]*)?/?>|<!--"
)
ODD = {
    "UTF-8 read as another encoding, such as Ã©": re.compile(_MOJIBAKE),
    "the replacement character U+FFFD": re.compile("\ufffd"),
    "control or invisible characters": INVISIBLE,
    "HTML tags": re.compile(_TAG, re.IGNORECASE),
}
# The first two are not worth a search in most English texts.
_ODD_IN_ASCII = dict(list(ODD.items())[2:])


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
    # So many that they reach through 99 texts of 100, in whole steps of the language model.
    enough = (
        -(-int(lengths.quantile(0.99)) // LanguageModelSettings.bptt) * LanguageModelSettings.bptt
    )
    return Finding(
        "Lengths",
        f"Median {lengths.median():,.0f} tokens per text, at most {lengths.max():,}, with the "
        f"marks of capitals; {count_share(over.sum(), len(lengths))} are longer than "
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
        f"Start from a model that knows more words: {data.go_on} --pretrained {start}",
        share >= UNKNOWN,
        pd.DataFrame(
            [[data.store.words[i], f"{test[i]:,}"] for i in top],
            columns=["unknown word", "times in test"],
        ),
    )


def _scripts(data: Described) -> Finding:
    shares = data.table["script"].value_counts(normalize=True)
    main, other = shares.index[0], data.table["script"] != shares.index[0]
    advice = data.mend("Drop them, unless they belong there")
    foreign = main not in ("Latin", NO_LETTERS) and data.tokens.language == TokenSettings.language
    if foreign:
        advice = (
            f"Name the language that they are in, such as ru or zh: {data.go_on} "
            "--tokens.language ru"
        )
    return Finding(
        "Scripts",
        "By most of its words a text is "
        f"{', '.join(f'{name} ({share:.1%})' for name, share in shares.head(5).items())}.",
        "A model knows the words of the script that it read most of, and next to nothing of "
        "others or of signs alone.",
        advice,
        foreign or other.mean() >= NOTABLE,
        suspects=data.suspects(data.table.index[other], data.table["script"][other]),
    )


def _encoding(data: Described) -> Finding:
    found = []
    for row, text in enumerate(data.table["text"]):
        # What the tokenizer mends, <br /> and escaped characters, is no trouble.
        text = repair_html(text) if "<" in text or "&" in text else text
        for kind, pattern in (_ODD_IN_ASCII if text.isascii() else ODD).items():
            if odd := pattern.search(text):
                found.append((kind, row, text[max(odd.start() - 30, 0) : odd.end() + 30]))
    counts = Counter(kind for kind, *_ in found)
    # The rarest kind first, or the commonest would be all that is seen.
    found.sort(key=lambda one: (counts[one[0]], *one))
    kinds, rows, excerpts = zip(*found, strict=True) if found else ((), (), ())
    n = len(set(rows))
    return Finding(
        "Encoding and markup",
        f"{count_share(n, len(data.table))} hold characters that are none, or tags.",
        "A word with one of them is another word than without it, mostly an unknown one; tags are "
        "read as words.",
        data.mend(
            "Read the file with its own --encoding, or mend each text, as ftfy.fix_text does "
            "after pip install ftfy"
        ),
        n >= NOTABLE * len(data.table),
        pd.DataFrame([[kind, f"{counts[kind]:,}"] for kind in ODD], columns=["what", "texts"]),
        data.suspects(rows, kinds, excerpts),
    )


TEXT_CHECKS = (_lengths, _unknown_words, _scripts, _encoding)
