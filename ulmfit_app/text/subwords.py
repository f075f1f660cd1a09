"""A text to subword tokens: by the tokenizer of a pretrained transformer, or by one of `unigram`.

The `tokenizers` library does the work, in Rust. Two things are added. A special token that a user
typed, such as [SEP] or <s>, is text and cannot act as a special: the library's own setting for
this does not reach models whose vocabulary holds the special as an ordinary piece, as those of
XLM-R do. And each token is traced to the user's characters, as `text.tokenizer` does it.

Of fastai's rules, those subwords that were learned here keep the one for repeated characters: a
laughter, 哈哈哈哈哈, is xxrep 5 哈. Capitals and spaces stay as they are, so that `decode` gives
back every text as it was typed.
"""

import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ulmfit_app.errors import BundleError, SettingError
from ulmfit_app.text.chinese import converter, missing_chinese, origins
from ulmfit_app.text.rules import BOS, TK_REP
from ulmfit_app.text.tracing import Span

if TYPE_CHECKING:
    from tokenizers import Tokenizer

AT_ONCE = 512  # texts that the library holds the tokens of, at 100 bytes each

# Half of a character beyond the BMP. UTF-8 has none, and the library refuses them.
_surrogate = re.compile("[\ud800-\udfff]")
# A character four times or more; so many that their number has one digit. Three are a word of
# their own in Chinese.
_repeated = re.compile(r"(\S)\1{3,8}")


def missing_transformers() -> SettingError:
    """The error for a transformer where the extra `transformers` is not installed."""
    return SettingError(
        "A transformer needs the packages transformers and peft, which are not installed. "
        "Run: pip install 'ulmfit-app[transformers]'"
    )


