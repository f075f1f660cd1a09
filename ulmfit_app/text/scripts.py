"""Which language texts are in, as far as a script that writes no spaces between words tells it."""

import re

_LETTERS = {
    "zh": re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"),
    "ja": re.compile("[\u3041-\u30ff]"),
    "th": re.compile("[\u0e01-\u0e5b]"),
    "lo": re.compile("[\u0e81-\u0edf]"),
    "my": re.compile("[\u1000-\u109f]"),
    "km": re.compile("[\u1780-\u17ff]"),
}
_KANA = 0.1  # of Chinese characters and kana, from where on a text is Japanese


def language_without_spaces(text: str) -> str | None:
    """The language of a text that is mostly in a script without spaces between words.

    Args:
        text: as much as one wants to know it of.

    Returns:
        As spaCy names it, of `languages.WITHOUT_SPACES`; None for other scripts.

    >>> [language_without_spaces(text) for text in ("很好的电影", "とても良い映画", "a film")]
    ['zh', 'ja', None]
    """
    n = {language: len(letters.findall(text)) for language, letters in _LETTERS.items()}
    n_others = sum(map(str.isalpha, text)) - sum(n.values())
    if sum(n.values()) <= max(n_others, 0):
        return None
    if n["ja"] > _KANA * (n["ja"] + n["zh"]):
        return "ja"
    return max(n, key=n.__getitem__)
