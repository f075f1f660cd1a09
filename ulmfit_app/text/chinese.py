"""Traditional and Simplified Chinese: which of them texts are in, and OpenCC between them."""

from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import chain

from ulmfit_app.errors import SettingError
from ulmfit_app.languages import has_character


def missing_chinese(package: str) -> SettingError:
    """The error where a package of the extra `chinese` is not installed."""
    return SettingError(
        f"Texts without spaces between words need the package {package}, which is not installed. "
        "Run: pip install 'ulmfit-app[chinese]'"
    )


@lru_cache(8)
def converter(config: str | None) -> Callable[[str], str]:
    """OpenCC's conversion of texts.

    Args:
        config: its name with OpenCC, as s2twp: Simplified to Traditional with the words of Taiwan.
            "" or None: texts stay as they are.

    Raises:
        SettingError: the extra `chinese` is not installed.
    """
    if not config:
        return str
    try:
        from opencc import OpenCC
    except ImportError:
        raise missing_chinese("opencc") from None
    return OpenCC(config).convert


@lru_cache(1 << 16)
def _kind(character: str) -> int:
    """1 where Simplified alone writes a character so, -1 where Traditional alone does, else 0."""
    # OpenCC makes 臺 of 台, and 裡 of 里, which Traditional writes, too: Big5 has them.
    in_big5, in_gb2312 = (has_character(name, character) for name in ("big5", "gb2312"))
    is_simplified = converter("s2t")(character) != character and not in_big5
    is_traditional = converter("t2s")(character) != character and not in_gb2312
    return int(is_simplified) - int(is_traditional)


def simplified_share(texts: Iterable[str]) -> float | None:
    """How much of some texts is Simplified, of all that only one of the two scripts writes so.

    Args:
        texts: any; characters that both scripts share do not count.

    Returns:
        From 0, Traditional, to 1, Simplified; None where nothing tells.

    Raises:
        SettingError: the extra `chinese` is not installed.

    >>> simplified_share(["计程车"]), simplified_share(["計程車"]), simplified_share(["人山人海"])
    (1.0, 0.0, None)
    """
    kinds = [_kind(character) for character in chain.from_iterable(texts)]
    n_simplified, n_traditional = kinds.count(1), kinds.count(-1)
    n = n_simplified + n_traditional
    return n_simplified / n if n else None


def origins(old: str, new: str) -> list[tuple[int, int]]:
    """Which characters of a text each one of its conversion came from.

    Args:
        old: the text.
        new: what `converter` made of it.

    Returns:
        Start and stop in `old` for each character of `new`, never falling.

    >>> origins("坐出租车去", "坐計程車去")
    [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    >>> origins("手机U盘", "手機隨身碟")
    [(0, 1), (1, 2), (2, 4), (2, 4), (2, 4)]
    """
    if len(old) == len(new):
        return [(i, i + 1) for i in range(len(old))]
    # Character by character the text keeps its length; the two then differ by phrases alone.
    plain = "".join(map(converter("s2t"), old))
    plain = plain if len(plain) == len(old) else old
    found: list[tuple[int, int]] = []
    for kind, start, stop, first, last in _matched(plain, new):
        if kind == "equal" or stop - start == last - first:
            found += [(i, i + 1) for i in range(start, stop)]
        else:
            found += [(start, stop)] * (last - first)
    return found


def _matched(old: str, new: str) -> list[tuple[str, int, int, int, int]]:
    return SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
