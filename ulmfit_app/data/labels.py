"""Labels as their file spells them: what is taken off, their order, and what is odd about them.

A label is its cell without the white space around it. Nothing else is changed: 1.0 and 1, TRUE and
true, pos and Pos are different classes, and what looks like one class in two spellings is said.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal

import pandas as pd

from ulmfit_app.data.characters import HIDDEN, escape
from ulmfit_app.data.encodings import LONE_SURROGATE
from ulmfit_app.errors import quoted

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_JOINERS = "\u200c\u200d"  # not seen either, where two spellings are compared
_SEPARATORS = (",", ";", "|")  # of several labels in one
_MOST = 5  # labels, or groups of them, that a sentence names


def strip_labels(cells: pd.Series) -> tuple[pd.Series, list[str]]:
    """Labels without white space around them, and what was done, in sentences.

    Args:
        cells: strings; nan, as pandas writes what is missing, and white space alone are no label.

    Returns:
        Labels, "" where there is none.

    >>> strip_labels(pd.Series(["1.0", " pos ", "TRUE", "nan"], dtype=object))[0].tolist()
    ['1.0', 'pos', 'TRUE', '']
    """
    notes = []
    n_lone = int(cells.map(lambda cell: len(LONE_SURROGATE.findall(cell))).sum())
    if n_lone:
        notes.append(
            "Replaced every lone surrogate, which is no character, by U+FFFD: "
            f"{n_lone:,} in labels."
        )
        cells = cells.map(lambda cell: LONE_SURROGATE.sub("\ufffd", cell))
    labels = cells.map(str.strip)
    labels = labels.mask(labels.str.casefold() == "nan", "")
    wider = cells[(labels != cells) & (labels != "")]
    if len(wider):
        example = wider.iloc[0]
        notes.append(
            f"Took white space off the labels of {len(wider):,} rows: '{escape(example)}' is "
            f"'{escape(example.strip())}'."
        )
    return labels, notes


def label_order(label: str) -> tuple[bool, float, str]:
    """What labels are sorted by: numbers by value, before words by alphabet.

    >>> sorted(["b", "10", "2.0", "a", "-1"], key=label_order)
    ['-1', '2.0', '10', 'a', 'b']
    """
    number = _NUMBER.fullmatch(label)
    return number is None, float(label) if number else 0.0, label


def find_alike(labels: Iterable[str]) -> list[list[str]]:
    """Labels that differ by capitals, blanks, hidden characters or the writing of a number alone.

    Args:
        labels: each once; the order is kept.

    Returns:
        Groups of two and more.

    >>> find_alike(["pos", "2.00", "neg", "Pos", "2"])
    [['pos', 'Pos'], ['2.00', '2']]
    """
    groups: dict[str | Decimal, list[str]] = {}
    for label in labels:
        groups.setdefault(_skeleton(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _skeleton(label: str) -> str | Decimal:
    plain = HIDDEN.sub("", unicodedata.normalize("NFKC", label))
    plain = "".join(plain.split()).translate(dict.fromkeys(map(ord, _JOINERS))).casefold()
    # Full-width forms fold into others, and some characters into two.
    plain = unicodedata.normalize("NFKC", plain)
    return Decimal(plain) if _NUMBER.fullmatch(plain) else plain


def find_hidden(labels: Iterable[str]) -> list[str]:
    """Labels with characters that a reader cannot see.

    >>> find_hidden(["pos", "pos\\u200b"]) == ["pos\\u200b"]
    True
    """
    return [label for label in labels if HIDDEN.search(label)]


def find_combined(labels: Sequence[str]) -> list[str]:
    """Labels that look like several in one: each part is a label, or a part of another one.

    Args:
        labels: each once.

    >>> find_combined(["a", "b", "a,b", "Doe, Jane"])
    ['a,b']
    """
    found = []
    for separator in _SEPARATORS:
        parts = {label: _parts(label, separator) for label in labels}
        n_labels = Counter(part for of_one in parts.values() for part in set(of_one))
        found += [
            label
            for label, of_one in parts.items()
            if len(of_one) > 1 and all(n_labels[part] > 1 for part in of_one)
        ]
    return found


def _parts(label: str, separator: str) -> list[str]:
    # Lists of Python and JSON keep their brackets and quotes in a CSV.
    parts = (part.strip(" []()'\"").casefold() for part in label.split(separator))
    return [part for part in parts if part]


def notes_on_labels(labels: pd.Series, each_alone: bool = True) -> list[str]:
    """What is odd about the spelling of labels, in sentences.

    Args:
        labels: of each labelled row.
        each_alone: whether a text has one label; one with several is not said to look so.
    """
    n = labels.value_counts()
    notes = []
    if alike := find_alike(n.index):
        groups = [" and ".join(f"{_named(one)} ({n[one]:,} rows)" for one in group)
                  for group in alike[:_MOST]]  # fmt: skip
        notes.append(
            "Each spelling is a class of its own, where labels differ by capitals, spaces, hidden "
            f"characters or the writing of a number alone: {'; '.join(groups)}{_more(alike)}. "
            "Spell them in one way if they mean the same."
        )
    if hidden := find_hidden(n.index):
        listed = ", ".join(f"{_named(one)} ({n[one]:,} rows)" for one in hidden[:_MOST])
        notes.append(
            f"Kept characters that cannot be seen in labels, shown as codes here: {listed}"
            f"{_more(hidden)}."
        )
    if each_alone and (combined := find_combined(n.index)):
        notes.append(f"{describe_combined(n, combined)} {SEVERAL_LABELS}")
    return notes


SEVERAL_LABELS = "To predict each part by itself, add: --multilabel"


def describe_combined(counts: pd.Series, combined: list[str]) -> str:
    """A sentence on labels that look like several in one.

    Args:
        counts: rows of each label.
        combined: what `find_combined` found.
    """
    n = int(counts[combined].sum())
    return (
        f"{len(combined):,} of {len(counts):,} labels, such as {quoted(combined[:3])}, look like "
        f"several in one ({n:,} rows): each combination is a class of its own here."
    )


def _named(label: str) -> str:
    return f"'{escape(label)[:60]}'"


def _more(found: list) -> str:
    return f" and {len(found) - _MOST:,} more" if len(found) > _MOST else ""
