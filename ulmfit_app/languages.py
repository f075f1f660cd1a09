"""Which scripts and languages write words without spaces between them."""

# Scripts without spaces between words, and Hangul: Thai, Han, kana and bopomofo, their
# punctuation, full-width forms. What stands between the brackets of a regular expression.
UNSPACED = (
    "\u0e00-\u0e7f\u2e80-\u2fff\u3001-\u9fff\uac00-\ud7ff"
    "\uf900-\ufaff\ufe30-\ufe4f\uff01-\uffef\U00020000-\U0003ffff"
)

# Languages without spaces between words, so that what stands between two spaces is a sentence.
WITHOUT_SPACES = {"zh", "ja", "th", "lo", "km", "my"}


def has_subwords(language: str) -> bool:
    """Whether a language's tokens are subwords, since it writes no spaces between words.

    Args:
        language: its code, as en, or zh-tw with a region.

    >>> has_subwords("zh-tw"), has_subwords("en")
    (True, False)
    """
    return language.partition("-")[0] in WITHOUT_SPACES


def has_character(encoding: str, character: str) -> bool:
    """Whether an encoding has a character: Big5 those of Traditional, GB 2312 of Simplified.

    >>> has_character("big5", "車"), has_character("gb2312", "車")
    (True, False)
    """
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def is_chinese(language: str) -> bool:
    """Whether a language's code is one of Chinese, as zh or zh-tw."""
    return language.partition("-")[0] == "zh"