def _load(definition: str, begin: str) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError:
        learned_here = begin == BOS
        raise (missing_chinese("tokenizers") if learned_here else missing_transformers()) from None
    try:
        tokenizer = Tokenizer.from_str(definition)
    except Exception as error:  # the library raises Exception itself
        raise BundleError(
            f"The tokenizer cannot be read: {error}. Expected the text of a tokenizer.json."
        ) from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class SubwordTokenizer:
    """A text to the list of its subwords; the interface is that of `text.tokenizer.Tokenizer`.

    Attributes:
        definition: the text of its tokenizer.json.
        begin: the token that begins each text.
        vocab: the token of each id; "" where there is none.
        specials: ids of [CLS], <pad> and the like. No text has one, but for that of unknown
            pieces.
        unknown: that one; None where every piece is known, or spelled in bytes.
        opencc: the conversion that texts go through first; "" for none.
    """

    def __init__(self, definition: str, begin: str, opencc: str = "") -> None:
        """Make the tokenizer that a tokenizer.json describes.

        Args:
            definition: the text of the file. Its settings for padding and truncation are ignored.
            begin: the token that begins each text, as [CLS].
            opencc: a conversion of OpenCC's, as s2twp; "" reads texts as they are.

        Raises:
            BundleError: no such definition, or `begin` is not in its vocabulary.
            SettingError: a package of the extra that it needs is not installed.
        """
        self.definition, self.begin, self.opencc = definition, begin, opencc
        self._convert = converter(opencc)
        self._tokenizer = _load(definition, begin)
        ids = self._tokenizer.get_vocab()
        self.vocab = [""] * (max(ids.values(), default=-1) + 1)
        for token, i in ids.items():
            self.vocab[i] = token
        if begin not in ids:
            raise BundleError(
                f"The tokenizer has no token {begin!r}, which is to begin each text."
            )
        self._begin = ids[begin]
        added = self._tokenizer.get_added_tokens_decoder()
        self.specials = frozenset(i for i, token in added.items() if token.special)
        self.specials |= {self._begin}
        # What a text may hold all the same: whatever the vocabulary has no piece for.
        model = json.loads(definition)["model"]
        self.unknown = model.get("unk_id", ids.get(model.get("unk_token")))
        if model.get("byte_fallback") and "<0x00>" in ids:
            self.unknown = None
        allowed = {self.unknown} - {self._begin}
        self._forbidden = np.array(sorted(self.specials - allowed), np.int32)
        # Of a vocabulary that `unigram` learned; a transformer has no such token.
        self._repeat = ids.get(TK_REP)
        self._digits = {self.vocab[i]: i for i in map(ids.get, "456789") if i is not None}

    def __call__(self, text: str) -> list[str]:
        return self.each([text])[0]

    def __reduce__(self):
        # The library's own copies and pickles would take typed specials for specials again.
        return SubwordTokenizer, (self.definition, self.begin, self.opencc)

    def each(self, texts: Sequence[str]) -> list[list[str]]:
        """The tokens of each of some texts, `begin` first."""
        return [[self.vocab[i] for i in ids.tolist()] for ids in self.ids(texts)]

    def ids(self, texts: Iterable[str]) -> list[np.ndarray]:
        """The tokens of each of some texts as ids, `begin` first.

        Args:
            texts: as they were typed; may be a stream.

        Returns:
            int32 [n_tokens] for each text.
        """
        found, waiting = [], []
        for text in texts:
            waiting.append(text)
            if len(waiting) == AT_ONCE:
                found += self._ids_of(waiting)
                waiting = []
        return found + self._ids_of(waiting)

    def spans(self, text: str) -> list[Span]:
        """The tokens of a text, and where in it each came from.

        `begin` came from no characters: start equals stop. Tokens that stand for parts of one
        character share it. The white space beside a token's characters is not the token's.

        Args:
            text: as it was typed.

        Returns:
            The same tokens as for a call, starts and stops never falling.
        """
        found = [Span(self.begin, 0, 0)]
        whole = _surrogate.sub("\ufffd", text)
        ids, places = self._traced(converted := self._convert(whole))
        if converted != whole:
            places = _places_before(places, origins(whole, converted))
        for i, (start, stop) in zip(ids.tolist(), places.tolist(), strict=True):
            blanks = text[start:stop]
            if blanks.strip():
                start += len(blanks) - len(blanks.lstrip())
                stop -= len(blanks) - len(blanks.rstrip())
            found.append(Span(self.vocab[i], start, stop))
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; specials are left out.

        Args:
            ids: [n_tokens], of this vocabulary.
        """
        parts: list[list[int]] = [[]]
        for i in map(int, ids):
            if i == self._repeat:
                parts.append([])
            elif i not in self.specials:
                parts[-1].append(i)
        text, *repeated = (
            self._tokenizer.decode(part, skip_special_tokens=False) for part in parts
        )
        for part, (first, *_) in zip(repeated, ([*part, -1] for part in parts[1:]), strict=True):
            # Whatever a language model writes behind the mark has a text.
            is_number = first in self._digits.values()
            text += part[1:2] * int(part[0]) + part[2:] if is_number else part
        return text

    def _ids_of(self, texts: list[str]) -> list[np.ndarray]:
        texts = [self._convert(_surrogate.sub("\ufffd", text)) for text in texts]
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        results = []
        for text, encoding in zip(texts, found, strict=True):
            ids = np.array([self._begin, *encoding.ids], np.int32)
            is_repeated = self._repeat is not None and _repeated.search(text)
            if is_repeated or np.isin(ids[1:], self._forbidden).any():
                ids = np.concatenate([ids[:1], self._traced(text)[0]])
            results.append(ids)
        return results

    def _traced(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids, [n_tokens], with marks of repetitions; and starts and stops, [n_tokens, 2]."""
        found, done, left_out = [], 0, (self._forbidden, self.unknown)
        for run in _repeated.finditer(text) if self._repeat is not None else ():
            start, stop = run.span()
            found += _encode(self._tokenizer, text, (done, start), *left_out)
            of_one, _ = _encode(self._tokenizer, text, (start, start + 1), *left_out)[0]
            ids = [self._repeat, self._digits[str(stop - start)], *of_one.tolist()]
            found.append((np.array(ids, np.int32), np.tile([[start, stop]], (len(ids), 1))))
            done = stop
        found += _encode(self._tokenizer, text, (done, len(text)), *left_out)
        ids, places = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(places)


def _encode(
    tokenizer: "Tokenizer",
    whole: str,
    place: tuple[int, int],
    forbidden: np.ndarray,
    unknown: int | None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A part of a text: ids, [n_tokens], none of them forbidden; starts and stops, [n_tokens, 2].

    Where the vocabulary has a typed special as a piece, the text is cut behind the first character
    of the special, and what lies before and behind is tokenized apart.
    """
    text = whole[slice(*place)]
    edges = np.array([0, len(text)])
    while True:
        parts = [text[a:b] for a, b in pairwise(edges.tolist())]
        encoding = tokenizer.encode(parts, is_pretokenized=True, add_special_tokens=False)
        ids = np.array(encoding.ids, np.int32)
        # Of each part apart; word_ids are the parts'.
        spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        spans += edges[np.array(encoding.word_ids, np.int64)][:, None]
        bad = np.isin(ids, forbidden)
        # A special of one character cannot be cut.
        cuts = spans[bad & (spans[:, 1] - spans[:, 0] > 1), 0] + 1
        if not len(cuts):
            break
        edges = np.union1d(edges, cuts)
    if unknown is None:
        ids, spans = ids[~bad], spans[~bad]
    else:
        ids[bad] = unknown
    return [(ids, spans + place[0])]


def _places_before(places: np.ndarray, origin: list[tuple[int, int]]) -> np.ndarray:
    """Starts and stops in a converted text, [n, 2], as those in the text before."""
    found = [
        (origin[start][0], origin[stop - 1][1]) if start < stop else (0, 0)
        for start, stop in places.tolist()
    ]
    return np.array(found, np.int64).reshape(-1, 2)
