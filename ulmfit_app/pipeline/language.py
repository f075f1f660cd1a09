"""Which language a run's texts are in, where nobody named one, and whether they suit the start."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from ulmfit_app.config import Settings
from ulmfit_app.data import language
from ulmfit_app.data.language import SAMPLE, require_chinese
from ulmfit_app.errors import SettingError
from ulmfit_app.languages import has_subwords, is_chinese
from ulmfit_app.models.shapes import TransformerShape
from ulmfit_app.models.start import Start
from ulmfit_app.presets import PRESETS
from ulmfit_app.text.chinese import simplified_share

NOTABLE = 0.1  # of the characters that tell


def is_open(settings: Settings) -> bool:
    """Whether the data are to say which language they are in: none was named, and it may not be
    the default."""
    return language.is_open(settings.data, settings.tokens)


def find_language(settings: Settings, texts: pd.Series) -> tuple[Settings, list[str]]:
    """Settings with the language that the texts are in, where their name or their script tells.

    Args:
        settings: of a run, whose language is open.
        texts: of its data, as they were read.

    Returns:
        Settings, and what was found, in sentences.

    Raises:
        SettingError: the extra `chinese` is not installed.
    """
    tokens, notes = language.find_language(settings.data, settings.tokens, texts)
    return replace(settings, tokens=tokens), notes


def describe_script(settings: Settings, texts: pd.Series, start: Start) -> list[str]:
    """Which script Chinese texts are in, or are converted to, where that may matter; in sentences.

    Args:
        settings: of a run, with its language.
        texts: of its data.
        start: what the run starts from.

    Raises:
        SettingError: a conversion between Chinese scripts is asked for, of other texts; or the
            extra `chinese` is not installed.
    """
    require_chinese(settings.tokens)
    of_subwords = start.has_subwords and not isinstance(start.shape, TransformerShape)
    if of_subwords and not has_subwords(settings.tokens.language):
        return [
            f"The start reads texts in subwords of its own, {start.n_words:,}, which it learned "
            "from a language without spaces between words."
        ]
    if not is_chinese(settings.tokens.language):
        return []
    if settings.tokens.opencc is not None:
        return [
            f"Texts are read as OpenCC's {settings.tokens.opencc} converts them; tables show them "
            "unconverted."
        ]
    share = simplified_share(texts.head(SAMPLE))
    is_mixed = share is not None and NOTABLE <= share <= 1 - NOTABLE
    if not (is_mixed or (of_subwords and share is not None and share >= NOTABLE)):
        return []
    return [
        f"{share:.0%} of the characters that only one script of Chinese writes so are Simplified. "
        "A model of one script knows little of the other, and zh-tw-small learned Traditional. To "
        "read all as Traditional: --tokens.opencc s2twp"
    ]


def require_used(settings: Settings, preset: str, starts: Sequence[Start]) -> None:
    """Refuse settings of a vocabulary of words, or of one that is learned, where there is none.

    Args:
        settings: of a run, with its language.
        preset: the name of the preset that they were derived from, whose own values nobody asked
            for; "" where there was none.
        starts: what it starts from.

    Raises:
        SettingError: with the option.
    """
    of_subwords = starts[0].has_subwords or has_subwords(settings.tokens.language)
    if preset not in PRESETS or not of_subwords:
        return
    unused = {"min_freq": "is of words, and these texts are read in subwords"}
    if starts[0].has_subwords:
        unused["max_vocab"] = f"is not used: {settings.starts[0]} has subwords of its own"
    for name, why in unused.items():
        if getattr(settings.tokens, name) != getattr(PRESETS[preset].tokens, name):
            raise SettingError(f"--tokens.{name.replace('_', '-')} {why}. Leave it out.")


def require_same_tokens(settings: Settings, starts: Sequence[Start]) -> None:
    """Refuse a start of words for a language that is read in subwords.

    Raises:
        SettingError: with the starts that can be given.
    """
    for name, start in zip(settings.starts, starts, strict=True):
        is_of_words = start.is_pretrained and not start.has_subwords
        if is_of_words and has_subwords(settings.tokens.language):
            code = settings.tokens.language
            other = "zh-tw-small" if is_chinese(code) else "FOLDER, from pretrain CORPUS"
            raise SettingError(
                f"The start {name} has a vocabulary of words, and texts in the language {code} "
                f"are read in subwords. Give random weights, --pretrained none --lm.epochs 10, a "
                f"start of subwords, --pretrained {other}, or a transformer."
            )
