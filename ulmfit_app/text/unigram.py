"""Subwords that are learned from a corpus: SentencePiece's unigram model (Kudo 2018).

They serve languages without spaces between words, where a tokenizer by words has to guess where a
word ends, and by characters makes texts long. SentencePiece learns them; what it learned is
written as the tokenizer.json that `text.subwords` reads, with fastai's specials before it under
their own ids. Bytes stand for characters that it has no piece for, nothing is normalised, and so
each text can be had back from its ids as it was typed.
"""

import io
import json
from collections.abc import Iterable, Iterator

import numpy as np

from ulmfit_app.errors import DataError
from ulmfit_app.languages import is_chinese
from ulmfit_app.text.chinese import missing_chinese
from ulmfit_app.text.rules import BOS, SPECIALS, UNK_ID

LEARNED_FROM = 10_000_000  # characters; more than that changes little
LONGEST_LINE = 1_000  # characters; SentencePiece leaves out longer ones
LONGEST_PIECE = 8  # characters
COVERAGE = 0.9995  # of a corpus' characters have a piece, the rarest are bytes; SentencePiece's
BEGIN = BOS  # the token that begins each text
# No path of pieces is worse: what a user typed never becomes a special or a byte.
NEVER = -1e4
BYTES = [f"<0x{i:02X}>" for i in range(256)]
# Bopomofo, full-width forms and punctuation, of which a corpus need not have all.
_CHINESE = "".join(
    map(chr, [*range(0x3105, 0x3130), *range(0xFF01, 0xFF5F), *range(0x3000, 0x3020)])
)
_ASCII = "".join(map(chr, range(0x20, 0x7F)))


def choose_texts(sizes: np.ndarray, seed: int) -> np.ndarray:
    """Which texts a vocabulary is learned from, where all would take long.

    Args:
        sizes: characters of each text, [n].
        seed: of the choice.

    Returns:
        bool [n]: about LEARNED_FROM characters, or all texts.
    """
    share = LEARNED_FROM / max(sizes.sum(), 1)
    return np.random.default_rng(seed).random(len(sizes)) < share


def learn_subwords(texts: Iterable[str], size: int, language: str) -> str:
    """Learn a vocabulary of subwords.

    Args:
        texts: what is learned from; more than LEARNED_FROM characters take long.
        size: tokens, fastai's specials and 256 bytes included. A small corpus gives fewer.
        language: its code, as zh.

    Returns:
        The text of a tokenizer.json. The same for the same texts.

    Raises:
        DataError: too little text, or more different characters in it than `size` has room for.
        SettingError: the extra `chinese` is not installed.
    """
    try:
        from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
    except ImportError:
        raise missing_chinese("sentencepiece") from None
    written = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=written,
            # Its own count has one special, and not the end of a line.
            vocab_size=size - len(SPECIALS),
            hard_vocab_limit=False,
            required_chars=_ASCII.strip() + (_CHINESE.strip() if is_chinese(language) else ""),
            character_coverage=COVERAGE,
            byte_fallback=True,
            max_sentencepiece_length=LONGEST_PIECE,
            max_sentence_length=4 * LONGEST_LINE,  # bytes
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,  # the sums of several depend on their order
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        many = "required_chars" in str(error)
        found = "more different characters than it has room for" if many else "too little text"
        raise DataError(
            f"No vocabulary of {size:,} subwords can be learned from these texts, which have "
            f"{found}. Give {'more room' if many else 'more text'}: "
            f"{'--tokens.max-vocab ' + str(2 * size) if many else 'a larger file'}"
        ) from None
    learned = SentencePieceProcessor(model_proto=written.getvalue())
    pieces = [
        # SentencePiece writes a space so; here a piece is what it stands for.
        (learned.id_to_piece(i).replace("\u2581", " "), learned.get_score(i))
        for i in range(len(learned))
        if not (learned.is_unknown(i) or learned.is_byte(i))
    ]
    return _definition(pieces)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            yield from (line[i : i + LONGEST_LINE] for i in range(0, len(line), LONGEST_LINE))


def _definition(pieces: list[tuple[str, float]]) -> str:
    """A tokenizer.json whose pieces, put together, are the text."""
    own = [(token, NEVER) for token in (*SPECIALS, *BYTES)]
    # It learned from lines; their end has one token.
    vocab = [*own, ("\n", 0.0), *(piece for piece in pieces if piece[0] != "\n")]
    added = [
        {"id": i, "content": token, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for i, token in enumerate(SPECIALS)
    ]
    description = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "Unigram", "unk_id": UNK_ID, "vocab": vocab, "byte_fallback": True},
    }
    return json.dumps(description, ensure_ascii=False)
