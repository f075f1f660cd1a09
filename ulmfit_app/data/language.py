"""Which language texts are in, where nobody named one; and the subwords of one without spaces."""

from dataclasses import replace

import pandas as pd

from ulmfit_app.config import CHINESE, MODELS, TO_SIMPLIFIED, DataSettings, TokenSettings
from ulmfit_app.data.known_sets import language_of
from ulmfit_app.errors import SettingError
from ulmfit_app.languages import is_chinese
from ulmfit_app.text.chinese import converter, simplified_share
from ulmfit_app.text.scripts import language_without_spaces
from ulmfit_app.text.subwords import SubwordTokenizer
from ulmfit_app.text.unigram import BEGIN, learn_subwords

SAMPLE = 1_000  # texts that are looked at


def is_open(data: DataSettings, tokens: TokenSettings) -> bool:
    """Whether the data are to say which language they are in: none was named, and it may not be
    the default."""
    default = TokenSettings.language
    return tokens.language == default and language_of(data.source) != default


def find_language(
    data: DataSettings, tokens: TokenSettings, texts: pd.Series
) -> tuple[TokenSettings, list[str]]:
    """Settings with the language that the texts are in, where their name or their script tells.

    Args:
        data: where they are from.
        tokens: whose language is open.
        texts: as they were read.

    Returns:
        Settings, and what was found, in sentences.

    Raises:
        SettingError: the extra `chinese` is not installed.
    """
    if (found := language_of(data.source)) is not None:
        return replace(tokens, language=found), [f"Language: {found}, that of {data.source}."]
    found = name_language(tokens, texts)
    if found is None:
        return tokens, []
    note = (
        f"Language: {found}, by the script of the texts. To name another: --tokens.language CODE"
    )
    return replace(tokens, language=found), [note]


def name_language(tokens: TokenSettings, texts: pd.Series) -> str | None:
    """The code of the language without spaces that texts are in; None where they are in another.

    Chinese is zh-tw, as it is read there, or zh where most of it is Simplified and stays so.
    """
    found = language_without_spaces("".join(texts.head(SAMPLE)))
    if found != "zh":
        return found
    if tokens.opencc:
        return "zh" if tokens.opencc in TO_SIMPLIFIED else "zh-tw"
    share = simplified_share(texts.head(SAMPLE))
    return "zh" if share is not None and share >= 0.5 else "zh-tw"


def require_chinese(tokens: TokenSettings) -> None:
    """Refuse a conversion between the scripts of Chinese for texts of another language.

    Raises:
        SettingError: with the option that names the language.
    """
    if tokens.opencc is not None and not is_chinese(tokens.language):
        raise SettingError(
            f"--tokens.opencc {tokens.opencc} converts Chinese, and the language of the texts is "
            f"{tokens.language}. Leave it out, or name theirs: --tokens.language zh-tw"
        )


def make_subwords(tokens: TokenSettings, texts: pd.Series) -> SubwordTokenizer:
    """The tokenizer by which a run would read texts of a language without spaces.

    Args:
        tokens: of a language that has subwords.
        texts: what they are learned from, where no model of the language comes with the package.

    Raises:
        DataError: they cannot be learned, as `learn_subwords` says.
        SettingError: the extra `chinese` is not installed.
    """
    opencc = tokens.opencc or ""
    of_package = sorted((MODELS / CHINESE).glob("tokenizer-*.json"))
    if is_chinese(tokens.language) and of_package:
        definition = of_package[0].read_text(encoding="utf-8")
    else:
        converted = map(converter(opencc), texts)
        definition = learn_subwords(converted, tokens.max_vocab, tokens.language)
    return SubwordTokenizer(definition, BEGIN, opencc)
