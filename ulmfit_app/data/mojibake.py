"""Texts that were read in another encoding than their own."""

import re
from collections.abc import Iterable

# UTF-8 read as Windows-1252 or Latin-1: a byte that begins a character, then those that go on with
# it. A letter that ends a quotation looks the same, so that most of them count only inside a word
# or twice in a row.
_ON = bytes(range(0x80, 0xC0)).decode("cp1252", "ignore")
_ON += bytes(range(0x80, 0xA0)).decode("latin-1")
_UTF8_AS_WESTERN = (
    f"[ÂÃ][{_ON}]|[ÄÅÎÏÐÑ][{_ON}](?=\\w)|â[€‚„†˜œ\x80-\x9f][{_ON}]|(?:[Ì-Û][{_ON}]){{3}}|"
    f"(?:[ã-ï][{_ON}]{{2}}){{2}}|ð[Ÿ\x9f][{_ON}]{{2}}|ï»¿"
)
# UTF-8 read as Windows-1251: of Cyrillic every first byte is a capital Р or С. In Ukrainian a word
# may begin so; three letters do not.
_CYRILLIC_ON = bytes(range(0x80, 0xC0)).decode("cp1251", "ignore")
_UTF8_AS_CYRILLIC = f"(?:[РС][{_CYRILLIC_ON}]){{3}}|вЂ[{_CYRILLIC_ON}]"
MISREAD_UTF8 = re.compile(f"{_UTF8_AS_WESTERN}|{_UTF8_AS_CYRILLIC}")

# The byte that Windows-1252 or Latin-1 read as each character.
_BYTES = {chr(byte): byte for byte in range(256)}
_BYTES |= {
    bytes([byte]).decode("cp1252"): byte
    for byte in range(0x80, 0xA0)
    if bytes([byte]).decode("cp1252", "ignore")
}
_HIGH = re.compile(f"[{''.join(character for character, byte in _BYTES.items() if byte >= 0x80)}]")
_RUN = re.compile(f"{_HIGH.pattern}{{4,}}")
_LETTER = re.compile("[À-ÖØ-öø-ÿ]")
_TWO_LETTERS = re.compile(f"{_LETTER.pattern}{{2}}")
_MANY = re.compile("[^\x00-\x7f]{4,}")
# Of three bytes in UTF-8, as hardly any other bytes of Chinese are by chance; and what 锟斤拷 was.
_THREE_BYTES = re.compile("[\u3000-\u9fff\uff00-\uffef\ufffd]")
_DENSE = 0.4  # of a text's characters but blanks, all of them beyond ASCII


def find_misread_alphabet(text: str) -> re.Match[str] | None:
    """Where a text may be another alphabet's that was read as Western European.

    Four characters in a row beyond ASCII, three of them different, are hardly ever a word of a
    language that Windows-1252 was made for; in Cyrillic read so, every word is of such characters.
    Of Big5 and Shift JIS every second byte may be ASCII, but never so few as in a Western text.

    Args:
        text: as it was read.

    >>> bool(find_misread_alphabet("Ïðèâåò")), bool(find_misread_alphabet("Ääänekoski, «déjà vu»"))
    (True, False)
    """
    high = _HIGH.findall(text)
    if len(set(high)) < 3 or _is_utf8(text):
        return None
    for run in _RUN.finditer(text):
        if len(set(run[0])) >= 3 and _TWO_LETTERS.search(run[0]):
            return run
    dense = len(set(high)) >= 5 and len(high) > _DENSE * len("".join(text.split()))
    return _HIGH.search(text) if dense and _LETTER.search(text) else None


def find_misread_chinese(text: str) -> re.Match[str] | None:
    """Where a text may be Chinese in UTF-8 that was read as GBK or GB18030.

    Args:
        text: as it was read.

    >>> bool(find_misread_chinese("寰堝ソ鐪嬶紒")), bool(find_misread_chinese("很好看！"))
    (True, False)
    """
    for run in _MANY.finditer(text):
        content = run[0].encode("gb18030", "ignore")
        found = _THREE_BYTES.findall(content.decode("utf-8", "ignore"))
        if 4 * 3 * len(found) >= 3 * len(content) > 0:
            return run
    return None


def _is_utf8(text: str) -> bool:
    decoded = original_bytes([text]).decode("utf-8", "replace")
    bad = decoded.count("\ufffd")
    return sum(not character.isascii() for character in decoded) - bad >= bad


def original_bytes(texts: Iterable[str]) -> bytes:
    """The bytes that texts had before they were read as Windows-1252 or Latin-1, a line each.

    Args:
        texts: those that `find_misread_alphabet` found something in.

    >>> original_bytes(["Ïðèâåò"]).decode("cp1251")
    'Привет'
    """
    joined = "\n".join(texts)
    return bytes(_BYTES[character] for character in joined if character in _BYTES)
