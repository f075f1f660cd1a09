"""Fonts for characters that matplotlib's own has not, such as Chinese ones."""

from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache

from matplotlib.font_manager import FontEntry, findfont, findSystemFonts, fontManager, get_font
from matplotlib.ft2font import FT2Font

from ulmfit_app.evaluation.messages import Message
from ulmfit_app.evaluation.scripts import script_of

# matplotlib brings it along, so that a figure looks the same on every machine.
FONT = "DejaVu Sans"
# What draws the characters of each script as its readers write them, best first: Noto's, those of
# macOS and those of Windows. A font for another script has most of the characters, too.
_HAN = {
    "zh-Hant": (
        *("Noto Sans CJK TC", "Noto Sans TC", "Source Han Sans TC", "Noto Sans CJK HK"),
        *("PingFang TC", "PingFang HK", "Heiti TC", "Microsoft JhengHei", "MingLiU"),
    ),
    "zh-Hans": (
        *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN"),
        *("PingFang SC", "Heiti SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei"),
    ),
    "ja": (
        *("Noto Sans CJK JP", "Noto Sans JP", "Source Han Sans", "Hiragino Sans"),
        *("Hiragino Kaku Gothic Pro", "Yu Gothic", "Meiryo", "IPAexGothic", "MS Gothic"),
    ),
    "ko": (
        *("Noto Sans CJK KR", "Noto Sans KR", "Source Han Sans KR"),
        *("Apple SD Gothic Neo", "Malgun Gothic", "NanumGothic"),
    ),
}
_ANY_HAN = ("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Arial Unicode MS", "Droid Sans Fallback")
_PREFERRED = {
    **_HAN,
    "zh": _HAN["zh-Hant"],
    "th": ("Noto Sans Thai", "Thonburi", "Leelawadee UI", "Loma", "Garuda"),
}


def families_for(text: str) -> tuple[list[str], set[str]]:
    """Installed fonts that together have the characters of a text, our own first.

    Args:
        text: to be drawn.

    Returns:
        The names of font families, as matplotlib falls back from one to the next, and the
        characters that are in none.
    """
    families = [FONT]
    missing = {one for one in text if not one.isspace()}
    missing -= _characters_of(findfont(FONT))
    if not missing:
        return families, missing
    for entry in _installed_fonts(_preferred(text)):
        # Last Resort has a box for every character there is.
        if entry.name in families or entry.name.startswith("Last Resort"):
            continue
        held = missing & _characters_of(entry.fname, getattr(entry, "index", 0))
        if held:
            families.append(entry.name)
            missing -= held
        if not missing:
            break
    return families, missing


def _preferred(text: str) -> list[str]:
    """Families for a text's script, best first, then those for scripts with its characters."""
    others = [name for names in _HAN.values() for name in names]
    return [*_PREFERRED.get(script_of(text), ()), *_ANY_HAN, *others]


def _installed_fonts(preferred: list[str]) -> Iterator[FontEntry]:
    """Fonts that matplotlib found when it first ran on this machine, then those added since; of
    each kind the preferred families first."""
    places = {name: place for place, name in reversed(list(enumerate(preferred)))}

    def place(entry: FontEntry) -> int:
        return places.get(entry.name, len(preferred))

    known = list(fontManager.ttflist)
    yield from sorted(known, key=place)
    for file in sorted(set(findSystemFonts()) - {entry.fname for entry in known}):
        with suppress(RuntimeError, OSError):  # one that matplotlib cannot read
            fontManager.addfont(file)
    yield from sorted(fontManager.ttflist[len(known) :], key=place)


@lru_cache(maxsize=64)
def _characters_of(font_file: str, face: int = 0) -> frozenset[str]:
    """The characters of a font; of a collection (.ttc), of one of its faces."""
    try:
        # Before version 3.11 matplotlib knows the first face of a file and no other.
        font = FT2Font(font_file, face_index=face) if face else get_font(font_file)
        return frozenset(map(chr, font.get_charmap()))
    except (RuntimeError, OSError):
        # matplotlib lists fonts that it cannot read, such as those of coloured bitmaps.
        return frozenset()


def how_to_install(characters: set[str]) -> Message:
    """A sentence on what to install so that these characters can be drawn."""
    script = script_of("".join(sorted(characters)))
    if not script:
        return Message("To see them, install a font that has them.")
    debian, name = (
        ("fonts-noto-core", "Noto Sans Thai")
        if script == "th"
        else ("fonts-noto-cjk", "Noto Sans CJK TC")
    )
    return Message(
        "To see them: apt install {package} (Debian, Ubuntu), or on other systems install the "
        "font {font}.",
        package=debian,
        font=name,
    )
