"""The checks of an inspection: each looks at one thing and returns a finding."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ulmfit_app.config import (
    ClassifierSettings,
    LanguageModelSettings,
    TokenSettings,
)
from ulmfit_app.data.corpus import Corpus, overlaps
from ulmfit_app.data.near_copies import ALIKE, RUN, near_copies
from ulmfit_app.data.splits import SPLITS
from ulmfit_app.errors import quoted
from ulmfit_app.evaluation.baselines import FOLDS, out_of_fold
from ulmfit_app.evaluation.findings import Finding
from ulmfit_app.evaluation.metrics import accuracy_interval
from ulmfit_app.text.rules import FAKE, SPECIALS, repair_html
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.vocabulary import make_vocab

# From where on a finding counts as trouble.
NOTABLE = 0.01  # of the texts: a result moves by no more than this
WIDE = 0.1  # width of the interval of an accuracy of 90 % in test
FEW = 20  # training texts of a class
LOPSIDED = 0.8  # of the test texts in one class
SHIFTED = 0.1  # between a class's shares of train and of test
LONG = 0.05  # of the texts have more tokens than carry gradients
UNKNOWN = 0.05  # of the tokens of test
SUSPECTED = 0.05  # of the labels of train
N_UNKNOWN = 15  # words shown

# UTF-8 read as Windows-1252 or Latin-1: a byte that begins a character, then those that go on with it. A letter that ends a
# quotation looks the same, so that most of them count only inside a word or twice in a row.
_ON = bytes(range(0x80, 0xC0)).decode("cp1252", "ignore") + bytes(range(0x80, 0xA0)).decode(
    "latin-1"
)
_MOJIBAKE = f"[ÂÃ][{_ON}]|[ÄÅÎÏÐÑ][{_ON}](?=\\w)|â[€‚„†˜œ\x80-\x9f][{_ON}]|(?:[ã-é][{_ON}]{{2}}){{2}}|ð[Ÿ\x9f][{_ON}]{{2}}|ï»¿"
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff]")
_TAG = (
    r"</?(?:a|b|i|u|p|br|div|span|em|strong|font|img|h[1-6]|hr|ul|ol|li|table|tr|td|th|pre|code|blockquote|script|style|"
    r"iframe|center|html|head|body)(?:\s[^<>]*)?/?>|<!--"
)
ODD = {
    "UTF-8 read as another encoding, such as Ã©": re.compile(_MOJIBAKE),
    "the replacement character U+FFFD": re.compile("\ufffd"),
    "control or invisible characters": _INVISIBLE,
    "HTML tags": re.compile(_TAG, re.IGNORECASE),
}
# The first two are not worth a search in most English texts.
_ODD_IN_ASCII = dict(list(ODD.items())[2:])
_ONE_SCRIPT = {
    name: "Chinese or Japanese" for name in ("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC")
}
NO_LETTERS = "no letters"


# ------------------------------------------------------------------------------------------------ what is known of a text
@dataclass(frozen=True)
class _Data:
    """A corpus and its tokens.

    table: a Corpus's, and of each text its tokens (a number), its script, and numbers that texts have in common: copy when
    they are equal, near when they are nearly so. options: the command line. published: others use the same data.
    """

    table: pd.DataFrame
    store: TokenStore
    tokens: TokenSettings
    options: str
    published: bool
    reach: int = ClassifierSettings().grad_tokens

    @property
    def go_on(self) -> str:
        return f"python -m ulmfit_app.run {self.options}"

    def class_counts(self) -> pd.DataFrame:
        """Texts, a row a class, the largest in train first, a column a split."""
        labelled = self.table[self.table["split"] != "unlabelled"]
        counts = pd.crosstab(labelled["label"], labelled["split"])[["train", "valid", "test"]]
        return counts.sort_values("train", ascending=False, kind="stable")

    def mend(self, how: str) -> str:
        """Advice for what stands in the data themselves."""
        if self.published:
            return "Leave published data as they are, so that results can be compared, and say this beside them."
        return f"{how} (suspects.csv lists the texts), then: python -m ulmfit_app inspect {self.options}"

    def suspects(
        self, rows: Iterable[int], groups: Iterable, excerpts: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """What a Finding wants."""
        found = self.table.loc[list(rows), ["split", "label", "text"]].reset_index(drop=True)
        excerpts = found["text"].str.slice(0, 80) if excerpts is None else excerpts
        found.insert(0, "group", list(groups))
        found.insert(
            3,
            "excerpt",
            [_INVISIBLE.sub(lambda odd: f"\\u{ord(odd[0]):04x}", excerpt) for excerpt in excerpts],
        )
        return found

    def grouped(self, rows: pd.Index, exact: pd.Series) -> pd.DataFrame:
        """`suspects`, near copies together, groups with rows in `exact` and then the largest first. exact: a mask."""
        near = self.table["near"]
        order = pd.DataFrame(
            {
                "near": near,
                "exact": ~exact.groupby(near).transform("any"),
                "n": -near.map(near.value_counts()),
            }
        )
        rows = order.loc[rows].sort_values(["exact", "n", "near"], kind="stable").index
        return self.suspects(rows, "group " + near[rows].astype(str))


def _described(corpus: Corpus, store: TokenStore) -> pd.DataFrame:
    script_of, names = pd.factorize(
        np.array([_script(word) for word in store.words], dtype=object)
    )
    script_of = script_of.astype(np.int16)[store.ids]
    # A row a script: how many words of each text are in it.
    counts = np.stack(
        [
            np.add.reduceat(script_of == i, store.offsets[:-1], dtype=np.int32)
            for i in range(len(names))
        ]
    )
    counts[names == NO_LETTERS] = 0
    scripts = np.where(counts.max(axis=0) > 0, names[counts.argmax(axis=0)], NO_LETTERS)
    copy = pd.factorize(corpus.table["text"])[0]
    return corpus.table.assign(
        tokens=store.lengths(), script=scripts, copy=copy, near=near_copies(store, copy)
    )


def _script(word: str) -> str:
    """The script of the first letter, as Unicode names it; NO_LETTERS for none, and for what only marks words.

    >>> [_script(word) for word in ("word", "слово", "ことば", "12", "xxmaj")]
    ['Latin', 'Cyrillic', 'Chinese or Japanese', 'no letters', 'no letters']
    """
    letter = next(filter(str.isalpha, word), None)
    if letter is None or word in SPECIALS:
        return NO_LETTERS
    name = unicodedata.name(letter, "unnamed").partition(" ")[0]
    return _ONE_SCRIPT.get(name, name.capitalize())


def _of(count: int, n: int, noun: str = "texts") -> str:
    share = f" ({count / n:.1%})"
    return f"{count:,} of {n:,} {noun}{'' if share == ' (0.0%)' else share}"


# -------------------------------------------------------------------------------------------------------------- the checks
def _sizes(data: _Data) -> Finding:
    sizes = (
        data.table.groupby("split")["tokens"].agg(["size", "sum"]).reindex(SPLITS, fill_value=0)
    )
    n = sizes["size"]
    low, high = accuracy_interval(round(0.9 * n["test"]), int(n["test"]))
    found = (
        f"{n['train']:,} texts to train on, {n['valid']:,} to validate, {n['test']:,} to test, "
    )
    return Finding(
        "Sizes",
        found + f"{n['unlabelled']:,} unlabelled.",
        f"An accuracy of 90% in test will stand with the 95% interval {low:.1%} to {high:.1%}, within which nothing can be "
        "told apart.",
        f"Label more texts, or hold more out where the split is made: {data.go_on} --test-share 0.4",
        high - low > WIDE,
        pd.DataFrame(
            {
                "split": SPLITS,
                "texts": n.map("{:,}".format),
                "tokens": sizes["sum"].map("{:,}".format),
            }
        ),
    )


def _classes(data: _Data) -> Finding:
    counts = data.class_counts()
    shares = counts / counts.sum()
    top, rare = counts.index[0], counts.index[counts["train"] < FEW].tolist()
    shift = (shares["train"] - shares["test"]).abs()
    moved, lopsided = shift.idxmax(), shares["test"][top] >= LOPSIDED
    found = f"{len(counts):,} classes, of {counts['train'].iloc[-1]:,} to {counts['train'].iloc[0]:,} texts in train."
    advice = []
    if rare:
        found += f" Under {FEW} have {quoted(rare)}."
        advice.append(
            "Add texts of the smallest classes, or merge them: what is seen so rarely is hardly ever predicted."
        )
    if shift[moved] > SHIFTED:
        found += f" {quoted([moved])} is {shares['train'][moved]:.1%} of train, but {shares['test'][moved]:.1%} of test."
        advice.append("Check that test is of the same kind as train.")
    if lopsided:
        advice.append("Go by macro F1 in the report, not by accuracy.")
    return Finding(
        "Classes",
        found,
        f"To say {quoted([top])} of every text is right on {shares['test'][top]:.1%} of test: that much has to be beaten.",
        " ".join(advice),
        bool(advice),
        counts.map("{:,}".format)
        .reset_index()
        .rename(columns={"label": "class"})
        .rename_axis(columns=None),
    )


def _label_spelling(data: _Data) -> Finding:
    n = data.table.loc[data.table["split"] != "unlabelled", "label"].value_counts()
    spelled = [
        "".join(unicodedata.normalize("NFKC", label).split()).casefold() for label in n.index
    ]
    several = [
        labels.index.tolist()
        for _, labels in n.groupby(pd.Index(spelled), sort=False)
        if len(labels) > 1
    ]
    rarer = data.table["label"].isin([label for labels in several for label in labels[1:]])
    return Finding(
        "Spelling of labels",
        f"By case or spaces alone differ: {'; '.join(map(quoted, several)) or 'none'}.",
        "Each spelling is a class of its own, so that answers count as wrong which are right.",
        data.mend("Spell each label in one way"),
        bool(several),
        pd.DataFrame(
            [[label, f"{n[label]:,}"] for labels in several for label in labels],
            columns=["label", "texts"],
        ),
        data.suspects(data.table.index[rarer], data.table["label"][rarer]),
    )


def _contradictions(data: _Data) -> Finding:
    table = data.table[data.table["split"] != "unlabelled"]
    exact, near = (table.groupby(by)["label"].transform("nunique") > 1 for by in ("copy", "near"))
    return Finding(
        "Contradictory labels",
        f"{_of(exact.sum(), len(table), 'labelled texts')} have another label elsewhere, and {(near & ~exact).sum():,} more "
        "have a near copy with another one.",
        "At most one of the labels is right: the other unteaches it in train, and costs an error in test.",
        data.mend("Settle which label is right"),
        near.mean() >= NOTABLE,
        suspects=data.grouped(
            table.index[near], exact.reindex(data.table.index, fill_value=False)
        ),
    )


def _duplicates(data: _Data) -> Finding:
    near, n = data.table["near"], len(data.table)
    exact, all_copies = n - data.table["copy"].nunique(), n - near.nunique()
    several = data.table.groupby("near")["copy"].transform("nunique") > 1
    return Finding(
        "Duplicates",
        f"{_of(exact, n)} repeat an earlier one word for word, and {all_copies - exact:,} more nearly: but for case, signs "
        f"and markup they have {ALIKE:.0%} of their runs of {RUN} words in common.",
        "What comes n times counts n times, in learning as in the score.",
        data.mend("Drop all but one of each group"),
        all_copies >= NOTABLE * n,
        suspects=data.grouped(data.table.index[near.duplicated(keep=False)], several),
    )


def _label_errors(data: _Data, seed: int) -> Finding:
    """Confident learning (Northcutt et al. 2021, J. Artif. Intell. Res. 70): what contradicts a label more than is usual."""
    from cleanlab.filter import find_label_issues

    train = data.table[data.table["split"] == "train"]
    # A class that not every fold can hold out would be improbable everywhere, and all its labels suspect.
    judged = train[train.groupby("label")["near"].transform("nunique") >= FOLDS]
    skipped = sorted(set(train["label"]) - set(judged["label"]))
    truth, labels = pd.factorize(judged["label"], sort=True)
    rows, guesses = np.zeros(0, int), []
    if len(labels) > 1:
        groups, language = judged["near"].to_numpy(), data.tokens.language
        probabilities = out_of_fold(
            judged["text"].tolist(), truth, len(labels), groups, seed, language
        )
        rows = find_label_issues(
            truth, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
        )
        guesses = [
            f"probably {labels[of.argmax()]} ({of.max():.0%})" for of in probabilities[rows]
        ]
    found = (
        f"{_of(len(rows), len(judged), 'labels of train')} look wrong to cleanlab, by what TF-IDF with logistic "
        f"regression says of each text after learning from the others ({FOLDS} folds)."
    )
    if skipped:
        found += f" Not judged, for they have under {FOLDS} different texts: {quoted(skipped)}."
    return Finding(
        "Suspected label errors",
        found,
        "A wrong label unteaches the right one. Some of these are right, and their texts hard: read them.",
        data.mend("Correct the labels that are wrong"),
        len(rows) >= SUSPECTED * max(len(judged), 1),
        suspects=data.suspects(judged.index[rows], guesses),
    )


def _leaks(data: _Data) -> Finding:
    lines, leaked = [], pd.Series(False, data.table.index)
    for (split, earlier, exact), (_, _, near) in zip(
        overlaps(data.table, "copy"), overlaps(data.table, "near"), strict=True
    ):
        lines.append(
            [
                f"{split} in {earlier}",
                f"{exact.sum():,}",
                f"{(near & ~exact).sum():,}",
                f"{near.mean():.1%}",
            ]
        )
        of_both = data.table["split"].isin((split, earlier))
        leaked |= of_both & data.table["near"].isin(data.table["near"][near.index[near]])
    shares = [float(line[-1].rstrip("%")) for line in lines]
    return Finding(
        "Leaks between splits",
        f"Of test, {lines[0][1]} texts are in train word for word, and {lines[0][2]} nearly; splits that are made keep only "
        "the former together.",
        f"They can be remembered, not understood: accuracy in test can come out up to {shares[0]:.1f} points too high.",
        data.mend("Keep one of each group, or all of it in one split"),
        max(shares) >= 100 * NOTABLE,
        pd.DataFrame(lines, columns=["texts of", "word for word", "nearly", "share"]),
        data.grouped(data.table.index[leaked], leaked),
    )


def _lengths(data: _Data) -> Finding:
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
        f"Median {lengths.median():,.0f} tokens a text, at most {lengths.max():,}, with the marks of capitals; "
        f"{_of(over.sum(), len(lengths))} are longer than {data.reach:,}.",
        f"Of a longer text all tokens are read and pooled, but gradients reach the last {data.reach:,} alone.",
        f"Let gradients reach further where memory allows it: {data.go_on} --classifier.grad-tokens {enough}",
        over.mean() >= LONG,
        table.set_axis(
            ["split", "5%", "median", "95%", "longest", f"over {data.reach:,}"], axis=1
        ),
    )


def _unknown_words(data: _Data) -> Finding:
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
        f"{share:.1%} of test's tokens and {train[unknown].sum() / train.sum():.1%} of train's are not in the vocabulary of "
        f"{len(vocab):,} words, the commonest that occur {data.tokens.min_freq} times in train and unlabelled.",
        "They are all read as one word, xxunk; a pretrained start adds those that it knows.",
        f"Start from a model that knows more words: {data.go_on} --pretrained {start}",
        share >= UNKNOWN,
        pd.DataFrame(
            [[data.store.words[i], f"{test[i]:,}"] for i in top],
            columns=["unknown word", "times in test"],
        ),
    )


def _scripts(data: _Data) -> Finding:
    shares = data.table["script"].value_counts(normalize=True)
    main, other = shares.index[0], data.table["script"] != shares.index[0]
    advice = data.mend("Drop them, unless they belong there")
    foreign = main not in ("Latin", NO_LETTERS) and data.tokens.language == TokenSettings.language
    if foreign:
        advice = f"Name the language that they are in, such as ru or zh: {data.go_on} --tokens.language ru"
    return Finding(
        "Scripts",
        f"By most of its words a text is {', '.join(f'{name} ({share:.1%})' for name, share in shares.head(5).items())}.",
        "A model knows the words of the script that it read most of, and next to nothing of others or of signs alone.",
        advice,
        foreign or other.mean() >= NOTABLE,
        suspects=data.suspects(data.table.index[other], data.table["script"][other]),
    )


def _encoding(data: _Data) -> Finding:
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
        f"{_of(n, len(data.table))} hold characters that are none, or tags.",
        "A word with one of them is another word than without it, mostly an unknown one; tags are read as words.",
        data.mend(
            "Read the file with its own --encoding, or mend each text, as ftfy.fix_text does after pip install ftfy"
        ),
        n >= NOTABLE * len(data.table),
        pd.DataFrame([[kind, f"{counts[kind]:,}"] for kind in ODD], columns=["what", "texts"]),
        data.suspects(rows, kinds, excerpts),
    )


CHECKS = (
    _sizes,
    _classes,
    _label_spelling,
    _contradictions,
    _duplicates,
    _leaks,
    _lengths,
    _unknown_words,
    _scripts,
    _encoding,
)
