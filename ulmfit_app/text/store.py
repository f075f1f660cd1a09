"""Token ids of many texts, memory-mapped."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ulmfit_app.config import Direction
from ulmfit_app.text.rules import PAD, PAD_ID

COUNTED_AT_A_TIME = 1_000  # texts
TOKENIZER = "tokenizer.json"  # beside tokens that are subwords
OF_SUBWORDS = -1  # padding: a number that no token has


@dataclass(frozen=True)
class TokenStore:
    """Token ids of many texts, one behind the other, memory-mapped.

    Ours, because fastai keeps each text as a tensor of its own in memory, and the `backwards=True`
    of its learners swaps the pretrained weights but reverses no text.

    Attributes:
        ids: int32 [n_tokens].
        offsets: int64 [n_texts + 1]; text i is ids[offsets[i]:offsets[i + 1]].
        words: the word of each id.
        direction: a backward store gives each text from its last token to its first, xxbos.
        padding: what stands behind the shorter texts of a batch; a transformer's own padding token
            may have any id, or it has none.
    """

    ids: np.ndarray
    offsets: np.ndarray
    words: list[str]
    direction: Direction = "forward"
    padding: int = PAD_ID

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """Map the files of a folder.

        Args:
            folder: what `tokenize` or `numericalize` wrote.

        Returns:
            Its texts, read forward.
        """
        offsets = np.load(folder / "offsets.npy")
        words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        # np.memmap refuses an empty file.
        ids = (
            np.memmap(folder / "ids.bin", np.int32, "r") if offsets[-1] else np.zeros(0, np.int32)
        )
        # A transformer's padding may be any token; all other vocabularies begin with fastai's.
        padding = PAD_ID if words[PAD_ID : PAD_ID + 1] == [PAD] else OF_SUBWORDS
        return cls(ids, offsets, words, padding=padding)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, to which a mapped file goes as its path."""
        state = dict(vars(self))
        path = Path(getattr(self.ids, "filename", None) or "")
        if path.is_file() and path.stat().st_size == self.ids.nbytes:
            state["ids"] = path
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["ids"], Path):
            state["ids"] = np.memmap(state["ids"], np.int32, "r")
        vars(self).update(state)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """The ids of each text."""
        return (self[text] for text in range(len(self)))

    def __getitem__(self, text: int) -> np.ndarray:
        ids = self.ids[self.offsets[text] : self.offsets[text + 1]]
        return ids[::-1] if self.direction == "backward" else ids

    def backward(self) -> "TokenStore":
        """The same texts read backward, as by fastai's `reverse_text`; ids stay where they are."""
        return replace(self, direction="backward")

    def followed_by(self, other: "TokenStore") -> "TokenStore":
        """These texts and behind them those of another store of the same words, in memory."""
        ids = np.concatenate([self.ids, other.ids])
        return replace(
            self, ids=ids, offsets=np.append(self.offsets, self.offsets[-1] + other.offsets[1:])
        )

    def write(self, folder: Path) -> None:
        """Write the files that `open` maps."""
        self.ids.tofile(folder / "ids.bin")
        np.save(folder / "offsets.npy", self.offsets)
        words = json.dumps(self.words, ensure_ascii=False)
        (folder / "vocab.json").write_text(words, encoding="utf-8")

    def lengths(self) -> np.ndarray:
        """Tokens per text, int64 [n_texts]."""
        return np.diff(self.offsets)

    def counts(self, texts: Iterable[int]) -> np.ndarray:
        """How often each id occurs.

        Args:
            texts: in which texts, by number; one that is named twice counts twice.

        Returns:
            Counts, int64 [n_words].
        """
        texts, total = np.asarray(texts, np.int64), np.zeros(len(self.words), np.int64)
        # A count costs the whole vocabulary each time; so it is made of many texts at once, but
        # not of all in memory.
        for some in np.array_split(texts, len(texts) // COUNTED_AT_A_TIME + 1):
            total += np.bincount(
                np.concatenate([self.ids[:0], *(self[text] for text in some)]),
                minlength=len(total),
            )
        return total
