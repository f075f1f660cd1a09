"""Characters that a reader cannot see, and how they are shown."""

import re

# In a text: control characters but tab and line ends, soft hyphen, zero-width space, word joiner,
# byte order mark.
INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff]")
# In a label more is odd: every control character, blanks other than the space, marks of direction,
# letters without a shape. The two joiners belong inside emoji and in Persian and Indic words, but
# not at an end, or beside a Latin letter.
HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\xa0\u00ad\u034f\u061c\u115f\u1160\u1680\u180e\u2000-\u200b\u200e\u200f"
    "\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufeff\uffa0\ufff9-\ufffb]"
    "|(?:^|(?<=[\x00-\u024f]))[\u200c\u200d]|[\u200c\u200d](?:$|(?=[\x00-\u024f]))"
)


def escape(text: str, odd: re.Pattern[str] = HIDDEN) -> str:
    r"""The text with a code for each character that a reader cannot see.

    Args:
        text: any.
        odd: what is replaced.

    >>> escape("pos\u200b")
    'pos\\u200b'
    """
    return odd.sub(lambda found: "".join(f"\\u{ord(one):04x}" for one in found[0]), text)
