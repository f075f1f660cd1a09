"""Texts of any script: which one it is, how wide they are, and where a line may break.

A Chinese character takes the room of two Latin ones, and a line may break between any two of them,
but not before a closing mark or behind an opening one.
"""

import unicodedata

from ulmfit_app.languages import has_character

# Ranges of the characters that tell scripts apart, as first and last.
_HAN = (("\u3400", "\u9fff"), ("\uf900", "\ufaff"), ("\U00020000", "\U0003ffff"))
_OTHERS = {
    "ja": (("\u3041", "\u30ff"),),
    "ko": (("\u1100", "\u11ff"), ("\uac00", "\ud7a3")),
    "th": (("\u0e01", "\u0e5b"),),
}
# What must not begin a line, and what must not end one.
_CLOSING = set("。，、；：？！」』）》】〉〕”’…‥—～·・ー々％,.;:?!)]}%")
_OPENING = set("「『（《【〈〔“‘([{$＄￥")
_JOINER = "\u200d"  # makes one emoji of several


def script_of(text: str) -> str:
    """The script of a text, as a page names it in `lang`.

    Traditional and Simplified are told apart by the characters that only one of Taiwan's and
    China's own encodings has, Big5 and GB 2312.

    Args:
        text: any.

    Returns:
        zh-Hant, zh-Hans, zh (Chinese characters that both have), ja, ko or th; "" where most of
        the text is of another script.

    >>> script_of("機器學習"), script_of("机器学习"), script_of("中文"), script_of("machine")
    ('zh-Hant', 'zh-Hans', 'zh', '')
    """
    letters = [one for one in text if one.isalpha()]
    han = [one for one in letters if _is_in(one, _HAN)]
    n = {name: sum(_is_in(one, of) for one in letters) for name, of in _OTHERS.items()}
    if 4 * (len(han) + sum(n.values())) < len(letters) or not letters:
        return ""
    # Japanese is written with Chinese characters, too, and Korean was.
    most = max(n, key=n.get)
    if 4 * n[most] > len(han):
        return most
    in_big5, in_gb2312 = (
        [has_character(encoding, one) for one in han] for encoding in ("big5", "gb2312")
    )
    traditional = sum(big5 > gb2312 for big5, gb2312 in zip(in_big5, in_gb2312, strict=True))
    simplified = sum(big5 < gb2312 for big5, gb2312 in zip(in_big5, in_gb2312, strict=True))
    if traditional == simplified:
        return "zh"
    return "zh-Hant" if traditional > simplified else "zh-Hans"


def _is_in(character: str, ranges: tuple[tuple[str, str], ...]) -> bool:
    return any(first <= character <= last for first, last in ranges)


def width_of(text: str) -> int:
    """How many columns a text takes: two for a full-width character, none for a mark on another.

    >>> width_of("ab"), width_of("中文"), width_of("ＡＢ")
    (2, 4, 4)
    """
    return sum(_columns(one) for one in text)


def _columns(character: str) -> int:
    if character.isascii():
        return 1
    if _joins(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _joins(character: str) -> bool:
    """Whether it is drawn with the character before it."""
    return character == _JOINER or unicodedata.category(character) in ("Mn", "Me")


def pad(text: str, width: int) -> str:
    """The text at the right of so many columns.

    >>> pad("中文", 6)
    '  中文'
    """
    return " " * (width - width_of(text)) + text


def first_characters(text: str, n: int) -> str:
    """At most n code points from the beginning, without half of a character at the end.

    >>> first_characters("cafe\u0301", 4)  # the accent belongs to the e
    'caf'
    """
    while n and n < len(text) and (_joins(text[n]) or text[n - 1] == _JOINER):
        n -= 1
    return text[:n]


def shorten(text: str, width: int) -> str:
    """At most so many columns, with both ends, where names differ.

    >>> shorten("the beginning, a middle, the end", 24)
    'the beginning, … the end'
    """
    if width_of(text) <= width:
        return text
    tail = width // 3
    head = _fitting(text, width - tail - 1)
    end = _fitting(text[::-1], tail)[::-1]
    while end and _joins(end[0]):
        end = end[1:]
    return f"{first_characters(text, len(head))}…{end}"


def _fitting(text: str, width: int) -> str:
    """As much of the beginning as fits into so many columns."""
    for n, character in enumerate(text):
        width -= _columns(character)
        if width < 0:
            return text[:n]
    return text


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most so many columns; a word or a run of marks that is longer has its own.

    >>> wrap("語言模型、斷詞和分類", 8)
    ['語言模', '型、斷詞', '和分類']
    """
    lines, line = [], ""
    for piece in _pieces(text):
        if line and width_of(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece
    return [*lines, line.rstrip()]


def _pieces(text: str) -> list[str]:
    """What no line breaks within, with the spaces behind it."""
    pieces = []
    for character in text:
        if pieces and not _may_break(pieces[-1][-1], character):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def _may_break(before: str, after: str) -> bool:
    if after.isspace() or after in _CLOSING or before in _OPENING or _joins(after):
        return False
    return before.isspace() or 2 in (_columns(before), _columns(after))
