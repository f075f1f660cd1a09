"""Which writing system a text is in."""

import unicodedata
from collections import Counter
from functools import cache

from ulmfit_app.evaluation.scripts import script_of

LOOKED_AT = 300  # characters of a text
NO_LETTERS = "no letters"
_NAMES = {
    "zh-Hant": "Traditional Chinese",
    "zh-Hans": "Simplified Chinese",
    "zh": "Chinese characters",
    "ja": "Japanese",
    "ko": "Korean",
    "th": "Thai",
}


def name_writing(text: str) -> str:
    """The writing system of most letters of a text.

    It tells languages of one alphabet apart from none: of these, unknown words and a classifier
    do.

    >>> [name_writing(text) for text in ("a film", "很好的電影", "хороший фильм", ":-) 10")]
    ['Latin letters', 'Traditional Chinese', 'Cyrillic letters', 'no letters']
    """
    begun = text[:LOOKED_AT]
    if begun.isascii():
        return "Latin letters" if any(map(str.isalpha, begun)) else NO_LETTERS
    if found := script_of(begun):
        return _NAMES[found]
    counts = Counter(map(_alphabet, filter(str.isalpha, begun)))
    return f"{counts.most_common(1)[0][0]} letters" if counts else NO_LETTERS


@cache
def _alphabet(letter: str) -> str:
    """The first word of its name in Unicode, such as Latin, Greek, Arabic or Hebrew."""
    return unicodedata.name(letter, "other").split()[0].capitalize()
