"""A corpus with what its tokens say of each text: what the checks of an inspection look at."""

import shlex
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pandas as pd

from ulmfit_app.config import ClassifierSettings, DataSettings, Settings, TokenSettings
from ulmfit_app.data.characters import INVISIBLE, escape
from ulmfit_app.data.corpus import Corpus
from ulmfit_app.data.label_sets import each_label
from ulmfit_app.data.near_copies import group_near_copies
from ulmfit_app.data.sources import DATA_SETS
from ulmfit_app.languages import has_subwords
from ulmfit_app.text.rules import SPECIALS
from ulmfit_app.text.store import TokenStore
from ulmfit_app.text.unigram import BYTES

NOTABLE = 0.01  # of the texts, from where on they are trouble: a result moves by no more than this
_ONE_SCRIPT = {
    name: "Chinese or Japanese" for name in ("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC")
}
NO_LETTERS = "no letters"
_LETTERLESS = frozenset([*SPECIALS, *BYTES])


@dataclass(frozen=True)
class Described:
    """A corpus and its tokens.

    Attributes:
        table: text, label and split of a Corpus, and of each text its tokens (a number), its
            script, and numbers that texts have in common: copy when they are equal, near when
            they are nearly so.
        store: the tokens of the same texts.
        settings: what gives these texts and their splits.
        tokens: how the tokens were made.
        seed: what splits depend on.
        labels: the classes, in order.
        multilabel: whether a text may have several of them, or none; each label of the table is
            then a JSON list.
        groups: the columns of groups, of the same rows.
        reach: tokens of a text that carry gradients.
    """

    table: pd.DataFrame
    store: TokenStore
    settings: DataSettings
    tokens: TokenSettings
    seed: int
    labels: list[str]
    multilabel: bool = False
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)
    reach: int = ClassifierSettings().grad_tokens

    @property
    def is_published(self) -> bool:
        """Whether others use the same data."""
        return self.settings.source in DATA_SETS

    @property
    def in_subwords(self) -> bool:
        """Whether tokens are subwords."""
        return has_subwords(self.tokens.language)

    @property
    def options(self) -> str:
        """The command line that gives these data."""
        return command_options(self.settings, self.tokens, self.seed)

    @property
    def go_on(self) -> str:
        return f"python -m ulmfit_app.run {self.options}"

    def labelled(self) -> pd.DataFrame:
        """The rows of the table that have labels."""
        return self.table[self.table["split"] != "unlabelled"]

    def each_label(self) -> pd.Series:
        """One row for each label of each labelled text, with the index of its text."""
        labels = self.labelled()["label"]
        return each_label(labels) if self.multilabel else labels

    def class_counts(self) -> pd.DataFrame:
        """How many texts: one row per class, the largest in train first, one column per split."""
        each = self.each_label().rename("label").to_frame()
        each["split"] = self.table["split"].loc[each.index].to_numpy()
        counts = pd.crosstab(each["label"], each["split"])[["train", "valid", "test"]]
        return counts.sort_values("train", ascending=False, kind="stable")

    def mend(self, how: str) -> str:
        """Advice for what stands in the data themselves."""
        if self.is_published:
            return (
                "Leave published data as they are, so that results can be compared, and say "
                "this beside them."
            )
        return (
            f"{how} (suspects.csv lists the texts), then: python -m ulmfit_app inspect "
            f"{self.options}"
        )

    def inspect_as(self, encoding: str) -> str:
        """The command that looks at the same file in another encoding."""
        settings = replace(self.settings, encoding=encoding)
        return f"python -m ulmfit_app inspect {command_options(settings, self.tokens, self.seed)}"

    def suspects(
        self, rows: Iterable[int], groups: Iterable, excerpts: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Rows as a Finding takes them.

        Args:
            rows: which of the table.
            groups: what each belongs to.
            excerpts: the part of each text to show; None for its beginning.
        """
        found = self.table.loc[list(rows), ["split", "label", "text"]].reset_index(drop=True)
        excerpts = found["text"].str.slice(0, 80) if excerpts is None else excerpts
        found.insert(0, "group", list(groups))
        found.insert(
            3,
            "excerpt",
            [escape(excerpt, INVISIBLE) for excerpt in excerpts],
        )
        return found

    def grouped(self, rows: pd.Index, exact: pd.Series) -> pd.DataFrame:
        """`suspects` with near copies together.

        Args:
            rows: which of the table.
            exact: a mask of the table; groups with rows in it come first, then the largest.
        """
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


def describe(corpus: Corpus, store: TokenStore) -> pd.DataFrame:
    """The table of `Described`.

    Args:
        corpus: the texts.
        store: their tokens, in the same order.
    """
    script_of, names = pd.factorize(
        np.array([_script(word) for word in store.words], dtype=object)
    )
    script_of = script_of.astype(np.int16)[store.ids]
    # One row per script: how many words of each text are in it.
    counts = np.stack(
        [
            np.add.reduceat(script_of == i, store.offsets[:-1], dtype=np.int32)
            for i in range(len(names))
        ]
    )
    counts[names == NO_LETTERS] = 0
    scripts = np.where(counts.max(axis=0) > 0, names[counts.argmax(axis=0)], NO_LETTERS)
    copy = pd.factorize(corpus.table["text"])[0]
    return corpus.table[["text", "label", "split"]].assign(
        tokens=store.lengths(), script=scripts, copy=copy, near=group_near_copies(store, copy)
    )


def _script(word: str) -> str:
    """The script of the first letter, as Unicode names it; NO_LETTERS for none, and for marks.

    >>> [_script(word) for word in ("word", "слово", "ことば", "12", "xxmaj", "<0xE4>")]
    ['Latin', 'Cyrillic', 'Chinese or Japanese', 'no letters', 'no letters', 'no letters']
    """
    letter = next(filter(str.isalpha, word), None)
    if letter is None or word in _LETTERLESS:
        return NO_LETTERS
    name = unicodedata.name(letter, "unnamed").partition(" ")[0]
    return _ONE_SCRIPT.get(name, name.capitalize())


def count_share(count: int, n: int, noun: str = "texts") -> str:
    """A number and its share as a sentence has it.

    >>> count_share(3, 1200), count_share(0, 10)
    ('3 of 1,200 texts (0.2%)', '0 of 10 texts')
    """
    share = f" ({count / n:.1%})"
    return f"{count:,} of {n:,} {noun}{'' if share == ' (0.0%)' else share}"


def command_options(data: DataSettings, tokens: TokenSettings, seed: int) -> str:
    """The command line that gives these settings."""
    given = [data.source]
    for prefix, settings in (("--", data), ("--tokens.", tokens)):
        for each in fields(settings):
            value = getattr(settings, each.name)
            if each.name != "source" and value != each.default:
                several = value if isinstance(value, tuple) else (value,)
                # What is on or off needs no word behind it.
                words = [] if value is True else [str(one) for one in several]
                given += [prefix + each.name.replace("_", "-"), *words]
    return shlex.join([*given, *(["--seed", str(seed)] if seed != Settings.seed else [])])
