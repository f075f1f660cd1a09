"""What notebook 10 shows of segmentation: characters, words and subwords, and two scripts.

Tables and errors are in Traditional Chinese, as the notebook is.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from ulmfit_app.text.chinese import converter
from ulmfit_app.text.subwords import SubwordTokenizer

LONGEST_SPLIT = 12  # characters; a longer text can be divided in too many ways to list


def tabulate_units(words: Sequence[str], tokenizer: SubwordTokenizer) -> pd.DataFrame:
    """One sentence in characters, in words and in subwords.

    Args:
        words: of the sentence, as a person divided it.
        tokenizer: gives the subwords.

    Returns:
        One row per unit: 單位, 個數 and 切分.
    """
    text = "".join(words)
    units = {"字": list(text), "詞（人工切分）": words, "子詞": tokenizer(text)[1:]}
    rows = [(name, len(parts), " / ".join(parts)) for name, parts in units.items()]
    return pd.DataFrame(rows, columns=["單位", "個數", "切分"])


def _divide(text: str, known: Mapping[str, float] | set[str]) -> Iterator[list[str]]:
    """All ways to divide a text into known parts."""
    if not text:
        yield []
    for stop in range(1, len(text) + 1):
        if text[:stop] in known:
            yield from ([text[:stop], *rest] for rest in _divide(text[stop:], known))


def _require_short(text: str) -> None:
    if len(text) > LONGEST_SPLIT:
        raise ValueError(f"文字有 {len(text)} 個字，最多只能列出 {LONGEST_SPLIT} 個字的切法。")


def list_splits(text: str, words: set[str]) -> pd.DataFrame:
    """All ways to divide a text into words of a dictionary.

    Args:
        text: at most LONGEST_SPLIT characters.
        words: the dictionary.

    Returns:
        Columns 切法 and 最長詞優先, which marks the way that takes the longest word each time.

    Raises:
        ValueError: the text is longer.
    """
    _require_short(text)
    greedy, done = [], 0
    while done < len(text):
        stops = [stop for stop in range(done + 1, len(text) + 1) if text[done:stop] in words]
        if not stops:
            break
        greedy.append(text[done : stops[-1]])
        done = stops[-1]
    ways = list(_divide(text, words))
    marks = ["✓" if way == greedy else "" for way in ways]
    return pd.DataFrame({"切法": [" / ".join(way) for way in ways], "最長詞優先": marks})


def rank_splits(tokenizer: SubwordTokenizer, text: str, top: int = 5) -> pd.DataFrame:
    """How a unigram model weighs the ways to divide a text into its pieces (Kudo 2018).

    Args:
        tokenizer: one that `text.unigram` learned.
        text: at most LONGEST_SPLIT characters.
        top: ways that are shown.

    Returns:
        The likeliest ways first: 切法, 每段的分數 (the logarithm of each piece's probability),
        總分 (their sum) and 占比 (the way's share of the probability of all ways).

    Raises:
        ValueError: the text is longer.
    """
    _require_short(text)
    scores = dict(map(tuple, json.loads(tokenizer.definition)["model"]["vocab"]))
    ways = sorted(_divide(text, scores), key=lambda way: -sum(map(scores.get, way)))
    totals = np.array([sum(map(scores.get, way)) for way in ways])
    shares = np.exp(totals - np.logaddexp.reduce(totals))
    rows = {
        "切法": [" / ".join(way) for way in ways],
        "每段的分數": [" ".join(f"{scores[part]:.1f}" for part in way) for way in ways],
        "總分": totals.round(1),
        "占比": [f"{share:.1%}" for share in shares],
    }
    return pd.DataFrame(rows).head(top)


def tabulate_subwords(tokenizer: SubwordTokenizer, texts: Sequence[str]) -> pd.DataFrame:
    """The subwords of texts, and whether their ids give the texts back.

    Returns:
        One row per text: 原文, 子詞 and 還原後.
    """
    rows = [
        (text, " ".join(tokenizer(text)[1:]), tokenizer.decode(ids))
        for text, ids in zip(texts, tokenizer.ids(texts), strict=True)
    ]
    return pd.DataFrame(rows, columns=["原文", "子詞", "還原後"])


def tabulate_conversions(texts: Sequence[str], config: str) -> pd.DataFrame:
    """What OpenCC makes of texts: 原文, 轉換後 and 是否改變."""
    convert = converter(config)
    rows = [(text, new := convert(text), "是" if new != text else "否") for text in texts]
    return pd.DataFrame(rows, columns=["原文", "轉換後", "是否改變"])


def trace(tokenizer: SubwordTokenizer, text: str) -> pd.DataFrame:
    """The subwords that a model reads, and the user's own characters that each came from."""
    spans = tokenizer.spans(text)[1:]
    rows = [(span.token, text[span.start : span.stop]) for span in spans]
    return pd.DataFrame(rows, columns=["模型讀到的子詞", "原文的字"])
